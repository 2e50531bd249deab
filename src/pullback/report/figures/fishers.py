"""Figures of the Fisher information matrix: by layer, and its approximations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes

from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import (
    Approximation,
    ApproximationState,
    FisherNumbers,
    Report,
    SolveError,
)


def capital(text: str) -> str:
    """The text with a capital at its start."""
    return text[0].upper() + text[1:]


def traces(report: Report) -> Figure:
    """Trace of each layer's block."""
    return Figure(
        "fisher-traces",
        "Where the information sits",
        "The trace of a layer's block, a sum over its parameters: how strongly the predictions "
        "react to a random small change of that layer.",
        (_trace_panel(report),),
    )


def layer_spectra(report: Report) -> Figure:
    """Spectrum of each layer's block."""
    return Figure(
        "fisher-spectra",
        "How it is spread",
        "The eigenvalues of each layer's block in falling order: a few stiff directions that "
        "change the predictions, and many slack ones that hardly do. All panels have the same "
        "vertical scale.",
        tuple(_spectrum_panel(report, fisher) for fisher in report["fishers"]),
    )


def _trace_panel(report: Report) -> Panel:
    fishers = report["fishers"]
    names = [layer["name"] for layer in fishers[0]["layers"]]
    height = max(2.6, 0.5 + 0.3 * len(names) * len(fishers))
    colours = (style.BEFORE, style.AFTER)[-len(fishers) :]
    with style.axes((4.8, min(height, 9.0))) as (canvas, ax):
        width = 0.8 / len(fishers)
        for position, (fisher, colour) in enumerate(zip(fishers, colours, strict=True)):
            places = np.arange(len(names)) + (position - (len(fishers) - 1) / 2) * width
            traces = [layer["trace"] for layer in fisher["layers"]]
            bars = ax.barh(places, traces, width * 0.92, color=colour, label=fisher["state"])
            ax.bar_label(bars, [style.short(trace) for trace in traces], padding=3, fontsize=8)
        ax.set_yticks(range(len(names)), names)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
        ax.margins(x=0.14)
        ax.set_xlabel("trace of the block")
        if len(fishers) > 1:
            style.legend_above(ax)
        said = "; ".join(
            f"{fisher['state']} {style.short(fisher['trace'])} in all" for fisher in fishers
        )
        return style.panel(canvas, "Trace of each layer's block", f"Bar chart: {said}.")


def _spectrum_panel(report: Report, fisher: FisherNumbers) -> Panel:
    names = [layer["name"] for layer in fisher["layers"]]
    colours, named = style.by_depth(names), style.legend_names(names)
    top = max(_largest(other) for other in report["fishers"])
    with style.axes() as (canvas, ax):
        for layer in fisher["layers"]:
            ranks, values = layer["spectrum"]["ranks"], layer["spectrum"]["values"]
            shown = [(r, v) for r, v in zip(ranks, values, strict=True) if v > 1e-9 * top]
            if shown:
                label = layer["name"] if layer["name"] in named else None
                ax.plot(*zip(*shown, strict=True), color=colours[layer["name"]], label=label)
        style.decades(ax, "xy")
        ax.set_ylim(1e-9 * top, 3 * top)
        ax.set_xlabel("rank within the layer")
        style.legend_above(ax)
        alt = (
            f"Log-log chart of the eigenvalues of {len(names)} blocks {fisher['state']}; the "
            f"largest is {style.short(_largest(fisher))}."
        )
        return style.panel(canvas, f"Eigenvalues of the blocks, {fisher['state']}", alt)


def _largest(fisher: FisherNumbers) -> float:
    return max(layer["spectrum"]["values"][0] for layer in fisher["layers"])


def products(report: Report) -> Figure | None:
    """How well the approximations multiply."""
    if report["approximations"] is None:
        return None
    return Figure(
        "approximations",
        "The matrix and its products",
        "First, the relative error of the whole matrix in Frobenius norm (0 is exact); the lines "
        "mark the least that any form without entries between layers can have. Second, the cosine "
        "between the approximate and the true F v for random directions v (1 is exact; whiskers "
        "are one standard error).",
        (
            _bars(
                report,
                "Relative Frobenius error",
                lambda a: a["frobenius"],
                None,
                floor=lambda state: state["between_layers"],
            ),
            _bars(
                report,
                "Cosine of F v",
                lambda a: a["product_cosine"]["value"],
                lambda a: a["product_cosine"]["stderr"],
            ),
        ),
    )


def _bars(
    report: Report,
    title: str,
    value: Callable[[Approximation], float],
    error: Callable[[Approximation], float] | None,
    floor: Callable[[ApproximationState], float] | None = None,
) -> Panel:
    numbers = report["approximations"]
    assert numbers is not None
    states = numbers["states"]
    said = []
    with style.axes((4.8, 3.0)) as (canvas, ax):
        for position, name in enumerate(style.REPRESENTATION):
            found = [_of(state, name) for state in states]
            places = np.arange(len(states)) + (position - 1) * 0.27
            bars = ax.bar(
                places,
                [value(one) for one in found],
                0.25,
                yerr=[error(one) for one in found] if error else None,
                color=style.REPRESENTATION[name],
                ecolor=style.INK,
                label=style.LABEL[name],
            )
            ax.bar_label(bars, [f"{value(one):.2f}" for one in found], padding=2, fontsize=8)
            said.append(f"{style.LABEL[name]} {value(found[-1]):.2f}")
        if floor is not None:
            least, ends = [floor(state) for state in states], np.arange(len(states)) - 0.45
            ax.hlines(least, ends, ends + 0.9, style.INK, linewidth=1.2, label="least possible")
        ax.set_xticks(range(len(states)), [state["state"] for state in states])
        ax.grid(axis="x", visible=False)
        ax.margins(y=0.12)
        style.legend_above(ax)
        last = states[-1]["state"]
        return style.panel(canvas, title, f"Bar chart, {last}: {', '.join(said)}.")


def _of(state: ApproximationState, name: str) -> Approximation:
    return next(one for one in state["representations"] if one["representation"] == name)


def solves(report: Report) -> Figure | None:
    """How well the approximations solve, against damping."""
    numbers = report["approximations"]
    if numbers is None:
        return None
    panels = [
        _curves(state, title, value)
        for state in numbers["states"]
        for title, value in (
            ("cosine of v and its solution", lambda one: one["cosine"]["value"]),
            ("cosine of the natural gradients", lambda one: one["gradient_cosine"]),
        )
    ]
    return Figure(
        "solves",
        "Damped solves",
        "The damping λ is given as a share of the largest eigenvalue. “v and its solution”: the "
        "cosine between a random v and (F̃ + λ)⁻¹(F + λ)v, which is 1 where the approximation F̃ "
        "inverts F. “Natural gradients”: the cosine between the gradient of the loss solved with F̃ "
        "and with F.",
        tuple(panels),
    )


def _curves(state: ApproximationState, title: str, value: Callable[[SolveError], float]) -> Panel:
    said = []
    with style.axes() as (canvas, ax):
        for one in state["representations"]:
            name = one["representation"]
            dampings = [solve["damping"] for solve in one["solve"]]
            values = [value(solve) for solve in one["solve"]]
            ax.plot(
                dampings,
                values,
                color=style.REPRESENTATION[name],
                marker=style.MARKER[name],
                label=style.LABEL[name],
            )
            said.append(f"{style.LABEL[name]} {values[0]:.2f} to {values[-1]:.2f}")
        style.decades(ax, "x")
        _cosine_axis(ax)
        ax.set_xlabel("damping / largest eigenvalue")
        style.legend_above(ax)
        alt = f"Line chart, from the smallest to the largest damping: {', '.join(said)}."
        return style.panel(canvas, f"{capital(state['state'])}: {title}", alt)


def _cosine_axis(ax: Axes) -> None:
    low = min(float(np.min(line.get_ydata())) for line in ax.lines)
    ax.set_ylim(min(0.0, low - 0.05), 1.04)
