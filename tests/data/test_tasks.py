"""Tasks made from labels, and toys: counts, geometry, seeds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pullback import InputError, data
from tests.checks import REFUSED


class TestLabels:
    @given(st.floats(0, 1), st.integers(2, 7), st.integers(0, 5))
    def test_exactly_a_share_is_wrong_and_none_of_these_right(
        self, share: float, classes: int, seed: int
    ) -> None:
        labels = torch.arange(40) % classes
        found = data.noisy_labels(labels, share, classes, seed)
        assert int(found.noisy.sum()) == round(share * 40)
        assert torch.equal(found.noisy, found.labels != labels)
        assert 0 <= int(found.labels.min()) <= int(found.labels.max()) < classes
        assert torch.equal(found.labels, data.noisy_labels(labels, share, classes, seed).labels)

    def test_wrong_classes_are_uniform(self) -> None:
        found = data.noisy_labels(torch.zeros(9000, dtype=torch.long), 1.0, classes=4)
        counts = found.labels.bincount(minlength=4).tolist()
        assert counts[0] == 0
        assert all(abs(count - 3000) < 200 for count in counts[1:])

    def test_halves_of_the_classes(self) -> None:
        assert data.two_halves(torch.arange(6), 6).tolist() == [1, 1, 1, -1, -1, -1]

    def test_two_classes_keep_their_order(self) -> None:
        labels = torch.tensor([2, 0, 1, 2, 1])
        chosen, signs = data.of_two_classes(labels, 1, 2)
        assert chosen.tolist() == [0, 2, 3, 4]
        assert signs.tolist() == [-1, 1, -1, 1]


class TestSpuriousGroups:
    def test_attributes_are_as_frequent_as_asked(self) -> None:
        labels = torch.tensor([0] * 50 + [1] * 100)
        found = data.attributes(labels, {0: 0.24, 1: 0.02}, seed=3)
        assert int(found[:50].sum()) == 12
        assert int(found[50:].sum()) == 2

    def test_a_colour_is_a_channel(self) -> None:
        digits = data.load("digits", "test", samples=6)
        attribute = torch.tensor([0, 1, 0, 1, 1, 0])
        found = data.coloured(digits.inputs, attribute)
        assert found.shape == (6, 3, 8, 8)
        for k in range(6):
            own = int(attribute[k])
            assert torch.equal(found[k, own], digits.inputs[k, 0])
            assert bool((found[k, 1 - own] == digits.inputs.min()).all())
            assert bool((found[k, 2] == digits.inputs.min()).all())

    def test_groups_are_all_pairs_or_as_many_of_each(self) -> None:
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(0, 2, (200,), generator=generator)
        attribute = torch.randint(0, 2, (200,), generator=generator)
        whole = data.groups_of(labels, attribute)
        assert set(whole) == {(0, 0), (0, 1), (1, 0), (1, 1)}
        assert sorted(torch.cat([*whole.values()]).tolist()) == list(range(200))
        few = data.groups_of(labels, attribute, each=18, seed=1)
        for pair, own in few.items():
            assert len(own.unique()) == 18
            assert set(own.tolist()) <= set(whole[pair].tolist())

    def test_a_mixture_remembers_which_is_which(self) -> None:
        easy = torch.zeros(10, 3), torch.zeros(10, dtype=torch.long)
        difficult = torch.ones(4, 3), torch.ones(4, dtype=torch.long)
        found = data.mixture(easy, difficult, seed=2)
        assert torch.equal(found.inputs[:, 0] == 1, found.difficult)
        assert torch.equal(found.labels == 1, found.difficult)
        assert not torch.equal(found.difficult, data.mixture(easy, difficult, seed=3).difficult)


class TestToys:
    def test_a_grid_goes_row_by_row(self) -> None:
        points = data.grid_points(3)
        assert points.shape == (9, 2)
        assert points[:3].tolist() == [[-1, -1], [-1, 0], [-1, 1]]

    def test_the_disk_is_half_of_the_square_003_e6_1(self) -> None:
        share = float((data.disk_labels(data.grid_points(401)) > 0).float().mean())
        assert share == pytest.approx(0.5, abs=3e-3)

    def test_yin_yang_is_odd_about_the_centre(self) -> None:
        points = data.uniform_points(500, seed=1)
        found = data.yin_yang_labels(points)
        assert torch.equal(data.yin_yang_labels(-points), -found)
        inside = (points - torch.tensor([0.5, -0.5])).norm(dim=1) <= 0.3
        assert bool((found[inside] == -1).all())
        away = (points[:, 1] < 0) & ~inside
        assert bool((found[away] == 1).all())

    def test_points_fill_the_square(self) -> None:
        points = data.uniform_points(5000, 3, seed=2)
        assert float(points.min()) >= -1
        assert float(points.max()) <= 1
        assert points.mean(0).abs().max() < 0.05
        assert points.std(0).sub(3**-0.5).abs().max() < 0.02


LABELS = torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: data.noisy_labels(LABELS, 1.5, 3), "share"),
        (lambda: data.noisy_labels(LABELS, 0.5, 2), "labels: 0 to 2"),
        (lambda: data.noisy_labels(LABELS, 0.5, 1), "classes"),
        (lambda: data.two_halves(LABELS, 3), "classes: 3"),
        (lambda: data.of_two_classes(LABELS, 1, 1), "first, second"),
        (lambda: data.of_two_classes(LABELS, 1, 7), "none is 7"),
        (lambda: data.attributes(LABELS, {0: 0.5}), "frequency"),
        (lambda: data.attributes(LABELS, {0: 0.5, 1: 2.0, 2: 0.0}), "frequency"),
        (lambda: data.coloured(torch.zeros(3, 3, 2, 2), LABELS), "images|jaxtyping"),
        (lambda: data.groups_of(LABELS, LABELS, each=1), "each: 1, but label 0 with attribute 1"),
        (lambda: data.mixture((LABELS[:, None], LABELS), (torch.zeros(0, 1), LABELS[:0])), "easy"),
        (lambda: data.uniform_points(0), "n, dim"),
        (lambda: data.grid_points(1), "side"),
        (lambda: data.opposed_modes(torch.tensor([1.0, 2.0])), "mu"),
        (lambda: data.opposed_modes(torch.tensor([1.0, 0.0])), "mu"),
        (lambda: data.shared_feature(4, against=5, own=1.0), "n, against"),
        (lambda: data.shared_feature(4, against=1, own=-1.0), "n, against"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(call: object, named: str) -> None:
    assert callable(call)
    with pytest.raises(REFUSED, match=named):
        call()


def test_the_error_is_the_librarys() -> None:
    with pytest.raises(InputError):
        data.noisy_labels(LABELS, -0.1, 3)
