"""Three data sets on which the order of learning can be solved, and a network that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pullback.data.toys import opposed_modes, shared_feature
from pullback.kernels.dynamics import gradient_flow
from pullback.kernels.tangent import tangent_kernel
from pullback.linear.progress import equal_progress
from pullback.linear.quadratic import quadratic_model
from pullback.probes import log_spaced
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import rounded
from pullback.studies.claims import Claim
from pullback.studies.parts import Descent, rank_correlation, started, trained
from pullback.studies.study import Result, Row, Study, register

KINDS = {"solvable": "the solvable network", "dense": "a dense network"}
REGIMES = ("network", "linearized")
EXAMPLES = {
    "order": "Opposed modes",
    "noise": "Wrong labels",
    "shortcut": "A shortcut that misleads",
}
LEARNED = 0.01  # of a target's square, what is left of the squared error
JUDGED = 0.3  # mean squared error of the majority


@dataclass(frozen=True)
class Settings:
    """The three data sets, and the dense network that learns them too.

    Attributes:
        seeds: bases of the modes that coincide, and starts of the dense network.
        mu: squared lengths of the opposed modes.
        samples: of the other two data sets.
        against: how many of them have a wrong label, or a shortcut that misleads.
        noise: the size of each sample's own feature, with wrong labels.
        shortcut: the same, with a shortcut.
        second: the size of the feature that is always right, with a shortcut.
        start: the square of the solvable network's parameters where it starts; of the dense
            network's weights the variance, times the inputs of their layer. So both have a tangent
            kernel of this size there.
        width: of the dense network.
        rate: its learning rate; the loss is half the sum of squares.
        steps: of its gradient descent.
        moments: how often errors are kept.
    """

    seeds: int = 10
    mu: tuple[float, ...] = (9.0, 8.0, 7.0, 6.0, 5.0)
    samples: int = 20
    against: int = 5
    noise: float = 1.0
    shortcut: float = 1.0
    second: float = 0.2
    start: float = 1e-3
    width: int = 100
    rate: float = 0.002
    steps: int = 4000
    moments: int = 150


@dataclass(frozen=True, eq=False)
class _Problem:
    """Inputs (n, d), targets (n,), and which samples are drawn together (g, n)."""

    x: Float[Tensor, "n d"]
    y: Float[Tensor, " n"]
    groups: Bool[Tensor, "g n"]


@dataclass(frozen=True, eq=False)
class _Run:
    """Squared errors of all samples at some times of gradient flow."""

    times: Float[Tensor, " t"]
    errors: Float[Tensor, "t n"]


def _claims() -> tuple[Claim, ...]:
    found = []
    for kind, words in KINDS.items():
        found += [
            Claim(
                f"{kind}-order-network",
                f"Opposed modes: {words} learns first what the targets ask for.",
                "rank correlation of a mode's size in the inputs and the time when it is learned",
                0.8,
                above=True,
            ),
            Claim(
                f"{kind}-order-linearized",
                f"Opposed modes: the linearisation of {words} learns first what is large.",
                "rank correlation of a mode's size in the inputs and the time when it is learned",
                -0.8,
                above=False,
            ),
            Claim(
                f"{kind}-noise",
                f"Wrong labels: {words} learns them later, where the others are learned equally.",
                "squared error on wrong labels (network minus linearisation) where that on the "
                f"others is {JUDGED}",
                0.0,
                above=True,
            ),
            Claim(
                f"{kind}-shortcut",
                f"A shortcut: {words} learns later where it misleads.",
                "squared error where it misleads (network minus linearisation) where that on the "
                f"others is {JUDGED}",
                0.0,
                above=True,
            ),
        ]
    return tuple(found)


class Solvable(Study):
    """George 2023, section 5.4.4 and figure 5.4; appendix C.7 and figure C.9."""

    name = "solvable"
    title = "The order of learning on data that can be solved"
    source = "George 2023, section 5.4.4, figures 5.4 and C.9"
    about = (
        "A network that is quadratic in its parameters and its linearisation learn three small "
        "data sets, in closed form; a dense network of two layers with ReLU learns them by "
        "gradient descent, and its linearisation by the flow of its tangent kernel, in closed form "
        "again. Where singular values coincide the modes are drawn at random for each seed. From a "
        "small start a dense network with one output first grows along one direction, in which "
        "large modes come near their targets first: the order of opposed modes is its "
        "linearisation's, not that of the solvable network. The "
        "features that samples share with no other are of size 1; the sizes of the document's "
        "published code, 5 and 10, are those of the size paper."
    )
    claims = _claims()
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(seeds=50, width=1000, rate=0.0005, steps=40_000),
        "paper": Settings(
            seeds=10, noise=5.0, shortcut=10.0, second=1.0, rate=0.0001, steps=20_000
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return len(EXAMPLES) * settings.steps

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        result: Result = {"seed": unit, "judged": {}, "learned": {}, "curves": {}}
        for example, problem in _problems(settings).items():
            runs = {
                "solvable": _solved(settings, problem, unit),
                "dense": _descended(settings, problem, unit, advance),
            }
            for kind, pair in runs.items():
                curves = result["curves"].setdefault(kind, {})
                curves[example] = {
                    regime: _drawn(settings, run, problem) for regime, run in pair.items()
                }
                if example == "order":
                    result["learned"][kind] = {
                        regime: _when_learned(run, problem.y) for regime, run in pair.items()
                    }
                else:
                    result["judged"].setdefault(kind, {})[example] = _judged(pair, problem)
        return [result]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        found: dict[str, float | None] = {}
        for kind in KINDS:
            for regime, times in result["learned"][kind].items():
                sizes = range(len(times), 0, -1)
                known = None not in times
                found[f"{kind}-order-{regime}"] = rank_correlation(sizes, times) if known else None
            found |= {f"{kind}-{example}": gap for example, gap in result["judged"][kind].items()}
        return found

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        return [
            Figure(
                kind,
                f"Squared errors of {words}",
                "Over the time of gradient flow, for the first seed; solid for the network, dashed "
                "for its linearisation. First each mode by itself, from the largest in the inputs "
                "(dark) to the smallest; then the majority (dark) and the samples that go against "
                "it.",
                tuple(
                    _panel(results[0]["curves"][kind][example], title)
                    for example, title in EXAMPLES.items()
                ),
            )
            for kind, words in KINDS.items()
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        rows = []
        for kind, words in KINDS.items():
            for regime in REGIMES:
                known = [r["learned"][kind][regime] for r in results]
                first, last = (
                    _middle([times[place] for times in known]) for place in (0, len(known[0]) - 1)
                )
                rows.append(
                    Row(
                        f"{words}, {regime}: when the first and the last mode are learned",
                        f"{first}, {last}",
                        "last first (network), first first (linearisation)",
                    )
                )
        return rows


def _problems(settings: Settings) -> dict[str, _Problem]:
    x, y = opposed_modes(torch.tensor(settings.mu, dtype=torch.float64))
    found = {"order": _Problem(x, y, torch.eye(len(y), dtype=torch.bool))}
    for example, own, second in (
        ("noise", settings.noise, 0.0),
        ("shortcut", settings.shortcut, settings.second),
    ):
        samples = shared_feature(settings.samples, settings.against, own, second)
        groups = torch.stack([~samples.against, samples.against])
        found[example] = _Problem(samples.inputs.double(), samples.labels.double(), groups)
    return found


def _solved(settings: Settings, problem: _Problem, seed: int) -> dict[str, _Run]:
    """Both regimes of the solvable network, with a random basis where modes coincide."""
    generator = torch.Generator().manual_seed(seed)
    tilt = torch.randn(problem.x.shape, dtype=torch.float64, generator=generator)
    basis = torch.linalg.svd(problem.x + 1e-9 * tilt, full_matrices=False)[0].T
    model = quadratic_model(problem.x, problem.y, settings.start, basis)
    times = torch.cat([torch.zeros(1), torch.logspace(-3, 6, 400)]).double()
    found = {}
    for regime in REGIMES:
        outputs = torch.stack([model.outputs(time, regime) for time in times.tolist()])
        found[regime] = _Run(times, (outputs - problem.y).square())
    return found


def _descended(
    settings: Settings, problem: _Problem, seed: int, advance: Callable[[int], None]
) -> dict[str, _Run]:
    """A dense network by gradient descent, and its linearisation by the flow of its kernel."""
    x, y = problem.x, problem.y
    module = started(lambda: _dense(settings, x.shape[1]), seed).double()
    with torch.no_grad():
        before = module(x)[:, 0]
    flow = gradient_flow(
        tangent_kernel(module, x, outputs=0, progress=False), y, prior=before, mean=False
    )
    times = torch.cat([torch.zeros(1), torch.logspace(-4, 6, 400)]).double()
    lazy = torch.stack([flow.at(time) for time in times.tolist()])
    descent = Descent(
        epochs=settings.steps, batch=len(x), rate=settings.rate, momentum=0.0, falling=False
    )
    moments, outputs = log_spaced(settings.steps, 2 * settings.moments), []
    chosen = set(moments)
    for count in trained(module, x, y, _half_squares, descent, seed):
        if count in chosen:
            with torch.no_grad():
                outputs.append(module(x)[:, 0])
        advance(1 if count else 0)
    when = settings.rate * torch.tensor(moments, dtype=torch.float64)
    return {
        "network": _Run(when, (torch.stack(outputs) - y).square()),
        "linearized": _Run(times, (lazy - y).square()),
    }


def _dense(settings: Settings, inputs: int) -> nn.Module:
    network = nn.Sequential(
        nn.Linear(inputs, settings.width, bias=False), nn.ReLU(),
        nn.Linear(settings.width, 1, bias=False),
    )  # fmt: skip
    for weight in network.parameters():
        nn.init.normal_(weight, std=(settings.start / weight.shape[1]) ** 0.5)
    return network


def _half_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs[:, 0] - targets).square().sum() / 2


def _when_learned(run: _Run, y: Float[Tensor, " n"]) -> list[float | None]:
    """The first time at which each sample has so little of its error left; None for never."""
    reached = run.errors <= LEARNED * y.square()
    first = reached.int().argmax(0)
    return [
        float(run.times[place]) if bool(one.any()) else None
        for place, one in zip(first.tolist(), reached.T, strict=True)
    ]


def _judged(runs: Mapping[str, _Run], problem: _Problem) -> float | None:
    """How much larger the network's error on the minority is; None where a run is not so far."""
    series = {}
    for regime, run in runs.items():
        majority, others = (run.errors[:, group].mean(1) for group in problem.groups)
        if float(majority.min()) > JUDGED:
            return None
        series[regime] = majority, others
    return float(equal_progress(series, [JUDGED]).difference(*REGIMES))


def _drawn(settings: Settings, run: _Run, problem: _Problem) -> dict[str, list[Any]]:
    """Mean errors of each group at some of the times, the first of which is 0."""
    some = torch.linspace(1, len(run.times) - 1, settings.moments).long().unique()
    errors = [rounded(run.errors[some][:, group].mean(1), 4) for group in problem.groups]
    return {"times": rounded(run.times[some], 4), "errors": errors}


def _panel(curves: Mapping[str, Mapping[str, list[Any]]], title: str) -> Panel:
    colours = style.by_depth([str(place) for place in range(len(curves["network"]["errors"]))])
    with style.axes() as (canvas, ax):
        for regime, line in zip(REGIMES, ("-", "--"), strict=True):
            for errors, colour in zip(curves[regime]["errors"], colours.values(), strict=True):
                ax.plot(curves[regime]["times"], errors, line, color=colour)
        style.decades(ax, "x")
        ax.set_xlabel("time of gradient flow")
        highest = [max(curves[regime]["errors"][-1]) for regime in REGIMES]
        alt = (
            "Line chart over time: the squared error of the last group is at most "
            f"{highest[0]:.3g} for the network and {highest[1]:.3g} for its linearisation."
        )
        return style.panel(canvas, f"{title}: squared error", alt)


def _middle(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return style.short(float(np.median(known))) if known else "never"


register(Solvable())
