"""Which directions does an architecture learn, and what has pooling to do with it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor, nn

from pullback.anisotropy import Recipe, directions, fourier_basis, models, sweep
from pullback.report.figures import style
from pullback.report.figures.style import Figure
from pullback.report.numbers import rounded
from pullback.studies.claims import Claim
from pullback.studies.parts import Curve, curves_panel
from pullback.studies.study import Result, Row, Study, register

NETWORKS = {
    "logistic": "logistic regression",
    "network": "the network",
    "no pooling": "the network without pooling",
}


@dataclass(frozen=True)
class Settings:
    """Which architecture, which directions, and how each is learned.

    Attributes:
        seeds: of everything drawn.
        side: of the images, of one channel.
        network: one of `models.ARCHITECTURES`.
        width: a factor of its numbers of channels.
        frequencies: along both axes, whose real Fourier vectors are learned.
        places: of the network's own directions that are learned, from 0.
        networks: random ones, for these directions.
        step: of their finite differences.
        recipe: of samples and training, the same for all.
    """

    seeds: int = 3
    side: int = 32
    network: str = "lenet"
    width: int | float = 0.5
    frequencies: tuple[tuple[int, int], ...] = ((0, 0), (0, 4), (4, 4), (0, 8), (8, 8), (0, -16))
    places: tuple[int, ...] = (0, 5, 20, 80, 180)
    networks: int = 200
    step: int | float | None = 100
    recipe: Recipe = Recipe(samples=4000, tests=1000, sigma=1.0, epochs=8, clip=0.5)


class DirectionalBias(Study):
    """Ortiz-Jimenez et al. 2020, figures 1, 3 and 6."""

    name = "directional-bias"
    title = "Which directions an architecture learns, with and without pooling"
    source = "Ortiz-Jimenez et al. 2020, sections 2 and 4.1, figures 1, 3 and 6"
    about = (
        "Samples of two classes that differ along one direction alone are learned by logistic "
        "regression, by a network and by the same without pooling, for some Fourier directions; "
        "and by the network for its own directions, which are found from random weights. The "
        "document has all directions of the Fourier basis, four networks, and three times the "
        "noise on 10,000 samples."
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
        Claim(
            "falls",
            "The accuracy falls with the place of the network's own direction.",
            "rank correlation of place and test accuracy",
            -0.7,
            above=False,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=5, width=1.0, networks=2000, recipe=Recipe(clip=0.5),
            frequencies=tuple((i, j) for i in (0, 4, 8, 12, -16) for j in (0, 4, 8, 12, -16)),
            places=(0, 1, 4, 10, 22, 50, 100, 200, 400, 600, 800, 1000),
        ),
        "paper": Settings(
            seeds=3, network="resnet18", width=1.0, networks=10_000, recipe=Recipe(clip=0.5),
            frequencies=tuple((i, j) for i in range(-16, 16, 2) for j in range(-16, 16, 2)),
            places=(0, 1, 4, 10, 22, 50, 100, 200, 400, 600, 800, 1000),
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return 2 + len(NETWORKS)

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        shape = (1, settings.side, settings.side)
        basis = fourier_basis(shape[1:])
        places = [_place(basis.frequencies, basis.imaginary, one) for one in settings.frequencies]
        fourier = {}
        for name in NETWORKS:
            fourier[name] = _accuracies(settings, name, basis.vectors, places, unit)
            advance(1)
        own = directions(
            _made(settings, "network"), shape, networks=settings.networks, step=settings.step,
            seed=unit, progress=False,
        )  # fmt: skip
        advance(1)
        found = _accuracies(settings, "network", own.vectors.float(), list(settings.places), unit)
        advance(1)
        return [
            {
                "seed": unit,
                "frequencies": [list(one) for one in settings.frequencies],
                "places": list(settings.places),
                "fourier": fourier,
                "own": found,
                "spectrum": rounded(own.spectrum[list(settings.places)] / own.spectrum[0]),
            }
        ]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        ranges = {name: max(found) - min(found) for name, found in result["fourier"].items()}
        return {
            "logistic-flat": min(result["fourier"]["logistic"]),
            "network-uneven": ranges["network"],
            "pooling-shrinks": ranges["network"] - ranges["no pooling"],
            "falls": float(spearmanr(result["places"], result["own"]).statistic),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        looks = ((style.BEFORE, "^-"), (style.AFTER, "o-"), (style.TEST, "s--"))
        numbers = list(range(len(results[0]["frequencies"])))
        said = ", ".join(
            f"{number}: ({one[0]}, {one[1]})"
            for number, one in zip(numbers, results[0]["frequencies"], strict=True)
        )
        fourier = [
            Curve(words, [one["fourier"][name] for one in results], *look)
            for (name, words), look in zip(NETWORKS.items(), looks, strict=True)
        ]
        own = [
            Curve("test accuracy", [one["own"] for one in results]),
            Curve(
                "eigenvalue, over the first",
                [one["spectrum"] for one in results],
                style.TEST,
                "s--",
            ),
        ]
        return [
            Figure(
                "fourier",
                "Accuracy by Fourier direction",
                f"Means over seeds, with their spread. Frequencies by number: {said}.",
                (curves_panel("Test accuracy", numbers, fourier, "number of the direction"),),
            ),
            Figure(
                "own",
                "Accuracy by the network's own directions",
                "Means over seeds, with their spread; and how much random networks vary along each "
                "direction.",
                (
                    curves_panel(
                        "Accuracy and spectrum", results[0]["places"], own,
                        "place of the direction", "symlog",
                    ),
                ),
            ),
        ]  # fmt: skip

    def table(self, results: Sequence[Result]) -> list[Row]:
        rows = []
        documents = {"logistic": "100 % everywhere", "network": "depends on the direction"}
        for name, words in NETWORKS.items():
            means = np.mean([one["fourier"][name] for one in results], 0)
            rows.append(
                Row(
                    f"lowest and highest accuracy over Fourier directions, {words}",
                    f"{means.min():.1%}, {means.max():.1%}",
                    documents.get(name, "equalised"),
                )
            )
        means = np.mean([one["own"] for one in results], 0)
        for place, mean in zip(results[0]["places"], means, strict=True):
            rows.append(Row(f"accuracy at direction {place}", f"{mean:.1%}", "falls (figure 6)"))
        return rows


def _place(frequencies: Tensor, imaginary: Tensor, wanted: tuple[int, int]) -> int:
    """Where the real vector of a frequency, or of its mirror, stands in the basis."""
    side = 2 * int(-frequencies.min()) if int(frequencies.min()) < 0 else 1
    pairs = [torch.tensor(wanted) % side, -torch.tensor(wanted) % side]
    same = torch.stack([(frequencies % side == one).all(1) for one in pairs]).any(0)
    return int((same & ~imaginary).nonzero()[0])


def _made(settings: Settings, name: str) -> Callable[[], nn.Module]:
    make = models.ARCHITECTURES["logistic-regression" if name == "logistic" else settings.network]
    shape = (1, settings.side, settings.side)
    return partial(make, shape, 1, pooling=name != "no pooling", width=settings.width)


def _accuracies(
    settings: Settings, name: str, vectors: Float[Tensor, "m D"], places: list[int], seed: int
) -> list[float]:
    """Test accuracies after learning each direction with a new network."""
    found = sweep(
        _made(settings, name), vectors, (1, settings.side, settings.side), places,
        recipe=settings.recipe, seed=seed, progress=False,
    )  # fmt: skip
    return rounded(found.accuracies)


register(DirectionalBias())
