"""Which classes of `linear_operator` metrics become; their values are in the conformance suite."""

from __future__ import annotations

import pytest
import torch
from linear_operator import operators, settings
from torch import nn

import pullback as pb
from pullback.metrics.products import Products
from tests.checks import assert_agree


def operator_of(model: nn.Module, representation: str) -> object:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    return pb.fisher(model, x, representation=representation).to_linear_operator()


PLAIN = nn.Linear(3, 4, bias=False)
TWO = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("model", "representation", "expected"),
    [
        (TWO, "diagonal", operators.DiagLinearOperator),
        (TWO, "dense", operators.DenseLinearOperator),
        (TWO, "lowrank", operators.LowRankRootLinearOperator),
        (PLAIN, "kfac", operators.KroneckerProductLinearOperator),
        (nn.Linear(3, 4), "kfac", Products),  # the bias comes after the weights
        (PLAIN, "ekfac", Products),
        (TWO, "block", Products),
        (TWO, "kfac", Products),
        (TWO, "implicit", Products),
    ],
)
def test_structure_is_kept_where_there_is_one(
    model: nn.Module, representation: str, expected: type
) -> None:
    assert type(operator_of(model, representation)) is expected


def test_a_block_of_a_metric_keeps_its_structure() -> None:
    metric = pb.fisher(TWO, torch.eye(3), representation="block")
    block = metric["1"].to_linear_operator()  # type: ignore[index]
    assert isinstance(block, operators.DenseLinearOperator)


def test_autograd_goes_through_products() -> None:
    metric = pb.fisher(TWO, torch.eye(3), representation="kfac")
    v = metric.space.randn().flat.requires_grad_()
    (v @ (metric.to_linear_operator() @ v)).backward()
    assert_agree(v.grad, 2 * metric.to_dense() @ v.detach(), 1e-5)


def test_many_parameters_are_solved_by_iteration() -> None:
    model = nn.Sequential(nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 3)).double()
    x = torch.randn(20, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    metric = pb.fisher(model, x, representation="kfac")
    v = metric.space.randn(1)
    operator = metric.to_linear_operator().add_diagonal(v.flat.new_tensor(0.1))
    with settings.cg_tolerance(1e-4), settings.max_cg_iterations(2000):
        found = operator.solve(v.flat)
    assert_agree(found, metric.solve(v, damping=0.1).flat, 1e-3)
