"""The study of directions at a small size on digits, against a Jacobian made row by row."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from pullback.studies.alignment.networks import NETWORKS
from pullback.studies.alignment.singular_vectors import Settings, SingularVectors
from pullback.studies.parts import Descent, drawn, started
from tests.studies.alignment.by_hand import features, learn

SMALL = Settings(
    seeds=2, data="digits", network="lenet", train=40, sample=4, test=10,
    descent=Descent(epochs=4, batch=20, rate=0.05, falling=False), directions=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def result() -> dict:
    done: list[int] = []
    (found,) = SingularVectors().measure(SMALL, 1, done.append)
    assert sum(done) == SingularVectors().steps(SMALL)
    return found


@pytest.fixture(scope="module")
def network() -> nn.Module:
    module = started(lambda: NETWORKS["lenet"]((1, 8, 8), 10), 1)
    images = drawn("digits", "train", 40, 1)
    learn(module, images.inputs, images.labels, SMALL.descent, seed=1)
    return module.double()


def change(module: nn.Module, direction: torch.Tensor) -> float:
    """The root of the mean squared change of the outputs on test images."""
    x = drawn("digits", "test", 10, 1).inputs.double()
    start = parameters_to_vector(module.parameters()).detach()
    with torch.no_grad():
        before = module(x)
    vector_to_parameters(start + 0.1 * direction, module.parameters())
    with torch.no_grad():
        after = module(x)
    vector_to_parameters(start, module.parameters())
    return float((after - before).square().mean().sqrt())


def test_singular_vectors_are_those_of_the_jacobian(result: dict, network: nn.Module) -> None:
    rows = torch.cat(features(network, drawn("digits", "train", 4, 1).inputs), 2).flatten(0, 1)
    vectors = torch.linalg.svd(rows, full_matrices=False)[2][:6]
    for found, vector in zip(result["singular"], vectors, strict=True):
        both_ways = [change(network, sign * vector) for sign in (1, -1)]
        assert min(abs(one / found - 1) for one in both_ways) < 1e-3


def test_random_directions_are_of_the_same_length(result: dict, network: nn.Module) -> None:
    size = len(parameters_to_vector(network.parameters()))
    for number, found in enumerate(result["random"]):
        gaussian = torch.randn(size, generator=torch.Generator().manual_seed(6 + number))
        assert found == pytest.approx(change(network, gaussian / gaussian.norm()), rel=1e-3)


def test_what_is_expected_at_random_is_the_mean_squared_gradient(
    result: dict, network: nn.Module
) -> None:
    x = drawn("digits", "test", 10, 1).inputs
    squares = torch.cat(features(network, x), 2).square().mean()
    assert result["expected"] == pytest.approx(0.1 * math.sqrt(float(squares)), rel=1e-3)
    outputs = network(x.double())
    assert result["spread"] == pytest.approx(
        float(outputs.detach().var(0, correction=0).mean().sqrt()), rel=1e-3
    )


def test_the_same_seed_repeats_it_and_another_does_not(result: dict) -> None:
    assert SingularVectors().measure(SMALL, 1, lambda _: None)[0] == result
    other = SingularVectors().measure(SMALL, 0, lambda _: None)[0]
    assert other["singular"] != result["singular"] and other["random"] != result["random"]


def test_statistics_of_known_changes() -> None:
    made = {"singular": [10.0, 4.0, 1.0], "random": [0.1, 0.1, 0.1], "expected": 0.01}
    assert SingularVectors().statistics(made) == pytest.approx(
        {
            "first-moves-most": 2.0,
            "all-move-more": 1.0,
            "falls-with-index": -1.0,
            "random-is-mean": 1.0,
        }
    )
    assert {*SingularVectors().statistics(made)} == {
        claim.name for claim in SingularVectors().claims
    }


def test_figures_and_table_come_from_the_results(result: dict) -> None:
    (figure,) = SingularVectors().figures([result, result])
    assert len(figure.panels) == 1
    assert len(SingularVectors().table([result])) == 4
