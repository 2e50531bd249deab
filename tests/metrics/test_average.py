"""Averages over shards and over time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pullback as pb
from tests.cases import CASES, Case, named
from tests.checks import assert_agree
from tests.entries import batches_of, measured, network_of

CLOSED = ["dense", "block", "diagonal", "quasidiagonal", "lowrank", "kfac"]
# Where a layer is used otherwise from one shard to the next, its blocks are of other kinds.
SHARDED = [case for case in CASES[::6] if not {"moved", "routed", "token"} & {*case.name.split()}]


def shards_of(case: Case, representation: str, **options: object) -> list[pb.Metric]:
    sizes = [1, case.n - 3, 2] if case.n > 3 else [1, case.n - 1]
    return [
        pb.fisher(network_of(case), [batch], case.likelihood, representation, **options)
        for batch in batches_of(case, sizes)
    ]


@pytest.mark.parametrize("representation", CLOSED)
@pytest.mark.parametrize("case", SHARDED, ids=str)
def test_shards_weighted_by_samples_give_the_whole(case: Case, representation: str) -> None:
    found = pb.average(shards_of(case, representation))
    whole = measured(case, representation)
    assert_agree(found.to_dense(), whole.to_dense())
    assert found.origin.samples == case.n


def test_ekfac_is_closed_in_a_common_eigenbasis() -> None:
    case = named("mlp")
    basis = measured(case, "kfac")
    shards = shards_of(case, "ekfac", basis=basis)
    whole = measured(case, "ekfac", basis=basis)
    assert_agree(pb.average(shards).to_dense(), whole.to_dense())


def test_ekfac_in_different_eigenbases_is_refused() -> None:
    with pytest.raises(pb.InputError, match="eigenbasis"):
        pb.average(shards_of(named("mlp"), "ekfac"))


def test_a_basis_of_its_own_changes_nothing() -> None:
    case = named("conv2d")
    metric = measured(case, "ekfac")
    again = measured(case, "ekfac", basis=metric)
    assert_agree(again.to_dense(), metric.to_dense())


def test_a_running_average_forgets() -> None:
    case = named("mlp")
    first, second, _ = shards_of(case, "diagonal")
    found = pb.average([first, second], weights=[0.9, 0.1])
    assert_agree(found.to_dense(), 0.9 * first.to_dense() + 0.1 * second.to_dense())


def test_different_representations_are_refused() -> None:
    case = named("mlp")
    with pytest.raises(pb.InputError, match="metrics"):
        pb.average([measured(case, "diagonal"), measured(case, "kfac")])


def test_none_at_all_is_refused() -> None:
    with pytest.raises(pb.InputError, match="metrics"):
        pb.average([])


def test_a_weight_too_few_is_refused() -> None:
    metric = pb.fisher(nn.Linear(3, 2), torch.eye(3), representation="diagonal")
    with pytest.raises(pb.InputError, match="weights"):
        pb.average([metric, metric], weights=[1.0])
