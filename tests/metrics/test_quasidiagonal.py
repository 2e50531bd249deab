"""The quasi-diagonal representation: algebra, and values over the whole grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from tests.cases import CASES, Case, named
from tests.metrics.conformance import (
    BlockConformance,
    check_covariance,
    check_on_the_twin,
    metric_of,
)


class TestAlgebra(BlockConformance):
    representation = "quasidiagonal"
    positive = False
    functions = False

    def test_it_is_positive(self, metric: pb.Metric, dense: Tensor) -> None:
        """Not all of it: of each weight and its bias, the two by two matrix is."""
        corner = dense.diagonal().unsqueeze(1) * dense.diagonal()
        assert bool((dense.square() <= corner + 1e-12 * corner.max()).all())

    def test_samples_have_the_metric_as_covariance(self) -> None:
        """Where there is one: with one weight to each bias."""
        metric = normalisation()
        check_covariance(metric.sample(seed=1, batch=(20_000,)).flat, metric.to_dense())

    def test_a_sample_depends_on_the_seed_alone(self) -> None:
        metric = normalisation()
        assert torch.equal(metric.sample(seed=3).flat, metric.sample(seed=3).flat)
        assert not torch.equal(metric.sample(seed=3).flat, metric.sample(seed=4).flat)

    def test_samples_of_what_is_not_positive_are_refused(self) -> None:
        metric = metric_of("quasidiagonal", named("layer norm"))
        assert float(metric.eigenvalues().min()) < 0
        with pytest.raises(pb.InputError, match="positive"):
            metric.sample()

    def test_samples_of_the_inverse_have_it_as_covariance(self) -> None:
        metric = metric_of("quasidiagonal", named("layer norm"))
        damping = 0.1 - float(metric.eigenvalues().min())
        dense = metric.to_dense()
        samples = metric.sample_inverse(damping, seed=2, batch=(20_000,)).flat
        check_covariance(samples, torch.linalg.inv(self.damped(dense, damping)))

    def test_powers_are_not_arrows(self) -> None:
        with pytest.raises(pb.InputError, match=r"metric\.to\('block'\)"):
            metric_of("quasidiagonal", named("mlp")).power(-1, 0.1)


def normalisation() -> pb.Metric:
    """That of a layer norm alone: two numbers to a unit, so nothing is dropped between them."""
    torch.manual_seed(0)
    module = nn.LayerNorm(5).double()
    return pb.fisher(
        module, torch.randn(30, 5, dtype=torch.float64), representation="quasidiagonal"
    )


@pytest.mark.parametrize("estimator", ["exact", "empirical"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_the_grid(case: Case, estimator: str) -> None:
    check_on_the_twin(case, "quasidiagonal", estimator)
