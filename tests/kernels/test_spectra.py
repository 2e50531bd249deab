"""Plain functions of spectra and kernels: printed digits, ranges, invariances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pullback as pb
from tests import reference
from tests.checks import REFUSED, assert_agree

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=12).filter(lambda v: sum(v) > 1e-3)


def kernel(seed: int, size: int = 6, rank: int = 4) -> Tensor:
    """A random positive kernel."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, rank, dtype=torch.float64, generator=generator)
    return features @ features.T


class TestEffectiveRank:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [((1, 1, 1, 1), 4.0), ((3, 1), 1.7547653506), ((4, 2, 1, 1), 3.3635856610)],
    )
    def test_printed_digits_003_3_6_6(self, values: tuple[int, ...], expected: float) -> None:
        rank = pb.effective_rank(torch.tensor(values, dtype=torch.float64))
        assert rank == pytest.approx(expected, abs=5e-11)

    def test_negative_rounding_errors_count_as_zero(self) -> None:
        values = torch.tensor([3.0, 1.0, -1e-9], dtype=torch.float64)
        assert pb.effective_rank(values) == pytest.approx(1.7547653506, abs=5e-11)

    @given(values=VALUES)
    @settings(max_examples=30, deadline=None)
    def test_it_is_the_twins(self, values: list[float]) -> None:
        spectrum = torch.tensor(values, dtype=torch.float64)
        assert_agree(pb.effective_rank(spectrum), reference.effective_rank(spectrum))

    @given(values=VALUES)
    @settings(max_examples=30, deadline=None)
    def test_it_is_between_one_and_the_number_of_eigenvalues(self, values: list[float]) -> None:
        """003 part 5, 002 section 5.3."""
        rank = pb.effective_rank(torch.tensor(values, dtype=torch.float64))
        assert 1 - 1e-9 <= rank <= len(values) + 1e-9

    @given(values=VALUES, scale=st.floats(1e-6, 1e6))
    @settings(max_examples=30, deadline=None)
    def test_a_scale_does_not_change_it(self, values: list[float], scale: float) -> None:
        """003 part 5, 002 section 5.3."""
        spectrum = torch.tensor(values, dtype=torch.float64)
        assert pb.effective_rank(scale * spectrum) == pytest.approx(pb.effective_rank(spectrum))

    @given(values=VALUES, seed=st.integers(0, 1000))
    @settings(max_examples=30, deadline=None)
    def test_the_order_does_not_change_it(self, values: list[float], seed: int) -> None:
        spectrum = torch.tensor(values, dtype=torch.float64)
        order = torch.randperm(len(spectrum), generator=torch.Generator().manual_seed(seed))
        assert pb.effective_rank(spectrum[order]) == pytest.approx(pb.effective_rank(spectrum))

    def test_no_spectrum_at_all_is_refused(self) -> None:
        with pytest.raises(pb.InputError, match="eigenvalues"):
            pb.effective_rank(torch.zeros(3))

    def test_a_spectrum_that_is_not_finite_is_refused(self) -> None:
        with pytest.raises(pb.InputError, match="eigenvalues"):
            pb.effective_rank(torch.tensor([1.0, float("nan")]))


class TestTraceRatios:
    def test_shares_of_the_largest(self) -> None:
        ratios = pb.trace_ratios(torch.tensor([1.0, 4.0, 3.0, 2.0]), (1, 2, 4))
        assert list(ratios) == pytest.approx([0.4, 0.7, 1.0])

    def test_more_than_there_are_is_all(self) -> None:
        assert list(pb.trace_ratios(torch.tensor([1.0, 3.0]), (5,))) == pytest.approx([1.0])

    @given(values=VALUES)
    @settings(max_examples=30, deadline=None)
    def test_they_are_the_twins(self, values: list[float]) -> None:
        spectrum = torch.tensor(values, dtype=torch.float64)
        ks = list(range(1, len(values) + 1))
        expected = reference.trace_ratios(spectrum, ks)
        assert list(pb.trace_ratios(spectrum, ks)) == pytest.approx(expected)

    @given(values=VALUES)
    @settings(max_examples=30, deadline=None)
    def test_they_rise_to_one(self, values: list[float]) -> None:
        """002 section 5.3."""
        spectrum = torch.tensor(values, dtype=torch.float64)
        ratios = list(pb.trace_ratios(spectrum, list(range(1, len(values) + 1))))
        assert ratios == sorted(ratios) and ratios[-1] == pytest.approx(1.0)


class TestAlignment:
    y = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    identity = torch.eye(4, dtype=torch.float64)

    def test_the_identity_with_labels_003_3_6_8(self) -> None:
        labels = torch.outer(self.y, self.y)
        value = pb.alignment(self.identity, labels, centring="all")
        assert value == pytest.approx(0.5773502692, abs=5e-11)

    def test_the_identity_with_labels_uncentred_003_3_6_8(self) -> None:
        value = pb.alignment(self.identity, torch.outer(self.y, self.y), centring=None)
        assert value == pytest.approx(0.5, abs=1e-15)

    def test_labels_with_themselves_003_3_6_8(self) -> None:
        labels = torch.outer(self.y, self.y)
        assert pb.alignment(labels, labels, centring="all") == pytest.approx(1.0, abs=1e-15)

    def test_the_identity_with_one_hot_labels_003_3_6_8(self) -> None:
        labels = reference.label_kernel(torch.tensor([0, 1]), 2)
        value = pb.alignment(self.identity, labels, centring="all")
        assert value == pytest.approx(0.5773502692, abs=5e-11)

    @given(seed=st.integers(0, 10**6))
    @settings(max_examples=20, deadline=None)
    def test_it_is_the_twins(self, seed: int) -> None:
        one, other = kernel(seed), kernel(seed + 1)
        expected = reference.alignment(one, other, reference.centring(6, 1, "all"))
        assert_agree(pb.alignment(one, other, centring="all"), expected)

    @given(seed=st.integers(0, 10**6), scale=st.floats(1e-6, 1e6))
    @settings(max_examples=20, deadline=None)
    def test_a_scale_does_not_change_it(self, seed: int, scale: float) -> None:
        """003 part 5, 002 section 5.3."""
        one, other = kernel(seed), kernel(seed + 1)
        scaled = pb.alignment(scale * one, other, centring="all")
        assert scaled == pytest.approx(pb.alignment(one, other, centring="all"))

    @given(seed=st.integers(0, 10**6))
    @settings(max_examples=20, deadline=None)
    def test_a_rotation_of_the_features_does_not_change_it(self, seed: int) -> None:
        """003 part 5."""
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(6, 4, dtype=torch.float64, generator=generator)
        rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=generator))[0]
        turned = (features @ rotation) @ (features @ rotation).T
        plain = pb.alignment(features @ features.T, kernel(seed), centring="all")
        assert pb.alignment(turned, kernel(seed), centring="all") == pytest.approx(plain)

    @given(seed=st.integers(0, 10**6))
    @settings(max_examples=20, deadline=None)
    def test_a_permutation_of_the_samples_does_not_change_it(self, seed: int) -> None:
        order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
        one, other = kernel(seed), kernel(seed + 1)
        shuffled = [k[order][:, order] for k in (one, other)]
        expected = pb.alignment(one, other, centring="all")
        assert pb.alignment(*shuffled, centring="all") == pytest.approx(expected)

    @given(seed=st.integers(0, 10**6))
    @settings(max_examples=20, deadline=None)
    def test_it_is_symmetric(self, seed: int) -> None:
        one, other = kernel(seed), kernel(seed + 1)
        forth = pb.alignment(one, other, centring="all")
        assert pb.alignment(other, one, centring="all") == pytest.approx(forth)

    @given(seed=st.integers(0, 10**6))
    @settings(max_examples=20, deadline=None)
    def test_it_is_between_zero_and_one(self, seed: int) -> None:
        """003 part 5, 002 section 5.3."""
        value = pb.alignment(kernel(seed), kernel(seed + 1), centring="all")
        assert 0.0 <= value <= 1.0 + 1e-12

    @given(seed=st.integers(0, 10**6), shift=st.floats(0, 1e3))
    @settings(max_examples=20, deadline=None)
    def test_a_constant_feature_does_not_change_it_when_centred(
        self, seed: int, shift: float
    ) -> None:
        one, other = kernel(seed), kernel(seed + 1)
        expected = pb.alignment(one, other, centring="all")
        assert pb.alignment(one + shift, other, centring="all") == pytest.approx(expected)

    def test_kernels_of_other_sizes_are_refused(self) -> None:
        with pytest.raises(REFUSED, match=r"kernel|second"):
            pb.alignment(self.identity, torch.eye(3, dtype=torch.float64))
