"""Which frequencies does an architecture learn, and what has pooling to do with it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pullback.anisotropy import Recipe, fourier_basis
from pullback.report.anisotropy import frequency_panel
from pullback.report.figures.style import Figure
from pullback.report.numbers import rounded
from pullback.studies.anisotropy.preferences import Sweeping, swept
from pullback.studies.claims import Claim
from pullback.studies.study import Result, Row, Study, register

KINDS = {
    "logistic": "logistic regression",
    "network": "the network",
    "no pooling": "the network without pooling",
}
"""What is trained."""


@dataclass(frozen=True)
class Settings(Sweeping):
    """As `Sweeping`, without directions of its own.

    Attributes:
        frequencies: along each axis, rising; the real Fourier vectors of all pairs are learned.
    """

    frequencies: tuple[int, ...] = (-8, -4, 0, 4, 8)
    recipe: Recipe = Recipe(samples=3000, tests=1000, sigma=1.0, epochs=7, clip=0.5)


class DirectionalBias(Study):
    """Ortiz-Jimenez et al. 2020, figures 1 and 3."""

    name = "directional-bias"
    title = "Which frequencies an architecture learns, with and without pooling"
    source = "Ortiz-Jimenez et al. 2020, section 2, figures 1 and 3"
    about = (
        "Samples of two classes that differ along one Fourier direction alone are learned by "
        "logistic regression, by a network and by the same without pooling. The document has all "
        "directions of the Fourier basis, four networks, and three times the noise on 10,000 "
        "samples."
    )
    claims = (
        Claim(
            "logistic-flat",
            "Logistic regression learns every direction.",
            "its lowest test accuracy over Fourier directions",
            0.99,
            above=True,
        ),
        Claim(
            "network-uneven",
            "What the network learns depends on the direction.",
            "range of its test accuracies over Fourier directions",
            0.1,
            above=True,
        ),
        Claim(
            "pooling-shrinks",
            "Without pooling the accuracies lie closer together.",
            "the range above, with pooling minus without",
            0.0,
            above=True,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=5, width=1.0, frequencies=tuple(range(-16, 16, 4)), recipe=Recipe(clip=0.5)
        ),
        "paper": Settings(
            network="resnet18", width=1.0, frequencies=tuple(range(-16, 16, 2)),
            recipe=Recipe(clip=0.5),
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return len(KINDS)

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        basis = fourier_basis((settings.side, settings.side))
        axis = settings.frequencies
        # A frequency and its mirror share a vector, which is learned once.
        places = sorted({basis.place((row, column)) for row in axis for column in axis})
        shown = torch.tensor(axis) + settings.side // 2
        found = {}
        for kind in KINDS:
            network = "logistic-regression" if kind == "logistic" else None
            pooling = kind != "no pooling"
            learned = swept(settings, basis.vectors, places, unit, network, pooling)
            found[kind] = rounded(learned.map(basis)[shown][:, shown])
            advance(1)
        return [{"seed": unit, "frequencies": list(axis), **found}]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        ranges = {kind: float(np.ptp(result[kind])) for kind in KINDS}
        return {
            "logistic-flat": float(np.min(result["logistic"])),
            "network-uneven": ranges["network"],
            "pooling-shrinks": ranges["network"] - ranges["no pooling"],
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        axis = results[0]["frequencies"]
        return [
            Figure(
                "map",
                "Test accuracy by frequency",
                "Means over seeds, zero frequency in the middle. A half is right by chance.",
                tuple(
                    frequency_panel(
                        words[0].upper() + words[1:],
                        np.mean([one[kind] for one in results], 0),
                        (axis, axis),
                    )
                    for kind, words in KINDS.items()
                ),
            )
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        documents = {"logistic": "100 % everywhere", "network": "depends on the direction"}
        rows = []
        for kind, words in KINDS.items():
            means = np.mean([one[kind] for one in results], 0)
            rows.append(
                Row(
                    f"lowest and highest accuracy, {words}",
                    f"{means.min():.1%}, {means.max():.1%}",
                    documents.get(kind, "equalised"),
                )
            )
        return rows


register(DirectionalBias())
