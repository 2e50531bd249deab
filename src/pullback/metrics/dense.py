"""The dense representation: a full matrix, for one layer or for all parameters together."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from linear_operator import LinearOperator
from linear_operator.operators import DenseLinearOperator
from torch import Tensor

from pullback.linalg import eigh
from pullback.metrics.block import Block, Spectral


class Dense(Block):
    """A block as a full matrix.

    Args:
        matrix: symmetric, shape (d, d).
    """

    kind = "dense"

    def __init__(self, matrix: Float[Tensor, "d d"]) -> None:
        self.matrix = matrix

    @property
    def size(self) -> int:
        return len(self.matrix)

    def tensors(self) -> dict[str, Tensor]:
        return {"matrix": self.matrix}

    @cached_property
    def _eigh(self) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
        return eigh(self.matrix)

    def product(self, flat: Tensor) -> Tensor:
        return flat @ self.matrix

    def solve(self, flat: Tensor, damping: int | float) -> Tensor:
        factor, failed = self._cholesky(damping)
        if failed:  # indefinite, as a Hessian can be; or singular, which shows as infinities
            return super().solve(flat, damping)
        columns = flat.reshape(-1, flat.shape[-1]).T
        return torch.cholesky_solve(columns, factor).T.reshape(flat.shape)

    def _cholesky(self, damping: int | float) -> tuple[Tensor, bool]:
        damped = self.matrix.clone()
        damped.diagonal().add_(damping)
        factor, failed = torch.linalg.cholesky_ex(damped)
        return factor, bool(failed)

    def logdet(self, damping: int | float) -> float:
        factor, failed = self._cholesky(damping)
        return float("nan") if failed else 2 * float(factor.diagonal().log().sum())

    def trace(self) -> float:
        return float(self.matrix.trace())

    def norm(self) -> float:
        return float(torch.linalg.matrix_norm(self.matrix))

    def diagonal(self) -> Tensor:
        return self.matrix.diagonal().clone()

    def eigenvalues(self) -> Tensor:
        if "_eigh" in self.__dict__:
            return self._eigh[0]
        return torch.linalg.eigvalsh(self.matrix)

    def eigenvectors(self, places: Tensor) -> Tensor:
        return self._eigh[1].T[places]

    def apply(self, function: Spectral) -> Dense:
        values, vectors = self._eigh
        return Dense((vectors * function(values)) @ vectors.T)

    def scaled(self, factor: int | float) -> Dense:
        return Dense(self.matrix * factor)

    def plus(self, other: Block) -> Dense:
        return Dense(self.matrix + other.to_dense())

    def centred(self, mean: Tensor) -> Dense:
        return Dense(self.matrix - torch.outer(mean, mean))

    def to_linear_operator(self) -> LinearOperator:
        return DenseLinearOperator(self.matrix)

    def to_dense(self) -> Tensor:
        return self.matrix.clone()
