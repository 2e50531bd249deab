"""Symmetric products at half their cost, and sums over positions in any order of memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

# From this size on, a factor is tried for a rank below this share of it: that of few samples.
SMALLEST_LARGE = 512
LOW_RANK_SHARE = 8
# Below this many rows the whole product is quicker than its lower triangle in blocks.
SMALLEST_SPLIT = 192
BLOCKS = 4
# Rows of what is transposed at a time: 128 to 256 are alike, all at once takes twice as long.
TILE = 200


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
    size = total.shape[-1]
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        block = total[..., start:stop, start:stop]
        block.copy_(block.tril() + block.tril(-1).transpose(-1, -2))
        for left in range(0, start, TILE):
            tile = total[..., start:stop, left : left + TILE]
            total[..., left : left + TILE, start:stop] = tile.transpose(-1, -2)
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


def not_negative(values: Float[Tensor, "*r"]) -> Float[Tensor, "*r"]:
    """Eigenvalues that a root is to be taken of: rounding below zero is zero, anything else NaN."""
    if not values.numel():
        return values
    rounding = 10 * values.numel() * torch.finfo(values.dtype).eps * values.abs().amax()
    return torch.where(values < -rounding, torch.nan, values.clamp(min=0))


def eigh_of_moment(
    matrix: Float[Tensor, "g r r"],
) -> tuple[Float[Tensor, "g r"], Float[Tensor, "g r r"]]:
    """`eigh` of second moments, which is many times quicker for a large one of few vectors.

    A second moment of m vectors has rank m at most; the eigenvectors of the rest are any that
    complete the basis.
    """
    if matrix.shape[-1] < SMALLEST_LARGE:
        return eigh(matrix)
    pairs = [_eigh_of_low_rank(one) or eigh(one) for one in matrix]
    return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])


def _eigh_of_low_rank(matrix: Float[Tensor, "r r"]) -> tuple[Tensor, Tensor] | None:
    """`eigh` of a positive semidefinite matrix of low rank, None if its rank is not low."""
    size = len(matrix)
    few = size // LOW_RANK_SHARE
    eps = torch.finfo(matrix.dtype).eps
    # A regular minor of more rows than that shows a higher rank at little cost.
    some = torch.arange(few + 1, device=matrix.device) * (size // (few + 1))
    factor, failed = torch.linalg.cholesky_ex(matrix[some.unsqueeze(1), some])
    pivots = factor.diagonal().square()
    if not failed and pivots.min() > size * eps * pivots.max():
        return None
    generator = torch.Generator(matrix.device).manual_seed(0)
    probes = torch.randn(size, few, generator=generator, dtype=matrix.dtype, device=matrix.device)
    basis = torch.linalg.qr(matrix @ probes)[0]  # spans the whole range, if it is small
    inside = basis.mT @ matrix @ basis
    trace = matrix.diagonal().sum()
    missing = (trace - inside.diagonal().sum()).abs()
    # Of a positive semidefinite matrix the trace of what is left out bounds all of it.
    if not missing <= 8 * eps * trace:
        return None
    values, along = eigh(inside)
    full = torch.linalg.qr(basis, mode="complete")[0]
    vectors = torch.cat([full[:, few:], basis @ along], dim=1)
    return torch.cat([values.new_zeros(size - few), values]), vectors
