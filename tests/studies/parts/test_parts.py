"""What the studies share: samples, networks, training of one and of many."""

from __future__ import annotations

import base64

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pullback as pb
from pullback.studies.parts import (
    NETWORKS,
    Curve,
    Descent,
    curves_panel,
    drawn,
    fan_in_start,
    logistic,
    perceptron,
    rank_correlation,
    resnet,
    right,
    started,
    trained,
    trained_together,
)


class TestSamples:
    def test_one_seed_draws_the_first_of_the_same_images(self) -> None:
        few, more = (drawn("digits", "train", count, seed=3) for count in (5, 9))
        assert torch.equal(more.inputs[:5], few.inputs) and torch.equal(more.labels[:5], few.labels)
        assert not torch.equal(drawn("digits", "train", 9, seed=4).labels, more.labels)
        everything = drawn("digits", "test", 360, seed=0)
        assert everything.labels.sort()[0].equal(pb.data.load("digits", "test").labels.sort()[0])

    def test_more_than_there_are_is_refused(self) -> None:
        with pytest.raises(pb.InputError, match="361 images of digits, which has 360 to test"):
            drawn("digits", "test", 361, seed=0)


class TestNetworks:
    @pytest.mark.parametrize("name", NETWORKS)
    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28)])
    def test_they_take_all_images(self, name: str, shape: tuple[int, int, int]) -> None:
        network = NETWORKS[name](shape, outputs=4)
        assert network(torch.randn(2, *shape)).shape == (2, 4)

    def test_a_seed_gives_the_same_weights_and_leaves_the_global_state(self) -> None:
        before = torch.random.get_rng_state()
        one, two = (started(lambda: perceptron((6,)), seed=5) for _ in range(2))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert all(map(torch.equal, one.parameters(), two.parameters()))

    def test_other_networks_start_with_the_variance_of_the_fan_in_where_asked_to(self) -> None:
        layers = nn.Conv2d(2, 300, 5), nn.BatchNorm2d(300), nn.Flatten(), nn.Linear(2700, 40)
        found = fan_in_start(nn.Sequential(*layers))
        assert found[0].weight.var().item() == pytest.approx(1 / 50, rel=0.05)
        assert found[3].weight.var().item() == pytest.approx(1 / 2700, rel=0.05)
        assert not found[0].bias.any() and not found[3].bias.any()
        assert bool((found[1].weight == 1).all())

    def test_the_residual_network_starts_with_the_stated_variances(self) -> None:
        block = resnet((3, 8, 8), width=64)[3]  # type: ignore[index]
        for layer, variance in (
            (block.inner[0], 2.0),
            (block.inner[2], 0.2),
            (block.skip, 1.0),
        ):
            weight = layer.weight.detach()
            assert weight.var() * weight[0].numel() == pytest.approx(variance, rel=0.1)
            assert not layer.bias.any()


class TestTraining:
    @pytest.mark.parametrize("optimiser", ["sgd", "adam"])
    def test_it_is_the_usual_loop(self, optimiser: str) -> None:
        images = drawn("digits", "train", 50, seed=0)
        x, y = images.inputs, images.labels
        descent = Descent(epochs=2, batch=20, rate=0.01, optimiser=optimiser)
        module = started(lambda: perceptron((1, 8, 8), 10, width=8), seed=1)
        counts = list(trained(module, x, y, F.cross_entropy, descent, seed=2))
        assert counts == list(range(7)) and descent.updates(50) == 6

        other = started(lambda: perceptron((1, 8, 8), 10, width=8), seed=1)
        if optimiser == "adam":
            own: torch.optim.Optimizer = torch.optim.Adam(other.parameters(), lr=0.01)
        else:
            own = torch.optim.SGD(other.parameters(), lr=0.01, momentum=0.9)
        generator = torch.Generator().manual_seed(2)
        step = 0
        for _ in range(2):
            order = torch.randperm(50, generator=generator)
            for some in (order[:20], order[20:40], order[40:]):
                for group in own.param_groups:
                    group["lr"] = 0.01 * (1 - step / 6)
                own.zero_grad()
                F.cross_entropy(other(x[some]), y[some]).backward()
                own.step()
                step += 1
        for one, two in zip(module.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, two)

    @pytest.mark.parametrize("optimiser", ["sgd", "adam"])
    def test_many_together_are_each_alone(self, optimiser: str) -> None:
        x = drawn("digits", "train", 40, seed=0).inputs.double()
        tasks = torch.where(torch.randn(3, 40) > 0, 1.0, -1.0).double()
        descent = Descent(epochs=3, batch=16, optimiser=optimiser, rate=0.01)
        model = started(lambda: perceptron((1, 8, 8), width=8), seed=1).double()
        start = {name: one.detach().clone() for name, one in model.named_parameters()}
        stacked = {name: one.expand(3, *one.shape).clone() for name, one in start.items()}
        for _ in trained_together(model, stacked, x, tasks, logistic, descent, seed=4):
            pass
        for place, labels in enumerate(tasks):
            model.load_state_dict(start)
            for _ in trained(model, x, labels, logistic, descent, seed=4):
                pass
            for name, one in model.named_parameters():
                torch.testing.assert_close(stacked[name][place], one.detach())

    def test_a_rate_that_does_not_fall_stays(self) -> None:
        x, y = torch.ones(1, 1), torch.ones(1)
        module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(module.weight)
        descent = Descent(epochs=2, rate=1.0, momentum=0.0, falling=False)
        weights = []
        for _ in trained(module, x, y, lambda f, _: -f.mean(), descent, seed=0):
            weights.append(float(module.weight))
        assert weights == [0.0, 1.0, 2.0]

    def test_what_is_told_right(self) -> None:
        one = torch.tensor([[1.0], [-1.0], [0.5]])
        assert right(one, torch.tensor([1.0, 1.0, 1.0])).tolist() == [True, False, True]
        many = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
        assert right(many, torch.tensor([1, 1])).tolist() == [True, False]


def test_what_is_always_the_same_has_no_rank_correlation() -> None:
    assert rank_correlation([0, 5, 9, 11], [0.1, 0.4, 0.3, 0.5]) == pytest.approx(0.8)
    assert rank_correlation([0, 5, 9], [0.5, 0.5, 0.5]) is None


def test_a_chart_says_what_it_shows() -> None:
    curves = [Curve("network", [[1.0, 2.0], [3.0, 4.0]]), Curve("lazy", [[0.0, 0.5], [0.0, 1.5]])]
    drawing = curves_panel("Loss", [0, 10], curves, "updates", "symlog", constant=[0.5, 0.7])
    assert drawing.alt == "Line chart over updates: network from 2 to 3; lazy from 0 to 1."


def test_an_axis_may_fall() -> None:
    rising, falling = (
        curves_panel("Loss", [2, 1], [Curve("", [[0.0, 1.0]])], "loss", falling=down)
        for down in (False, True)
    )
    assert rising.source != falling.source


def test_numbers_on_a_logarithmic_axis_do_not_touch() -> None:
    places = [0, 107, 151, 223, 409]
    drawing = curves_panel("Loss", places, [Curve("network", [[0.0] * 5])], "updates", "symlog")
    svg = base64.b64decode(drawing.source.split(",")[1]).decode()
    written = [place for place in places if f">{place}</text>" in svg]
    assert written == [0, 107, 223]


def test_what_was_never_measured_is_left_out_of_a_chart() -> None:
    curves = [Curve("network", [[1.0, None], [3.0, None]]), Curve("lazy", [[None, None]])]
    drawing = curves_panel("Updates", [1, 10], curves, "index", "log")
    assert drawing.alt == "Line chart over index: network from 2 to 2; lazy nowhere."
    assert curves_panel("Updates", [1, 10], curves[1:], "index", "log").source
