"""Do carriers of the labels hurt more, the earlier the direction in which they are put?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pullback.anisotropy import carriers
from pullback.report.figures import style
from pullback.report.figures.style import Figure
from pullback.studies.anisotropy.images import Learning, accuracies, intensities
from pullback.studies.anisotropy.preferences import found_directions
from pullback.studies.claims import Claim
from pullback.studies.parts import Curve, curves_panel, rank_correlation
from pullback.studies.study import Result, Row, Study, register


@dataclass(frozen=True)
class Settings(Learning):
    """As `Learning`, and what is put where.

    Attributes:
        places: of the directions where the carriers begin, from 0.
        epsilon: how much of a carrier, intensities being from 0 to 1.
    """

    places: tuple[int, ...] = (0, 5, 20, 80, 180)
    epsilon: float = 0.05


class Poisoning(Study):
    """Ortiz-Jimenez et al. 2020, figure 7."""

    name = "poisoning"
    title = "Carriers of the labels in early and late directions of a network"
    source = "Ortiz-Jimenez et al. 2020, section 4.2 and figure 7"
    about = (
        "Training images get a little of a carrier that says their class, in one direction after "
        "another in the order in which the network prefers them; test images stay clean. The "
        "document has a ResNet-18 and the whole of CIFAR-10. The directions are those of finite "
        "differences with a large step, as published; there are as many as random networks, so "
        "that later places are not tried at the size quick."
    )
    claims = (
        Claim(
            "early-hurts",
            "A carrier in the first direction hurts clean accuracy more than one in a late one.",
            "clean test accuracy, last place minus first",
            0.0,
            above=True,
        ),
        Claim(
            "first-very-low",
            "With a carrier in the first direction, clean accuracy is far below that without one.",
            "clean test accuracy, without carriers minus with those at the first place",
            0.05,
            above=True,
        ),
        Claim(
            "rises",
            "The later the carrier, the higher the clean accuracy.",
            "rank correlation of place and clean test accuracy",
            0.0,
            above=True,
        ),
        Claim(
            "late-harmless",
            "Carriers in late directions do not keep the network from generalising.",
            "clean test accuracy at the last place minus that without carriers",
            -0.02,
            above=True,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=5, train=20_000, test=10_000, networks=2000, epochs=30, batch=128,
            places=(0, 2, 5, 10, 20, 50, 100, 200, 400, 700, 1000),
        ),
        "paper": Settings(
            seeds=1, train=50_000, test=10_000, network="resnet18", networks=10_000, epochs=50,
            batch=128, rate=0.21, places=(0, 1, 2, 5, 10, 20, 50, 100, 200, 400, 600, 800, 1000),
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return 1 + (1 + len(settings.places)) * settings.epochs

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        train, test = intensities(settings, unit)
        classes, channels = len(train.classes), train.inputs.shape[1]
        basis = found_directions(settings, train.inputs.shape[-1], unit).vectors.float()
        advance(1)
        clean = (test.inputs, test.labels)
        found: dict[str, list[float]] = {"train": [], "test": []}
        for place in (None, *settings.places):
            images = train.inputs
            if place is not None:
                put = carriers(basis, classes, place, channels)
                images = put.poison(images, train.labels, settings.epsilon)
            pair = accuracies(settings, (images, train.labels), clean, classes, unit, advance)
            for name, value in zip(found, pair, strict=True):
                found[name].append(value)
        return [{"seed": unit, "places": list(settings.places), **found}]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        without, *tests = result["test"]
        return {
            "early-hurts": tests[-1] - tests[0],
            "first-very-low": without - tests[0],
            "rises": rank_correlation(result["places"], tests),
            "late-harmless": tests[-1] - without,
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        curves = [
            Curve("clean test images", [one["test"][1:] for one in results]),
            Curve(
                "poisoned training images", [one["train"][1:] for one in results], style.TEST, "s--"
            ),
        ]
        return [
            Figure(
                "accuracy",
                "Accuracy by the place of the carriers",
                "Means over seeds, with their spread. The dotted line is the accuracy on test "
                "images after training without carriers.",
                (
                    curves_panel(
                        "Accuracy", results[0]["places"], curves, "place of the first carrier",
                        "symlog", [[one["test"][0]] for one in results],
                    ),
                ),
            )
        ]  # fmt: skip

    def table(self, results: Sequence[Result]) -> list[Row]:
        means = np.mean([result["test"] for result in results], 0)
        documents = {0: "the highest", 1: "very low (figure 7, no numbers)"}
        names = ["without carriers", *(f"carriers from {one} on" for one in results[0]["places"])]
        return [
            Row(f"clean test accuracy, {name}", f"{mean:.1%}", documents.get(place, "rises"))
            for place, (name, mean) in enumerate(zip(names, means, strict=True))
        ]


register(Poisoning())
