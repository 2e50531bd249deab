"""The dense representation: the full matrix, for one block of parameters or for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.batches import check_fits
from pullback.linalg import add_gram_, mirror_
from pullback.metrics.metric import Block, BlockMetric, origin_of
from pullback.parameters import ParameterSpace
from pullback.tape.sweep import Sweep
from pullback.tape.use import flat_rows


class Dense(Block):
    """A block as a full matrix.

    Args:
        matrix: symmetric, shape (d, d).
    """

    def __init__(self, matrix: Float[Tensor, "d d"]) -> None:
        self.matrix = matrix

    def product(self, flat: Tensor) -> Tensor:
        return flat @ self.matrix

    def solve(self, flat: Tensor, damping: float) -> Tensor:
        damped = self.matrix.clone()
        damped.diagonal().add_(damping)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if int(failed):
            return torch.full_like(flat, torch.nan)
        columns = flat.reshape(-1, flat.shape[-1]).T
        return torch.cholesky_solve(columns, factor).T.reshape(flat.shape)

    def trace(self) -> float:
        return float(self.matrix.trace())

    def norm(self) -> float:
        return float(torch.linalg.matrix_norm(self.matrix))

    def diagonal(self) -> Tensor:
        return self.matrix.diagonal().clone()

    def eigenvalues(self) -> Tensor:
        return torch.linalg.eigvalsh(self.matrix).flip(0)

    def to_dense(self) -> Tensor:
        return self.matrix.clone()


class DenseSum:
    """Accumulates the matrices of some parameters' gradients, block by block.

    Args:
        space: the parameter space.
        members: the parameters of each block.

    Raises:
        InputError: a block's matrix cannot fit into memory.
    """

    def __init__(self, space: ParameterSpace, members: Mapping[str, tuple[str, ...]]) -> None:
        self.members = dict(members)
        self.space = space
        self.totals = {}
        for block, names in self.members.items():
            size = space.floats(names)
            check_fits(
                f"representation: the {size:,} x {size:,} matrix of {block!r}",
                size**2 * space.dtype.itemsize,
                space.device,
                "use 'kfac', 'ekfac', 'diagonal' or 'implicit', or select fewer parameters",
            )
            self.totals[block] = torch.zeros(size, size, dtype=space.dtype, device=space.device)

    @property
    def rows(self) -> int:
        """Numbers that are needed for each sample and cotangent."""
        return sum(len(total) for total in self.totals.values())

    def add(self, per_sample: Mapping[str, Float[Tensor, "k n *shape"]]) -> None:
        """Add the outer products of gradients given sample by sample; missing ones are zero."""
        if not per_sample:
            return
        lead = next(iter(per_sample.values())).shape[:2]
        for block, names in self.members.items():
            pieces = [
                flat_rows(per_sample[name])
                if name in per_sample
                else self.totals[block].new_zeros(*lead, math.prod(self.space.shape_of[name]))
                for name in names
            ]
            add_gram_(self.totals[block], torch.cat(pieces, dim=2).flatten(0, 1).T)

    def blocks(self, samples: int) -> dict[str, Dense]:
        """The mean matrices."""
        return {name: Dense(mirror_(total) / samples) for name, total in self.totals.items()}


def build(sweep: Sweep) -> BlockMetric:
    """The full matrix of a sweep's gradients."""
    space = sweep.network.space
    total = DenseSum(space, {"all": space.names})
    for step in sweep.steps("dense metric", rows=total.rows):
        per_sample: dict[str, Tensor] = {}
        for part in step.parts():
            per_sample.update(part.per_sample())
        total.add(per_sample)
    return BlockMetric(space, origin_of(sweep), "dense", total.blocks(sweep.samples), total.members)
