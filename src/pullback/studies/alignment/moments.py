"""When a kernel is measured."""

from __future__ import annotations

from pullback.probes import log_spaced


def moments(updates: int, points: int, first: int) -> tuple[int, ...]:
    """The start, and what `log_spaced` has from `first` on: little happens before.

    Args:
        updates: of the whole training.
        points: how many moments there would be from the start on.
        first: the earliest one after the start.
    """
    return tuple(step for step in log_spaced(updates, points) if step == 0 or step >= first)
