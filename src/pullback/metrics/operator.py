"""Metrics known by their products alone: everything else by iteration.

Solves are conjugate gradients, eigenvectors the restarted Lanczos method, functions of the matrix
Lanczos on the vector they meet. What is estimated from random vectors carries a standard error.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.errors import InputError
from pullback.estimates import Estimate
from pullback.metrics import iterative
from pullback.metrics.metric import BlockMetric, Metric, check_damping
from pullback.metrics.origin import Origin
from pullback.parameters import ParameterSpace, ParameterVector


class Operator(Metric):
    """A metric that can be multiplied with vectors, and no more.

    Args:
        space: the parameter space.
        origin: how it was made.
        tolerance: relative residual at which a solve stops.
        iterations: at most so many products in a solve.
        steps: of Lanczos, for matrix functions and quadratures.
    """

    representation = "implicit"

    def __init__(
        self,
        space: ParameterSpace,
        origin: Origin,
        tolerance: float = 1e-6,
        iterations: int = 1000,
        steps: int = 50,
    ) -> None:
        super().__init__(space, origin)
        self.tolerance, self.iterations, self.steps = tolerance, iterations, steps

    @abstractmethod
    def to(self, representation: str) -> BlockMetric:
        """The same matrix in another representation, by other passes over the data."""

    def _solution(self, flat: Tensor, damping: int | float, split: str) -> Tensor:
        if split != "none":
            raise InputError("split: 'implicit' has no Kronecker factors to damp")
        return iterative.solve(self.to_scipy(), flat, damping, self.tolerance, self.iterations)

    def _sample(self, noise: Tensor) -> Tensor:
        return iterative.function_times(
            self._product, noise, lambda values: values.clamp(min=0).sqrt(), self.steps
        )

    def _sample_inverse(self, noise: Tensor, damping: int | float) -> Tensor:
        return iterative.function_times(
            self._product, noise, lambda values: (values + damping).rsqrt(), self.steps
        )

    def norm(self, samples: int = 32, seed: int = 0) -> Estimate:
        """The Frobenius norm, estimated: `|F z|^2` has the mean `|F|^2` for random signs z."""
        signs = self._signs(samples, seed)
        squares = Estimate.of(self._product(signs).square().sum(1))
        root = math.sqrt(squares.value)
        return Estimate(root, squares.stderr / (2 * root) if root else 0.0, samples)

    def logdet(self, damping: int | float = 1e-3, samples: int = 32, seed: int = 0) -> Estimate:
        """The logarithm of the determinant of `F + damping I`, by stochastic Lanczos quadrature.

        Raises:
            InputError: the damping is not positive.
        """
        check_damping(damping)
        if damping == 0:
            raise InputError("damping: 0; the quadrature needs a positive one")
        nodes, weights, _ = iterative.quadrature(
            self._product, self._signs(samples, seed), self.steps
        )
        logs = (nodes.clamp(min=0) + damping).log()
        return Estimate.of(self.space.size * (weights * logs).sum(1))

    def spectral_density(
        self, samples: int = 8, seed: int = 0
    ) -> tuple[Float[Tensor, "b m"], Float[Tensor, "b m"]]:
        """The eigenvalue density: nodes and weights, one row for each random vector.

        Each row is a measure of mass one whose mean over rows estimates the share of eigenvalues
        at each value; the scatter between rows is its error.
        """
        nodes, weights, _ = iterative.quadrature(
            self._product, self._signs(samples, seed), self.steps
        )
        return nodes, weights

    def _signs(self, samples: int, seed: int) -> Float[Tensor, "b d"]:
        if samples < 2:
            raise InputError(f"samples: {samples}; an error needs two random vectors at least")
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, (samples, self.space.size), generator=generator) * 2 - 1
        return signs.to(self.space.device, self.space.dtype)

    def spectral_norm(self) -> float:
        """The largest absolute eigenvalue."""
        if self.space.size == 1:
            return abs(self.trace())
        return float(iterative.largest_eigenpairs(self.to_scipy(), 1, by_size=True)[0].abs())

    def eigh(self, k: int) -> tuple[Tensor, ParameterVector]:
        self._check_count(k)
        if k < self.space.size // 2:
            values, vectors = iterative.largest_eigenpairs(self.to_scipy(), k)
            like = self.space.zeros().flat
            return values.to(like), ParameterVector(self.space, vectors.to(like))
        return self.to("dense").eigh(k)

    def eigenvalues(self) -> Tensor:
        return self.to("dense").eigenvalues()

    def to_dense(self) -> Tensor:
        return self.to("dense").to_dense()
