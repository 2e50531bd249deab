"""Run a study unit by unit, each kept when it is finished; judge and show what is kept."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pullback.errors import InputError
from pullback.report.workspace import check_writable, to_json, write_whole
from pullback.studies.claims import Verdict, judged
from pullback.studies.page import render_study
from pullback.studies.study import Result, Study, find


def run_study(
    name: str, size: str = "quick", out: Path | str = "pullback-studies", progress: bool = False
) -> Path:
    """Run a study, or go on with it, and write its page.

    Each unit is kept in OUT/NAME/SIZE when it is finished: a run that was interrupted goes on with
    the same call, and one that is complete only draws its page again.

    Args:
        name: which study.
        size: "quick", "full" or "paper".
        out: the folder of all studies.
        progress: show a progress bar.

    Returns:
        The path of the page.

    Raises:
        InputError: no such study or size, or the folder has results of other settings.

    Example:
        >>> from pullback.studies import run_study
        >>> page = run_study("yin-yang", out="studies")  # doctest: +SKIP
    """
    study = find(name)
    settings = _settings(study, size)
    folder = Path(out) / name / size
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _same_settings(folder, asdict(settings))
    units = study.units(settings)
    missing = [unit for unit in range(units) if not _file(folder, unit).exists()]
    with _bar(progress) as bar:
        steps = study.steps(settings)
        task = bar.add_task(f"{name}, {size}", total=units * steps)
        bar.advance(task, steps * (units - len(missing)))
        for unit in missing:
            results = study.measure(settings, unit, lambda done: bar.advance(task, done))
            write_whole(_file(folder, unit), to_json(list(results)))
    return show_study(name, size, out)


def show_study(name: str, size: str = "quick", out: Path | str = "pullback-studies") -> Path:
    """Write the page of a study from what is kept, without measuring anything.

    Raises:
        InputError: no such study or size, or it has not been run to its end.
    """
    study, folder = find(name), Path(out) / name / size
    results = stored(name, size, out)
    page = render_study(
        study, size, asdict(_settings(study, size)), results, verdicts(study, results)
    )
    write_whole(folder / "study.html", page.encode())
    return folder / "study.html"


def stored(name: str, size: str = "quick", out: Path | str = "pullback-studies") -> list[Result]:
    """The results of all seeds.

    Raises:
        InputError: no such study or size, or it has not been run to its end.
    """
    study = find(name)
    settings, folder = _settings(study, size), Path(out) / name / size
    units = study.units(settings)
    missing = [unit for unit in range(units) if not _file(folder, unit).exists()]
    if missing:
        raise InputError(
            f"out: {folder} has {units - len(missing)} of {units} units; run it to the end: "
            f"pullback study run {name} --size {size}"
        )
    found: list[Result] = []
    for unit in range(units):
        found += json.loads(_file(folder, unit).read_text(encoding="utf-8"))
    return found


def verdicts(study: Study, results: list[Result]) -> list[Verdict]:
    """The verdict on each claim."""
    statistics = [study.statistics(result) for result in results]
    return [
        judged(claim, [statistic[claim.name] for statistic in statistics]) for claim in study.claims
    ]


def _settings(study: Study, size: str) -> Any:
    if size not in study.sizes:
        raise InputError(f"size: {size!r}; choose one of {', '.join(study.sizes)}")
    return study.sizes[size]


def _file(folder: Path, unit: int) -> Path:
    return folder / f"unit-{unit}.json"


def _same_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Keep the settings beside the results, and refuse results of others."""
    path, now = folder / "settings.json", json.loads(to_json(settings))
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if earlier != now:
            raise InputError(
                f"out: {folder} has results of other settings, {earlier}, now {now}; delete it or "
                "choose another folder"
            )
    write_whole(path, to_json(now))


def _bar(shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
        console=Console(stderr=True), disable=not shown,
    )  # fmt: skip
