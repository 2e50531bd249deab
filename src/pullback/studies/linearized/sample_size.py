"""Does the advantage of a network over its linearisation grow with the sample?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pullback.data.tasks import two_halves
from pullback.linear.model import linearize
from pullback.report.figures.style import Figure
from pullback.report.numbers import rounded
from pullback.studies.claims import Claim
from pullback.studies.linearized.learning import (
    LOOKS,
    Learning,
    begun,
    both,
    learned,
)
from pullback.studies.parts import Curve, Descent, curves_panel, drawn, rank_correlation
from pullback.studies.study import Result, Row, Study, register


@dataclass(frozen=True)
class Settings:
    """Which images, how many of them, and how they are learned.

    Attributes:
        seeds: networks, each with images of its own.
        network: "mlp", "lenet" or "resnet".
        data: the name of an image set, of an even number of classes.
        sizes: numbers of training images, of which each has those of the one before.
        test: test images.
        epochs: of gradient descent with momentum 0.9 and a rate that falls linearly to 0.
        batch: images an update.
        rate: the learning rate at the start.
    """

    seeds: int = 5
    network: str = "mlp"
    data: str = "cifar10"
    sizes: tuple[int, ...] = (200, 800, 3200)
    test: int = 2000
    epochs: int = 20
    batch: int = 32
    rate: float = 0.05


class SampleSize(Study):
    """Ortiz-Jimenez et al. 2021, figure 5; Ortiz-Jimenez 2023, figure 4.6."""

    name = "sample-size"
    title = "A network against its linearisation, by the size of the sample"
    source = "Ortiz-Jimenez et al. 2021, section 4.1 and figure 5"
    about = (
        "A network and its linearisation learn to tell the first half of the classes from the "
        "second, from samples of growing size. Each is taken after the epoch at which its test "
        "accuracy is best. The document has three networks, samples up to the whole of CIFAR-10, "
        "and 200 epochs."
    )
    claims = (
        Claim(
            "advantage-grows",
            "The larger the sample, the more the network is better than its linearisation.",
            "rank correlation of size and advantage (test accuracy, network minus linearisation)",
            0.0,
            above=True,
        ),
        Claim(
            "large-over-small",
            "Its advantage on the largest sample is greater than on the smallest.",
            "advantage at the largest minus that at the smallest",
            0.0,
            above=True,
        ),
        Claim(
            "travels",
            "The larger the sample, the further the parameters of the network travel.",
            "rank correlation of size and distance",
            0.0,
            above=True,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=5, network="lenet", data="cifar10", sizes=(500, 1000, 2000, 5000, 10_000),
            test=5000, epochs=100, batch=128,
        ),
        "paper": Settings(
            seeds=5, network="resnet", data="cifar10", sizes=(1000, 5000, 10_000, 25_000, 50_000),
            test=10_000, epochs=200, batch=128,
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return len(LOOKS) * len(settings.sizes) * settings.epochs

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        train = drawn(settings.data, "train", max(settings.sizes), unit)
        test = drawn(settings.data, "test", settings.test, unit)
        labels = [two_halves(split.labels, len(split.classes)) for split in (train, test)]
        network = begun(settings.network, train.inputs.shape[1:], unit)
        modules = {"network": network, "linearized": linearize(network)}
        descent = Descent(settings.epochs, settings.batch, settings.rate)
        found: Result = {"seed": unit, "sizes": list(settings.sizes)}
        for regime, module in modules.items():
            runs = [
                learned(
                    module,
                    torch.cat([train.inputs[:size], test.inputs]),
                    torch.cat([labels[0][:size], labels[1]]),
                    size, descent, unit, advance,
                )
                for size in settings.sizes
            ]  # fmt: skip
            found[regime] = _best(runs)
        return [found]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        advantage = _advantage(result)
        return {
            "advantage-grows": rank_correlation(result["sizes"], advantage.tolist()),
            "large-over-small": float(advantage[-1] - advantage[0]),
            "travels": rank_correlation(result["sizes"], result["network"]["distance"]),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        sizes, axis = results[0]["sizes"], "training images"
        advantage = [Curve("network minus linearisation", [_advantage(one) for one in results])]
        return [
            Figure(
                "sizes",
                "Accuracy and distance by the size of the sample",
                "Means over seeds, with their spread, after the epoch at which each test accuracy "
                "is best.",
                (
                    curves_panel("Test accuracy", sizes, both(results, "test"), axis, "log"),
                    curves_panel("Advantage of the network", sizes, advantage, axis, "log"),
                    curves_panel(
                        "Distance of the parameters from their start",
                        sizes,
                        both(results, "distance"),
                        axis,
                        "log",
                    ),
                ),
            )
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        advantages = np.mean([_advantage(result) for result in results], 0)
        distances = np.mean([result["network"]["distance"] for result in results], 0)
        rows = []
        for place, size in enumerate(results[0]["sizes"]):
            rows += [
                Row(
                    f"advantage of the network, {size:,} images",
                    f"{100 * advantages[place]:.1f} points",
                    "appears on larger samples (figure 5, no numbers)",
                ),
                Row(
                    f"distance of its parameters, {size:,} images",
                    f"{distances[place]:.3g}",
                    "grows with the sample (figure 5, no numbers)",
                ),
            ]
        return rows


def _best(runs: Sequence[Learning]) -> dict[str, list[float]]:
    """What each run has after the epoch at which its test accuracy is best first."""
    epochs = [int(run.test[0].argmax()) for run in runs]
    pairs = list(zip(runs, epochs, strict=True))
    return {
        "test": rounded(torch.stack([run.test[0, epoch] for run, epoch in pairs])),
        "distance": rounded(torch.stack([run.distance[0, epoch] for run, epoch in pairs])),
        "epoch": [float(epoch) for epoch in epochs],
    }


def _advantage(result: Result) -> NDArray[np.float64]:
    """Of the network over its linearisation, by size."""
    return np.array(result["network"]["test"]) - np.array(result["linearized"]["test"])


register(SampleSize())
