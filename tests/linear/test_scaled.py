"""The alpha knob: one rule for the learning rate, and where it leads."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from pullback import InputError
from pullback.linear import ScaledModel
from tests.checks import assert_agree, unchanged

ALPHAS = (0.5, 1, 10, 100)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 1)).double()


def data(n: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    return x, (x[:, :1] * x[:, 1:2]).sign()


def trained(module: nn.Module, rate: float, steps: int, momentum: float = 0.0) -> list[Tensor]:
    """The function on the data after each step of descent on the squared error."""
    x, y = data()
    optimiser = torch.optim.SGD(module.parameters(), lr=rate, momentum=momentum)
    path = []
    for _ in range(steps):
        optimiser.zero_grad()
        outputs = module(x)
        ((outputs - y).square().sum() / (2 * len(x))).backward()
        optimiser.step()
        path.append(module(x).detach())
    return path


@pytest.mark.parametrize("alpha", ALPHAS)
class TestEveryAlpha:
    def test_at_the_start_it_is_the_network_003_3_5_2_i(self, alpha: float) -> None:
        model, (x, _) = network(), data()
        with unchanged(model):
            assert torch.equal(ScaledModel(model, alpha)(x), model(x))

    def test_away_from_it_the_change_is_scaled(self, alpha: float) -> None:
        model, (x, _) = network(), data()
        scaled = ScaledModel(model, alpha)
        with torch.no_grad():
            for parameter in scaled.parameters():
                parameter += 0.1
        expected = model(x) + alpha * (scaled.network(x) - model(x))
        assert_agree(scaled(x).detach(), expected.detach())

    @pytest.mark.parametrize("momentum", [0.0, 0.9])
    def test_a_model_linear_in_its_parameters_goes_the_same_way_003_3_5_2_ii(
        self, alpha: float, momentum: float
    ) -> None:
        torch.manual_seed(0)
        model = nn.Linear(3, 1).double()
        scaled = ScaledModel(model, alpha)
        path = trained(scaled, scaled.learning_rate(0.2), 40, momentum)
        plain = copy.deepcopy(model)
        assert_agree(torch.stack(path), torch.stack(trained(plain, 0.2, 40, momentum)))
        distances = [
            torch.cat([(p - q).flatten() for p, q in zip(one, model.parameters(), strict=True)])
            for one in (scaled.network.parameters(), plain.parameters())
        ]
        assert_agree(alpha * distances[0].norm().detach(), distances[1].norm().detach())


def test_the_distance_to_the_linearised_run_falls_as_one_over_alpha_003_3_5_2_iii() -> None:
    linear = torch.stack(trained(pb.linearize(network()), 0.2, 50))
    distances = []
    for alpha in (10, 100, 1000):
        scaled = ScaledModel(network(), alpha)
        path = torch.stack(trained(scaled, scaled.learning_rate(0.2), 50))
        distances.append(float((path - linear).abs().max()))
    assert distances[0] < 0.1 * float((linear[-1] - linear[0]).abs().max())
    for one, next_one in zip(distances, distances[1:], strict=False):
        assert 9 < one / next_one < 11


def test_a_rate_divided_by_alpha_alone_diverges_from_it() -> None:
    """The other rule in use: it is no rule for gradient descent."""
    scaled = ScaledModel(network(), 100)
    path = trained(scaled, 0.2 / 100, 20)
    assert float(path[-1].abs().max()) > 10


def test_only_the_network_that_trains_has_parameters() -> None:
    scaled = ScaledModel(network(), 10)
    assert [p.shape for p in scaled.parameters()] == [p.shape for p in network().parameters()]
    other = ScaledModel(network(), 10)
    trained(scaled, 1e-3, 3)
    other.load_state_dict(scaled.state_dict())
    x, _ = data()
    assert torch.equal(other(x), scaled(x))


def test_batch_norm_and_dropout_stay_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).double()
    scaled, (x, _) = ScaledModel(model, 10).train(), data()
    assert scaled.training
    assert_agree(scaled(x)[:3].detach(), scaled(x[:3]).detach())


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf")])
def test_alpha_has_to_be_positive(alpha: float) -> None:
    with pytest.raises(InputError, match="alpha"):
        ScaledModel(network(), alpha)


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="requires a gradient"):
        ScaledModel(network().requires_grad_(False), 1)
