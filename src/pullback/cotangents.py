"""Cotangents: the output vectors that are pulled back, one backward pass each.

Any metric is a sum of outer products of gradients `J^T u_k` once the output metric is written as
`M = sum_k u_k u_k^T`. A `Source` says how:

    exact       the columns of a square root of M, as many as its rank
    sketched    this root times random signs, M in expectation
    sampled     gradients of -log p at labels drawn from the model, M in expectation
    empirical   the gradient of -log p at the true label (which is no Fisher matrix)
    centred     the same; the metric subtracts the square of its mean

A `ReadOut` pulls back fixed combinations of the outputs, for Jacobians and tangent kernels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.errors import InputError
from pullback.likelihoods import Likelihood

ESTIMATORS = ("exact", "sketched", "sampled", "empirical", "centred")
SKIPPED_AT_ONCE = 256  # samples of other processes, whose draws are thrown away
EXACT_RANK = 128  # the greatest rank of an output metric that is exact where nobody says otherwise


class Cotangents(ABC):
    """The cotangents of one batch, made when asked for, since c of them may not fit at once."""

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def part(self, start: int, stop: int) -> Float[Tensor, "k n c"]:
        """Cotangents `start` to `stop`."""

    @abstractmethod
    def apply(self, vectors: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The product of the output metric `sum_k u_k u_k^T` with one vector for each sample."""


@dataclass(frozen=True)
class ExactCotangents(Cotangents):
    """The square root of the output metric at given outputs, of so many columns."""

    likelihood: Likelihood
    outputs: Float[Tensor, "n c"]
    columns: int

    def __len__(self) -> int:
        return self.columns

    def part(self, start: int, stop: int) -> Tensor:
        return self.likelihood.root(self.outputs, start, min(stop, len(self)))

    def apply(self, vectors: Tensor) -> Tensor:
        return self.likelihood.apply(self.outputs, vectors)


@dataclass(frozen=True)
class GivenCotangents(Cotangents):
    """Cotangents that are known already, (k, n, c)."""

    values: Float[Tensor, "k n c"]

    def __len__(self) -> int:
        return len(self.values)

    def part(self, start: int, stop: int) -> Tensor:
        return self.values[start:stop]

    def apply(self, vectors: Tensor) -> Tensor:
        return torch.einsum("knc,kn->nc", self.values, (self.values * vectors).sum(2))


@runtime_checkable
class Pass(Protocol):
    """One pass over the data, batch by batch."""

    def next(self, outputs: Float[Tensor, "n c"], targets: Tensor | None) -> Cotangents:
        """The cotangents of the next batch."""
        ...


@runtime_checkable
class CotangentSource(Protocol):
    """Anything that supplies cotangents for a data set."""

    def count(self, outputs: int) -> int:
        """How many cotangents, hence backward passes, there are for that many outputs."""
        ...

    def open(self, first: int = 0) -> Pass:
        """Start one pass, `first` samples into the data; every pass sees the same cotangents."""
        ...


@dataclass(frozen=True)
class Source:
    """Where the cotangents of a metric come from.

    A sketch `u = R z`, with `M = R R^T` and random signs z, has the mean `u u^T = M`; the entries
    have the variance `(M_ii M_jj + M_ij^2 - 2 sum_k R_ik^2 R_jk^2) / samples`, where Gaussian noise
    instead of signs would lack the subtraction.

    Attributes:
        likelihood: the output metric.
        estimator: "exact", "sketched", "sampled", "empirical" or "centred".
        samples: cotangents for each sample: labels drawn, or vectors of signs.
        seed: of the draws; the same seed gives the same draws in every pass and batch size.
        first: how many samples of the whole data set come before these, in other processes.

    Raises:
        InputError: an unknown estimator, or fewer than one sample.
    """

    likelihood: Likelihood
    estimator: str = "exact"
    samples: int = 1
    seed: int = 0
    first: int = 0

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            known = ", ".join(map(repr, ESTIMATORS))
            raise InputError(f"estimator: {self.estimator!r}; choose one of {known}")
        if self.samples < 1:
            raise InputError(f"samples: {self.samples}; draw one at least for each sample")

    def affordable(self, outputs: int) -> Source:
        """The same source, exact up to a rank of `EXACT_RANK` and sketched above it."""
        exact = self.likelihood.rank(outputs) <= EXACT_RANK
        return replace(self, estimator="exact" if exact else "sketched")

    def count(self, outputs: int) -> int:
        """How many cotangents, hence backward passes, there are at most for that many outputs."""
        if self.estimator == "exact":
            return self.likelihood.rank(outputs)
        return self.samples if self.estimator in ("sketched", "sampled") else 1

    def open(self, first: int = 0) -> Draws:
        """Start one pass, `first` samples into the data; every pass sees the same draws."""
        return Draws(self, torch.Generator().manual_seed(self.seed), self.first + first)


@dataclass
class Draws:
    """One pass of a source over the data."""

    source: Source
    generator: torch.Generator
    skipped: int

    def next(self, outputs: Float[Tensor, "n c"], targets: Tensor | None) -> Cotangents:
        """The cotangents of the next batch.

        Raises:
            InputError: the empirical version is asked for and there are no targets, or they do not
                fit the likelihood; or the likelihood cannot supply what the estimator needs.
        """
        source = self.source
        likelihood = source.likelihood.given(targets)
        if source.estimator == "exact":
            return _exact(likelihood, outputs)
        if source.estimator in ("empirical", "centred"):
            if targets is None:
                raise InputError(
                    f"data: estimator {source.estimator!r} needs targets; give (inputs, targets)"
                )
            return GivenCotangents(likelihood.residual(outputs, targets).unsqueeze(0))

        # Random numbers in sample order: the stream does not depend on how samples are batched.
        def uniform(width: int) -> Tensor:
            numbers = self._fresh(
                lambda n: torch.rand(
                    n, source.samples, width, dtype=torch.float64, generator=self.generator
                ),
                len(outputs),
            )
            return numbers.clamp(min=2.0**-53).to(outputs.device)

        if source.estimator == "sampled":
            drawn = likelihood.scores(outputs, uniform)
        else:
            width = likelihood.columns(outputs)
            bits = self._fresh(
                lambda n: torch.randint(
                    2, (n, source.samples, width), dtype=torch.int8, generator=self.generator
                ),
                len(outputs),
            )
            drawn = likelihood.mix(outputs, (2 * bits - 1).to(outputs))
        return GivenCotangents(drawn / math.sqrt(source.samples))

    def _fresh(self, draw: Callable[[int], Tensor], n: int) -> Tensor:
        """Numbers for n samples, once those of the samples before all of these are drawn."""
        while self.skipped:
            some = min(self.skipped, SKIPPED_AT_ONCE)
            draw(some)
            self.skipped -= some
        return draw(n)


def _exact(likelihood: Likelihood, outputs: Float[Tensor, "n c"]) -> Cotangents:
    """The columns of a square root of M, of which c are enough."""
    columns, c = likelihood.columns(outputs), outputs.shape[1]
    if columns <= c:
        return ExactCotangents(likelihood, outputs, columns)
    # With the transposed root as Q times a triangle (c, c), M is the triangle's own square. It is
    # unique once its diagonal is positive.
    root = likelihood.root(outputs, 0, columns).transpose(0, 1)
    triangle = torch.linalg.qr(root, mode="r").R
    negative = triangle.diagonal(dim1=1, dim2=2) < 0
    triangle = torch.where(negative.unsqueeze(2), -triangle, triangle)
    return GivenCotangents(triangle.transpose(0, 1).contiguous())


@dataclass(frozen=True, eq=False)
class ReadOut:
    """Fixed combinations of the outputs.

    Attributes:
        outputs: None for every output, a number for one, a pair (c1, c2) for f_c2 - f_c1, weights
            (c,) for one combination or (r, c) for several.
    """

    outputs: int | tuple[int, int] | Tensor | None = None

    def count(self, outputs: int) -> int:
        """How many combinations there are."""
        return len(self.weights(torch.empty(0, outputs)))

    def open(self, first: int = 0) -> ReadOut:
        """Start one pass; there is nothing to keep."""
        return self

    def next(self, outputs: Float[Tensor, "n c"], targets: Tensor | None) -> Cotangents:
        """The same combinations for every sample."""
        return GivenCotangents(self.weights(outputs).unsqueeze(1).expand(-1, len(outputs), -1))

    def weights(self, outputs: Float[Tensor, "n c"]) -> Float[Tensor, "r c"]:
        """The combinations, as weights of such outputs.

        Raises:
            InputError: the model has no output of that number, or another number of them.
        """
        c = outputs.shape[1]
        if isinstance(self.outputs, Tensor):
            if self.outputs.shape[-1] != c or self.outputs.ndim > 2:
                raise InputError(
                    f"outputs: weights of shape {tuple(self.outputs.shape)} for a model with {c} "
                    f"outputs; give ({c},) or (r, {c})"
                )
            return self.outputs.to(outputs).reshape(-1, c)
        rows = torch.eye(c, dtype=outputs.dtype, device=outputs.device)
        if self.outputs is None:
            return rows
        chosen = (self.outputs,) if isinstance(self.outputs, int) else self.outputs
        if not all(0 <= number < c for number in chosen):
            raise InputError(f"outputs: {self.outputs} is out of range for {c} outputs")
        return rows[chosen[-1:],] if len(chosen) == 1 else rows[chosen[1:],] - rows[chosen[:1],]
