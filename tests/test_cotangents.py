"""Where cotangents come from: estimators, their draws, and which one is the default."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

import pullback as pb
from pullback.cotangents import ESTIMATORS, EXACT_RANK, Source
from pullback.likelihoods import Likelihood, likelihood_of
from tests.checks import assert_agree
from tests.test_likelihoods import DISTRIBUTIONS, EVERY, OUTPUTS, metric_of


def cotangents_of(source: Source, sizes: list[int]) -> Tensor:
    """The cotangents of the outputs in batches of the given sizes, (k, n, c)."""
    draws = source.open()
    parts = [draws.next(outputs, None) for outputs in OUTPUTS.split(sizes)]
    return torch.cat([part.part(0, len(part)) for part in parts], 1)


class TestDraws:
    @pytest.mark.parametrize("estimator", ["exact", "sketched", "sampled"])
    @pytest.mark.parametrize("name", EVERY)
    def test_they_do_not_depend_on_the_batch_size(self, name: str, estimator: str) -> None:
        source = Source(EVERY[name], estimator, 3, 5)
        assert_agree(cotangents_of(source, [1, 3, 2]), cotangents_of(source, [6]))

    @pytest.mark.parametrize("estimator", ["sketched", "sampled"])
    @pytest.mark.parametrize("name", EVERY)
    def test_every_pass_sees_the_same(self, name: str, estimator: str) -> None:
        source = Source(EVERY[name], estimator, 3, 5)
        assert torch.equal(cotangents_of(source, [6]), cotangents_of(source, [6]))

    @pytest.mark.parametrize("estimator", ["sketched", "sampled"])
    @pytest.mark.parametrize("name", EVERY)
    def test_another_seed_gives_others(self, name: str, estimator: str) -> None:
        one, other = (cotangents_of(Source(EVERY[name], estimator, 9, s), [6]) for s in (1, 2))
        assert not torch.equal(one, other)

    @pytest.mark.parametrize("estimator", ["sketched", "sampled"])
    @pytest.mark.parametrize("name", EVERY)
    def test_the_global_random_state_is_left_alone(self, name: str, estimator: str) -> None:
        before = torch.get_rng_state()
        cotangents_of(Source(EVERY[name], estimator, 3), [6])
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("name", EVERY)
    def test_the_global_random_state_plays_no_part(self, name: str) -> None:
        source = Source(EVERY[name], "sampled", 3)
        one = cotangents_of(source, [6])
        torch.manual_seed(7)
        assert torch.equal(cotangents_of(source, [6]), one)

    def test_the_state_is_put_back_after_an_error(self) -> None:
        before = torch.get_rng_state()

        def fails(out: Tensor) -> Normal:
            if len(out) == 1:
                raise RuntimeError
            return DISTRIBUTIONS["student"](out)

        with pytest.raises(RuntimeError):
            cotangents_of(Source(likelihood_of(fails), "sampled"), [6])
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("estimator", ["sketched", "sampled"])
    @pytest.mark.parametrize("name", ["poisson", "student", "two tokens", "normal"])
    def test_a_metric_does_not_depend_on_the_batch_size(self, name: str, estimator: str) -> None:
        model, x = nn.Linear(3, 4).double(), torch.randn(8, 3, dtype=torch.float64)
        whole, parts, little = (
            pb.fisher(model, data, DISTRIBUTIONS[name], "dense", estimator, 2, 5, memory=memory)
            for data, memory in ((x, None), (x.split(3), None), (x, 1))
        )
        assert_agree(parts.to_dense(), whole.to_dense())
        assert_agree(little.to_dense(), whole.to_dense())


class TestSketch:
    draws = 3000

    @pytest.mark.parametrize("name", EVERY)
    def test_its_mean_is_the_metric_within_four_standard_errors(self, name: str) -> None:
        """The standard errors are those that the docstring of `Source` states."""
        likelihood, outputs = EVERY[name], OUTPUTS[:2]
        root = likelihood.root(outputs, 0, likelihood.columns(outputs))
        metric = metric_of(likelihood, outputs)
        diagonal = metric.diagonal(dim1=1, dim2=2)
        variance = diagonal[:, :, None] * diagonal[:, None, :] + metric.square()
        variance = variance - 2 * torch.einsum("kni,knj->nij", root**2, root**2)
        drawn = Source(likelihood, "sketched", self.draws).open().next(outputs, None)
        u = drawn.part(0, self.draws)
        error = torch.einsum("tni,tnj->nij", u, u) - metric
        stderr = (variance.clamp(min=0) / self.draws).sqrt()
        assert bool((error.abs() <= 4 * stderr + 1e-10).all())

    def test_one_vector_of_signs_gives_a_diagonal_metric_its_exact_diagonal(self) -> None:
        u = Source(likelihood_of("bernoulli"), "sketched").open().next(OUTPUTS, None).part(0, 1)
        assert_agree(u[0].square(), likelihood_of("bernoulli").variances(OUTPUTS))

    @pytest.mark.parametrize(
        "likelihood",
        [
            likelihood_of("categorical"),
            pb.likelihoods.Categorical(positions=100),
            likelihood_of("gaussian"),
            likelihood_of(lambda out: Independent(Normal(out[:, ::2], out[:, 1::2].exp()), 1)),
        ],
        ids=["categorical", "positions", "gaussian", "normals with learned scales"],
    )
    def test_two_hundred_thousand_outputs_are_no_trouble(self, likelihood: Likelihood) -> None:
        """A root of M written out would take 320 GB for each sample."""
        outputs = torch.randn(2, 200_000, dtype=torch.float64)
        u = Source(likelihood, "sketched", 2).open().next(outputs, None)
        assert u.part(0, 2).shape == (2, 2, 200_000)
        expected = likelihood.apply(outputs, torch.ones_like(outputs))
        assert bool(u.apply(torch.ones_like(outputs)).isfinite().all() & expected.isfinite().all())

    def test_its_trace_is_close_to_the_exact_one(self) -> None:
        model, x = nn.Linear(3, 300).double(), torch.randn(50, 3, dtype=torch.float64)
        sketched = pb.fisher(model, x, representation="diagonal", samples=4).trace()
        exact = pb.fisher(model, x, representation="diagonal", estimator="exact").trace()
        assert sketched == pytest.approx(exact, rel=0.05)


class TestDefault:
    """Exact where that is affordable, sketched elsewhere: never a pass for each of many outputs."""

    def metric(self, outputs: int, likelihood: str = "gaussian", **options: object) -> pb.Metric:
        return pb.fisher(nn.Linear(2, outputs), torch.ones(3, 2), likelihood, "diagonal", **options)

    @pytest.mark.parametrize(
        ("likelihood", "outputs"), [("gaussian", EXACT_RANK), ("categorical", EXACT_RANK + 1)]
    )
    def test_it_is_exact_up_to_the_rank_that_is_stated(self, likelihood: str, outputs: int) -> None:
        assert self.metric(outputs, likelihood).origin.estimator == "exact"
        assert self.metric(outputs + 1, likelihood).origin.estimator == "sketched"

    def test_the_implicit_metric_is_exact_since_its_products_cost_the_same(self) -> None:
        model, x = nn.Linear(2, EXACT_RANK + 1), torch.ones(3, 2)
        metric = pb.fisher(model, x, "gaussian", "implicit")
        assert metric.origin.estimator == "exact"

    def test_an_estimator_that_is_asked_for_is_taken(self) -> None:
        metric = self.metric(EXACT_RANK + 1, estimator="exact")
        assert metric.origin.estimator == "exact"
        assert metric.trace() == pytest.approx(3 * (EXACT_RANK + 1))

    @pytest.mark.parametrize("samples", [1, 3])
    def test_a_sketch_takes_as_many_cotangents_as_samples(self, samples: int) -> None:
        source = Source(likelihood_of("categorical"), samples=samples).affordable(100_000)
        assert source.count(100_000) == samples

    def test_the_fisher_docstring_states_the_rank(self) -> None:
        assert f"rank {EXACT_RANK}" in str(pb.fisher.__doc__)


class TestSource:
    @pytest.mark.parametrize("estimator", ["mc", "", "Exact"])
    def test_an_unknown_estimator_is_refused_with_the_known_ones(self, estimator: str) -> None:
        with pytest.raises(
            pb.InputError, match=f"estimator: '{estimator}'.*{'.*'.join(ESTIMATORS)}"
        ):
            pb.fisher(nn.Linear(2, 2), torch.ones(3, 2), estimator=estimator)

    @pytest.mark.parametrize("estimator", ["sketched", "sampled"])
    def test_less_than_one_sample_is_refused(self, estimator: str) -> None:
        with pytest.raises(pb.InputError, match="samples"):
            Source(likelihood_of("gaussian"), estimator, 0)

    def test_a_class_is_drawn_with_one_number(self) -> None:
        """The next sample's draw does not depend on how many classes there are."""
        few = Source(likelihood_of("categorical"), "sampled", 1).open()
        many = Source(likelihood_of("categorical"), "sampled", 1).open()
        few.next(torch.zeros(4, 2), None)
        many.next(torch.zeros(4, 50), None)
        assert torch.equal(few.generator.get_state(), many.generator.get_state())
