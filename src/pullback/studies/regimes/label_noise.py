"""Wrong labels: when are they memorised, by a network and by its lazy twin?"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pullback.data.tasks import noisy_labels
from pullback.report.figures.style import Figure
from pullback.studies.claims import Claim
from pullback.studies.parts import NETWORKS, drawn, started
from pullback.studies.regimes.scaled import (
    Regimes,
    equally_far,
    followed,
    linearity_figure,
    watched_panel,
)
from pullback.studies.study import Result, Row, Study, register

PROGRESS = ("loss", "clean")
AXIS = "loss of the clean samples (nats)"


@dataclass(frozen=True)
class Settings(Regimes):
    """As `Regimes`, and what is wrong and what is held out.

    With far fewer images wrong labels are memorised from the start.

    Attributes:
        wrong: share of the training labels that are replaced by another class.
        test: test images, with right labels.
    """

    seeds: int = 4
    data: str = "cifar10"
    train: int = 4000
    epochs: tuple[int, ...] = (14, 28)
    rates: tuple[float, ...] = (0.01, 0.1)
    batch: int = 125
    moments: int = 40
    wrong: float = 0.15
    test: int = 1000


class LabelNoise(Study):
    """George 2023, figure 5.2, bottom left."""

    name = "label-noise"
    title = "When wrong labels are memorised, by a network and by its lazy twin"
    source = "George 2023, sections 5.3.3 and C.3.2, figure 5.2"
    about = (
        "Some training labels are wrong. A network and its lazy twin (alpha = 100) learn all of "
        "them from one start, and the losses of the wrong labels and of test images are compared "
        "where the losses of the right ones are equal. Memorisation starts where the loss of the "
        "wrong labels is largest. The document has 40,000 images of CIFAR-10 and a ResNet-18."
    )
    claims = (
        Claim(
            "network-noise-rises",
            "While the network learns the right labels, the loss of the wrong ones rises at first.",
            "largest loss of the wrong labels minus that at the start, nats",
            0.0,
            above=True,
        ),
        Claim(
            "lazy-noise-rises",
            "So it does for its lazy twin.",
            "largest loss of the wrong labels minus that at the start, nats",
            0.0,
            above=True,
        ),
        Claim(
            "network-later",
            "Memorisation of the wrong labels starts at a lower clean loss for the network.",
            "clean loss at the largest loss of the wrong labels, network minus lazy, nats",
            0.0,
            above=False,
        ),
        Claim(
            "network-later-named",
            "So it does where it is seen by the accuracy on the wrong labels.",
            "clean loss where that accuracy is above chance again, network minus lazy, nats",
            0.0,
            above=False,
        ),
        Claim(
            "network-resists",
            "At equal clean loss the network's loss of the wrong labels is higher.",
            "their loss, network minus lazy, mean over clean losses, nats",
            0.0,
            above=True,
        ),
        Claim(
            "network-better",
            "The best test loss of the network is lower than that of its lazy twin.",
            "lowest test loss, network minus lazy, nats",
            0.0,
            above=False,
        ),
        Claim(
            "network-more-accurate",
            "The best test accuracy of the network is higher.",
            "highest test accuracy, network minus lazy",
            0.0,
            above=True,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=5, network="lenet", train=5000, test=5000, epochs=(150, 1500),
            rates=(0.01, 0.01), moments=200, probed=100,
        ),
        "paper": Settings(
            seeds=1, network="resnet", train=40_000, test=10_000, epochs=(200, 1000),
            rates=(0.01, 0.01), moments=300, probed=100,
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return sum(settings.epochs)

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        images = drawn(settings.data, "train", settings.train, unit)
        held_out = drawn(settings.data, "test", settings.test, unit)
        x, classes = images.inputs, len(images.classes)
        given = noisy_labels(images.labels, settings.wrong, classes, unit)
        groups = {
            "clean": (x[~given.noisy], given.labels[~given.noisy]),
            "noisy": (x[given.noisy], given.labels[given.noisy]),
            "test": (held_out.inputs, held_out.labels),
        }
        start = started(partial(NETWORKS[settings.network], x.shape[1:], classes), unit)
        runs = followed(settings, start, (x, given.labels), groups, unit, advance)
        return [{"seed": unit, "classes": classes, "runs": runs}]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        runs = result["runs"].values()
        network, lazy = runs
        _, losses = equally_far([result], PROGRESS, [("loss", "noisy")])
        resists, gives_in = (float(one.mean()) for one in losses.values())
        return {
            "network-noise-rises": _rise(network),
            "lazy-noise-rises": _rise(lazy),
            "network-later": _difference([memorisation_start(run) for run in runs]),
            "network-later-named": _difference(
                [first_named(run, result["classes"]) for run in runs]
            ),
            "network-resists": resists - gives_in,
            "network-better": min(network["loss"]["test"]) - min(lazy["loss"]["test"]),
            "network-more-accurate": (
                max(network["accuracy"]["test"]) - max(lazy["accuracy"]["test"])
            ),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        panel = partial(watched_panel, results, PROGRESS, AXIS)
        return [
            Figure(
                "noise",
                "Wrong labels and test images at equal progress on the right labels",
                "Means over seeds, with their spread: losses of the samples whose labels are "
                "wrong, by these labels, and of test images.",
                (
                    panel(("loss", "noisy"), "Loss of the wrong labels (nats)"),
                    panel(("loss", "test"), "Test loss (nats)"),
                    panel(("accuracy", "test"), "Test accuracy"),
                ),
            ),
            linearity_figure(results, PROGRESS, AXIS),
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        document = {"network": "1.25", "lazy": "1.5"}
        rows = []
        for regime, name in zip(results[0]["runs"], document, strict=True):
            runs = [result["runs"][regime] for result in results]
            starts = [memorisation_start(run) for run in runs]
            named = [first_named(run, results[0]["classes"]) for run in runs]
            lowest = [min(run["loss"]["test"]) for run in runs]
            highest = statistics.fmean(max(run["accuracy"]["test"]) for run in runs)
            rows += [
                Row(f"clean loss where memorisation starts, {name}", _mean(starts), document[name]),
                Row(f"the same by accuracy, {name}", _mean(named), "not printed"),
                Row(f"lowest test loss, {name}", _mean(lowest), "not printed"),
                Row(f"highest test accuracy, {name}", f"{highest:.1%}", "not printed"),
            ]
        return rows


def memorisation_start(run: Mapping[str, Any]) -> float | None:
    """The clean loss where the loss of the wrong labels is largest; None if it never turns."""
    noisy = run["loss"]["noisy"]
    turn = noisy.index(max(noisy))
    return None if turn == len(noisy) - 1 else run["loss"]["clean"][turn]


def first_named(run: Mapping[str, Any], classes: int) -> float | None:
    """The clean loss where more wrong labels are named than by chance, after fewer were.

    None if that never is.
    """
    noisy = run["accuracy"]["noisy"]
    fewest = noisy.index(min(noisy))
    for clean, accuracy in zip(run["loss"]["clean"][fewest:], noisy[fewest:], strict=True):
        if accuracy > 1 / classes:
            return clean
    return None


def _rise(run: Mapping[str, Any]) -> float:
    noisy = run["loss"]["noisy"]
    return max(noisy) - noisy[0]


def _difference(pair: Sequence[float | None]) -> float | None:
    first, second = pair
    return None if first is None or second is None else first - second


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.fmean(known):.3f}" if known else "never"


register(LabelNoise())
