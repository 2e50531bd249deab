"""Directions of the tangent kernel as tasks, at a tiny size, against plain loops."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp

from pullback.anisotropy import separable
from pullback.studies.anisotropy.kernel_directions import (
    KernelDirections,
    Settings,
    _made,
    _start,
)
from pullback.studies.parts import Descent

SHAPE = (1, 8, 8)
SMALL = Settings(
    side=8, places=(0, 6, 20), samples=96, tests=50, descent=Descent(epochs=3, batch=32), pictures=2
)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    done: list[int] = []
    (result,) = KernelDirections().measure(SMALL, 1, done.append)
    assert sum(done) == KernelDirections().steps(SMALL)
    return result


@pytest.fixture(scope="module")
def start() -> nn.Module:
    return _start(lambda: _made(SMALL, "lenet"), SHAPE, 1)


@pytest.fixture(scope="module")
def mixed(start: nn.Module) -> Tensor:
    """The mixed derivative at the origin, (d, 64), in double precision."""
    model = copy.deepcopy(start).double()
    state = {name: one.detach() for name, one in model.named_parameters()}

    def slopes(x: Tensor) -> Tensor:
        found = jacrev(lambda own: functional_call(model, own, (x,))[0, 0])(state)
        return torch.cat([one.flatten() for one in found.values()])

    columns = [
        jvp(slopes, (torch.zeros(1, *SHAPE).double(),), (one.view(1, *SHAPE),))[1]
        for one in torch.eye(64).double()
    ]
    return torch.stack(columns, 1)


def test_directions_are_singular_vectors_at_the_start_of_the_training(
    result: dict[str, Any], mixed: Tensor
) -> None:
    _, values, vectors = torch.linalg.svd(mixed, full_matrices=False)
    found = result["lenet"]
    places = list(SMALL.places)
    assert found["at_origin"] == pytest.approx(values[places].square().tolist(), rel=1e-3)
    for place, picture in enumerate(found["directions"]["pictures"]):
        pixels = torch.tensor(picture["pixels"]).flatten().double()
        assert float((pixels @ vectors[place]).abs()) == pytest.approx(1, abs=1e-3)
    assert len(found["directions"]["pictures"]) == 2


def test_the_alignment_is_that_of_linear_functions_of_normal_inputs(
    result: dict[str, Any], start: nn.Module, mixed: Tensor
) -> None:
    vectors = torch.linalg.svd(mixed, full_matrices=False)[2][list(SMALL.places)]
    x = torch.randn(4000, 64, generator=torch.Generator().manual_seed(5))
    x = torch.cat([x, -x])
    expected = []
    for vector in vectors.float():
        module = copy.deepcopy(start)
        (module(x.view(-1, *SHAPE))[:, 0] * (x @ vector)).mean().backward()
        expected.append(sum(float(one.grad.square().sum()) for one in module.parameters()))
    assert result["lenet"]["alignment"] == pytest.approx(expected, rel=0.25)


def learned(module: nn.Module, linear: bool, vector: Tensor, place: int) -> tuple[float, float]:
    """By a plain loop; the linearisation as the network at its start and a product of tangents."""
    first = {name: one.detach().clone() for name, one in module.named_parameters()}
    state = {name: one.clone().requires_grad_() for name, one in first.items()}

    def outputs(x: Tensor) -> Tensor:
        if not linear:
            return functional_call(module, state, (x,))[:, 0]
        moved = {name: one - first[name] for name, one in state.items()}
        value, change = jvp(lambda own: functional_call(module, own, (x,)), (first,), (moved,))
        return (value + change)[:, 0]

    pairs = [
        separable(vector.view(SHAPE), count, seed=(1 << 16) + 2 * place + part)
        for part, count in enumerate((96, 50))
    ]
    x, y = pairs[0]
    optimiser = torch.optim.SGD(state.values(), lr=0.05, momentum=0.9)
    generator, count = torch.Generator().manual_seed(1), 0
    for _ in range(3):
        for some in torch.randperm(96, generator=generator).split(32):
            optimiser.param_groups[0]["lr"] = 0.05 * (1 - count / 9)
            optimiser.zero_grad()
            F.softplus(-y[some] * outputs(x[some])).mean().backward()
            optimiser.step()
            count += 1
    train, test = (
        float(((outputs(one) > 0) == (labels > 0)).double().mean()) for one, labels in pairs
    )
    return train, test


@pytest.mark.parametrize("regime", ["network", "linearized"])
def test_both_learn_samples_along_a_direction_from_the_same_start(
    result: dict[str, Any], start: nn.Module, mixed: Tensor, regime: str
) -> None:
    vectors = torch.linalg.svd(mixed, full_matrices=False)[2].float()
    shown = result["lenet"]["directions"]["pictures"][0]["pixels"]
    # The sign of a singular vector is arbitrary, and the samples depend on it.
    vector = vectors[0] * (torch.tensor(shown).flatten() @ vectors[0]).sign()
    train, test = learned(start, regime == "linearized", vector, 0)
    assert result["lenet"][regime]["train"][0] == pytest.approx(train, abs=1.1 / 96)
    assert result["lenet"][regime]["test"][0] == pytest.approx(test, abs=1.1 / 50)


def test_a_network_with_batch_norm_is_trained_with_statistics_of_batches() -> None:
    settings = Settings(
        networks=("resnet18",), width=0.03, side=8, places=(0,), samples=64, tests=32,
        descent=Descent(epochs=3, batch=16), pictures=1,
    )  # fmt: skip
    (found,) = KernelDirections().measure(settings, 1, lambda _: None)
    own = _start(lambda: _made(settings, "resnet18"), SHAPE, 1)
    (picture,) = found["resnet18"]["directions"]["pictures"]
    direction = torch.tensor(picture["pixels"])
    (x, y), (new, labels) = (
        separable(direction, count, seed=(1 << 16) + part) for part, count in enumerate((64, 32))
    )
    optimiser = torch.optim.SGD(own.train().parameters(), lr=0.05, momentum=0.9)
    generator, count = torch.Generator().manual_seed(1), 0
    for _ in range(3):
        for some in torch.randperm(64, generator=generator).split(16):
            optimiser.param_groups[0]["lr"] = 0.05 * (1 - count / 12)
            optimiser.zero_grad()
            F.softplus(-y[some] * own(x[some])[:, 0]).mean().backward()
            optimiser.step()
            count += 1
    own.eval()
    for split, inputs, wanted in (("train", x, y), ("test", new, labels)):
        expected = float(((own(inputs)[:, 0] > 0) == (wanted > 0)).double().mean())
        assert found["resnet18"]["network"][split] == pytest.approx([expected], abs=1.1 / 32)


def made(shift: float) -> dict[str, Any]:
    return {
        "alignment": [4.0, 2.0, 1.0],
        "network": {"test": [1.0, 0.9 - shift, 0.8]},
        "linearized": {"test": [0.9, 0.7, 0.6 + shift]},
    }


def test_statistics_of_known_numbers() -> None:
    one = {"networks": ["lenet"], "places": [0, 5, 9], "lenet": made(0.0)}
    assert KernelDirections().statistics(one) == {
        "network-falls": pytest.approx(-1),
        "linearized-falls": pytest.approx(-1),
        "alignment-falls": pytest.approx(-1),
        "alignment-orders": pytest.approx(1),
        "network-wins": pytest.approx(0.5 / 3),
    }
    both = {**one, "networks": ["lenet", "resnet18"], "resnet18": made(0.15)}
    assert KernelDirections().statistics(both) == {
        "network-falls": pytest.approx(-0.5),
        "linearized-falls": pytest.approx(-0.5),
        "alignment-falls": pytest.approx(-1),
        "alignment-orders": pytest.approx(0.5),
        "network-wins": pytest.approx(0.2 / 3),
    }
    flat = {**made(0.0), "network": {"test": [0.5] * 3}}
    none = KernelDirections().statistics({**both, "resnet18": flat})
    assert none["network-falls"] is None and none["alignment-orders"] is None


def test_figures_and_table_come_from_the_results(result: dict[str, Any]) -> None:
    accuracy, gallery = KernelDirections().figures([result, result])
    assert "network from" in accuracy.panels[0].alt and "linearized from" in accuracy.panels[0].alt
    assert "at the origin from 1 to" in accuracy.panels[1].alt
    assert gallery.panels[0].title == "Directions 1 to 2"
    rows = {row.quantity: row.here for row in KernelDirections().table([result, result])}
    first = result["lenet"]["network"]["test"][0]
    assert rows["lenet, network: test accuracy at direction 0"] == f"{first:.1%}"
    network, linear = (result["lenet"][one]["test"] for one in ("network", "linearized"))
    gap = 100 * (sum(network) - sum(linear)) / 3
    assert rows["lenet: network minus linearisation, mean over directions"] == f"{gap:+.1f} points"
