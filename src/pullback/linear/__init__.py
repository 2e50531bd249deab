"""Networks in their tangent space, and how training goes there."""

from __future__ import annotations

from pullback.linear.model import LinearizedModel, linearize

__all__ = ["LinearizedModel", "linearize"]
