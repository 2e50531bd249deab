"""Output metrics and losses, against closed forms, distributions and the twin."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

import pullback as pb
from pullback.cotangents import Source
from pullback.likelihoods import Likelihood, likelihood_of
from tests import reference
from tests.cases import LIKELIHOODS, WITH_TARGETS, named
from tests.checks import EXACT, assert_agree

OUTPUTS = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TARGETS = {
    "categorical": torch.tensor([0, 3, 1, 2, 2, 0]),
    "bernoulli": (OUTPUTS.flip(0) > 0).double(),
    "gaussian": OUTPUTS.flip(0) + 0.5,
}


def metric_of(likelihood: Likelihood, outputs: Tensor) -> Tensor:
    """The sum of u u^T over the exact cotangents."""
    rank = likelihood.rank(outputs.shape[1])
    root = likelihood.root(outputs, 0, rank)
    return torch.einsum("kni,knj->nij", root, root)


class TestLoss:
    @pytest.mark.parametrize("name", WITH_TARGETS)
    def test_it_is_the_mean_negative_log_likelihood(self, name: str) -> None:
        expected = reference.negative_log_likelihood(name, OUTPUTS, TARGETS[name])
        assert_agree(likelihood_of(name).loss(OUTPUTS, TARGETS[name]), expected)

    def test_categorical_agrees_with_torch_distributions(self) -> None:
        expected = -Categorical(logits=OUTPUTS).log_prob(TARGETS["categorical"]).mean()
        assert_agree(pb.likelihoods.Categorical().loss(OUTPUTS, TARGETS["categorical"]), expected)

    def test_bernoulli_agrees_with_torch_distributions(self) -> None:
        expected = -Bernoulli(logits=OUTPUTS).log_prob(TARGETS["bernoulli"]).sum(1).mean()
        assert_agree(pb.likelihoods.Bernoulli().loss(OUTPUTS, TARGETS["bernoulli"]), expected)

    def test_gaussian_agrees_with_torch_distributions(self) -> None:
        expected = -Normal(OUTPUTS, 0.5).log_prob(TARGETS["gaussian"]).sum(1).mean()
        actual = pb.likelihoods.Gaussian(variance=0.25).loss(OUTPUTS, TARGETS["gaussian"])
        assert_agree(actual, expected)

    @pytest.mark.parametrize("name", WITH_TARGETS)
    def test_it_can_be_differentiated(self, name: str) -> None:
        outputs = OUTPUTS.clone().requires_grad_()
        loss = likelihood_of(name).loss(outputs, TARGETS[name])
        (gradient,) = torch.autograd.grad(loss, outputs)
        assert_agree(-gradient * len(outputs), reference.score(name, OUTPUTS, TARGETS[name]))

    def test_euclidean_has_none(self) -> None:
        with pytest.raises(pb.InputError, match="likelihood"):
            pb.likelihoods.Euclidean().loss(OUTPUTS, OUTPUTS)


class TestMetric:
    @pytest.mark.parametrize("name", LIKELIHOODS)
    def test_cotangents_realise_it(self, name: str) -> None:
        expected = reference.output_metric(name, OUTPUTS)
        assert_agree(metric_of(likelihood_of(name), OUTPUTS), expected)

    @pytest.mark.parametrize("name", LIKELIHOODS)
    def test_parts_of_the_cotangents_make_up_the_whole(self, name: str) -> None:
        likelihood = likelihood_of(name)
        parts = [likelihood.root(OUTPUTS, k, k + 1) for k in range(likelihood.rank(4))]
        assert_agree(torch.cat(parts), likelihood.root(OUTPUTS, 0, likelihood.rank(4)))

    @pytest.mark.parametrize("name", LIKELIHOODS)
    def test_apply_is_the_product_with_it(self, name: str) -> None:
        vectors = OUTPUTS.flip(1)
        expected = torch.einsum("nij,nj->ni", reference.output_metric(name, OUTPUTS), vectors)
        assert_agree(likelihood_of(name).apply(OUTPUTS, vectors), expected)

    def test_the_variance_divides_the_gaussian_one(self) -> None:
        expected = reference.output_metric("gaussian", OUTPUTS, variance=4.0)
        assert_agree(metric_of(pb.likelihoods.Gaussian(variance=4.0), OUTPUTS), expected)

    def test_the_categorical_one_has_rank_c_minus_1(self) -> None:
        assert pb.likelihoods.Categorical().rank(4) == 3

    @pytest.mark.parametrize("size", [1e2, 1e3, 1e6])
    @pytest.mark.parametrize("name", ["categorical", "bernoulli"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_certain_predictions_stay_finite(
        self, name: str, size: float, dtype: torch.dtype
    ) -> None:
        outputs = (size * OUTPUTS).to(dtype)
        assert bool(metric_of(likelihood_of(name), outputs).isfinite().all())

    @given(st.lists(st.floats(-800, 800), min_size=2, max_size=6))
    @settings(deadline=None)
    def test_the_categorical_root_squares_to_the_covariance(self, logits: list[float]) -> None:
        outputs = torch.tensor([logits], dtype=torch.float64)
        expected = reference.output_metric("categorical", outputs)
        actual = metric_of(pb.likelihoods.Categorical(), outputs)
        assert float((actual - expected).abs().max()) < EXACT

    @given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.floats(-20, 20))
    @settings(deadline=None)
    def test_the_categorical_one_ignores_a_shift_of_all_logits(
        self, logits: list[float], shift: float
    ) -> None:
        outputs = torch.tensor([logits], dtype=torch.float64)
        categorical = pb.likelihoods.Categorical()
        one, other = metric_of(categorical, outputs), metric_of(categorical, outputs + shift)
        assert float((one - other).abs().max()) < EXACT


class TestDraws:
    """Labels drawn from the model: right in distribution, seeded, independent of batches."""

    draws = 40_000

    def scores(self, name: str, outputs: Tensor, samples: int, seed: int = 0) -> Tensor:
        """Scores of drawn labels, (t, n, c), not divided by the number of draws."""
        source = Source(likelihood_of(name), "sampled", samples, seed)
        return source.open().next(outputs, None).part(0, samples) * samples**0.5

    @pytest.mark.parametrize("name", LIKELIHOODS)
    def test_their_second_moment_is_the_metric_within_four_standard_errors(self, name: str) -> None:
        scores = self.scores(name, OUTPUTS[:3], self.draws)
        products = scores[..., :, None] * scores[..., None, :]
        error = products.mean(0) - reference.output_metric(name, OUTPUTS[:3])
        stderr = products.std(0) / self.draws**0.5
        assert bool((error.abs() <= 4 * stderr + 1e-12).all())

    @pytest.mark.parametrize("name", LIKELIHOODS)
    def test_their_mean_is_zero_within_four_standard_errors(self, name: str) -> None:
        scores = self.scores(name, OUTPUTS[:3], self.draws)
        stderr = scores.std(0) / self.draws**0.5
        assert bool((scores.mean(0).abs() <= 4 * stderr).all())

    @pytest.mark.parametrize("name", LIKELIHOODS)
    def test_samples_are_independent_of_each_other(self, name: str) -> None:
        scores = self.scores(name, OUTPUTS[:1].expand(2, -1), self.draws)[..., 0]
        product = (scores[:, 0] * scores[:, 1]).mean()
        stderr = (scores[:, 0] * scores[:, 1]).std() / self.draws**0.5
        assert abs(float(product)) <= 4 * float(stderr)

    @pytest.mark.parametrize("name", LIKELIHOODS)
    def test_the_same_seed_gives_the_same_labels(self, name: str) -> None:
        one, other = self.scores(name, OUTPUTS, 5, 3), self.scores(name, OUTPUTS, 5, 3)
        assert torch.equal(one, other)

    @pytest.mark.parametrize("name", LIKELIHOODS)
    def test_another_seed_gives_other_labels(self, name: str) -> None:
        one, other = self.scores(name, OUTPUTS, 5, 3), self.scores(name, OUTPUTS, 5, 4)
        assert not torch.equal(one, other)

    def test_a_variance_scales_the_gaussian_scores(self) -> None:
        source = Source(pb.likelihoods.Gaussian(variance=4.0), "sampled", self.draws)
        scores = source.open().next(OUTPUTS[:1], None).part(0, self.draws)
        second_moment = scores.square().sum(0)[0]
        assert bool(((second_moment - 0.25).abs() < 4 * 0.25 * (2 / self.draws) ** 0.5).all())


class TestBadTargets:
    mlp = named("mlp")

    def empirical(self, targets: Tensor, likelihood: str) -> None:
        pb.fisher(
            self.mlp.module,
            (self.mlp.inputs, targets),
            likelihood=likelihood,
            estimator="empirical",
        )

    @pytest.mark.parametrize("label", [-1, 3, -100])
    def test_labels_out_of_range(self, label: int) -> None:
        targets = torch.tensor([0, 1, 2, 0, 1, 2, label])
        with pytest.raises(pb.InputError, match=r"targets.*range"):
            self.empirical(targets, "categorical")

    def test_class_labels_that_are_no_integers(self) -> None:
        with pytest.raises(pb.InputError, match=r"targets.*integers"):
            self.empirical(torch.zeros(7), "categorical")

    def test_one_hot_labels(self) -> None:
        with pytest.raises(pb.InputError, match="targets"):
            self.empirical(torch.zeros(7, 3, dtype=torch.long), "categorical")

    def test_labels_in_a_column(self) -> None:
        with pytest.raises(pb.InputError, match="targets"):
            self.empirical(torch.zeros(7, 1, dtype=torch.long), "categorical")

    @pytest.mark.parametrize("value", [-0.1, 1.1])
    def test_yes_no_labels_out_of_range(self, value: float) -> None:
        with pytest.raises(pb.InputError, match=r"targets.*range"):
            self.empirical(torch.full((7, 3), value).double(), "bernoulli")

    @pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
    def test_values_of_another_shape(self, likelihood: str) -> None:
        with pytest.raises(pb.InputError, match=r"targets.*shape"):
            self.empirical(torch.zeros(7, 2).double(), likelihood)

    @pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
    def test_flat_values_for_several_outputs(self, likelihood: str) -> None:
        with pytest.raises(pb.InputError, match=r"targets.*shape"):
            self.empirical(torch.zeros(7).double(), likelihood)

    @pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
    def test_values_that_are_not_finite(self, likelihood: str) -> None:
        with pytest.raises(pb.InputError, match="targets"):
            self.empirical(torch.full((7, 3), float("nan")).double(), likelihood)

    def test_euclidean_has_no_empirical_version(self) -> None:
        with pytest.raises(pb.InputError, match="estimator"):
            self.empirical(torch.zeros(7, 3).double(), "euclidean")


class TestBadChoices:
    mlp = named("mlp")

    def test_an_unknown_likelihood_lists_the_known_ones(self) -> None:
        with pytest.raises(pb.InputError, match=r"likelihood.*softmax.*categorical"):
            pb.fisher(self.mlp.module, self.mlp.inputs, likelihood="softmax")

    def test_an_unknown_estimator_lists_the_known_ones(self) -> None:
        with pytest.raises(pb.InputError, match=r"estimator.*mc.*sampled"):
            pb.fisher(self.mlp.module, self.mlp.inputs, estimator="mc")

    @pytest.mark.parametrize("samples", [0, -1])
    def test_fewer_than_one_draw(self, samples: int) -> None:
        with pytest.raises(pb.InputError, match="samples"):
            pb.fisher(self.mlp.module, self.mlp.inputs, estimator="sampled", samples=samples)

    @pytest.mark.parametrize("variance", [0.0, -1.0, float("nan")])
    def test_a_variance_that_is_not_positive(self, variance: float) -> None:
        with pytest.raises(pb.InputError, match="variance"):
            pb.likelihoods.Gaussian(variance=variance)
