"""What the members here share: one start, trained at several alpha while groups are watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pullback.linear.progress import equal_progress
from pullback.linear.scaled import ScaledModel
from pullback.probes import (
    KernelDrift,
    KernelSample,
    Loss,
    Probe,
    Recorder,
    RepresentationAlignment,
    SignSimilarity,
    log_spaced,
)
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import rounded
from pullback.studies.parts import Curve, Descent, curves_panel, trained
from pullback.studies.study import Result

Batch = tuple[Tensor, Tensor]
"""Images (n, c, h, w) and their classes (n,)."""
Path = tuple[str, str]
"""A quantity, and of what: ("loss", "train"), ("linearity", "sign similarity")."""
METRICS = ("sign similarity", "kernel alignment", "representation alignment")
THRESHOLDS = 20  # where regimes are compared, over the progress that all of them make
FLOOR = 0.01  # of an error in progress: below it a few images decide
LOOKS = {"0.5": (style.BEFORE, "^-"), "1": (style.AFTER, "o-"), "100": (style.TEST, "s--")}


@dataclass(frozen=True)
class Regimes:
    """Which network learns how many images, and for how long at each alpha.

    Attributes:
        seeds: networks, each with images of its own.
        data: the name of an image set.
        train: training images.
        network: one of `parts.NETWORKS`.
        alphas: of the regimes; 1 is the network itself, 100 the lazy one.
        epochs: at each alpha; the lazy regime is slower.
        rates: learning rates, constant, with momentum 0.9, each to be divided by alpha^2. The
            kernel of the network grows while it learns, so that it wants a smaller one.
        batch: images an update.
        moments: how often losses and accuracies are measured, evenly in the logarithm of updates.
        probed: training images on which the metrics of linearity are taken.
    """

    seeds: int = 3
    data: str = "mnist"
    train: int = 1000
    network: str = "deep"
    alphas: tuple[int | float, ...] = (1, 100)
    epochs: tuple[int, ...] = (50, 100)
    rates: tuple[float, ...] = (0.01, 0.05)
    batch: int = 50
    moments: int = 50
    probed: int = 50


def regimes(settings: Regimes) -> list[str]:
    """The names of the regimes: their alpha."""
    return [f"{alpha:g}" for alpha in settings.alphas]


def followed(
    settings: Regimes,
    start: nn.Module,
    train: Batch,
    groups: Mapping[str, Batch],
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """What each regime measures on its way, from one start and in one order of the samples.

    Args:
        settings: of the study.
        start: the network before training; it stays as it is.
        train: what is learned.
        groups: whose losses and accuracies are measured.
        seed: of the order.
        advance: is told each finished epoch.
    """
    x = train[0]
    runs = {}
    for name, alpha, epochs, rate in zip(
        regimes(settings), settings.alphas, settings.epochs, settings.rates, strict=True
    ):
        scaled = ScaledModel(start, alpha)
        descent = Descent(epochs, settings.batch, scaled.learning_rate(rate), falling=False)
        at = log_spaced(descent.updates(len(x)), settings.moments)
        recorders = (
            Recorder(scaled, [Loss(groups)], at),
            Recorder(scaled.network, _linearity(scaled.network, train, settings.probed), at),
        )
        for count in trained(scaled, *train, F.cross_entropy, descent, seed):
            for recorder in recorders:
                recorder(count)
            if count and count % descent.per_epoch(len(x)) == 0:
                advance(1)
        runs[name] = _curves(*recorders, groups)
    return runs


def _linearity(start: nn.Module, train: Batch, probed: int) -> list[Probe]:
    """The metrics of George 2023, section 5.2, against the network as it is now."""
    x, y = (one[:probed] for one in train)
    return [
        SignSimilarity(x, start),
        KernelDrift(KernelSample(x, y), start, centring=None),
        RepresentationAlignment(x, start),
    ]


def _curves(progress: Recorder, linearity: Recorder, groups: Iterable[str]) -> dict[str, Any]:
    """What was recorded, as plain data."""

    def curve(recorder: Recorder, *path: str) -> list[float]:
        return rounded(torch.tensor(recorder.series(*path)[1], dtype=torch.float64))

    return {
        "updates": list(progress.at),
        "loss": {name: curve(progress, "loss", name, "loss") for name in groups},
        "accuracy": {name: curve(progress, "loss", name, "accuracy") for name in groups},
        "linearity": {
            metric: curve(linearity, probe.name, "all")
            for metric, probe in zip(METRICS, linearity.probes, strict=True)
        },
    }


def equally_far(
    results: Sequence[Result], progress: Path, watched: Sequence[Path]
) -> tuple[list[float], dict[str, Float[Tensor, "s k g"]]]:
    """What all seeds and regimes measured where their progress was the same.

    Args:
        results: of s seeds.
        progress: what tells it. Losses are compared at even steps; of an accuracy the error, at
            even steps of its logarithm, since most of a training is spent on the last percents.
        watched: g curves.

    Returns:
        The k losses or errors in the order in which they are reached, and for each regime the
        values.
    """
    series = {
        f"{regime} {place}": (
            _progress(run, progress),
            torch.tensor([_at(run, path) for path in watched]).T,
        )
        for place, result in enumerate(results)
        for regime, run in result["runs"].items()
    }
    thresholds: int | list[float] = THRESHOLDS
    if progress[0] == "accuracy":
        curves = [curve for curve, _ in series.values()]
        start, end = min(curve[0] for curve in curves), max(min(curve) for curve in curves)
        thresholds = np.geomspace(start, max(end, FLOOR), THRESHOLDS + 1)[1:].tolist()
    found = equal_progress(series, thresholds)
    values = {
        regime: torch.stack([found.values[f"{regime} {place}"] for place in range(len(results))])
        for regime in results[0]["runs"]
    }
    return found.thresholds.tolist(), values


def _at(run: Mapping[str, Any], path: Path) -> list[float]:
    return run[path[0]][path[1]]


def _progress(run: Mapping[str, Any], path: Path) -> list[float]:
    curve = _at(run, path)
    return [1 - share for share in curve] if path[0] == "accuracy" else curve


def progress_panel(
    title: str, along: list[float], curves: Sequence[Curve], progress: Path, axis: str
) -> Panel:
    """Curves over what `equally_far` compares at, from the start to the end of training."""
    scale = "log" if progress[0] == "accuracy" else "linear"
    return curves_panel(title, along, curves, axis, scale, falling=True)


def watched_panel(
    results: Sequence[Result], progress: Path, axis: str, path: Path, title: str
) -> Panel:
    """One quantity of each regime over the progress of training."""
    along, values = equally_far(results, progress, [path])
    curves = [regime_curve(name, one[..., 0]) for name, one in values.items()]
    return progress_panel(title, along, curves, progress, axis)


def linearity_figure(results: Sequence[Result], progress: Path, axis: str) -> Figure:
    """How near each regime stays to its linearisation."""
    return Figure(
        "linearity",
        "How linear the regimes stay",
        "Means over seeds, with their spread. Each metric compares the network with its start and "
        "is 1 there: the share of rectified linear units that are active where they were, the "
        "alignment of the tangent kernel, and that of the inputs of the last layer.",
        tuple(
            watched_panel(results, progress, axis, ("linearity", metric), metric.capitalize())
            for metric in METRICS
        ),
    )


def regime_curve(name: str, values: Float[Tensor, "s k"]) -> Curve:
    """The line of a regime, in its colour."""
    colour, line = LOOKS.get(name, (style.INK, "v-"))
    return Curve(f"alpha = {name}", values, colour, line)


def lowest_linearity(result: Result, regime: str) -> dict[str, float]:
    """The lowest value of each metric in the whole training."""
    return {metric: min(found) for metric, found in result["runs"][regime]["linearity"].items()}
