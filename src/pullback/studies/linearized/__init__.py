"""Networks against their linearisations (Ortiz-Jimenez et al. 2021)."""

from __future__ import annotations

from pullback.studies.linearized import eigenfunctions, rotation  # noqa: F401  (each registers)
