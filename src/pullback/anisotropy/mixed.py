"""Directions by the mixed second derivative `M = d2f/dwdx`, which is never stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jvp, vmap

from pullback.anisotropy.moments import Moments
from pullback.anisotropy.population import Population, State
from pullback.linalg import mirror_

NUMBERS = 2**24  # in the parameters' derivatives that are held at a time
COLUMNS = 2**25  # in those that are multiplied with each other


@dataclass(frozen=True, eq=False)
class MixedDerivative(Moments):
    """`M^T M` over random networks, M taken as its mean over some inputs.

    As a map of v finite differences are not linear where a step leads far, nor is the exact M^T
    their adjoint. There M is made of its columns, one for each number of the input, and multiplied
    with itself: for networks with many parameters far more work, because not all columns fit.

    Attributes:
        population: where the networks come from.
        networks: how many.
        at: the inputs, (m, *shape).
        step: h of `M v = (grad_w f(x + h v) - grad_w f(x - h v)) / 2h`; None for exact ones.
    """

    population: Population
    networks: int
    at: Tensor
    step: int | float | None

    meaning = "mean squared length of M along each direction, over random networks"

    def weights(self) -> list[int]:
        return self.population.counts(self.networks)

    def add_(self, total: Float[Tensor, "D D"], place: int) -> None:
        size = len(total)
        state, count = self.population.stack(place), self.weights()[place]
        chosen = {name: tensor[:count] for name, tensor in state.items()}
        if self.step is not None:
            total += self._gram(chosen, of_mean=False)
            return
        identity = torch.eye(size, dtype=total.dtype)
        at_once = max(1, NUMBERS // sum(tensor.numel() for tensor in chosen.values()))
        for start in range(0, size, at_once):
            total[start : start + at_once] += self.products(
                chosen, identity[start : start + at_once]
            )

    def products(self, state: State, v: Float[Tensor, "b D"]) -> Float[Tensor, "b D"]:
        """`M^T M v` for some vectors, summed over the networks of a stack."""

        def of_one(own: State) -> Tensor:
            return vmap(lambda one: self.adjoint(own, self.product(own, one)))(v)

        found: Tensor = vmap(of_one)(state).sum(0)
        return found

    def mean_square(self, numbers: range) -> Float[Tensor, "D D"]:
        """`N^T N`, with N the mean of M over some networks, by their numbers."""
        size, dtype = self.population.inputs, self.population.dtype
        states = [self.population.one(number) for number in numbers]
        state = {name: torch.stack([one[name] for one in states]) for name in states[0]}
        if self.step is not None:
            return self._gram(state, of_mean=True)
        at_once = max(1, NUMBERS // sum(state[name].numel() for name in self.population.parameters))
        total = torch.empty(size, size, dtype=dtype)
        for start in range(0, size, at_once):
            some = torch.eye(size, dtype=dtype)[start : start + at_once]
            mean = {name: one.mean(0) for name, one in self._moved(state, some).items()}
            total[start : start + at_once] = self._back(state, mean).mean(0)
        return total

    def _gram(self, state: State, of_mean: bool) -> Float[Tensor, "D D"]:
        """`M^T M` summed over the networks of a stack, or that of their mean, from columns."""
        size, dtype = self.population.inputs, self.population.dtype
        numbers = sum(state[name].numel() for name in self.population.parameters)
        places = torch.arange(size).split(max(1, COLUMNS // numbers))
        identity, total = torch.eye(size, dtype=dtype), torch.zeros(size, size, dtype=dtype)
        for number, rows in enumerate(places):
            columns = self._columns(state, identity[rows], of_mean)
            total[rows[:, None], rows] = columns @ columns.T
            for others in places[:number]:
                beside = self._columns(state, identity[others], of_mean)
                total[rows[:, None], others] = columns @ beside.T
        return mirror_(total)

    def _columns(self, state: State, v: Float[Tensor, "b D"], of_mean: bool) -> Tensor:
        """`M v` for some v, one a row: the networks of a stack side by side, or their mean."""
        moved = self._moved(state, v).values()
        return torch.cat(
            [one.mean(0).flatten(1) if of_mean else one.movedim(0, 1).flatten(1) for one in moved],
            1,
        )

    def _moved(self, state: State, v: Float[Tensor, "b D"]) -> State:
        """`M v` of all networks and some vectors, (t, b, ...)."""
        found: State = vmap(lambda own: vmap(lambda one: self.product(own, one))(v))(state)
        return found

    def _back(self, state: State, u: State) -> Float[Tensor, "t b D"]:
        """`M^T u` of all networks and some u, (b, ...)."""
        found: Tensor = vmap(lambda own: vmap(lambda one: self.adjoint(own, one))(u))(state)
        return found

    def product(self, state: State, v: Float[Tensor, " D"]) -> State:
        """`M v` of one network: how the gradient of f changes along v."""
        moved = v.view(self.at.shape[1:])
        gradient = self._gradient(state)
        if self.step is None:
            found: State = jvp(gradient, (self.at,), (moved.expand_as(self.at),))[1]
            return found
        ahead, behind = (gradient(self.at + sign * self.step * moved) for sign in (1, -1))
        return {name: (one - behind[name]) / (2 * self.step) for name, one in ahead.items()}

    def adjoint(self, state: State, u: State) -> Float[Tensor, " D"]:
        """`M^T u` of one network: how the gradient by the input changes along u."""
        weights = {name: state[name] for name in u}

        def by_input(weights: State) -> Tensor:
            def value(x: Tensor) -> Tensor:
                return self.population.function({**state, **weights}, x)

            gradients: Tensor = vmap(grad(value))(self.at)
            return gradients.mean(0).flatten()

        found: Tensor = jvp(by_input, (weights,), (u,))[1]
        return found

    def _gradient(self, state: State) -> Callable[[Tensor], State]:
        """The gradient of the mean of f over some inputs by the parameters."""
        names = self.population.parameters
        weights = {name: state[name] for name in names}

        def mean(weights: State, x: Tensor) -> Tensor:
            return self.population.functions({**state, **weights}, x).mean()

        return lambda x: grad(mean)(weights, x)
