"""Which functions does a perceptron's tangent kernel favour, before and after a disk is learned?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pullback.data.toys import disk_labels, grid_points, uniform_points
from pullback.kernels.mercer import eigenfunctions
from pullback.kernels.tangent import tangent_kernel
from pullback.kernels.targets import energy_concentration
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import rounded
from pullback.studies.claims import Claim
from pullback.studies.parts import (
    Curve,
    Descent,
    curves_panel,
    logistic,
    perceptron,
    rank_correlation,
    right,
    started,
    trained,
)
from pullback.studies.study import Result, Row, Study, register

EIGENVALUE = 20  # the one that is compared with the first
SHOWN = 6  # eigenfunctions
RINGS = 10
LEARNED = 0.99  # of the samples have to be told right
EVERY = 20  # updates between looks at whether they are
LINE_EIGENVALUES = (1, 10)  # counted from 0, as in the document's figure B.2
LINE_RATIO = 0.04  # of these, in the document


@dataclass(frozen=True)
class Settings:
    """What is learned, and where the kernel is taken.

    Attributes:
        seeds: networks, each with samples of its own.
        samples: of the disk.
        hidden: layers of the network.
        width: of these layers.
        rate: the learning rate of gradient descent on all samples.
        longest: updates after which it stops, at the latest.
        side: points on a side of the grid.
        moments: updates after which the kernel is measured; it always is when the disk is learned.
        line: points on a line from 0 to 1, on which the kernel of another network is taken.
    """

    seeds: int = 5
    samples: int = 500
    hidden: int = 5
    width: int = 256
    rate: int | float = 0.01
    longest: int = 6000
    side: int = 30
    moments: tuple[int, ...] = (0, 50, 200, 500, 1000, 2000)
    line: int = 50


class Disk(Study):
    """George 2023, figures 6.1, B.2 and B.4; Baratin 2021, figures 4.1 and B.2."""

    name = "disk"
    title = "The functions that the tangent kernel favours, before and after a disk is learned"
    source = "George 2023, sections 6.2 and B.1, figures 6.1 and B.2"
    about = (
        "A perceptron with five hidden layers of 256 units learns which points of a square lie in "
        "a disk that covers half of it, by gradient descent on all of 500 samples. Its kernel, "
        "centred, is taken on a grid until more than 99 % of the samples are told right. The "
        "document prints no learning rate; it is 0.01 here, since at high rates descent swings. "
        "The grid of the size quick has 30 x 30 points for the document's 50 x 50. The "
        "kernel of an untrained perceptron is also taken on 50 points of a line."
    )
    claims = (
        Claim(
            "not-flatter",
            "At the start the 20th eigenvalue is about 1.5 % of the first: not over 2.5 %.",
            "20th over first eigenvalue at the start",
            0.025,
            above=False,
        ),
        Claim(
            "not-steeper",
            "At the start the 20th eigenvalue is about 1.5 % of the first: not under 1 %.",
            "20th over first eigenvalue at the start",
            0.01,
            above=True,
        ),
        Claim(
            "concentrates",
            "The spectrum concentrates while the disk is learned.",
            "20th over first eigenvalue, the start over where more than 99 % are told right",
            2.5,
            above=True,
        ),
        Claim(
            "round-functions",
            "Functions of the shape of the class appear among the leading eigenfunctions.",
            f"largest share of the variance of one of the {SHOWN} first that its means over rings "
            "about the centre explain, end minus start",
            0.0,
            above=True,
        ),
        Claim(
            "labels-lead",
            "More of the labels lies in the leading eigenfunctions.",
            f"ratio of lengths in the {EIGENVALUE} first, end minus start",
            0.0,
            above=True,
        ),
        Claim(
            "line-ratio",
            "On a line the eigenvalue of number 10 is about 4 % of that of number 1, from 0.",
            "absolute logarithm to base 2 of their ratio over 4 %",
            1.0,
            above=False,
        ),
        Claim(
            "line-order",
            "On a line later eigenfunctions have higher frequencies.",
            "rank correlation of number and strongest frequency, in the first half",
            0.9,
            above=True,
        ),
        Claim(
            "line-fourier",
            "On a line the eigenfunctions of the first half are close to Fourier modes.",
            "share of energy in the two strongest frequencies that are neighbours, their mean",
            0.5,
            above=True,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(seeds=20, side=50),
        "paper": Settings(seeds=20, side=50, moments=(0, 10, 50, 100, 200, 500, 1000, 2000)),
    }

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return settings.longest + 1

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        line = _on_line(settings, unit)
        advance(1)
        return [{"seed": unit, **_learned(settings, unit, advance), "line": line}]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        ratios, rounds, held = (result[name] for name in ("ratio", "round", "held"))
        learned = result["right"][-1] > LEARNED
        line = result["line"]
        energy = np.array(line["energy"])
        half = energy[: energy.shape[1] - 1]  # as many functions as there are frequencies
        first, later = (line["values"][place] for place in LINE_EIGENVALUES)
        return {
            "not-flatter": ratios[0],
            "not-steeper": ratios[0],
            "concentrates": ratios[0] / ratios[-1] if learned else None,
            "round-functions": max(rounds[-1]) - max(rounds[0]) if learned else None,
            "labels-lead": held[-1] - held[0] if learned else None,
            "line-ratio": abs(math.log2(later / first / LINE_RATIO)),
            "line-order": rank_correlation(range(len(half)), half.argmax(1).tolist()),
            "line-fourier": float((half[:, 1:] + half[:, :-1]).max(1).mean()),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        return [
            Figure(
                "eigenfunctions",
                f"The {SHOWN} first eigenfunctions on the square",
                "Those of the first seed, from left to right in the order of their eigenvalues, "
                "each in its own range from blue over white to red.",
                tuple(
                    _map_panel(results[0]["shown"][place], f"After {step:,} updates")
                    for place, step in ((0, 0), (1, results[0]["updates"][-1]))
                ),
            ),
            Figure(
                "training",
                "The kernel along training",
                "Means over seeds, with their spread, after the updates at which all are measured.",
                tuple(_curve_panels(results)),
            ),
            Figure(
                "line",
                "An untrained network on a line",
                "Eigenvalues over the first, a mean over seeds with its spread, and the energy of "
                "each eigenfunction at each frequency, a mean over seeds.",
                tuple(_line_panels(results)),
            ),
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        def mean(values: Sequence[int | float]) -> float:
            return float(np.mean(values))

        start, end = (mean([result["ratio"][place] for result in results]) for place in (0, -1))
        roundest = [mean([max(result["round"][place]) for result in results]) for place in (0, -1)]
        updates = mean([result["updates"][-1] for result in results])
        first, later = LINE_EIGENVALUES
        line = mean(
            [one["line"]["values"][later] / one["line"]["values"][first] for one in results]
        )
        return [
            Row("updates until the disk is learned", f"{updates:,.0f}", "not printed"),
            Row("20th over first eigenvalue, start", f"{start:.2%}", "1.5 %"),
            Row(
                "20th over first eigenvalue, end",
                f"{end:.2%}",
                "0.2 % after 2,000 updates (learning rate not printed)",
            ),
            Row(
                "variance by rings of the roundest eigenfunction, start and end",
                f"{roundest[0]:.1%}, {roundest[1]:.1%}",
                "round ones among the first (figure 6.1, no numbers)",
            ),
            Row(
                "eigenvalue of number 10 over that of number 1, from 0, on a line",
                f"{line:.2%}",
                "about 4 %",
            ),
        ]


def roundness(functions: Float[Tensor, "k n"], points: Float[Tensor, "n 2"]) -> Float[Tensor, " k"]:
    """The share of each function's variance that its means over rings about the centre explain.

    Args:
        functions: on points of the square from -1 to 1, not constant.
        points: these.
    """
    ring = (points.norm(dim=1) / math.sqrt(2) * RINGS).long().clamp(max=RINGS - 1)
    inside = F.one_hot(ring, RINGS).to(functions)
    centred = functions - functions.mean(1, keepdim=True)
    sums = centred @ inside
    explained = (sums.square() / inside.sum(0).clamp(min=1)).sum(1)
    return explained / centred.square().sum(1)


def _learned(settings: Settings, seed: int, advance: Callable[[int], None]) -> dict[str, Any]:
    """The kernel's numbers, moment by moment, until the disk is learned."""
    x = uniform_points(settings.samples, seed=seed)
    y = disk_labels(x)
    descent = Descent(
        epochs=settings.longest, batch=settings.samples, rate=settings.rate, momentum=0,
        falling=False,
    )  # fmt: skip
    module = started(lambda: perceptron((2,), 1, settings.width, settings.hidden), seed)
    found: dict[str, list[Any]] = {"updates": [], "right": []}
    shown = []
    share = 0.0
    for count in trained(module, x, y, logistic, descent, seed):
        advance(min(count, 1))
        if count % EVERY == 0 or count == settings.longest:
            with torch.no_grad():
                share = float(right(module(x), y).double().mean())
        last = share > LEARNED or count == settings.longest
        if last or count in settings.moments:
            numbers, functions = _measured(module, settings.side)
            for name, value in {"updates": count, "right": share, **numbers}.items():
                found.setdefault(name, []).append(value)
            shown.append(functions)
        if last:
            advance(settings.longest - count)
            break
    return {**found, "shown": [shown[0], shown[-1]]}


def _measured(module: nn.Module, side: int) -> tuple[dict[str, Any], list[Any]]:
    """Numbers of the centred kernel on the grid, and its first eigenfunctions as maps."""
    points = grid_points(side)
    kernel = tangent_kernel(module, points, outputs=0, progress=False)
    pairs = eigenfunctions(kernel, EIGENVALUE, centring="samples")
    labels = disk_labels(points)
    numbers = {
        "ratio": float(pairs.values[-1] / pairs.values[0]),
        "held": float(energy_concentration(pairs, labels - labels.mean()).ratio),
        "round": rounded(roundness(pairs.functions[:SHOWN], points)),
    }
    return numbers, rounded(pairs.on_grid((side, side))[:SHOWN], digits=3)


def _on_line(settings: Settings, seed: int) -> dict[str, Any]:
    """The spectrum of an untrained network's centred kernel on a line, and its frequencies."""
    module = started(lambda: perceptron((1,), 1, settings.width, settings.hidden), seed)
    points = torch.linspace(0, 1, settings.line, dtype=torch.float64).unsqueeze(1)
    kernel = tangent_kernel(copy.deepcopy(module).double(), points, outputs=0, progress=False)
    pairs = eigenfunctions(kernel, centring="samples")
    # The last one is constant, with the eigenvalue 0: the kernel is centred.
    return {
        "values": rounded(pairs.values[:-1]),
        "energy": rounded(pairs.radial_energy()[:-1], 4),
    }


def _map_panel(maps: Sequence[Any], title: str) -> Panel:
    """Functions side by side, their first coordinate to the right."""
    images = [np.array(one).T / np.abs(one).max() for one in maps]
    gap = np.full((len(images[0]), 1), np.nan)
    row = np.hstack([part for image in images for part in (image, gap)][:-1])
    with style.axes((9.6, 1.9)) as (canvas, ax):
        ax.imshow(row, cmap="RdBu_r", vmin=-1, vmax=1, origin="lower")
        ax.set_axis_off()
        return style.panel(canvas, title, f"{len(images)} maps of functions on the square.")


def _curve_panels(results: Sequence[Result]) -> list[Panel]:
    everywhere = set.intersection(*(set(result["updates"]) for result in results))
    updates = sorted(everywhere)

    def values(name: str) -> list[list[Any]]:
        return [
            [result[name][result["updates"].index(step)] for step in updates] for result in results
        ]

    quantities = {
        "20th over first eigenvalue (%)": 100 * np.array(values("ratio")),
        "Length of the labels in the 20 first": values("held"),
        "Variance by rings of the roundest function": np.array(values("round")).max(-1),
    }
    return [
        curves_panel(title, updates, [Curve("network", rows)], "updates", "symlog")
        for title, rows in quantities.items()
    ]


def _line_panels(results: Sequence[Result]) -> list[Panel]:
    spectra = np.array([result["line"]["values"] for result in results])
    shares = np.log10(np.maximum(spectra / spectra[:, :1], 1e-12))
    energy = np.array([result["line"]["energy"] for result in results]).mean(0)
    with style.axes() as (canvas, ax):
        ax.imshow(energy, cmap="viridis", aspect="auto", origin="lower", interpolation="nearest")
        ax.set(xlabel="frequency (cycles over the line)", ylabel="number of the eigenfunction")
        ax.grid(False)
        strongest = [int(energy[place].argmax()) for place in (0, len(energy) // 4)]
        alt = (
            f"Map: the first eigenfunction is strongest at frequency {strongest[0]}, that of "
            f"number {len(energy) // 4} at {strongest[1]}."
        )
        map_panel = style.panel(canvas, "Energy by frequency", alt)
    return [
        curves_panel(
            "Eigenvalue over the first, its decimal logarithm", range(shares.shape[1]),
            [Curve("network", shares, line="-")], "number of the eigenvalue",
        ),
        map_panel,
    ]  # fmt: skip


register(Disk())
