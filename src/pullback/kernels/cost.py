"""What a stored kernel will take, before it is computed: measured on a small piece of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from torch import nn

from pullback.batches import Batches, working_memory
from pullback.kernels.gram import Outputs, read_out
from pullback.kernels.stored import Blocks, Layout, planned
from pullback.network import Network
from pullback.tape.sweep import Sweep

MEASURED = 384  # samples of the tile that is timed


@dataclass(frozen=True)
class KernelCost:
    """What a kernel in a store takes.

    Attributes:
        seconds: of one process.
        disk: bytes.
        tiles: how many pieces it is made in; what an interruption loses is one of them.
        passes: how often a sample goes through the network, on average, with a backward pass for
            each combination of the outputs.
    """

    seconds: float
    disk: int
    tiles: int
    passes: float

    def __str__(self) -> str:
        return (
            f"{_duration(self.seconds)} and {self.disk / 1e9:,.3g} GB on disk, in "
            f"{self.tiles:,} tiles; {self.passes:.1f} passes of each sample"
        )


def kernel_cost(
    model: nn.Module | Network,
    x: object,
    y: object | None = None,
    outputs: Outputs = "all",
    method: str | None = None,
    memory: int | None = None,
) -> KernelCost:
    """What `tangent_kernel(..., store=folder)` with the same arguments would take.

    Times a small tile, so that it takes a moment itself; figures hold within a factor of two where
    the machine is as busy then as now.

    Raises:
        InputError: as `tangent_kernel`.

    Example:
        >>> import torch, pullback as pb
        >>> cost = pb.kernel_cost(torch.nn.Linear(3, 2), torch.randn(50, 3), outputs="sum")
        >>> cost.disk, cost.tiles
        (10000, 1)
    """
    network = Network.of(model)
    source, arrangement = read_out(outputs)
    half = max(1, working_memory(memory, network.device) // 2)
    sweep = Sweep(network, Batches(x, network.device), source, half, progress=False)
    others = None if y is None else Batches(y, network.device)

    def measure() -> KernelCost:
        sets, layout = planned(sweep, others, source, arrangement, memory)
        small = replace(layout, tile=min(MEASURED, layout.tile, *layout.samples))
        corner = (1 if small.samples[0] >= 2 * small.tile else 0, 0)
        blocks = Blocks(sweep, sets, small, arrangement, method)
        blocks.tile(*corner)  # what is done once is not timed
        fresh = Blocks(sweep, sets, small, arrangement, method)
        with_features, alone = _seconds(fresh, corner), _seconds(fresh, corner)
        entries = small.shape(corner)[0] * small.shape(corner)[1]
        made = sum(rows * columns for rows, columns in map(layout.shape, layout.tiles))
        used = _block_samples(small, [corner])
        passed = _block_samples(layout, layout.tiles)
        features = max(0.0, with_features - alone) / used
        return KernelCost(
            seconds=made / entries * alone + passed * features,
            disk=layout.bytes,
            tiles=len(layout.tiles),
            passes=passed / (layout.samples[0] + (0 if layout.symmetric else layout.samples[1])),
        )

    return sweep.settled(measure)


def _seconds(blocks: Blocks, tile: tuple[int, int]) -> float:
    start = time.perf_counter()
    blocks.tile(*tile)
    return time.perf_counter() - start


def _block_samples(layout: Layout, tiles: list[tuple[int, int]]) -> int:
    """Samples whose features are made, where those of the last tile are at hand."""
    held: set[tuple[int, int]] = set()
    total = 0
    for row, column in tiles:
        needed = {(0, row), (0 if layout.symmetric else 1, column)}
        for side, place in needed - held:
            block = layout.block(place, side)
            total += block.stop - block.start
        held = needed
    return total


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
