"""How a network at its start tells a discriminative dipole apart, and what that bounds.

A dipole is two samples, (x, 1) and (x + v, -1). To first order a network tells them apart by
`q = g(|v^T grad_x f(x)|)`, with g increasing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap

from pullback.anisotropy.mixed import MixedDerivative
from pullback.anisotropy.population import MakeModel, Outputs, Population
from pullback.batches import all_finite
from pullback.errors import InputError
from pullback.estimates import Estimate


@dataclass(frozen=True, eq=False)
class Dipole:
    """Random networks at a dipole. Made by `dipole`.

    Attributes:
        slopes: `v^T grad_x f` of each network, shape (t,).
        mixed: `|d2f/dwdx v|` of each, shape (t,).
    """

    slopes: Float[Tensor, " t"]
    mixed: Float[Tensor, " t"]

    def gradient(self, derivative: Callable[[Tensor], Tensor]) -> Estimate:
        """The mean of `|grad_w q|`, how fast training begins to tell the dipole apart.

        Args:
            derivative: g', of numbers that are not negative.
        """
        return Estimate.of(derivative(self.slopes.abs()).abs() * self.mixed)

    def bound(self, alpha: int | float, beta: int | float = 0.0, printed: bool = False) -> float:
        """What `gradient` cannot be above where `|g'(t)| <= alpha t + beta`.

        `alpha sqrt(E s^2) sqrt(E |M v|^2) + beta E |M v|`, with s the slopes.

        Args:
            alpha: not negative.
            beta: not negative.
            printed: alpha squared in its place, which is no bound for alpha below 1.

        Raises:
            InputError: a number is negative.

        Source:
            Ortiz-Jimenez et al. 2020, lemma 2.
        """
        if alpha < 0 or beta < 0:
            raise InputError(f"alpha, beta: {alpha}, {beta}; give numbers that are not negative")
        moments = self.slopes.square().mean().sqrt() * self.mixed.square().mean().sqrt()
        return float((alpha**2 if printed else alpha) * moments + beta * self.mixed.mean())

    def share(self, threshold: int | float) -> Estimate:
        """Of the networks, how many have `(v^T grad_x f)^2` at least so large."""
        return Estimate.of((self.slopes.square() >= threshold).to(self.slopes))

    def markov(self, threshold: int | float) -> float:
        """What `share` cannot be above: `v^T E[grad f grad f^T] v / threshold`.

        Raises:
            InputError: the threshold is not positive.

        Source:
            Ortiz-Jimenez et al. 2020, eq. 6.
        """
        if not threshold > 0:
            raise InputError(f"threshold: {threshold}; give a positive number")
        return float(self.slopes.square().mean() / threshold)


def dipole(
    make_model: MakeModel,
    direction: Float[Tensor, "*shape"],
    networks: int = 1000,
    outputs: Outputs = None,
    at: Float[Tensor, "*shape"] | None = None,
    seed: int = 0,
) -> Dipole:
    """Draw networks and measure them at a dipole.

    Args:
        make_model: returns a new network, with weights from torch's global generator.
        direction: v, in the shape of an input; its length counts.
        networks: how many.
        outputs: which output is f, as for `directions`.
        at: x; None draws it from the standard normal distribution.
        seed: of the weights and of x.

    Raises:
        InputError: a factory, shape, read-out or number that cannot be used.

    Example:
        >>> import torch
        >>> from pullback.anisotropy import dipole
        >>> def make_model():
        ...     hidden, last = torch.nn.Linear(3, 5), torch.nn.Linear(5, 1)
        ...     return torch.nn.Sequential(hidden, torch.nn.GELU(), last)
        >>> found = dipole(make_model, torch.tensor([1.0, 0.0, 0.0]))
        >>> found.gradient(lambda t: 2 * t).value < found.bound(alpha=2)
        True
    """
    if networks < 2:
        raise InputError(f"networks: {networks}; give at least 2")
    population = Population(make_model, direction.shape, outputs, seed)
    if at is None:
        at = torch.randn(population.shape, generator=torch.Generator().manual_seed(seed))
    if at.shape != direction.shape:
        raise InputError(f"at: shape {tuple(at.shape)} for a direction {tuple(direction.shape)}")
    if not (all_finite(at) and all_finite(direction)):
        raise InputError("at, direction: some numbers are NaN or infinite")
    x, v = at.to(population.dtype), direction.to(population.dtype)
    mixed = MixedDerivative(population, networks, x.unsqueeze(0), None)
    slopes, lengths = [], []
    for place, count in enumerate(population.counts(networks)):
        state = {name: one[:count] for name, one in population.stack(place).items()}
        gradients = vmap(grad(population.function, argnums=1), in_dims=(0, None))(state, x)
        slopes.append(gradients.flatten(1) @ v.flatten())
        moved = vmap(lambda own: mixed.product(own, v.flatten()))(state)
        squares = [one.flatten(1).square().sum(1) for one in moved.values()]
        lengths.append(torch.stack(squares).sum(0).sqrt())
    return Dipole(torch.cat(slopes), torch.cat(lengths))
