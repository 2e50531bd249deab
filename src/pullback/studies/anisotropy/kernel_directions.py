"""Are the directions of the tangent kernel in the order of their difficulty?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pullback.anisotropy import Directions, directions, models, overlap, separable
from pullback.anisotropy.population import Population
from pullback.linear.model import linearize
from pullback.report.anisotropy.figures import galleries
from pullback.report.anisotropy.measure import direction_numbers
from pullback.report.figures import style
from pullback.report.figures.style import Figure
from pullback.report.numbers import rounded
from pullback.studies.anisotropy.images import correct
from pullback.studies.claims import Claim
from pullback.studies.linearized.learning import both
from pullback.studies.parts import (
    Curve,
    Descent,
    curves_panel,
    fan_in_start,
    lenet,
    logistic,
    rank_correlation,
    trained,
)
from pullback.studies.study import Result, Row, Study, register

REGIMES = ("network", "linearized")
SPLITS = ("train", "test")
LEADING = 10  # directions whose space is compared with that of normal inputs


@dataclass(frozen=True)
class Settings:
    """Which networks, which of their directions, and how each is learned.

    Attributes:
        seeds: of everything drawn.
        networks: "lenet" or "resnet18", all with GELU.
        width: a factor of the numbers of channels of "resnet18".
        side: of the images, of one channel.
        places: of the directions that are learned, from 0.
        samples: to train on.
        tests: samples to test on.
        epsilon: how far each class is from 0.
        sigma: of the noise.
        descent: with momentum and a rate that falls linearly to 0, the same for both regimes.
        pictures: directions that are shown.
    """

    seeds: int = 3
    networks: tuple[str, ...] = ("lenet",)
    width: int | float = 1.0
    side: int = 16
    places: tuple[int, ...] = (0, 10, 20, 35, 55, 80)
    samples: int = 1000
    tests: int = 4000
    epsilon: int | float = 1.0
    sigma: int | float = 1.0
    descent: Descent = Descent(epochs=12, batch=16)
    pictures: int = 6


class KernelDirections(Study):
    """Ortiz-Jimenez et al. 2021, figures 4 and 9."""

    name = "kernel-directions"
    title = "Directions of the tangent kernel as tasks for a network and its linearisation"
    source = "Ortiz-Jimenez et al. 2021, section 3.2, figures 4 and 9, appendix C"
    about = (
        "The right singular vectors of the mixed derivative of a network at the origin, by its "
        "parameters and its input, are directions in the order in which linear functions along "
        "them are aligned with its tangent kernel. The network and its linearisation learn, from "
        "that same start, samples of two classes that differ along one of them alone. The "
        "alignment is measured once more, with the kernel at normal inputs. Networks have GELU, "
        "also where they are trained, and average pooling, because at the origin all of a window "
        "is its maximum. The document has images of 32 x 32, 10,000 samples and 100 epochs; after "
        "fewer updates the linearisation does not fit late directions, as its training accuracy "
        "says."
    )
    claims = (
        Claim(
            "network-falls",
            "The accuracy of the network falls with the place of the direction.",
            "rank correlation of place and test accuracy, largest over networks",
            -0.7,
            above=False,
        ),
        Claim(
            "linearized-falls",
            "So does that of its linearisation.",
            "rank correlation of place and test accuracy, largest over networks",
            -0.7,
            above=False,
        ),
        Claim(
            "alignment-falls",
            "The alignment with the kernel at normal inputs falls with the place, too.",
            "rank correlation of place and alignment, largest over networks",
            -0.7,
            above=False,
        ),
        Claim(
            "alignment-orders",
            "The alignment puts the tasks in the order of the network's accuracy.",
            "rank correlation of alignment and test accuracy, least over networks",
            0.7,
            above=True,
        ),
        Claim(
            "network-wins",
            "The network is better at these tasks than its linearisation.",
            "difference of test accuracy (network minus linearisation), mean over places, least "
            "over networks",
            0.0,
            above=True,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            networks=("lenet", "resnet18"), width=0.125, side=32, samples=4000, tests=4000,
            places=(0, 10, 25, 50, 100, 150, 200, 300, 400, 600),
            descent=Descent(epochs=30, batch=128), pictures=9,
        ),
        "paper": Settings(
            networks=("lenet", "resnet18"), side=32, samples=10_000, tests=10_000,
            places=(0, 1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 600, 800, 1000),
            descent=Descent(epochs=100, batch=128), pictures=9,
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        runs = len(REGIMES) * len(settings.places) * settings.descent.epochs
        return len(settings.networks) * (2 + runs)

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        places = list(settings.places)
        return [
            {
                "seed": unit,
                "networks": list(settings.networks),
                "places": places,
                **{name: _of_network(settings, name, unit, advance) for name in settings.networks},
            }
        ]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        places, found = result["places"], [result[name] for name in result["networks"]]
        falls = {
            f"{regime}-falls": _worst(
                max, [rank_correlation(places, one[regime]["test"]) for one in found]
            )
            for regime in REGIMES
        }
        return {
            **falls,
            "alignment-falls": _worst(
                max, [rank_correlation(places, one["alignment"]) for one in found]
            ),
            "alignment-orders": _worst(
                min,
                [rank_correlation(one["alignment"], one["network"]["test"]) for one in found],
            ),
            "network-wins": min(_advantage(one) for one in found),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        return [
            figure
            for name in results[0]["networks"]
            for figure in _figures(name, results[0]["places"], [one[name] for one in results])
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        return [
            row
            for name in results[0]["networks"]
            for row in _rows(name, results[0]["places"], [one[name] for one in results])
        ]


def _of_network(
    settings: Settings, name: str, seed: int, advance: Callable[[int], None]
) -> dict[str, Any]:
    shape, make = (1, settings.side, settings.side), partial(_made, settings, name)
    origin = directions(
        make, shape, method="mixed", networks=1, at=torch.zeros(shape), seed=seed, progress=False
    )
    advance(1)
    kernel = directions(make, shape, method="kernel", networks=1, seed=seed, progress=False)
    advance(1)
    network = _start(make, shape, seed)
    modules = {"network": network, "linearized": linearize(network)}
    places = list(settings.places)
    return {
        "directions": direction_numbers(origin, settings.pictures),
        "at_origin": rounded(origin.spectrum[places]),
        "alignment": rounded(_alignments(kernel, origin.vectors[places])),
        "overlap": float(overlap(origin.vectors, kernel.vectors)[LEADING - 1]),
        "chance": LEADING / len(origin.vectors),
        **{
            regime: _learned(settings, modules[regime], origin, seed, advance) for regime in REGIMES
        },
    }


def _made(settings: Settings, name: str) -> nn.Module:
    shape = (1, settings.side, settings.side)
    if name == "lenet":
        return fan_in_start(lenet(shape, activation=nn.GELU))
    return fan_in_start(models.resnet18(shape, width=settings.width, activation="gelu"))


def _start(make: Callable[[], nn.Module], shape: Sequence[int], seed: int) -> nn.Module:
    """The very network that `directions` draws with that seed, where it draws one."""
    population = Population(make, shape, seed=seed, at_most=1)
    population.module.load_state_dict(population.one(0))
    return population.module


def _alignments(kernel: Directions, vectors: Float[Tensor, "k D"]) -> Float[Tensor, " k"]:
    """The alignment of `u^T x` for some u, from the directions in which it is diagonal."""
    return (vectors @ kernel.vectors.T).square() @ kernel.spectrum


def _learned(
    settings: Settings,
    module: nn.Module,
    found: Directions,
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, list[float]]:
    """Accuracies after learning each direction with a copy of a module."""
    accuracies: dict[str, list[float]] = {split: [] for split in SPLITS}
    for place in settings.places:
        samples = {
            split: separable(
                found.image(place).float(), count, settings.epsilon, settings.sigma,
                (seed << 16) + 2 * place + part,
            )
            for part, (split, count) in enumerate(
                zip(SPLITS, (settings.samples, settings.tests), strict=True)
            )
        }  # fmt: skip
        own = copy.deepcopy(module).train()
        per_epoch = settings.descent.per_epoch(settings.samples)
        for count in trained(own, *samples["train"], logistic, settings.descent, seed):
            if count and count % per_epoch == 0:
                advance(1)
        own.eval()
        for split, pair in samples.items():
            accuracies[split].append(correct(own, *pair))
    return accuracies


def _worst(of: Callable[[Sequence[float]], float], values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return of(known) if len(known) == len(values) else None


def _advantage(found: Mapping[str, Any]) -> float:
    network, linear = (np.array(found[regime]["test"]) for regime in REGIMES)
    return float((network - linear).mean())


def _figures(name: str, places: Sequence[int], found: Sequence[dict[str, Any]]) -> list[Figure]:
    """Those of one network; its directions are those of the first seed."""
    alignment = [
        Curve("at normal inputs", [np.divide(one["alignment"], _first(one)) for one in found]),
        Curve(
            "at the origin", [np.divide(one["at_origin"], _first(one)) for one in found],
            style.TEST, "s--",
        ),
    ]  # fmt: skip
    return [
        Figure(
            f"{name}-accuracy",
            f"Accuracy and alignment by direction, {name}",
            "Means over seeds, with their spread. The alignments are over that of the first "
            "direction at the origin.",
            (
                curves_panel(
                    "Test accuracy", places, both(found, "test"), "place of the direction", "symlog"
                ),
                curves_panel(
                    "Alignment with the tangent kernel", places, alignment,
                    "place of the direction", "symlog",
                ),
            ),
        ),
        Figure(
            f"{name}-directions",
            f"The first directions, {name}",
            "Of the first seed: above, each direction as an image, red positive and blue negative, "
            "with its share of all alignment; below, the energy of its Fourier transform, zero "
            "frequency in the middle, with the frequency that has most of it.",
            tuple(
                style.panel(one.canvas, one.title, one.alt)
                for one in galleries(found[0]["directions"])
            ),
        ),
    ]  # fmt: skip


def _rows(name: str, places: Sequence[int], found: Sequence[dict[str, Any]]) -> list[Row]:
    """Those of one network."""
    rows = []
    for regime in REGIMES:
        train, test = (np.mean([one[regime][split] for one in found], 0) for split in SPLITS)
        for place in (0, len(places) // 2, len(places) - 1):
            quantity = f"{name}, {regime}: test accuracy at direction {places[place]}"
            rows.append(Row(quantity, f"{test[place]:.1%}", "falls (figure 4)"))
        quantity = f"{name}, {regime}: training accuracy at direction {places[-1]}"
        rows.append(Row(quantity, f"{train[-1]:.1%}", "not printed"))
    advantage = 100 * np.mean([_advantage(one) for one in found])
    alike = np.mean([one["overlap"] for one in found])
    return [
        *rows,
        Row(
            f"{name}: network minus linearisation, mean over directions",
            f"{advantage:+.1f} points",
            "strong advantage (figure 4)",
        ),
        Row(
            f"{name}: overlap of the first {LEADING} directions with those at normal inputs "
            f"(chance {found[0]['chance']:.2g})",
            f"{alike:.2f}",
            "no difference (appendix C.2)",
        ),
    ]


def _first(found: Mapping[str, Any]) -> float:
    return float(found["directions"]["spectrum"][0])


register(KernelDirections())
