"""Output metrics and losses, against closed forms, distributions and the twin."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Gamma,
    Geometric,
    Independent,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
    Weibull,
    kl_divergence,
)
from torch.func import hessian

import pullback as pb
from pullback.cotangents import Source
from pullback.likelihoods import (
    DistributionOf,
    Information,
    Likelihood,
    information_of,
    likelihood_of,
    register_information,
)
from pullback.likelihoods.base import REGISTRY
from pullback.likelihoods.information import _REGISTRY
from tests import reference
from tests.cases import LIKELIHOODS, WITH_TARGETS, named
from tests.checks import EXACT, REFUSED, assert_agree

OUTPUTS = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TARGETS = {
    "categorical": torch.tensor([0, 3, 1, 2, 2, 0]),
    "bernoulli": (OUTPUTS.flip(0) > 0).double(),
    "gaussian": OUTPUTS.flip(0) + 0.5,
}


def cholesky_of(out: Tensor) -> Tensor:
    """A triangle (n, 2, 2) with a positive diagonal from three numbers."""
    first = torch.stack([out[:, 0].exp(), torch.zeros_like(out[:, 0])], 1)
    return torch.stack([first, torch.stack([out[:, 1], out[:, 2].exp()], 1)], 1)


def covariance_of(out: Tensor) -> Tensor:
    return cholesky_of(out) @ cholesky_of(out).mT


# What a user writes, for four outputs each.
DISTRIBUTIONS: dict[str, DistributionOf] = {
    "categorical": lambda out: Categorical(logits=out),
    "categorical by probabilities": lambda out: Categorical(probs=out.softmax(1)),
    "two tokens": lambda out: Independent(Categorical(logits=out.unflatten(1, (2, 2))), 1),
    "bernoulli": lambda out: Bernoulli(logits=out[:, 0] * out[:, 1]),
    "pixels": lambda out: Independent(Bernoulli(probs=out.sigmoid().unflatten(1, (2, 2))), 2),
    "normal": lambda out: Normal(out[:, 0], out[:, 1].exp()),
    "normal with a known scale": lambda out: Normal(out[:, 2], 0.7),
    "normals with one scale": lambda out: Independent(Normal(out[:, :3], out[:, 3:].exp()), 1),
    "normals with learned scales": lambda out: Independent(Normal(out[:, :2], out[:, 2:].exp()), 1),
    "multivariate normal": lambda out: MultivariateNormal(
        out[:, :2], scale_tril=cholesky_of(out[:, 1:])
    ),
    "multivariate normal by its covariance": lambda out: MultivariateNormal(
        out[:, :2], covariance_of(out[:, 1:])
    ),
    "poisson": lambda out: Poisson(out[:, 3].exp()),
    "poissons": lambda out: Independent(Poisson(out.exp()), 1),
    "student": lambda out: StudentT(2 + out[:, 0].exp(), out[:, 1], out[:, 2].exp()),
}
EVERY = {
    **{name: likelihood_of(name) for name in (*LIKELIHOODS, "poisson")},
    "gaussian with a variance": pb.likelihoods.Gaussian(variance=4.0),
    "categorical at two positions": pb.likelihoods.Categorical(positions=2),
    **{f"any {name}": likelihood_of(function) for name, function in DISTRIBUTIONS.items()},
}
DRAWN = ["student", *(name for name in DISTRIBUTIONS if name != "student")]


def metric_of(likelihood: Likelihood, outputs: Tensor) -> Tensor:
    """The sum of u u^T over the columns of the square root."""
    root = likelihood.root(outputs, 0, likelihood.columns(outputs))
    return torch.einsum("kni,knj->nij", root, root)


def divergence_hessian(function: DistributionOf, outputs: Tensor) -> Tensor:
    """The Hessian in the outputs of KL(p(f) || p(f')) at f' = f, sample by sample: M by definition.

    A Student distribution has no divergence in closed form: there it is the integral of the outer
    products of scores, by the trapezoidal rule in s with y = sinh s, which converges exponentially.
    """
    metrics = []
    for row in outputs.unsqueeze(1):
        fixed = function(row)
        if isinstance(fixed, StudentT):
            steps = torch.linspace(-30, 30, 4001, dtype=row.dtype)
            y, width = steps.sinh(), (steps[1] - steps[0]) * steps.cosh()
            leaf = row.repeat(len(y), 1).requires_grad_()
            (scores,) = torch.autograd.grad(function(leaf).log_prob(y).sum(), leaf)
            weights = fixed.log_prob(y).exp() * width
            metrics.append(torch.einsum("y,yi,yj->ij", weights, scores, scores))
        else:
            of_row = hessian(lambda f, fixed=fixed: kl_divergence(fixed, function(f)).sum())
            metrics.append(of_row(row)[0, :, 0])
    return torch.stack(metrics)


def score_of(function: DistributionOf, outputs: Tensor, labels: Tensor) -> Tensor:
    """The derivative of log p by the outputs, sample by sample."""
    rows = []
    for output, label in zip(outputs, labels, strict=True):
        leaf = output.unsqueeze(0).requires_grad_()
        rows.append(torch.autograd.grad(function(leaf).log_prob(label.unsqueeze(0)).sum(), leaf)[0])
    return torch.cat(rows)


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

    @pytest.mark.parametrize("name", EVERY)
    def test_parts_of_the_root_make_up_the_whole(self, name: str) -> None:
        likelihood = EVERY[name]
        columns = likelihood.columns(OUTPUTS)
        parts = [likelihood.root(OUTPUTS, k, k + 1) for k in range(columns)]
        assert_agree(torch.cat(parts), likelihood.root(OUTPUTS, 0, columns))

    @pytest.mark.parametrize("name", EVERY)
    def test_apply_to_unit_vectors_gives_its_columns(self, name: str) -> None:
        likelihood, units = EVERY[name], torch.eye(4, dtype=torch.float64)
        columns = [likelihood.apply(OUTPUTS, unit.expand(6, -1)) for unit in units]
        assert_agree(torch.stack(columns, 2), metric_of(likelihood, OUTPUTS))

    @pytest.mark.parametrize("name", EVERY)
    def test_a_mixture_is_the_root_times_the_vectors(self, name: str) -> None:
        likelihood = EVERY[name]
        columns = likelihood.columns(OUTPUTS)
        vectors = torch.randn(6, 3, columns, dtype=torch.float64)
        expected = torch.einsum("knc,ntk->tnc", likelihood.root(OUTPUTS, 0, columns), vectors)
        assert_agree(likelihood.mix(OUTPUTS, vectors), expected)

    @pytest.mark.parametrize("name", LIKELIHOODS)
    def test_apply_is_the_product_with_it(self, name: str) -> None:
        vectors = OUTPUTS.flip(1)
        expected = torch.einsum("nij,nj->ni", reference.output_metric(name, OUTPUTS), vectors)
        assert_agree(likelihood_of(name).apply(OUTPUTS, vectors), expected)

    def test_the_variance_divides_the_gaussian_one(self) -> None:
        expected = reference.output_metric("gaussian", OUTPUTS, variance=4.0)
        assert_agree(metric_of(pb.likelihoods.Gaussian(variance=4.0), OUTPUTS), expected)

    def test_the_poisson_one_is_the_rate(self) -> None:
        expected = torch.diag_embed(OUTPUTS.exp())
        assert_agree(metric_of(pb.likelihoods.Poisson(), OUTPUTS), expected)

    def test_positions_have_a_block_each(self) -> None:
        actual = metric_of(pb.likelihoods.Categorical(positions=2), OUTPUTS)
        expected = torch.zeros_like(actual)
        expected[:, :2, :2] = reference.output_metric("categorical", OUTPUTS[:, :2])
        expected[:, 2:, 2:] = reference.output_metric("categorical", OUTPUTS[:, 2:])
        assert_agree(actual, expected)

    def test_positions_take_a_rank_each(self) -> None:
        assert pb.likelihoods.Categorical(positions=3).rank(12) == 9

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

    @pytest.mark.parametrize("rate", [1e-3, 0.5, 30.0, 1e4])
    def test_counts_have_the_distribution_of_scipy(self, rate: float) -> None:
        """The quantiles of numbers from (0, 1) are the smallest counts that are probable enough."""
        numbers = torch.rand(500, 1, 1, dtype=torch.float64).clamp(min=2.0**-53)
        outputs = torch.full((500, 1), rate, dtype=torch.float64).log()
        scores = pb.likelihoods.Poisson().scores(outputs, lambda width: numbers)
        expected = torch.from_numpy(scipy.stats.poisson.ppf(numbers[:, 0, 0].numpy(), rate))
        assert_agree((outputs.exp() - scores[0])[:, 0].round(), expected)

    @pytest.mark.parametrize("name", ["categorical at two positions", "poisson"])
    def test_the_second_moment_of_those_that_the_twin_lacks(self, name: str) -> None:
        likelihood, draws = EVERY[name], self.draws
        scores = Source(likelihood, "sampled", draws).open().next(OUTPUTS[:3], None)
        products = torch.einsum("tni,tnj->tnij", *2 * [scores.part(0, draws) * draws**0.5])
        error = products.mean(0) - metric_of(likelihood, OUTPUTS[:3])
        assert bool((error.abs() <= 4 * products.std(0) / draws**0.5 + 1e-12).all())

    def test_a_variance_scales_the_gaussian_scores(self) -> None:
        source = Source(pb.likelihoods.Gaussian(variance=4.0), "sampled", self.draws)
        scores = source.open().next(OUTPUTS[:1], None).part(0, self.draws)
        second_moment = scores.square().sum(0)[0]
        assert bool(((second_moment - 0.25).abs() < 4 * 0.25 * (2 / self.draws) ** 0.5).all())


class TestPositions:
    """Classes at every token or pixel: the product of one likelihood for each."""

    labels = torch.tensor([[0, 1], [1, 1], [1, 0], [0, 0], [1, 1], [0, 1]])
    likelihood = pb.likelihoods.Categorical(positions=2)

    def test_the_loss_is_summed_over_them(self) -> None:
        parts = [
            pb.likelihoods.Categorical().loss(OUTPUTS[:, 2 * t : 2 * t + 2], self.labels[:, t])
            for t in range(2)
        ]
        assert_agree(self.likelihood.loss(OUTPUTS, self.labels), sum(parts))

    def test_the_residual_is_the_gradient_of_the_loss(self) -> None:
        outputs = OUTPUTS.clone().requires_grad_()
        loss = self.likelihood.loss(outputs, self.labels)
        (gradient,) = torch.autograd.grad(loss, outputs)
        assert_agree(self.likelihood.residual(OUTPUTS, self.labels), gradient * len(OUTPUTS))

    def test_labels_may_have_the_shape_of_an_image(self) -> None:
        likelihood = pb.likelihoods.Categorical(positions=4)
        outputs, labels = torch.randn(6, 12), torch.randint(3, (6, 2, 2))
        assert_agree(
            likelihood.residual(outputs, labels), likelihood.residual(outputs, labels.flatten(1))
        )

    def test_one_position_is_a_plain_label(self) -> None:
        one = pb.likelihoods.Categorical(positions=1)
        assert_agree(metric_of(one, OUTPUTS), metric_of(pb.likelihoods.Categorical(), OUTPUTS))

    @pytest.mark.parametrize("shape", [(6,), (6, 3), (12,)])
    def test_labels_of_another_shape_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(pb.InputError, match=r"targets.*\(6, 2\)"):
            self.likelihood.residual(OUTPUTS, torch.zeros(shape, dtype=torch.long))

    def test_labels_are_compared_with_the_classes_of_one_position(self) -> None:
        with pytest.raises(pb.InputError, match=r"targets.*range.*0 to 1"):
            self.likelihood.residual(OUTPUTS, self.labels + 1)

    def test_outputs_that_are_no_multiple_of_them_are_refused(self) -> None:
        with pytest.raises(pb.InputError, match=r"positions.*multiple"):
            pb.likelihoods.Categorical(positions=3).rank(4)

    def test_less_than_one_is_refused(self) -> None:
        with pytest.raises(pb.InputError, match="positions"):
            pb.likelihoods.Categorical(positions=0)


class TestCounts:
    counts = torch.tensor([[0, 2, 1, 5]] * 6).double()

    def test_the_loss_agrees_with_torch_distributions(self) -> None:
        expected = -Poisson(OUTPUTS.exp()).log_prob(self.counts).sum(1).mean()
        assert_agree(pb.likelihoods.Poisson().loss(OUTPUTS, self.counts), expected)

    def test_the_residual_is_the_gradient_of_the_loss(self) -> None:
        outputs = OUTPUTS.clone().requires_grad_()
        loss = pb.likelihoods.Poisson().loss(outputs, self.counts)
        (gradient,) = torch.autograd.grad(loss, outputs)
        expected = gradient * len(OUTPUTS)
        assert_agree(pb.likelihoods.Poisson().residual(OUTPUTS, self.counts), expected)

    def test_negative_counts_are_refused(self) -> None:
        with pytest.raises(pb.InputError, match=r"targets.*negative"):
            pb.likelihoods.Poisson().residual(OUTPUTS, -self.counts)


class TestInformation:
    """Closed forms in a distribution's own parameters, pulled back to the outputs."""

    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    def test_it_is_the_hessian_of_the_divergence(self, name: str) -> None:
        function = DISTRIBUTIONS[name]
        expected = divergence_hessian(function, OUTPUTS)
        assert_agree(metric_of(likelihood_of(function), OUTPUTS), expected)

    @pytest.mark.parametrize(
        ("name", "function"),
        [
            ("categorical", lambda out: Categorical(logits=out)),
            ("bernoulli", lambda out: Independent(Bernoulli(logits=out), 1)),
            ("gaussian", lambda out: Independent(Normal(out, 1.0), 1)),
            ("poisson", lambda out: Independent(Poisson(out.exp()), 1)),
        ],
    )
    def test_a_named_likelihood_agrees_with_its_distribution(
        self, name: str, function: DistributionOf
    ) -> None:
        vectors = OUTPUTS.flip(1)
        expected = likelihood_of(name).apply(OUTPUTS, vectors)
        assert_agree(likelihood_of(function).apply(OUTPUTS, vectors), expected)

    @pytest.mark.parametrize("df", [2.0, 50.0, 1e3, 1e5, 1e7])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_student_distribution_tends_to_a_normal_one(
        self, df: float, dtype: torch.dtype
    ) -> None:
        """With 1 / df as a coordinate the limit is regular: (loc, log scale, 1 / df)."""
        outputs = torch.tensor([[0.3, 0.2, 1 / df]], dtype=dtype)
        function: DistributionOf = lambda f: StudentT(1 / f[:, 2], f[:, 0], f[:, 1].exp())  # noqa: E731
        metric = metric_of(likelihood_of(function), outputs)[0]
        limit = [[torch.tensor(-0.4).exp(), 0.0, 0.0], [0.0, 2.0, 2.0], [0.0, 2.0, 3.5]]
        assert bool(((metric - torch.tensor(limit)).abs() <= 30 / df + 1e-5).all())

    def test_certain_predictions_stay_finite(self) -> None:
        outputs = 1e3 * OUTPUTS.float()
        for name in ("categorical", "bernoulli", "two tokens"):
            assert bool(metric_of(likelihood_of(DISTRIBUTIONS[name]), outputs).isfinite().all())

    def test_a_rate_that_vanishes_has_none(self) -> None:
        outputs = torch.full((1, 4), -1e3)
        assert float(metric_of(likelihood_of(DISTRIBUTIONS["poisson"]), outputs).abs().max()) == 0.0

    def test_a_class_is_registered_in_a_line(self) -> None:
        function: DistributionOf = lambda out: Geometric(logits=out[:, 0])  # noqa: E731

        @register_information(Geometric)
        def _(d: Geometric) -> Information:
            return [(d.probs, 1 / (d.probs**2 * (1 - d.probs)))]

        actual = metric_of(likelihood_of(function), OUTPUTS)
        assert_agree(actual, divergence_hessian(function, OUTPUTS))

    def test_a_matrix_can_be_registered(self) -> None:
        function: DistributionOf = lambda out: Gamma(out[:, 0].exp(), out[:, 1].exp())  # noqa: E731

        @register_information(Gamma)
        def _(d: Gamma) -> Information:
            a, b = d.concentration, d.rate
            top = torch.stack([torch.special.polygamma(1, a), -1 / b], -1)
            matrix = torch.stack([top, torch.stack([-1 / b, a / b**2], -1)], -2)
            return [(torch.stack([a, b], -1), matrix)]

        actual = metric_of(likelihood_of(function), OUTPUTS)
        assert_agree(actual, divergence_hessian(function, OUTPUTS))

    def test_subclasses_inherit_it(self) -> None:
        class Mine(Normal):
            pass

        one = information_of(Mine(torch.zeros(2), torch.ones(2)))
        other = information_of(Normal(torch.zeros(2), torch.ones(2)))
        assert all(torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True))

    def test_what_is_no_distribution_cannot_be_registered(self) -> None:
        with pytest.raises(REFUSED, match="kind|register_information"):
            register_information(nn.Linear)  # type: ignore[type-var]

    @pytest.mark.parametrize(
        ("shape", "message"), [((2, 3), r"\(2, 3\).*\(6,\)"), ((6, 6), r"\(6, 6\)")]
    )
    def test_an_information_of_another_shape_is_refused(
        self, shape: tuple[int, ...], message: str
    ) -> None:
        register_information(Weibull)(lambda d: [(d.scale, torch.ones(shape))])
        with pytest.raises(pb.InputError, match=f"register_information.*{message}"):
            metric_of(likelihood_of(lambda out: Weibull(out[:, 0].exp(), 1.0)), OUTPUTS)

    def test_a_parameter_without_samples_in_front_is_refused(self) -> None:
        register_information(Weibull)(lambda d: [(d.scale.sum(), torch.ones(()))])
        with pytest.raises(pb.InputError, match=r"register_information.*dimension 0"):
            metric_of(likelihood_of(lambda out: Weibull(out[:, 0].exp(), 1.0)), OUTPUTS)


class Untouched(Distribution):
    """A distribution of which nothing is implemented."""

    arg_constraints: dict[str, object] = {}


class TestPredictive:
    """Any function from outputs to a distribution, by autograd."""

    draws = 20_000

    @pytest.mark.parametrize("name", DRAWN)
    def test_drawn_scores_have_the_metric_as_second_moment(self, name: str) -> None:
        """Within four standard errors, and zero as mean."""
        likelihood = likelihood_of(DISTRIBUTIONS[name])
        cotangents = Source(likelihood, "sampled", self.draws).open().next(OUTPUTS[:2], None)
        scores = cotangents.part(0, self.draws) * self.draws**0.5
        products = torch.einsum("tni,tnj->tnij", scores, scores)
        error = products.mean(0) - metric_of(likelihood, OUTPUTS[:2])
        assert bool((error.abs() <= 4 * products.std(0) / self.draws**0.5 + 1e-12).all())
        assert bool((scores.mean(0).abs() <= 4 * scores.std(0) / self.draws**0.5 + 1e-12).all())

    @pytest.mark.parametrize("name", ["poisson", "normal"])
    def test_samples_are_drawn_independently_of_each_other(self, name: str) -> None:
        """One draw for each of many equal samples is as good as many draws for one."""
        likelihood, many = likelihood_of(DISTRIBUTIONS[name]), OUTPUTS[:1].expand(4000, -1)
        scores = Source(likelihood, "sampled").open().next(many, None).part(0, 1)[0]
        products = torch.einsum("ni,nj->nij", scores, scores)
        error = products.mean(0) - metric_of(likelihood, OUTPUTS[:1])[0]
        assert bool((error.abs() <= 4 * products.std(0) / 4000**0.5 + 1e-12).all())

    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    def test_the_residual_is_the_score_of_each_sample(self, name: str) -> None:
        function = DISTRIBUTIONS[name]
        labels = function(OUTPUTS).sample()
        actual = likelihood_of(function).residual(OUTPUTS, labels)
        assert_agree(actual, -score_of(function, OUTPUTS, labels))

    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    def test_the_loss_is_the_mean_negative_log_probability(self, name: str) -> None:
        function = DISTRIBUTIONS[name]
        labels = function(OUTPUTS).sample()
        expected = -function(OUTPUTS).log_prob(labels).mean()
        assert_agree(likelihood_of(function).loss(OUTPUTS, labels), expected)

    def test_integer_labels_serve_as_well(self) -> None:
        labels = torch.tensor([0, 1, 1, 0, 1, 0])
        likelihood = likelihood_of(DISTRIBUTIONS["bernoulli"])
        assert_agree(
            likelihood.residual(OUTPUTS, labels), likelihood.residual(OUTPUTS, labels * 1.0)
        )

    def test_more_parameters_than_outputs_take_no_more_cotangents(self) -> None:
        likelihood = likelihood_of(DISTRIBUTIONS["normals with one scale"])
        assert likelihood.columns(OUTPUTS) == 6
        cotangents = Source(likelihood).open().next(OUTPUTS, None)
        assert len(cotangents) == 4
        root = cotangents.part(0, 4)
        assert_agree(torch.einsum("kni,knj->nij", root, root), metric_of(likelihood, OUTPUTS))

    def test_parameters_that_are_constant_take_none(self) -> None:
        assert likelihood_of(DISTRIBUTIONS["normal with a known scale"]).columns(OUTPUTS) == 1

    def test_its_name_is_the_functions(self) -> None:
        def heavy_tails(out: Tensor) -> Distribution:
            return StudentT(3.0, out[:, 0], 1.0)

        assert likelihood_of(heavy_tails).name == "heavy_tails"

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (lambda out: out, "Tensor.*Distribution"),
            (lambda out: Normal(out, 1.0), r"batch shape \(6, 4\).*Independent\(..., 1\)"),
            (lambda out: Normal(out.mean(), 1.0), r"batch shape \(\).*dimension 0"),
            (lambda out: Normal(out[:, 0], -1.0), "no parameters.*scale"),
            (lambda out: Normal(out[:, 0].detach(), 1.0), "influence.*detached"),
        ],
    )
    def test_functions_that_are_refused(self, function: DistributionOf, message: str) -> None:
        with pytest.raises(pb.InputError, match=f"likelihood.*{message}"):
            Source(likelihood_of(function)).open().next(OUTPUTS, None)

    def test_a_class_instead_of_an_object_is_refused(self) -> None:
        with pytest.raises(REFUSED, match=r"likelihood.*Gaussian\(\)"):
            likelihood_of(pb.likelihoods.Gaussian)  # type: ignore[arg-type]

    @pytest.mark.parametrize("estimator", ["exact", "sketched"])
    def test_without_a_closed_form_the_remedies_are_named(self, estimator: str) -> None:
        likelihood = likelihood_of(lambda out: Weibull(out[:, 0].exp(), out[:, 1].exp()))
        with pytest.raises(
            pb.InputError, match=r"estimator.*Weibull.*'sampled'.*register_information\(Weibull\)"
        ):
            Source(likelihood, estimator).open().next(OUTPUTS, None)

    def test_without_a_closed_form_it_can_be_sampled(self) -> None:
        likelihood = likelihood_of(lambda out: Weibull(out[:, 0].exp(), out[:, 1].exp()))
        scores = Source(likelihood, "sampled", 1000).open().next(OUTPUTS, None).part(0, 1000)
        assert bool(scores.isfinite().all())

    def test_a_distribution_that_cannot_be_sampled_is_named(self) -> None:
        likelihood = likelihood_of(lambda out: Untouched(out.shape[:1], validate_args=False))
        with pytest.raises(pb.InputError, match=r"estimator.*Untouched.*sample.*'exact'"):
            Source(likelihood, "sampled").open().next(OUTPUTS, None)

    def test_a_distribution_without_log_prob_is_named(self) -> None:
        likelihood = likelihood_of(lambda out: Untouched(out.shape[:1], validate_args=False))
        with pytest.raises(pb.InputError, match=r"likelihood.*Untouched.*log_prob"):
            likelihood.residual(OUTPUTS, torch.zeros(6))

    @pytest.mark.parametrize(
        ("name", "labels", "message"),
        [
            ("normal", torch.zeros(6, 1), r"shape \(6, 1\).*Normal.*\(6,\)"),
            ("normals with one scale", torch.zeros(6), r"shape \(6,\).*Normal.*\(6, 3\)"),
            ("normal", torch.full((6,), float("inf")), "infinity"),
            ("poisson", torch.full((6,), -1.0), "Poisson refuses"),
            ("categorical", torch.full((6,), 4), "Categorical refuses"),
        ],
    )
    def test_labels_that_are_refused(self, name: str, labels: Tensor, message: str) -> None:
        with pytest.raises(pb.InputError, match=f"(?s)targets.*{message}"):
            likelihood_of(DISTRIBUTIONS[name]).residual(OUTPUTS, labels)


class TestEndToEnd:
    """The whole way from a network to its Fisher matrix, beside the twin."""

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, dtype=torch.float64, generator=generator)

    def model(self) -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)).double()

    @pytest.mark.parametrize("representation", ["dense", "implicit"])
    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    def test_the_exact_matrix(self, name: str, representation: str) -> None:
        model, function = self.model(), DISTRIBUTIONS[name]
        metric = divergence_hessian(function, model(self.x).detach())
        expected = reference.fisher(reference.jacobian(model, self.x), metric)
        actual = pb.fisher(model, self.x, function, representation)
        v = actual.space.randn(seed=1)
        assert_agree((actual @ v).flat, expected @ v.flat)

    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    def test_the_empirical_matrix(self, name: str) -> None:
        model, function = self.model(), DISTRIBUTIONS[name]
        outputs = model(self.x).detach()
        labels = function(outputs).sample()
        scores = score_of(function, outputs, labels)
        expected = reference.empirical_fisher(reference.jacobian(model, self.x), scores)
        actual = pb.fisher(model, (self.x, labels), function, "dense", "empirical")
        assert_agree(actual.to_dense(), expected)

    def test_every_token_of_a_language_model(self) -> None:
        torch.manual_seed(0)
        tokens = torch.randint(5, (4, 3))
        model = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 5), nn.Flatten()).double()
        metric = pb.fisher(model, tokens, pb.likelihoods.Categorical(positions=3), "dense")
        blocks = reference.output_metric("categorical", model(tokens).reshape(12, 5).detach())
        whole = torch.stack([torch.block_diag(*b) for b in blocks.reshape(4, 3, 5, 5)])
        assert_agree(metric.to_dense(), reference.fisher(reference.jacobian(model, tokens), whole))

    def test_counts(self) -> None:
        model, counts = self.model(), torch.arange(28).reshape(7, 4) % 6
        rows, outputs = reference.jacobian(model, self.x), model(self.x).detach()
        exact = pb.fisher(model, self.x, "poisson", "dense").to_dense()
        assert_agree(exact, reference.fisher(rows, torch.diag_embed(outputs.exp())))
        empirical = pb.fisher(model, (self.x, counts), "poisson", "dense", "empirical").to_dense()
        assert_agree(empirical, reference.empirical_fisher(rows, outputs.exp() - counts))


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


# Every distribution that has a closed form, and every likelihood with a name, on four outputs.
REGISTERED = {
    kind.__name__
    for kind in (Bernoulli, Categorical, Independent, MultivariateNormal, Normal, Poisson, StudentT)
}


class TestConvergence:
    """Sampled metrics tend to the closed form, with an error of 1 / sqrt(n T)."""

    outputs = OUTPUTS[:2]
    labels, seeds = 32, 24

    def deviations(self, likelihood: Likelihood, labels: int, seed: int) -> Tensor:
        """Of the mean over samples of the sampled output metric from the exact one, (c, c)."""
        drawn = Source(likelihood, "sampled", labels, seed).open().next(self.outputs, None)
        u = drawn.part(0, labels)
        sampled = torch.einsum("tni,tnj->ij", u, u) / len(self.outputs)
        return sampled - metric_of(likelihood, self.outputs).mean(0)

    @pytest.mark.parametrize("name", EVERY)
    def test_16_times_the_labels_have_a_quarter_of_the_error(self, name: str) -> None:
        """Root mean squares over seeds: within 4 standard errors of the ratio, 4 (1 +- 0.3)."""

        def size(labels: int) -> float:
            found = [self.deviations(EVERY[name], labels, seed) for seed in range(self.seeds)]
            return float(torch.stack(found).square().mean().sqrt())

        assert 2.8 < size(self.labels) / size(16 * self.labels) < 5.7

    @pytest.mark.parametrize("name", EVERY)
    def test_the_limit_is_the_closed_form_within_four_standard_errors(self, name: str) -> None:
        likelihood, labels = EVERY[name], 4000
        u = Source(likelihood, "sampled", labels, 5).open().next(self.outputs, None)
        scores = u.part(0, labels) * labels**0.5
        products = torch.einsum("tni,tnj->tnij", scores, scores)
        error = products.mean(0) - metric_of(likelihood, self.outputs)
        assert bool((error.abs() <= 4 * products.std(0) / labels**0.5 + 1e-12).all())

    def test_no_registered_distribution_is_left_out(self) -> None:
        made = set()
        for function in DISTRIBUTIONS.values():
            distribution = function(OUTPUTS)
            made.add(type(distribution).__name__)
            while isinstance(distribution, Independent):
                distribution = distribution.base_dist
                made.add(type(distribution).__name__)
        assert {kind.__name__ for kind in _REGISTRY} == REGISTERED
        assert made >= REGISTERED

    def test_no_named_likelihood_is_left_out(self) -> None:
        kinds = {type(likelihood).__name__ for likelihood in EVERY.values()}
        assert {kind.__name__ for kind in REGISTRY.values()} <= kinds
