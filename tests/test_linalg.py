"""Symmetric products by blocks of their lower triangle, at sizes around the cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pullback.linalg import (
    LOW_RANK_SHARE,
    SMALLEST_LARGE,
    SMALLEST_SPLIT,
    TILE,
    add_gram_,
    eigh_of_moment,
    mirror_,
    sum_over_positions,
)
from tests.checks import assert_agree

SIZES = [1, 5, SMALLEST_SPLIT - 1, SMALLEST_SPLIT, SMALLEST_SPLIT + 1, 2 * TILE + 3]


def random(*shape: int) -> Tensor:
    """Seeded numbers of the given shape."""
    seeded = torch.Generator().manual_seed(1)
    return torch.randn(*shape, dtype=torch.float64, generator=seeded)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [(), (3,)], ids=["one", "several"])
class TestGram:
    def test_it_is_the_product_with_the_transpose(self, size: int, batch: tuple[int, ...]) -> None:
        rows = random(*batch, size, 7)
        total = torch.zeros(*batch, size, size, dtype=torch.float64)
        add_gram_(total, rows)
        assert_agree(mirror_(total), rows @ rows.mT, 1e-14)

    def test_it_adds_up(self, size: int, batch: tuple[int, ...]) -> None:
        rows = random(*batch, size, 6)
        total = torch.zeros(*batch, size, size, dtype=torch.float64)
        add_gram_(total, rows[..., :2])
        add_gram_(total, rows[..., 2:])
        assert_agree(mirror_(total), rows @ rows.mT, 1e-14)

    def test_it_is_exactly_symmetric(self, size: int, batch: tuple[int, ...]) -> None:
        total = torch.zeros(*batch, size, size, dtype=torch.float64)
        add_gram_(total, random(*batch, size, 7))
        mirror_(total)
        assert torch.equal(total, total.mT)

    def test_garbage_above_the_diagonal_is_overwritten(
        self, size: int, batch: tuple[int, ...]
    ) -> None:
        rows = random(*batch, size, 7)
        total = torch.zeros(*batch, size, size, dtype=torch.float64)
        add_gram_(total, rows)
        spoilt = total + torch.full_like(total, torch.inf).triu(1).nan_to_num(posinf=1e9)
        assert_agree(mirror_(spoilt), rows @ rows.mT, 1e-14)


@pytest.mark.parametrize("groups", [(), (2,)], ids=["one", "several"])
@pytest.mark.parametrize("positions", [1, 6])
def test_positions_sum_in_any_order_of_memory(groups: tuple[int, ...], positions: int) -> None:
    values = random(*groups, 3, 4, positions)
    channels_last = values.movedim(-3, -1).contiguous().movedim(-1, -3)
    for laid_out in (values, channels_last):
        assert_agree(sum_over_positions(laid_out), values.sum(-1), 1e-14)


FEW = SMALLEST_LARGE // LOW_RANK_SHARE


class TestEigenvectorsOfMoments:
    @pytest.mark.parametrize("vectors", [0, 1, FEW - 1, FEW, FEW + 1, 2 * FEW])
    def test_they_make_the_matrix_again(self, vectors: int) -> None:
        rows = random(2, SMALLEST_LARGE, vectors)
        rows[1] *= 10
        moment = rows @ rows.mT
        values, along = eigh_of_moment(moment)
        assert_agree(along @ (values.unsqueeze(2) * along.mT), moment, 1e-12)
        assert_agree(along.mT @ along, torch.eye(SMALLEST_LARGE).expand_as(moment).double(), 1e-12)
        assert bool((values.diff() >= 0).all()) and bool((values >= 0).all())

    def test_directions_that_matter_little_are_not_left_out(self) -> None:
        weights = torch.logspace(0, -9, SMALLEST_LARGE, dtype=torch.float64)
        rows = random(1, SMALLEST_LARGE, SMALLEST_LARGE) * weights
        moment = rows @ rows.mT
        values, along = eigh_of_moment(moment)
        assert_agree(along @ (values.unsqueeze(2) * along.mT), moment, 1e-12)
        assert_agree(values, torch.linalg.eigvalsh(moment), 1e-12)
