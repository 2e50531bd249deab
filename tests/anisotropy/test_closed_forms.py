"""Closed forms against pooling itself, simulations and autograd; what is printed beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from pullback import InputError
from pullback.anisotropy import fourier_basis, separable
from pullback.anisotropy.closed_forms import (
    aliasing,
    average_response,
    convergence_ratio,
    hidden_layer_variance,
    layer_accuracy,
    marchenko_pastur,
    pooled_accuracy,
    pooled_covariance,
    pooled_hessian,
    pooled_mixed,
    rectified_pooled_covariance,
)
from tests.anisotropy.models import PooledLinear


@pytest.fixture(autouse=True)
def double() -> None:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pooling_layer(size: int, length: int, factor: int) -> Tensor:
    """A moving average around a circle, of which every S-th number is kept."""
    rows = torch.zeros(size, size)
    for place in range(size):
        for tap in range(length):
            rows[place, (place - tap) % size] += 1 / length
    return rows[::factor]


class TestPooling:
    @pytest.mark.parametrize(("size", "length", "factor"), [(12, 3, 4), (8, 2, 2), (9, 9, 3)])
    def test_it_is_a_response_and_aliasing_t3(self, size: int, length: int, factor: int) -> None:
        x = torch.randn(size)
        pooled = pooling_layer(size, length, factor) @ x
        spectrum = torch.fft.fft(x, norm="ortho")
        expected = aliasing(size, factor).to(spectrum) @ (average_response(size, length) * spectrum)
        torch.testing.assert_close(torch.fft.fft(pooled, norm="ortho"), expected)

    @pytest.mark.parametrize(
        ("factor", "real", "complex_"),
        [
            (2, (0.9860, 0.8938, 0.7079), (0.9991, 0.9611, 0.7805)),
            (4, (0.8094, 0.6461, 0.5331), (0.8922, 0.7019, 0.5468)),
        ],
    )
    def test_accuracies_of_the_specification_t4(
        self, factor: int, real: tuple[float, ...], complex_: tuple[float, ...]
    ) -> None:
        response = average_response(32, factor)
        for signals, wanted in (("real", real), ("complex", complex_)):
            found = pooled_accuracy(response, factor, 1.0, 1.5, signals)[[3, 5, 9]]
            assert found.tolist() == pytest.approx(wanted, abs=6e-5)

    def test_the_printed_accuracy_is_right_where_it_is_said_to_be(self) -> None:
        for factor, signals in ((2, "real"), (4, "complex")):
            response = average_response(32, factor)
            printed = pooled_accuracy(response, factor, printed=True)
            torch.testing.assert_close(printed, pooled_accuracy(response, factor, signals=signals))
        printed = pooled_accuracy(average_response(24, 3), 3, printed=True)
        for signals in ("real", "complex"):
            exact = pooled_accuracy(average_response(24, 3), 3, signals=signals)
            assert float((printed - exact).abs().max()) > 0.01

    def test_any_layer_agrees_where_aliases_meet_no_mirrors(self) -> None:
        size, factor = 128, 4
        layer = pooling_layer(size, factor, factor)
        accuracies = pooled_accuracy(average_response(size, factor), factor)
        basis = fourier_basis((size,))
        found = {}
        for vector, (place,) in zip(basis.vectors, basis.frequencies.tolist(), strict=True):
            found.setdefault(abs(place), layer_accuracy(layer, vector))
        for place in (3, 10, 20, 40, 60, 64, 0):
            assert found[place] == pytest.approx(float(accuracies[place]), abs=1e-9)
        for place in (16, 48):
            assert found[place] == pytest.approx(0.647272, abs=1e-6)
        for place, exact in ((10, 0.950744), (20, 0.712962), (40, 0.586123), (60, 0.538470)):
            assert found[place] == pytest.approx(exact, abs=1e-6)

    def test_the_best_linear_classifier_of_samples_reaches_it(self) -> None:
        torch.manual_seed(0)
        layer, direction = torch.randn(5, 9), torch.randn(9)
        x, y = separable(direction, 40_000, epsilon=0.8, sigma=1.2, seed=1)
        pooled = (x @ layer.T).numpy()
        fitted = LinearDiscriminantAnalysis().fit(pooled[:20_000], y[:20_000].numpy())
        found = fitted.score(pooled[20_000:], y[20_000:].numpy())
        assert found == pytest.approx(layer_accuracy(layer, direction, 0.8, 1.2), abs=0.01)

    def test_what_no_noise_reaches_is_told_for_sure(self) -> None:
        direction = torch.tensor([1.0, 0.0, 0.0])
        assert layer_accuracy(torch.eye(3), direction) == 1.0
        assert layer_accuracy(torch.eye(3)[1:], direction) == 0.5
        both = torch.tensor([[1.0, 1.0, 0.0]])
        assert layer_accuracy(both, direction, 1.0, 2.0) == pytest.approx(
            0.5 * (1 + math.erf(0.5 / math.sqrt(2)))
        )


class TestHessian:
    response = torch.tensor([1.0, 0.8, -0.5, 0.3, 0.2, 0.7], dtype=torch.float64)

    def test_the_mean_over_weights_and_samples_t5(self) -> None:
        """By the Hessian of one sample, which is a polynomial in everything random."""
        place, epsilon, sigma, theta, phi = 2, 1.3, 0.7, 0.6, 0.9
        torch.manual_seed(0)
        draws = 400_000
        a = aliasing(6, 2)
        t, f = theta * torch.randn(draws, 3), phi * torch.randn(draws, 6)
        y = torch.randint(0, 2, (draws,)) * 2.0 - 1
        x = sigma * torch.randn(draws, 6)
        x[:, place] += epsilon * y
        by_theta = (f * self.response * x) @ a.T
        by_phi = (t @ a) * self.response * x
        off = (t * by_theta).sum(1) - y
        gradient = torch.cat([by_theta, by_phi], 1)
        mean = 2 * gradient.T @ gradient / draws
        crossed = 2 * (off[:, None] * x).mean(0) * self.response * a
        mean[:3, 3:] += crossed
        mean[3:, :3] += crossed.T
        found = pooled_hessian(self.response, 2, place, epsilon, sigma, theta, phi)
        expected = torch.cat(
            [
                torch.cat([found.theta.diag(), found.cross], 1),
                torch.cat([found.cross.T, found.phi.diag()], 1),
            ]
        )
        assert float((mean - expected).abs().max()) < 0.02

    def test_one_sample_by_autograd(self) -> None:
        """The polynomial above is the Hessian of the loss."""
        torch.manual_seed(1)
        model = PooledLinear(self.response, 2)
        x, y, a = torch.randn(6), 1.0, aliasing(6, 2)

        def loss(flat: Tensor) -> Tensor:
            return (y - flat[:3] @ a @ (self.response * flat[3:] * x)) ** 2

        weights = torch.cat([model.theta, model.phi]).detach()
        found = torch.func.hessian(loss)(weights)
        theta, phi = weights[:3], weights[3:]
        gradient = torch.cat([a @ (phi * self.response * x), (a.T @ theta) * self.response * x])
        expected = 2 * gradient.outer(gradient)
        crossed = 2 * (theta @ gradient[:3] - y) * a * (x * self.response)
        expected[:3, 3:] += crossed
        expected[3:, :3] += crossed.T
        torch.testing.assert_close(found, expected)

    def test_what_is_printed_lacks_the_factor(self) -> None:
        exact = pooled_hessian(self.response, 3, 1)
        printed = pooled_hessian(self.response, 3, 1, printed=True)
        torch.testing.assert_close(printed.phi, 3 * exact.phi)
        assert not bool(printed.cross.any()) and bool(exact.cross.any())
        assert float(printed.theta[1] / exact.theta[1]) > 1.1

    def test_the_ratio_says_what_is_learned_fast(self) -> None:
        found = convergence_ratio(self.response, epsilon=2.0, sigma=0.5)
        torch.testing.assert_close(found, 16 * self.response.square())


class TestMoments:
    def test_gradients_and_mixed_derivatives_of_pooling_t6_t9(self) -> None:
        response = torch.tensor([1.0, 0.7, 0.4, 0.9, 0.2, 0.5])
        torch.manual_seed(0)
        draws = 100_000
        theta, phi = 0.8 * torch.randn(draws, 2), 1.3 * torch.randn(draws, 6)
        a = aliasing(6, 3)
        gradients = (theta @ a) * phi * response
        covariance = gradients.T @ gradients / draws
        expected = pooled_covariance(response, 3, 0.8, 1.3).diag()
        assert float((covariance - expected).abs().max()) < 0.02
        squares = (phi * response).square().mean(0) / 3
        squares += ((theta @ a) * response).square().mean(0)
        expected = pooled_mixed(response, 3, 0.8, 1.3)
        assert float((squares - expected).abs().max()) < 0.02
        plain = pooled_covariance(response, 3, printed=True)
        torch.testing.assert_close(plain, response.square())
        printed = pooled_mixed(response, 3, 0.8, 1.3, printed=True)
        torch.testing.assert_close(printed, (0.64 + 1.69 / 3) * response.square())

    def test_one_hidden_layer(self) -> None:
        assert hidden_layer_variance(20, 6, 0.8, 0.6) == pytest.approx(2.304)
        assert hidden_layer_variance(20, 6, 0.8, 0.6, printed=True) == pytest.approx(0.6912)
        torch.manual_seed(0)
        x, draws = torch.randn(6), 50_000
        weights, last = 0.6 * torch.randn(draws, 20, 6), 0.8 * torch.randn(draws, 20)
        active = (weights @ x > 0) * last
        gradients = (active[:, None] @ weights)[:, 0]
        found = gradients.T @ gradients / draws
        assert float((found - 2.304 * torch.eye(6)).abs().max()) < 0.08

    def test_pooling_after_relu(self) -> None:
        torch.manual_seed(0)
        response, x = torch.tensor([1.0, 0.6, 0.8, 0.5]), torch.tensor([0.3, -1.0, 0.0, 2.0])
        draws, a = 200_000, aliasing(4, 2)
        theta, phi = 0.7 * torch.randn(draws, 2), 1.1 * torch.randn(draws, 4)
        # At 0 the slope of a rectified number is that of either side; both are taken.
        slopes = torch.where(x == 0, torch.ones(()), (phi * x > 0).double())
        gradients = (theta @ a) * response * phi * slopes
        found = gradients.T @ gradients / draws
        expected = rectified_pooled_covariance(response, 2, x, 0.7, 1.1)
        assert float((found - expected).abs().max()) < 0.01
        printed = rectified_pooled_covariance(response, 2, x, 0.7, 1.1, printed=True)
        ratio = torch.where(x == 0, 1.0, 1 - 2 / torch.pi)
        torch.testing.assert_close(printed.diagonal(), expected.diagonal() * ratio)
        off = ~torch.eye(len(x), dtype=torch.bool)
        torch.testing.assert_close(printed[off], expected[off])

    def test_the_spread_of_a_sample_covariance(self) -> None:
        low, high = marchenko_pastur(400, 4000)
        rows = np.random.default_rng(0).normal(size=(4000, 400))
        values = np.linalg.eigvalsh(rows.T @ rows / 4000)
        assert values[0] == pytest.approx(low, rel=0.03)
        assert values[-1] == pytest.approx(high, rel=0.03)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: aliasing(5, 2), "factor: 2"),
        (lambda: average_response(4, 5), "length: 5"),
        (lambda: pooled_accuracy(torch.ones(4), 2, signals="odd"), "'odd'"),
        (lambda: pooled_accuracy(torch.ones(4), 2, sigma=0.0), "sigma"),
        (lambda: layer_accuracy(torch.eye(3), torch.ones(3), epsilon=0), "epsilon"),
        (lambda: pooled_hessian(torch.ones(4), 2, 4), "place: 4"),
        (lambda: marchenko_pastur(3, 2), "size, samples: 3, 2"),
    ],
)
def test_what_cannot_be_is_refused(call: object, named: str) -> None:
    assert callable(call)
    with pytest.raises(InputError, match=named):
        call()
