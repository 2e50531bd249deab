"""Lazy against hasty training (George 2023, chapter 5)."""

from __future__ import annotations

from pullback.studies.regimes import difficulty, label_noise, solvable, yin_yang  # noqa: F401
