"""Affine uses in pieces: contractions that take some samples at a time give the same."""

from __future__ import annotations

import pytest
import torch

from pullback.tape import affine
from tests.cases import CASES, Case, named
from tests.checks import assert_agree
from tests.entries import measured

AFFINE = [
    case
    for case in CASES
    if case.name.startswith(("conv", "transposed conv", "linear on", "module called"))
]


@pytest.fixture(autouse=True)
def least_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sample at a time, on every device."""
    monkeypatch.setattr(affine, "CACHED_BYTES", dict.fromkeys(affine.CACHED_BYTES, 1))


@pytest.mark.parametrize("case", AFFINE, ids=str)
class TestOneSampleAtATime:
    def test_the_diagonal_is_the_same(self, case: Case) -> None:
        expected = case.fisher(case.likelihood).diagonal()
        assert_agree(measured(case, "diagonal").diagonal().flat, expected)

    def test_the_trace_is_the_same(self, case: Case) -> None:
        expected = case.fisher(case.likelihood).trace()
        assert_agree(measured(case, "implicit").trace(), expected)

    def test_the_trace_of_ekfac_is_the_same(self, case: Case) -> None:
        expected = case.fisher(case.likelihood).trace()
        assert_agree(measured(case, "ekfac").trace(), expected)


def test_many_samples_are_cut_into_uneven_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seventeen samples, three at a time, so that the last piece is smaller."""
    case = named("conv2d with stride")
    layer = case.module.layer
    size = layer.weight.numel() * case.c * 8
    monkeypatch.setattr(affine, "CACHED_BYTES", dict.fromkeys(affine.CACHED_BYTES, 3 * size))
    seventeen = Case(
        "seventeen samples",
        lambda: (case.fresh()[0], torch.randn(17, 2, 6, 5, dtype=torch.float64)),
    )
    expected = seventeen.fisher("categorical").diagonal()
    assert_agree(measured(seventeen, "diagonal").diagonal().flat, expected)
