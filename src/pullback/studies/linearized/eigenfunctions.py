"""Are the eigenfunctions of the tangent kernel in the order of their difficulty?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from pullback.linear.model import linearize
from pullback.report.figures.style import Figure
from pullback.report.numbers import rounded
from pullback.studies.claims import Claim
from pullback.studies.linearized.learning import (
    Posed,
    both,
    learned,
    learned_together,
    posed,
)
from pullback.studies.parts import Descent, curves_panel, rank_correlation
from pullback.studies.study import Result, Row, Study, register

FITTED = 0.01  # the training loss that the document counts iterations to, in nats
NAMES = {"network": "network", "linearized": "linearisation"}


@dataclass(frozen=True)
class Settings:
    """Which data, which network, which eigenfunctions, and how they are learned.

    Attributes:
        seeds: networks, each with images of its own.
        network: "mlp", "lenet" or "resnet".
        data: the name of an image set.
        train: training images.
        test: test images; the kernel is taken on both.
        indices: of the eigenfunctions, from 0; the first is nearly constant.
        epochs: of gradient descent with a rate that falls linearly to 0.
        batch: images an update.
        rate: the learning rate at the start.
        optimiser: "sgd", which has momentum 0.9, or "adam".
        together: whether all tasks are learned at once, which is slower for convolutions.
    """

    seeds: int = 3
    network: str = "mlp"
    data: str = "mnist"
    train: int = 1000
    test: int = 500
    indices: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 400)
    epochs: int = 60
    batch: int = 32
    rate: float = 0.05
    optimiser: str = "sgd"
    together: bool = True


class EigenfunctionTasks(Study):
    """Ortiz-Jimenez et al. 2021, section 3.1, for one kind of network and one optimiser.

    Args:
        name: as of a study.
        kind: of network and optimiser, in a few words.
        figures: of the document.
        sizes: as of a study.
    """

    def __init__(self, name: str, kind: str, figures: str, sizes: Mapping[str, Settings]) -> None:
        self.name = name
        self.title = f"Eigenfunctions of the tangent kernel as tasks, for {kind}"
        self.source = f"Ortiz-Jimenez et al. 2021, section 3.1, figures {figures}"
        self.about = (
            "The sign of an eigenfunction of the tangent kernel at initialisation is a binary task "
            f"on real images. {kind[0].upper()}{kind[1:]} and its linearisation learn it from the "
            "same start, with the same optimiser and the same order of the data, for "
            "eigenfunctions from the second on. The document has the whole of CIFAR-10, or of "
            "MNIST, where the curves of a LeNet and of its linearisation cross around index 500."
        )
        self.claims = (
            *_falling("network"),
            *_falling("linearized"),
            Claim(
                "linearized-wins",
                "The linearisation is better at these tasks than the network.",
                "difference of test accuracy (linearisation minus network), mean over tasks",
                0.0,
                above=True,
            ),
        )
        self.sizes = sizes

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        runs = 1 if settings.together else len(settings.indices)
        return len(NAMES) * runs * settings.epochs

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        count = max(settings.indices) + 1
        start = posed(
            settings.network, settings.data, settings.train, settings.test, count, seed=unit
        )
        modules = {"network": start.model, "linearized": linearize(start.model)}
        return [
            {
                "seed": unit,
                "indices": list(settings.indices),
                "majority": rounded(start.leading.majority[list(settings.indices)]),
                **{
                    regime: _learned(settings, modules[regime], start, unit, advance)
                    for regime in NAMES
                },
            }
        ]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        network, linear = (np.array(result[regime]["test"]) for regime in NAMES)
        found: dict[str, float | None] = {"linearized-wins": float((linear - network).mean())}
        for regime in NAMES:
            measured = result[regime]
            never = [math.inf if one is None else one for one in measured["updates"]]
            found |= {
                f"{regime}-falls": rank_correlation(result["indices"], measured["test"]),
                f"{regime}-slows": rank_correlation(result["indices"], never),
                f"{regime}-travels": rank_correlation(result["indices"], measured["distance"]),
                f"{regime}-turns": rank_correlation(result["indices"], measured["cosine"]),
            }
        return found

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        indices, axis = results[0]["indices"], "index of the eigenfunction"
        majority = [result["majority"] for result in results]
        titles = {
            "distance": "Distance",
            "cosine": "Cosine distance",
            "updates": f"Updates to a training loss of {FITTED}",
        }
        return [
            Figure(
                "accuracy",
                "Accuracy by eigenfunction",
                "Means over seeds, with their spread; the dotted line is what a constant scores on "
                "the sign of each eigenfunction.",
                (
                    curves_panel(
                        "Test accuracy", indices, both(results, "test"), axis, "log", majority
                    ),
                ),
            ),
            Figure(
                "training",
                "Training by eigenfunction",
                "Means over seeds, with their spread: how far the parameters are from their start "
                "after training, and how many updates it takes to fit, of the seeds that do.",
                tuple(
                    curves_panel(title, indices, both(results, quantity), axis, "log")
                    for quantity, title in titles.items()
                ),
            ),
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        document = {
            "network": "falls with the index (figure 2, no numbers)",
            "linearized": "falls too, and is above the network's (figure 2, no numbers)",
        }
        indices = results[0]["indices"]
        rows = []
        for regime, name in NAMES.items():
            means = np.array([result[regime]["test"] for result in results]).mean(0)
            for place in (0, len(indices) // 2, len(indices) - 1):
                quantity = f"test accuracy at eigenfunction {indices[place]}, {name}"
                rows.append(Row(quantity, f"{means[place]:.1%}", document[regime]))
        for regime, name in NAMES.items():
            fitted = [one is not None for result in results for one in result[regime]["updates"]]
            quantity = f"tasks fitted to a training loss of {FITTED}, {name}"
            rows.append(Row(quantity, f"{sum(fitted)} of {len(fitted)}", "not printed"))
        return rows


def _falling(regime: str) -> tuple[Claim, ...]:
    """That later eigenfunctions are more difficult for a regime, in four ways."""
    name, correlation = NAMES[regime], "rank correlation of index and"
    return (
        Claim(
            f"{regime}-falls",
            f"The accuracy of the {name} falls with the index of the eigenfunction.",
            f"{correlation} test accuracy",
            -0.8,
            above=False,
        ),
        Claim(
            f"{regime}-slows",
            f"The {name} takes longer to fit later eigenfunctions.",
            f"{correlation} updates to a training loss of {FITTED}; those not fitted come last",
            0.8,
            above=True,
        ),
        Claim(
            f"{regime}-travels",
            f"The parameters of the {name} travel further for later eigenfunctions.",
            f"{correlation} distance",
            0.8,
            above=True,
        ),
        Claim(
            f"{regime}-turns",
            "Their direction, seen from the origin, changes more.",
            f"{correlation} cosine distance",
            0.8,
            above=True,
        ),
    )


def _learned(
    settings: Settings,
    module: nn.Module,
    start: Posed,
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, list[float | None]]:
    """What learning each task by itself comes to in the end."""
    descent = Descent(settings.epochs, settings.batch, settings.rate, optimiser=settings.optimiser)
    labels = start.labels(settings.indices)
    if settings.together:
        runs = [
            learned_together(module, start.images, labels, settings.train, descent, seed, advance)
        ]
    else:
        runs = [
            learned(module, start.images, one, settings.train, descent, seed, advance)
            for one in labels
        ]
    return {
        **{
            name: rounded(torch.cat([getattr(run, name)[:, -1] for run in runs]))
            for name in ("train", "test", "distance", "cosine")
        },
        "updates": [one for run in runs for one in run.reached(FITTED)],
    }


FULL = Settings(seeds=10, data="cifar10", train=8000, test=2000, epochs=100, batch=128)
PAPER = replace(
    FULL, seeds=1, train=50_000, test=10_000,
    indices=(1, 5, 10, 50, 100, 200, 300, 400, 500, 750, 999),
)  # fmt: skip
ADAM: Any = {"optimiser": "adam", "rate": 0.001}
ALONE: Any = {"together": False}
QUICK_ALONE = Settings(
    train=400, test=200, indices=(1, 5, 20, 60, 150), epochs=26, together=False
)  # fmt: skip

register(
    EigenfunctionTasks(
        "eigenfunctions",
        "a perceptron",
        "2, 11 and 12",
        {"quick": Settings(), "full": FULL, "paper": PAPER},
    )
)
register(
    EigenfunctionTasks(
        "eigenfunctions-adam",
        "a perceptron that Adam trains",
        "10",
        {
            "quick": Settings(**ADAM),
            "full": replace(FULL, **ADAM),
            "paper": replace(PAPER, **ADAM),
        },
    )
)
register(
    EigenfunctionTasks(
        "eigenfunctions-lenet",
        "a LeNet",
        "2, 11 and 13",
        {
            "quick": replace(QUICK_ALONE, network="lenet"),
            "full": replace(FULL, **ALONE, network="lenet", seeds=5, train=3000, test=1000),
            "paper": replace(PAPER, **ALONE, network="lenet"),
        },
    )
)
register(
    EigenfunctionTasks(
        "eigenfunctions-resnet",
        "a small residual network",
        "2 and 3",
        {
            "quick": replace(QUICK_ALONE, network="resnet", data="digits"),
            "full": replace(FULL, **ALONE, network="resnet", seeds=3, train=3000, test=1000),
            "paper": replace(PAPER, **ALONE, network="resnet"),
        },
    )
)
