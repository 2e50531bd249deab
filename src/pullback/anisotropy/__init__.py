"""The directional inductive bias of an architecture: which directions of the input it prefers."""

from __future__ import annotations

from pullback.anisotropy.bases import FourierBasis, fourier_basis, random_basis
from pullback.anisotropy.directions import Directions, directions, overlap
from pullback.anisotropy.tasks import (
    Carriers,
    TwoFeatures,
    carriers,
    flipped,
    separable,
    two_features,
)

__all__ = [
    "Carriers",
    "Directions",
    "FourierBasis",
    "TwoFeatures",
    "carriers",
    "directions",
    "flipped",
    "fourier_basis",
    "overlap",
    "random_basis",
    "separable",
    "two_features",
]
