"""The results as tables, one per case, and the pairwise comparison."""

from __future__ import annotations

import statistics

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .bar import Bar
from .libraries import LIBRARIES
from .measure import Row
from .program import OPERATIONS
from .results import Results


def print_results(results: Results, cases: list[str], console: Console) -> None:
    for case in cases:
        operations = [op for op in OPERATIONS if results.of(case, op)]
        if not operations:
            continue
        table = Table(title=f"{case}: CPU seconds / peak MB", title_justify="left")
        table.add_column("operation")
        for library in LIBRARIES:
            table.add_column(library, justify="right")
        for heading in ("/ best peer", "/ floor", "time", "memory"):
            table.add_column(heading, justify="right")
        for op in operations:
            rows = {row.library: row for row in results.of(case, op)}
            bar = Bar.of(list(rows.values()))
            table.add_row(
                op,
                *(_cell(rows.get(library)) for library in LIBRARIES),
                _ratio(bar.ratio(bar.best)),
                _ratio(bar.ratio(bar.floor)),
                _verdict(bar.in_time),
                _verdict(bar.in_memory, bar.memory_ratio),
            )
        console.print(table)
        for op in operations:
            for row in results.of(case, op):
                if row.note and row.note != "not offered":
                    note = f"  {op}, {row.library}: {row.note}"
                    console.print(note, style="dim", highlight=False)
    console.print(
        "* fewer than 3 repetitions   ~ an estimate or an extrapolation, sets no bar   "
        "! wrong value, not counted   + others kept more than 0.3 cores busy",
        style="dim", highlight=False,
    )  # fmt: skip


def _cell(row: Row | None) -> Text:
    if row is None:
        return Text("")
    if not row.offered:
        absent = row.note.startswith("not installed")
        return Text(
            "-" if row.note == "not offered" else "absent" if absent else "raises", style="dim"
        )
    marks = "*" * (row.repetitions < 3) + "~" * row.estimate + "!" * (not row.valid)
    marks += "+" * ((row.others or 0) > 0.3)
    return Text(f"{row.time:.3f} / {row.peak_mb:.0f}{marks}")


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _verdict(passed: bool | None, ratio: float | None = None) -> Text:
    if passed is None:
        return Text("")
    shown = "" if ratio is None else f" {ratio:.2f}"
    return Text(("ok" if passed else "over") + shown, style="green" if passed else "bold red")


def print_pairs(pairs: list[tuple[Row, Row]], factor: float, console: Console) -> None:
    """Each pair's ratio of our time to the bar-setting row's, and their median."""
    ours, other = pairs[0]
    ratios = [a.time / b.time for a, b in pairs if a.offered and b.offered]
    if not ratios:
        console.print(f"{ours.case} {ours.op}: no pair measured ({ours.note or other.note})")
        return
    median = statistics.median(ratios)
    verdict = _verdict(median <= factor)
    line = Text(f"{ours.case:12}{ours.op:9}/ {other.library:11} ")
    line.append(" ".join(f"{r:.2f}" for r in ratios))
    line.append(f"   median {median:.2f}, allowed {factor:.2f}: ").append(verdict)
    console.print(line)
