"""Lazy against hasty on a toy: which parts of the plane each regime learns first."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from pullback.data.toys import (
    YIN_YANG,
    YIN_YANG_RADIUS,
    grid_points,
    uniform_points,
    yin_yang_labels,
)
from pullback.linear.progress import EqualProgress, equal_progress
from pullback.probes import log_spaced
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import rounded
from pullback.studies.claims import Claim
from pullback.studies.study import Result, Row, Study, register

THRESHOLDS = (0.5, 0.4, 0.3)  # of the training loss, in nats
JUDGED = 0.4
AWAY = 0.5  # from the centre of a disk, to count as a large area
REGIMES = ("network", "lazy")
State = dict[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """How many networks, of which width, for how long.

    Attributes:
        seeds: networks, each with samples of its own.
        at_once: how many are trained together.
        samples: training samples of each.
        width: of the three hidden layers.
        rate: the learning rate of the network; that of the lazy one is divided by alpha^2.
        steps: of gradient descent on all samples.
        alpha: of the lazy regime.
        side: of the grid where losses are compared.
        moments: how often they are.
    """

    seeds: int = 20
    at_once: int = 10
    samples: int = 100
    width: int = 60
    rate: float = 0.1
    steps: int = 6000
    alpha: float = 100.0
    side: int = 41
    moments: int = 80


class YinYang(Study):
    """George 2023, figure 5.1."""

    name = "yin-yang"
    title = "Where a network and its lazy twin are better at equal training loss"
    source = "George 2023, section 5.3.1 and figure 5.1"
    about = (
        "Networks with three hidden layers learn a yin-yang pattern from samples of their own, "
        "once as they are (alpha = 1) and once lazily (alpha = 100, learning rate divided by alpha "
        "squared). Where both have the same training loss, their losses are compared over the "
        "square. Labels, widths and the logistic loss are those of the document's published code."
    )
    claims = (
        Claim(
            "faster",
            "The network learns faster than its lazy twin.",
            "decimal logarithm of lazy over network updates to a training loss of 0.5",
            0.0,
            above=True,
        ),
        Claim(
            "large-areas",
            "At equal training loss the network is better in the large areas of one class.",
            f"difference of losses there (network minus lazy) at a training loss of {JUDGED}, nats",
            0.0,
            above=False,
        ),
        Claim(
            "disks",
            "At equal training loss it is worse on the small disks.",
            f"difference of losses there (network minus lazy) at a training loss of {JUDGED}, nats",
            0.0,
            above=True,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(seeds=100, rate=0.03, steps=60_000),
        "paper": Settings(seeds=100, rate=0.01, steps=300_000, side=101),
    }

    def units(self, settings: Settings) -> int:
        return -(-settings.seeds // settings.at_once)

    def steps(self, settings: Settings) -> int:
        return len(REGIMES) * settings.steps

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        first = unit * settings.at_once
        seeds = range(first, min(first + settings.at_once, settings.seeds))
        x = torch.stack([uniform_points(settings.samples, seed=seed) for seed in seeds])
        y = torch.stack([yin_yang_labels(one) for one in x])
        start = _started(settings, seeds)
        runs = {
            regime: _trained(settings, start, x, y, alpha, advance)
            for regime, alpha in zip(REGIMES, (1.0, settings.alpha), strict=True)
        }
        return [_result(settings, runs, place, seed) for place, seed in enumerate(seeds)]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        updates = [result["updates"][regime] for regime in REGIMES]
        maps = result["difference"].get(str(JUDGED))
        disks, large = regions(len(maps)) if maps else (None, None)
        return {
            "faster": None if None in updates else math.log10(updates[1] / updates[0]),
            "large-areas": None if maps is None else _mean(maps, large),
            "disks": None if maps is None else _mean(maps, disks),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        panels = [_map_panel(results, threshold) for threshold in THRESHOLDS]
        return [
            Figure(
                "losses",
                "The regimes over time",
                "Mean training loss over seeds, after so many updates; the lazy network takes "
                "steps of a learning rate that moves its function as much, to first order.",
                (_loss_panel(results),),
            ),
            Figure(
                "differences",
                "Who is better where",
                "The loss of the network minus that of its lazy twin where both have the same "
                "training loss, a mean over seeds: blue where the network is better, red where it "
                "is worse. Circles are the disks.",
                tuple(panel for panel in panels if panel is not None),
            ),
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        rows = []
        for regime in REGIMES:
            known = [r["updates"][regime] for r in results if r["updates"][regime] is not None]
            middle = f"{statistics.median(known):,.0f}" if known else "never"
            rows.append(
                Row(f"updates to a training loss of 0.5, {regime}, median", middle, "not printed")
            )
        for threshold in THRESHOLDS:
            reached = sum(str(threshold) in result["difference"] for result in results)
            rows.append(
                Row(
                    f"seeds of which both reach {threshold}",
                    f"{reached} of {len(results)}",
                    "three thresholds, not printed",
                )
            )
        return rows


def _module(settings: Settings) -> nn.Sequential:
    w = settings.width
    return nn.Sequential(
        nn.Linear(2, w), nn.ReLU(), nn.Linear(w, w), nn.ReLU(), nn.Linear(w, w), nn.ReLU(),
        nn.Linear(w, 1),
    )  # fmt: skip


def _started(settings: Settings, seeds: Sequence[int]) -> State:
    """The parameters of all networks, stacked."""
    models = []
    for seed in seeds:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            models.append(_module(settings))
    return {name: value.detach() for name, value in stack_module_state(models)[0].items()}


@dataclass
class _Run:
    """What is kept of the training of all networks: at each step the losses of all."""

    steps: list[int]
    training: list[Float[Tensor, " s"]]
    grid: list[Float[Tensor, "s g"]]


def _trained(
    settings: Settings,
    start: State,
    x: Float[Tensor, "s n 2"],
    y: Float[Tensor, "s n"],
    alpha: float,
    advance: Callable[[int], None],
) -> _Run:
    """Gradient descent on all networks at once; each is `f0 + alpha (f - f0)`."""
    module, points = _module(settings).to("meta"), grid_points(settings.side)
    wanted = yin_yang_labels(points)

    def losses(state: State, first: State, inputs: Tensor, labels: Tensor) -> Tensor:
        now, before = (functional_call(module, one, (inputs,))[:, 0] for one in (state, first))
        return F.softplus(-labels * (before + alpha * (now - before)))

    def mean_loss(state: State, first: State, inputs: Tensor, labels: Tensor) -> Tensor:
        return losses(state, first, inputs, labels).mean()

    step = vmap(grad(mean_loss))
    everywhere = vmap(losses, in_dims=(0, 0, None, None))
    state, run = {name: value.clone() for name, value in start.items()}, _Run([], [], [])
    moments = set(log_spaced(settings.steps, settings.moments))
    for count in range(settings.steps + 1):
        if count in moments:
            run.steps.append(count)
            run.training.append(vmap(mean_loss)(state, start, x, y))
            run.grid.append(everywhere(state, start, points, wanted))
        if count < settings.steps:
            gradients = step(state, start, x, y)
            for name, value in state.items():
                value -= settings.rate / alpha**2 * gradients[name]
            advance(1)
    return run


def _result(settings: Settings, runs: Mapping[str, _Run], place: int, seed: int) -> Result:
    losses = {
        regime: torch.stack([one[place] for one in run.training]) for regime, run in runs.items()
    }
    maps = {regime: torch.stack([one[place] for one in run.grid]) for regime, run in runs.items()}
    series = {regime: (losses[regime], maps[regime]) for regime in REGIMES}
    reached = [
        threshold
        for threshold in THRESHOLDS
        if all(float(one.min()) <= threshold <= float(one[0]) for one in losses.values())
    ]
    found = equal_progress(series, reached) if reached else None
    return {
        "seed": seed,
        "steps": runs["network"].steps,
        "losses": {regime: rounded(one) for regime, one in losses.items()},
        "updates": {
            regime: next(
                (
                    step
                    for step, loss in zip(runs[regime].steps, one.tolist(), strict=True)
                    if loss <= THRESHOLDS[0]
                ),
                None,
            )
            for regime, one in losses.items()
        },
        "difference": {} if found is None else _differences(found, settings.side),
    }


def _differences(found: EqualProgress, side: int) -> dict[str, Any]:
    """Network minus lazy over the grid, by threshold."""
    maps = found.difference(*REGIMES).view(-1, side, side)
    return {
        f"{round(threshold, 6):g}": rounded(one, 4)
        for threshold, one in zip(found.thresholds.tolist(), maps, strict=True)
    }


def regions(side: int) -> tuple[Bool[Tensor, "side side"], Bool[Tensor, "side side"]]:
    """Where on the grid the small disks are, and the large areas of one class.

    The areas are those of the figure's top right and bottom left, away from disks and boundary.
    """
    points = grid_points(side)
    distances = torch.cdist(points, torch.tensor(YIN_YANG))
    disks = (distances <= YIN_YANG_RADIUS).any(1)
    away = (distances > AWAY).all(1) & (points[:, 1].abs() > YIN_YANG_RADIUS)
    large = away & (points.prod(1) > 0)
    return disks.view(side, side), large.view(side, side)


def _mean(values: Any, where: Tensor | None) -> float:
    return float(torch.tensor(values)[where].mean())


def _loss_panel(results: Sequence[Result]) -> Panel:
    colours = {"network": style.AFTER, "lazy": style.TEST}
    with style.axes() as (canvas, ax):
        said = []
        for regime, colour in colours.items():
            curves = np.array([result["losses"][regime] for result in results])
            steps, mean = results[0]["steps"], curves.mean(0)
            ax.plot(steps, mean, color=colour, label=regime)
            spread = curves.std(0)
            ax.fill_between(
                steps, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0
            )
            said.append(f"{regime} ends at {mean[-1]:.3f}")
        style.time_axis(ax, results[0]["steps"][-1])
        ax.set_ylim(bottom=0)
        ax.legend()
        return style.panel(
            canvas, "Training loss (nats)", f"Line chart over updates: {'; '.join(said)}."
        )


def _map_panel(results: Sequence[Result], threshold: float) -> Panel | None:
    maps = [
        r["difference"][f"{threshold:g}"] for r in results if f"{threshold:g}" in r["difference"]
    ]
    if not maps:
        return None
    mean = np.array(maps).mean(0).T  # rows are the second coordinate
    bound = float(np.abs(mean).max())
    with style.axes((4.8, 4.0)) as (canvas, ax):
        image = ax.imshow(
            mean, cmap="RdBu_r", vmin=-bound, vmax=bound, origin="lower", extent=(-1, 1, -1, 1)
        )
        for x, y in YIN_YANG:
            turn = np.linspace(0, 2 * np.pi, 100)
            ax.plot(
                x + YIN_YANG_RADIUS * np.cos(turn), y + YIN_YANG_RADIUS * np.sin(turn),
                color=style.INK, linewidth=0.8,
            )  # fmt: skip
        ax.axhline(0, color=style.INK, linewidth=0.8)
        ax.grid(False)
        bar = canvas.colorbar(image, ax=ax, shrink=0.9, pad=0.02)
        bar.outline.set_visible(False)
        disks, large = regions(len(mean))
        by_place = torch.tensor(mean.T)
        alt = (
            f"Map of the difference of losses at a training loss of {threshold:g}: on average "
            f"{float(by_place[disks].mean()):.3f} on the disks and "
            f"{float(by_place[large].mean()):.3f} in the large areas, over {len(maps)} seeds."
        )
        return style.panel(canvas, f"At a training loss of {threshold:g} ({len(maps)} seeds)", alt)


register(YinYang())
