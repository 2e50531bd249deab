"""The output folder: whole files only, and what an interrupted run has finished so far."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pullback.errors import InputError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that at any time it is either the old one or the whole new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def to_json(content: object) -> bytes:
    """JSON text that every reader takes: no NaN, no infinity."""
    return json.dumps(content, allow_nan=False, ensure_ascii=False).encode()


def check_writable(out: Path) -> None:
    """Raise InputError if the folder cannot be written to; nothing is written to find out.

    Raises:
        InputError: saying why.
    """
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"out: {str(existing)!r} is a file, not a folder; choose another path")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"out: no permission to write to {str(existing)!r}; choose another path")


class Workspace:
    """The finished parts of a report that is being made, under OUT/.work.

    Args:
        out: the folder of the report; made if it is missing.
        identity: the choices that the parts depend on.
        resume: keep the parts of an interrupted run instead of starting again.

    Raises:
        InputError: the interrupted run was made with other choices.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any], resume: bool) -> None:
        self.out = out
        self.folder = out / ".work"
        if resume:
            self._refuse_other(identity)
        else:
            self.remove()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write("identity", dict(identity))

    def _refuse_other(self, identity: Mapping[str, Any]) -> None:
        earlier = self.read("identity")
        if earlier is None:
            return
        now = json.loads(to_json(dict(identity)))
        changed = [key for key in now if now[key] != earlier.get(key)]
        if changed:
            differences = ", ".join(f"{k} {earlier.get(k)!r}, now {now[k]!r}" for k in changed)
            raise InputError(
                f"resume: the interrupted run in {self.out} had other choices ({differences}); "
                "repeat them, or leave out --resume to start again"
            )

    def read(self, part: str) -> dict[str, Any] | None:
        """A finished part, or None."""
        path = self.folder / f"{part}.json"
        if not path.exists():
            return None
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    def write(self, part: str, content: Mapping[str, Any]) -> None:
        """Keep a finished part."""
        write_whole(self.folder / f"{part}.json", to_json(content))

    def read_tensors(self, part: str) -> dict[str, Any] | None:
        """Tensors and plain data that were kept, or None."""
        path = self.folder / f"{part}.pt"
        if not path.exists():
            return None
        content: dict[str, Any] = torch.load(path, weights_only=True)
        return content

    def write_tensors(self, part: str, content: Mapping[str, Any]) -> None:
        """Keep tensors and plain data."""
        path = self.folder / f"{part}.pt"
        temporary = path.with_suffix(".pt.partial")
        torch.save(dict(content), temporary)
        os.replace(temporary, path)

    def remove(self) -> None:
        """Forget all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def discard(self) -> None:
        """Forget all parts, and the folder of the report too if nothing else is in it."""
        self.remove()
        if not any(self.out.iterdir()):
            self.out.rmdir()
