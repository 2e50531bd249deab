"""What a likelihood has to supply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

REGISTRY: dict[str, type[Likelihood]] = {}

# From a width w to independent numbers from (0, 1), shape (n, t, w): w for each of t labels of each
# sample. Randomness comes from outside, so that it can be seeded and does not depend on how the
# samples are batched; a likelihood asks for as much of it as a label takes.
Uniform = Callable[[int], Tensor]


class Likelihood(ABC):
    """An output metric, and the likelihood that it comes from.

    Outputs have shape (n, c), sets of cotangents shape (k, n, c). The square root of M has r
    columns: `M = R R^T`.

    Attributes:
        name: what it is called in `fisher(..., likelihood=)`.
    """

    name: str

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            REGISTRY[cls.name] = cls

    def given(self, targets: Tensor | None) -> Likelihood:
        """The likelihood at these targets, where its output metric depends on them."""
        return self

    @abstractmethod
    def rank(self, outputs: int) -> int:
        """How many exact cotangents there are, at most, for that many outputs."""

    def columns(self, outputs: Float[Tensor, "n c"]) -> int:
        """How many columns r the square root has at these outputs."""
        return self.rank(outputs.shape[1])

    @abstractmethod
    def mix(
        self, outputs: Float[Tensor, "n c"], vectors: Float[Tensor, "n k r"]
    ) -> Float[Tensor, "k n c"]:
        """The products `R z` of the square root with k vectors for each sample.

        No (r, n, c) tensor is made: with random signs for z this is a sketch of M.
        """

    def root(self, outputs: Float[Tensor, "n c"], start: int, stop: int) -> Float[Tensor, "k n c"]:
        """Columns `start` to `stop` of the square root."""
        units = outputs.new_zeros(stop - start, self.columns(outputs))
        units.diagonal(start).fill_(1.0)
        return self.mix(outputs, units.expand(len(outputs), -1, -1))

    @abstractmethod
    def apply(
        self, outputs: Float[Tensor, "n c"], vectors: Float[Tensor, "n c"]
    ) -> Float[Tensor, "n c"]:
        """The product M(x) v of each sample."""

    @abstractmethod
    def scores(self, outputs: Float[Tensor, "n c"], uniform: Uniform) -> Float[Tensor, "t n c"]:
        """Gradients of -log p by the outputs, at t labels for each sample drawn from the model."""

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
