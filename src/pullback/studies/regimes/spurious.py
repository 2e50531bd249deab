"""Colours that mislead: how much does each regime rely on them?"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pullback.data.tasks import attributes, coloured, groups_of, two_halves
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

PROGRESS = ("accuracy", "agrees")
AXIS = "error on training images whose colour agrees"
HASTY, NETWORK, LAZY = "0.5", "1", "100"
Digits = tuple[Float[Tensor, "n 3 h w"], Int[Tensor, " n"], Int[Tensor, " n"]]
"""Images, their labels 0 and 1, and their colours 0 and 1."""


@dataclass(frozen=True)
class Settings(Regimes):
    """As `Regimes`, and how colours are given.

    Attributes:
        data: the name of a set of grey images, of an even number of classes.
        agree: share of the training images whose colour is that of their label.
        tint: from 0, grey, to 1, one colour alone. In full colour a label is read off at once and
            nothing is left to compare; the documents' attributes are as hard to see as the label.
        test: test images to choose from.
        each: test images of each pair of a label and a colour.
    """

    seeds: int = 5
    alphas: tuple[int | float, ...] = (0.5, 1, 100)
    epochs: tuple[int, ...] = (25, 25, 60)
    rates: tuple[float, ...] = (0.005, 0.01, 0.05)
    agree: float = 0.9
    tint: float = 0.3
    test: int = 1000
    each: int = 180


class Spurious(Study):
    """George 2023, figure 5.3."""

    name = "spurious"
    title = "How much a network relies on colours that mislead, from lazy to hasty"
    source = "George 2023, section 5.3.4, figure 5.3"
    about = (
        "Digits are told by halves, the first five from the others. Most training images are "
        "tinted in the colour of their label, some in the other. A network learns them at three "
        "alpha from one start; accuracies on images whose colour disagrees, and on test images "
        "with colours and labels in balance, are compared where the accuracies on training images "
        "whose colour agrees are equal, at even steps of the logarithm of the error down to 1 %. "
        "The document has CelebA and Waterbirds, and a ResNet-18."
    )
    claims = (
        Claim(
            "lazy-relies-less",
            "At equal accuracy where the colour agrees, the lazy network (alpha = 100) is better "
            "where it does not than the network (alpha = 1).",
            "training accuracy where it does not, lazy minus network, mean over thresholds",
            0.0,
            above=True,
        ),
        Claim(
            "hasty-relies-more",
            "The hasty network (alpha = 0.5) is worse there than the network.",
            "training accuracy where it does not, hasty minus network, mean over thresholds",
            0.0,
            above=False,
        ),
        Claim(
            "lazy-generalises",
            "Until the images whose colour agrees are learned, the lazy network is better than the "
            "network on balanced test images.",
            "test accuracy, lazy minus network, mean over thresholds",
            0.0,
            above=True,
        ),
        Claim(
            "lazy-relies-less-on-test",
            "It is better on test images whose colour does not agree.",
            "test accuracy where it does not, lazy minus network, mean over thresholds",
            0.0,
            above=True,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            network="lenet", train=5000, test=5000, each=900, epochs=(50, 50, 500),
            rates=(0.005, 0.01, 0.02), batch=100, moments=100, probed=100,
        ),
        "paper": Settings(
            seeds=3, network="resnet", train=20_000, epochs=(50, 50, 500),
            rates=(0.01, 0.01, 0.01), batch=100, moments=200, probed=100,
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return sum(settings.epochs)

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        train = digits(settings, "train", unit)
        test = digits(settings, "test", unit)
        pairs = groups_of(test[1], test[2], settings.each, unit)
        balanced = torch.cat(list(pairs.values()))
        held_out: Digits = (test[0][balanced], test[1][balanced], test[2][balanced])
        groups = {
            **_by_agreement(train, ""),
            **_by_agreement(held_out, "test "),
            "test": held_out[:2],
        }
        start = started(partial(NETWORKS[settings.network], train[0].shape[1:], 2), unit)
        runs = followed(settings, start, train[:2], groups, unit, advance)
        return [{"seed": unit, "runs": runs}]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        watched = [("accuracy", name) for name in ("against", "test", "test against")]
        _, values = equally_far([result], PROGRESS, watched)
        against, test, against_in_test = (
            {name: float(one[..., place].mean()) for name, one in values.items()}
            for place in range(len(watched))
        )
        return {
            "lazy-relies-less": against[LAZY] - against[NETWORK],
            "hasty-relies-more": against[HASTY] - against[NETWORK],
            "lazy-generalises": test[LAZY] - test[NETWORK],
            "lazy-relies-less-on-test": against_in_test[LAZY] - against_in_test[NETWORK],
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        panel = partial(watched_panel, results, PROGRESS, AXIS)
        return [
            Figure(
                "accuracy",
                "Images whose colour misleads, at equal progress on the others",
                "Means over seeds, with their spread: accuracies on training images whose colour "
                "disagrees with their label, on such test images, and on test images with colours "
                "and labels in balance.",
                (
                    panel(("accuracy", "against"), "Training accuracy, colour disagrees"),
                    panel(("accuracy", "test against"), "Test accuracy, colour disagrees"),
                    panel(("accuracy", "test"), "Test accuracy, balanced"),
                ),
            ),
            linearity_figure(results, PROGRESS, AXIS),
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        rows = []
        for regime in results[0]["runs"]:
            curves = [result["runs"][regime]["accuracy"]["test"] for result in results]
            best = statistics.fmean(max(curve) for curve in curves)
            last = statistics.fmean(curve[-1] for curve in curves)
            rows += [
                Row(f"best balanced test accuracy, alpha = {regime}", f"{best:.1%}", "not printed"),
                Row(
                    f"balanced test accuracy at the end, alpha = {regime}",
                    f"{last:.1%}",
                    "close to each other (figure 5.3, no numbers)",
                ),
            ]
        return rows


def digits(settings: Settings, split: str, seed: int) -> Digits:
    """Tinted images; in the test split colours and labels are independent."""
    count = settings.train if split == "train" else settings.test
    agree = settings.agree if split == "train" else 0.5
    images = drawn(settings.data, split, count, seed)
    labels = (two_halves(images.labels, len(images.classes)) < 0).long()
    colours = attributes(labels, {0: 1 - agree, 1: agree}, seed)
    return (
        torch.lerp(
            images.inputs.expand(-1, 3, -1, -1), coloured(images.inputs, colours), settings.tint
        ),
        labels,
        colours,
    )


def _by_agreement(some: Digits, name: str) -> dict[str, tuple[Tensor, Tensor]]:
    x, labels, colours = some
    agrees = labels == colours
    return {
        f"{name}agrees": (x[agrees], labels[agrees]),
        f"{name}against": (x[~agrees], labels[~agrees]),
    }


register(Spurious())
