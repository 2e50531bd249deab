"""How data streams in: tensors, pairs, loaders, dictionaries; always as `Batch` objects.

`Batches(data)` can be iterated any number of times (several quantities need two passes) and checks
what comes through: shapes agree, numbers are finite, there is at least one sample.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import psutil
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils import _pytree as pytree

from pullback.errors import InputError

T = TypeVar("T")

PLAIN = (bool, int, float, str, type(None))  # arguments of a module that can be compared
TARGET_KEYS = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True)
class Batch:
    """Some samples: what the module is called with, and their targets if there are any.

    Attributes:
        args: positional arguments of the module; tensors have the samples in front.
        kwargs: keyword arguments of the module, likewise.
        targets: labels or values to predict, samples in front.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    targets: Tensor | None = None

    def __len__(self) -> int:
        return self._size

    @cached_property
    def _size(self) -> int:
        return next(len(leaf) for leaf in self._leaves() if leaf.ndim > 0)

    def _leaves(self) -> list[Tensor]:
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    @property
    def content(self) -> tuple[tuple[Any, ...], dict[str, Any], Tensor | None]:
        """All of it as one tree."""
        return self.args, self.kwargs, self.targets

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with `function` applied to every tensor."""
        args, kwargs, targets = pytree.tree_map_only(Tensor, function, self.content)
        return Batch(args, kwargs, targets)

    def take(self, start: int, stop: int) -> Batch:
        """The samples from `start` up to `stop`."""
        size = len(self)
        return self.map(lambda t: t[start:stop] if t.ndim > 0 and len(t) == size else t)

    def split(self, size: int) -> Iterator[Batch]:
        """Pieces of at most `size` samples."""
        if size >= len(self):
            yield self
            return
        for start in range(0, len(self), size):
            yield self.take(start, start + size)

    def check(self, position: int) -> None:
        """Raise InputError where samples are missing, differ in number, or are not finite."""
        if not any(leaf.ndim > 0 for leaf in self._leaves()):
            raise InputError(f"data: batch {position} holds no tensor with samples in front")
        samples = [t for t in (*self.args, self.targets) if isinstance(t, Tensor) and t.ndim > 0]
        if any(len(tensor) != len(samples[0]) for tensor in samples):
            raise InputError(
                f"data: batch {position} has {[len(t) for t in samples]} samples in its inputs and "
                "targets; give one of each for every sample"
            )
        for leaf in self._leaves():
            if leaf.is_floating_point() and not all_finite(leaf):
                raise InputError(
                    f"data: the inputs of batch {position} contain NaN or infinity; "
                    "clean them before measuring"
                )


def all_finite(values: Tensor) -> bool:
    """Whether no entry is NaN or infinite."""
    # The sum is several times quicker, and only finite if they all are.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def as_batch(item: object) -> Batch:
    """Read one item of a loader: a tensor, a pair (inputs, targets) or a dictionary.

    Raises:
        InputError: the item has another form.
    """
    if isinstance(item, Batch):
        return item
    if isinstance(item, Tensor):
        return Batch((item,))
    if isinstance(item, Mapping):
        targets = next((item[key] for key in TARGET_KEYS if key in item), None)
        return Batch((), {k: v for k, v in item.items() if k not in TARGET_KEYS}, targets)
    if isinstance(item, tuple | list) and len(item) in (1, 2):
        targets = item[1] if len(item) == 2 else None
        if targets is not None and not isinstance(targets, Tensor):
            raise InputError(f"data: targets must be a tensor, got {type(targets).__name__}")
        inputs = item[0]
        if isinstance(inputs, Tensor):
            return Batch((inputs,), {}, targets)
        if isinstance(inputs, Mapping):
            return Batch((), dict(inputs), targets)
        if isinstance(inputs, tuple | list):
            return Batch(tuple(inputs), {}, targets)
    raise InputError(
        f"data: cannot read a batch of type {type(item).__name__}; give a tensor, a pair "
        "(inputs, targets) with inputs a tensor, tuple or dictionary, or a dictionary whose "
        f"targets stand under one of {TARGET_KEYS}"
    )


class Batches:
    """Data of any accepted form as a re-iterable sequence of checked batches.

    Args:
        data: a tensor (n, ...); a pair (inputs, targets) of tensors; or an iterable of batches
            (a `DataLoader`, a list, ...). A generator is read into memory once, because several
            quantities need more than one pass.
        device: where batches are moved to.

    Raises:
        InputError: the data has another form, is empty, or holds non-finite inputs.
    """

    def __init__(self, data: object, device: torch.device) -> None:
        self.device = device
        if isinstance(data, Batches):
            self._items: Iterable[object] = data._items
        elif isinstance(data, Tensor | Mapping) or _is_pair(data):
            self._items = [data]
        elif isinstance(data, Iterator):
            self._items = list(data)
        elif isinstance(data, Iterable):
            self._items = data
        else:
            raise InputError(
                f"data: cannot read {type(data).__name__}; give a tensor, a pair (inputs, targets) "
                "or an iterable of batches"
            )

    @property
    def count(self) -> int | None:
        """Number of batches, where the data knows it."""
        try:
            return len(self._items)  # type: ignore[arg-type]
        except TypeError:
            return None

    def __iter__(self) -> Iterator[Batch]:
        empty = True
        for position, item in enumerate(self._items):
            batch = as_batch(item)
            batch.check(position)
            if len(batch) == 0:
                continue
            empty = False
            yield batch.map(lambda tensor: tensor.to(self.device))
        if empty:
            raise InputError("data: no samples; the loader is empty")

    def first(self, samples: int) -> Iterator[Batch]:
        """So many samples from the beginning, or all if there are fewer."""
        for batch in self:
            if samples <= 0:
                return
            yield batch.take(0, samples)
            samples -= len(batch)


def after(batches: Iterable[Batch], samples: int) -> Iterator[Batch]:
    """The batches without that many samples at their beginning."""
    for batch in batches:
        if samples < len(batch):
            yield batch.take(samples, len(batch)) if samples else batch
        samples = max(0, samples - len(batch))


def joined(batches: Iterable[Batch], samples: int) -> Iterator[Batch]:
    """The same samples in fewer batches: neighbours that are alike, up to so many samples.

    What is done for each batch is then done less often: a third of the time of small networks.
    """
    held: list[Batch] = []
    for batch in batches:
        room = samples - sum(map(len, held))
        if held and (len(batch) > room or not _alike(held[0], batch)):
            yield _join(held)
            held, room = [], samples
        if 2 * len(batch) > room:  # the next one would not fit
            yield _join([*held, batch])
            held = []
        else:  # a copy, because a loader may write its next batch into the same memory
            held.append(batch.map(torch.clone))
    if held:
        yield _join(held)


def _join(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    rows = zip(*(pytree.tree_leaves(batch.content) for batch in batches), strict=True)
    leaves = [torch.cat(row) if isinstance(row[0], Tensor) else row[0] for row in rows]
    args, kwargs, targets = pytree.tree_unflatten(leaves, pytree.tree_structure(batches[0].content))
    return Batch(args, kwargs, targets)


def _alike(one: Batch, other: Batch) -> bool:
    """Whether two batches differ in nothing but their samples and how many there are."""
    leaves, structure = pytree.tree_flatten(one.content)
    others, theirs = pytree.tree_flatten(other.content)
    return structure == theirs and all(
        _of_samples(a, one) and _of_samples(b, other) and _row(a) == _row(b)
        if isinstance(a, Tensor) and isinstance(b, Tensor)
        else a is b or (type(a) is type(b) and isinstance(a, PLAIN) and a == b)
        for a, b in zip(leaves, others, strict=True)
    )


def _of_samples(tensor: Tensor, batch: Batch) -> bool:
    return tensor.ndim > 0 and len(tensor) == len(batch)


def _row(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape[1:], tensor.dtype


def _is_pair(data: object) -> bool:
    """Whether `data` is one (inputs, targets) pair rather than a sequence of two batches."""
    if not isinstance(data, tuple) or len(data) != 2 or not isinstance(data[1], Tensor):
        return False
    return isinstance(data[0], Tensor | Mapping | tuple)


def working_memory(memory: int | None, device: torch.device, touched: int = 0) -> int:
    """Bytes that intermediate results may take: the caller's figure, or a default for the device.

    The default on a CPU, 64 MiB, keeps the work near the caches, where it is also fastest. Where
    each step of the work has to go through more than that, it takes as much, as long as there is
    plenty: a few samples at a time would spend their time on that alone.

    Args:
        memory: the caller's figure.
        device: where the work is done.
        touched: bytes that each step reads and writes, however few samples it has.

    Raises:
        InputError: the caller's figure is not positive.
    """
    if memory is not None:
        if memory <= 0:
            raise InputError(f"memory: {memory} bytes; give a positive number of bytes")
        return memory
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] // 4)
    return max(64 * 2**20, min(touched, int(psutil.virtual_memory().available) // 8))


def check_fits(what: str, needed: int, device: torch.device, remedy: str) -> None:
    """Raise InputError when `needed` bytes are more than the device has free.

    Raises:
        InputError: naming what was asked for, how much it needs and what to do instead.
    """
    if device.type == "cuda":
        available = int(torch.cuda.mem_get_info(device)[0])
    else:
        available = int(psutil.virtual_memory().available)
    if needed > available:
        raise InputError(
            f"{what} needs {needed / 1e9:,.1f} GB, but {available / 1e9:,.1f} GB are free; {remedy}"
        )


def tracked(
    items: Iterable[T], description: str, total: int | None, progress: bool | None
) -> Iterator[T]:
    """Iterate with a progress bar that shows the time left.

    Args:
        items: what to iterate over.
        description: the name of the stage.
        total: how many items there are, where known.
        progress: True or False to force it; None shows a bar on a terminal.
    """
    shown = sys.stderr.isatty() if progress is None else progress
    if not shown:
        yield from items
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        for item in items:
            yield item
            bar.advance(task)
