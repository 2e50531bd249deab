"""Is the kernel of a trained network better than the one that it started with?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor, nn

from pullback.linear.model import linearize
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import rounded
from pullback.studies.claims import Claim
from pullback.studies.linearized.learning import LOOKS, Learning, learned, posed
from pullback.studies.parts import Curve, Descent, curves_panel, logistic, rank_correlation, trained
from pullback.studies.study import Result, Row, Study, register

FITTED = 0.1  # nats of training loss, which fits of all kernels get to
COMPARABLE = 0.05  # difference of test accuracy


@dataclass(frozen=True)
class Settings:
    """Which task, and how it is learned, by the network and by its linearisations.

    Attributes:
        seeds: networks, each with images of its own.
        network: "mlp", "lenet" or "resnet".
        data: the name of an image set.
        train: training images.
        test: test images.
        index: of the eigenfunction whose sign is the task, from 0.
        moments: epochs of the network's training after which its kernel is tried, from 0 on; the
            end always is.
        epochs: of gradient descent with momentum 0.9 and a rate that falls linearly to 0, of all.
        batch: images an update.
        rate: the learning rate at the start.
    """

    seeds: int = 5
    network: str = "mlp"
    data: str = "mnist"
    train: int = 1000
    test: int = 500
    index: int = 100
    moments: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    epochs: int = 40
    batch: int = 32
    rate: float = 0.05


class PretrainedKernel(Study):
    """Ortiz-Jimenez et al. 2021, figure 8; Ortiz-Jimenez 2023, figures 4.11 and 4.12."""

    name = "pretrained-kernel"
    title = "Linear models with the kernel of a network that was trained on the task"
    source = (
        "Ortiz-Jimenez et al. 2021, section 4.3 and figure 8; Ortiz-Jimenez 2023, figures 4.11 and "
        "4.12"
    )
    about = (
        "A network learns the sign of a late eigenfunction of its tangent kernel at "
        "initialisation. Linear models learn the same from zero, each with the tangent kernel that "
        "the network had after so many epochs, in the same order of the data. The document has a "
        "ResNet-18, 60,000 images of CIFAR-10 and eigenfunction 400."
    )
    claims = (
        Claim(
            "fits-faster",
            "The kernel of the trained network fits the task faster than the initial one.",
            "decimal logarithm of updates with the initial over those with the trained kernel, to "
            f"a training loss of {FITTED}",
            0.0,
            above=True,
        ),
        Claim(
            "generalises-worse",
            "Its test accuracy is lower.",
            "difference of test accuracy (initial minus trained kernel)",
            0.0,
            above=True,
        ),
        Claim(
            "as-the-network",
            "It is comparable to that of the network.",
            "absolute difference of test accuracy (trained kernel against network)",
            COMPARABLE,
            above=False,
        ),
        Claim(
            "falls-early",
            "The accuracy falls in the first epochs of the network's training.",
            "difference of test accuracy (initial kernel minus the one measured next)",
            0.0,
            above=True,
        ),
        Claim(
            "falls",
            "The longer the network has been trained, the lower the accuracy with its kernel.",
            "rank correlation of epochs and test accuracy",
            0.0,
            above=False,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            network="lenet", data="cifar10", train=3000, test=1000, index=200,
            moments=(0, 1, 2, 4, 8, 16, 32), epochs=200,
        ),
        "paper": Settings(
            seeds=1, network="resnet", data="cifar10", train=50_000, test=10_000, index=400,
            moments=(0, 1, 2, 5, 10, 20, 50), epochs=100, batch=128,
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return (2 + len(_moments(settings))) * settings.epochs

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        images = (settings.data, settings.train, settings.test)
        start = posed(settings.network, *images, settings.index + 1, seed=unit)
        (labels,) = start.labels([settings.index])

        def fitted(module: nn.Module) -> dict[str, list[float]]:
            learning = learned(
                module, start.images, labels, settings.train, _descent(settings), unit, advance
            )
            return _curves(learning)

        x, y = start.images[: settings.train], labels[: settings.train]
        kernels = _snapshots(settings, start.model, x, y, unit, advance)
        return [
            {
                "seed": unit,
                "majority": float(start.leading.majority[settings.index]),
                "epochs": list(_moments(settings)),
                "per epoch": _descent(settings).per_epoch(settings.train),
                "network": fitted(start.model),
                "kernels": [fitted(linearize(start.model, at=one, bias=False)) for one in kernels],
            }
        ]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        before, after = (_updates(result, result["kernels"][place]) for place in (0, -1))
        tests = [one["test"][-1] for one in result["kernels"]]
        return {
            "fits-faster": None if before is None or not after else math.log10(before / after),
            "generalises-worse": tests[0] - tests[-1],
            "as-the-network": abs(tests[-1] - result["network"]["test"][-1]),
            "falls-early": tests[0] - tests[1],
            "falls": rank_correlation(result["epochs"], tests),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        last = results[0]["epochs"][-1]
        ends = [[one["test"][-1] for one in result["kernels"]] for result in results]
        return [
            Figure(
                "learning",
                "The network, and linear models with its kernels",
                "Means over seeds, with their spread. The linear models have the network's tangent "
                f"kernel before training and after {last} epochs. The dotted line is what a "
                "constant scores.",
                (
                    _panel(results, "loss", "Training loss (nats)"),
                    _panel(
                        results,
                        "test",
                        "Test accuracy",
                        constant=[[result["majority"]] for result in results],
                    ),
                ),
            ),
            Figure(
                "kernels",
                "Kernels along the network's training",
                "Means over seeds, with their spread: the test accuracy of the linear model with "
                "the kernel that the network had after so many epochs. The dotted line is the "
                "network's own.",
                (
                    curves_panel(
                        "Test accuracy",
                        results[0]["epochs"],
                        [Curve("linear model", ends)],
                        "epochs of the network",
                        "symlog",
                        constant=[[result["network"]["test"][-1]] for result in results],
                    ),
                ),
            ),
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        runs: list[tuple[str, str | int, str, str]] = [
            ("network", "network", "fits fast (figure 8)", "comparable to the trained kernel's"),
            ("initial kernel", 0, "fits slowly", "the highest"),
            ("trained kernel", -1, "fits fast", "much lower than the initial kernel's"),
        ]
        rows = []
        for name, which, speed, quality in runs:
            known = [
                updates
                for result in results
                if (updates := _updates(result, _one(result, which))) is not None
            ]
            middle = f"{np.median(known):,.0f}" if known else "never"
            quantity = f"updates to a training loss of {FITTED}, {name}, median"
            rows.append(Row(quantity, middle, speed))
            accuracy = np.mean([_one(result, which)["test"][-1] for result in results])
            rows.append(Row(f"test accuracy, {name}", f"{accuracy:.1%}", quality))
        return rows


def _descent(settings: Settings) -> Descent:
    return Descent(settings.epochs, settings.batch, settings.rate)


def _moments(settings: Settings) -> tuple[int, ...]:
    return (*(epoch for epoch in settings.moments if epoch < settings.epochs), settings.epochs)


def _snapshots(
    settings: Settings,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    seed: int,
    advance: Callable[[int], None],
) -> list[nn.Module]:
    """The network at each moment of its training."""
    own, found, descent = copy.deepcopy(model), [], _descent(settings)
    for count in trained(own, x, y, logistic, descent, seed):
        epoch, between = divmod(count, descent.per_epoch(len(x)))
        if not between and epoch in _moments(settings):
            found.append(copy.deepcopy(own))
        if count and not between:
            advance(1)
    return found


def _curves(learning: Learning) -> dict[str, list[float]]:
    return {"loss": rounded(learning.loss[0]), "test": rounded(learning.test[0])}


def _one(result: Result, which: str | int) -> Result:
    """What was measured of the network, or of a kernel by its place."""
    found: Result = result["network"] if which == "network" else result["kernels"][which]
    return found


def _panel(
    results: Sequence[Result], quantity: str, title: str, constant: ArrayLike | None = None
) -> Panel:
    looks: dict[str | int, tuple[str, str, str]] = {
        "network": ("network", *LOOKS["network"]),
        0: ("initial kernel", *LOOKS["linearized"]),
        -1: ("trained kernel", style.BEFORE, "^-"),
    }
    curves = [
        Curve(name, [_one(result, which)[quantity] for result in results], colour, line)
        for which, (name, colour, line) in looks.items()
    ]
    along = list(range(len(results[0]["network"][quantity])))
    return curves_panel(title, along, curves, "epochs", constant=constant)


def _updates(result: Result, run: Result) -> int | None:
    """The updates after which the training loss is low first; None if it never is."""
    epochs = (epoch for epoch, loss in enumerate(run["loss"]) if loss <= FITTED)
    first = next(epochs, None)
    return None if first is None else first * int(result["per epoch"])


register(PretrainedKernel())
