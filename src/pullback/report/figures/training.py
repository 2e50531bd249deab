"""Figures of the training: loss, accuracy, and how far parameters and kernel travelled."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from pullback.probes import series
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import Report


def learning(report: Report) -> Figure | None:
    """Loss and accuracy on fixed samples."""
    if len(report["series"]) < 2:
        return None
    sizes = report["data"]["evaluated"]
    subsets = ", ".join(f"{count:,} {split} samples" for split, count in sizes.items())
    return Figure(
        "learning",
        "Learning curves",
        f"Loss and accuracy on {subsets}, the same at every point; where the two curves part, the "
        "network fits training samples in a way that does not carry over.",
        (
            _loss_panel(report, "loss", "Cross-entropy (nats)", log=True),
            _loss_panel(report, "accuracy", "Accuracy", log=False),
        ),
    )


def _loss_panel(report: Report, quantity: str, title: str, log: bool) -> Panel:
    records, said = report["series"], []
    with style.axes() as (canvas, ax):
        for split, colour in (("train", style.TRAIN), ("test", style.TEST)):
            if split not in records[0]["loss"]:
                continue
            steps, values = series(records, "loss", split, quantity)
            dash = "-" if split == "train" else "--"
            ax.plot(steps, values, dash, color=colour, marker=".", label=split)
            said.append(f"{split} from {style.short(values[0])} to {style.short(values[-1])}")
        if log:
            style.positive_values(ax)
        else:
            ax.set_ylim(0, 1.02)
        style.time_axis(ax, records[-1]["step"])
        ax.legend()
        alt = f"Line chart over updates, {quantity}: {'; '.join(said)}."
        return style.panel(canvas, title, alt)


def travel(report: Report) -> Figure | None:
    """Distance of the parameters, and alignment of the kernel with the one it began as."""
    if len(report["series"]) < 2:
        return None
    return Figure(
        "travel",
        "How far parameters and features moved",
        "First, the distance of the parameters to their start, as a share of the length they had; "
        "second, the centred alignment of the tangent kernel with the kernel at the start: 1 means "
        "that the network still learns with the features it began with.",
        (_distance_panel(report), _drift_panel(report)),
    )


def _distance_panel(report: Report) -> Panel:
    steps, values = series(report["series"], "distance", "relative")
    with style.axes() as (canvas, ax):
        ax.plot(steps, values, color=style.AFTER, marker=".")
        ax.set_ylim(bottom=0)
        style.time_axis(ax, steps[-1])
        alt = f"Line chart over updates: the relative distance reaches {style.short(values[-1])}."
        return style.panel(canvas, "Distance of the parameters, |w − w₀| / |w₀|", alt)


def _drift_panel(report: Report) -> Panel:
    steps, values = series(report["series"], "drift")
    with style.axes() as (canvas, ax):
        said = by_layer(ax, steps, values)
        ax.set_ylim(0, 1.02)
        style.time_axis(ax, steps[-1])
        alt = f"Line chart over updates, alignment with the first kernel at the end: {said}."
        return style.panel(canvas, "Kernel: alignment with the start", alt)


def by_layer(ax: Axes, steps: Sequence[int], values: Sequence[dict[str, float]]) -> str:
    """Draw one line a layer and a heavy one for the whole network; say where they end."""
    layers = [name for name in values[0] if name != "all"]
    colours, named = style.by_depth(layers), style.legend_names(layers)
    if len(layers) > 1:
        for name in layers:
            line = [value[name] for value in values]
            label = name if name in named else None
            ax.plot(steps, line, color=colours[name], linewidth=1.3, label=label)
    whole = [value["all"] for value in values]
    ax.plot(steps, whole, color=style.INK, linewidth=2.4, label="whole network")
    style.legend_above(ax)
    ends = [f"{name} {style.short(values[-1][name])}" for name in ["all", *layers]]
    return ", ".join(ends)
