"""Figures of directions, drawn from their numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from pullback.anisotropy import Directions
from pullback.errors import InputError
from pullback.report.anisotropy.measure import PICTURES, direction_numbers
from pullback.report.anisotropy.numbers import DirectionNumbers, PictureNumbers
from pullback.report.figures import style
from pullback.report.figures.style import Figure

Figures = dict[str, list[Figure]]
"""Figures by section of the page."""

ABREAST = 3
BARS = 40


@dataclass(frozen=True)
class Drawing:
    """A chart with its words.

    Attributes:
        canvas: the chart.
        title: a few words above it.
        alt: what it shows, for readers who cannot see it.
    """

    canvas: Canvas
    title: str
    alt: str


def anisotropy_figures(found: Directions, pictures: int = PICTURES) -> dict[str, Canvas]:
    """Draw directions: a gallery, the spectrum, its cumulative share, the overlap of two halves.

    "gallery" has each direction as an image above the energy of its Fourier transform, with zero
    frequency in the middle; "spectrum" has one standard error; "share" and "overlap" stand beside
    chance.

    Args:
        found: what `pullback.anisotropy.directions` gave.
        pictures: how many directions the gallery has.

    Returns:
        Matplotlib figures by these names, to show or to save; without "gallery" where an input is
        no signal and no image, without "overlap" where there are no two halves.

    Raises:
        InputError: no directions are asked for.

    Source:
        Ortiz-Jimenez et al. 2020, figures 5, 6 and 13 to 19.

    Example:
        >>> import torch
        >>> from pullback.anisotropy import directions
        >>> from pullback.report.anisotropy import anisotropy_figures
        >>> def make_model():
        ...     return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 1))
        >>> found = directions(make_model, shape=(1, 4, 4), networks=100)
        >>> list(anisotropy_figures(found))
        ['gallery', 'spectrum', 'share', 'overlap']
    """
    if pictures < 1:
        raise InputError(f"pictures: {pictures}; give at least one")
    numbers = direction_numbers(found, pictures)
    drawn = {"spectrum": spectrum(numbers), "share": share(numbers)}
    if numbers["pictures"]:
        drawn = {"gallery": gallery(numbers["pictures"], _shares(numbers)), **drawn}
    if numbers["overlap"]:
        drawn["overlap"] = overlap(numbers)
    return {name: one.canvas for name, one in drawn.items()}


def draw(numbers: DirectionNumbers) -> Figures:
    """All figures by section of the page; those that there are no numbers for are left out."""
    known = numbers["stderr"] is not None
    found = {
        "gallery": _figure(
            "gallery",
            "The directions that are preferred most",
            f"Above, each direction as an input{_coloured(numbers)}; the sign of the whole is "
            "arbitrary. Below, the energy of its Fourier transform, zero frequency in the middle, "
            "with the frequency that has most of it. Where neighbours in the spectrum nearly "
            "coincide only the space that they span means something.",
            galleries(numbers),
        ),
        "spectrum": _figure(
            "spectrum",
            "How much is found along each direction",
            f"First, the {numbers['meaning']}{', with one standard error' * known}. Second, the "
            "share of the first directions in the sum; the dotted line is that of an architecture "
            "without preferences.",
            [spectrum(numbers), share(numbers)],
        ),
        "overlap": _figure(
            "overlap",
            "How well the directions are known",
            "The mean squared cosine between the spaces of the first k directions of two halves of "
            "the networks. Where it is no higher than the dotted line, more networks are needed to "
            "tell these directions from others.",
            [overlap(numbers)] if numbers["overlap"] else [],
        ),
    }
    return {section: figures for section, figures in found.items() if figures}


def _coloured(numbers: DirectionNumbers) -> str:
    """How to read the colours of images; nothing for signals."""
    if not numbers["pictures"]:
        return ""
    channels = numbers["pictures"][0]["pixels"]
    if len(channels[0]) == 1:
        return ""
    beside = ", channels side by side" if len(channels) > 1 else ""
    return f", red positive and blue negative{beside}"


def _figure(name: str, title: str, reading: str, drawn: Sequence[Drawing]) -> list[Figure]:
    panels = tuple(style.panel(one.canvas, one.title, one.alt) for one in drawn)
    return [Figure(name, title, reading, panels)] if panels else []


def galleries(numbers: DirectionNumbers) -> list[Drawing]:
    """All directions that there are pictures of, three to a drawing."""
    pictures, shares = numbers["pictures"] or [], _shares(numbers)
    return [
        gallery(pictures[start : start + ABREAST], shares[start:], start + 1)
        for start in range(0, len(pictures), ABREAST)
    ]


def gallery(pictures: Sequence[PictureNumbers], shares: Sequence[float], first: int = 1) -> Drawing:
    """Some directions, three abreast, each above its energy.

    Args:
        pictures: the directions.
        shares: of each in all that is found, and of others behind them.
        first: the number of the first of them.
    """
    rows = -(-len(pictures) // ABREAST)
    with mpl.rc_context(style.SETTINGS):
        canvas = Canvas(figsize=(4.8, 3.75 * rows), layout="constrained")
        grid = canvas.subplots(2 * rows, ABREAST, squeeze=False)
        for ax in grid.flat:
            ax.set_axis_off()
        for place, picture in enumerate(pictures):
            row, column = divmod(place, ABREAST)
            above, below = grid[2 * row, column], grid[2 * row + 1, column]
            _direction(above, picture)
            above.set_title(f"No. {first + place}: {100 * shares[place]:.2g}%", fontsize=9)
            _energy(below, picture)
            below.set_title(peak(picture), fontsize=9)
    last = first + len(pictures) - 1
    words = "; ".join(
        f"number {number}, energy {peak(picture)}"
        for number, picture in enumerate(pictures, start=first)
    )
    return Drawing(canvas, f"Directions {first} to {last}", f"Directions: {words}.")


def _shares(numbers: DirectionNumbers) -> list[float]:
    """Of each direction in the sum of the spectrum."""
    total = sum(numbers["spectrum"])
    return [value / total for value in numbers["spectrum"]]


def peak(picture: PictureNumbers) -> str:
    """The frequency that has most of the energy, in words."""
    rows = len(picture["energy"])
    where = picture["peak"] if rows > 1 else picture["peak"][1:]
    return f"{100 * picture['peak_energy']:.2g}% at {', '.join(map(str, where))}"


def _direction(ax: Axes, picture: PictureNumbers) -> None:
    """An image, its channels side by side; or the line of a signal."""
    channels = np.array(picture["pixels"])
    bound = float(np.abs(channels).max())
    if channels.shape[1] == 1:
        ax.plot(channels[0, 0], color=style.AFTER, linewidth=1)
        ax.set_ylim(-1.05 * bound, 1.05 * bound)
        return
    ax.imshow(np.concatenate(list(channels), 1), cmap="RdBu_r", vmin=-bound, vmax=bound)


def _energy(ax: Axes, picture: PictureNumbers) -> None:
    energy = np.array(picture["energy"])
    if len(energy) == 1:
        places = np.arange(energy.shape[1]) - energy.shape[1] // 2
        ax.plot(places, energy[0], color=style.AFTER, linewidth=1)
        ax.set_ylim(bottom=0)
        return
    ax.imshow(energy, cmap="magma", vmin=0)


def spectrum(numbers: DirectionNumbers) -> Drawing:
    """The spectrum over its largest value, with errors at some ranks."""
    values = np.array(numbers["spectrum"][: numbers["rank"]]) / numbers["spectrum"][0]
    ranks = np.arange(1, len(values) + 1)
    with style.axes() as (canvas, ax):
        ax.plot(ranks, values, color=style.AFTER)
        style.decades(ax, "x")
        style.positive_values(ax)
        if numbers["stderr"]:
            errors = np.array(numbers["stderr"]) / numbers["spectrum"][0]
            some = np.unique(np.geomspace(1, len(values), BARS).round().astype(int)) - 1
            ax.autoscale(False)
            ax.errorbar(
                ranks[some], values[some], errors[some], fmt="none",
                ecolor=style.INK, elinewidth=0.9, capsize=1.5,
            )  # fmt: skip
        ax.set_xlabel("direction (logarithmic)")
    alt = (
        f"Chart of {len(values)} values: the first is {style.short(numbers['spectrum'][0])}, the "
        f"last of them {style.short(values[-1])} times as much."
    )
    return Drawing(canvas, "Spectrum, over its largest value", alt)


def share(numbers: DirectionNumbers) -> Drawing:
    """The cumulative share of the first directions, beside that of a flat spectrum."""
    most, count = numbers["most"], numbers["count"]
    with style.axes() as (canvas, ax):
        ax.plot(range(1, count + 1), numbers["cumulative"], color=style.AFTER, label="found")
        _against_chance(ax, count, "no preference")
    alt = f"Line chart of the cumulative share: {most} of {count} directions hold 90 %."
    return Drawing(canvas, "Share of the first directions", alt)


def overlap(numbers: DirectionNumbers) -> Drawing:
    """The overlap of two halves, beside that of random spaces."""
    alike, count = numbers["overlap"] or [], numbers["count"]
    with style.axes() as (canvas, ax):
        ax.plot(range(1, count + 1), alike, color=style.AFTER, label="two halves")
        _against_chance(ax, count, "chance, k/D")
    k = numbers["leading"]
    alt = (
        f"Line chart of the overlap: {alike[k - 1]:.2f} for {k} directions, where chance gives "
        f"{k / count:.2f}."
    )
    return Drawing(canvas, "Overlap of the first k directions", alt)


def _against_chance(ax: Axes, count: int, name: str) -> None:
    ranks = np.arange(1, count + 1)
    ax.plot(ranks, ranks / count, ":", color=style.FAINT, label=name)
    style.decades(ax, "x")
    ax.set_ylim(0, 1.03)
    ax.set_xlabel("directions (logarithmic)")
    ax.legend(loc="best")
