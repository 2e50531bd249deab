"""Dipoles: plain autograd, the bounds, and where they are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pullback import InputError
from pullback.anisotropy import dipole
from pullback.anisotropy.population import Population
from tests.anisotropy.models import Linear


def smooth() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 1)).double()


def test_each_network_by_plain_autograd() -> None:
    x, v = (torch.randn(4, dtype=torch.float64) for _ in range(2))
    found = dipole(smooth, v, networks=5, at=x, seed=3)
    population = Population(smooth, (4,), seed=3)
    for place in range(5):
        module = smooth()
        module.load_state_dict(population.one(place))
        point = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(module(point).sum(), point, create_graph=True)
        slope = gradient @ v
        parts = torch.autograd.grad(slope, list(module.parameters()), materialize_grads=True)
        length = sum(float(part.square().sum()) for part in parts) ** 0.5
        assert float(found.slopes[place]) == pytest.approx(float(slope))
        assert float(found.mixed[place]) == pytest.approx(length)


class TestLinear:
    """`f = theta^T x`, of which everything is known."""

    sigma = 1.0
    found = dipole(lambda: Linear(6), torch.eye(6)[2], networks=20_000)

    def test_squares_t11(self) -> None:
        gradient = self.found.gradient(lambda t: 2 * t)
        assert gradient.value == pytest.approx(2 * math.sqrt(2 / math.pi), abs=4 * gradient.stderr)
        assert self.found.bound(alpha=2) == pytest.approx(2, rel=0.02)
        assert self.found.bound(alpha=2, printed=True) == pytest.approx(4, rel=0.02)

    def test_the_printed_bound_is_none_below_1(self) -> None:
        gradient = self.found.gradient(lambda t: 0.5 * t)
        assert self.found.bound(alpha=0.5, printed=True) < gradient.value
        assert gradient.value < self.found.bound(alpha=0.5)

    def test_the_distance_itself_is_an_equality(self) -> None:
        gradient = self.found.gradient(torch.ones_like)
        assert gradient.value == pytest.approx(1) == self.found.bound(alpha=0, beta=1)

    @pytest.mark.parametrize("threshold", [0.1, 1.0, 4.0])
    def test_shares_and_markov_t12(self, threshold: float) -> None:
        share = self.found.share(threshold)
        exact = math.erfc(math.sqrt(threshold / 2))
        assert share.value == pytest.approx(exact, abs=4 * share.stderr)
        assert share.value <= self.found.markov(threshold)
        assert self.found.markov(threshold) == pytest.approx(1 / threshold, rel=0.05)


@pytest.mark.parametrize(
    ("derivative", "alpha", "beta"),
    [(lambda t: 2 * t, 2.0, 0.0), (torch.ones_like, 0.0, 1.0), (torch.tanh, 1.0, 0.0),
     (lambda t: 0.3 * t + 0.2, 0.3, 0.2)],
)  # fmt: skip
def test_the_bound_holds_for_networks(
    derivative: Callable[[Tensor], Tensor], alpha: float, beta: float
) -> None:
    found = dipole(smooth, torch.ones(4), networks=300)
    assert found.gradient(derivative).value <= found.bound(alpha, beta) + 1e-12


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: dipole(smooth, torch.ones(4), networks=1), "networks: 1"),
        (lambda: dipole(smooth, torch.ones(4) / 0), "at, direction: some numbers"),
        (lambda: dipole(smooth, torch.ones(4), networks=2).bound(-1), "alpha, beta"),
        (lambda: dipole(smooth, torch.ones(4), networks=2).markov(0), "threshold: 0"),
    ],
)
def test_numbers_out_of_range_are_refused(call: Callable[[], object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        call()
