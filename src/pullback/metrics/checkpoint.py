"""Sums of an unfinished computation in a folder, so that it goes on where it was interrupted.

One file holds the sums of one pass over the data. It is written at the end of a piece of the data,
when the sums are those of a known number of samples: once a minute, and when the pass breaks off.
Sums depend on the samples, not on how they are cut, so a later run may have another batch size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pullback.batches import Batch
from pullback.errors import InputError
from pullback.metrics.sums import Sum
from pullback.tape.sweep import Sweep
from pullback.tape.use import Unforeseen

PERIOD = 60.0  # seconds between two writings
AGREEMENT = 1e-9  # of sums over the same inputs in another order, relative


class Checkpoint:
    """Where the passes of one computation keep their sums; None for nowhere.

    Args:
        folder: made if it does not exist.
        identity: what is computed, in plain values.

    Raises:
        InputError: the folder cannot be written to.
    """

    def __init__(self, folder: str | Path | None, identity: Mapping[str, Any]) -> None:
        self.folder = None if folder is None else Path(folder)
        self.identity = dict(identity)
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(self.folder / "writable", {})
            (self.folder / "writable").unlink()
        except OSError as problem:
            raise InputError(f"checkpoint: cannot write to {self.folder}: {problem}") from None

    def check(self, sweep: Sweep) -> None:
        """See that what is kept belongs to this computation.

        Raises:
            InputError: it does not, or cannot be read.
            Unforeseen: the interrupted run had found out more about the module.
        """
        for path in self._files():
            found = _read(path)
            wanted = self.identity
            other = [key for key in wanted if found["identity"][key] != wanted[key]]
            reasons = {k: v for k, v in found["reasons"].items() if k not in sweep.plan.reasons}
            if reasons:
                raise Unforeseen(reasons)
            if other:
                raise InputError(
                    f"checkpoint: {self.folder} was begun with another {', '.join(other)}; give "
                    "the same arguments as then, or another folder"
                )

    @contextmanager
    def of(self, name: str, sums: Mapping[str, Sum], sweep: Sweep) -> Iterator[Accumulation]:
        """One pass: its sums are restored on entry, and kept when it ends or breaks off."""
        path = None if self.folder is None else self.folder / f"{name}.pt"
        accumulation = Accumulation(path, self.identity, sums, sweep)
        try:
            yield accumulation
        finally:
            accumulation.write()

    def remove(self) -> None:
        """Forget everything: the computation is done."""
        for path in self._files():
            path.unlink()
        if self.folder is not None and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _files(self) -> list[Path]:
        return [] if self.folder is None else sorted(self.folder.glob("*.pt"))


class Accumulation:
    """The sums of one pass.

    Attributes:
        samples: how many samples are in them.
    """

    def __init__(
        self, path: Path | None, identity: dict[str, Any], sums: Mapping[str, Sum], sweep: Sweep
    ) -> None:
        self._path, self._identity, self._sums = path, identity, sums
        self._reasons = sweep.plan.reasons
        self.samples, self._digest, self._whole = 0, 0.0, False
        self._written = time.monotonic()
        if path is None or not path.exists():
            return
        found = _read(path)
        self.samples, self._digest = found["samples"], found["digest"]
        seen = sum((_digest(batch) for batch in sweep.batches.first(self.samples)), 0.0)
        if not abs(seen - self._digest) <= AGREEMENT * max(abs(seen), abs(self._digest), 1.0):
            raise InputError(
                f"data: its first {self.samples} samples are not those that {path.parent} has seen;"
                " give the data in the same order (shuffle=False), or another checkpoint"
            )
        for name, total in sums.items():
            total.restore([tensor.to(sweep.network.device) for tensor in found["sums"][name]])

    def begin(self) -> None:
        """From here on the sums are those of no whole number of samples."""
        self._whole = False

    def end(self, batch: Batch) -> None:
        """The sums are whole again, and have these further samples."""
        self.samples += len(batch)
        if self._path is None:
            return
        self._digest += _digest(batch)
        self._whole = True
        if time.monotonic() - self._written > PERIOD:
            self.write()

    def write(self) -> None:
        """Write the sums, if they are whole and not yet written."""
        if self._path is None or not self._whole:
            return
        content = {
            "identity": self._identity,
            "reasons": self._reasons,
            "samples": self.samples,
            "digest": self._digest,
            "sums": {name: total.state() for name, total in self._sums.items()},
        }
        _write(self._path, content)
        self._written = time.monotonic()


def _digest(batch: Batch) -> float:
    leaves = [leaf for leaf in pytree.tree_leaves(batch.content) if isinstance(leaf, Tensor)]
    return sum(float(leaf.double().sum()) for leaf in leaves)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file so that at any time it is either the old one or the whole new one."""
    partial = path.with_name(path.name + ".partial")
    torch.save(dict(content), partial)
    os.replace(partial, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not {"identity", "reasons", "samples", "digest", "sums"} <= found.keys():
            raise KeyError(path)
    except (OSError, RuntimeError, UnpicklingError, KeyError, AttributeError, EOFError) as problem:
        raise InputError(f"checkpoint: cannot read {path}: {problem}; delete it") from None
    return found
