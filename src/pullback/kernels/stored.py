"""A kernel on disk, tile by tile: larger than memory, resumed after a kill, shared by processes.

A store is a folder of three files. `kernel.json` says whose kernel it is; `tiles.bin` holds the
tiles one after another, of a symmetric kernel those on and below the diagonal; `done.bin` has a
byte for each tile, set once all of the tile is on disk. A tile depends on its samples alone, so a
store that was interrupted and resumed is the same, bit for bit, as one that was not.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.distributed as distributed
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

from pullback.batches import Batch, Batches, check_fits, tracked
from pullback.cotangents import ReadOut
from pullback.errors import InputError
from pullback.kernels.arrangement import AllPairs, Arrangement
from pullback.kernels.dense import TangentKernel
from pullback.kernels.gram import Collected, collected, matrices
from pullback.kernels.kernel import Kernel
from pullback.network import Network
from pullback.tape.sweep import Sweep

FORMAT = 1
MEMORY = 2**29  # bytes for the tiles and features at hand, where nobody says otherwise
LARGEST_TILE = 4096  # samples: more is no quicker, and an interruption loses more
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Layout:
    """What a store holds, and where.

    Attributes:
        model, first, second: digests of the network and of the data sets.
        read_out: which outputs.
        samples: of both sets.
        columns: functions have so many numbers for each sample.
        paired: whether a function is (n, c) rather than (n,).
        outputs: how many outputs the network has.
        tile: samples of a tile.
        dtype: precision.
    """

    model: str
    first: str
    second: str | None
    read_out: str
    samples: tuple[int, int]
    columns: int
    paired: bool
    outputs: int
    tile: int
    dtype: str

    @property
    def symmetric(self) -> bool:
        """Whether it is the kernel of one data set with itself."""
        return self.second is None

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """The tiles in the order of the file, by their places among the blocks of samples.

        Row by row, in turn from the left and from the right, so that neighbours share a block.
        """
        rows, columns = (-(-n // self.tile) for n in self.samples)
        found = []
        for i in range(rows):
            row = range(i + 1 if self.symmetric else columns)
            found += [(i, j) for j in (row if i % 2 else reversed(row))]
        return found

    def block(self, place: int, side: int) -> slice:
        """The samples of a block of the first (0) or second (1) set."""
        return slice(place * self.tile, min((place + 1) * self.tile, self.samples[side]))

    def shape(self, tile: tuple[int, int]) -> tuple[int, int]:
        """The shape of a tile as a matrix."""
        lengths = [self.block(place, side) for side, place in enumerate(tile)]
        rows, columns = (self.columns * (b.stop - b.start) for b in lengths)
        return rows, columns

    @property
    def bytes(self) -> int:
        """The size of all tiles."""
        return len(self.tiles) * self.slot

    @property
    def slot(self) -> int:
        """Bytes from one tile to the next."""
        return (self.tile * self.columns) ** 2 * DTYPES[self.dtype].itemsize


class StoredKernel(Kernel):
    """A kernel in a store; products read it through once.

    Args:
        folder: the store, complete.

    Raises:
        InputError: there is none, or it is not complete.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.layout = _read_layout(self.folder)
        done = _flags(self.folder, self.layout)
        if not done.all():
            raise InputError(
                f"store: {self.folder} has {int(done.sum())} of {len(done)} tiles; call "
                "tangent_kernel again with the same arguments to complete it"
            )
        self.outputs, self.symmetric = self.layout.outputs, self.layout.symmetric

    @property
    def rows(self) -> tuple[int, ...]:
        """The shape of a function on the first set."""
        return self._shape(0)

    @property
    def columns(self) -> tuple[int, ...]:
        """The shape of a function on the second set."""
        return self._shape(1)

    def _shape(self, side: int) -> tuple[int, ...]:
        layout = self.layout
        n = layout.samples[side]
        return (n, layout.columns) if layout.paired else (n,)

    @property
    def _like(self) -> Tensor:
        return torch.empty(0, dtype=DTYPES[self.layout.dtype])

    def tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """The rows and the columns of each tile in the whole matrix, and the tile.

        Of a symmetric kernel, those on and below the diagonal.
        """
        layout = self.layout
        held = np.memmap(self.folder / "tiles.bin", dtype=layout.dtype, mode="r")
        numbers = layout.slot // held.itemsize
        for number, tile in enumerate(layout.tiles):
            shape = layout.shape(tile)
            start = number * numbers
            values = np.array(held[start : start + math.prod(shape)])
            rows, columns = (
                slice(block.start * layout.columns, block.stop * layout.columns)
                for block in (layout.block(tile[0], 0), layout.block(tile[1], 1))
            )
            yield rows, columns, torch.from_numpy(values).view(shape)

    def _product(self, flat: Float[Tensor, "b s"]) -> Float[Tensor, "b r"]:
        found = flat.new_zeros(len(flat), math.prod(self.rows))
        for rows, columns, tile in self.tiles():
            found[:, rows].addmm_(flat[:, columns], tile.T)
            if self.symmetric and rows != columns:
                found[:, columns].addmm_(flat[:, rows], tile)
        return found

    def diagonal(self) -> Tensor:
        self._check_symmetric()
        found = self._like.new_empty(math.prod(self.rows))
        for rows, columns, tile in self.tiles():
            if rows == columns:
                found[rows] = tile.diagonal()
        return found.reshape(self.rows)

    def norm(self) -> float:
        """The Frobenius norm."""
        total = 0.0
        for rows, columns, tile in self.tiles():
            square = float(torch.linalg.vector_norm(tile, dtype=torch.float64)) ** 2
            total += square if rows == columns or not self.symmetric else 2 * square
        return math.sqrt(total)

    def load(self) -> TangentKernel:
        """The kernel in memory.

        Raises:
            InputError: it does not fit.
        """
        rows, columns = math.prod(self.rows), math.prod(self.columns)
        check_fits(
            f"kernel: {rows:,} x {columns:,} numbers",
            rows * columns * self._like.element_size(),
            torch.device("cpu"),
            "work with the store itself",
        )
        matrix = self._like.new_empty(rows, columns)
        for left, right, tile in self.tiles():
            matrix[left, right] = tile
            if self.symmetric:
                matrix[right, left] = tile.T
        return TangentKernel(
            matrix.reshape(*self.rows, *self.columns), self.outputs, self.symmetric
        )


def fill(
    folder: str | Path,
    sweep: Sweep,
    others: Batches | None,
    source: ReadOut,
    arrangement: Arrangement,
    method: str | None,
    memory: int | None = None,
    group: distributed.ProcessGroup | None = None,
) -> StoredKernel:
    """Make a store, or complete one.

    Args:
        folder: where; created if need be.
        sweep: the network and the first data set.
        others: the second, if there is one.
        source: combinations of the outputs.
        arrangement: which pairs of these the kernel has.
        method: how entries are formed.
        memory: bytes for tiles and features; None for a default.
        group: processes that share the work, all with all of the data and one folder.

    Raises:
        InputError: the folder holds another kernel, or the kernel cannot fit on the disk.
    """
    folder = Path(folder)
    sets, layout = planned(sweep, others, source, arrangement, memory)
    layout, numbers = _begun(folder, layout, group)
    if group is not None:
        numbers = numbers[distributed.get_rank(group) :: distributed.get_world_size(group)]
    blocks = Blocks(sweep, sets, layout, arrangement, method)
    _write_tiles(folder, layout, blocks, numbers, sweep.progress)
    if group is not None:
        distributed.barrier(group)
    return StoredKernel(folder)


def _begun(
    folder: Path, layout: Layout, group: distributed.ProcessGroup | None
) -> tuple[Layout, list[int]]:
    """The layout of the store, and which tiles it misses; the first process makes the files.

    Raises:
        InputError: in all processes, if it cannot.
    """
    found: list[Any] = [None]
    if group is None or distributed.get_rank(group) == 0:
        try:
            layout = _prepared(folder, layout)
            found = [(layout.tile, np.flatnonzero(_flags(folder, layout) == 0).tolist())]
        except InputError as problem:
            found = [str(problem)]
    if group is not None:
        distributed.broadcast_object_list(found, group_src=0, group=group)
    if isinstance(found[0], str):
        raise InputError(found[0])
    tile, numbers = found[0]
    return replace(layout, tile=tile), numbers


def _write_tiles(
    folder: Path, layout: Layout, blocks: Blocks, numbers: Sequence[int], progress: bool | None
) -> None:
    tiles = layout.tiles
    with (folder / "tiles.bin").open("r+b") as values, (folder / "done.bin").open("r+b") as flags:
        for number in tracked(numbers, "tangent kernel", len(numbers), progress):
            values.seek(number * layout.slot)
            values.write(blocks.tile(*tiles[number]).cpu().numpy().tobytes())
            _settle(values)  # before the tile is called done
            flags.seek(number)
            flags.write(b"\1")
            _settle(flags)


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


class Blocks:
    """The features of blocks of samples, of which the last ones used are at hand."""

    def __init__(
        self,
        sweep: Sweep,
        sets: list[list[Batch]],
        layout: Layout,
        arrangement: Arrangement,
        method: str | None,
    ) -> None:
        self._sweep, self._sets, self._layout = sweep, sets, layout
        self._arrangement, self._method = arrangement, method
        self._held: dict[tuple[int, int], Collected] = {}

    def tile(self, row: int, column: int) -> Float[Tensor, "r s"]:
        """The entries of a tile, as a matrix."""
        alone = self._layout.symmetric and row == column
        ours = (0, row)
        theirs = (0 if self._layout.symmetric else 1, column)
        self._held = {key: held for key, held in self._held.items() if key in (ours, theirs)}
        left = self._features(ours)
        right = None if alone else self._features(theirs)
        found = matrices(self._sweep, left, right, self._arrangement, keep=True)[""]
        return found.flatten(2).flatten(0, 1) if found.ndim == 4 else found

    def _features(self, key: tuple[int, int]) -> Collected:
        if key not in self._held:
            side, place = key
            some = self._layout.block(place, side)
            batches = Batches(list(_samples(self._sets[side], some)), self._sweep.network.device)
            own = replace(self._sweep, batches=batches, progress=False)
            own.plan = self._sweep.plan
            self._held[key] = collected(own, self._arrangement, self._method)
        return self._held[key]


def planned(
    sweep: Sweep,
    others: Batches | None,
    source: ReadOut,
    arrangement: Arrangement,
    memory: int | None,
) -> tuple[list[list[Batch]], Layout]:
    """The data sets of a store, and what it is to hold.

    Raises:
        InputError: it would be more than one kernel.
    """
    if not arrangement.one:
        raise InputError("outputs: 'each' is one kernel for each output; store them one by one")
    sets = [_pieces(sweep.batches)] + ([] if others is None else [_pieces(others)])
    return sets, _layout(sweep, sets, source, arrangement, MEMORY if memory is None else memory)


def _pieces(batches: Batches) -> list[Batch]:
    """All of the data, which is small beside its kernel."""
    return [batch.map(torch.clone) for batch in batches]


def _samples(pieces: Sequence[Batch], some: slice) -> Iterator[Batch]:
    start = 0
    for batch in pieces:
        own = slice(max(some.start - start, 0), min(some.stop - start, len(batch)))
        if own.start < own.stop:
            yield batch.take(own.start, own.stop)
        start += len(batch)


def _layout(
    sweep: Sweep, sets: list[list[Batch]], source: ReadOut, arrangement: Arrangement, memory: int
) -> Layout:
    network, plan = sweep.network, sweep.plan
    weights = source.weights(torch.empty(0, plan.outputs, dtype=network.space.dtype))
    paired = isinstance(arrangement, AllPairs)
    columns = len(weights) if paired else 1
    lengths = [sum(map(len, pieces)) for pieces in sets]
    samples = (lengths[0], lengths[-1])
    return Layout(
        model=_digest_of_network(network),
        first=_digest(sets[0]),
        second=None if len(sets) == 1 else _digest(sets[1]),
        read_out=f"{type(arrangement).__name__} {_digest_of({'weights': weights})}",
        samples=samples,
        columns=columns,
        paired=paired,
        outputs=plan.outputs,
        tile=_tile(sweep, samples, columns, len(weights), memory),
        dtype=str(network.space.dtype).removeprefix("torch."),
    )


def _tile(sweep: Sweep, samples: tuple[int, int], columns: int, count: int, memory: int) -> int:
    """The samples of a tile: with the features of two blocks and its products it takes the memory.

    Solves `3 (c b)^2 + 2 f b = memory` for b, with f numbers of features for a sample.
    """
    numbers = memory / sweep.network.space.dtype.itemsize
    features = sum(use.inputs + count * use.gradients for use in sweep.plan.floats)
    square = 3 * columns**2
    most = (math.sqrt(features**2 + square * numbers) - features) / square
    return max(1, min(int(most), LARGEST_TILE, max(samples)))


def _digest_of_network(network: Network) -> str:
    module, chosen = network.module, network.space.shape_of
    own = {f"{name} {name in chosen}": tensor for name, tensor in module.named_parameters()}
    return _digest_of({**own, **dict(module.named_buffers())})


def _digest_of(tensors: Mapping[str, Tensor]) -> str:
    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        state.update(name.encode())
        _add(state, [tensor])
    return state.hexdigest()


def _digest(pieces: Sequence[Batch]) -> str:
    """Of the inputs, whatever their batches: leaf by leaf, sample after sample."""
    leaves = [
        [leaf for leaf in pytree.tree_leaves((b.args, b.kwargs)) if isinstance(leaf, Tensor)]
        for b in pieces
    ]
    state = hashlib.sha256()
    for column in zip(*leaves, strict=True):
        apart = column[0].ndim > 0 and len(column[0]) == len(pieces[0])
        _add(state, column if apart else column[:1])  # what is no sample is the same for all
    return state.hexdigest()


def _add(state: Any, tensors: Sequence[Tensor]) -> None:
    state.update(f"{tensors[0].dtype} {tuple(tensors[0].shape[1:])}".encode())
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        state.update(plain.reshape(-1).view(torch.uint8).numpy())


def _prepared(folder: Path, layout: Layout) -> Layout:
    """Make the files of a store, or find them made for the same kernel.

    Raises:
        InputError: they are of another kernel, or there is no room for them.
    """
    if (folder / "kernel.json").exists():
        return _agreed(folder, layout)
    needed = layout.bytes
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    try:
        if needed > free:
            raise OSError(errno.ENOSPC, f"only {free / 1e9:,.1f} GB are free")
        _reserve(folder / "tiles.bin", needed)
    except OSError as problem:
        raise InputError(
            f"store: the kernel needs {needed / 1e9:,.1f} GB in {folder}, but {problem.strerror}; "
            "take fewer samples, outputs='sum', or another folder"
        ) from None
    (folder / "done.bin").write_bytes(bytes(len(layout.tiles)))
    partial = folder / "kernel.json.partial"
    partial.write_text(json.dumps({"format": FORMAT, **asdict(layout)}, indent=1))
    os.replace(partial, folder / "kernel.json")
    return layout


def _reserve(path: Path, size: int) -> None:
    """Make a file of that size, so that no write finds the disk full.

    Raises:
        OSError: there is no room for it, or a quota has none; the file is not left behind.
    """
    try:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _agreed(folder: Path, layout: Layout) -> Layout:
    found = _read_layout(folder)
    wanted = replace(layout, tile=found.tile)
    words = {
        "model": "model", "outputs": "model", "first": "data", "second": "data",
        "samples": "data", "read_out": "outputs", "columns": "outputs", "paired": "outputs",
        "dtype": "dtype",
    }  # fmt: skip
    other = [words[name] for name in words if getattr(found, name) != getattr(wanted, name)]
    if other:
        raise InputError(
            f"store: {folder} is the kernel of another {', '.join(dict.fromkeys(other))}; give "
            "another folder, or delete it"
        )
    return found


def _read_layout(folder: Path) -> Layout:
    try:
        found = json.loads((folder / "kernel.json").read_text())
        if found.pop("format") != FORMAT:
            raise ValueError("it is of another version")
        found["samples"] = tuple(found["samples"])
        return Layout(**found)
    except FileNotFoundError:
        raise InputError(f"store: no kernel in {folder}") from None
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise InputError(
            f"store: cannot read {folder / 'kernel.json'}: {problem}; delete the folder"
        ) from None


def _flags(folder: Path, layout: Layout) -> np.ndarray[Any, np.dtype[np.uint8]]:
    try:
        done = np.fromfile(folder / "done.bin", dtype=np.uint8)
        size = (folder / "tiles.bin").stat().st_size
    except OSError as problem:
        raise InputError(f"store: {folder} is damaged: {problem}; delete it") from None
    if len(done) != len(layout.tiles) or size != layout.bytes:
        raise InputError(f"store: {folder} is damaged, a file has another length; delete it")
    return done
