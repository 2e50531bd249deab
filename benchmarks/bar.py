"""The bar: how fast and how lean the library has to be on one operation of one case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .libraries import PEERS
from .measure import Row

FLOOR_FACTOR = 1.15
EQUAL_MB = 130.0
"""Peaks under this count as equal: start-up and the allocator move them that much."""


@dataclass(frozen=True)
class Factors:
    """What the bar allows: of the best peer's time, and of the leanest peer's memory."""

    time: float = 0.5
    memory: float = 1.5


KERNELS = Factors(time=0.2, memory=0.5)
"""For tangent kernels."""


@dataclass(frozen=True)
class Bar:
    """The rows of one operation on one case, judged.

    Time: at most the larger of half the best peer's, a fifth for kernels, and 1.15 times the
    floor's. Memory: at most 1.5 times the leanest peer's; for kernels half of it, or `EQUAL_MB`.
    Only valid rows that are no estimates set a bar.
    """

    ours: Row | None
    floor: Row | None
    peers: tuple[Row, ...]
    factors: Factors = Factors()

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Bar:
        by_library = {row.library: row for row in rows}
        peers = [by_library[p] for p in PEERS if p in by_library]
        return cls(
            _usable(by_library.get("pullback")),
            _usable(by_library.get("floor")),
            tuple(row for row in peers if _usable(row) and not row.estimate),
            KERNELS if any(row.op.startswith("ntk") for row in rows) else Factors(),
        )

    @property
    def best(self) -> Row | None:
        """The quickest peer."""
        return min(self.peers, key=lambda row: row.time, default=None)

    @property
    def leanest(self) -> Row | None:
        return min(self.peers, key=lambda row: row.peak_mb, default=None)

    @property
    def setting(self) -> tuple[Row, float] | None:
        """The row that sets the bar, and the factor on its time."""
        marks = []
        if self.best:
            marks.append((self.best, self.factors.time))
        if self.floor:
            marks.append((self.floor, FLOOR_FACTOR))
        return max(marks, key=lambda mark: mark[0].time * mark[1], default=None)

    def ratio(self, row: Row | None) -> float | None:
        """Our time over that row's."""
        return self.ours.time / row.time if self.ours and row else None

    @property
    def in_time(self) -> bool | None:
        if not self.ours or not self.setting:
            return None
        row, factor = self.setting
        return self.ours.time <= factor * row.time

    @property
    def memory_ratio(self) -> float | None:
        if not self.ours or not self.leanest:
            return None
        return max(self.ours.peak_mb, EQUAL_MB) / max(self.leanest.peak_mb, EQUAL_MB)

    @property
    def in_memory(self) -> bool | None:
        ratio = self.memory_ratio
        if ratio is None or self.ours is None:
            return None
        return ratio <= self.factors.memory or self.ours.peak_mb <= EQUAL_MB


def _usable(row: Row | None) -> Row | None:
    return row if row and row.offered and row.valid else None
