"""The quasi-diagonal representation: the diagonal, and the bias with its row of the weight.

Ollivier 2015. Each output unit has an arrow matrix: the diagonal of its weights, its bias, and what
these share; that is 2 numbers a weight, and a solve in closed form. Of a positive matrix this
reduction need not be positive: each pair of a weight and its bias is, all of them together may not
be. Solves are exact all the same; a determinant or a sample is refused where there is none.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.metrics.block import Block, Spectral
from pullback.metrics.dense import Dense
from pullback.tape.affine import AffineLayout


class QuasiDiagonal(Block):
    """A block of one arrow matrix for each output unit.

    Args:
        layout: how weight and bias form matrices (G, o, i + 1).
        weights: the diagonal of the weights, (G, o, i).
        biases: that of the biases, (G, o).
        cross: what each weight shares with its unit's bias, (G, o, i).
    """

    kind = "quasidiagonal"

    def __init__(
        self,
        layout: AffineLayout,
        weights: Float[Tensor, "g o i"],
        biases: Float[Tensor, "g o"],
        cross: Float[Tensor, "g o i"],
    ) -> None:
        self.layout, self.weights, self.biases, self.cross = layout, weights, biases, cross

    @property
    def size(self) -> int:
        return self.weights.numel() + self.biases.numel()

    def tensors(self) -> dict[str, Tensor]:
        return {"weights": self.weights, "biases": self.biases, "cross": self.cross}

    def _apart(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        matrix = self.layout.matrix(flat)
        return matrix[..., :-1], matrix[..., -1]

    def _joined(self, weights: Tensor, biases: Tensor) -> Tensor:
        return self.layout.flat(torch.cat([weights, biases.unsqueeze(-1)], dim=-1))

    def product(self, flat: Tensor) -> Tensor:
        weights, biases = self._apart(flat)
        return self._joined(
            self.weights * weights + self.cross * biases.unsqueeze(-1),
            self.biases * biases + (self.cross * weights).sum(-1),
        )

    def solve(self, flat: Tensor, damping: int | float) -> Tensor:
        weights, biases = self._apart(flat)
        damped = self.weights + damping
        ratio = self.cross / damped
        bias = (biases - (ratio * weights).sum(-1)) / self._schur(damping)
        return self._joined((weights - self.cross * bias.unsqueeze(-1)) / damped, bias)

    def _schur(self, damping: int | float) -> Float[Tensor, "g o"]:
        """What is left of the damped bias once the weights are eliminated."""
        return self.biases + damping - (self.cross.square() / (self.weights + damping)).sum(-1)

    def logdet(self, damping: int | float) -> float:
        weights = (self.weights + damping).log().sum()
        return float(weights + self._schur(damping).log().sum())

    def sample(self, noise: Tensor) -> Tensor:
        # The square root of an arrow, weights first, is an arrow below a diagonal.
        weights, biases = self._apart(noise)
        root = self.weights.sqrt()
        along = (self.cross / root).nan_to_num(0.0, 0.0, 0.0)
        rest = self.biases - along.square().sum(-1)
        rounding = self.biases * self.layout.columns * torch.finfo(rest.dtype).eps
        rest = torch.where(rest.abs() <= rounding, 0.0, rest).sqrt()  # NaN if indefinite
        return self._joined(root * weights, (along * weights).sum(-1) + rest * biases)

    def sample_inverse(self, noise: Tensor, damping: int | float) -> Tensor:
        # F = L L^T with L the root of `sample`, so L^-T noise has the covariance F^-1.
        weights, biases = self._apart(noise)
        root = (self.weights + damping).sqrt()
        along = self.cross / root
        bias = biases / self._schur(damping).sqrt()
        return self._joined((weights - along * bias.unsqueeze(-1)) / root, bias)

    def trace(self) -> float:
        return float(self.weights.sum() + self.biases.sum())

    def norm(self) -> float:
        squares = [self.weights.square(), self.biases.square(), 2 * self.cross.square()]
        return float(sum(part.sum() for part in squares)) ** 0.5

    def diagonal(self) -> Tensor:
        return self._joined(self.weights, self.biases)

    def _arrows(self) -> Float[Tensor, "u ii ii"]:
        """The matrix of each unit, its bias last."""
        full = torch.cat([self.weights, self.biases.unsqueeze(-1)], dim=-1).flatten(0, 1)
        out = torch.diag_embed(full)
        out[:, -1, :-1] = out[:, :-1, -1] = self.cross.flatten(0, 1)
        return out

    def eigenvalues(self) -> Tensor:
        return torch.linalg.eigvalsh(self._arrows()).flatten()

    def eigenvectors(self, places: Tensor) -> Tensor:
        columns = self.layout.columns
        unit = torch.div(places, columns, rounding_mode="floor")
        vectors = torch.linalg.eigh(self._arrows()[unit]).eigenvectors
        chosen = vectors[torch.arange(len(places)), :, places % columns]
        out = self.weights.new_zeros(len(places), self.size // columns, columns)
        out[torch.arange(len(places)), unit] = chosen
        return self.layout.flat(out.unflatten(1, self.biases.shape))

    def apply(self, function: Spectral) -> Block:
        raise self.refuse("a matrix function")

    def centred(self, mean: Tensor) -> QuasiDiagonal:
        weights, biases = self._apart(mean)
        return QuasiDiagonal(
            self.layout,
            self.weights - weights.square(),
            self.biases - biases.square(),
            self.cross - weights * biases.unsqueeze(-1),
        )

    def scaled(self, factor: int | float) -> QuasiDiagonal:
        parts = (self.weights * factor, self.biases * factor, self.cross * factor)
        return QuasiDiagonal(self.layout, *parts)

    def plus(self, other: Block) -> Block:
        if isinstance(other, QuasiDiagonal):
            parts = (getattr(self, n) + getattr(other, n) for n in ("weights", "biases", "cross"))
            return QuasiDiagonal(self.layout, *parts)
        if isinstance(other, Dense):
            return other.plus(self)
        raise self.refuse("the sum with another kind")
