"""The Hessian of a loss against autograd's, over the grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pullback as pb
from pullback.batches import as_batch
from tests.cases import CASES, Case, named
from tests.checks import assert_agree, unchanged
from tests.entries import data_of, network_of, space_of

STEP = 1e-5
CLOSE = 1e-7  # what central differences are good for
# Central differences see what has no gradient by convention: padding rows, what is under no_grad.
UNSEEN = {"padding", "no_grad"}
SMOOTH = [case for case in CASES if case.c > 1 and not UNSEEN & {*case.name.split()}]
SMOOTH = [case for case in SMOOTH if case.name != "embedding bag"]
SMALL = [case for case in SMOOTH if space_of(case.module).size < 60][::2]


def slow(case: Case) -> Tensor:
    """The Hessian by central differences of the gradient, to about nine digits, (d, d).

    Not by differentiating twice: torch's fused weight norm has a wrong second derivative.
    """
    network, targets = network_of(case), case.targets("categorical")
    start = pb.ParameterVector.from_model(case.module).flat
    batch = as_batch(data_of(case, "categorical"))

    def slope(flat: Tensor) -> Tensor:
        flat = flat.clone().requires_grad_()
        loss = F.cross_entropy(network.forward(network.split(flat), batch), targets)
        return torch.autograd.grad(loss, flat)[0]

    moves = STEP * torch.eye(len(start), dtype=start.dtype)
    rows = [slope(start + move) - slope(start - move) for move in moves]
    return torch.stack(rows) / (2 * STEP)


@pytest.mark.parametrize("case", SMALL, ids=str)
class TestOnTheGrid:
    def test_dense(self, case: Case) -> None:
        found = pb.hessian(network_of(case), data_of(case, "categorical"), representation="dense")
        assert_agree(found.to_dense(), slow(case), CLOSE)

    def test_products(self, case: Case) -> None:
        found = pb.hessian(network_of(case), data_of(case, "categorical"))
        v = found.space.randn(1, (2,))
        assert_agree((found @ v).flat, v.flat @ slow(case), CLOSE)


def linear() -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x = torch.randn(8, 4, dtype=torch.float64, generator=generator)
    return nn.Linear(4, 3).double(), x, torch.randint(0, 3, (8,), generator=generator)


def test_of_a_model_linear_in_its_parameters_it_is_the_fisher_matrix() -> None:
    model, x, y = linear()
    found = pb.hessian(model, (x, y), representation="dense")
    assert_agree(found.to_dense(), pb.fisher(model, x, representation="dense").to_dense())


def test_a_loss_can_be_any_function() -> None:
    model, x, _ = linear()
    y = torch.randn(8, 3, dtype=torch.float64)
    found = pb.hessian(model, (x, y), F.mse_loss, "dense")
    expected = pb.fisher(model, x, "euclidean", "dense") * (2 / 3)  # a mean over outputs too
    assert_agree(found.to_dense(), expected.to_dense())
    assert found.origin.likelihood == "mse_loss"


def test_it_does_not_depend_on_the_batches() -> None:
    model, x, y = linear()
    batches = [(x[:1], y[:1]), (x[1:6], y[1:6]), (x[6:], y[6:])]
    v = pb.ParameterVector.from_model(model)
    assert_agree((pb.hessian(model, batches) @ v).flat, (pb.hessian(model, (x, y)) @ v).flat)


def test_a_network_has_directions_of_negative_curvature() -> None:
    case = named("mlp")
    found = pb.hessian(network_of(case), data_of(case, "categorical"), representation="dense")
    values = found.eigenvalues()
    assert float(values[-1]) < 0 < float(values[0])
    v = found.space.randn(2)
    x = found.solve(v, damping=0.3)  # indefinite, but not singular
    assert_agree((found @ x + 0.3 * x).flat, v.flat)


def test_the_trace_is_estimated_with_its_error() -> None:
    case = named("mlp")
    implicit = pb.hessian(network_of(case), data_of(case, "categorical"))
    found, expected = implicit.trace(samples=200), float(slow(case).trace())
    assert abs(found.value - expected) < 4 * found.stderr
    assert implicit.trace(samples=50, seed=1) == implicit.trace(samples=50, seed=1)


def test_layers_are_blocks_of_the_whole() -> None:
    case = named("mlp")
    network, data = network_of(case), data_of(case, "categorical")
    block = pb.hessian(network, data, representation="block")
    assert_agree(block.diagonal().flat, slow(case).diagonal(), CLOSE)
    assert set(block.blocks) == set(pb.fisher(network, data, representation="block").blocks)


def test_it_needs_targets() -> None:
    model, x, _ = linear()
    with pytest.raises(pb.InputError, match="targets"):
        _ = pb.hessian(model, x) @ pb.ParameterVector.from_model(model)


def test_the_module_is_left_alone() -> None:
    model, x, y = linear()
    with unchanged(model):
        _ = pb.hessian(model, (x, y)) @ pb.ParameterVector.from_model(model)


def test_an_operation_without_second_derivative_is_named() -> None:
    case = named("embedding bag")
    with pytest.raises(pb.InputError, match="embedding_bag"):
        pb.hessian(network_of(case), data_of(case, "categorical"), representation="dense")
