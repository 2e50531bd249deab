"""One look for all figures, and the small vocabulary they are drawn with."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

INK = "#22272e"
FAINT = "#8b949e"
BEFORE = "#8a8f98"
AFTER = "#1f5a94"
TRAIN = "#1f5a94"
TEST = "#c8641e"
# Okabe and Ito's colours, which all kinds of colour vision tell apart.
REPRESENTATION = {"diagonal": "#d55e00", "kfac": "#0072b2", "ekfac": "#009e73"}
MARKER = {"diagonal": "s", "kfac": "^", "ekfac": "o"}
LABEL = {"diagonal": "diagonal", "kfac": "KFAC", "ekfac": "EKFAC"}
# For other representations: the rest of those colours, but for yellow, and a grey.
OTHERS = (("#e69f00", "D"), ("#56b4e9", "v"), ("#cc79a7", "P"), (INK, "X"), (FAINT, "*"))
# Paul Tol's "muted" scheme and a grey.
CLASSES = (
    "#332288",
    "#88ccee",
    "#44aa99",
    "#117733",
    "#999933",
    "#ddcc77",
    "#cc6677",
    "#882255",
    "#aa4499",
    "#6f6f6f",
)
SIZE = (4.8, 3.3)
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
FONT_STACK = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "pullback",
    "figure.dpi": 100,
    "savefig.dpi": 200,
}


@dataclass(frozen=True)
class Look:
    """How a representation is drawn.

    Attributes:
        label: its name in a legend.
        colour: of bars and lines.
        marker: of points.
    """

    label: str
    colour: str
    marker: str


def looks(representations: Sequence[str]) -> dict[str, Look]:
    """How each of some representations is drawn, the report's own as in the report."""
    others = cycle(OTHERS)
    found = {}
    for name in representations:
        if name in REPRESENTATION:
            found[name] = Look(LABEL[name], REPRESENTATION[name], MARKER[name])
        else:
            found[name] = Look(name, *next(others))
    return found


@dataclass(frozen=True)
class Panel:
    """One drawing.

    Attributes:
        title: a few words above it.
        alt: what it shows, for readers who cannot see it.
        source: the picture as a data URI, so that the page needs nothing else.
    """

    title: str
    alt: str
    source: str


@dataclass(frozen=True)
class Figure:
    """One or more panels that are read together.

    Attributes:
        name: a short identifier, unique on the page.
        title: what it shows.
        reading: one sentence on how to read it.
        panels: the drawings, in reading order.
    """

    name: str
    title: str
    reading: str
    panels: tuple[Panel, ...]


@contextmanager
def axes(size: tuple[float, float] = SIZE) -> Iterator[tuple[Canvas, Axes]]:
    """An empty chart in the common style."""
    with mpl.rc_context(SETTINGS):
        canvas = Canvas(figsize=size, layout="constrained")
        yield canvas, canvas.add_subplot()


def panel(canvas: Canvas, title: str, alt: str) -> Panel:
    """The finished drawing. Text stays text, in the fonts of the page."""
    buffer = io.StringIO()
    with mpl.rc_context(SETTINGS):
        canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue().replace("'DejaVu Sans'", FONT_STACK.replace("'", ""))
    encoded = base64.b64encode(svg.encode()).decode()
    return Panel(title, alt, f"data:image/svg+xml;base64,{encoded}")


def time_axis(ax: Axes, last: int) -> None:
    """A logarithmic axis of updates that has room for 0 at its left end."""
    ax.set_xscale("symlog", linthresh=1, linscale=0.5)
    ticks = [0] + [10**power for power in range(7) if 10**power <= last]
    ax.set_xticks(ticks)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(-0.15, last * 1.12)
    ax.set_xlabel("updates (logarithmic)")


def positive_values(ax: Axes) -> None:
    """A vertical axis for positive values: logarithmic if they span more than one decade."""
    low, high = ax.dataLim.intervaly
    if low <= 0 or high < 10 * low:
        ax.set_ylim(bottom=0)
        return
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def decades(ax: Axes, which: str) -> None:
    """Logarithmic axes ("x", "y" or "xy") over many decades, with a tick for each or some."""
    for name in which:
        axis = ax.xaxis if name == "x" else ax.yaxis
        ax.set(**{f"{name}scale": "log"})
        axis.set_major_locator(LogLocator(numticks=9))
        axis.set_major_formatter(FuncFormatter(power_of_ten))
        axis.set_minor_locator(NullLocator())


def power_of_ten(value: float, position: int | None = None) -> str:
    """A tick such as 10⁻⁶, as plain text: mathematical typesetting would take seconds."""
    if value <= 0:
        return ""
    return "10" + str(round(math.log10(value))).translate(SUPERSCRIPTS)


def legend_above(ax: Axes) -> None:
    """The legend over the chart, where it hides nothing."""
    canvas = ax.get_figure()
    assert canvas is not None
    entries = len(ax.get_legend_handles_labels()[0])
    canvas.legend(
        loc="outside upper left", ncols=min(entries, 5), columnspacing=1.2, handlelength=1.4
    )


def by_depth(names: Sequence[str]) -> dict[str, str]:
    """A colour for each layer, from dark (first) to light (last)."""
    return dict(zip(names, shades(len(names)), strict=True))


def shades(count: int) -> list[str]:
    """Colours of an order, from dark (first) to light (last)."""
    colours = mpl.colormaps["viridis"]
    return [to_hex(colours(0.88 * i / max(count - 1, 1))) for i in range(count)]


def legend_names(names: Sequence[str], limit: int = 8) -> set[str]:
    """The layers that a legend names: all of a few, an even choice of many."""
    if len(names) <= limit:
        return set(names)
    return {names[round(i * (len(names) - 1) / (limit - 1))] for i in range(limit)}


def class_colours(count: int) -> list[str]:
    """A colour for each class."""
    if count <= len(CLASSES):
        return list(CLASSES[:count])
    colours = mpl.colormaps["turbo"]
    return [to_hex(colours(0.05 + 0.9 * i / (count - 1))) for i in range(count)]


def short(value: float) -> str:
    """A number with three significant digits, for texts."""
    if value == 0:
        return "0"
    if 0.001 <= abs(value) < 100_000:
        text = f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        return text
    return f"{value:.2g}"
