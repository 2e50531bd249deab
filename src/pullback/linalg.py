"""Symmetric products at half their cost, which torch has no call for."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Below this many rows the whole product is quicker than its lower triangle in blocks.
SMALLEST_SPLIT = 192
BLOCKS = 4


def add_gram_(total: Float[Tensor, "*g r r"], rows: Float[Tensor, "*g r s"]) -> None:
    """Add `rows @ rows.T` to the lower block triangle of `total`, in place.

    What stands above the diagonal blocks is left undefined until `mirror_`.
    """
    size = rows.shape[-2]
    step = size if size < SMALLEST_SPLIT else -(-size // BLOCKS)
    for start in range(0, size, step):
        stop = min(start + step, size)
        left, right = rows[..., start:stop, :], rows[..., :stop, :].transpose(-1, -2)
        target = total[..., start:stop, :stop]
        if rows.ndim == 2:
            target.addmm_(left, right)
        else:
            target.add_(left @ right)


def mirror_(total: Float[Tensor, "*g r r"]) -> Float[Tensor, "*g r r"]:
    """Copy the lower triangle over the upper one, in place."""
    lower = total.tril()
    return total.copy_(lower + total.tril(-1).transpose(-1, -2))


def gram(rows: Float[Tensor, "*g r s"]) -> Float[Tensor, "*g r r"]:
    """The symmetric product `rows @ rows.T`."""
    size = rows.shape[-2]
    total = torch.zeros(*rows.shape[:-2], size, size, dtype=rows.dtype, device=rows.device)
    add_gram_(total, rows)
    return mirror_(total)
