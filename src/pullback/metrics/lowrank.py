"""The low-rank representation: the gradients themselves, `F = R^T R`, and what comes of it."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from linear_operator import LinearOperator
from linear_operator.operators import LowRankRootLinearOperator
from torch import Tensor

from pullback.metrics.block import Block, Spectral


class LowRank(Block):
    """A block `R^T R + rest (I - P)`, where P projects on the span of the rows of R.

    The rest is zero for a metric as it is measured; its inverse and its powers have one.

    Args:
        rows: R, shape (m, d).
    """

    kind = "lowrank"

    def __init__(self, rows: Float[Tensor, "m d"]) -> None:
        self.rows = rows

    @property
    def size(self) -> int:
        return self.rows.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        return {"rows": self.rows}

    @cached_property
    def spectrum(self) -> Spectrum:
        """The same block by its eigenvalues and eigenvectors."""
        values, vectors = torch.linalg.eigh(self.rows @ self.rows.T)
        # What is smaller than the rounding of the largest is zero, with no direction of its own.
        kept = values > values[-1:] * len(values) * torch.finfo(values.dtype).eps
        directions = (vectors[:, kept].T @ self.rows) / values[kept].sqrt().unsqueeze(1)
        return Spectrum(directions, values[kept], values.new_zeros(()))

    def product(self, flat: Tensor) -> Tensor:
        return (flat @ self.rows.T) @ self.rows

    def quadratic(self, flat: Tensor) -> float:
        along = self.rows @ flat
        return float(along @ along)

    def solve(self, flat: Tensor, damping: int | float) -> Tensor:
        # Woodbury: the matrix to factorise is m x m.
        gram = self.rows @ self.rows.T
        gram.diagonal().add_(damping)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if damping == 0 or int(failed):
            return self.spectrum.solve(flat, damping)
        columns = flat.reshape(-1, self.size).T
        inside = self.rows.T @ torch.cholesky_solve(self.rows @ columns, factor)
        return ((columns - inside) / damping).T.reshape(flat.shape)

    def trace(self) -> float:
        return self._trace

    @cached_property
    def _trace(self) -> float:
        entries = self.rows.flatten()
        return float(entries @ entries)

    def norm(self) -> float:
        left = self.rows if len(self.rows) <= self.size else self.rows.T  # the smaller Gram matrix
        return float(torch.linalg.matrix_norm(left @ left.T))

    def diagonal(self) -> Tensor:
        return self.rows.square().sum(0)

    def eigenvalues(self) -> Tensor:
        return self.spectrum.eigenvalues()

    def eigenvectors(self, places: Tensor) -> Tensor:
        return self.spectrum.eigenvectors(places)

    def logdet(self, damping: int | float) -> float:
        return self.spectrum.logdet(damping)

    def apply(self, function: Spectral) -> Spectrum:
        return self.spectrum.apply(function)

    def centred(self, mean: Tensor) -> LowRank:
        return LowRank(self.rows - mean / len(self.rows) ** 0.5)

    def scaled(self, factor: int | float) -> Block:
        if factor < 0:
            return self.spectrum.scaled(factor)
        return LowRank(self.rows * factor**0.5)

    def plus(self, other: Block) -> Block:
        if isinstance(other, LowRank):
            return LowRank(torch.cat([self.rows, other.rows]))
        raise self.refuse("the sum with another kind", "dense")

    def to_linear_operator(self) -> LinearOperator:
        return LowRankRootLinearOperator(self.rows.T)


class Spectrum(Block):
    """A block by some of its eigenvectors; the others share one eigenvalue.

    Args:
        directions: orthonormal, shape (r, d).
        values: their eigenvalues (r,).
        rest: the eigenvalue of everything orthogonal to them, a scalar.
    """

    kind = "spectrum"

    def __init__(
        self,
        directions: Float[Tensor, "r d"],
        values: Float[Tensor, " r"],
        rest: Float[Tensor, ""],
    ) -> None:
        self.directions, self.values, self.rest = directions, values, rest

    @property
    def size(self) -> int:
        return self.directions.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        return {"directions": self.directions, "values": self.values, "rest": self.rest}

    def product(self, flat: Tensor) -> Tensor:
        inside = flat @ self.directions.T
        if len(self.values) == self.size:
            return (inside * self.values) @ self.directions
        return self.rest * flat + (inside * (self.values - self.rest)) @ self.directions

    @property
    def _others(self) -> int:
        return self.size - len(self.values)

    def trace(self) -> float:
        return float(self.values.sum() + self._others * self.rest)

    def norm(self) -> float:
        return float((self.values.square().sum() + self._others * self.rest.square()).sqrt())

    def diagonal(self) -> Tensor:
        squares = self.directions.square()
        return self.values @ squares + self.rest * (1 - squares.sum(0))

    def eigenvalues(self) -> Tensor:
        return torch.cat([self.values, self.rest.expand(self._others)])

    def eigenvectors(self, places: Tensor) -> Tensor:
        if bool((places < len(self.values)).all()):
            return self.directions[places]
        # A basis of the rest: columns of the complete orthogonal factor.
        basis = torch.linalg.qr(self.directions.T, mode="complete").Q.T
        return torch.cat([self.directions, basis[len(self.values) :]])[places]

    def apply(self, function: Spectral) -> Spectrum:
        return Spectrum(self.directions, function(self.values), function(self.rest))

    def logdet(self, damping: int | float) -> float:
        others = self._others * (self.rest + damping).log() if self._others else 0.0
        return float((self.values + damping).log().sum() + others)

    def scaled(self, factor: int | float) -> Spectrum:
        return self.apply(lambda values: values * factor)

    def plus(self, other: Block) -> Block:
        raise self.refuse("the sum", "dense")
