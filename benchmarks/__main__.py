"""`python -m benchmarks`: measure, print the table, write `results.json`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from itertools import product

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .bar import Bar
from .cases import CASES
from .libraries import LIBRARIES, offered
from .measure import ROOT, Row, Settings, measure, one_thread
from .program import OPERATIONS
from .reference import path_of
from .results import Results
from .table import print_pairs, print_results

Job = tuple[str, str, str]


def main() -> None:
    given = _arguments()
    console = Console()
    console = Console(width=max(console.width, 150))
    results = Results()
    settings = Settings(given.repetitions, given.budget, given.limit)
    cells = [(c, o) for c, o in product(given.case, given.op) if offered(o, c)]
    if given.table:
        print_results(results, given.case, console)
    elif given.pairs:
        _compare(cells, given.pairs, settings, results, console)
    else:
        _measure([(c, o, lib) for (c, o), lib in product(cells, given.library)], settings, results,
                 console)  # fmt: skip
        print_results(results, given.case, console)


def _measure(jobs: list[Job], settings: Settings, results: Results, console: Console) -> None:
    with _progress(console) as progress:
        task = progress.add_task("", total=len(jobs), left="")
        for k, (case, op, library) in enumerate(jobs):
            left = results.expected_seconds(jobs[k:])
            progress.update(task, description=f"{case} {op} {library}", left=_duration(left))
            _ensure_reference(op, case)
            results.add(measure(case, op, library, settings))
            progress.advance(task)


def _compare(
    cells: list[tuple[str, str]], count: int, settings: Settings, results: Results, console: Console
) -> None:
    """Our program and the one that sets the bar, in alternation."""
    for case, op in cells:
        _ensure_reference(op, case)
        setting = Bar.of(results.of(case, op)).setting
        if setting is None:
            console.print(f"{case} {op}: no row sets a bar yet; measure first")
            continue
        (other, factor), pairs = setting, []
        with _progress(console, transient=True) as progress:
            task = progress.add_task(f"{case} {op} / {other.library}", total=count, left="")
            for k in range(count):
                jobs = [(case, op, "pullback"), (case, op, other.library)]
                left = results.expected_seconds(jobs) * (count - k)
                progress.update(task, left=_duration(left))
                pair: list[Row] = [measure(*job, settings) for job in jobs]
                pairs.append((pair[0], pair[1]))
                progress.advance(task)
        print_pairs(pairs, factor, console)


def _ensure_reference(op: str, case: str) -> None:
    if not path_of(op, case).exists():
        command = [sys.executable, "-m", f"{__package__}.reference", op, case]
        subprocess.run(command, cwd=ROOT, env=one_thread(), check=True)


def _progress(console: Console, transient: bool = False) -> Progress:
    return Progress(
        TextColumn("{task.description:32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]} left"),
        console=console,
        transient=transient,
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="Each operation is measured on its own cases: program.py says which.",
    )
    for name, choices in (("case", CASES), ("op", OPERATIONS), ("library", LIBRARIES)):
        parser.add_argument(
            f"--{name}", action="append", metavar="NAMES",
            help=f"of {', '.join(choices)}; repeatable, or separated by commas; default all",
        )  # fmt: skip
    parser.add_argument("--repetitions", type=int, default=3, help="at least (default 3)")
    parser.add_argument(
        "--budget", type=float, default=20.0,
        help="CPU seconds after which a program is not repeated again (default 20)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=float, default=600.0, help="seconds for one process (default 600)"
    )
    parser.add_argument(
        "--pairs", type=int, default=0, metavar="N",
        help="measure pullback and the row that sets its bar in alternation, N times",
    )  # fmt: skip
    parser.add_argument("--table", action="store_true", help="only print what was measured before")
    given = parser.parse_args()
    for name, choices in (("case", CASES), ("op", OPERATIONS), ("library", LIBRARIES)):
        chosen = [word for entry in getattr(given, name) or choices for word in entry.split(",")]
        unknown = sorted(set(chosen) - set(choices))
        if unknown:
            parser.error(f"--{name}: {', '.join(unknown)} is none of {', '.join(choices)}")
        setattr(given, name, [word for word in choices if word in chosen])
    return given


if __name__ == "__main__":
    main()
