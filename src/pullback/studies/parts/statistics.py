"""Statistics of claims."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import spearmanr


def rank_correlation(first: Sequence[int | float], second: Sequence[int | float]) -> float | None:
    """Spearman's; None where one has the same value everywhere, and so no order."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(spearmanr(first, second).statistic)
