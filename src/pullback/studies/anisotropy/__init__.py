"""The directions that an architecture prefers (Ortiz-Jimenez et al. 2020)."""

from __future__ import annotations

from pullback.studies.anisotropy import (  # noqa: F401  (each registers)
    directional_bias,
    flip,
    poisoning,
    underspecification,
)
