"""Images, or a channel that says the label too: which of the two does a network use?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pullback.anisotropy import two_features
from pullback.data.tasks import two_halves
from pullback.report.figures import style
from pullback.report.figures.style import Figure
from pullback.studies.anisotropy.images import (
    Labelled,
    Learning,
    correct,
    learned,
)
from pullback.studies.anisotropy.preferences import found_directions
from pullback.studies.claims import Claim
from pullback.studies.parts import Curve, curves_panel, drawn
from pullback.studies.study import Result, Row, Study, register

PERCEPTRON = "perceptron"
ALONE = {"images": "images alone", "channel": "channel alone"}


@dataclass(frozen=True)
class Settings(Learning):
    """As `Learning`, and the channel.

    Attributes:
        places: of the directions that tell the samples of the channel apart, from 0.
        epsilon: see `separable`.
        sigma: see there.
    """

    places: tuple[int, ...] = (0, 10, 50, 180)
    epsilon: float = 1.0
    sigma: float = 1.0


class Underspecification(Study):
    """Ortiz-Jimenez 2023, figure 3.13."""

    name = "underspecification"
    title = "Which of two features a network uses, by the direction of one of them"
    source = "Ortiz-Jimenez 2023, section 3.4.3 and figure 3.13"
    about = (
        "Images of two classes get one more channel, whose samples are linearly separable along "
        "one direction and have the same labels. After training, one of the two is taken away: "
        "what is still told right shows which one the network uses. The directions are those of "
        "the convolutional network, by finite differences. The document has the whole of CIFAR-10."
    )
    claims = (
        Claim(
            "early-channel",
            "With an early direction the convolutional network uses the channel.",
            "accuracy at the first place, channel alone minus images alone",
            0.0,
            above=True,
        ),
        Claim(
            "late-images",
            "With a late direction it uses the images.",
            "accuracy at the last place, images alone minus channel alone",
            0.0,
            above=True,
        ),
        Claim(
            "never-both",
            "It never uses both.",
            "the lower of the two accuracies, where it is highest over places",
            0.6,
            above=False,
        ),
        Claim(
            "perceptron-channel",
            "A perceptron always uses the channel.",
            "accuracy with the channel alone, its lowest over places",
            0.9,
            above=True,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            train=20_000, test=10_000, networks=2000, epochs=30, batch=128,
            places=(0, 2, 5, 10, 20, 50, 100, 200, 400, 700, 1000),
        ),
        "paper": Settings(
            train=50_000, test=10_000, network="resnet18", networks=10_000, epochs=50, batch=128,
            rate=0.21, places=(0, 2, 5, 10, 20, 50, 100, 200, 400, 700, 1000),
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        networks = {settings.network, PERCEPTRON}
        return 1 + len(networks) * len(settings.places) * settings.epochs

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        train, test = _halves(settings, "train", unit), _halves(settings, "test", unit)
        side = train[0].shape[-1]
        basis = found_directions(settings, side, unit).vectors.float()
        advance(1)
        networks = tuple(dict.fromkeys((settings.network, PERCEPTRON)))
        found: Result = {
            "seed": unit,
            "places": list(settings.places),
            "networks": list(networks),
            **{network: {name: [] for name in ALONE} for network in networks},
        }
        for place in settings.places:
            direction = basis[place].view(side, side)
            samples = two_features(train, test, direction, settings.epsilon, settings.sigma, unit)
            for network in networks:
                module = learned(settings, samples.train, 1, unit, advance, network)
                alone = (samples.images_alone, samples.channel_alone)
                for name, pair in zip(ALONE, alone, strict=True):
                    found[network][name].append(correct(module, *pair))
        return [found]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        network, perceptron = (result[result["networks"][place]] for place in (0, -1))
        images, channel = network["images"], network["channel"]
        return {
            "early-channel": channel[0] - images[0],
            "late-images": images[-1] - channel[-1],
            "never-both": max(map(min, images, channel)),
            "perceptron-channel": min(perceptron["channel"]),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        looks = ((style.AFTER, "o-"), (style.TEST, "s--"))
        return [
            Figure(
                "accuracy",
                "What is told right when one of the two is taken away",
                "Means over seeds, with their spread; a half is right by chance.",
                tuple(
                    curves_panel(
                        f"Accuracy, {network}",
                        results[0]["places"],
                        [
                            Curve(words, [one[network][name] for one in results], *look)
                            for (name, words), look in zip(ALONE.items(), looks, strict=True)
                        ],
                        "place of the direction",
                        "symlog",
                    )
                    for network in results[0]["networks"]
                ),
            )
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        rows = []
        for network in results[0]["networks"]:
            for place, number in enumerate(results[0]["places"]):
                images, channel = (
                    np.mean([one[network][name][place] for one in results]) for name in ALONE
                )
                rows.append(
                    Row(
                        f"images alone and channel alone, {network}, place {number}",
                        f"{images:.1%}, {channel:.1%}",
                        "one of the two, never both (figure 3.13, no numbers)",
                    )
                )
        return rows


def _halves(settings: Settings, split: str, seed: int) -> Labelled:
    """Standardised images, and which half of the classes they are of."""
    images = drawn(
        settings.data, split, settings.train if split == "train" else settings.test, seed
    )
    return images.inputs, two_halves(images.labels, len(images.classes))


register(Underspecification())
