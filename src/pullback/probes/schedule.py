"""When to measure: steps spaced evenly in the logarithm of training time."""

from __future__ import annotations

from pullback.errors import InputError


def log_spaced(total: int, points: int = 25) -> tuple[int, ...]:
    """Steps from 0 to `total`, evenly spaced on a logarithmic axis; both ends are included.

    Most of what happens to a network's geometry happens early, so early steps are dense. Steps are
    whole numbers, so where the spacing falls below one step fewer than `points` come out.

    Args:
        total: the last step, counted in parameter updates.
        points: how many steps at most, at least 2.

    Raises:
        InputError: `total` is negative, or `points` is less than 2.

    Example:
        >>> from pullback.probes import log_spaced
        >>> log_spaced(1000, points=8)
        (0, 1, 3, 10, 32, 100, 316, 1000)
    """
    if total < 0:
        raise InputError(f"total: {total} steps; give a number of updates that is not negative")
    if points < 2:
        raise InputError(f"points: {points}; give at least 2, for the first and the last step")
    if total <= 1 or points == 2:
        return (0, total) if total else (0,)
    exponents = [i / (points - 2) for i in range(points - 1)]
    return tuple(sorted({0, *(round(total**exponent) for exponent in exponents)}))
