"""Figures of sweeps over directions: maps over frequencies, accuracies beside a spectrum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure as Canvas
from numpy.typing import ArrayLike

from pullback.anisotropy import Directions, FourierBasis, Sweep
from pullback.errors import InputError
from pullback.report.figures import style
from pullback.report.figures.style import Panel

LEGEND = 8  # curves that are named one by one
CHANCE = 0.5


def sweep_figures(
    found: Sweep, basis: FourierBasis | None = None, directions: Directions | None = None
) -> dict[str, Canvas]:
    """Draw how well, and how fast, an architecture learned each direction.

    "accuracy" has test and training accuracy over the place of the direction, with their spread
    over seeds and, where its directions are given, the spectrum over its largest value. With a
    Fourier basis there is a "map" over frequencies in its place, zero in the middle, and an
    "imaginary map" if such parts were learned. "losses" has the mean loss of each epoch.

    Args:
        found: what `pullback.anisotropy.sweep` gave.
        basis: whose vectors the directions of the sweep are.
        directions: which the directions of the sweep are; instead of a basis.

    Returns:
        Matplotlib figures by these names, to show or to save.

    Raises:
        InputError: a basis or directions that are not those of the sweep, or both.

    Source:
        Ortiz-Jimenez et al. 2020, figures 1, 2, 6, 10 and 21.

    Example:
        >>> from pullback.anisotropy import Recipe, fourier_basis, models, sweep
        >>> from pullback.report.anisotropy import sweep_figures
        >>> shape, basis = (1, 4, 4), fourier_basis((4, 4))
        >>> make_model = lambda: models.logistic_regression(shape)
        >>> found = sweep(make_model, basis.vectors, shape, recipe=Recipe(samples=200, tests=100))
        >>> list(sweep_figures(found, basis))
        ['map', 'imaginary map', 'losses']
    """
    if basis is not None and directions is not None:
        raise InputError("basis, directions: give one of them, the one that was swept")
    if directions is not None and not found.is_along(directions.vectors):
        raise InputError("directions: their vectors are not the directions of this sweep")
    drawn = {"accuracy": _accuracy(found, directions)} if basis is None else _maps(found, basis)
    return {**drawn, "losses": _losses(found)}


def frequency_panel(title: str, values: ArrayLike, frequencies: Sequence[Sequence[int]]) -> Panel:
    """A map of accuracies over frequencies for a page.

    Args:
        title: what is drawn.
        values: accuracies, shape (h, w).
        frequencies: of its rows and of its columns.
    """
    known = np.asarray(values, dtype=float)
    low, high = float(np.nanmin(known)), float(np.nanmax(known))
    count = np.isfinite(known).sum()
    alt = f"Map of accuracies over {count} frequencies, from {low:.3g} to {high:.3g}."
    return style.panel(frequency_map(known, frequencies), title, alt)


def frequency_map(values: ArrayLike, frequencies: Sequence[Sequence[int]]) -> Canvas:
    """Accuracies as an image of frequencies, from chance to 1; NaN is left empty."""
    known = np.asarray(values, dtype=float)
    with style.axes((4.8, 4.0)) as (canvas, ax):
        ax.grid(False)
        image = ax.imshow(known, cmap="viridis", vmin=CHANCE, vmax=1)
        for axis, names in zip((ax.yaxis, ax.xaxis), frequencies, strict=True):
            # Every number that can be read, zero among them.
            apart = max(1, math.ceil(len(names) / 8))
            zero = names.index(0) if 0 in names else 0
            shown = range(zero % apart, len(names), apart)
            axis.set_ticks(shown, [str(names[place]) for place in shown])
        ax.set_ylabel("vertical frequency")
        ax.set_xlabel("horizontal frequency")
        canvas.colorbar(image, ax=ax, label="test accuracy")
    return canvas


def _maps(found: Sweep, basis: FourierBasis) -> dict[str, Canvas]:
    drawn = {}
    for name, imaginary in (("map", False), ("imaginary map", True)):
        values = found.map(basis, imaginary=imaginary)
        known = ~values.isnan()
        if not known.any():
            continue
        # Frequencies that were not learned are left out where a whole row or column is empty.
        kept = [known] if known.ndim == 1 else [known.any(1), known.any(0)]
        frequencies = [
            (torch.arange(size) - size // 2)[some].tolist()
            for size, some in zip(basis.shape, kept, strict=True)
        ]
        drawn[name] = (
            _frequency_line(values[kept[0]].numpy(), frequencies[0])
            if known.ndim == 1
            else frequency_map(values[kept[0]][:, kept[1]].numpy(), frequencies)
        )
    return drawn


def _frequency_line(values: ArrayLike, frequencies: Sequence[int]) -> Canvas:
    """Accuracies of signals over their frequencies."""
    with style.axes() as (canvas, ax):
        ax.plot(frequencies, np.asarray(values), "o-", color=style.AFTER)
        ax.set_ylim(0, 1.03)
        ax.set_xlabel("frequency")
        ax.set_ylabel("test accuracy")
    return canvas


def _accuracy(found: Sweep, directions: Directions | None) -> Canvas:
    order = found.places.argsort()
    ranks = (found.places[order] + 1).tolist()
    with style.axes() as (canvas, ax):
        for name, values, colour, line in (
            ("test accuracy", found.test, style.AFTER, "o-"),
            ("training accuracy", found.train, style.TEST, "s--"),
        ):
            mean, spread = values[order].mean(1), values[order].std(1, correction=0)
            ax.plot(ranks, mean, line, color=colour, label=name)
            ax.fill_between(
                ranks, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0
            )
        if directions is not None:
            shares = directions.spectrum[found.places[order]] / directions.spectrum[0]
            ax.plot(
                ranks, shares, "^:", color=style.FAINT, label="spectrum, over its largest value"
            )
        style.decades(ax, "x")
        ax.set_ylim(0, 1.03)
        ax.set_xlabel("direction (logarithmic)")
        ax.legend()
    return canvas


def _losses(found: Sweep) -> Canvas:
    """One curve for each direction, the lighter the later its place."""
    order = found.places.argsort()
    curves = found.curves[order].mean(1).numpy()
    colours = style.shades(len(curves))
    with style.axes() as (canvas, ax):
        for place, curve, colour in zip(found.places[order].tolist(), curves, colours, strict=True):
            name = f"direction {place + 1}" if len(curves) <= LEGEND else None
            ax.plot(range(1, len(curve) + 1), curve, color=colour, label=name)
        style.positive_values(ax)
        ax.set_xlabel("epoch")
        ax.set_ylabel("mean loss, nats")
        if len(curves) <= LEGEND:
            ax.legend()
    return canvas
