"""What a part of the work costs: seconds, and the memory of the process at its peak."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import psutil

from pullback.report.numbers import CostNumbers


class Cost:
    """Measure the block it encloses.

    Attributes:
        seconds: how long it took.
        peak_bytes: the largest resident memory of the whole process, looked at every 10 ms.

    Example:
        >>> from pullback.report.cost import Cost
        >>> with Cost() as cost:
        ...     squares = [i * i for i in range(1000)]
        >>> cost.seconds > 0, cost.peak_bytes > 1_000_000
        (True, True)
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak_bytes = 0
        self._process = psutil.Process()
        self._stop = threading.Event()

    def __enter__(self) -> Cost:
        self._look()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._start
        self._stop.set()
        self._watcher.join()
        self._look()

    def numbers(self, part: str) -> CostNumbers:
        """The cost as plain data, under the name of a part of the report."""
        return CostNumbers(part=part, seconds=self.seconds, peak_bytes=self.peak_bytes)

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self._look()

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)
