"""One full block for each layer: algebra, and values over the whole grid."""

from __future__ import annotations

import pytest
import torch

from tests.cases import CASES, Case
from tests.checks import assert_agree
from tests.entries import measured
from tests.metrics.conformance import BlockConformance, support


class TestAlgebra(BlockConformance):
    representation = "block"


@pytest.mark.parametrize("estimator", ["exact", "empirical"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_the_grid(case: Case, estimator: str) -> None:
    likelihood = case.likelihood
    if estimator == "exact":
        expected = case.fisher(likelihood)
    else:
        expected = case.empirical_fisher(likelihood)
    metric = measured(case, "block", estimator=estimator)
    room = support(metric.space, metric, "block")
    assert_agree(metric.to_dense(), torch.where(room, expected, 0.0))
