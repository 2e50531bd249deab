"""Networks in their tangent space, and training between there and feature learning."""

from __future__ import annotations

from pullback.linear.model import LinearizedModel, linearize
from pullback.linear.progress import EqualProgress, equal_progress
from pullback.linear.quadratic import QuadraticModel, quadratic_model
from pullback.linear.scaled import ScaledModel

__all__ = [
    "EqualProgress",
    "LinearizedModel",
    "QuadraticModel",
    "ScaledModel",
    "equal_progress",
    "linearize",
    "quadratic_model",
]
