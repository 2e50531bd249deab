"""Lazy against hasty training (George 2023, chapter 5)."""

from __future__ import annotations

from pullback.studies.regimes import (  # noqa: F401  (each registers)
    difficulty,
    label_noise,
    solvable,
    spurious,
    yin_yang,
)
