"""Figures, drawn from the numbers of a report alone.

To add one, write a function from a `Report` to a `Figure` and name it under its section below.
`quality_figure` stands apart: it draws what `pullback.quality` found, for any caller.
"""

from __future__ import annotations

from pullback.report.figures import fishers, kernels, spectra, training
from pullback.report.figures.quality import quality_figure
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import Report

__all__ = ["Figure", "Panel", "draw", "quality_figure"]


def draw(report: Report) -> dict[str, list[Figure]]:
    """All figures by section of the page; those that a report has no numbers for are left out."""
    sampled = report["data"], report["kernels"]
    sections: dict[str, list[Figure | None]] = {
        "learning": [training.learning(report), training.travel(report)],
        "kernel": [kernels.pictures(report), kernels.components(*sampled)],
        "spectrum": [spectra.eigenvalues(report), spectra.concentration(report)],
        "alignment": [spectra.alignment(report)],
        "eigenfunctions": [*kernels.eigenfunctions(*sampled)],
        "fisher": [fishers.traces(report), fishers.layer_spectra(report)],
        "approximations": [fishers.products(report), fishers.solves(report)],
    }
    return {name: [f for f in figures if f is not None] for name, figures in sections.items()}
