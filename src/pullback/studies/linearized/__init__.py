"""Networks against their linearisations (Ortiz-Jimenez et al. 2021)."""

from __future__ import annotations

from pullback.studies.linearized import (  # noqa: F401  (each registers)
    eigenfunctions,
    pretrained_kernel,
    rotation,
    sample_size,
)
