"""A block: a symmetric operator on some of the parameters.

Every representation of a metric is made of blocks of one or more kinds. What a kind has to supply
is its product, a few sums over its entries, and its matrix functions (`apply`); inverses, powers
and samples follow from these. Where a kind is not closed under an operation, it says so and names
the one that is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from linear_operator import LinearOperator
from torch import Tensor

from pullback.errors import InputError
from pullback.linalg import not_negative
from pullback.metrics.products import Products

# A function of one number, applied to every eigenvalue.
Spectral = Callable[[Tensor], Tensor]


class Block(ABC):
    """A symmetric operator on the d parameters of one block.

    Attributes:
        kind: the representation that consists of such blocks.
        size: the dimension d.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def size(self) -> int:
        """The dimension d."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The numbers that it consists of, by the constructor's names for them."""

    @abstractmethod
    def product(self, flat: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The product with vectors (..., d)."""

    def quadratic(self, flat: Float[Tensor, " d"]) -> float:
        """The quadratic form of one vector."""
        return float(flat @ self.product(flat))

    @abstractmethod
    def trace(self) -> float:
        """The trace."""

    @abstractmethod
    def norm(self) -> float:
        """The Frobenius norm."""

    @abstractmethod
    def diagonal(self) -> Float[Tensor, " d"]:
        """The diagonal."""

    @abstractmethod
    def eigenvalues(self) -> Float[Tensor, " d"]:
        """All eigenvalues, in the block's own order."""

    @abstractmethod
    def eigenvectors(self, places: Int[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """The eigenvectors that belong to some of the eigenvalues, in rows, of length one."""

    @abstractmethod
    def apply(self, function: Spectral) -> Block:
        """The block with the same eigenvectors and a function of the eigenvalues.

        Raises:
            InputError: the kind of block is not closed under matrix functions.
        """

    @abstractmethod
    def scaled(self, factor: int | float) -> Block:
        """The block times a number."""

    @abstractmethod
    def plus(self, other: Block) -> Block:
        """The sum with another block on the same parameters.

        Raises:
            InputError: the sum is not a block of this kind.
        """

    def centred(self, mean: Float[Tensor, " d"]) -> Block:
        """A second moment without the square of the mean, so a covariance.

        Raises:
            InputError: that is not a block of this kind.
        """
        raise self.refuse("centring")

    def to_dense(self) -> Float[Tensor, "d d"]:
        """The block as a matrix."""
        like = next(iter(self.tensors().values()))
        return self.product(torch.eye(self.size, dtype=like.dtype, device=like.device))

    def to_linear_operator(self) -> LinearOperator:
        """The block for the library `linear_operator`: as the class of its structure, if any."""
        return Products(
            next(iter(self.tensors().values())).new_empty(0, self.size), self.product, self.diagonal
        )

    def solve(self, flat: Float[Tensor, "*b d"], damping: int | float) -> Float[Tensor, "*b d"]:
        """The solutions x of `(F + damping I) x = flat`; not finite where it is singular."""
        return self.apply(lambda values: 1 / (values + damping)).product(flat)

    def logdet(self, damping: int | float) -> float:
        """The logarithm of the determinant of `F + damping I`; NaN where it is not positive."""
        return float((self.eigenvalues() + damping).log().sum())

    def sample(self, noise: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """`F^(1/2)` times independent N(0, 1) numbers: a sample of N(0, F).

        Not finite where F is not positive.
        """
        return self.apply(lambda values: not_negative(values).sqrt()).product(noise)

    def sample_inverse(
        self, noise: Float[Tensor, "*b d"], damping: int | float
    ) -> Float[Tensor, "*b d"]:
        """`(F + damping I)^(-1/2)` times noise; not finite where it is singular."""
        return self.apply(lambda values: (values + damping).rsqrt()).product(noise)

    def refuse(self, operation: str, instead: str = "block") -> InputError:
        """The error for an operation under which this kind of block is not closed."""
        return InputError(
            f"representation: {operation} of {self.kind!r} is not {self.kind!r}; "
            f"use metric.to({instead!r}) first"
        )
