"""How far representations of a metric are from a reference, in one figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from pullback.errors import InputError
from pullback.estimates import Estimate
from pullback.metrics.quality import Quality, SolveQuality
from pullback.report.figures import style

# What a bar measures.
Measure = Callable[[Quality], Estimate | float]
_ERRORS: dict[str, Measure] = {
    "trace (0 is exact)": lambda found: abs(found.trace),
    "v·Fv (0 is exact)": lambda found: found.quadratic,
}
_PRODUCTS: dict[str, Measure] = {
    "cosine (1 is exact)": lambda found: found.cosine,
    "residual (0 is exact)": lambda found: found.residual,
}


def quality_figure(found: Mapping[str, Quality]) -> Canvas:
    """Draw the quality of several representations against one reference.

    Above, relative errors of the trace and of v·Fv (0 is exact), and the cosine (1) and the
    residual (0) of Fv; below, the cosine and the residual of damped solves. Whiskers are one
    standard error over random vectors.

    Args:
        found: what `pullback.quality` gave for each representation, by its name.

    Returns:
        A matplotlib figure, to show or to save.

    Raises:
        InputError: there is nothing to draw.

    Source:
        George 2023, figures 3.3 to 3.6.

    Example:
        >>> import torch, pullback as pb
        >>> from pullback.report.figures import quality_figure
        >>> model, x = torch.nn.Linear(3, 2), torch.randn(10, 3)
        >>> metrics = {name: pb.fisher(model, x, representation=name) for name in ("dense", "kfac")}
        >>> found = {name: pb.quality(metrics["dense"], metrics[name]) for name in metrics}
        >>> len(quality_figure(found).axes)
        4
    """
    if not found:
        raise InputError("found: no representation; give one `pullback.quality(...)` at least")
    with mpl.rc_context(style.SETTINGS):
        canvas = Canvas(figsize=(9.6, 6.2), layout="constrained")
        errors, products, cosines, residuals = canvas.subplots(2, 2).flat
        _bars(errors, found, _ERRORS)
        errors.set_title("Relative error of trace and v·Fv", fontsize=10, loc="left")
        _bars(products, found, _PRODUCTS)
        products.set_title("Fv: cosine and residual", fontsize=10, loc="left")
        _curves(cosines, found, lambda solve: solve.cosine)
        cosines.set_title("Damped solve of (F + λ)v: cosine with v", fontsize=10, loc="left")
        _curves(residuals, found, lambda solve: solve.residual)
        style.positive_values(residuals)
        residuals.set_title("Damped solve of (F + λ)v: residual", fontsize=10, loc="left")
        handles, labels = products.get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper left", ncols=min(len(found), 7))
    return canvas


def _bars(ax: Axes, found: Mapping[str, Quality], measures: Mapping[str, Measure]) -> None:
    width = 0.84 / len(found)
    looks = style.looks(list(found))
    for position, (name, quality) in enumerate(found.items()):
        values = [measure(quality) for measure in measures.values()]
        places = np.arange(len(values)) + (position - (len(found) - 1) / 2) * width
        numbers = [float(value) for value in values]
        errors = [value.stderr if isinstance(value, Estimate) else 0.0 for value in values]
        look = looks[name]
        bars = ax.bar(
            places, numbers, 0.92 * width, yerr=errors, color=look.colour, ecolor=style.INK,
            label=look.label,
        )  # fmt: skip
        if len(found) <= 5:
            ax.bar_label(bars, [f"{n:.2f}" for n in numbers], padding=2, fontsize=7.5)
    ax.set_xticks(range(len(measures)), list(measures))
    ax.grid(axis="x", visible=False)
    ax.margins(y=0.12)


def _curves(
    ax: Axes, found: Mapping[str, Quality], measure: Callable[[SolveQuality], Estimate]
) -> None:
    looks = style.looks(list(found))
    for name, quality in found.items():
        values = [measure(solve) for solve in quality.solve]
        look = looks[name]
        ax.errorbar(
            [solve.damping for solve in quality.solve],
            [value.value for value in values],
            [value.stderr for value in values],
            color=look.colour,
            marker=look.marker,
            elinewidth=0.9,
        )
    if any(quality.solve for quality in found.values()):
        style.decades(ax, "x")
    ax.set_xlabel("damping λ")
