"""Bases, separable samples, carriers, flips and two features: exact identities."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pullback import InputError, data
from pullback.anisotropy import (
    carriers,
    flipped,
    fourier_basis,
    random_basis,
    separable,
    two_features,
)
from tests.checks import REFUSED


class TestFourierBasis:
    @pytest.mark.parametrize(
        ("shape", "real", "imaginary"),
        [((32, 32), 514, 510), ((8, 8), 34, 30), ((4, 4), 10, 6), ((5, 5), 13, 12), ((7,), 4, 3),
         ((8,), 5, 3), ((4, 6), 14, 10)],
    )  # fmt: skip
    def test_counts_and_products_t2(
        self, shape: tuple[int, ...], real: int, imaginary: int
    ) -> None:
        basis = fourier_basis(shape)
        assert (int((~basis.imaginary).sum()), int(basis.imaginary.sum())) == (real, imaginary)
        vectors = basis.vectors.double()
        off = vectors @ vectors.T - torch.eye(real + imaginary)
        assert float(off.abs().max()) < 1e-6

    def test_in_double_precision_to_rounding(self) -> None:
        torch.set_default_dtype(torch.float64)
        try:
            vectors = fourier_basis((32, 32)).vectors
        finally:
            torch.set_default_dtype(torch.float32)
        assert float((vectors @ vectors.T - torch.eye(1024)).abs().max()) < 1e-14

    @pytest.mark.parametrize("shape", [(8, 8), (5, 6), (9,)])
    def test_each_vector_has_one_frequency_and_its_mirror(self, shape: tuple[int, ...]) -> None:
        basis = fourier_basis(shape)
        sizes = torch.tensor(shape)
        for vector, frequency, imaginary in zip(
            basis.vectors, basis.frequencies, basis.imaginary, strict=True
        ):
            spectrum = torch.fft.fftn(vector.view(shape), norm="ortho")
            own, mirror = tuple(frequency % sizes), tuple(-frequency % sizes)
            outside = spectrum.abs().square()
            outside[own] = outside[mirror] = 0
            assert float(outside.sum()) < 1e-10
            part = spectrum[own].real if imaginary else spectrum[own].imag
            assert float(part.abs()) < 1e-5

    @pytest.mark.parametrize("shape", [(8, 8), (5, 6), (7,)])
    def test_a_frequency_and_its_mirror_have_the_same_place(self, shape: tuple[int, ...]) -> None:
        basis = fourier_basis(shape)
        for row, (frequency, part) in enumerate(
            zip(basis.frequencies.tolist(), basis.imaginary.tolist(), strict=True)
        ):
            mirror = [-one + size for one, size in zip(frequency, shape, strict=True)]
            assert basis.place(frequency, part) == basis.place(mirror, part) == row

    @pytest.mark.parametrize(("frequency", "part"), [((1,), False), ((0, 4), True)])
    def test_frequencies_without_a_vector_are_refused(
        self, frequency: tuple[int, ...], part: bool
    ) -> None:
        with pytest.raises(REFUSED, match="frequency"):
            fourier_basis((8, 8)).place(frequency, part)

    def test_a_map_has_its_mirrors_and_zero_in_the_middle(self) -> None:
        basis = fourier_basis((4, 4))
        energies = basis.frequencies[~basis.imaginary].square().sum(1).float()
        found = basis.map(energies)
        assert found.tolist() == [[8, 5, 4, 5], [5, 2, 1, 2], [4, 1, 0, 1], [5, 2, 1, 2]]
        gaps = basis.map(torch.ones(6), imaginary=True).isnan()
        assert gaps.nonzero().tolist() == [[0, 0], [0, 2], [2, 0], [2, 2]]
        with pytest.raises(InputError, match="3 for 10"):
            basis.map(torch.ones(3))

    @pytest.mark.parametrize("shape", [(), (2, 2, 2), (0, 4)])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match="shape"):
            fourier_basis(shape)


def test_random_bases_are_orthonormal_and_uniform() -> None:
    one, two = random_basis(6, seed=1), random_basis(6, seed=2)
    torch.testing.assert_close(one @ one.T, torch.eye(6))
    assert not torch.allclose(one, two)
    assert torch.equal(one, random_basis(6, seed=1))
    firsts = torch.stack([random_basis(3, seed)[0] for seed in range(2000)])
    assert float(firsts.mean(0).abs().max()) < 0.05  # not so without the signs of QR
    torch.testing.assert_close(firsts.T @ firsts / 2000, torch.eye(3) / 3, atol=0.03, rtol=0)
    with pytest.raises(InputError, match="size: 0"):
        random_basis(0)


class TestSeparable:
    @pytest.mark.parametrize(("half", "distance"), [(False, 0.7), (True, 0.35)])
    def test_it_is_separable_exactly_t1(self, half: bool, distance: float) -> None:
        direction = torch.randn(3, 4, dtype=torch.float64)
        x, y = separable(direction, 5000, epsilon=0.7, sigma=2.0, seed=3, half=half)
        v = (direction / direction.norm()).flatten()
        torch.testing.assert_close(x.flatten(1) @ v, distance * y)
        noise = x.flatten(1) - (distance * y)[:, None] * v
        expected = 4 * (torch.eye(12) - v.outer(v))
        assert float((noise.T @ noise / 5000 - expected).abs().max()) < 0.35
        assert float(noise.square().sum(1).mean()) == pytest.approx(4 * 11, rel=0.03)
        assert abs(float(y.mean())) < 0.05

    def test_a_seed_gives_the_same(self) -> None:
        v = torch.ones(4)
        assert torch.equal(separable(v, 5, seed=1)[0], separable(v, 5, seed=1)[0])
        assert not torch.equal(separable(v, 5, seed=1)[0], separable(v, 5, seed=2)[0])

    @pytest.mark.parametrize(
        ("direction", "options"),
        [(torch.zeros(3), {}), (torch.ones(3), {"n": 0}), (torch.ones(3), {"sigma": -1.0}),
         (torch.ones(3), {"epsilon": 0.0})],
    )  # fmt: skip
    def test_what_has_no_direction_or_samples_is_refused(
        self, direction: torch.Tensor, options: dict
    ) -> None:
        with pytest.raises(InputError):
            separable(direction, **{"n": 3, **options})


class TestCarriers:
    basis = random_basis(64, seed=0)

    def test_the_carrier_of_the_class_and_nothing_else_changes_t42(self) -> None:
        x = torch.randn(30, 3, 8, 8)
        labels = torch.arange(30) % 10
        found = carriers(self.basis, classes=10, first=20, channels=3)
        poisoned = found.poison(x, labels, epsilon=0.05)
        everything = torch.stack(
            [torch.kron(torch.eye(3)[channel], u) for u in self.basis for channel in range(3)]
        )
        before, after = x.flatten(1) @ everything.T, poisoned.flatten(1) @ everything.T
        for row, label in enumerate(labels.tolist()):
            place = 20 * 3 + label // 2
            sign = 2 * (label % 2) - 1
            assert float(after[row, place]) == pytest.approx(0.05 * sign, abs=1e-5)
            others = torch.arange(192) != place
            torch.testing.assert_close(after[row, others], before[row, others])
        torch.testing.assert_close(found.poison(poisoned, labels, 0.05), poisoned)

    def test_isolated_carriers_separate_the_classes(self) -> None:
        digits = data.load("digits", "train", samples=400)
        found = carriers(self.basis, classes=10, first=3)
        poisoned = found.poison(digits.inputs, digits.labels, epsilon=0.05, isolate=True)
        seen = (poisoned.flatten(1) @ found.vectors.T).numpy()
        labels = digits.labels.numpy()
        assert LogisticRegression(C=1e6, max_iter=5000).fit(seen, labels).score(seen, labels) == 1
        assert sorted({tuple(row) for row in (seen / 0.05).round(2).tolist()}) == sorted(
            {
                tuple(float(2 * (label % 2) - 1) * (place == label // 2) for place in range(5))
                for label in range(10)
            }
        )

    def test_two_classes_on_one_direction(self) -> None:
        found = carriers(self.basis, classes=2, first=7)
        assert torch.equal(found.vectors, self.basis[7:8])
        assert found.which.tolist() == [0, 0] and found.signs.tolist() == [-1, 1]

    @pytest.mark.parametrize(
        ("call", "named"),
        [
            (lambda b: carriers(b, 10, first=60), "need 5 .* 60 on, .* are 4"),
            (lambda b: carriers(b, 10, first=63, channels=3), "need 2 vectors"),
            (lambda b: carriers(2 * b, 10), "not orthonormal"),
            (lambda b: carriers(b, 1), "classes"),
            (lambda b: carriers(b, 4).poison(torch.ones(1, 64), torch.tensor([4]), 1.0), "labels"),
            (lambda b: carriers(b, 4).poison(torch.ones(1, 63), torch.tensor([0]), 1.0), "inputs"),
            (lambda b: flipped(torch.ones(1, 64), b[:5]), "basis"),
            (lambda b: flipped(torch.ones(1, 65), b), "inputs"),
        ],
    )  # fmt: skip
    def test_what_cannot_carry_is_refused(self, call: object, named: str) -> None:
        assert callable(call)
        with pytest.raises(REFUSED, match=named):
            call(self.basis)


class TestFlip:
    def test_involution_and_isometry_t43(self) -> None:
        basis = random_basis(64, seed=3)
        x = torch.randn(5, 3, 8, 8)
        found = flipped(x, basis, channels=3)
        torch.testing.assert_close(flipped(found, basis, channels=3), x, atol=1e-5, rtol=1e-5)
        before, after = (one.flatten(1) @ one.flatten(1).T for one in (x, found))
        torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-5)
        coefficients = x[2, 1].flatten() @ basis.T
        torch.testing.assert_close(
            found[2, 1].flatten() @ basis.T, coefficients.flip(0), atol=1e-5, rtol=1e-5
        )


class TestTwoFeatures:
    def test_both_say_the_label_and_each_can_stand_alone(self) -> None:
        generator = torch.Generator().manual_seed(0)
        labels = torch.where(torch.rand(40, generator=generator) > 0.5, 1.0, -1.0)
        images, v = torch.randn(40, 2, 4, 4, generator=generator), torch.randn(4, 4)
        found = two_features((images[:25], labels[:25]), (images[25:], labels[25:]), v, 1.0, 3.0)
        x, y = found.train
        torch.testing.assert_close(x[:, :2], images[:25])
        along = x[:, 2].flatten(1) @ (v / v.norm()).flatten()
        torch.testing.assert_close(along, labels[:25], atol=1e-4, rtol=1e-4)
        assert torch.equal(y, labels[:25])
        (alone, _), (channel, _) = found.images_alone, found.channel_alone
        assert torch.equal(alone[:, :2], images[25:]) and not bool(alone[:, 2].any())
        assert torch.equal(channel[:, 2], found.test[0][:, 2]) and not bool(channel[:, :2].any())

    def test_other_labels_and_shapes_are_refused(self) -> None:
        images, labels = torch.ones(2, 1, 4, 4), torch.tensor([0.0, 1.0])
        with pytest.raises(InputError, match="1 and -1"):
            two_features((images, labels), (images, labels), torch.ones(4, 4))
        with pytest.raises(InputError, match="direction"):
            two_features((images, labels), (images, labels), torch.ones(4, 5))
