"""Charts of what the seeds of a study measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike

from pullback.report.figures import style
from pullback.report.figures.style import Panel


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        label: in the legend.
        values: one row for each seed.
        colour: of the line.
        line: how it is drawn, as matplotlib says it.
    """

    label: str
    values: ArrayLike
    colour: str = style.AFTER
    line: str = "o-"


def curves_panel(
    title: str,
    along: Sequence[int | float],
    curves: Sequence[Curve],
    axis: str,
    scale: str = "linear",
    constant: ArrayLike | None = None,
    falling: bool = False,
) -> Panel:
    """Means over seeds with their spread (one standard deviation) over a common axis.

    Args:
        title: what is drawn, with its unit.
        along: where on the horizontal axis.
        curves: lines; a legend names them if there is more than one.
        axis: what the horizontal axis is.
        scale: "linear", "log", or "symlog", which has room for 0.
        constant: values of a dotted line for comparison, one row for each seed.
        falling: whether the axis runs from large to small, as the loss of a training does.
    """
    said = []
    with style.axes() as (canvas, ax):
        ax.update_datalim([(one, 0.0) for one in along], updatey=False)  # also without any value
        for curve in curves:
            rows = np.ma.masked_invalid(np.asarray(curve.values, dtype=float))
            mean, spread = rows.mean(0), rows.std(0)
            ax.plot(along, mean, curve.line, color=curve.colour, label=curve.label)
            ax.fill_between(
                along, mean - spread, mean + spread, color=curve.colour, alpha=0.18, linewidth=0
            )
            known = mean.compressed()
            ends = [style.short(float(known[place])) for place in (0, -1)] if len(known) else []
            said.append(
                f"{curve.label} {'from' if ends else 'nowhere'} {' to '.join(ends)}".strip()
            )
        if constant is not None:
            middle = np.asarray(constant, dtype=float).mean(0)
            ax.plot(along, np.broadcast_to(middle, len(along)), ":", color=style.FAINT)
        _scaled(ax, along, scale)
        if falling:
            ax.invert_xaxis()
        ax.set_xlabel(axis if scale == "linear" else f"{axis} (logarithmic)")
        if len(curves) > 1:
            ax.legend()
        return style.panel(canvas, title, f"Line chart over {axis}: {'; '.join(said)}.")


def _scaled(ax: Axes, along: Sequence[int | float], scale: str) -> None:
    if scale == "log":
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:,g}"))
        ax.xaxis.set_minor_locator(NullLocator())
    elif scale == "symlog":
        ax.set_xscale("symlog", linthresh=min(place for place in along if place > 0), linscale=0.5)
        ticks = _apart(along)
        ax.set_xticks(ticks, [f"{place:,g}" for place in ticks])


def _apart(along: Sequence[int | float]) -> list[int | float]:
    """The places that are at least twice the one before, so that their numbers do not touch."""
    chosen: list[int | float] = []
    for place in along:
        if not chosen or place >= 2 * chosen[-1]:
            chosen.append(place)
    return chosen
