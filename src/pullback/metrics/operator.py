"""Metrics known by their products alone: everything else by iteration.

Solves are conjugate gradients, eigenvectors the restarted Lanczos method, functions of the matrix
Lanczos on the vector they meet. What is estimated from random vectors carries a standard error.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.errors import InputError
from pullback.estimates import Estimate
from pullback.linalg import not_negative
from pullback.metrics import iterative
from pullback.metrics.metric import BlockMetric, Metric, check_damping, check_same_space
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

    def __mul__(self, factor: int | float) -> Combination:
        return Combination([(factor, self)])

    __rmul__ = __mul__

    def __truediv__(self, divisor: int | float) -> Combination:
        return self * (1 / divisor)

    def __neg__(self) -> Combination:
        return self * -1

    def __add__(self, other: Metric) -> Combination:
        if not isinstance(other, Metric):
            return NotImplemented
        return Combination([(1, self), (1, other)])

    __radd__ = __add__

    def __sub__(self, other: Metric) -> Combination:
        if not isinstance(other, Metric):
            return NotImplemented
        return Combination([(1, self), (-1, other)])

    def __rsub__(self, other: Metric) -> Combination:
        return -self + other

    def power(self, exponent: int | float, damping: int | float = 0.0) -> BlockMetric:
        """Refused: a matrix function has entries of its own, which products do not give.

        Raises:
            InputError: always; it names the representations that are closed under powers.
        """
        raise _no_entries(
            f"the power {exponent}",
            "metric.solve multiplies with the inverse, metric.sample and metric.sample_inverse "
            "with the roots; metric.to('dense') has all powers",
        )

    def inverse(self, damping: int | float = 1e-3) -> BlockMetric:
        """Refused, as `power`.

        Raises:
            InputError: always.
        """
        return self.power(-1, damping)

    def save(self, path: str | Path) -> None:
        """Refused: there is nothing but the model and the data.

        Raises:
            InputError: always.
        """
        raise _no_entries("a file", "save metric.to('dense') or metric.to('ekfac')")

    def __getitem__(self, name: str) -> BlockMetric:
        """Refused: products of a block alone are those of a selection of the parameters.

        Raises:
            InputError: always.
        """
        raise _no_entries(
            f"the block {name!r}",
            f"use metric.to('block')[{name!r}], or give `fisher` a Network of those parameters",
        )

    def _solution(self, flat: Tensor, damping: int | float, split: str) -> Tensor:
        if split != "none":
            raise InputError("split: 'implicit' has no Kronecker factors to damp")
        return iterative.solve(self.to_scipy(), flat, damping, self.tolerance, self.iterations)

    def _sample(self, noise: Tensor) -> Tensor:
        return iterative.function_times(
            self._product, noise, lambda values: not_negative(values).sqrt(), self.steps
        )

    def _sample_inverse(self, noise: Tensor, damping: int | float) -> Tensor:
        return iterative.function_times(
            self._product, noise, lambda values: (values + damping).rsqrt(), self.steps
        )

    def norm(self, samples: int = 32, seed: int = 0) -> Estimate:
        """The Frobenius norm, estimated: `|F z|^2` has the mean `|F|^2` for random signs z.

        The error is that of the signs. A sampled or sketched F is itself an estimate; how far it
        is from the exact one, `trace` and `quadratic` tell.
        """
        signs = self._signs(samples, seed)
        squares = Estimate.of(self._product(signs).square().sum(1))
        root = math.sqrt(squares.value)
        return Estimate(root, squares.stderr / (2 * root) if root else 0.0, samples)

    def logdet(self, damping: int | float = 1e-3, samples: int = 32, seed: int = 0) -> Estimate:
        """The logarithm of the determinant of `F + damping I`, by stochastic Lanczos quadrature.

        The error is that of the random vectors, as for `norm`.

        Raises:
            InputError: the damping is not positive, or too small for the matrix to be so.
        """
        check_damping(damping)
        if damping == 0:
            raise InputError("damping: 0; the quadrature needs a positive one")
        nodes, weights, _ = iterative.quadrature(
            self._product, self._signs(samples, seed), self.steps
        )
        damped = nodes + damping
        if bool((damped <= 0).any()):
            raise InputError(
                f"damping: {damping} is too small for the matrix to be positive; raise it"
            )
        return Estimate.of(self.space.size * (weights * damped.log()).sum(1))

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
            return abs(float(self.trace()))
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


class Combination(Operator):
    """A sum of metrics with weights, of which one at least is known by its products alone.

    Args:
        terms: a weight and a metric each.

    Raises:
        InputError: the metrics are of different spaces.
    """

    def __init__(self, terms: Sequence[tuple[int | float, Metric]]) -> None:
        first = terms[0][1]
        for _, metric in terms[1:]:
            check_same_space(first, metric)
        super().__init__(first.space, first.origin)
        self.terms = tuple(terms)

    def _product(self, flat: Tensor) -> Tensor:
        out = torch.zeros_like(flat)
        for weight, metric in self.terms:
            out += weight * metric._product(flat)
        return out

    def trace(self) -> float | Estimate:
        traces = [(weight, metric.trace()) for weight, metric in self.terms]
        total = sum(weight * float(trace) for weight, trace in traces)
        estimates = [(w, trace) for w, trace in traces if isinstance(trace, Estimate)]
        if not estimates:
            return total
        # They may be of the same draws, so their errors add up like those of one: an upper bound.
        stderr = sum(abs(weight) * trace.stderr for weight, trace in estimates)
        return Estimate(total, stderr, min(trace.samples for _, trace in estimates))

    def diagonal(self) -> ParameterVector:
        out = self.space.zeros()
        for weight, metric in self.terms:
            out = out + weight * metric.diagonal()
        return out

    def to(self, representation: str) -> BlockMetric:
        first, *others = (metric.to(representation) * weight for weight, metric in self.terms)
        for other in others:
            first = first + other
        return first


def _no_entries(wanted: str, instead: str) -> InputError:
    return InputError(
        f"representation: 'implicit' stores no entries, of which {wanted} is made; {instead}"
    )
