"""Figures of the tangent kernel between samples: picture, components, eigenfunctions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import (
    DataNumbers,
    Eigenfunction,
    KernelNumbers,
    LeadingFunctions,
    Report,
)

NAMED_CLASSES = 20


def pictures(report: Report) -> Figure:
    """The kernel as a matrix, samples in order of class."""
    return Figure(
        "kernel",
        "Who learns from whom",
        "Row i, column j: how much a gradient step on sample i moves the outputs for sample j "
        "(cosine between their centred gradients, over all outputs). Samples are in order of "
        "class, so red blocks on the diagonal mean that what is learned from a sample carries over "
        "to its class.",
        tuple(_picture(report, kernel) for kernel in report["kernels"]),
    )


def _picture(report: Report, kernel: KernelNumbers) -> Panel:
    cosines = np.array(kernel["cosines"])
    labels = np.array(report["data"]["probe_labels"])
    starts = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    with style.axes((4.8, 3.95)) as (canvas, ax):
        image = ax.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        ax.grid(False)
        for start in starts[1:-1]:
            ax.axhline(start - 0.5, color="white", linewidth=0.6)
            ax.axvline(start - 0.5, color="white", linewidth=0.6)
        _class_ticks(ax, report["data"]["classes"], labels, starts)
        bar = canvas.colorbar(image, ax=ax, shrink=0.9, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("cosine")
        alt = (
            f"Heat map of {len(labels)} by {len(labels)} samples: mean cosine "
            f"{kernel['same_class']:.2f} within and {kernel['other_class']:.2f} between classes."
        )
        return style.panel(canvas, _title(kernel), alt)


def _title(kernel: KernelNumbers) -> str:
    state = kernel["state"]
    title = state[0].upper() + state[1:]
    means = f"same class {kernel['same_class']:.2f}, other {kernel['other_class']:.2f}"
    means = means.replace("-", "−")
    return f"{title} (mean cosine: {means})"


def _class_ticks(ax: Axes, classes: list[str], labels: np.ndarray, starts: list[int]) -> None:
    middles = [(a + b - 1) / 2 for a, b in zip(starts, starts[1:], strict=False)]
    names = [classes[labels[start]] for start in starts[:-1]]
    every = max(1, -(-len(names) // 20))
    long = max(len(name) for name in names) > 3
    ax.set_xticks(middles[::every], names[::every], rotation=90 if long else 0)
    ax.set_yticks(middles[::every], names[::every])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def components(data: DataNumbers, kernels: Sequence[LeadingFunctions]) -> Figure:
    """Samples on the first two principal components of the kernel."""
    return Figure(
        "components",
        "Samples as the network sees them",
        "Each point is a sample, placed by the two leading principal components of the kernel; the "
        "name of each class stands at or near its median. Samples that lie together are hard to "
        "tell apart by a small change of the parameters.",
        tuple(_components(data, kernel) for kernel in kernels),
    )


def _components(data: DataNumbers, kernel: LeadingFunctions) -> Panel:
    points = np.array(kernel["coordinates"])
    labels = np.array(data["probe_labels"])
    classes = data["classes"]
    colours = style.class_colours(len(classes))
    first, second = (100 * share for share in kernel["shares"][:2])
    with style.axes((4.8, 3.8)) as (canvas, ax):
        present = sorted(set(labels.tolist()))
        for label in present:
            own = points[labels == label]
            ax.scatter(own[:, 0], own[:, 1], s=16, color=colours[label], alpha=0.75, linewidths=0)
        ax.margins(0.06)
        named = present if len(present) <= NAMED_CLASSES else []
        middles = {classes[k]: np.median(points[labels == k], axis=0) for k in named}
        for (name, place), label in zip(_apart(ax, middles).items(), named, strict=True):
            _name_class(ax, place, name, colours[label])
        ax.set_xlabel(f"component 1 ({first:.0f}% of the trace)")
        ax.set_ylabel(f"component 2 ({second:.0f}%)")
        ax.ticklabel_format(style="sci", scilimits=(-2, 4))
        alt = (
            f"Scatter plot of {len(labels)} samples of {len(classes)} classes on components that "
            f"carry {first:.0f}% and {second:.0f}% of the trace."
        )
        state = kernel["state"]
        return style.panel(canvas, state[0].upper() + state[1:], alt)


def _apart(ax: Axes, places: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The places of some names, moved up where a name would cover one below it."""
    to_axes = ax.transLimits.transform
    moved: dict[str, np.ndarray] = {}
    for name, place in sorted(places.items(), key=lambda item: item[1][1]):
        x, y = to_axes(place)
        for other, (other_x, other_y) in moved.items():
            near = abs(x - other_x) < 0.011 * (len(name) + len(other)) + 0.02
            if near and y < other_y + 0.075:
                y = other_y + 0.075
        moved[name] = np.array([x, y])
    back = ax.transLimits.inverted().transform
    return {name: back(moved[name]) for name in places}


def _name_class(ax: Axes, place: np.ndarray, name: str, colour: str) -> None:
    box = {"boxstyle": "round,pad=0.18", "facecolor": "white", "edgecolor": colour, "alpha": 0.92}
    ax.text(
        place[0], place[1], name, ha="center", va="center", fontsize=8.5, color=style.INK, bbox=box
    )


def eigenfunctions(data: DataNumbers, kernels: Sequence[LeadingFunctions]) -> list[Figure]:
    """The leading eigenfunctions at each state: extreme samples, and values by class."""
    return [
        Figure(
            f"eigenfunctions-{position}",
            f"Easiest functions {kernel['state']}",
            "An eigenfunction gives each sample a value; training changes the function along the "
            "leading ones fastest. Each panel shows the samples with the lowest and the highest "
            "values, and below, the value of every sample by class (bars mark class means).",
            tuple(
                _eigenfunction(data, function, rank)
                for rank, function in enumerate(kernel["eigenfunctions"], start=1)
            ),
        )
        for position, kernel in enumerate(kernels)
    ]


def _eigenfunction(data: DataNumbers, function: Eigenfunction, rank: int) -> Panel:
    images = data["images"]
    with mpl.rc_context(style.SETTINGS):
        canvas = Canvas(figsize=(4.8, 3.9 if images else 3.0), layout="constrained")
        chosen = [*function["lowest"], *function["highest"]]
        if images:
            top, ax = canvas.subplots(2, 1, height_ratios=[1, 6])
            _strip(top, [images[sample] for sample in chosen])
        else:
            ax = canvas.add_subplot()
        _values_by_class(ax, data, function)
        share, explained = 100 * function["share"], 100 * function["explained_by_class"]
        highest = int(np.argmax(function["class_means"]))
        lowest = int(np.argmin(function["class_means"]))
        classes = data["classes"]
        alt = (
            f"Eigenfunction {rank}: highest mean in class {classes[highest]}, lowest in class "
            f"{classes[lowest]}; class explains {explained:.0f}% of it."
        )
        title = f"No. {rank}: {share:.0f}% of the trace; {explained:.0f}% explained by class"
        return style.panel(canvas, title, alt)


def _strip(ax: Axes, images: list[Any]) -> None:
    """Images in a row, the first half of them at the left and the second half at the right."""
    pictures = [np.array(pixels, dtype=np.uint8) for pixels in images]
    pictures = [p if p.ndim == 3 else np.repeat(p[..., None], 3, axis=2) for p in pictures]
    height, width = pictures[0].shape[:2]
    gap = np.full((height, max(1, width // 8), 3), 255, dtype=np.uint8)
    pieces: list[Any] = []
    for position, picture in enumerate(pictures):
        pieces += [gap] * (4 if position == len(pictures) // 2 else 1 if position else 0)
        pieces.append(picture)
    row = np.concatenate(pieces, axis=1)
    ax.imshow(row, interpolation="nearest")
    ax.set_axis_off()
    for place, title in ((0.24, "lowest values"), (0.76, "highest values")):
        ax.annotate(
            title, (place, 1), (0, 3), xycoords="axes fraction", textcoords="offset points",
            ha="center", fontsize=8.5,
        )  # fmt: skip


def _values_by_class(ax: Axes, data: DataNumbers, function: Eigenfunction) -> None:
    labels = np.array(data["probe_labels"])
    classes = data["classes"]
    present = sorted(set(labels.tolist()))
    colours = style.class_colours(len(classes))
    values = np.array(function["values"])
    ax.axvline(0, color=style.FAINT, linewidth=0.8)
    for row, label in enumerate(present):
        own = values[labels == label]
        rows = np.full(len(own), row)
        ax.scatter(own, rows, s=14, color=colours[label], alpha=0.65, linewidths=0)
        mean = function["class_means"][label]
        ax.plot([mean, mean], [row - 0.36, row + 0.36], color=style.INK, linewidth=1.8)
    every = max(1, -(-len(present) // 20))
    ax.set_yticks(range(0, len(present), every), [classes[k] for k in present[::every]])
    ax.set_ylim(len(present) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    bound = 1.08 * float(np.abs(values).max())
    ax.set_xlim(-bound, bound)
    ax.set_xlabel("value (mean square 1 over the samples)")
