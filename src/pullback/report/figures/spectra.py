"""Figures of the kernel's spectrum along training: eigenvalues, effective rank, alignment."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.colors import to_hex

from pullback.probes import Record, series
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.figures.training import by_layer
from pullback.report.numbers import Report

SPECTRA = 5
RESOLUTION = 1e-7
"""Eigenvalues below this share of the largest are rounding errors of single precision."""


def eigenvalues(report: Report) -> Figure:
    """Spectra at some steps, and the size of the kernel at all of them."""
    panels = [_spectra_panel(report)]
    if len(report["series"]) > 1:
        panels.append(_size_panel(report))
    return Figure(
        "spectrum",
        "Eigenvalues of the kernel",
        "Each curve lists the eigenvalues of the centred kernel at one step, in falling order; the "
        "learning rate of a mode is proportional to its eigenvalue, so a steep curve means a few "
        "functions that are learned fast and many that are hardly learned at all.",
        tuple(panels),
    )


def _spectra_panel(report: Report) -> Panel:
    chosen = evenly(report["series"], SPECTRA)
    with style.axes() as (canvas, ax):
        for record, colour in zip(chosen, style.shades(len(chosen)), strict=True):
            values = record["spectrum"]["eigenvalues"]
            shown = [value for value in values if value > RESOLUTION * values[0]]
            ranks = range(1, len(shown) + 1)
            ax.plot(ranks, shown, color=colour, label=f"{record['step']:,}")
        style.decades(ax, "xy")
        ax.set_xlabel("rank")
        ax.legend(title="updates", title_fontsize=8.5, loc="lower left")
        ends = [record["spectrum"]["eigenvalues"][0] for record in (chosen[0], chosen[-1])]
        alt = (
            "Log-log chart of eigenvalue against rank; the largest eigenvalue goes from "
            f"{style.short(ends[0])} to {style.short(ends[1])}."
        )
        return style.panel(canvas, "Eigenvalue by rank", alt)


def evenly(records: list[Record], count: int) -> list[Record]:
    """So many records, the first and the last among them, even along the series."""
    last = len(records) - 1
    return [records[i] for i in sorted({round(k * last / (count - 1)) for k in range(count)})]


def _size_panel(report: Report) -> Panel:
    steps, spectra = series(report["series"], "spectrum", "eigenvalues")
    with style.axes() as (canvas, ax):
        largest = [values[0] for values in spectra]
        mean = [sum(values) / len(values) for values in spectra]
        median = [values[len(values) // 2] for values in spectra]
        ax.plot(steps, largest, color=style.INK, label="largest")
        ax.plot(steps, mean, "--", color=style.AFTER, label="mean")
        ax.plot(steps, median, ":", color=style.TEST, label="median")
        style.decades(ax, "y")
        style.time_axis(ax, steps[-1])
        ax.legend()
        alt = (
            f"Line chart over updates: the mean eigenvalue goes from {style.short(mean[0])} to "
            f"{style.short(mean[-1])}."
        )
        return style.panel(canvas, "Largest, mean and median eigenvalue", alt)


def concentration(report: Report) -> Figure | None:
    """Effective rank and trace ratios along training."""
    if len(report["series"]) < 2:
        return None
    return Figure(
        "concentration",
        "How many directions learning uses",
        "First, the effective rank (exponential of the spectrum's entropy) of the kernel and of "
        "each layer's share of it; second, the share of the trace in the k largest eigenvalues. A "
        "falling rank means that learning concentrates on fewer functions.",
        (_rank_panel(report), _ratio_panel(report)),
    )


def _rank_panel(report: Report) -> Panel:
    steps, values = series(report["series"], "effective_rank")
    with style.axes() as (canvas, ax):
        said = by_layer(ax, steps, values)
        ax.set_ylim(bottom=0)
        style.time_axis(ax, steps[-1])
        alt = (
            "Line chart over updates: the effective rank starts at "
            f"{style.short(values[0]['all'])}; at the end: {said}."
        )
        return style.panel(canvas, "Effective rank", alt)


def _ratio_panel(report: Report) -> Panel:
    steps, values = series(report["series"], "trace_ratios")
    colours = mpl.colormaps["viridis"]
    names = list(values[0])
    with style.axes() as (canvas, ax):
        for position, k in enumerate(names):
            line = [value[k] for value in values]
            colour = to_hex(colours(0.8 * position / max(len(names) - 1, 1)))
            ax.plot(steps, line, color=colour)
            ax.annotate(
                f"k = {k}",
                (1, line[-1]),
                (3, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
        ax.set_ylim(0, 1.05)
        style.time_axis(ax, steps[-1])
        said = ", ".join(f"k = {k}: {values[-1][k]:.2f}" for k in names)
        return style.panel(canvas, "Share of the trace in k eigenvalues", f"At the end {said}.")


def alignment(report: Report) -> Figure | None:
    """Centred alignment with the labels, both centrings, and by layer."""
    if len(report["series"]) < 2:
        return None
    return Figure(
        "alignment",
        "How much of the kernel points at the labels",
        "Centred kernel alignment with the label kernel y yᵀ, between 0 and 1: how much of the "
        "kernel points in the direction of the labels. Two centrings are in use; both are shown. "
        "The second panel has the same for the parameters of each layer alone.",
        (_alignment_panel(report), _layer_alignment_panel(report)),
    )


CENTRINGS = {
    "samples": ("over samples, for each output", "-", style.AFTER),
    "entries": ("over all entries", "--", style.TEST),
}


def _alignment_panel(report: Report) -> Panel:
    said = []
    with style.axes() as (canvas, ax):
        for centring, (meaning, dash, colour) in CENTRINGS.items():
            steps, values = series(report["series"], "alignment", centring, "all")
            ax.plot(steps, values, dash, color=colour, label=meaning)
            said.append(f"centred {meaning}, from {values[0]:.2f} to {values[-1]:.2f}")
        ax.set_ylim(bottom=0)
        style.time_axis(ax, steps[-1])
        ax.legend(title="centred", title_fontsize=8.5, alignment="left")
        alt = f"Line chart over updates, alignment with the labels: {'; '.join(said)}."
        return style.panel(canvas, "Whole network", alt)


def _layer_alignment_panel(report: Report) -> Panel:
    steps, values = series(report["series"], "alignment", "samples")
    with style.axes() as (canvas, ax):
        said = by_layer(ax, steps, values)
        ax.set_ylim(bottom=0)
        style.time_axis(ax, steps[-1])
        alt = f"Line chart over updates, alignment with the labels at the end: {said}."
        return style.panel(canvas, "By layer (centred over samples)", alt)
