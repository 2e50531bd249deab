"""Symmetric products at half their cost, and sums over positions in any order of memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

# Below this many rows the whole product is quicker than its lower triangle in blocks.
SMALLEST_SPLIT = 192
BLOCKS = 4


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    step = size if size < SMALLEST_SPLIT else -(-size // BLOCKS)
    for start in range(0, size, step):
        yield start, min(start + step, size)


def add_gram_(total: Float[Tensor, "*g r r"], rows: Float[Tensor, "*g r s"]) -> None:
    """Add `rows @ rows.T` to the lower block triangle of `total`, in place.

    What stands above the diagonal blocks is left undefined until `mirror_`.
    """
    for start, stop in _blocks(rows.shape[-2]):
        left, right = rows[..., start:stop, :], rows[..., :stop, :].transpose(-1, -2)
        target = total[..., start:stop, :stop]
        if rows.ndim == 2:
            target.addmm_(left, right)
        elif len(rows) == 1:  # the batched product would copy its arguments
            target[0].addmm_(left[0], right[0])
        else:
            target.baddbmm_(left, right)


def mirror_(total: Float[Tensor, "*g r r"]) -> Float[Tensor, "*g r r"]:
    """Copy the lower triangle over the upper one, in place."""
    for start, stop in _blocks(total.shape[-1]):
        block = total[..., start:stop, start:stop]
        block.copy_(block.tril() + block.tril(-1).transpose(-1, -2))
        total[..., :start, start:stop] = total[..., start:stop, :start].transpose(-1, -2)
    return total


def sum_over_positions(values: Float[Tensor, "*g c n t"]) -> Float[Tensor, "*g c n"]:
    """The sum over the last dimension, quick also where channels are last in memory."""
    if values.stride(-3) != 1 or values.shape[-1] == 1:
        return values.sum(-1)
    rows = values.movedim(-3, -1)
    return (rows.new_ones(1, rows.shape[-2]) @ rows).squeeze(-2).transpose(-1, -2)


def eigh(
    matrix: Float[Tensor, "*g r r"],
) -> tuple[Float[Tensor, "*g r"], Float[Tensor, "*g r r"]]:
    """Eigenvalues, rising, and eigenvectors in columns; what is only rounding is exactly zero."""
    values, vectors = torch.linalg.eigh(matrix)
    largest = values.abs().amax(-1, keepdim=True)
    rounding = largest * values.shape[-1] ** 0.5 * torch.finfo(values.dtype).eps
    return torch.where(values.abs() <= rounding, 0.0, values), vectors
