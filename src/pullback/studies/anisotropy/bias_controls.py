"""Is the bias towards directions one of the noise, of the real parts, or of any basis?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from pullback.anisotropy import Recipe, fourier_basis, random_basis
from pullback.report.figures import style
from pullback.report.figures.style import Figure
from pullback.report.numbers import rounded
from pullback.studies.anisotropy.preferences import Sweeping, swept
from pullback.studies.claims import Claim
from pullback.studies.parts import Curve, curves_panel, rank_correlation
from pullback.studies.study import Result, Row, Study, register

LOGISTIC = "logistic-regression"
BASES = {
    "real": ("real parts", style.AFTER, "o-"),
    "imaginary": ("imaginary parts", style.TEST, "s--"),
    "random": ("random directions", style.FAINT, "^:"),
}
"""Kinds of directions, and how they are drawn."""


@dataclass(frozen=True)
class Settings(Sweeping):
    """As `Sweeping`, without directions of its own; the noise of the recipe is for other bases.

    Attributes:
        frequencies: along both axes, none its own mirror, whose real and imaginary vectors are
            learned; as many random directions are.
        sigmas: levels of noise, rising, for the real vectors.
    """

    frequencies: tuple[tuple[int, int], ...] = ((0, 1), (0, 4), (4, 4), (0, 8), (8, 8))
    sigmas: tuple[float, ...] = (0.0, 1.0, 3.0)


class BiasControls(Study):
    """Ortiz-Jimenez et al. 2020, figures 10, 11 and 12."""

    name = "bias-controls"
    title = "Directional bias at other levels of noise, and in other bases"
    source = "Ortiz-Jimenez et al. 2020, appendices A.2 and A.3, figures 10, 11 and 12"
    about = (
        "A network learns samples of two classes that differ along one direction alone: along "
        "Fourier vectors of real and of imaginary parts, along random directions, and with no, "
        "some and much noise. The document has whole bases, several networks and 10,000 samples."
    )
    claims = (
        Claim(
            "logistic-any-noise",
            "Logistic regression learns every direction at every level of noise.",
            "its lowest test accuracy",
            0.99,
            above=True,
        ),
        Claim(
            "fails-without-noise",
            "A LeNet fails for some directions even without noise.",
            "lowest test accuracy without noise",
            0.75,
            above=False,
        ),
        Claim(
            "noise-hurts",
            "The more noise, the fewer directions are learned.",
            "mean test accuracy over directions, least minus most noise",
            0.0,
            above=True,
        ),
        Claim(
            "imaginary-alike",
            "Imaginary parts are learned as real parts of the same frequency are.",
            "rank correlation of their test accuracies over frequencies",
            0.7,
            above=True,
        ),
        Claim(
            "random-alike",
            "Random directions are all alike.",
            "range of test accuracies, over real parts minus over random directions",
            0.0,
            above=True,
        ),
        Claim(
            "random-trivial",
            "Random directions are hardly learned.",
            "highest test accuracy over random directions",
            0.6,
            above=False,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=5, width=1.0, recipe=Recipe(clip=0.5),
            frequencies=tuple(product(range(0, 16, 4), range(1, 16, 4))),
        ),
        "paper": Settings(
            network="resnet18", width=1.0, recipe=Recipe(clip=0.5),
            frequencies=tuple(product(range(-15, 16), range(1, 16))),
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return len(BASES) + 2 * len(settings.sigmas)

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        basis = fourier_basis((settings.side, settings.side))
        real, imaginary = (
            [basis.place(one, part) for one in settings.frequencies] for part in (False, True)
        )
        anything = random_basis(settings.side**2, unit)
        directions = {
            "real": (basis.vectors, real),
            "imaginary": (basis.vectors, imaginary),
            "random": (anything, range(len(real))),
        }
        found: dict[str, list[float]] = {}
        for name, (vectors, places) in directions.items():
            found[name] = rounded(swept(settings, vectors, places, unit).accuracies)
            advance(1)
        levels: dict[str, list[list[float]]] = {settings.network: [], LOGISTIC: []}
        for network, accuracies in levels.items():
            for sigma in settings.sigmas:
                recipe = replace(settings.recipe, sigma=sigma)
                learned = swept(settings, basis.vectors, real, unit, network, recipe=recipe)
                accuracies.append(rounded(learned.accuracies))
                advance(1)
        return [
            {
                "seed": unit,
                "frequencies": [list(one) for one in settings.frequencies],
                "sigmas": list(settings.sigmas),
                "bases": found,
                "noise": levels[settings.network],
                "logistic": levels[LOGISTIC],
            }
        ]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        real, imaginary, anything = (result["bases"][name] for name in BASES)
        least, most = result["noise"][0], result["noise"][-1]
        return {
            "logistic-any-noise": float(np.min(result["logistic"])),
            "fails-without-noise": min(least),
            "noise-hurts": float(np.mean(least) - np.mean(most)),
            "imaginary-alike": rank_correlation(real, imaginary),
            "random-alike": float(np.ptp(real) - np.ptp(anything)),
            "random-trivial": max(anything),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        numbers = list(range(len(results[0]["frequencies"])))
        said = ", ".join(
            f"{number}: ({row}, {column})"
            for number, (row, column) in zip(numbers, results[0]["frequencies"], strict=True)
        )
        bases = [
            Curve(words, [one["bases"][name] for one in results], colour, line)
            for name, (words, colour, line) in BASES.items()
        ]
        sigmas = results[0]["sigmas"]
        noise = [
            Curve(f"noise {sigma:g}", [one["noise"][row] for one in results], colour)
            for row, (sigma, colour) in enumerate(
                zip(sigmas, style.shades(len(sigmas)), strict=True)
            )
        ]
        return [
            Figure(
                "accuracy",
                "Test accuracy by direction",
                f"Means over seeds, with their spread. Frequencies by number: {said}. Random "
                "directions have no frequency; a half is right by chance.",
                (
                    curves_panel("Bases", numbers, bases, "number of the direction"),
                    curves_panel("Noise", numbers, noise, "number of the direction"),
                ),
            )
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        rows = []
        for name, (words, *_) in BASES.items():
            means = np.mean([one["bases"][name] for one in results], 0)
            document = "one level, close to chance" if name == "random" else "depends on frequency"
            rows.append(
                Row(
                    f"lowest and highest accuracy, {words}",
                    f"{means.min():.1%}, {means.max():.1%}",
                    document,
                )
            )
        for row, sigma in enumerate(results[0]["sigmas"]):
            network, logistic = (
                np.mean([one[name][row] for one in results], 0) for name in ("noise", "logistic")
            )
            rows.append(
                Row(
                    f"lowest and highest accuracy at noise {sigma:g}, network; logistic regression",
                    f"{network.min():.1%}, {network.max():.1%}; {logistic.min():.1%}, "
                    f"{logistic.max():.1%}",
                    "falls with the noise; 100 % everywhere",
                )
            )
        return rows


register(BiasControls())
