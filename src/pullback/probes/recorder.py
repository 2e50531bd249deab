"""Follow quantities while a network trains.

A *probe* is a small object that looks at a network at one moment and returns plain numbers. A
`Recorder` asks its probes at chosen steps of any training loop and keeps their answers:

    probes = [Loss({"train": (x, y)}), ParameterDistance(model)]
    recorder = Recorder(model, probes, at=log_spaced(500))
    recorder(0)
    for step, (inputs, labels) in enumerate(loader, start=1):
        ...                                     # the loop, as it was
        recorder(step)
    recorder.series("distance", "l2")           # ([0, 1, 2, ...], [0.0, 0.013, ...])
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import nn

from pullback.errors import InputError
from pullback.probes.quiet import undisturbed

T = TypeVar("T")
Record = dict[str, Any]
"""What was measured at one step: "step", "seconds", and the answer of each probe by its name."""


class Moment:
    """A network at one step of its training, in evaluation mode.

    Probes that need the same expensive object at the same moment share it by `once`.

    Attributes:
        model: the network itself, not a copy; read it, do not write to it.
        step: how many updates it has had.
    """

    def __init__(self, model: nn.Module, step: int) -> None:
        self.model = model
        self.step = step
        self._shared: dict[Hashable, Any] = {}

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of `compute()`, computed by the first probe that asks for `key`."""
        if key not in self._shared:
            self._shared[key] = compute()
        value: T = self._shared[key]
        return value


@runtime_checkable
class Probe(Protocol):
    """One quantity to follow. To add one, write a class with these two members.

    Attributes:
        name: under which name the answer is kept.
    """

    name: str

    def measure(self, moment: Moment) -> Mapping[str, Any]:
        """The quantity at this moment: numbers, text, lists and dictionaries of them (JSON).

        Numbers are finite; None stands where there is none.
        """
        ...


@runtime_checkable
class Writer(Protocol):
    """What takes numbers while they are measured."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Take one number."""
        ...


class Recorder:
    """Ask probes at chosen steps of a training loop, and keep their answers.

    Measuring leaves the training as it was, bit for bit: weights, gradients, modes, buffers and
    random states. The records are plain data: `json.dumps(recorder.records)` stores them, and
    `records=` continues an interrupted run.

    Args:
        model: the network that is being trained.
        probes: what to ask.
        at: the steps, counted in updates; 0 is before the first.
        records: what an earlier, interrupted run recorded.
        writer: gets every number as soon as it is measured, by `add_scalar(tag, value, step)`: a
            `torch.utils.tensorboard.SummaryWriter`, or anything else that has it. The tag is the
            probe's name and the keys within its answer.

    Raises:
        InputError: two probes have the same name; or a measured number is not finite.

    Example:
        >>> import torch
        >>> from pullback.probes import Loss, ParameterDistance, Recorder, log_spaced
        >>> model, x, y = torch.nn.Linear(4, 3), torch.ones(5, 4), torch.zeros(5, dtype=torch.long)
        >>> optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> probes = [Loss({"train": (x, y)}), ParameterDistance(model)]
        >>> recorder = Recorder(model, probes, at=log_spaced(10, points=4))
        >>> for step in range(11):
        ...     measured = recorder(step)
        ...     optimiser.zero_grad()
        ...     torch.nn.functional.cross_entropy(model(x), y).backward()
        ...     optimiser.step()
        >>> steps, losses = recorder.series("loss", "train", "loss")
        >>> steps, losses[0] > losses[-1]
        ([0, 1, 3, 10], True)
    """

    def __init__(
        self,
        model: nn.Module,
        probes: Sequence[Probe],
        at: Iterable[int],
        records: Sequence[Record] = (),
        writer: Writer | None = None,
    ) -> None:
        names = [probe.name for probe in probes]
        if len(set(names)) < len(names):
            raise InputError(f"probes: two have the same name in {names}; give each its own")
        self.model = model
        self.probes = tuple(probes)
        self.at = tuple(sorted(set(at)))
        self.records: list[Record] = [dict(record) for record in records]
        self.writer = writer

    def __call__(self, step: int) -> bool:
        """Measure if `step` is one of the chosen ones; whether it was measured."""
        if step not in self.at or any(record["step"] == step for record in self.records):
            return False
        self.records.append(self.measure(step))
        if self.writer is not None:
            self._write(self.records[-1], self.writer)
        return True

    def _write(self, record: Record, writer: Writer) -> None:
        for path, value in leaves({probe.name: record[probe.name] for probe in self.probes}):
            if isinstance(value, int | float):
                writer.add_scalar(path.replace(".", "/"), value, record["step"])

    def measure(self, step: int) -> Record:
        """Ask all probes now.

        Raises:
            InputError: a measured number is not finite, or a probe cannot measure.
        """
        start = time.perf_counter()
        answers: Record = {}
        with undisturbed(self.model) as model:
            moment = Moment(model, step)
            for probe in self.probes:
                answers[probe.name] = _asked(probe, moment)
        check_finite(answers, step)
        return {"step": step, "seconds": time.perf_counter() - start, **answers}

    def series(self, *path: str | int) -> tuple[list[int], list[Any]]:
        """The steps, and the value at `path` (probe name, then keys) at each of them."""
        return series(self.records, *path)


def _asked(probe: Probe, moment: Moment) -> Mapping[str, Any]:
    """The probe's answer; its complaints say which probe and when."""
    try:
        return probe.measure(moment)
    except InputError as error:
        hint = "; if the training has diverged, lower the learning rate" if moment.step else ""
        raise InputError(f"probe {probe.name!r} at step {moment.step}: {error}{hint}") from error


def series(records: Iterable[Record], *path: str | int) -> tuple[list[int], list[Any]]:
    """The steps of some records, and the value at `path` in each of them."""
    steps, values = [], []
    for record in records:
        value: Any = record
        for key in path:
            value = value[key]
        steps.append(record["step"])
        values.append(value)
    return steps, values


def check_finite(answers: Record, step: int) -> None:
    """Raise InputError where an answer holds NaN or infinity.

    Raises:
        InputError: naming the quantity and the step.
    """
    for path, value in leaves(answers):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(
                f"probe {path!r} measured {value} at step {step}: the training has diverged; "
                "lower the learning rate"
            )


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """The numbers and texts inside nested dictionaries and lists, each with its dotted path."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from leaves(item, f"{path}[{position}]")
    else:
        yield path, value
