"""Make a report: measure in parts, each kept as soon as it is finished, then draw and write."""

from __future__ import annotations

import copy
from pathlib import Path

from pullback.errors import InputError
from pullback.report import describe, page
from pullback.report.cost import Cost
from pullback.report.numbers import Measured, Report
from pullback.report.parts import Parts
from pullback.report.progress import Stages
from pullback.report.settings import Settings
from pullback.report.stages import (
    States,
    approximation_part,
    fisher_part,
    kernel_part,
    training_part,
)
from pullback.report.subject import Subject, prepare
from pullback.report.summary import summarise
from pullback.report.training import PART
from pullback.report.workspace import Workspace, check_writable, to_json, write_whole


def make_report(
    settings: Settings | None = None,
    out: Path | str = "pullback-report",
    resume: bool = False,
    progress: bool = False,
) -> Path:
    """Measure the geometry of a network while it learns, and write a report about it.

    Written are OUT/report.html, one page that needs nothing else, and OUT/report.json, which has
    every number on it.

    Args:
        settings: what to measure; by default a small convolutional network on 8x8 digits.
        out: the folder to write to.
        resume: go on with a run that was interrupted.
        progress: show progress bars.

    Returns:
        The path of report.html.

    Raises:
        InputError: something in the settings cannot be used; nothing is written then.

    Example:
        >>> from pullback.report import Settings, make_report
        >>> page = make_report(Settings(epochs=2), out="demo")  # doctest: +SKIP
    """
    settings, out = settings or Settings(), Path(out)
    check_writable(out)
    with Stages(count=6, shown=progress) as stages:
        with stages.stage("reading the data", None) as advance, Cost() as cost:
            subject = prepare(settings, lambda: advance(1))
        workspace = Workspace(out, describe.identity(subject), resume)
        try:
            report = measure(subject, Parts(workspace, stages, [cost.numbers("reading the data")]))
        except InputError:
            workspace.discard()
            raise
        with stages.stage("writing the page", None):
            html = page.render(report)
            write_whole(out / "report.json", to_json(report))
            write_whole(out / "report.html", html.encode())
    workspace.remove()
    return out / "report.html"


def measure(subject: Subject, parts: Parts) -> Report:
    """All numbers of the report."""
    interrupted = parts.workspace.read_tensors(PART) is not None
    start = copy.deepcopy(subject.model)
    series = training_part(subject, parts)
    states: States = [("as given", 0, subject.model)]
    if subject.settings.train:
        trained = ("after training", series[-1]["step"], subject.model)
        states = [("before training", 0, start), trained]
    measured = Measured(
        about=describe.about(),
        settings=subject.settings.as_dict(),
        network=describe.network(subject.model, subject),
        data=describe.data(subject),
        training=describe.training(subject),
        series=series,
        kernels=kernel_part(subject, states, parts),
        fishers=fisher_part(subject, states, parts),
        approximations=approximation_part(subject, states, parts),
        cost=parts.costs,
        notes=describe.notes(subject, interrupted),
    )
    return Report(**measured, summary=summarise(measured))
