"""The data of a report: a training loader, and the fixed samples that are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pullback import data as datasets
from pullback.batches import as_batch
from pullback.errors import InputError
from pullback.report import user_code
from pullback.report.randomness import seed_everything

Subset = tuple[Float[Tensor, "n ..."], Int[Tensor, " n"]]
Loader = Iterable[Any]
EVALUATED = 500


@dataclass(frozen=True)
class Source:
    """Where samples come from, before any was read.

    Attributes:
        name: what to call the data.
        train: a loader of (inputs, labels) batches that can be read again and again.
        test: the same for held-out samples, where there are any.
        classes: names of the classes, where they are known.
    """

    name: str
    train: Loader
    test: Loader | None
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class Samples:
    """What one pass over the data found.

    Attributes:
        steps: batches in one epoch of training.
        sizes: number of samples in each split.
        counts: number of training samples of each class, as far as the labels go.
        classes: how many classes the labels of all splits need.
        evaluated: the first samples of each split, at most `EVALUATED`, for the loss.
        by_class: the first samples of each class, by split.
    """

    steps: int
    sizes: dict[str, int]
    counts: list[int]
    classes: int
    evaluated: dict[str, Subset]
    by_class: dict[str, list[list[Tensor]]]

    @property
    def held_out(self) -> str:
        """The split that the network does not learn from, or "train" where there is no other."""
        return "test" if "test" in self.by_class else "train"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.evaluated["train"][0].shape[1:])

    def balanced(self, split: str, n: int, classes: Sequence[int]) -> Subset:
        """At most `n` samples, as many of each class as far as there are, class after class."""
        known = self.by_class[split]
        share = max(1, n // len(classes))
        present = [label for label in classes if label < len(known)]
        chosen = [(x, label) for label in present for x in known[label][:share]][:n]
        if not chosen:
            raise InputError(f"data: the {split} samples have none of the classes {list(classes)}")
        inputs = torch.stack([x for x, _ in chosen])
        return inputs, torch.tensor([label for _, label in chosen])


class Shuffled:
    """Tensors as batches in a new order each time, drawn from torch's global random state."""

    def __init__(self, inputs: Tensor, labels: Tensor, batch_size: int) -> None:
        self.inputs, self.labels, self.batch_size = inputs, labels, batch_size

    def __iter__(self) -> Iterator[Subset]:
        for chosen in torch.randperm(len(self.labels)).split(self.batch_size):
            yield self.inputs[chosen], self.labels[chosen]

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)


def source(name: str, batch_size: int) -> Source:
    """The data that `name` asks for: a named set, or what FILE.py:function returns.

    Raises:
        InputError: an unknown name, data that were not fetched, or a function that fails or
            returns something else.
    """
    if not user_code.names_a_function(name):
        images, held_out = datasets.load(name, "train"), datasets.load(name, "test")
        return Source(
            name,
            Shuffled(images.inputs, images.labels, batch_size),
            [(held_out.inputs, held_out.labels)],
            images.classes,
        )
    made = user_code.call("data", user_code.load_function("data", name))
    train, test = made if _is_pair_of_loaders(made) else (made, None)
    return Source(name, _loader(train, name), None if test is None else _loader(test, name), None)


def _is_pair_of_loaders(made: object) -> bool:
    if not isinstance(made, tuple) or len(made) != 2:
        return False
    return not isinstance(made[1], Tensor)


def _loader(made: object, name: str) -> Loader:
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Tensor):
        return [made]
    if not isinstance(made, Iterable) or isinstance(made, str | Tensor | dict):
        raise InputError(
            f"data: {name} returned {type(made).__name__}; return a loader of (inputs, labels) "
            "batches, or a pair (train, test) of loaders"
        )
    if isinstance(made, Iterator):
        raise InputError(
            f"data: {name} returned an iterator, which can be read only once; return a DataLoader "
            "or a list"
        )
    return made


def read(data: Source, keep: int, seed: int, tick: Callable[[], None]) -> Samples:
    """Read all data once: count, check, and keep the samples that will be measured.

    Args:
        data: the loaders.
        keep: how many samples of a class to keep at most.
        seed: for loaders that shuffle.
        tick: called after each batch.

    Raises:
        InputError: a loader is empty or a batch is not (inputs, class labels).
    """
    loaders = {"train": data.train} | ({} if data.test is None else {"test": data.test})
    passes = {}
    for split, loader in loaders.items():
        seed_everything(seed)
        passes[split] = _read_split(split, loader, keep, tick)
    return Samples(
        steps=passes["train"].batches,
        sizes={split: sum(found.counts) for split, found in passes.items()},
        counts=passes["train"].counts,
        classes=max(len(found.counts) for found in passes.values()),
        evaluated={split: found.first() for split, found in passes.items()},
        by_class={split: found.by_class for split, found in passes.items()},
    )


class _Pass:
    """What was seen so far of one split."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.batches = 0
        self.counts: list[int] = []
        self.by_class: list[list[Tensor]] = []
        self._inputs: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._kept = 0

    def add(self, inputs: Tensor, labels: Tensor) -> None:
        self.batches += 1
        missing = int(labels.max()) + 1 - len(self.counts)
        self.counts += [0] * missing
        self.by_class += [[] for _ in range(missing)]
        for label, count in enumerate(labels.bincount().tolist()):
            self.counts[label] += count
            wanted = self.keep - len(self.by_class[label])
            if count and wanted > 0:
                self.by_class[label] += list(inputs[labels == label][:wanted])
        if self._kept < EVALUATED:
            self._inputs.append(inputs[: EVALUATED - self._kept])
            self._labels.append(labels[: EVALUATED - self._kept])
            self._kept += len(self._labels[-1])

    def first(self) -> Subset:
        return torch.cat(self._inputs), torch.cat(self._labels)


def _read_split(split: str, loader: Loader, keep: int, tick: Callable[[], None]) -> _Pass:
    found = _Pass(keep)
    for position, item in enumerate(loader):
        found.add(*labelled(item, f"{split} batch {position}"))
        tick()
    if found.batches == 0:
        raise InputError(f"data: the {split} loader is empty; it has to give at least one batch")
    return found


def labelled(item: object, where: str) -> Subset:
    """One batch of a loader as inputs and class labels.

    Raises:
        InputError: it is something else, or a label is not a class.
    """
    batch = as_batch(item)
    if batch.kwargs or len(batch.args) != 1 or not isinstance(batch.args[0], Tensor):
        raise InputError(f"data: {where} is not a pair (inputs, labels) of tensors")
    inputs, labels = batch.args[0], batch.targets
    if labels is None or labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        seen = "none" if labels is None else f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise InputError(f"labels: {where} has {seen}; give whole class numbers of shape (n,)")
    if len(labels) != len(inputs) or len(labels) == 0:
        raise InputError(f"data: {where} has {len(inputs)} inputs and {len(labels)} labels")
    if int(labels.min()) < 0:
        raise InputError(f"labels: {where} has {int(labels.min())}; classes count from 0")
    if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
        raise InputError(f"data: the inputs of {where} contain NaN or infinity; clean them first")
    return inputs, labels.long()
