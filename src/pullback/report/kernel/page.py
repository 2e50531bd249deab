"""The page of a look at a kernel."""

from __future__ import annotations

from collections.abc import Callable

from pullback.report.kernel.figures import Figures, draw
from pullback.report.kernel.numbers import KernelReport, StateNumbers
from pullback.report.numbers import Summary, Tile
from pullback.report.page import lay_out, number

SECTIONS = {
    "measured": "What was measured, and how",
    "spectrum": "Spectrum",
    "alignment": "Alignment",
    "samples": "Samples and classes",
    "eigenfunctions": "Leading eigenfunctions",
    "prediction": "Prediction",
    "cost": "Cost",
}


def render_kernel(report: KernelReport, figures: Figures | None = None) -> str:
    """The page as HTML text.

    Args:
        report: the numbers, as in kernel.json.
        figures: its figures by section, where they are drawn already.

    Example:
        >>> import json
        >>> from pullback.report.kernel import render_kernel
        >>> html = render_kernel(json.load(open("kernel.json")))  # doctest: +SKIP
    """
    figures = draw(report) if figures is None else figures
    states = report["states"]
    return lay_out(
        "kernel/page.html.jinja",
        title=f"The tangent kernel of a network on {report['data']['name']}",
        summary=summarise(report),
        numbers="kernel.json",
        report=report,
        read_out=read_out(report),
        figures=figures,
        sections={key: title for key, title in SECTIONS.items() if figures.get(key, True)},
        spectrum_rows={name: [of(state) for state in states] for name, of in SPECTRUM.items()},
        prediction_rows=_predictions(states),
    )


SPECTRUM: dict[str, Callable[[StateNumbers], float]] = {
    "trace": lambda state: state["spectrum"]["trace"],
    "Frobenius norm": lambda state: state["spectrum"]["norm"],
    "effective rank": lambda state: state["spectrum"]["effective_rank"],
    "eigenvalues above rounding": lambda state: state["spectrum"]["numerical_rank"],
    "squared norm of the labels in the kernel's space": lambda state: state["labels"][
        "squared_norm"
    ],
    "its lower bound from the alignment": lambda state: state["labels"]["lower_bound"],
    "share of the labels that has such a norm": lambda state: state["labels"]["captured"],
    "alignment with the labels, centred": lambda state: state["alignment"]["centred"],
    "alignment with the labels, not centred": lambda state: state["alignment"]["uncentred"],
}


def _predictions(states: list[StateNumbers]) -> dict[str, list[str]]:
    """Accuracies, as text, of what is at hand."""
    rows: dict[str, list[str]] = {
        "ridge of least leave-one-out error, in mean eigenvalues": [
            f"{s['ridge']['shares'][s['ridge']['chosen']]:g}" for s in states
        ],
        "kernel regression, leave-one-out accuracy": [
            f"{s['ridge']['leave_one_out_accuracy'][s['ridge']['chosen']]:.1%}" for s in states
        ],
    }
    if states[0]["ridge"]["test"]:
        rows["kernel regression, test accuracy"] = [f"{_tested(s):.1%}" for s in states]
    for split in states[0]["flow"]["network_accuracy"]:
        rows[f"network itself, {split} accuracy"] = [
            f"{s['flow']['network_accuracy'][split]:.1%}" for s in states
        ]
    return rows


def _tested(state: StateNumbers) -> float:
    """The test accuracy of kernel regression with the ridge that was chosen, or leave one out."""
    ridge = state["ridge"]
    return (ridge["test_accuracy"] or ridge["leave_one_out_accuracy"])[ridge["chosen"]]


def read_out(report: KernelReport) -> str:
    """Which outputs the kernel is of, in words."""
    outputs = report["settings"]["outputs"]
    if report["network"]["outputs"] == 1:
        return "of the network's output"
    if outputs == "sum":
        return "summed over the outputs"
    if outputs == "all":
        return "between all outputs of all samples"
    first, _, second = outputs.partition(",")
    return f"of output {second} minus output {first}" if second else f"of output {first}"


def summarise(report: KernelReport) -> Summary:
    """The top of the page."""
    states = report["states"]
    last = states[-1]
    spectrum, labels = last["spectrum"], last["labels"]
    name = report["network"]["name"]
    article = "" if name[0].isupper() else ("an " if name[0] in "aeiou" else "a ")
    split = "test samples" if last["ridge"]["test"] else "samples left out"
    regression = f"predicts {_tested(last):.0%} of the {split} right"
    if len(states) > 1:
        regression += f" ({_tested(states[0]):.0%} before training)"
    samples = len(report["data"]["probe_labels"])
    headline = (
        f"The kernel of {article}{name}, {read_out(report)}, on {samples} samples of "
        f"{report['data']['name']}: it spreads over {spectrum['effective_rank']:.0f} "
        f"directions (effective rank), its leading {_leading(labels['ks'])} eigenfunctions hold "
        f"{_energy(last):.0%} of the labels, and ridge regression with it {regression}."
    )
    values = {
        "effective rank": lambda state: f"{state['spectrum']['effective_rank']:.1f}",
        "largest eigenvalue": lambda state: number(state["spectrum"]["eigenvalues"]["values"][0]),
        "alignment with the labels": lambda state: f"{state['alignment']['centred']:.2f}",
        f"labels in {_leading(labels['ks'])} eigenfunctions": lambda state: f"{_energy(state):.0%}",
        "accuracy of kernel regression": lambda state: f"{_tested(state):.1%}",
    }
    return Summary(headline=headline, tiles=[_tile(*item, states) for item in values.items()])


LEADING = 50


def _leading(ks: list[int]) -> int:
    """The number of eigenfunctions nearest to `LEADING` at which the labels' share is known."""
    return min(ks, key=lambda k: abs(k - LEADING))


def _energy(state: StateNumbers) -> float:
    labels = state["labels"]
    return labels["energy"][labels["ks"].index(_leading(labels["ks"]))]


def _tile(name: str, of: Callable[[StateNumbers], str], states: list[StateNumbers]) -> Tile:
    before = of(states[0]) if len(states) > 1 else None
    return Tile(name=name, before=before, value=of(states[-1]))
