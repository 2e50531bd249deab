"""Networks in their tangent space, and training between there and feature learning."""

from __future__ import annotations

from pullback.linear.difficulty import ConsistencyScores, consistency_scores
from pullback.linear.model import LinearizedModel, linearize
from pullback.linear.progress import EqualProgress, equal_progress
from pullback.linear.quadratic import QuadraticModel, quadratic_model
from pullback.linear.scaled import ScaledModel

__all__ = [
    "ConsistencyScores",
    "EqualProgress",
    "LinearizedModel",
    "QuadraticModel",
    "ScaledModel",
    "consistency_scores",
    "equal_progress",
    "linearize",
    "quadratic_model",
]
