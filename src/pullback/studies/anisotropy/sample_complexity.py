"""How many samples does a network need along each of its directions?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pullback.anisotropy import Recipe, SampleComplexity
from pullback.report.figures import style
from pullback.report.figures.style import Figure
from pullback.report.numbers import rounded
from pullback.studies.anisotropy.preferences import Sweeping, found_directions, swept
from pullback.studies.claims import Claim
from pullback.studies.parts import Curve, curves_panel, rank_correlation
from pullback.studies.study import Result, Row, Study, register


@dataclass(frozen=True)
class Settings(Sweeping):
    """As `Sweeping`, but for the number of samples in the recipe.

    Attributes:
        places: of the network's own directions, from 0, that are learned.
        numbers: of samples to train on, rising.
        accuracy: how good is good enough.
    """

    width: int | float = 1.0
    recipe: Recipe = Recipe(tests=1000, sigma=0.5, epochs=10, batch=64, clip=0.5)
    places: tuple[int, ...] = (0, 20, 80, 180)
    numbers: tuple[int, ...] = (250, 1000, 4000)
    accuracy: float = 0.9


class SamplesNeeded(Study):
    """Ortiz-Jimenez et al. 2020, figure 22."""

    name = "sample-complexity"
    title = "How many samples a network needs along each of its directions"
    source = "Ortiz-Jimenez et al. 2020, appendix D.3.2 and figure 22"
    about = (
        "Samples of two classes that differ along one direction alone, more and more of them. The "
        "directions are the network's own, found from random weights. The document has two "
        "networks, one of them ResNet-18, and a noise of 3."
    )
    claims = (
        Claim(
            "later-more",
            "Later directions need more samples.",
            "rank correlation of place and the samples that are needed",
            0.7,
            above=True,
        ),
        Claim(
            "enough-samples",
            "With enough samples every direction is learned (in the document by ResNet-18).",
            "lowest test accuracy over places with most samples",
            0.95,
            above=True,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=5, networks=2000, recipe=Recipe(clip=0.5),
            places=(0, 4, 22, 100, 400, 1000), numbers=(300, 1000, 3000, 10_000, 30_000),
        ),
        "paper": Settings(
            network="resnet18", networks=10_000, recipe=Recipe(clip=0.5),
            places=(0, 4, 22, 100, 400, 1000), numbers=(300, 1000, 3000, 10_000, 30_000, 100_000),
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return 1 + len(settings.numbers)

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        own = found_directions(settings, settings.side, unit)
        advance(1)
        sweeps = []
        for count in settings.numbers:
            recipe = replace(settings.recipe, samples=count)
            sweeps.append(swept(settings, own.vectors, settings.places, unit, recipe=recipe))
            advance(1)
        found = SampleComplexity(settings.numbers, tuple(sweeps))
        # What is more than there were has a rank, and no number.
        most = 2.0 * settings.numbers[-1]
        return [
            {
                "seed": unit,
                "places": list(settings.places),
                "numbers": list(settings.numbers),
                "accuracy": settings.accuracy,
                "test": rounded(found.accuracies),
                "needed": rounded(found.needed(settings.accuracy).clamp(max=most)),
            }
        ]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        return {
            "later-more": rank_correlation(result["places"], result["needed"]),
            "enough-samples": min(one[-1] for one in result["test"]),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        places = results[0]["places"]
        curves = [
            Curve(f"place {place}", [one["test"][row] for one in results], colour)
            for row, (place, colour) in enumerate(
                zip(places, style.shades(len(places)), strict=True)
            )
        ]
        return [
            Figure(
                "accuracy",
                "Test accuracy by the number of samples",
                "Means over seeds, with their spread; a half is right by chance.",
                (
                    curves_panel(
                        "Test accuracy", results[0]["numbers"], curves, "training samples", "log"
                    ),
                ),
            )
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        rows = []
        for row, place in enumerate(results[0]["places"]):
            test = np.mean([one["test"][row] for one in results], 0)
            rows.append(
                Row(
                    f"accuracy with {', '.join(map(str, results[0]['numbers']))} samples, place "
                    f"{place}",
                    ", ".join(f"{one:.1%}" for one in test),
                    "more are needed, the later (figure 22, no numbers)",
                )
            )
        return rows


register(SamplesNeeded())
