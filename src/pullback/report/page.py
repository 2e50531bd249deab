"""The page: one HTML file from the numbers of a report, with nothing to load from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pullback.parameters import owner_of
from pullback.report.figures import draw
from pullback.report.numbers import Report

SECTIONS = {
    "measured": "What was measured, and how",
    "learning": "Learning",
    "kernel": "The tangent kernel between samples",
    "spectrum": "Spectrum of the tangent kernel",
    "alignment": "Alignment with the labels",
    "eigenfunctions": "Leading eigenfunctions",
    "fisher": "Fisher information",
    "approximations": "Approximations of the Fisher matrix",
    "cost": "Cost",
}


def render(report: Report) -> str:
    """The page as HTML text.

    Args:
        report: the numbers, as in report.json.

    Example:
        >>> import json
        >>> from pullback.report import render
        >>> html = render(json.load(open("report.json")))  # doctest: +SKIP
    """
    figures = draw(report)
    shown = {key: title for key, title in SECTIONS.items() if figures.get(key, True)}
    doing = "learning" if report["training"] else "on"
    return lay_out(
        "page.html.jinja",
        title=f"The geometry of a network {doing} {report['data']['name']}",
        summary=report["summary"],
        numbers="report.json",
        report=report,
        figures=figures,
        sections=shown,
        ways=layer_ways(report),
    )


def lay_out(template: str, **values: object) -> str:
    """A page of the report's look from one of its templates."""
    environment = Environment(
        loader=PackageLoader("pullback.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"number": number, "bytes": megabytes, "percent": percent}
    css = files("pullback.report").joinpath("page.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=Markup(css), **values)


def number(value: int | float, digits: int = 3) -> Markup:
    """A number with so many significant digits, as HTML: 12,345 or 0.0123 or 1.2 × 10⁻⁵."""
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return Markup(f"{int(value):,}")
    if 1e-3 <= abs(value) < 1e5:
        return Markup(f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return Markup(f"{mantissa}&thinsp;×&thinsp;10<sup>{int(exponent)}</sup>")


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f}%"


def megabytes(value: int) -> str:
    """A number of bytes in megabytes."""
    return f"{value / 1e6:,.0f} MB"


def layer_ways(report: Report) -> dict[str, str]:
    """How the gradients of each layer were computed, in words."""
    ways: dict[str, list[str]] = {}
    for parameter, way in report["fishers"][-1]["ways"].items():
        found = ways.setdefault(owner_of(parameter), [])
        if way not in found:
            found.append(way)
    return {layer: ", ".join(found) for layer, found in ways.items()}
