"""The generalised Gauss-Newton matrix of any loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import pullback as pb
from pullback.likelihoods import Loss
from tests.cases import Case, named
from tests.checks import assert_agree
from tests.entries import data_of, network_of

CASE = named("mlp")


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


def pseudo_huber(outputs: Tensor, targets: Tensor) -> Tensor:
    """Smooth, convex, and curved differently at each target."""
    return ((1 + (outputs - targets).square()).sqrt() - 1).sum(1).mean()


def coupled(outputs: Tensor, targets: Tensor) -> Tensor:
    """Its Hessian is a full matrix."""
    return (outputs - targets).square().sum(1).square().mean() + outputs.square().sum(1).mean()


def targets_of(case: Case) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(case.n, case.c, dtype=torch.float64, generator=generator)


def slow(loss: Callable[[Tensor, Tensor], Tensor], targets: Tensor) -> Tensor:
    """The mean of J^T H J by explicit Jacobians and Hessians, (d, d)."""
    total = torch.zeros(CASE.d, CASE.d, dtype=torch.float64)
    for row, output, target in zip(CASE.rows, CASE.outputs, targets, strict=True):
        curvature = torch.autograd.functional.hessian(
            lambda f, y=target: loss(f.unsqueeze(0), y.unsqueeze(0)), output
        )
        total += row.T @ curvature @ row
    return total / CASE.n


@pytest.mark.parametrize("representation", ["dense", "implicit", "lowrank"])
@pytest.mark.parametrize("loss", [pseudo_huber, coupled, cross_entropy])
def test_it_is_the_curvature_pulled_back(
    loss: Callable[[Tensor, Tensor], Tensor], representation: str
) -> None:
    labels = CASE.targets("categorical") if loss is cross_entropy else targets_of(CASE)
    metric = pb.fisher(network_of(CASE), (CASE.inputs, labels), Loss(loss), representation)
    expected = slow(loss, labels)
    v = metric.space.randn(1)
    assert_agree(metric.to_dense(), expected)
    assert_agree((metric @ v).flat, expected @ v.flat)
    assert_agree(metric.trace(), expected.trace())


def test_of_a_negative_log_likelihood_it_is_the_fisher_matrix() -> None:
    data = data_of(CASE, "categorical")
    found = pb.fisher(network_of(CASE), data, Loss(F.cross_entropy), "ekfac")
    expected = pb.fisher(network_of(CASE), data, "categorical", "ekfac")
    assert_agree(found.to_dense(), expected.to_dense())
    assert found.origin.likelihood == "cross_entropy"


def test_with_the_curvature_of_the_network_it_is_the_hessian() -> None:
    """H = J^T H_f J + sum_k (dl / df_k) (d2 f_k / dw2): equal where the slopes vanish."""
    labels = CASE.outputs.detach()
    data = CASE.inputs, labels
    found = pb.fisher(network_of(CASE), data, Loss(pseudo_huber), "dense")
    assert_agree(
        found.to_dense(), pb.hessian(network_of(CASE), data, pseudo_huber, "dense").to_dense()
    )


def test_the_second_moment_of_its_gradients() -> None:
    labels = targets_of(CASE)
    found = pb.fisher(
        network_of(CASE), (CASE.inputs, labels), Loss(pseudo_huber), "dense", "empirical"
    )
    errors = CASE.outputs - labels
    slopes = torch.einsum("ncd,nc->nd", CASE.rows, errors / (1 + errors.square()).sqrt())
    assert_agree(found.to_dense(), slopes.T @ slopes / CASE.n)


def test_a_loss_that_is_not_convex_is_refused() -> None:
    def waves(outputs: Tensor, targets: Tensor) -> Tensor:
        return (3 * (outputs - targets)).sin().sum(1).mean()

    with pytest.raises(pb.InputError, match="convex"):
        pb.fisher(network_of(CASE), (CASE.inputs, targets_of(CASE)), Loss(waves), "dense")


def test_it_needs_targets() -> None:
    with pytest.raises(pb.InputError, match="targets"):
        pb.fisher(network_of(CASE), CASE.inputs, Loss(pseudo_huber), "dense")


def test_labels_cannot_be_drawn_from_it() -> None:
    with pytest.raises(pb.InputError, match="drawn"):
        pb.fisher(
            network_of(CASE),
            (CASE.inputs, targets_of(CASE)),
            Loss(pseudo_huber),
            "dense",
            "sampled",
        )
