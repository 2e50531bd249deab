"""Representation quality against dense matrices."""

from __future__ import annotations

import pytest
import torch

import pullback as pb
from tests.cases import named
from tests.checks import assert_agree
from tests.entries import measured

CASE = named("mlp")
CANDIDATES = ["diagonal", "quasidiagonal", "block", "kfac", "ekfac", "lowrank"]


def test_of_a_metric_with_itself_nothing_is_lost() -> None:
    dense = measured(CASE, "dense")
    found = pb.quality(dense, dense)
    assert found.trace == 0
    assert_agree(found.cosine.value, 1.0)
    assert found.residual.value == 0
    assert all(abs(one.cosine.value - 1) < 1e-8 for one in found.solve)
    assert all(one.residual.value < 1e-7 for one in found.solve)


@pytest.mark.parametrize("representation", CANDIDATES)
def test_it_is_what_dense_matrices_give(representation: str) -> None:
    dense, metric = measured(CASE, "dense"), measured(CASE, representation)
    found = pb.quality(dense, metric, dampings=[0.1], samples=5, seed=3)
    draws = dense.space.randn(3, (5,)).flat
    v = draws / draws.norm(dim=1, keepdim=True)
    truth, matrix = dense.to_dense(), metric.to_dense()
    eye = torch.eye(len(truth), dtype=truth.dtype)
    expected, actual = v @ truth, v @ matrix
    cosines = (expected * actual).sum(1) / expected.norm(dim=1) / actual.norm(dim=1)
    recovered = torch.linalg.solve(matrix + 0.1 * eye, (truth + 0.1 * eye) @ v.T).T
    lengths = (v * expected).sum(1)
    assert_agree(found.trace, matrix.trace() / truth.trace() - 1, 1e-8)
    assert_agree(found.cosine.value, cosines.mean())
    assert_agree(
        found.residual.value, ((actual - expected).norm(dim=1) / expected.norm(dim=1)).mean(), 1e-8
    )
    assert_agree(found.quadratic.value, ((v * actual).sum(1) / lengths - 1).abs().mean(), 1e-8)
    residuals = (v - recovered).norm(dim=1) / recovered.norm(dim=1)  # 003, section 3.4.1
    assert_agree(found.solve[0].residual.value, residuals.mean(), 1e-8)
    assert_agree(found.cosine.stderr, cosines.std() / 5**0.5, 1e-6)


@pytest.mark.parametrize("representation", CANDIDATES)
def test_the_implicit_metric_is_as_good_a_reference(representation: str) -> None:
    metric = measured(CASE, representation)
    found = pb.quality(measured(CASE, "implicit"), metric, dampings=[0.1])
    expected = pb.quality(measured(CASE, "dense"), metric, dampings=[0.1])
    assert_agree(found.cosine.value, expected.cosine.value)
    assert_agree(found.solve[0].cosine.value, expected.solve[0].cosine.value)


def test_more_structure_is_never_further_in_frobenius_norm() -> None:
    """Nested supports: diagonal, quasi-diagonal, block."""
    dense = measured(CASE, "dense").to_dense()
    errors = [
        float((measured(CASE, name).to_dense() - dense).norm())
        for name in ("diagonal", "quasidiagonal", "block", "lowrank")
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10


def test_metrics_of_different_spaces_are_refused() -> None:
    with pytest.raises(pb.InputError, match="metrics"):
        pb.quality(measured(CASE, "dense"), measured(named("conv1d"), "diagonal"))


def test_a_single_vector_is_refused() -> None:
    metric = measured(CASE, "diagonal")
    with pytest.raises(pb.InputError, match="samples"):
        pb.quality(metric, metric, samples=1)
