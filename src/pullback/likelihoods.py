"""Output metrics M(x): what a likelihood says about distances between outputs.

A Fisher matrix is an output metric pulled back to the parameters, `J^T M J`. What a likelihood has
to supply is M in the forms that computations need: products, an exact square root, gradients at
labels drawn from the model, the gradient at the true label. A new output metric is one class here;
it is registered under its name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pullback.errors import InputError

REGISTRY: dict[str, type[Likelihood]] = {}


class Likelihood(ABC):
    """An output metric, and the likelihood that it comes from.

    Outputs have shape (n, c), sets of cotangents shape (k, n, c).
    """

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            REGISTRY[cls.name] = cls

    @abstractmethod
    def rank(self, outputs: int) -> int:
        """How many exact cotangents there are for that many outputs."""

    @abstractmethod
    def root(self, outputs: Float[Tensor, "n c"], start: int, stop: int) -> Float[Tensor, "k n c"]:
        """Columns `start` to `stop` of an exact square root of M(x)."""

    @abstractmethod
    def apply(
        self, outputs: Float[Tensor, "n c"], vectors: Float[Tensor, "n c"]
    ) -> Float[Tensor, "n c"]:
        """The product M(x) v of each sample."""

    @abstractmethod
    def scores(
        self, outputs: Float[Tensor, "n c"], uniform: Float[Tensor, "n t c"]
    ) -> Float[Tensor, "t n c"]:
        """Gradients of -log p by the outputs, at t labels for each sample drawn from the model.

        `uniform` holds independent numbers from (0, 1): randomness comes from outside, so that it
        can be seeded and does not depend on how the samples are batched.
        """

    @abstractmethod
    def residual(self, outputs: Float[Tensor, "n c"], targets: Tensor) -> Float[Tensor, "n c"]:
        """The gradient of -log p by the outputs at the true targets.

        Raises:
            InputError: the targets do not fit the likelihood.
        """

    @abstractmethod
    def loss(self, outputs: Float[Tensor, "n c"], targets: Tensor) -> Float[Tensor, ""]:
        """The mean negative log-likelihood over samples, in nats.

        Raises:
            InputError: the targets do not fit the likelihood.
        """


@dataclass(frozen=True)
class Categorical(Likelihood):
    """Class labels; the outputs are logits. M = diag p - p p^T, of rank c - 1.

    Targets are integers of shape (n,) in 0 ... c - 1.
    """

    name = "categorical"

    def rank(self, outputs: int) -> int:
        if outputs < 2:
            raise InputError(
                "likelihood: 'categorical' needs two outputs or more; for one logit use 'bernoulli'"
            )
        return outputs - 1

    def root(self, outputs: Tensor, start: int, stop: int) -> Tensor:
        # The exact Cholesky factor of a multinomial covariance (Tanabe and Sagae 1992): column k is
        # sqrt(p_k q_k / q_(k-1)) (e_k - sum_(j>k) p_j e_j / q_k), q_k = sum_(j>k) p_j.
        p = outputs.softmax(1)
        tails = p.flip(1).cumsum(1).flip(1)  # column k holds q_(k-1)
        rest, with_k = tails[:, start + 1 : stop + 1], tails[:, start:stop]
        scale = (p[:, start:stop] * rest / with_k).nan_to_num().sqrt()
        after = p.new_ones(stop - start, p.shape[1]).triu(start + 1)
        below = p.unsqueeze(0) * after.unsqueeze(1) / rest.T.unsqueeze(2)
        diagonal = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)[start:stop].unsqueeze(1)
        return scale.T.unsqueeze(2) * (diagonal - below.nan_to_num(posinf=0.0))

    def apply(self, outputs: Tensor, vectors: Tensor) -> Tensor:
        p = outputs.softmax(1)
        return p * (vectors - (p * vectors).sum(1, keepdim=True))

    def scores(self, outputs: Tensor, uniform: Tensor) -> Tensor:
        p = outputs.softmax(1)
        cumulative = p.double().cumsum(1)
        drawn = torch.searchsorted(cumulative, uniform[..., 0].double() * cumulative[:, -1:])
        labels = drawn.clamp(max=p.shape[1] - 1).T  # (t, n)
        return p - F.one_hot(labels, p.shape[1]).to(p.dtype)

    def residual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self._check(outputs, targets)
        return outputs.softmax(1) - F.one_hot(targets.long(), outputs.shape[1]).to(outputs.dtype)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self._check(outputs, targets)
        return F.cross_entropy(outputs, targets.long())

    @staticmethod
    def _check(outputs: Tensor, targets: Tensor) -> None:
        if targets.is_floating_point() or targets.shape != outputs.shape[:1]:
            raise InputError(
                f"targets: categorical labels are integers of shape ({len(outputs)},), got "
                f"{targets.dtype} of shape {tuple(targets.shape)}"
            )
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= outputs.shape[1]:
            raise InputError(
                f"targets: labels from {low} to {high} are out of range for a model with "
                f"{outputs.shape[1]} outputs (0 to {outputs.shape[1] - 1})"
            )


class _Independent(Likelihood):
    """Outputs that are independent of each other: M is diagonal, its root a scaled identity."""

    @abstractmethod
    def variances(self, outputs: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The diagonal of M."""

    def rank(self, outputs: int) -> int:
        return outputs

    def root(self, outputs: Tensor, start: int, stop: int) -> Tensor:
        scale = self.variances(outputs).sqrt()
        columns = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
        return scale.unsqueeze(0) * columns[start:stop].unsqueeze(1)

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

    def scores(self, outputs: Tensor, uniform: Tensor) -> Tensor:
        p = outputs.sigmoid()
        return p - (uniform.transpose(0, 1) < p).to(p.dtype)

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

    def scores(self, outputs: Tensor, uniform: Tensor) -> Tensor:
        normal = torch.special.ndtri(uniform.double()).transpose(0, 1)
        return normal.to(outputs.dtype) / math.sqrt(self.variance)

    def residual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - self._check(outputs, targets)) / self.variance

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        error = (outputs - self._check(outputs, targets)).square().sum() / len(outputs)
        constant = outputs.shape[1] * math.log(2 * math.pi * self.variance)
        return 0.5 * (error / self.variance + constant)


@dataclass(frozen=True)
class Euclidean(_Independent):
    """The outputs as plain numbers, M = I: the L2 metric J^T J / n. It has no labels."""

    name = "euclidean"

    def variances(self, outputs: Tensor) -> Tensor:
        return torch.ones_like(outputs)

    def scores(self, outputs: Tensor, uniform: Tensor) -> Tensor:
        return torch.special.ndtri(uniform.double()).transpose(0, 1).to(outputs.dtype)

    def residual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise InputError("estimator: the Euclidean metric has no labels, so no empirical version")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise InputError("likelihood: the Euclidean metric has no labels, so no loss")


def likelihood_of(likelihood: str | Likelihood) -> Likelihood:
    """The likelihood of that name, or the object itself.

    Raises:
        InputError: there is no likelihood of that name.
    """
    if isinstance(likelihood, Likelihood):
        return likelihood
    if likelihood not in REGISTRY:
        raise InputError(f"likelihood: no {likelihood!r}; there are {sorted(REGISTRY)}")
    return REGISTRY[likelihood]()
