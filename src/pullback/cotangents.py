"""Cotangents: the output vectors that are pulled back, one backward pass each.

Any metric is a sum of outer products of gradients `J^T u_k` once the output metric is written as
`M = sum_k u_k u_k^T`. A `Source` says how:

    exact       the columns of a square root of M, as many as its rank
    sampled     gradients of -log p at labels drawn from the model, M in expectation
    empirical   the gradient of -log p at the true label (which is no Fisher matrix)

A `ReadOut` pulls back fixed combinations of the outputs, for Jacobians and tangent kernels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.errors import InputError
from pullback.likelihoods import Likelihood


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
    """The square root of the output metric at given outputs."""

    likelihood: Likelihood
    outputs: Float[Tensor, "n c"]

    def __len__(self) -> int:
        return self.likelihood.rank(self.outputs.shape[1])

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

    def open(self) -> Pass:
        """Start one pass over the data; every pass sees the same cotangents."""
        ...


@dataclass(frozen=True)
class Source:
    """Where the cotangents of a metric come from.

    Attributes:
        likelihood: the output metric.
        estimator: "exact", "sampled" or "empirical".
        samples: labels drawn for each sample (sampled only).
        seed: of the draws; the same seed gives the same labels in every pass and batch size.

    Raises:
        InputError: an unknown estimator, or fewer than one sample.
    """

    likelihood: Likelihood
    estimator: str = "exact"
    samples: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.estimator not in ("exact", "sampled", "empirical"):
            raise InputError(
                f"estimator: {self.estimator!r}; choose 'exact', 'sampled' or 'empirical'"
            )
        if self.samples < 1:
            raise InputError(f"samples: {self.samples}; draw at least one label a sample")

    def count(self, outputs: int) -> int:
        """How many cotangents, hence backward passes, there are for that many outputs."""
        if self.estimator == "exact":
            return self.likelihood.rank(outputs)
        return self.samples if self.estimator == "sampled" else 1

    def open(self) -> Draws:
        """Start one pass over the data; every pass sees the same draws."""
        return Draws(self, torch.Generator().manual_seed(self.seed))


@dataclass
class Draws:
    """One pass of a source over the data."""

    source: Source
    generator: torch.Generator

    def next(self, outputs: Float[Tensor, "n c"], targets: Tensor | None) -> Cotangents:
        """The cotangents of the next batch.

        Raises:
            InputError: the empirical version is asked for and there are no targets, or they do not
                fit the likelihood.
        """
        source, likelihood = self.source, self.source.likelihood
        if source.estimator == "exact":
            return ExactCotangents(likelihood, outputs)
        if source.estimator == "empirical":
            if targets is None:
                raise InputError("data: the empirical Fisher needs targets; give (inputs, targets)")
            return GivenCotangents(likelihood.residual(outputs, targets).unsqueeze(0))
        # Uniform numbers in sample order: the stream does not depend on how samples are batched.
        n, c = outputs.shape
        uniform = torch.rand(n, source.samples, c, dtype=torch.float64, generator=self.generator)
        uniform = uniform.clamp(min=2.0**-53).to(outputs.device)
        drawn = likelihood.scores(outputs, uniform) / math.sqrt(source.samples)
        return GivenCotangents(drawn)


@dataclass(frozen=True)
class ReadOut:
    """Fixed combinations of the outputs: all of them, one, or the difference of two.

    Attributes:
        outputs: None for every output, a number for one, a pair (c1, c2) for f_c2 - f_c1.
    """

    outputs: int | tuple[int, int] | None = None

    def count(self, outputs: int) -> int:
        """How many combinations there are."""
        return outputs if self.outputs is None else 1

    def open(self) -> ReadOut:
        """Start one pass; there is nothing to keep."""
        return self

    def next(self, outputs: Float[Tensor, "n c"], targets: Tensor | None) -> Cotangents:
        """The same combinations for every sample.

        Raises:
            InputError: the model has no output of that number.
        """
        n, c = outputs.shape
        rows = torch.eye(c, dtype=outputs.dtype, device=outputs.device)
        if self.outputs is not None:
            chosen = (self.outputs,) if isinstance(self.outputs, int) else self.outputs
            if not all(0 <= number < c for number in chosen):
                raise InputError(f"outputs: {self.outputs} is out of range for {c} outputs")
            rows = rows[chosen[-1:],] if len(chosen) == 1 else rows[chosen[1:],] - rows[chosen[:1],]
        return GivenCotangents(rows.unsqueeze(1).expand(-1, n, -1))
