"""The likelihoods that have a name, by formulas in the outputs."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pullback.errors import InputError
from pullback.likelihoods.base import Likelihood, Uniform
from pullback.likelihoods.multinomial import root_times


@dataclass(frozen=True)
class Categorical(Likelihood):
    """Class labels; the outputs are logits. M = diag p - p p^T, of rank c - 1.

    Targets are integers of shape (n,) in 0 ... c - 1.

    With positions there is a label at each of T tokens or pixels, independent of the others: the
    outputs (n, T v) are the logits of the first position, then those of the second, and so on.
    Targets have the shape (n, T), or (n, *b) with T entries for each sample. -log p is summed over
    positions, and M has T blocks.

    Args:
        positions: T; None for one label a sample.

    Raises:
        InputError: there are fewer positions than one.

    Example:
        >>> import torch, pullback as pb
        >>> tokens, model = torch.randint(9, (5, 4)), torch.nn.Embedding(9, 3)
        >>> network = pb.Network(model, outputs=lambda logits: logits.flatten(1))
        >>> pb.fisher(network, tokens, pb.likelihoods.Categorical(positions=4))
        ekfac metric on 27 parameters (exact categorical, mean over 5 samples)
    """

    positions: int | None = None
    name = "categorical"

    def __post_init__(self) -> None:
        if self.positions is not None and self.positions < 1:
            raise InputError(f"positions: {self.positions}; there has to be one at least")

    def rank(self, outputs: int) -> int:
        count = self.positions or 1
        if outputs % count:
            raise InputError(
                f"positions: {outputs} outputs are no multiple of {count} positions; they are the "
                "logits of the first position, then those of the second, and so on"
            )
        if outputs < 2 * count:
            raise InputError(
                "likelihood: 'categorical' needs two outputs or more; for one logit use 'bernoulli'"
            )
        return outputs - count

    def mix(self, outputs: Tensor, vectors: Tensor) -> Tensor:
        p = self._probabilities(outputs).unsqueeze(1)
        z = vectors.unflatten(2, (p.shape[2], -1))
        return root_times(p, z).flatten(2).transpose(0, 1)

    def apply(self, outputs: Tensor, vectors: Tensor) -> Tensor:
        p = self._probabilities(outputs)
        v = vectors.view_as(p)
        return (p * (v - (p * v).sum(2, keepdim=True))).flatten(1)

    def scores(self, outputs: Tensor, uniform: Uniform) -> Tensor:
        p = self._probabilities(outputs)
        cumulative = p.double().cumsum(2)
        shares = uniform(p.shape[1]).double().transpose(1, 2) * cumulative[..., -1:]  # (n, T, t)
        drawn = torch.searchsorted(cumulative, shares.contiguous())
        return self._scores(p, drawn.clamp(max=p.shape[2] - 1).permute(2, 0, 1))

    def residual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._scores(
            self._probabilities(outputs), self._labels(outputs, targets).unsqueeze(0)
        )[0]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        labels = self._labels(outputs, targets)
        logits = outputs.unflatten(1, (labels.shape[1], -1)).transpose(1, 2)
        return F.cross_entropy(logits, labels, reduction="sum") / len(outputs)

    def _probabilities(self, outputs: Tensor) -> Float[Tensor, "n T v"]:
        self.rank(outputs.shape[1])
        return outputs.unflatten(1, (self.positions or 1, -1)).softmax(2)

    @staticmethod
    def _scores(p: Float[Tensor, "n T v"], labels: Int[Tensor, "t n T"]) -> Float[Tensor, "t n c"]:
        scores, places = p.repeat(len(labels), 1, 1, 1), labels.unsqueeze(3)
        scores.scatter_add_(3, places, scores.new_full(places.shape, -1.0))
        return scores.flatten(2)

    def _labels(self, outputs: Tensor, targets: Tensor) -> Int[Tensor, "n T"]:
        self.rank(outputs.shape[1])
        count = self.positions or 1
        fit = targets.shape == outputs.shape[:1]
        if self.positions is not None:
            fit = targets.ndim > 1 and targets.flatten(1).shape == (len(outputs), count)
        if targets.is_floating_point() or not fit:
            shape = (len(outputs),) if self.positions is None else (len(outputs), count)
            raise InputError(
                f"targets: categorical labels are integers of shape {shape}, got "
                f"{targets.dtype} of shape {tuple(targets.shape)}"
            )
        low, high, classes = int(targets.min()), int(targets.max()), outputs.shape[1] // count
        if low < 0 or high >= classes:
            raise InputError(
                f"targets: labels from {low} to {high} are out of range for a model with "
                f"{classes} outputs a label (0 to {classes - 1})"
            )
        return targets.long().reshape(len(outputs), count)


class _Independent(Likelihood):
    """Outputs that are independent of each other: M is diagonal, its root a scaled identity."""

    @abstractmethod
    def variances(self, outputs: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The diagonal of M."""

    def rank(self, outputs: int) -> int:
        return outputs

    def mix(self, outputs: Tensor, vectors: Tensor) -> Tensor:
        return self.variances(outputs).sqrt() * vectors.transpose(0, 1)

    def apply(self, outputs: Tensor, vectors: Tensor) -> Tensor:
        return self.variances(outputs) * vectors

    @staticmethod
    def _check(outputs: Tensor, targets: Tensor) -> Tensor:
        values = targets.unsqueeze(1) if targets.ndim == 1 and outputs.shape[1] == 1 else targets
        if values.shape != outputs.shape:
            raise InputError(
                f"targets: shape {tuple(targets.shape)} does not match the outputs' "
                f"{tuple(outputs.shape)}"
            )
        if not bool(values.isfinite().all()):
            raise InputError("targets: NaN or infinity among them; clean them first")
        return values.to(outputs.dtype)


@dataclass(frozen=True)
class Bernoulli(_Independent):
    """Independent yes/no labels, one logit each (multi-label). M = diag p (1 - p).

    Targets are numbers in [0, 1] of shape (n, c), or (n,) for one output.
    """

    name = "bernoulli"

    def variances(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid() * (-outputs).sigmoid()

    def scores(self, outputs: Tensor, uniform: Uniform) -> Tensor:
        p = outputs.sigmoid()
        drawn = uniform(p.shape[1]).transpose(0, 1) < p
        return p - drawn.to(p.dtype)

    def residual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sigmoid() - self._check(outputs, targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        values = self._check(outputs, targets)
        total = F.binary_cross_entropy_with_logits(outputs, values, reduction="sum")
        return total / len(outputs)

    @staticmethod
    def _check(outputs: Tensor, targets: Tensor) -> Tensor:
        values = _Independent._check(outputs, targets)
        if bool(((values < 0) | (values > 1)).any()):
            raise InputError("targets: Bernoulli labels lie in [0, 1]; some are out of range")
        return values


@dataclass(frozen=True)
class Gaussian(_Independent):
    """Real values with a known variance. M = I / variance.

    Targets have the shape of the outputs, (n, c), or (n,) for one output.

    Raises:
        InputError: the variance is not positive.
    """

    variance: float = 1.0
    name = "gaussian"

    def __post_init__(self) -> None:
        if not self.variance > 0:
            raise InputError(f"variance: {self.variance} is not positive")

    def variances(self, outputs: Tensor) -> Tensor:
        return torch.full_like(outputs, 1.0 / self.variance)

    def scores(self, outputs: Tensor, uniform: Uniform) -> Tensor:
        return _normal(outputs, uniform) / math.sqrt(self.variance)

    def residual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - self._check(outputs, targets)) / self.variance

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        error = (outputs - self._check(outputs, targets)).square().sum() / len(outputs)
        constant = outputs.shape[1] * math.log(2 * math.pi * self.variance)
        return 0.5 * (error / self.variance + constant)


@dataclass(frozen=True)
class Poisson(_Independent):
    """Independent counts; the outputs are the logarithms of their rates. M = diag rate.

    Targets are numbers >= 0 of shape (n, c), or (n,) for one output.
    """

    name = "poisson"

    def variances(self, outputs: Tensor) -> Tensor:
        return outputs.exp()

    def scores(self, outputs: Tensor, uniform: Uniform) -> Tensor:
        rate = outputs.double().exp()
        counts = _poisson_quantile(uniform(outputs.shape[1]).transpose(0, 1), rate)
        return (rate - counts).to(outputs.dtype)

    def residual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.exp() - self._check(outputs, targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        values = self._check(outputs, targets)
        return (outputs.exp() - values * outputs + (values + 1).lgamma()).sum() / len(outputs)

    @staticmethod
    def _check(outputs: Tensor, targets: Tensor) -> Tensor:
        values = _Independent._check(outputs, targets)
        if bool((values < 0).any()):
            raise InputError("targets: counts are not negative; some are out of range")
        return values


@dataclass(frozen=True)
class Euclidean(_Independent):
    """The outputs as plain numbers, M = I: the L2 metric J^T J / n. It has no labels."""

    name = "euclidean"

    def variances(self, outputs: Tensor) -> Tensor:
        return torch.ones_like(outputs)

    def scores(self, outputs: Tensor, uniform: Uniform) -> Tensor:
        return _normal(outputs, uniform)

    def residual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise InputError("estimator: the Euclidean metric has no labels, so no empirical version")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise InputError("likelihood: the Euclidean metric has no labels, so no loss")


def _normal(outputs: Tensor, uniform: Uniform) -> Float[Tensor, "t n c"]:
    """Standard normal numbers."""
    numbers = torch.special.ndtri(uniform(outputs.shape[1]).double())
    return numbers.transpose(0, 1).to(outputs.dtype)


def _poisson_quantile(
    probability: Float[Tensor, "t n c"], rate: Float[Tensor, "n c"]
) -> Float[Tensor, "t n c"]:
    """The smallest count k with P(count <= k) >= probability, by bisection.

    P(count <= k) is the regularised upper incomplete gamma function Q(k + 1, rate).
    """
    rate = rate.expand_as(probability)
    low = torch.zeros_like(rate)
    high = (rate + 12 * rate.sqrt() + 50).clamp(max=2.0**53).ceil()  # above any quantile in doubles
    for _ in range(math.ceil(math.log2(float(high.max()) + 1))):
        middle = ((low + high) / 2).floor()
        enough = torch.special.gammaincc(middle + 1, rate) >= probability
        low, high = torch.where(enough, low, middle + 1), torch.where(enough, middle, high)
    return high
