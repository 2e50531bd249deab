"""The geometry of a network while it learns, as one HTML page.

Three things are kept apart: `measure` gathers numbers, `figures` draws from these numbers alone,
and `page` lays figures and numbers out.
"""

from __future__ import annotations

from pullback.report.make import make_report
from pullback.report.page import render
from pullback.report.settings import Settings

__all__ = ["Settings", "make_report", "render"]
