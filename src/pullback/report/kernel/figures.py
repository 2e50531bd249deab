"""Figures of a look at a kernel, drawn from its numbers alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from pullback.report.figures import kernels, style
from pullback.report.figures.style import Figure, Panel
from pullback.report.kernel.numbers import KernelReport, StateNumbers

Figures = dict[str, list[Figure]]
"""Figures by section of the page."""

CHOSEN = "#009e73"
RESOLUTION = 1e-9
"""Eigenvalues below this share of the largest are not drawn."""


def draw(report: KernelReport) -> Figures:
    """All figures by section of the page; those that a report has no numbers for are left out."""
    functions = [state["functions"] for state in report["states"] if state["functions"]]
    return {
        "spectrum": [eigenvalues(report)],
        "alignment": [alignment(report)],
        "samples": [
            *([kernels.components(report["data"], functions)] if functions else []),
            *([class_cosines(report)] if len(_present(report)) > 1 else []),
        ],
        "eigenfunctions": [*kernels.eigenfunctions(report["data"], functions)]
        or class_functions(report),
        "prediction": [prediction(report)],
    }


def _named(report: KernelReport) -> list[tuple[StateNumbers, str, str]]:
    """The states, each with a label and a colour."""
    colours = [style.BEFORE, style.AFTER] if len(report["states"]) > 1 else [style.AFTER]
    return [
        (state, state["state"], colour)
        for state, colour in zip(report["states"], colours, strict=True)
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _present(report: KernelReport) -> list[str]:
    """Names of the classes that have samples."""
    classes = report["data"]["classes"]
    return [classes[label] for label in sorted(set(report["data"]["probe_labels"]))]


def eigenvalues(report: KernelReport) -> Figure:
    """The spectrum, and how much of the labels lies in its leading eigenfunctions."""
    return Figure(
        "spectrum",
        "Eigenvalues, and where the labels lie",
        "First, the eigenvalues of the kernel in falling order: gradient descent changes the "
        "function along an eigenfunction at a speed proportional to its eigenvalue. Second, how "
        "much of the labels lies in the leading eigenfunctions: the further above the dotted line "
        "of a random function, the better this kernel suits the task.",
        (_spectrum_panel(report), _energy_panel(report)),
    )


def _spectrum_panel(report: KernelReport) -> Panel:
    said = []
    with style.axes() as (canvas, ax):
        for state, label, colour in _named(report):
            found = state["spectrum"]["eigenvalues"]
            least = RESOLUTION * found["values"][0]
            kept = [value > least for value in found["values"]]
            ranks = [rank for rank, keep in zip(found["ranks"], kept, strict=True) if keep]
            values = [value for value, keep in zip(found["values"], kept, strict=True) if keep]
            ax.plot(ranks, values, color=colour, label=label)
            said.append(f"{label}: largest {style.short(found['values'][0])}")
        style.decades(ax, "xy")
        ax.set_xlabel("rank")
        _legend(ax, report)
        alt = f"Log-log chart of eigenvalue against rank; {'; '.join(said)}."
        return style.panel(canvas, "Eigenvalue by rank", alt)


def _energy_panel(report: KernelReport) -> Panel:
    said = []
    with style.axes() as (canvas, ax):
        rows = report["states"][0]["spectrum"]["rows"]
        for state, label, colour in _named(report):
            found = state["labels"]
            ax.plot(found["ks"], found["energy"], color=colour, label=label)
            half = next(
                (k for k, e in zip(found["ks"], found["energy"], strict=True) if e > 0.5), 0
            )
            said.append(f"{label}, half of it within {half or 'none'}")
        ks = report["states"][0]["labels"]["ks"]
        ax.plot(ks, [k / rows for k in ks], ":", color=style.FAINT, label="random function")
        ax.set_xscale("log")
        ax.set_ylim(0, 1.03)
        ax.set_xlabel("leading eigenfunctions (logarithmic)")
        ax.legend(loc="upper left")
        alt = f"Line chart, share of the labels in so many eigenfunctions: {'; '.join(said)}."
        return style.panel(canvas, "Share of the labels' squared length", alt)


def _legend(ax: Axes, report: KernelReport) -> None:
    if len(report["states"]) > 1:
        ax.legend()


def alignment(report: KernelReport) -> Figure:
    """Alignment with the labels by layer and by class."""
    return Figure(
        "alignment",
        "How much of the kernel points at the labels",
        "Kernel alignment with the labels, between 0 and 1: of the parameters of each layer alone, "
        "and with each class against the rest. The dashed lines are those of the whole kernel with "
        "all labels.",
        tuple(_bars(report, part) for part in report["states"][0]["alignment"]["parts"]),
    )


def _bars(report: KernelReport, part: str) -> Panel:
    names = list(report["states"][0]["alignment"]["parts"][part])
    shown = _named(report)
    height = 0.8 / len(shown)
    said = []
    with style.axes((4.8, max(2.2, 0.9 + 0.3 * len(names)))) as (canvas, ax):
        for position, (state, label, colour) in enumerate(shown):
            found = state["alignment"]
            values = [found["parts"][part][name] for name in names]
            places = np.arange(len(names)) - 0.4 + height * (position + 0.5)
            ax.barh(places, values, height, color=colour, label=label)
            whole = found["centred" if report["settings"]["centred"] else "uncentred"]
            ax.axvline(whole, color=colour, linestyle="--", linewidth=1)
            best = names[int(np.argmax(values))]
            said.append(f"{label}, highest in {best} with {max(values):.2f}, whole {whole:.2f}")
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.set_xlim(left=0)
        ax.set_xlabel("alignment")
        if len(shown) > 1:
            style.legend_above(ax)
        return style.panel(canvas, _capital(part), f"Bar chart of alignment: {'; '.join(said)}.")


def class_cosines(report: KernelReport) -> Figure:
    """The mean cosine between samples of two classes."""
    return Figure(
        "classes",
        "Which classes are learned together",
        "The mean cosine between the kernel's features of samples of two classes: where it is red, "
        "what is learned from one class carries over to the other; where it is blue, it is "
        "learned the other way round.",
        tuple(_cosines(report, state) for state in report["states"]),
    )


def _cosines(report: KernelReport, state: StateNumbers) -> Panel:
    names = _present(report)
    values = np.array(state["class_cosines"])
    bound = max(0.1, float(np.abs(values).max()))
    return _heat_map(values, bound, names, names, "mean cosine", _capital(state["state"]))


def class_functions(report: KernelReport) -> list[Figure]:
    """Eigenfunctions with a value for each output: their means over each class."""
    names, outputs = _present(report), report["data"]["classes"]
    found = []
    for position, state in enumerate(report["states"]):
        functions = state["class_functions"] or []
        bound = max(float(np.abs(np.array(functions)).max()), 1e-12)
        shares = state["spectrum"]["eigenvalues"]["values"]
        panels = [
            _heat_map(
                np.array(values),
                bound,
                outputs,
                names,
                "mean value",
                f"No. {rank}: {100 * shares[rank - 1] / state['spectrum']['trace']:.1f}% of the "
                "trace",
            )
            for rank, values in enumerate(functions, start=1)
        ]
        found.append(
            Figure(
                f"eigenfunctions-{position}",
                f"Easiest functions {state['state']}",
                "An eigenfunction gives each sample a value for each output; here is its mean over "
                "the samples of each class (rows) for each output (columns).",
                tuple(panels),
            )
        )
    return found


def _heat_map(
    values: np.ndarray,
    bound: float,
    columns: Sequence[str],
    rows: Sequence[str],
    unit: str,
    title: str,
) -> Panel:
    with style.axes((4.8, 3.95)) as (canvas, ax):
        image = ax.imshow(values, cmap="RdBu_r", vmin=-bound, vmax=bound)
        ax.grid(False)
        every = max(1, -(-len(columns) // 20))
        long = max(map(len, columns)) > 3
        ax.set_xticks(range(0, len(columns), every), columns[::every], rotation=90 if long else 0)
        ax.set_yticks(range(0, len(rows), every), rows[::every])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        bar = canvas.colorbar(image, ax=ax, shrink=0.9, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label(unit)
        row, column = divmod(int(np.abs(values).argmax()), len(columns))
        alt = (
            f"Heat map of {len(rows)} by {len(columns)}: largest in size at {rows[row]} and "
            f"{columns[column]} with {values[row, column]:.2f}."
        )
        return style.panel(canvas, title, alt)


def prediction(report: KernelReport) -> Figure:
    """What regression with the kernel predicts, and how gradient flow would learn."""
    return Figure(
        "prediction",
        "What the kernel predicts",
        "First, ridge regression on the labels with this kernel as it is: its error for more and "
        "more ridge, on each sample from all others (leave one out, in closed form) and on test "
        "samples. Second, what gradient flow on the squared error would make of the linearised "
        "network, starting from the network's own function; time is in units of the fastest "
        "mode's time constant.",
        (_ridge_panel(report), _flow_panel(report)),
    )


def _ridge_panel(report: KernelReport) -> Panel:
    said = []
    with style.axes() as (canvas, ax):
        for state, label, colour in _named(report):
            found = state["ridge"]
            ax.plot(found["shares"], found["leave_one_out"], color=colour, label=label)
            if found["test"]:
                ax.plot(found["shares"], found["test"], "--", color=colour)
            chosen = found["chosen"]
            ax.plot(
                found["shares"][chosen], found["leave_one_out"][chosen], "o", color=CHOSEN, zorder=3
            )
            said.append(
                f"{label}, least leave-one-out error {style.short(found['leave_one_out'][chosen])} "
                f"at a ridge of {found['shares'][chosen]:g} mean eigenvalues"
            )
        _solid_and_dashed(ax, report, "leave one out", "test")
        style.decades(ax, "x")
        style.positive_values(ax)
        ax.set_xlabel("ridge, in mean eigenvalues")
        alt = f"Line chart of mean squared error against ridge: {'; '.join(said)}."
        return style.panel(canvas, "Mean squared error of ridge regression", alt)


def _flow_panel(report: KernelReport) -> Panel:
    said = []
    with style.axes() as (canvas, ax):
        for state, label, colour in _named(report):
            found = state["flow"]
            ax.plot(found["times"], found["accuracy"], color=colour, label=label)
            if found["test_accuracy"]:
                ax.plot(found["times"], found["test_accuracy"], "--", color=colour)
            last = (found["test_accuracy"] or found["accuracy"])[-1]
            said.append(f"{label}, {last:.0%} at the end")
        _solid_and_dashed(ax, report, "samples of the kernel", "test")
        ax.set_xscale("symlog", linthresh=0.1, linscale=0.5)
        ax.set_xlim(left=0)
        ax.set_ylim(0, 1.03)
        ax.set_xlabel("time (logarithmic)")
        alt = f"Line chart of accuracy against time: {'; '.join(said)}."
        return style.panel(canvas, "Accuracy along gradient flow", alt)


def _solid_and_dashed(ax: Axes, report: KernelReport, solid: str, dashed: str) -> None:
    """Legend entries for the two kinds of line, and for the states where there are two."""
    ax.plot([], [], "-", color=style.INK, label=solid)
    if report["test_samples"]:
        ax.plot([], [], "--", color=style.INK, label=dashed)
    handles, labels = ax.get_legend_handles_labels()
    first = 0 if len(report["states"]) > 1 else len(report["states"])
    ax.legend(handles[first:], labels[first:])
