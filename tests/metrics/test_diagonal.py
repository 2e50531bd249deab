"""The diagonal representation against the slow twin, over the whole grid."""

from __future__ import annotations

import pytest

from tests.cases import CASES, WITH_TARGETS, Case
from tests.checks import assert_agree
from tests.entries import measured
from tests.metrics.conformance import BlockConformance


class TestAlgebra(BlockConformance):
    representation = "diagonal"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_exact(case: Case) -> None:
    expected = case.fisher(case.likelihood).diagonal()
    assert_agree(measured(case, "diagonal").diagonal().flat, expected)


@pytest.mark.parametrize("case", [case for case in CASES if case.c > 1][1::5], ids=str)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "euclidean"])
def test_exact_for_other_likelihoods(case: Case, likelihood: str) -> None:
    expected = case.fisher(likelihood).diagonal()
    assert_agree(measured(case, "diagonal", likelihood).diagonal().flat, expected)


@pytest.mark.parametrize("case", [case for case in CASES if case.c > 1][3::5], ids=str)
@pytest.mark.parametrize("likelihood", WITH_TARGETS)
def test_empirical(case: Case, likelihood: str) -> None:
    metric = measured(case, "diagonal", likelihood, "empirical")
    assert_agree(metric.diagonal().flat, case.empirical_fisher(likelihood).diagonal())
