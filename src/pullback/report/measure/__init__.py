"""The parts of a report: each measures a network and returns plain numbers."""

from __future__ import annotations

from pullback.report.measure.approximations import (
    DENSE_LIMIT,
    REPRESENTATIONS,
    approximation_numbers,
)
from pullback.report.measure.fishers import fisher_numbers
from pullback.report.measure.kernels import kernel_numbers, leading_functions, thumbnails

__all__ = [
    "DENSE_LIMIT",
    "REPRESENTATIONS",
    "approximation_numbers",
    "fisher_numbers",
    "kernel_numbers",
    "leading_functions",
    "thumbnails",
]
