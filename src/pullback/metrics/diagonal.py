"""The diagonal representation: d numbers."""

from __future__ import annotations

import torch
from jaxtyping import Float
from linear_operator import LinearOperator
from linear_operator.operators import DiagLinearOperator
from torch import Tensor

from pullback.metrics.block import Block, Spectral


class Diagonal(Block):
    """A block as its diagonal.

    Args:
        values: shape (d,).
    """

    kind = "diagonal"

    def __init__(self, values: Float[Tensor, " d"]) -> None:
        self.values = values

    @property
    def size(self) -> int:
        return len(self.values)

    def tensors(self) -> dict[str, Tensor]:
        return {"values": self.values}

    def product(self, flat: Tensor) -> Tensor:
        return flat * self.values

    def trace(self) -> float:
        return float(self.values.sum())

    def norm(self) -> float:
        return float(torch.linalg.vector_norm(self.values))

    def diagonal(self) -> Tensor:
        return self.values.clone()

    def eigenvalues(self) -> Tensor:
        return self.values

    def eigenvectors(self, places: Tensor) -> Tensor:
        out = self.values.new_zeros(len(places), self.size)
        out[torch.arange(len(places), device=places.device), places] = 1
        return out

    def apply(self, function: Spectral) -> Diagonal:
        return Diagonal(function(self.values))

    def scaled(self, factor: int | float) -> Diagonal:
        return Diagonal(self.values * factor)

    def plus(self, other: Block) -> Block:
        if isinstance(other, Diagonal):
            return Diagonal(self.values + other.values)
        return other.plus(self)

    def centred(self, mean: Tensor) -> Diagonal:
        return Diagonal(self.values - mean.square())

    def to_linear_operator(self) -> LinearOperator:
        return DiagLinearOperator(self.values)

    def to_dense(self) -> Tensor:
        return torch.diag(self.values)
