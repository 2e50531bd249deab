"""The directions that an architecture prefers (Ortiz-Jimenez et al. 2020 and 2021)."""

from __future__ import annotations

from pullback.studies.anisotropy import (  # noqa: F401  (each registers)
    bias_controls,
    convergence,
    directional_bias,
    flip,
    kernel_directions,
    own_directions,
    poisoning,
    pooling_theory,
    sample_complexity,
    signatures,
    underspecification,
)
