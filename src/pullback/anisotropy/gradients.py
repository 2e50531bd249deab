"""Directions by the covariance of input gradients, exact or by finite differences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap

from pullback.anisotropy.moments import Moments
from pullback.anisotropy.population import Population, State
from pullback.linalg import add_gram_

CACHED = 2**18  # numbers in the inputs of one call, so that what follows from them stays in cache


@dataclass(frozen=True, eq=False)
class GradientCovariance(Moments):
    """The mean of `grad f(x) grad f(x)^T` over random networks, at one input.

    With a step h the gradient is `(f(x + h e_i) - f(x - h e_i)) / 2h`, number by number. A step
    that is large beside x and the biases measures the responses to impulses, which for networks
    with ReLU and max pooling are far from the gradient at any one point.

    Attributes:
        population: where the networks come from.
        networks: how many.
        at: x, of the shape of one input.
        step: h; None for exact gradients.
    """

    population: Population
    networks: int
    at: Tensor
    step: int | float | None

    meaning = "mean square of the derivative of f along each direction, over random networks"

    def weights(self) -> list[int]:
        return self.population.counts(self.networks)

    def add_(self, total: Float[Tensor, "D D"], place: int) -> None:
        rows = self.rows(self.population.stack(place), self.weights()[place])
        add_gram_(total, rows.T.contiguous())

    def rows(self, state: State, count: int) -> Float[Tensor, "t D"]:
        """The gradients of the first networks of a stack."""
        if self.step is not None:
            size = self.at.numel()
            steps = (self.step * torch.eye(size, dtype=self.at.dtype)).view(-1, *self.at.shape)
            networks = ({name: t[place] for name, t in state.items()} for place in range(count))
            return torch.stack([self._differences(one, steps) for one in networks])
        chosen = {name: tensor[:count] for name, tensor in state.items()}
        gradients = vmap(grad(self.population.function, argnums=1), in_dims=(0, None))
        found: Tensor = gradients(chosen, self.at)
        return found.flatten(1)

    def _differences(self, state: State, steps: Float[Tensor, "D ..."]) -> Float[Tensor, " D"]:
        """Two evaluations for each number of the input, some inputs at a time."""
        assert self.step is not None
        network = self.population.network(state)
        parts = [
            network(self.at + some) - network(self.at - some)
            for some in steps.split(max(1, CACHED // len(steps)))
        ]
        return torch.cat(parts) / (2 * self.step)
