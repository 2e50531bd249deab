"""One tangent kernel in full, as a page: spectrum, eigenfunctions, alignment, predictions."""

from __future__ import annotations

from pullback.report.kernel.make import make_kernel_report
from pullback.report.kernel.page import render_kernel
from pullback.report.kernel.settings import KernelSettings

__all__ = ["KernelSettings", "make_kernel_report", "render_kernel"]
