"""One measurement in a process of its own: seconds, peak memory, error.

`measure` starts the process and reads its answer; run as a module this file is that process.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parents[1]
LEAST_SECONDS = 0.5
"""Quick operations are repeated until they have run this long together."""
MOST_REPETITIONS = 15


@dataclass(frozen=True)
class Row:
    """One measurement, a row of `results.json`.

    `seconds` (wall) and `cpu_seconds` are medians over the repetitions; `peak_mb` is above the
    loaded model and data; `others` is the number of cores that other processes kept busy meanwhile;
    `elapsed` the seconds that the process took, from which the next run estimates its length.
    """

    case: str
    op: str
    library: str
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_mb: float | None = None
    repetitions: int = 0
    error: float | None = None
    valid: bool = False
    estimate: bool = False
    note: str = ""
    others: float | None = None
    elapsed: float = 0.0

    @property
    def offered(self) -> bool:
        return self.cpu_seconds is not None

    @property
    def time(self) -> float:
        """What is compared: with one thread, CPU time is the wall time of a machine at rest."""
        assert self.cpu_seconds is not None
        return self.cpu_seconds


@dataclass(frozen=True)
class Settings:
    """How a measurement is repeated and bounded."""

    repetitions: int = 3
    budget: float = 20.0
    """CPU seconds after which a program is not repeated again."""
    limit: float = 600.0
    """Seconds after which its process is stopped."""


def measure(case: str, op: str, library: str, settings: Settings) -> Row:
    """Run the measurement in a new process with one thread."""
    row, start = Row(case, op, library), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "row.json"
        command = [
            sys.executable, "-m", f"{__package__}.measure", case, op, library, str(answer),
            str(settings.repetitions), str(settings.budget),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=one_thread(), timeout=settings.limit,
                capture_output=True, text=True,
            )  # fmt: skip
            row = Row(**json.loads(answer.read_text()))
        except subprocess.TimeoutExpired:
            row = replace(row, note=f"over {settings.limit:.0f} s")
        except FileNotFoundError:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            row = replace(row, note=f"died with code {done.returncode}: {last[:120]}")
    return replace(row, elapsed=round(time.monotonic() - start, 2))


def one_thread() -> dict[str, str]:
    """The environment of a measuring process."""
    return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Memory:
    """Peak resident memory above a baseline, in MB."""

    def __init__(self) -> None:
        ctypes.CDLL(None).malloc_trim(0)  # what loading freed is not the operation's
        try:
            Path("/proc/self/clear_refs").write_text("5")  # peak := present size
            self.resettable = True
        except OSError:
            self.resettable = False
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.base = pages * resource.getpagesize() / 2**20

    def peak(self) -> float:
        if not self.resettable:  # since the process started: an upper bound
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 - self.base
        status = Path("/proc/self/status").read_text().splitlines()
        (line,) = (entry for entry in status if entry.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10 - self.base


class Others:
    """How many cores other processes keep busy: the machine's clock less this process's."""

    def __init__(self) -> None:
        self.before, self.own, self.start = self._busy(), time.process_time(), time.monotonic()

    @staticmethod
    def _busy() -> float:
        fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        idle = fields[3] + fields[4]
        return (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK")

    def cores(self) -> float:
        wall = max(time.monotonic() - self.start, 0.05)
        own = time.process_time() - self.own
        return max(0.0, (self._busy() - self.before - own) / wall)


@dataclass(frozen=True)
class Timing:
    """What a program took: medians of the seconds, the peak memory, the number of repetitions."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    repetitions: int
    others: float


def timed(work: Callable[[], T], repetitions: int, budget: float) -> tuple[Timing, T]:
    """Repeat the work; what it took, and its last value."""
    memory, others = Memory(), Others()
    seconds: list[float] = []
    cpu: list[float] = []
    value = None
    while len(seconds) < repetitions or (
        sum(seconds) < LEAST_SECONDS and len(seconds) < MOST_REPETITIONS
    ):
        del value
        wall, process = time.perf_counter(), time.process_time()
        value = work()
        seconds.append(time.perf_counter() - wall)
        cpu.append(time.process_time() - process)
        if sum(cpu) > budget:
            break
    found = Timing(
        statistics.median(seconds),
        statistics.median(cpu),
        round(memory.peak(), 1),
        len(seconds),
        round(others.cores(), 2),
    )
    return found, value


def run(case_name: str, op: str, library: str, repetitions: int, budget: float) -> Row:
    """Measure in this process."""
    import torch

    from .cases import load
    from .libraries import program_of
    from .program import NotOfferedError
    from .reference import load_reference

    row = Row(case_name, op, library)
    torch.set_num_threads(1)
    case = load(case_name)
    # Start-up costs of torch itself belong to nobody.
    outputs = case.model(case.inputs[:4])
    # With a cotangent of its own, since torch imports half a second of modules at the first one.
    torch.autograd.grad(outputs, list(case.model.parameters()), torch.ones_like(outputs))
    torch.nn.functional.cross_entropy(case.model(case.inputs[:4]), case.targets[:4]).backward()
    case.model.zero_grad(set_to_none=True)
    try:
        program = program_of(library, op, case)
        timing, value = program.measured(repetitions, budget)
    except NotOfferedError:
        return replace(row, note="not offered")
    except ImportError as error:
        return replace(row, note=f"not installed ({error})")
    row = replace(
        row,
        seconds=timing.seconds / program.share,
        cpu_seconds=timing.cpu_seconds / program.share,
        peak_mb=timing.peak_mb,
        repetitions=timing.repetitions,
        others=timing.others,
        estimate=program.estimate,
        note=program.note,
    )
    error = program.error(value.detach(), load_reference(op, case_name))
    return replace(row, error=error, valid=error <= program.tolerance)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("case", "op", "library", "answer"):
        parser.add_argument(name)
    parser.add_argument("repetitions", type=int)
    parser.add_argument("budget", type=float)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    try:
        row = run(given.case, given.op, given.library, given.repetitions, given.budget)
    except Exception as error:  # a peer's refusal is a result, whatever its class
        message = (str(error).splitlines() or [""])[0][:120]
        row = Row(
            given.case, given.op, given.library, note=f"raises {type(error).__name__}: {message}"
        )
    Path(given.answer).write_text(json.dumps(asdict(row)))


if __name__ == "__main__":
    main()
