"""What activations say about the regime of a training."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pullback import InputError
from pullback.linear import ScaledModel
from pullback.probes import Moment, RepresentationAlignment, SignSimilarity
from tests.checks import assert_agree, unchanged
from tests.probes.small import real


class Mixed(nn.Module):
    """Rectifiers as modules, functions and methods, one of them in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 5)
        self.third, self.last = nn.Linear(5, 3), nn.Linear(3, 2)
        self.rectifier = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rectifier(self.first(x))
        x = F.relu(self.second(x))
        return self.last(self.third(x).relu())

    def signs(self, x: Tensor) -> list[Tensor]:
        one = self.first(x)
        two = self.second(one.clamp(min=0))
        three = self.third(two.clamp(min=0))
        return [one > 0, two > 0, three > 0]

    def hidden(self, x: Tensor) -> Tensor:
        one = self.first(x).clamp(min=0)
        two = self.second(one).clamp(min=0)
        return self.third(two).clamp(min=0)


def inputs() -> Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(1))


def elsewhere(model: Mixed) -> Mixed:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return other


class TestSignSimilarity:
    def test_it_is_the_share_of_units_that_kept_their_side_003_3_5_3(self) -> None:
        start, x = Mixed(), inputs()
        probe, now = SignSimilarity(x, start), elsewhere(start)
        pairs = list(zip(start.signs(x), now.signs(x), strict=True))
        same = sum(int((a == b).sum()) for a, b in pairs)
        with unchanged(now):
            answer = probe.measure(Moment(now, step=1))
        assert answer == {"all": same / sum(a.numel() for a, _ in pairs)}
        assert 0.5 < answer["all"] < 1
        assert probe.measure(Moment(start, step=0)) == {"all": 1.0}

    def test_a_network_without_rectifiers_is_refused(self) -> None:
        with pytest.raises(InputError, match="rectified"):
            SignSimilarity(inputs(), nn.Sequential(nn.Linear(4, 3), nn.Tanh()))

    def test_a_network_that_uses_other_units_is_refused(self) -> None:
        probe = SignSimilarity(inputs(), Mixed())
        other = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        with pytest.raises(InputError, match="as at the start"):
            probe.measure(Moment(other, step=1))


class TestRepresentationAlignment:
    def test_it_is_the_cosine_of_the_kernels_of_what_enters_the_last_layer(self) -> None:
        start, x = Mixed(), inputs()
        probe, now = RepresentationAlignment(x, start), elsewhere(start)
        kernels = [m.hidden(x).double() @ m.hidden(x).double().T for m in (start, now)]
        expected = (kernels[0] * kernels[1]).sum() / kernels[0].norm() / kernels[1].norm()
        with unchanged(now):
            answer = probe.measure(Moment(now, step=1))
        assert_agree(real(answer["all"]), expected.detach(), 1e-6)
        assert probe.measure(Moment(start, step=0))["all"] == pytest.approx(1, abs=1e-12)

    def test_a_dead_representation_has_no_alignment(self) -> None:
        start, x = Mixed(), inputs()
        probe, dead = RepresentationAlignment(x, start), copy.deepcopy(start)
        with torch.no_grad():
            dead.third.bias.fill_(-1e3)
        assert probe.measure(Moment(dead, step=1)) == {"all": 0.0}

    def test_a_network_without_a_linear_layer_is_refused(self) -> None:
        with pytest.raises(InputError, match="no linear layer"):
            RepresentationAlignment(inputs(), nn.Tanh())


def test_a_lazy_network_keeps_both_and_a_hasty_one_does_not_003_3_5_3() -> None:
    """Alpha = 100 stays where it is linear, alpha = 1 does not."""
    x, y = inputs(), torch.arange(7) % 2
    answers = {}
    for alpha in (1, 100):
        scaled = ScaledModel(Mixed(), alpha)
        probes = [
            SignSimilarity(x, scaled.network), RepresentationAlignment(x, scaled.network)
        ]  # fmt: skip
        optimiser = torch.optim.SGD(scaled.parameters(), lr=scaled.learning_rate(0.5))
        for _ in range(200):
            optimiser.zero_grad()
            F.cross_entropy(scaled(x), y).backward()
            optimiser.step()
        answers[alpha] = [
            probe.measure(Moment(scaled.network, step=200))["all"] for probe in probes
        ]
    assert min(answers[100]) > 0.97
    assert answers[1][0] < answers[100][0]
    assert answers[1][1] < answers[100][1] - 0.05
