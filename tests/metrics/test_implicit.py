"""The implicit representation against the slow twin, over the whole grid."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pullback as pb
from pullback import autodiff
from pullback.batches import Batch
from pullback.metrics import implicit
from tests.cases import CASES, WITH_TARGETS, Case
from tests.checks import assert_agree
from tests.entries import measured
from tests.metrics.conformance import MetricConformance, metric_of


class TestAlgebra(MetricConformance):
    representation = "implicit"
    draws = 100
    residual = 1e-6  # what conjugate gradients are documented to stop at


@pytest.mark.parametrize("case", CASES, ids=str)
class TestOnTheGrid:
    def test_products(self, case: Case) -> None:
        metric = metric_of("implicit", case)
        v = metric.space.randn(seed=1)
        assert_agree((metric @ v).flat, case.fisher(case.likelihood) @ v.flat)

    def test_products_with_several_vectors_are_those_with_each(self, case: Case) -> None:
        metric = metric_of("implicit", case)
        v = metric.space.randn(seed=2, batch=(2, 2))
        each = [(metric @ metric.space.vector(one)).flat for one in v.flat.flatten(0, 1)]
        assert_agree((metric @ v).flat, torch.stack(each).view_as(v.flat))

    def test_trace(self, case: Case) -> None:
        expected = case.fisher(case.likelihood).trace()
        assert_agree(metric_of("implicit", case).trace(), expected)


@pytest.mark.parametrize("case", [case for case in CASES if case.c > 1][2::5], ids=str)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "euclidean"])
def test_products_for_other_likelihoods(case: Case, likelihood: str) -> None:
    metric = measured(case, "implicit", likelihood)
    v = metric.space.randn(seed=1)
    assert_agree((metric @ v).flat, case.fisher(likelihood) @ v.flat)


@pytest.mark.parametrize("case", [case for case in CASES if case.c > 1][4::5], ids=str)
@pytest.mark.parametrize("likelihood", WITH_TARGETS)
def test_empirical_products(case: Case, likelihood: str) -> None:
    metric = measured(case, "implicit", likelihood, "empirical")
    v = metric.space.randn(seed=1)
    assert_agree((metric @ v).flat, case.empirical_fisher(likelihood) @ v.flat)


class TestSize:
    """A model whose matrix of 10^10 numbers cannot be stored."""

    model = nn.Sequential(nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, 10))
    x = torch.randn(4, 300, generator=torch.Generator().manual_seed(0))
    metric = pb.fisher(model, x, representation="implicit")

    def test_products_and_trace_agree_with_each_other(self) -> None:
        """The trace is the mean of v F v over a basis; along J^T's rows it is enough."""
        ekfac = pb.fisher(self.model, self.x, representation="ekfac")
        assert_agree(self.metric.trace(), ekfac.trace(), 1e-5)

    def test_a_product_has_the_size_of_the_space(self) -> None:
        assert (self.metric @ self.metric.space.randn()).flat.shape == (93_310,)

    def test_a_solve_finds_the_solution(self) -> None:
        v = self.metric.space.randn(seed=2)
        x = self.metric.solve(v, damping=1.0)
        assert float((self.metric @ x + x - v).norm() / v.norm()) < 1e-5

    def test_the_dense_matrix_says_how_much_it_needs(self) -> None:
        huge = nn.Linear(3000, 1000)
        metric = pb.fisher(huge, torch.randn(2, 3000), representation="implicit")
        with pytest.raises(pb.InputError, match="GB"):
            metric.to_dense()


@pytest.mark.parametrize("name", ["mlp", "weight norm", "embedding bag"])
def test_several_vectors_share_passes_where_the_module_allows_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = []
    original = autodiff._add_together_

    def spy(*given: object) -> bool:
        together.append(original(*given))  # type: ignore[arg-type]
        return together[-1]

    monkeypatch.setattr(autodiff, "_add_together_", spy)
    metric = metric_of("implicit", next(case for case in CASES if case.name == name))
    _ = metric @ metric.space.randn(batch=(5,))
    assert together == [name == "mlp"]


def test_memory_limits_how_many_vectors_share_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    original = autodiff._changes

    def spy(network: pb.Network, vectors: torch.Tensor, batch: Batch) -> torch.Tensor:
        counts.append(len(vectors))
        return original(network, vectors, batch)

    monkeypatch.setattr(autodiff, "_changes", spy)
    model = nn.Linear(20, 3)
    each = 4 * (63 + 10 * (20 + 3))  # numbers of a vector, and of inputs and outputs
    metric = pb.fisher(model, torch.randn(10, 20), representation="implicit", memory=7 * each)
    _ = metric @ metric.space.randn(batch=(16,))
    assert sum(counts) == 16 and max(counts) < 16
    monkeypatch.setattr(implicit, "NEAR", 0)
    counts.clear()
    _ = metric @ metric.space.randn(batch=(16,))
    assert counts == []


def test_products_inside_a_function_of_autograd() -> None:
    """There torch turns tangents off, and a product was zero."""

    class Times(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, flat: torch.Tensor) -> torch.Tensor:
            return (metric @ metric.space.vector(flat)).flat

    metric = metric_of("implicit", CASES[0])
    v = metric.space.randn(seed=1)
    assert_agree(Times.apply(v.flat), (metric @ v).flat)


class TestIterations:
    def test_a_damping_too_small_to_converge_is_refused(self) -> None:
        case = next(case for case in CASES if case.name == "mlp")
        metric = measured(case, "implicit")
        metric.iterations = 2
        with pytest.raises(pb.InputError, match=r"damping.*conjugate gradients"):
            metric.solve(metric.space.randn(), damping=1e-9)


class TestEstimates:
    """What random vectors estimate, with its error."""

    @pytest.mark.parametrize("case", CASES[::25], ids=str)
    def test_the_norm_is_within_four_standard_errors(self, case: Case) -> None:
        found = metric_of("implicit", case).norm(samples=60, seed=1)
        expected = float(case.fisher(case.likelihood).norm())
        assert abs(found.value - expected) <= 4 * found.stderr + 1e-12
        assert found.samples == 60

    @pytest.mark.parametrize("case", CASES[::25], ids=str)
    def test_the_determinant_is_within_four_standard_errors(self, case: Case) -> None:
        dense = case.fisher(case.likelihood)
        found = metric_of("implicit", case).logdet(damping=0.1, samples=40, seed=2)
        eye = torch.eye(len(dense), dtype=dense.dtype)
        expected = float(torch.logdet(dense + 0.1 * eye))
        assert abs(found.value - expected) <= 4 * found.stderr + 1e-8

    def test_more_vectors_give_smaller_errors(self) -> None:
        metric = metric_of("implicit", CASES[0])
        few, many = (metric.norm(samples=n).stderr for n in (10, 160))
        assert many < few / 2

    def test_the_spectral_density_has_the_moments_of_the_spectrum(self) -> None:
        dense = CASES[0].fisher(CASES[0].likelihood)
        nodes, weights = metric_of("implicit", CASES[0]).spectral_density(samples=60)
        assert_agree(weights.sum(1), torch.ones(60, dtype=weights.dtype))
        for power in (1, 2):
            draws = (weights * nodes**power).sum(1)
            expected = torch.linalg.eigvalsh(dense).pow(power).mean()
            error = draws.std() / 60**0.5
            assert abs(float(draws.mean() - expected)) <= 4 * float(error)

    @pytest.mark.parametrize("quantity", ["norm", "logdet", "spectral_density"])
    def test_one_vector_has_no_error(self, quantity: str) -> None:
        with pytest.raises(pb.InputError, match="samples"):
            getattr(metric_of("implicit", CASES[0]), quantity)(samples=1)

    def test_another_representation_by_another_pass(self) -> None:
        metric = metric_of("implicit", CASES[0])
        expected = measured(CASES[0], "ekfac")
        assert_agree(metric.to("ekfac").to_dense(), expected.to_dense())
