"""The recursion through the layers of an infinitely wide network, planned backwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pullback.batches import check_fits
from pullback.kernels.infinite.layers import Activation, Layer, Linear

LIVE = 12  # kernels that are in memory together at most, in an activation


@dataclass(frozen=True)
class Pairs:
    """Some pairs of positions along an axis, those of each position with itself among them.

    Attributes:
        left: the position in the first sample.
        right: that in the second.
        equal: which pair is that of a position with itself, for each position.
    """

    left: Int[Tensor, " m"]
    right: Int[Tensor, " m"]
    equal: Int[Tensor, " size"]


@dataclass(frozen=True)
class Step:
    """A layer, with what it does to pairs of positions.

    Attributes:
        layer: the layer.
        pairs: those before it, for each axis.
        tables: for each axis the pairs before it over which each pair after it is a mean; one more
            than the last stands for zeros.
    """

    layer: Linear | Activation
    pairs: tuple[Pairs, ...]
    tables: tuple[Int[Tensor, "_ _"], ...]

    @property
    def size(self) -> int:
        """How many pairs there are before it."""
        return math.prod(len(pairs.left) for pairs in self.pairs)

    def left(self, tensor: Tensor) -> Tensor:
        """From values at positions to those at the first of each pair."""
        return _selected(tensor, [pairs.left for pairs in self.pairs])

    def right(self, tensor: Tensor) -> Tensor:
        """From values at positions to those at the second of each pair."""
        return _selected(tensor, [pairs.right for pairs in self.pairs])

    def equal(self, tensor: Tensor) -> Tensor:
        """From values at pairs to those at positions."""
        return _selected(tensor, [pairs.equal for pairs in self.pairs])

    def mean(self, kernel: Tensor) -> Tensor:
        """From a kernel at the pairs before it to the means at those after it."""
        for axis, table in enumerate(self.tables):
            zeros = torch.zeros_like(kernel.narrow(axis, 0, 1))
            padded = torch.cat([kernel, zeros], axis)
            # At most as many entries at a time as there are.
            parts = table.split(max(1, kernel.shape[axis] // len(table)), 1)
            kernel = sum((_sums(padded, part, axis) for part in parts), zeros) / table.shape[1]
        return kernel


def _sums(tensor: Tensor, places: Int[Tensor, "m k"], axis: int) -> Tensor:
    """The sum over each row of places along an axis."""
    picked = tensor.index_select(axis, places.flatten())
    return picked.unflatten(axis, places.shape).sum(axis + 1)


def _selected(tensor: Tensor, places: Sequence[Tensor]) -> Tensor:
    for axis, place in enumerate(places):
        tensor = tensor.index_select(axis, place)
    return tensor


def plan(
    layers: Sequence[Linear | Activation], positions: Sequence[int], device: torch.device
) -> list[Step]:
    """What each layer does to which pairs of positions."""
    axes = [_plan_axis(layers, size, axis, device) for axis, size in enumerate(positions)]
    steps = []
    for place, layer in enumerate(layers):
        along = [axis[place] for axis in axes]
        pairs, tables = tuple(p for p, _ in along), tuple(t for _, t in along)
        steps.append(Step(layer, pairs, tables))
    return steps


def _plan_axis(
    layers: Sequence[Layer], size: int, axis: int, device: torch.device
) -> list[tuple[Pairs, Int[Tensor, "m k"]]]:
    """The pairs before each layer that the layers from there on need, backwards from the output."""
    reads = []
    for layer in layers:
        reads.append((size, layer.sources(size, axis)))
        size = len(reads[-1][1])
    left = right = torch.zeros(1, dtype=torch.long)
    steps = []
    for layer, (size, sources) in zip(reversed(layers), reversed(reads), strict=True):
        one, other = sources[left], sources[right]
        if isinstance(layer, Linear) and layer.mixes:
            k = sources.shape[1]
            one, other = one.repeat_interleave(k, 1), other.repeat(1, k)
        outside = (one < 0) | (other < 0)
        # The largest number, so that it is found behind all pairs.
        codes = torch.where(outside, size**2, one * size + other)
        equal = torch.arange(size) * (size + 1)
        needed = torch.cat([codes[~outside], equal]).unique()
        table = torch.searchsorted(needed, codes)
        left, right = needed // size, needed % size
        pairs = (left, right, torch.searchsorted(needed, equal))
        steps.append((Pairs(*(index.to(device) for index in pairs)), table.to(device)))
    return steps[::-1]


@dataclass(frozen=True)
class Samples:
    """Some successive samples.

    Attributes:
        start, stop: where they stand in their set.
        values: shape (positions..., a, channels).
        variances: what goes into each activation, shape (positions..., a).
    """

    start: int
    stop: int
    values: Tensor
    variances: list[Tensor] = field(default_factory=list)


class Recursion:
    """The recursion through the layers, on samples of one shape."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps

    def side(self, channels: int, memory: int, device: torch.device) -> int:
        """How many samples, with as many others, the memory holds at a time."""
        size = max(step.size for step in self.steps)
        check_fits(
            f"kernel: two samples, {size} pairs of positions",
            (LIVE + 2 * channels) * size * 8,
            device,
            "read out by Dense() instead of AveragePool(), or pool less at a time",
        )
        half = memory // 2 // 8
        return max(1, min(math.isqrt(half // (LIVE * size)), half // (2 * channels * size)))

    def samples(self, x: Float[Tensor, "n channels ..."], side: int) -> list[Samples]:
        """A set in pieces, with the variances in each."""
        pieces = []
        for start in range(0, len(x), side):
            values = x[start : start + side].double()
            values = values.permute(*range(2, x.ndim), 0, 1)
            piece = Samples(start, start + values.shape[-2], values)
            piece.variances.extend(self._variances(values))
            pieces.append(piece)
        return pieces

    def _variances(self, values: Float[Tensor, "*positions a channels"]) -> list[Tensor]:
        first = self.steps[0]
        kernel = (first.left(values) * first.right(values)).mean(-1)
        found = []
        for step in self.steps:
            if isinstance(step.layer, Activation):
                found.append(step.equal(kernel))
                kernel, _ = step.layer.dual(step.left(found[-1]), step.right(found[-1]), kernel)
            else:
                kernel = step.layer.nngp(step.mean(kernel))
        return found

    def kernels(self, one: Samples, other: Samples) -> Float[Tensor, "2 a b"]:
        """NNGP and tangent kernel between samples."""
        first = self.steps[0]
        channels = one.values.shape[-1]
        nngp = first.left(one.values) @ first.right(other.values).mT / channels
        tangent = torch.zeros_like(nngp)
        variances = zip(one.variances, other.variances, strict=True)
        for step in self.steps:
            if isinstance(step.layer, Activation):
                mine, theirs = next(variances)
                rows, columns = step.left(mine).unsqueeze(-1), step.right(theirs).unsqueeze(-2)
                nngp, slope = step.layer.dual(rows, columns, nngp)
                tangent = slope * tangent
            else:
                nngp = step.layer.nngp(step.mean(nngp))
                tangent = step.layer.tangent(step.mean(tangent), nngp)
        shape = nngp.shape[-2:]
        return torch.stack([nngp.reshape(shape), tangent.reshape(shape)])
