"""The directions of the input that an architecture prefers, as a page with numbers and figures."""

from __future__ import annotations

from pullback.report.anisotropy.figures import anisotropy_figures
from pullback.report.anisotropy.make import make_anisotropy_report
from pullback.report.anisotropy.page import render_anisotropy
from pullback.report.anisotropy.settings import AnisotropySettings
from pullback.report.anisotropy.sweeps import frequency_panel, sweep_figures

__all__ = [
    "AnisotropySettings",
    "anisotropy_figures",
    "frequency_panel",
    "make_anisotropy_report",
    "render_anisotropy",
    "sweep_figures",
]
