"""Progress bars: one for the whole report, one for the stage that is under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[[int], None]


class Stages:
    """Bars for a known number of stages; silent where `shown` is False.

    Args:
        count: how many stages there are.
        shown: whether to draw anything.

    Attributes:
        shown: the same.
    """

    def __init__(self, count: int, shown: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<32}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not shown,
        )
        self.shown = shown
        self._count = count
        self._done = 0

    def __enter__(self) -> Stages:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After bad input its message stands alone; after Ctrl-C the bars show how far it was.
        self._progress.live.transient = kind is not None and issubclass(kind, Exception)
        self._progress.stop()

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Advance]:
        """The bar of one stage; what it yields is called with the number of units done."""
        self._done += 1
        task = self._progress.add_task(f"[{self._done}/{self._count}] {name}", total=total)
        yield lambda units: self._progress.advance(task, units)
        if total is None:
            self._progress.update(task, total=1, completed=1)
        else:
            self._progress.update(task, completed=total)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Give the terminal to work that shows a bar of its own, and take it back."""
        if not self.shown:
            yield
            return
        self._progress.live.transient = True
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.live.transient = False
            self._progress.start()
