"""The page of a study: its claims with their verdicts, its numbers, its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pullback.report.describe import about
from pullback.report.figures.style import short
from pullback.report.numbers import Summary, Tile
from pullback.report.page import lay_out
from pullback.studies.claims import Verdict
from pullback.studies.study import Result, Study

SECTIONS = {
    "claims": "Claims",
    "numbers": "Numbers beside the document's",
    "figures": "Figures",
    "run": "How it was run",
}


def render_study(
    study: Study,
    size: str,
    settings: dict[str, Any],
    results: list[Result],
    verdicts: Sequence[Verdict],
) -> str:
    """The page as HTML text, from stored results alone."""
    return lay_out(
        "study.html.jinja",
        title=study.title,
        summary=_summary(study, results, verdicts),
        numbers="unit-*.json",
        report={"about": about()},
        sections=SECTIONS,
        study=study,
        size=size,
        settings=settings,
        seeds=len(results),
        verdicts=[_words(verdict) for verdict in verdicts],
        rows=study.table(results),
        figures=study.figures(results),
    )


def _summary(study: Study, results: list[Result], verdicts: Sequence[Verdict]) -> Summary:
    counts = {word: sum(v.verdict == word for v in verdicts) for word in ("holds", "fails", "open")}
    said = ", ".join(
        f"{count} {word if count == 1 else word.removesuffix('s')}"
        for word, count in counts.items()
        if count
    )
    plural = "s" if len(verdicts) != 1 else ""
    return Summary(
        headline=f"{len(verdicts)} claim{plural} of {study.source}, over {len(results)} seeds: "
        f"{said}.",
        tiles=[
            Tile(name=verdict.claim.name, before=None, value=verdict.verdict)
            for verdict in verdicts
        ],
    )


def _words(verdict: Verdict) -> dict[str, str]:
    claim = verdict.claim
    interval = "none"
    if verdict.low is not None and verdict.high is not None:
        interval = f"{_number(verdict.low)} to {_number(verdict.high)}"
    missing = f" of {len(verdict.values) + verdict.missing}" if verdict.missing else ""
    return {
        "statement": claim.statement,
        "statistic": claim.statistic,
        "threshold": f"{'above' if claim.above else 'below'} {_number(claim.threshold)}",
        "mean": "none" if verdict.mean is None else _number(verdict.mean),
        "interval": interval,
        "seeds": f"{len(verdict.values)}{missing}",
        "verdict": verdict.verdict,
    }


def _number(value: float) -> str:
    return short(value).replace("-", "−")
