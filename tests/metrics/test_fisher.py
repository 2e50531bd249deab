"""The entry point: golden digits, estimators, precisions, identities, bad input, purity."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pullback as pb
from tests import reference
from tests.cases import CASES, WITH_TARGETS, Case, golden_module, golden_numbers, named
from tests.checks import REFUSED, SINGLE, assert_agree, unchanged
from tests.entries import REPRESENTATIONS, data_of, measured, network_of
from tests.metrics.conformance import check_covariance

MLP = named("mlp")
STORED = ("dense", "diagonal", "kfac", "ekfac")
GOLDEN = golden_numbers()
PRINTED = [key for key in GOLDEN if isinstance(key, tuple) and key[1] in ("trace", "norm")]


class TestGoldenFixture:
    """003 G1: one softmax layer, two samples, digits as printed."""

    def metric(self, representation: str) -> pb.Metric:
        module, x = golden_module()
        return pb.fisher(module, x, representation=representation)

    @pytest.mark.parametrize("representation", ["dense", "implicit"])
    def test_matrix(self, representation: str) -> None:
        dense = self.metric(representation).to_dense()
        assert torch.allclose(dense, GOLDEN["fisher"], rtol=0, atol=5e-9)

    @pytest.mark.parametrize(("representation", "quantity"), PRINTED)
    def test_trace_and_norm(self, representation: str, quantity: str) -> None:
        value = getattr(self.metric(representation), quantity)()
        assert value == pytest.approx(GOLDEN[representation, quantity], abs=5e-11)

    @pytest.mark.parametrize("representation", STORED)
    def test_quadratic_form(self, representation: str) -> None:
        metric = self.metric(representation)
        v = metric.space.vector(GOLDEN["vector"])
        expected = GOLDEN[representation, "quadratic"]
        assert float(v @ metric @ v) == pytest.approx(expected, abs=5e-11)

    @pytest.mark.parametrize("representation", ["dense", "kfac", "ekfac"])
    def test_solve(self, representation: str) -> None:
        metric = self.metric(representation)
        solution = metric.solve(metric.space.vector(GOLDEN["vector"]), damping=0.1).flat
        assert torch.allclose(solution, GOLDEN[representation, "solve"], rtol=0, atol=5e-9)

    @pytest.mark.parametrize("representation", ["kfac", "ekfac", "diagonal"])
    def test_relative_error(self, representation: str) -> None:
        exact = self.metric("dense").to_dense()
        error = (self.metric(representation).to_dense() - exact).norm() / exact.norm()
        assert float(error) == pytest.approx(GOLDEN[representation, "error"], abs=5e-11)

    def test_eigenvalues_of_kfac(self) -> None:
        """Products of eig A = (0, 2 - sqrt 2, 2 + sqrt 2) and eig B = (0, 0.38415016)."""
        b = 0.3841501643
        values = [b * (2 + 2**0.5), b * (2 - 2**0.5), 0, 0, 0, 0]
        expected = torch.tensor(values, dtype=torch.float64)
        actual = self.metric("kfac").eigenvalues()
        assert torch.allclose(actual, expected, rtol=0, atol=1e-8)

    def test_eigenvalues_of_ekfac(self) -> None:
        expected = torch.tensor([1.10429294, 0.26059320, 0, 0, 0, 0], dtype=torch.float64)
        assert torch.allclose(self.metric("ekfac").eigenvalues(), expected, rtol=0, atol=5e-9)


def all_labels(likelihood: str, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """The probability (l,) and the score (l, c) of every label of one sample."""
    c = len(outputs)
    if likelihood == "categorical":
        return outputs.softmax(0), torch.eye(c, dtype=outputs.dtype) - outputs.softmax(0)
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=outputs.dtype)] * c)
    p = outputs.sigmoid()
    return torch.where(bits > 0, p, 1 - p).prod(1), bits - p


class TestSampled:
    """Labels drawn from the model: the same draws in every representation."""

    def metric(self, representation: str, case: Case = MLP, **options: object) -> pb.Metric:
        return measured(case, representation, estimator="sampled", **options)

    @pytest.mark.parametrize("case", CASES[::4], ids=str)
    def test_the_diagonal_is_that_of_the_dense_matrix(self, case: Case) -> None:
        options = {"case": case, "samples": 2, "seed": 5}
        diagonal = self.metric("diagonal", **options).diagonal().flat
        assert_agree(diagonal, self.metric("dense", **options).to_dense().diagonal())

    @pytest.mark.parametrize("case", CASES[1::4], ids=str)
    def test_ekfac_has_the_trace_of_the_dense_matrix(self, case: Case) -> None:
        options = {"case": case, "samples": 2, "seed": 5}
        assert_agree(
            self.metric("ekfac", **options).trace(), self.metric("dense", **options).trace()
        )

    @pytest.mark.parametrize("case", CASES[2::4], ids=str)
    def test_implicit_products_are_those_of_the_dense_matrix(self, case: Case) -> None:
        options = {"case": case, "samples": 2, "seed": 5}
        implicit, dense = self.metric("implicit", **options), self.metric("dense", **options)
        v = dense.space.randn(seed=1)
        assert_agree((implicit @ v).flat, (dense @ v).flat)

    def test_the_implicit_matrix_is_the_same_in_every_product(self) -> None:
        metric = self.metric("implicit", samples=2)
        v = metric.space.randn(seed=1)
        assert torch.equal((metric @ v).flat, (metric @ v).flat)

    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    def test_the_same_seed_gives_the_same_matrix(self, representation: str) -> None:
        one, other = self.metric(representation, seed=3), self.metric(representation, seed=3)
        assert one.trace() == other.trace()

    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    def test_another_seed_gives_another_matrix(self, representation: str) -> None:
        one, other = self.metric(representation, seed=3), self.metric(representation, seed=4)
        assert one.trace() != other.trace()

    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    def test_the_global_random_state_plays_no_part(self, representation: str) -> None:
        torch.manual_seed(1)
        one = self.metric(representation)
        torch.manual_seed(2)
        assert self.metric(representation).trace() == one.trace()

    @pytest.mark.parametrize("samples", [1, 3])
    def test_drawn_labels_are_the_only_difference_to_the_empirical_matrix(
        self, samples: int
    ) -> None:
        """The sampled matrix is of rank n T at most, as a mean of n T outer products."""
        case = named("one sample")
        dense = self.metric("dense", case, samples=samples).to_dense()
        assert int(torch.linalg.matrix_rank(dense)) <= samples

    @pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "gaussian", "euclidean"])
    def test_entries_are_within_four_standard_errors_of_the_exact_ones(
        self, likelihood: str
    ) -> None:
        """The variance of an entry g_i g_j is exact: over all labels, or by Wick's formula."""
        case, draws = named("one sample"), 4000
        exact, rows = case.fisher(likelihood), case.rows[0]
        if likelihood in ("gaussian", "euclidean"):
            variance = torch.outer(exact.diagonal(), exact.diagonal()) + exact.square()
        else:
            probabilities, scores = all_labels(likelihood, case.outputs[0])
            gradients = scores @ rows
            fourth = torch.einsum("l,li,lj->ij", probabilities, gradients**2, gradients**2)
            variance = fourth - exact.square()
        sampled = self.metric("dense", case, likelihood=likelihood, samples=draws).to_dense()
        stderr = (variance.clamp(min=0) / draws).sqrt()
        assert bool(((sampled - exact).abs() <= 4 * stderr + 1e-12 * exact.norm()).all())

    def test_the_error_falls_with_the_square_root_of_the_draws(self) -> None:
        """Sixty-four times the draws: an eighth of the error, within the spread of 25 seeds."""
        case = named("one sample")
        exact = case.fisher("categorical").trace()

        def error(samples: int) -> float:
            options = {"case": case, "samples": samples}
            traces = [self.metric("diagonal", **options, seed=s).trace() for s in range(25)]
            return float((torch.tensor(traces) - exact).square().mean().sqrt())

        assert 5 < error(4) / error(256) < 13

    def test_a_chunked_computation_draws_the_same_labels(self) -> None:
        little, much = self.metric("dense", memory=1), self.metric("dense")
        assert_agree(little.to_dense(), much.to_dense())


class TestPrecision:
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_single_precision_diagonal(self, case: Case) -> None:
        network = network_of(case, torch.float32)
        data = data_of(case, dtype=torch.float32)
        metric = pb.fisher(network, data, case.likelihood, representation="diagonal")
        expected = case.fisher(case.likelihood).diagonal()
        assert_agree(metric.diagonal().flat, expected.float(), SINGLE)

    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    def test_single_precision_dense_matrix(self, representation: str) -> None:
        metric = pb.fisher(
            network_of(MLP, torch.float32),
            data_of(MLP, dtype=torch.float32),
            representation=representation,
        )
        expected = measured(MLP, representation).to_dense()
        assert_agree(metric.to_dense(), expected.float(), SINGLE)

    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    def test_single_precision_in_gives_single_precision_out(self, representation: str) -> None:
        metric = pb.fisher(
            network_of(MLP, torch.float32),
            data_of(MLP, dtype=torch.float32),
            representation=representation,
        )
        assert metric.to_dense().dtype == torch.float32

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    def test_half_precision_models_give_single_precision_matrices(
        self, representation: str, dtype: torch.dtype
    ) -> None:
        metric = pb.fisher(
            network_of(MLP, dtype), data_of(MLP, dtype=dtype), representation=representation
        )
        assert metric.to_dense().dtype == torch.float32

    def test_half_precision_models_accumulate_in_single_precision(self) -> None:
        """4,096 equal samples: a sum in bfloat16 stops growing at 256 times the first term."""
        model = nn.Linear(2, 2).to(torch.bfloat16)
        x = torch.ones(1, 2, dtype=torch.bfloat16)
        one = pb.fisher(model, x, "gaussian", representation="diagonal")
        many = pb.fisher(model, [x.expand(64, 2)] * 64, "gaussian", representation="diagonal")
        assert_agree(many.trace(), one.trace(), 1e-6)

    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    def test_half_precision_is_as_good_as_its_gradients(self, representation: str) -> None:
        module, x = MLP.fresh(torch.bfloat16)
        metric = pb.fisher(module, x, "gaussian", representation=representation)
        exact = measured(MLP, representation, "gaussian").trace()
        assert metric.trace() == pytest.approx(exact, rel=0.05)


class TestIdentities:
    def test_the_kullback_leibler_divergence_is_half_the_quadratic_form(self) -> None:
        """003 3.1.7: KL(w, w + e v) / (e^2 v F v / 2) tends to 1, with an error of order e."""
        case = named("dropout and identity in evaluation mode")
        network = network_of(case)
        metric = measured(case, "implicit")
        w = pb.ParameterVector.from_model(case.module)
        v = w.space.randn(seed=1)
        log_p = case.outputs.log_softmax(1)

        def ratio(step: float) -> float:
            log_q = network(case.inputs, w + step * v).log_softmax(1)
            divergence = (log_p.exp() * (log_p - log_q)).sum(1).mean()
            return float(divergence / (0.5 * step**2 * (v @ metric @ v)))

        errors = [abs(ratio(step) - 1) for step in (1e-2, 1e-3, 1e-4)]
        assert errors[2] < 1e-3 and errors[1] < 0.2 * errors[0] and errors[2] < 0.2 * errors[1]

    @pytest.mark.parametrize("case", CASES[::3], ids=str)
    def test_it_shares_its_spectrum_with_the_kernel_apart_from_zeros(self, case: Case) -> None:
        metric = measured(case, "dense", "euclidean").eigenvalues() * case.n
        kernel = pb.tangent_kernel(network_of(case), data_of(case)).eigvalsh()
        count = min(len(metric), len(kernel))
        assert_agree(metric[:count], kernel[:count])

    def test_a_natural_gradient_step_of_a_linear_model_reaches_the_optimum(self) -> None:
        """003 3.3.2: Gaussian likelihood, step 1, no damping."""
        model = nn.Linear(3, 2).double()
        x = torch.randn(9, 3, dtype=torch.float64)
        y = torch.randn(9, 2, dtype=torch.float64)
        metric = pb.fisher(model, x, "gaussian", representation="dense")
        pb.likelihoods.Gaussian().loss(model(x), y).backward()
        w = pb.ParameterVector.from_model(model)
        gradient = pb.ParameterVector.from_gradients(model)
        moved = pb.Network(model)(x, w - metric.solve(gradient, damping=0.0))
        design = torch.cat([x, torch.ones(9, 1, dtype=torch.float64)], dim=1)
        assert_agree(moved, design @ torch.linalg.lstsq(design, y).solution)

    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    @given(variance=st.floats(1e-3, 1e3))
    @settings(max_examples=5, deadline=None)
    def test_the_variance_divides_it(self, representation: str, variance: float) -> None:
        likelihood = pb.likelihoods.Gaussian(variance=variance)
        metric = pb.fisher(MLP.module, MLP.inputs, likelihood, representation=representation)
        plain = pb.fisher(MLP.module, MLP.inputs, "gaussian", representation=representation)
        assert_agree(metric.diagonal().flat, plain.diagonal().flat / variance)

    @pytest.mark.parametrize("representation", ["dense", "diagonal", "implicit"])
    @given(weight=st.integers(2, 5))
    @settings(max_examples=3, deadline=None)
    def test_repeating_the_data_changes_nothing(self, representation: str, weight: int) -> None:
        options = {"representation": representation}
        repeated = pb.fisher(MLP.module, [MLP.inputs] * weight, **options)
        once = pb.fisher(MLP.module, MLP.inputs, **options)
        assert_agree(repeated.diagonal().flat, once.diagonal().flat)

    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    @given(seed=st.integers(0, 1000))
    @settings(max_examples=5, deadline=None)
    def test_the_order_of_the_samples_changes_nothing(self, representation: str, seed: int) -> None:
        order = torch.randperm(MLP.n, generator=torch.Generator().manual_seed(seed))
        options = {"representation": representation}
        shuffled = pb.fisher(MLP.module, MLP.inputs[order], **options)
        plain = pb.fisher(MLP.module, MLP.inputs, **options)
        assert_agree(shuffled.diagonal().flat, plain.diagonal().flat)

    def test_a_dataset_in_two_halves_has_the_mean_of_their_metrics(self) -> None:
        x = MLP.inputs[:6]
        halves = [pb.fisher(MLP.module, h, representation="dense") for h in (x[:3], x[3:])]
        whole = pb.fisher(MLP.module, x, representation="dense").to_dense()
        assert_agree(sum(half.to_dense() for half in halves) / 2, whole)


class TestSelections:
    @pytest.mark.parametrize("representation", STORED)
    @pytest.mark.parametrize("parameters", ["4.*", "*.weight", ["0.*", "4.bias"]])
    def test_selected_parameters_have_the_twins_matrix(
        self, representation: str, parameters: str | list[str]
    ) -> None:
        network = pb.Network(MLP.module, parameters=parameters)
        rows = reference.jacobian(MLP.module, MLP.inputs, network.space.names)
        exact = reference.fisher(rows, MLP.output_metric("categorical"))
        metric = pb.fisher(network, MLP.inputs, representation=representation)
        if representation in ("dense", "diagonal"):
            assert_agree(metric.diagonal().flat, exact.diagonal())
        elif representation == "ekfac":
            assert_agree(metric.trace(), exact.trace())
        else:
            assert metric.space == network.space

    def test_a_network_can_be_measured_twice_while_the_module_moves(self) -> None:
        module, x = MLP.fresh()
        network = pb.Network(module)
        pb.fisher(network, x, representation="diagonal")
        with torch.no_grad():
            module[0].weight.mul_(2.0)
        rows = reference.jacobian(module, x)
        outputs = reference.one_by_one(module, x)
        expected = reference.fisher(rows, reference.output_metric("categorical", outputs))
        metric = pb.fisher(network, x, representation="diagonal")
        assert_agree(metric.diagonal().flat, expected.diagonal())

    def test_a_stored_metric_does_not_move_with_the_module(self) -> None:
        module, x = MLP.fresh()
        metric = pb.fisher(module, x, representation="ekfac")
        before = metric.to_dense()
        with torch.no_grad():
            module[0].weight.mul_(2.0)
        assert torch.equal(metric.to_dense(), before)


class Broken(nn.Module):
    """A module whose derivative at 0 is not finite, though its outputs are."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        nn.init.zeros_(self.first.weight)
        nn.init.zeros_(self.first.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x).sqrt()


class TestBadInput:
    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    def test_outputs_that_are_not_finite(self, representation: str) -> None:
        network = pb.Network(MLP.module, outputs=lambda y: y / 0)  # type: ignore[operator]
        with pytest.raises(pb.InputError, match=r"outputs.*not finite"):
            metric = pb.fisher(network, MLP.inputs, representation=representation)
            metric @ metric.space.randn()

    @pytest.mark.parametrize("representation", STORED)
    def test_gradients_that_are_not_finite(self, representation: str) -> None:
        with pytest.raises(pb.InputError, match=r"gradients.*not finite"):
            pb.fisher(Broken(), torch.ones(3, 2), "gaussian", representation=representation)

    @pytest.mark.parametrize("operation", ["trace", "product"])
    def test_gradients_that_are_not_finite_implicitly(self, operation: str) -> None:
        metric = pb.fisher(Broken(), torch.ones(3, 2), "gaussian", representation="implicit")
        with pytest.raises(pb.InputError, match=r"not finite"):
            if operation == "trace":
                metric.trace()
            else:
                metric @ metric.space.randn()

    def test_weights_that_are_not_finite(self) -> None:
        module, x = MLP.fresh()
        with torch.no_grad():
            module[0].weight[0, 0] = float("nan")
        with pytest.raises(pb.InputError, match=r"outputs.*not finite"):
            pb.fisher(module, x)

    def test_an_unknown_representation_lists_the_known_ones(self) -> None:
        with pytest.raises(pb.InputError, match=r"representation.*shampoo.*ekfac"):
            pb.fisher(MLP.module, MLP.inputs, representation="shampoo")

    def test_a_dense_matrix_that_cannot_fit_says_how_much_it_needs(self) -> None:
        model = nn.Linear(3000, 1000)  # d = 3,001,000: 36 TB in single precision
        with pytest.raises(pb.InputError, match=r"representation.*36,.*GB"):
            pb.fisher(model, torch.randn(2, 3000), representation="dense")

    @pytest.mark.parametrize("kind", ["kfac", "ekfac"])
    def test_a_table_of_words_that_cannot_fit_names_a_mapping_that_does(self, kind: str) -> None:
        parts = [nn.Embedding(1_000_000, 4), nn.Flatten(), nn.Linear(8, 3)]
        model, words = nn.Sequential(*parts), torch.randint(1_000_000, (3, 2))
        remedy = rf"Embedding.*{{nn.Embedding: 'diagonal', nn.Module: '{kind}'}}"
        with pytest.raises(pb.InputError, match=remedy):
            pb.fisher(model, words, representation=kind)
        rule = {nn.Embedding: "diagonal", nn.Module: kind}
        blocks = pb.fisher(model, words, representation=rule).blocks
        assert {name: block.kind for name, block in blocks.items()} == {"0": "diagonal", "2": kind}

    def test_a_diagonal_matrix_written_out_that_cannot_fit_says_so(self) -> None:
        metric = pb.fisher(
            nn.Linear(3000, 1000), torch.randn(2, 3000), "gaussian", "diagonal", "sampled"
        )
        with pytest.raises(pb.InputError, match=r"to_dense.*GB"):
            metric.to_dense()

    def test_categorical_for_one_output_names_the_remedy(self) -> None:
        with pytest.raises(pb.InputError, match=r"likelihood.*bernoulli"):
            measured(named("one output"), "dense", "categorical")

    def test_a_model_that_is_none(self) -> None:
        with pytest.raises(REFUSED, match="model"):
            pb.fisher(len, MLP.inputs)  # type: ignore[arg-type]

    def test_labels_missing_in_a_later_batch(self) -> None:
        labels = MLP.targets("categorical")
        data = [(MLP.inputs[:3], labels[:3]), MLP.inputs[3:]]
        with pytest.raises(pb.InputError, match=r"data|targets"):
            pb.fisher(MLP.module, data, estimator="empirical")


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("representation", ["diagonal", "ekfac", "implicit"])
def test_the_module_is_left_alone(case: Case, representation: str) -> None:
    with unchanged(case.module):
        metric = measured(case, representation)
        metric @ metric.space.randn()


class TestPurity:
    """More than weights and modes: gradients, hooks and parameters in use elsewhere."""

    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    @pytest.mark.parametrize("estimator", ["exact", "sampled", "empirical"])
    def test_existing_gradients_are_kept(self, representation: str, estimator: str) -> None:
        module, x = MLP.fresh()
        module(x).sum().backward()
        data = (x, MLP.targets("categorical"))
        with unchanged(module):
            pb.fisher(module, data, representation=representation, estimator=estimator).trace()

    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    def test_a_graph_that_is_being_built_can_still_be_used(self, representation: str) -> None:
        module, x = MLP.fresh()
        loss = module(x).square().sum()
        pb.fisher(module, x, representation=representation).trace()
        loss.backward()
        assert module[0].weight.grad is not None

    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    def test_it_works_under_no_grad(self, representation: str) -> None:
        with torch.no_grad():
            inside = measured(MLP, representation).diagonal().flat
        assert_agree(inside, measured(MLP, representation).diagonal().flat)

    def test_hooks_of_the_user_still_run(self) -> None:
        module, x = MLP.fresh()
        calls: list[int] = []
        module[0].register_forward_hook(lambda *_: calls.append(1))
        pb.fisher(module, x, representation="diagonal")
        assert calls

    def test_an_error_inside_the_module_leaves_it_alone(self) -> None:
        module, x = MLP.fresh()
        with unchanged(module), pytest.raises(RuntimeError):
            pb.fisher(module, x[:, :2])

    def test_inputs_are_left_alone(self) -> None:
        case = named("in-place arithmetic")
        before = case.inputs.clone()
        measured(case, "ekfac")
        assert torch.equal(case.inputs, before)

    @pytest.mark.parametrize("likelihood", WITH_TARGETS)
    def test_targets_are_left_alone(self, likelihood: str) -> None:
        targets = MLP.targets(likelihood)
        before = targets.clone()
        pb.fisher(MLP.module, (MLP.inputs, targets), likelihood, estimator="empirical")
        assert torch.equal(targets, before)

    @pytest.mark.parametrize("representation", REPRESENTATIONS)
    def test_results_carry_no_graph(self, representation: str) -> None:
        assert not measured(MLP, representation).diagonal().flat.requires_grad


class TestCentred:
    """The covariance of loss gradients: the second moment without the mean's square."""

    KINDS = ("dense", "block", "diagonal", "quasidiagonal", "lowrank", "implicit", "ekfac")

    def expected(self, case: Case) -> tuple[Tensor, Tensor]:
        """The second moment, and the square of the mean, (d, d)."""
        likelihood = case.likelihood
        gradients = torch.einsum("ncd,nc->nd", case.rows, case.score(likelihood))
        return gradients.T @ gradients / case.n, torch.outer(gradients.mean(0), gradients.mean(0))

    @pytest.mark.parametrize("representation", KINDS)
    @pytest.mark.parametrize("case", [case for case in CASES if not case.repeated][::9], ids=str)
    def test_it_is_the_covariance(self, case: Case, representation: str) -> None:
        moment, square = self.expected(case)
        metric = measured(case, representation, estimator="centred")
        v = metric.space.randn(seed=1).flat
        if representation in ("dense", "lowrank", "implicit"):
            assert_agree(metric.to_dense(), moment - square)
            assert_agree((metric @ metric.space.vector(v)).flat, (moment - square) @ v)
        assert_agree(metric.diagonal().flat.sum(), metric.trace())
        if representation != "ekfac":  # which has the trace, but not the diagonal
            assert_agree(metric.diagonal().flat, (moment - square).diagonal())
        assert_agree(metric.trace(), (moment - square).trace())

    def test_samples_of_the_implicit_one_have_it_as_covariance(self) -> None:
        case = named("mlp")
        metric = measured(case, "implicit", estimator="centred")
        check_covariance(metric.sample(seed=1, batch=(500,)).flat, metric.to_dense())

    def test_of_a_product_of_moments_there_is_none(self) -> None:
        with pytest.raises(pb.InputError, match=r"metric\.to\('block'\)"):
            measured(named("mlp"), "kfac", estimator="centred")

    def test_it_needs_targets(self) -> None:
        with pytest.raises(pb.InputError, match="targets"):
            pb.fisher(nn.Linear(3, 2), torch.zeros(4, 3), estimator="centred")


def test_a_penalty_can_be_trained() -> None:
    """Elastic weight consolidation: the gradient of v F v / 2 by the parameters is F v."""
    module, anchor = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for representation in ("dense", "diagonal", "kfac", "ekfac", "quasidiagonal"):
        metric = pb.fisher(anchor, x, representation=representation)
        start = pb.ParameterVector.from_model(anchor)
        move = metric.space.vector(dict(module.named_parameters())) - start
        module.zero_grad()
        (move @ metric @ move / 2).backward()
        expected = metric @ (pb.ParameterVector.from_model(module) - start)
        assert_agree(pb.ParameterVector.from_gradients(module).flat, expected.flat)
