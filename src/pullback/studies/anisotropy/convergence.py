"""How fast does a network learn along each direction, where it learns all of them?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from pullback.anisotropy import Recipe, Sweep, fourier_basis
from pullback.report.figures import style
from pullback.report.figures.style import Figure
from pullback.report.numbers import rounded
from pullback.studies.anisotropy.preferences import Sweeping, found_directions, swept
from pullback.studies.claims import Claim
from pullback.studies.parts import Curve, curves_panel, rank_correlation
from pullback.studies.study import Result, Row, Study, register


@dataclass(frozen=True)
class Settings(Sweeping):
    """As `Sweeping`, with little noise.

    Attributes:
        places: of the network's own directions, from 0, that are learned.
        frequencies: along both axes, whose real Fourier vectors are learned.
        loss: in nats; how many updates it takes to get there is compared.
    """

    width: int | float = 1.0
    recipe: Recipe = Recipe(samples=2000, tests=1000, sigma=0.1, epochs=40, batch=64, clip=0.5)
    places: tuple[int, ...] = (0, 20, 80, 180)
    frequencies: tuple[tuple[int, int], ...] = ((0, 0), (0, 4), (4, 4), (0, 8))
    loss: float = 0.1


class Convergence(Study):
    """Ortiz-Jimenez et al. 2020, figures 2 and 21."""

    name = "convergence"
    title = "How fast a network learns along each direction"
    source = "Ortiz-Jimenez et al. 2020, section 2, appendix D.3.1, figures 2 and 21"
    about = (
        "Samples of two classes that differ along one direction alone, with so little noise that "
        "every direction is learned: the network's own directions, found from random weights, and "
        "some Fourier directions. The document has a ResNet-18 too, 10,000 samples, and does not "
        "name the noise."
    )
    claims = (
        Claim(
            "later-slower",
            "Later directions take longer.",
            "rank correlation of place and updates to the loss",
            0.7,
            above=True,
        ),
        Claim(
            "all-learned",
            "All of them are learned in the end.",
            "lowest test accuracy over the network's own directions",
            0.98,
            above=True,
        ),
        Claim(
            "frequency-matters",
            "Some frequencies take much longer than others.",
            "updates to the loss, most over fewest, at most the whole training",
            2.0,
            above=True,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=5, networks=2000, recipe=Recipe(sigma=0.1, clip=0.5),
            places=(0, 1, 4, 10, 22, 50, 100, 200, 400, 600, 800, 1000),
            frequencies=tuple(product(range(0, 17, 4), range(0, 17, 4))),
        ),
        "paper": Settings(
            network="resnet18", networks=10_000, recipe=Recipe(sigma=0.1, clip=0.5),
            places=(0, 1, 4, 10, 22, 50, 100, 200, 400, 600, 800, 1000),
            frequencies=tuple(product(range(0, 17, 2), range(0, 17, 2))),
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return 3

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        own = found_directions(settings, settings.side, unit)
        advance(1)
        found = {
            "own": _numbers(swept(settings, own.vectors, settings.places, unit), settings.loss)
        }
        advance(1)
        basis = fourier_basis((settings.side, settings.side))
        rows = [basis.place(one) for one in settings.frequencies]
        found["fourier"] = _numbers(swept(settings, basis.vectors, rows, unit), settings.loss)
        advance(1)
        return [
            {
                "seed": unit,
                "places": list(settings.places),
                "frequencies": [list(one) for one in settings.frequencies],
                "whole": settings.recipe.updates,
                **found,
            }
        ]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        fourier = result["fourier"]["updates"]
        return {
            "later-slower": rank_correlation(result["places"], result["own"]["updates"]),
            "all-learned": min(result["own"]["test"]),
            "frequency-matters": max(fourier) / min(fourier),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        places, frequencies = results[0]["places"], results[0]["frequencies"]
        epochs = list(range(1, 1 + len(results[0]["own"]["losses"][0])))
        names = {
            "own": [f"place {one}" for one in places],
            "fourier": [f"({row}, {column})" for row, column in frequencies],
        }
        updates = Curve("updates", [one["own"]["updates"] for one in results])
        return [
            Figure(
                "losses",
                "Training loss along each direction",
                "Means over seeds, with their spread, of the mean loss of each epoch in nats.",
                tuple(
                    curves_panel(
                        title,
                        epochs,
                        [
                            Curve(name, [one[kind]["losses"][row] for one in results], colour, "-")
                            for row, (name, colour) in enumerate(
                                zip(names[kind], style.shades(len(names[kind])), strict=True)
                            )
                        ],
                        "epoch",
                    )
                    for kind, title in (
                        ("own", "The network's own directions"),
                        ("fourier", "Fourier directions, by frequency"),
                    )
                ),
            ),
            Figure(
                "updates",
                "Updates to a low loss",
                "Means over seeds, with their spread; the whole training where it was never as "
                "low.",
                (
                    curves_panel(
                        "Updates, by the place of the direction", places, [updates],
                        "place of the direction", "symlog",
                    ),
                ),
            ),
        ]  # fmt: skip

    def table(self, results: Sequence[Result]) -> list[Row]:
        rows = []
        for kind, names in (("own", "places"), ("fourier", "frequencies")):
            for row, name in enumerate(results[0][names]):
                updates, test = (
                    np.mean([one[kind][what][row] for one in results])
                    for what in ("updates", "test")
                )
                rows.append(
                    Row(
                        f"updates and test accuracy, {'place' if kind == 'own' else 'frequency'} "
                        f"{name if kind == 'own' else tuple(name)}",
                        f"{updates:.0f}, {test:.1%}",
                        "almost 100 %, later ones slower" if kind == "own" else "depends on it",
                    )
                )
        return rows


def _numbers(found: Sweep, loss: float) -> dict[str, Any]:
    """Updates, at most the whole training, accuracies, and the loss of each epoch."""
    return {
        "updates": rounded(found.updates_to(loss)[:, 0].clamp(max=found.recipe.updates)),
        "test": rounded(found.accuracies),
        "losses": rounded(found.curves[:, 0]),
    }


register(Convergence())
