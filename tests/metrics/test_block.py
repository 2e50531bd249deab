"""One full block for each layer: algebra, and values over the whole grid."""

from __future__ import annotations

import pytest

from tests.cases import CASES, Case
from tests.metrics.conformance import BlockConformance, check_on_the_twin


class TestAlgebra(BlockConformance):
    representation = "block"


@pytest.mark.parametrize("estimator", ["exact", "empirical"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_the_grid(case: Case, estimator: str) -> None:
    check_on_the_twin(case, "block", estimator)
