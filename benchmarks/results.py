"""The file of results: rows are replaced by their (case, operation, library), the others kept."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .cases import CASES
from .libraries import LIBRARIES
from .measure import Row
from .program import OPERATIONS

PATH = Path(__file__).parent / "results.json"
_PACKAGES = ("torch", "nngeometry", "curvlinops-for-pytorch", "backpack-for-pytorch")


class Results:
    """All rows measured so far; `add` writes the file."""

    def __init__(self, path: Path = PATH) -> None:
        self.path = path
        self.rows: dict[tuple[str, str, str], Row] = {}
        self._read()

    def _read(self) -> None:
        if self.path.exists():
            for entry in json.loads(self.path.read_text())["rows"]:
                row = Row(**entry)
                self.rows[row.case, row.op, row.library] = row

    def add(self, row: Row) -> None:
        self._read()  # another run may have added to it
        self.rows[row.case, row.op, row.library] = row
        ordered = sorted(
            self.rows.values(),
            key=lambda r: (
                CASES.index(r.case), list(OPERATIONS).index(r.op), LIBRARIES.index(r.library)
            ),
        )  # fmt: skip
        text = json.dumps({"machine": machine(), "rows": [asdict(r) for r in ordered]}, indent=1)
        part = self.path.with_suffix(".part")
        part.write_text(text + "\n")
        part.rename(self.path)

    def of(self, case: str, op: str) -> list[Row]:
        return [row for (c, o, _), row in self.rows.items() if (c, o) == (case, op)]

    def expected_seconds(self, jobs: Iterable[tuple[str, str, str]]) -> float:
        """How long these measurements will take, from the last time they were made."""
        return sum(self.rows[job].elapsed if job in self.rows else 15.0 for job in jobs)


def machine() -> dict[str, str | int]:
    """What the numbers were measured on."""
    found = {"processor": _processor(), "cores": os.cpu_count() or 0, "threads": 1}
    found["python"] = platform.python_version()
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "unknown")
