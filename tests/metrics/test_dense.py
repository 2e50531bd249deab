"""The dense representation against the slow twin, over the whole grid."""

from __future__ import annotations

import pytest

from tests.cases import CASES, WITH_TARGETS, Case
from tests.checks import assert_agree
from tests.entries import measured
from tests.metrics.conformance import BlockConformance


class TestAlgebra(BlockConformance):
    representation = "dense"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_exact(case: Case) -> None:
    assert_agree(measured(case, "dense").to_dense(), case.fisher(case.likelihood))


@pytest.mark.parametrize("case", [case for case in CASES if case.c > 1][::5], ids=str)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "euclidean"])
def test_exact_for_other_likelihoods(case: Case, likelihood: str) -> None:
    assert_agree(measured(case, "dense", likelihood).to_dense(), case.fisher(likelihood))


@pytest.mark.parametrize("case", [case for case in CASES if case.c > 1][2::5], ids=str)
@pytest.mark.parametrize("likelihood", WITH_TARGETS)
def test_empirical(case: Case, likelihood: str) -> None:
    metric = measured(case, "dense", likelihood, "empirical")
    assert_agree(metric.to_dense(), case.empirical_fisher(likelihood))
