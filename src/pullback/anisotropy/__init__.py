"""The directional inductive bias of an architecture: which directions of the input it prefers."""

from __future__ import annotations

from pullback.anisotropy import models
from pullback.anisotropy.bases import FourierBasis, fourier_basis, random_basis
from pullback.anisotropy.dipole import Dipole, dipole
from pullback.anisotropy.directions import Directions, directions, overlap
from pullback.anisotropy.sweep import SampleComplexity, Sweep, sample_complexity, sweep
from pullback.anisotropy.tasks import (
    Carriers,
    TwoFeatures,
    carriers,
    flipped,
    separable,
    two_features,
)
from pullback.anisotropy.training import Recipe

__all__ = [
    "Carriers",
    "Dipole",
    "Directions",
    "FourierBasis",
    "Recipe",
    "SampleComplexity",
    "Sweep",
    "TwoFeatures",
    "carriers",
    "dipole",
    "directions",
    "flipped",
    "fourier_basis",
    "models",
    "overlap",
    "random_basis",
    "sample_complexity",
    "separable",
    "sweep",
    "two_features",
]
