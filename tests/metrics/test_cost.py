"""The cost of a metric before the run, against what the run does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pullback as pb
from tests.cases import CASES, Case
from tests.entries import data_of, measured, network_of

STORED = ["dense", "block", "diagonal", "quasidiagonal", "lowrank", "kfac", "ekfac", "kfac-reduce"]


@pytest.mark.parametrize("representation", STORED)
@pytest.mark.parametrize("case", CASES[::7], ids=str)
def test_the_size_is_that_of_the_metric(case: Case, representation: str) -> None:
    found = pb.cost(network_of(case), data_of(case), case.likelihood, representation)
    metric = measured(case, representation)
    tensors = [t for block in metric.blocks.values() for t in block.tensors().values()]
    assert found.stored_bytes == sum(t.numel() * t.element_size() for t in tensors)
    assert found.samples == case.n


def test_a_dense_matrix_of_24_million_parameters_takes_2304_terabytes() -> None:
    """003, section 3.4."""
    model = nn.Linear(24_000, 1000, bias=False)
    found = pb.cost(model, torch.zeros(4, 24_000), representation="dense", estimator="sampled")
    assert found.stored_bytes == 2_304_000_000_000_000


def test_passes_are_those_of_the_estimator() -> None:
    model, x = nn.Linear(5, 4), torch.randn(10, 5)
    assert pb.cost(model, x, representation="kfac").backwards == 10 * 3
    assert pb.cost(model, x, representation="ekfac").backwards == 2 * 10 * 3
    sampled = pb.cost(model, x, representation="kfac", estimator="sampled", samples=2)
    assert (sampled.forwards, sampled.backwards) == (10, 20)
    implicit = pb.cost(model, x, representation="implicit")
    assert (implicit.forwards, implicit.backwards, implicit.stored_bytes) == (20, 10, 0)


def test_operations_of_the_network_are_counted() -> None:
    """2 x 5 x 4 for one pass of one sample, forward or backward."""
    found = pb.cost(nn.Linear(5, 4), torch.randn(10, 5), representation="kfac")
    assert found.network_flops == (10 + 30) * 2 * 5 * 4


def test_the_model_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    before = [p.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    pb.cost(model, torch.zeros(6, 5))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_an_unknown_representation_is_refused() -> None:
    with pytest.raises(pb.InputError, match="representation"):
        pb.cost(nn.Linear(5, 4), torch.zeros(6, 5), representation="kfca")
