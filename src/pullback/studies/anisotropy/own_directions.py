"""Do the directions of an architecture, found before any training, say what it will learn?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pullback.anisotropy import Recipe
from pullback.kernels.spectra import effective_rank
from pullback.report.figures import style
from pullback.report.figures.style import Figure
from pullback.report.numbers import rounded
from pullback.studies.anisotropy.preferences import Sweeping, found_directions, swept
from pullback.studies.claims import Claim
from pullback.studies.parts import Curve, curves_panel, rank_correlation
from pullback.studies.study import Result, Row, Study, register

PERCEPTRON = "perceptron"


@dataclass(frozen=True)
class Settings(Sweeping):
    """As `Sweeping`; the network is one of the architectures that are compared.

    Attributes:
        beside: the others and their widths; a perceptron is among them.
        places: of an architecture's own directions, from 0, that are learned.
    """

    beside: tuple[tuple[str, float], ...] = (("vgg11", 1 / 16), (PERCEPTRON, 0.5))
    places: tuple[int, ...] = (0, 5, 20, 80, 180)
    recipe: Recipe = Recipe(samples=4000, tests=1000, sigma=1.0, epochs=6, clip=0.5)

    @property
    def architectures(self) -> Mapping[str, float]:
        """All and their widths."""
        return {self.network: self.width, **dict(self.beside)}


class OwnDirections(Study):
    """Ortiz-Jimenez et al. 2020, figures 6 and 20."""

    name = "own-directions"
    title = "What an architecture learns along its own directions"
    source = "Ortiz-Jimenez et al. 2020, section 4.1, appendix D.3, figures 6 and 20"
    about = (
        "Directions are found from random networks, by finite differences; then new networks of "
        "the same architecture learn samples of two classes that differ along one of them. The "
        "document has five architectures at full width, 10,000 networks, and three times the noise "
        "on 10,000 samples; the narrow VGG-11 here has batch norm, as there."
    )
    claims = (
        Claim(
            "falls",
            "The accuracy of the network falls with the place of the direction.",
            "rank correlation of place and test accuracy",
            -0.7,
            above=False,
        ),
        Claim(
            "lower-rank-worse",
            "The faster the spectrum of an architecture falls, the earlier its accuracy does.",
            "rank correlation over architectures of effective rank and mean test accuracy",
            0.0,
            above=True,
        ),
        Claim(
            "perceptron-all",
            "A perceptron generalises along all of its directions.",
            "its lowest test accuracy",
            0.99,
            above=True,
        ),
        Claim(
            "perceptron-flat",
            "The spectrum of a perceptron falls much less.",
            "eigenvalue at the last place over the first, perceptron minus network",
            0.0,
            above=True,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=5, width=1.0, networks=2000, recipe=Recipe(clip=0.5),
            beside=(("vgg11", 0.25), ("resnet18", 0.125), (PERCEPTRON, 1.0)),
            places=(0, 1, 4, 10, 22, 50, 100, 200, 400, 600, 800, 1000),
        ),
        "paper": Settings(
            width=1.0, networks=10_000, recipe=Recipe(clip=0.5),
            beside=(
                ("vgg11", 1.0), ("resnet18", 1.0), ("densenet121", 1.0), (PERCEPTRON, 1.0),
            ),
            places=(*range(11), *range(14, 1019, 4)),
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return 2 * len(settings.architectures)

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        found: Result = {}
        for name, width in settings.architectures.items():
            one = replace(settings, network=name, width=width)
            own = found_directions(one, settings.side, unit)
            advance(1)
            learned = swept(one, own.vectors, settings.places, unit)
            advance(1)
            found[name] = {
                "test": rounded(learned.accuracies),
                "train": rounded(learned.train.mean(1)),
                "spectrum": rounded(own.spectrum[list(settings.places)] / own.spectrum[0]),
                "effective rank": effective_rank(own.spectrum),
            }
        return [{"seed": unit, "places": list(settings.places), "architectures": found}]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        found = result["architectures"]
        network, perceptron = next(iter(found.values())), found[PERCEPTRON]
        ranks = [one["effective rank"] for one in found.values()]
        means = [float(np.mean(one["test"])) for one in found.values()]
        return {
            "falls": rank_correlation(result["places"], network["test"]),
            "lower-rank-worse": rank_correlation(ranks, means),
            "perceptron-all": min(perceptron["test"]),
            "perceptron-flat": perceptron["spectrum"][-1] - network["spectrum"][-1],
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        words = {
            "test": ("test accuracy", style.AFTER, "o-"),
            "train": ("training accuracy", style.FAINT, "^-"),
            "spectrum": ("eigenvalue, over the first", style.TEST, "s--"),
        }
        return [
            Figure(
                "accuracy",
                "Accuracy and spectrum along an architecture's own directions",
                "Means over seeds, with their spread. The eigenvalues say how much random networks "
                "vary along each direction; a half is right by chance.",
                tuple(
                    curves_panel(
                        name,
                        results[0]["places"],
                        [
                            Curve(label, [one["architectures"][name][kind] for one in results],
                                  colour, line)
                            for kind, (label, colour, line) in words.items()
                        ],
                        "place of the direction",
                        "symlog",
                    )
                    for name in results[0]["architectures"]
                ),
            )
        ]  # fmt: skip

    def table(self, results: Sequence[Result]) -> list[Row]:
        documents = {PERCEPTRON: "100 % everywhere; almost flat"}
        places = results[0]["places"]
        shown = [0, len(places) // 2, -1]
        rows = []
        for name in results[0]["architectures"]:
            found = [one["architectures"][name] for one in results]
            test = np.mean([one["test"] for one in found], 0)
            rank = np.mean([one["effective rank"] for one in found])
            rows.append(
                Row(
                    f"accuracy at places {', '.join(str(places[one]) for one in shown)}; effective "
                    f"rank, {name}",
                    f"{', '.join(f'{test[one]:.1%}' for one in shown)}; {rank:.0f}",
                    documents.get(name, "falls, the earlier the lower the rank"),
                )
            )
        return rows


register(OwnDirections())
