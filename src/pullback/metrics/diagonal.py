"""The diagonal representation: d numbers."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.metrics.metric import Block, BlockMetric, origin_of
from pullback.tape.sweep import Sweep


class Diagonal(Block):
    """A block as its diagonal.

    Args:
        values: non-negative, shape (d,).
    """

    def __init__(self, values: Float[Tensor, " d"]) -> None:
        self.values = values

    def product(self, flat: Tensor) -> Tensor:
        return flat * self.values

    def solve(self, flat: Tensor, damping: int | float) -> Tensor:
        return flat / (self.values + damping)

    def trace(self) -> float:
        return float(self.values.sum())

    def norm(self) -> float:
        return float(torch.linalg.vector_norm(self.values))

    def diagonal(self) -> Tensor:
        return self.values.clone()

    def eigenvalues(self) -> Tensor:
        return self.values.sort(descending=True).values

    def to_dense(self) -> Tensor:
        return torch.diag(self.values)


def build(sweep: Sweep) -> BlockMetric:
    """The diagonal of a sweep's gradients, one block for each parameter."""
    space = sweep.network.space
    total = space.zeros()
    for step in sweep.steps("diagonal metric"):
        for part in step.parts():
            for name, squares in part.diagonal().items():
                total[name].add_(squares)
    blocks = {name: Diagonal(total[name].flatten() / sweep.samples) for name in space.names}
    members = {name: (name,) for name in space.names}
    return BlockMetric(space, origin_of(sweep), "diagonal", blocks, members)
