"""The page of a look at directions."""

from __future__ import annotations

from pullback.report.anisotropy.figures import Figures, draw
from pullback.report.anisotropy.numbers import AnisotropyReport, WithError
from pullback.report.figures import style
from pullback.report.numbers import Summary, Tile
from pullback.report.page import lay_out

SECTIONS = {
    "gallery": "The first directions",
    "spectrum": "Spectrum",
    "overlap": "Two halves of the networks",
    "measured": "How it was made",
    "cost": "Cost",
}
METHODS = {
    "gradient": "gradients by the input",
    "mixed": "mixed second derivatives",
    "mean mixed": "the mean of mixed second derivatives",
    "kernel": "the alignment of linear functions with the tangent kernel",
}
NAMES = {
    "lenet": "LeNet",
    "logistic-regression": "logistic regression",
    "vgg11": "VGG-11",
    "resnet18": "ResNet-18",
    "densenet121": "DenseNet-121",
}


def render_anisotropy(report: AnisotropyReport, figures: Figures | None = None) -> str:
    """The page as HTML text.

    Args:
        report: the numbers, as in nads.json.
        figures: its figures by section, where they are drawn already.

    Example:
        >>> import json
        >>> from pullback.report.anisotropy import render_anisotropy
        >>> html = render_anisotropy(json.load(open("nads.json")))  # doctest: +SKIP
    """
    figures = draw(report["directions"]) if figures is None else figures
    drawn = {"measured", "cost", *figures}
    return lay_out(
        "anisotropy/page.html.jinja",
        title=f"The directions of the input that {name_of(report)} prefers",
        summary=summarise(report),
        numbers="nads.json",
        report=report,
        method=METHODS[report["settings"]["method"]],
        figures=figures,
        sections={key: title for key, title in SECTIONS.items() if key in drawn},
        rows=_rows(report),
    )


def name_of(report: AnisotropyReport) -> str:
    """What to call the architecture."""
    name: str = report["settings"]["model"]
    return NAMES.get(name, name)


def summarise(report: AnisotropyReport) -> Summary:
    """The top of the page."""
    found, settings = report["directions"], report["settings"]
    leading, count = found["leading"], found["count"]
    networks = f"{settings['networks']:,} random network{'s' if settings['networks'] > 1 else ''}"
    coarse = "" if settings["step"] is None else f" (finite differences, step {settings['step']:g})"
    headline = (
        f"{networks}, {METHODS[settings['method']]}{coarse}: what is found spreads over "
        f"{with_error(found['effective_rank'])} of {count:,} directions (effective rank), and the "
        f"first {leading} hold {with_error(found['leading_share'], 100)}\u00a0% of it, where no "
        f"preference would give them {100 * leading / count:.2g}\u00a0%"
    )
    tiles = [
        Tile(name="effective rank", before=None, value=with_error(found["effective_rank"])),
        Tile(
            name=f"share of the first {leading}",
            before=None,
            value=with_error(found["leading_share"], 100) + "\u00a0%",
        ),
        Tile(name="directions with 90\u00a0% of it", before=None, value=f"{found['most']:,}"),
    ]
    if found["overlap"]:
        alike = found["overlap"][leading - 1]
        headline += (
            f"; the first {leading} of two halves of the networks overlap by {alike:.2f} (chance "
            f"{leading / count:.2g}, the same space 1)"
        )
        tiles.append(Tile(name=f"overlap at {leading}", before=None, value=f"{alike:.2f}"))
    return Summary(headline=headline.replace(" ± ", "\u00a0±\u00a0") + ".", tiles=tiles)


def with_error(found: WithError, scale: int = 1) -> str:
    """A number, and after it its standard error with two digits where that is known.

    Example:
        >>> from pullback.report.anisotropy.page import with_error
        >>> with_error({"value": 812.34, "stderr": 1.26})
        '812.3 ± 1.3'
        >>> with_error({"value": 812.34, "stderr": None})
        '812'
    """
    value, stderr = scale * found["value"], found["stderr"]
    if not stderr:
        return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    error = f"{scale * stderr:.1e}"
    digits = max(0, 1 - int(error.partition("e")[2]))
    return f"{value:,.{digits}f} ± {float(error):.{digits}f}"


def _rows(report: AnisotropyReport) -> dict[str, str]:
    """The numbers of the spectrum, as text."""
    found = report["directions"]
    error = f" ± {style.short(found['stderr'][0])}" if found["stderr"] else ""
    return {
        "effective rank": with_error(found["effective_rank"]),
        "participation ratio": with_error(found["participation"]),
        f"share of the first {found['leading']}, in %": with_error(found["leading_share"], 100),
        "directions that hold 90 %": f"{found['most']:,}",
        "directions with something along them": f"{found['rank']:,}",
        "the largest value": f"{style.short(found['spectrum'][0])}{error}",
    }
