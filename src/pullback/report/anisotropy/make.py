"""Look at the directions of an architecture: draw networks, keep the sums, then draw and write."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import torch

from pullback.anisotropy import directions
from pullback.anisotropy.population import MakeModel
from pullback.errors import InputError
from pullback.report import describe
from pullback.report.anisotropy.figures import draw
from pullback.report.anisotropy.measure import direction_numbers
from pullback.report.anisotropy.networks import factory
from pullback.report.anisotropy.numbers import AnisotropyReport, DirectionNumbers
from pullback.report.anisotropy.page import render_anisotropy
from pullback.report.anisotropy.settings import AnisotropySettings
from pullback.report.models import describe_layers
from pullback.report.numbers import NetworkNumbers
from pullback.report.parts import Parts
from pullback.report.progress import Stages
from pullback.report.workspace import Workspace, check_writable, to_json, write_whole

KEPT = "nads.safetensors"


def make_anisotropy_report(
    settings: AnisotropySettings | None = None,
    out: Path | str = "pullback-nads",
    resume: bool = False,
    progress: bool = False,
) -> Path:
    """Take the directions of the input that an architecture prefers, and write them down.

    Written are OUT/nads.html, one page that needs nothing else; OUT/nads.json, which has every
    number on it; OUT/nads.safetensors, which `pullback.anisotropy.Directions.load` reads; and
    OUT/figures, each drawing as SVG.

    Args:
        settings: which architecture, and how; by default exact gradients of LeNet.
        out: the folder to write to.
        resume: go on with a run that was interrupted; the mean mixed derivative begins again.
        progress: show progress bars.

    Returns:
        The path of nads.html.

    Raises:
        InputError: something in the settings cannot be used.

    Example:
        >>> from pullback.report.anisotropy import AnisotropySettings, make_anisotropy_report
        >>> page = make_anisotropy_report(AnisotropySettings(step=100), "n")  # doctest: +SKIP
    """
    settings, out = settings or AnisotropySettings(), Path(out)
    check_writable(out)
    make_model = factory(settings)
    network = _network(settings, make_model)
    with Stages(count=2, shown=progress) as stages:
        workspace = Workspace(out, settings.as_dict(), resume)
        try:
            parts = Parts(workspace, stages, [])
            report = _measure(settings, make_model, network, parts)
        except InputError:
            workspace.discard()
            raise
        with stages.stage("writing the page", None):
            _write(report, workspace.folder / KEPT, out)
    workspace.remove()
    return out / "nads.html"


def _network(settings: AnisotropySettings, make_model: MakeModel) -> NetworkNumbers:
    """One of the networks.

    Raises:
        InputError: it is none.
    """
    with torch.random.fork_rng(devices=[]):
        model = make_model()
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"model: {settings.model} returned {type(model).__name__}, not a torch.nn.Module"
        )
    return NetworkNumbers(
        name=settings.model,
        parameters=describe.size(model),
        outputs=1,
        layers=describe_layers(model),
        checkpoint=None,
    )


def _measure(
    settings: AnisotropySettings, make_model: MakeModel, network: NetworkNumbers, parts: Parts
) -> AnisotropyReport:
    folder = parts.workspace.folder
    sums = folder / "sums.safetensors"
    interrupted = sums.exists()

    def measure() -> DirectionNumbers:
        also = {} if settings.samples is None else {"samples": settings.samples}
        with parts.stages.aside():
            found = directions(
                make_model,
                settings.sizes,
                settings.method,
                settings.networks,
                settings.read_out,
                torch.zeros(settings.sizes) if settings.at == "zero" else None,
                settings.step,
                seed=settings.seed,
                progress=None if parts.stages.shown else False,
                checkpoint=sums,
                **also,
            )
        found.save(folder / KEPT)
        return direction_numbers(found)

    title = f"directions of {settings.model}"
    numbers: DirectionNumbers = parts.measure("directions", title, None, lambda _: measure())
    return AnisotropyReport(
        about=describe.about(),
        settings=settings.as_dict(),
        network=network,
        directions=numbers,
        cost=parts.costs,
        notes=_notes(numbers, interrupted),
    )


def _notes(numbers: DirectionNumbers, interrupted: bool) -> list[str]:
    """What a reader should know about this run in particular."""
    said = []
    rank, count = numbers["rank"], numbers["count"]
    if rank < count:
        said.append(
            f"Only the first {rank:,} of {count:,} directions have something along them; the "
            "others fill up the space at random."
        )
    if interrupted:
        said.append("The run was interrupted and continued; its cost is that of the last piece.")
    return said


def _write(report: AnisotropyReport, kept: Path, out: Path) -> None:
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    drawn = draw(report["directions"])
    for figures in drawn.values():
        for figure in figures:
            for number, panel in enumerate(figure.panels, start=1):
                name = figure.name if len(figure.panels) == 1 else f"{figure.name}-{number}"
                svg = base64.b64decode(panel.source.partition(",")[2])
                write_whole(folder / f"{name}.svg", svg)
    shutil.copyfile(kept, out / KEPT)
    write_whole(out / "nads.json", to_json(report))
    write_whole(out / "nads.html", render_anisotropy(report, drawn).encode())
