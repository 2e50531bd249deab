"""The implicit representation against the slow twin, over the whole grid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from pullback import autodiff
from pullback.batches import Batch
from pullback.metrics import implicit
from tests.cases import CASES, WITH_TARGETS, Case, named
from tests.checks import EXACT, assert_agree
from tests.entries import measured
from tests.metrics.conformance import Answers, MetricConformance, metric_of


class TestAlgebra(MetricConformance):
    representation = "implicit"
    draws = 100
    residual = 1e-6  # what conjugate gradients are documented to stop at
    solved_with = 10.0  # few products are enough

    def check_operations(self, answers: Answers, metric: pb.Metric, dense: Tensor) -> None:
        """Solves are as good as they are asked to be: here to rounding, like all others."""
        metric.tolerance = EXACT / 10
        super().check_operations(answers, metric, dense)

    def check_spectrum(self, answers: Answers, metric: pb.Metric, dense: Tensor) -> None:
        """Lanczos sees products alone, which were compared: small spaces, of few products, do."""
        if metric.space.size <= 40:
            super().check_spectrum(answers, metric, dense)

    def check_algebra(
        self, answers: Answers, metric: pb.Metric, dense: Tensor, folder: Path
    ) -> None:
        """Sums and multiples are products put together; what has entries of its own is refused."""
        v = metric.space.randn(seed=3)
        other = metric.to("diagonal")
        for name, found, expected in (
            ("multiple", 2.5 * metric, 2.5 * dense),
            ("quotient", metric / -4, -dense / 4),
            ("sum", metric + 2.0 * metric, 3 * dense),
            ("difference", metric - 0.5 * metric, dense / 2),
            ("sum with another kind", metric + other, dense + other.to_dense()),
            ("difference from another kind", other - metric, other.to_dense() - dense),
        ):
            answers.compare(name, (found @ v).flat, expected @ v.flat)
        answers.compare("trace", float(found.trace()), expected.trace())
        answers.compare("diagonal", found.diagonal().flat, expected.diagonal())
        answers.compare("dense difference", found.to_dense(), expected)
        for name, refused in (
            ("power", lambda: metric.power(0.5)),
            ("inverse", lambda: metric.inverse()),
            ("file", lambda: metric.save(folder / "metric.safetensors")),
            ("block", lambda: metric["0"]),
        ):
            with pytest.raises(pb.InputError, match=r"no entries.*metric\.to\("):
                refused()
            assert not list(folder.iterdir()), name


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

    def test_a_matrix_that_is_not_positive_has_no_root_and_no_determinant(self) -> None:
        negative = -1.0 * metric_of("implicit", CASES[0])
        with pytest.raises(pb.InputError, match="positive"):
            negative.sample()
        with pytest.raises(pb.InputError, match="damping"):
            negative.logdet(damping=1e-3)

    def test_another_representation_by_another_pass(self) -> None:
        metric = metric_of("implicit", CASES[0])
        expected = measured(CASES[0], "ekfac")
        assert_agree(metric.to("ekfac").to_dense(), expected.to_dense())


def exact_and_drawn(case: Case, estimator: str, samples: int, seed: int) -> list[float]:
    """Deviations of trace and quadratic form from the exact ones, in standard errors."""
    dense = case.fisher(case.likelihood)
    metric = measured(case, "implicit", estimator=estimator, samples=samples, seed=seed)
    v = metric.space.randn(seed=1)
    found = metric.trace(), metric.quadratic(v)
    expected = dense.trace(), v.flat @ dense @ v.flat
    return [(f.value - float(e)) / f.stderr for f, e in zip(found, expected, strict=True)]


class TestErrorsOfDraws:
    """Where cotangents are drawn at random, numbers carry the standard error of the draws."""

    case = named("mlp")

    @pytest.mark.parametrize("estimator", ["sketched", "sampled"])
    def test_200_seeds_cover_the_exact_value_as_often_as_they_should(self, estimator: str) -> None:
        """Two standard errors hold 95 % of a normal distribution: 190 of 200, within 3.2."""
        deviations = [exact_and_drawn(self.case, estimator, 16, seed) for seed in range(200)]
        covered = (torch.tensor(deviations).abs() <= 2).sum(0)
        assert bool(((covered >= 178) & (covered <= 199)).all())
        spread = torch.tensor(deviations).square().mean(0).sqrt()
        assert bool(((spread > 0.8) & (spread < 1.25)).all())

    @pytest.mark.parametrize("estimator", ["sketched", "sampled"])
    def test_16_times_the_draws_have_a_quarter_of_the_error(self, estimator: str) -> None:
        few, many = (
            measured(self.case, "implicit", estimator=estimator, samples=t) for t in (32, 512)
        )
        v = few.space.randn(seed=1)
        for one, other in (
            (few.trace(), many.trace()),
            (few.quadratic(v), many.quadratic(v)),
        ):
            assert 3 < one.stderr / other.stderr < 5
            assert (one.samples, other.samples) == (32 * self.case.n, 512 * self.case.n)

    @pytest.mark.parametrize("representation", ["dense", "diagonal", "ekfac"])
    def test_they_are_the_errors_of_what_is_stored_from_the_same_draws(
        self, representation: str
    ) -> None:
        options = {"estimator": "sampled", "samples": 4, "seed": 7}
        implicit = measured(self.case, "implicit", **options)
        stored = measured(self.case, representation, **options)
        assert_agree(implicit.trace().value, stored.trace())

    def test_one_draw_for_each_sample_has_an_upper_bound(self) -> None:
        bounds = [
            measured(self.case, "implicit", estimator="sampled", seed=s).trace() for s in range(50)
        ]
        values = torch.tensor([bound.value for bound in bounds])
        mean = sum(bound.stderr**2 for bound in bounds) / len(bounds)
        assert mean > float(values.var())
        alone = measured(named("one sample"), "implicit", estimator="sampled").trace()
        assert alone.stderr == float("inf")

    def test_batches_and_memory_do_not_change_them(self) -> None:
        options = {"estimator": "sampled", "samples": 3, "representation": "implicit"}
        x, module = self.case.inputs, self.case.module
        whole, parts, little = (
            pb.fisher(module, data, memory=memory, **options)
            for data, memory in ((x, None), (x.split(2), None), (x, 1))
        )
        v = whole.space.randn(seed=1)
        for other in (parts, little):
            for found, expected in (
                (other.trace(), whole.trace()),
                (other.quadratic(v), whole.quadratic(v)),
            ):
                assert_agree(found.value, expected.value)
                assert_agree(found.stderr, expected.stderr)

    def test_the_exact_metric_has_plain_numbers(self) -> None:
        metric = metric_of("implicit", self.case)
        assert isinstance(metric.trace(), float)
        assert isinstance(metric.quadratic(metric.space.randn(seed=1)), float)

    def test_a_batch_of_vectors_has_no_one_quadratic_form(self) -> None:
        for representation in ("implicit", "diagonal"):
            metric = measured(self.case, representation, estimator="sampled")
            with pytest.raises(pb.InputError, match=r"vector.*batch"):
                metric.quadratic(metric.space.randn(seed=1, batch=(2,)))

    def test_those_of_a_sum_of_equal_draws_add_up(self) -> None:
        metric = measured(self.case, "implicit", estimator="sampled", samples=3)
        assert_agree((metric - 3.0 * metric).trace().stderr, 4 * metric.trace().stderr)

    def test_a_hundred_thousand_outputs_are_read_from_a_few_draws(self) -> None:
        """A head that is fixed leaves 12 parameters, so that the exact matrix is at hand."""
        torch.manual_seed(0)
        outputs = 100_000
        head = torch.randn(outputs, 4, dtype=torch.float64)
        layer = nn.Linear(2, 4).double()
        network = pb.Network(layer, outputs=lambda hidden: hidden @ head.T)
        x = torch.randn(10, 2, dtype=torch.float64)
        p = (layer(x).detach() @ head.T).softmax(1)
        mean = p @ head
        inner = torch.einsum("nc,ci,cj->nij", p, head, head) - torch.einsum(
            "ni,nj->nij", mean, mean
        )
        ones = torch.cat([x, torch.ones(10, 1, dtype=x.dtype)], 1)
        exact = float((inner.diagonal(dim1=1, dim2=2).sum(1) * ones.square().sum(1)).mean())
        metric = pb.fisher(network, x, "categorical", "implicit", "sketched", samples=8)
        found = metric.trace()
        assert abs(found.value - exact) <= 4 * found.stderr < 2 * exact
        assert found.samples == 80


def test_a_batch_without_influence_does_not_shift_the_draws_of_the_next() -> None:
    class Gated(nn.Module):
        """Constant on samples that begin with a negative number."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            out = self.layer(x).mean(1)
            return out.detach() if bool((x[:, 0, 0] < 0).all()) else out

    torch.manual_seed(0)
    lengths = (2, 3, 4)  # so that the batches are not joined
    data = [torch.rand(4, t, 2, dtype=torch.float64) + 0.1 for t in lengths]
    data[1] = -data[1]
    metric = pb.fisher(Gated().double(), data, representation="implicit", estimator="sampled")
    v = metric.space.randn(seed=1, batch=(3,))
    together = (metric @ v).flat
    for row, found in zip(v.flat, together, strict=True):
        assert_agree(found, (metric @ metric.space.vector(row)).flat)
