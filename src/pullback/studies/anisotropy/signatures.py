"""Are the directions that an architecture prefers a signature of it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pullback.anisotropy import directions, models
from pullback.report.anisotropy.figures import gallery, peak
from pullback.report.anisotropy.measure import picture
from pullback.report.anisotropy.numbers import PictureNumbers
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import rounded
from pullback.studies.anisotropy.spaces import (
    FIRST,
    PICTURES,
    Architecture,
    alike,
    components,
    elsewhere,
    gradients,
    looked_at,
    with_images,
)
from pullback.studies.claims import Claim
from pullback.studies.parts import Curve, curves_panel, rank_correlation
from pullback.studies.study import Result, Row, Study, register

NAMES = {
    "lenet": "LeNet",
    "vgg11": "VGG-11",
    "resnet18": "ResNet-18",
    "densenet121": "DenseNet-121",
    "perceptron": "perceptron",
    "logistic-regression": "logistic",
}
CONVOLUTIONAL = ("lenet", "vgg11", "resnet18", "densenet121")
STRIDED = ("resnet18",)  # whose strides begin at one side of an image, so that it has no mirror
MIXED = "lenet"  # whose directions are found by mixed derivatives too
PUBLISHED_ALIKE = {
    ("lenet", "vgg11"): 0.349,
    ("lenet", "resnet18"): 0.058,
    ("lenet", "densenet121"): 0.072,
    ("vgg11", "resnet18"): 0.113,
    ("vgg11", "densenet121"): 0.315,
    ("resnet18", "densenet121"): 0.174,
}
PUBLISHED_PEAKS = {
    "lenet": "57% at 0, 0 (the first)",
    "vgg11": "90% at 0, 0; 74% at 1, 0",
    "resnet18": "many spikes, spaced by multiples of 4",
    "densenet121": "98% at 0, 0; 86% at 0, 16; 86% at 16, 0",
}
PUBLISHED_SPREAD = {
    "resnet18": "36 to 58",
    "logistic-regression": "about 520, without mirror images",
}


@dataclass(frozen=True)
class Settings:
    """Which architectures are compared, and how their directions are found.

    Attributes:
        seeds: independent draws of all networks, and of the input.
        side: of the images, of one channel.
        architectures: what is compared.
        step: of finite differences.
        places: the numbers of directions at which spectra are kept, from 1.
        leading: for how many directions spaces are compared.
        mixed: networks of which mixed derivatives are taken.
        symmetric: whether each network counts with its mirror images; see `with_images`.
    """

    seeds: int = 3
    side: int = 32
    architectures: tuple[Architecture, ...] = (
        Architecture("lenet", 1, 96),
        Architecture("vgg11", 1 / 4, 60),
        Architecture("resnet18", 1 / 8, 28),
        Architecture("densenet121", 1 / 16, 10),
        Architecture("perceptron", 1, 16),
        Architecture("logistic-regression", 1, 32),
    )
    step: int | float = 100
    places: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 50, 100)
    leading: tuple[int, ...] = (5, FIRST)
    mixed: int = 3
    symmetric: bool = True


class Signatures(Study):
    """Ortiz-Jimenez et al. 2020, figures 5, 6 and 13 to 20."""

    name = "signatures"
    title = "The directions of architectures, side by side"
    source = "Ortiz-Jimenez et al. 2020, section 3.1, appendix D, figures 5, 6 and 13 to 20"
    about = (
        "The directions of several architectures are found from the gradients of random networks, "
        "by finite differences with a large step, and compared: where their energy lies, how fast "
        "their spectra fall, and how alike they are, beside those of two halves of the same "
        "networks. Nothing is trained. The document has 10,000 networks of each at full width. At "
        "the sizes quick and full there are far fewer, and they are narrow, which makes them react "
        "more to the mean of an image. There each network counts with its mirror images, which "
        "are as likely: with so large a step they have the mirrored gradients. How much lies along "
        "the first directions is measured on the other half of the networks. Mixed derivatives "
        "are those of LeNet, with the same step, which the document does not name."
    )
    claims = (
        Claim(
            "signature",
            "The directions are a signature of the architecture: two halves of its networks are "
            "more alike than halves of two architectures.",
            "overlap of the first 10 directions, of the halves minus the largest with another "
            "convolutional architecture, the lowest of all",
            0.0,
            above=True,
        ),
        Claim(
            "resnet-spikes",
            "The directions of ResNet-18 have many spikes in the Fourier domain.",
            "participation ratio of the energy, mean over the first three directions, minus that "
            "of LeNet or VGG-11, whichever is larger",
            0.0,
            above=True,
        ),
        Claim(
            "resnet-comb",
            "The spikes are combs.",
            "share of the energy on one comb of frequencies spaced by 4, mean over the first "
            "three directions of ResNet-18",
            0.5,
            above=True,
        ),
        Claim(
            "dense-order",
            "The directions of DenseNet-121 are not in the order of their frequency.",
            "rank correlation of place and mean frequency over the first 10, minus that of LeNet",
            0.0,
            above=False,
        ),
        Claim(
            "dense-second",
            "The second direction of DenseNet-121 has one of the highest frequencies.",
            "its mean frequency, minus the mean of the third to the tenth",
            0.0,
            above=True,
        ),
        Claim(
            "decay-order",
            "The spectra of ResNet-18 and DenseNet-121 fall faster than those of LeNet and VGG-11.",
            "share of the first 10 directions on other networks, the lower of the two minus the "
            "higher of the others",
            0.0,
            above=True,
        ),
        Claim(
            "perceptron-flat",
            "The spectrum of a perceptron falls much less.",
            "share of the first 10 directions on other networks, perceptron over LeNet",
            0.5,
            above=False,
        ),
        Claim(
            "mixed-aligned",
            "Mixed derivatives find similar directions.",
            "overlap of the first 10 directions of LeNet by both ways, minus that of chance",
            0.0,
            above=True,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            architectures=(
                Architecture("lenet", 1, 2000),
                Architecture("vgg11", 1 / 4, 1000),
                Architecture("resnet18", 1 / 4, 400),
                Architecture("densenet121", 1 / 8, 120),
                Architecture("perceptron", 1, 2000),
                Architecture("logistic-regression", 1, 2000),
            ),
            places=(1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000),
            leading=(5, FIRST, 50),
            mixed=50,
        ),
        "paper": Settings(
            architectures=tuple(Architecture(name, 1, 10_000) for name in NAMES),
            places=(1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000),
            leading=(5, FIRST, 50, 200),
            mixed=100,
            symmetric=False,
        ),
    }

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return sum(one.networks for one in settings.architectures) + settings.mixed

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        shape = (1, settings.side, settings.side)
        at = torch.randn(shape, generator=torch.Generator().manual_seed(unit))
        rows = {
            one.name: gradients(one, at, settings.step, unit, advance)
            for one in settings.architectures
        }
        if settings.symmetric:
            rows = {
                name: with_images(one, shape, name not in STRIDED) for name, one in rows.items()
            }
        halves = {name: one.tensor_split(2) for name, one in rows.items()}
        found = {name: components(one) for name, one in rows.items()}
        sides = {name: [components(one)[1] for one in pair] for name, pair in halves.items()}
        mixed = _mixed(settings, at, unit)
        advance(settings.mixed)
        return [
            {
                "seed": unit,
                "architectures": list(rows),
                "networks": {one.name: one.networks for one in settings.architectures},
                "places": list(settings.places),
                "leading": list(settings.leading),
                "size": settings.side**2,
                **_by_name({name: looked_at(*one, shape) for name, one in found.items()}),
                "spectrum": {
                    name: _kept(values / values[0], settings.places)
                    for name, (values, _) in found.items()
                },
                "elsewhere": {
                    name: _kept(elsewhere(*pair), settings.places) for name, pair in halves.items()
                },
                "overlaps": [
                    [[_of_halves(sides, one, other, k) for other in rows] for one in rows]
                    for k in settings.leading
                ],
                "mixed": [alike(found[MIXED][1], mixed, k) for k in settings.leading],
            }
        ]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        spread = {name: np.mean(one[:PICTURES]) for name, one in result["spread"].items()}
        frequency = result["frequency"]
        share = {
            name: one[result["places"].index(FIRST)] for name, one in result["elsewhere"].items()
        }
        dense, lenet = frequency["densenet121"], frequency["lenet"]
        order = rank_correlation(range(len(dense)), dense)
        beside = rank_correlation(range(len(lenet)), lenet)
        chance = FIRST / result["size"]
        return {
            "signature": _apart(result),
            "resnet-spikes": float(spread["resnet18"] - max(spread["lenet"], spread["vgg11"])),
            "resnet-comb": float(np.mean(result["comb"]["resnet18"][:PICTURES])),
            "dense-order": None if order is None or beside is None else order - beside,
            "dense-second": dense[1] - float(np.mean(dense[2:])),
            "decay-order": min(share["resnet18"], share["densenet121"])
            - max(share["lenet"], share["vgg11"]),
            "perceptron-flat": share["perceptron"] / share["lenet"],
            "mixed-aligned": result["mixed"][result["leading"].index(FIRST)] - chance,
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        shown = [name for name in results[0]["architectures"] if name in CONVOLUTIONAL]
        return [
            Figure(
                "gallery",
                "The first directions",
                "Of the first seed. Above, each direction with its share of all that is found, red "
                "positive and blue negative; the sign of the whole is arbitrary. Below, the energy "
                "of its Fourier transform, zero frequency in the middle, with the frequency that "
                "has most of it.",
                tuple(_gallery(results[0], name) for name in shown),
            ),
            Figure(
                "spectra",
                "How fast the spectra fall",
                "Means over seeds, with their spread on the right. First, eigenvalues over the "
                "largest, up to the number of networks: where they end they are too low. Second, "
                "how much lies along the first directions of one half of the networks, measured "
                "on the other half; the dotted line is what no preference gives.",
                (_spectra(results), _shares(results)),
            ),
            Figure(
                "overlaps",
                "How alike two architectures are",
                "The mean squared cosine between the spaces of the first directions of half of the "
                "networks of each, means over seeds; on the diagonal, of two halves of the same "
                "architecture.",
                tuple(_alike(results, place) for place in range(len(results[0]["leading"]))),
            ),
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        def mean(quantity: str, name: str, count: int) -> float:
            return float(np.mean([one[quantity][name][:count] for one in results]))

        rows = []
        for name in results[0]["architectures"]:
            called = NAMES[name]
            if name in CONVOLUTIONAL:
                peaks = "; ".join(peak(one) for one in _pictures(results[0], name))
                rows.append(
                    Row(
                        f"leading frequencies of the first directions, {called}",
                        peaks,
                        PUBLISHED_PEAKS[name],
                    )
                )
            rows += [
                Row(
                    f"participation ratio of the energy of the first three directions, {called}",
                    f"{mean('spread', name, PICTURES):.3g}",
                    PUBLISHED_SPREAD.get(name, "not printed"),
                ),
                Row(
                    f"share of the energy on one comb, first three directions, {called}",
                    f"{mean('comb', name, PICTURES):.1%}",
                    "combs of spikes" if name == "resnet18" else "not printed",
                ),
                Row(
                    f"effective rank, {results[0]['networks'][name]} networks, {called}",
                    f"{np.mean([one['rank'][name] for one in results]):.3g}",
                    "not printed",
                ),
            ]
        return [*rows, *_overlap_rows(results)]


def _of_halves(sides: Mapping[str, Sequence[Tensor]], one: str, other: str, count: int) -> float:
    """Of two halves of one architecture, or of each half of one with each of another."""
    if one == other:
        first, second = sides[one]
        return alike(first, second, count)
    return float(np.mean([alike(a, b, count) for a in sides[one] for b in sides[other]]))


def _mixed(settings: Settings, at: Float[Tensor, "c h w"], seed: int) -> Float[Tensor, "D D"]:
    """Directions by mixed derivatives, of networks that gave no gradients."""
    (width,) = (one.width for one in settings.architectures if one.name == MIXED)
    return directions(
        partial(models.ARCHITECTURES[MIXED], at.shape, 1, width=width), at.shape, method="mixed",
        networks=settings.mixed, step=settings.step, at=at, seed=settings.seeds + seed,
        progress=False,
    ).vectors.double()  # fmt: skip


def _by_name(looks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The same with the quantities outside and the architectures inside."""
    quantities = next(iter(looks.values()))
    return {one: {name: look[one] for name, look in looks.items()} for one in quantities}


def _kept(values: Float[Tensor, " r"], places: Sequence[int]) -> list[float | None]:
    """Values at some places, from 1; None where there are not as many."""
    return [*rounded(values[[p - 1 for p in places if p <= len(values)]])] + [
        None for place in places if place > len(values)
    ]


def _apart(result: Result) -> float:
    """How much more alike halves are than architectures, where it is least."""
    matrix, names = result["overlaps"][result["leading"].index(FIRST)], result["architectures"]
    places = [names.index(name) for name in CONVOLUTIONAL]
    return min(
        matrix[one][one] - max(matrix[one][other] for other in places if other != one)
        for one in places
    )


def _pictures(result: Result, name: str) -> list[PictureNumbers]:
    return [
        picture(torch.tensor(one, dtype=torch.float64).unsqueeze(0))
        for one in result["pixels"][name]
    ]


def _gallery(result: Result, name: str) -> Panel:
    drawing = gallery(_pictures(result, name), result["shares"][name])
    return style.panel(drawing.canvas, NAMES[name], f"{NAMES[name]}. {drawing.alt}")


def _looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and line of each architecture; dashed without convolutions."""
    colours = [*style.REPRESENTATION.values(), *(colour for colour, _ in style.OTHERS)]
    return {
        name: (colour, "o-" if name in CONVOLUTIONAL else "s--")
        for name, colour in zip(names, colours, strict=False)
    }


def _spectra(results: Sequence[Result]) -> Panel:
    said = []
    with style.axes() as (canvas, ax):
        for name, (colour, line) in _looks(results[0]["architectures"]).items():
            means = np.array([one["spectrum"][name] for one in results], dtype=float).mean(0)
            known = ~np.isnan(means)
            places = np.array(results[0]["places"])[known]
            ax.plot(places, means[known], line, color=colour, label=NAMES[name])
            said.append(f"{NAMES[name]} {style.short(float(means[known][-1]))} at {places[-1]}")
        style.decades(ax, "xy")
        ax.set_xlabel("direction (logarithmic)")
        ax.legend()
        return style.panel(
            canvas, "Eigenvalues over the largest", f"Line chart of spectra: {'; '.join(said)}."
        )


def _shares(results: Sequence[Result]) -> Panel:
    places = results[0]["places"]
    curves = [
        Curve(NAMES[name], [one["elsewhere"][name] for one in results], *look)
        for name, look in _looks(results[0]["architectures"]).items()
    ]
    chance = [[place / one["size"] for place in places] for one in results]
    return curves_panel(
        "Share of the first directions", places, curves, "directions", "log", chance
    )


def _alike(results: Sequence[Result], place: int) -> Panel:
    names, count = results[0]["architectures"], results[0]["leading"][place]
    means = np.mean([one["overlaps"][place] for one in results], 0)
    with style.axes((4.8, 4.0)) as (canvas, ax):
        ax.grid(visible=False)
        ax.imshow(means, cmap="Blues", vmin=0, vmax=means.max())
        for row, column in np.ndindex(means.shape):
            colour = "white" if means[row, column] > 0.6 * means.max() else style.INK
            ax.text(
                column, row, f"{means[row, column]:.2f}", ha="center", va="center", color=colour
            )
        called = [NAMES[name] for name in names]
        ax.set_xticks(range(len(names)), called, rotation=35, ha="right")
        ax.set_yticks(range(len(names)), called)
        own = ", ".join(
            f"{one} {value:.2f}" for one, value in zip(called, means.diagonal(), strict=True)
        )
        return style.panel(
            canvas,
            f"First {count} directions (chance {count / results[0]['size']:.3f})",
            f"Table of overlaps in colours; of halves of the same architecture: {own}.",
        )


def _overlap_rows(results: Sequence[Result]) -> list[Row]:
    """Overlaps of two architectures, beside those of halves, and of both ways for one of them."""
    names, leading = results[0]["architectures"], results[0]["leading"]
    means = np.mean([one["overlaps"][leading.index(FIRST)] for one in results], 0)
    rows = []
    for (one, other), published in PUBLISHED_ALIKE.items():
        if one in names and other in names:
            first, second = names.index(one), names.index(other)
            of_halves = (means[first, first] * means[second, second]) ** 0.5
            rows.append(
                Row(
                    f"overlap of the first {FIRST}, {NAMES[one]} and {NAMES[other]} (over that of "
                    "halves)",
                    f"{means[first, second]:.3f} ({means[first, second] / of_halves:.2f})",
                    f"{published} (published directions)",
                )
            )
    mixed = np.mean([one["mixed"] for one in results], 0)
    for count, value in zip(leading, mixed, strict=True):
        rows.append(
            Row(
                f"overlap of the first {count}, gradients and mixed derivatives of {NAMES[MIXED]}",
                f"{value:.3f} (chance {count / results[0]['size']:.3f})",
                "well aligned (no number)",
            )
        )
    return rows


register(Signatures())
