"""The twin itself, against closed forms, printed digits and finite differences.

Everything else trusts the twin, so it is checked here against things that are not autograd.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tests import reference
from tests.cases import CASES, LIKELIHOODS, WITH_TARGETS, Case, golden_module, golden_numbers, named

GOLDEN = golden_numbers()
PRINTED = [key for key in GOLDEN if isinstance(key, tuple) and key[1] != "solve"]


def relative(actual: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest entry."""
    return float((actual - expected).abs().max() / expected.abs().max())


def finite_difference_rows(case: Case, step: float = 1e-6) -> Tensor:
    """The Jacobian by central differences in every parameter entry."""
    module, inputs = case.fresh()
    columns = []
    for parameter in module.parameters():
        flat = parameter.data.view(-1)
        for index in range(len(flat)):
            kept = float(flat[index])
            flat[index] = kept + step
            above = reference.one_by_one(module, inputs, case.readout)
            flat[index] = kept - step
            below = reference.one_by_one(module, inputs, case.readout)
            flat[index] = kept
            columns.append((above - below) / (2 * step))
    return torch.stack(columns, dim=2)


class TestJacobian:
    @pytest.mark.parametrize("name", ["linear on sequences", "embedding", "layer norm", "conv1d"])
    def test_it_agrees_with_finite_differences(self, name: str) -> None:
        case = named(name)
        assert relative(case.rows, finite_difference_rows(case)) < 1e-7

    def test_rows_of_a_linear_layer_are_inputs_and_ones(self) -> None:
        module, x = nn.Linear(3, 2).double(), torch.randn(4, 3, dtype=torch.float64)
        rows = reference.jacobian(module, x)
        zero = torch.zeros(4, 3, dtype=torch.float64)
        one = torch.ones(4, 1, dtype=torch.float64)
        first = torch.cat([x, zero, one, 0 * one], dim=1)
        second = torch.cat([zero, x, 0 * one, one], dim=1)
        assert torch.equal(rows, torch.stack([first, second], dim=1))

    def test_frozen_parameters_have_no_columns(self) -> None:
        case = named("frozen layers")
        assert case.d == 25 + 18

    def test_named_parameters_can_be_chosen(self) -> None:
        case = named("mlp")
        rows = reference.jacobian(case.module, case.inputs, ["4.weight"])
        assert torch.equal(rows, case.rows[:, :, -18:-3])

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_outputs_of_a_sample_do_not_depend_on_the_other_samples(self, case: Case) -> None:
        with torch.no_grad():
            together = reference.evaluate(case.module, case.inputs, case.readout)
        assert relative(together, case.outputs) < 1e-12


class TestOutputMetrics:
    outputs = torch.tensor([[1.0, 0.5, -2.0], [0.0, 3.0, 1.0]], dtype=torch.float64)

    def test_categorical_is_the_covariance_of_the_score_over_all_labels(self) -> None:
        expected = torch.zeros(2, 3, 3, dtype=torch.float64)
        for label in range(3):
            targets = torch.full((2,), label)
            score = reference.score("categorical", self.outputs, targets)
            p = self.outputs.softmax(1)[:, label, None, None]
            expected += p * reference.outer(score)
        actual = reference.output_metric("categorical", self.outputs)
        assert relative(actual, expected) < 1e-15

    def test_bernoulli_is_the_covariance_of_the_score_over_all_labels(self) -> None:
        expected = torch.zeros(2, 3, 3, dtype=torch.float64)
        for code in range(8):
            bits = torch.tensor([code >> k & 1 for k in range(3)], dtype=torch.float64)
            p = self.outputs.sigmoid()
            weight = torch.where(bits > 0, p, 1 - p).prod(1)[:, None, None]
            score = reference.score("bernoulli", self.outputs, bits.expand(2, 3))
            expected += weight * reference.outer(score)
        actual = reference.output_metric("bernoulli", self.outputs)
        assert relative(actual, expected) < 1e-15

    @pytest.mark.parametrize("likelihood", WITH_TARGETS)
    def test_score_is_minus_the_derivative_of_the_loss(self, likelihood: str) -> None:
        outputs = self.outputs.clone().requires_grad_()
        targets = {
            "categorical": torch.tensor([2, 1]),
            "bernoulli": torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]).double(),
            "gaussian": torch.tensor([[0.3, 0.2, 0.1], [1.5, -0.7, 0.0]]).double(),
        }[likelihood]
        loss = reference.negative_log_likelihood(likelihood, outputs, targets, variance=0.5)
        (gradient,) = torch.autograd.grad(2 * loss, outputs)
        score = reference.score(likelihood, self.outputs, targets, variance=0.5)
        assert relative(score, -gradient) < 1e-14

    def test_losses_are_the_log_probabilities_of_torch_distributions(self) -> None:
        targets = torch.tensor([[0.3, 0.2, 0.1], [1.5, -0.7, 0.0]]).double()
        normal = torch.distributions.Normal(self.outputs, math.sqrt(0.5))
        expected = -normal.log_prob(targets).sum(1).mean()
        actual = reference.negative_log_likelihood("gaussian", self.outputs, targets, 0.5)
        assert relative(actual, expected) < 1e-15

    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_metrics_are_symmetric_and_positive(self, likelihood: str) -> None:
        metric = reference.output_metric(likelihood, self.outputs)
        assert float(torch.linalg.eigvalsh(metric).min()) > -1e-16


class TestGoldenFixture:
    """003 G1: one softmax layer, two samples, digits as printed."""

    module, x = golden_module()
    rows = reference.jacobian(module, x)
    outputs = reference.one_by_one(module, x)
    exact = reference.fisher(rows, reference.output_metric("categorical", outputs))
    factors = reference.kfac_factors(module, "", x, reference.output_metric("categorical", outputs))

    def test_probabilities(self) -> None:
        rows = [[0.62245933, 0.37754067], [0.18242552, 0.81757448]]
        printed = torch.tensor(rows, dtype=torch.float64)
        assert torch.allclose(self.outputs.softmax(1), printed, rtol=0, atol=5e-9)

    def test_exact_fisher(self) -> None:
        assert torch.allclose(self.exact, GOLDEN["fisher"], rtol=0, atol=5e-9)

    def test_kronecker_factors(self) -> None:
        a = torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 1.0]]).double()
        b = 0.19207508 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
        assert torch.allclose(self.factors.a[0], a, rtol=0, atol=1e-14)
        assert torch.allclose(self.factors.b[0], b, rtol=0, atol=5e-9)

    @pytest.mark.parametrize(("representation", "quantity"), PRINTED)
    def test_numbers(self, representation: str, quantity: str) -> None:
        matrix = {
            "dense": self.exact,
            "diagonal": torch.diag(self.exact.diagonal()),
            "kfac": reference.kronecker_dense(self.factors, 6),
            "ekfac": reference.ekfac_dense(self.factors, self.exact),
        }[representation]
        v = GOLDEN["vector"]
        value = {
            "trace": matrix.trace(),
            "norm": matrix.norm(),
            "error": (matrix - self.exact).norm() / self.exact.norm(),
            "quadratic": v @ matrix @ v,
        }[quantity]
        assert float(value) == pytest.approx(GOLDEN[representation, quantity], abs=5e-11)

    @pytest.mark.parametrize("representation", ["dense", "kfac", "ekfac"])
    def test_solve(self, representation: str) -> None:
        matrix = {
            "dense": self.exact,
            "kfac": reference.kronecker_dense(self.factors, 6),
            "ekfac": reference.ekfac_dense(self.factors, self.exact),
        }[representation]
        damped = matrix + 0.1 * torch.eye(6, dtype=torch.float64)
        solution = torch.linalg.solve(damped, GOLDEN["vector"])
        assert torch.allclose(solution, GOLDEN[representation, "solve"], rtol=0, atol=5e-9)

    def test_tangent_kernel_is_the_same_for_both_outputs_and_zero_across(self) -> None:
        kernel = reference.tangent_kernel(self.rows)
        one = torch.tensor([[2.0, 2.0], [2.0, 6.0]]).double()
        assert torch.equal(kernel[:, 0, :, 0], one)
        assert torch.equal(kernel[:, 1, :, 1], one)
        assert float(kernel[:, 0, :, 1].abs().max()) == 0.0


class TestKroneckerFactors:
    def test_patches_of_a_convolution_are_those_of_unfold(self) -> None:
        layer = nn.Conv2d(2, 3, (3, 2), stride=(2, 1), dilation=(1, 2), padding=(2, 1)).double()
        x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
        unfolded = nn.functional.unfold(x, (3, 2), (1, 2), (2, 1), (2, 1))
        assert torch.equal(reference.patches(layer, x)[0].T, unfolded[0])

    @pytest.mark.parametrize(
        "name",
        [
            "linear on sequences",
            "conv1d with stride, dilation and padding",
            "conv1d same padding with an even kernel",
            "conv2d with groups",
            "conv2d circular padding",
            "conv2d replicate padding",
            "conv3d with groups and circular padding",
            "transposed conv1d with dilation and groups",
            "transposed conv2d with everything",
            "transposed conv3d",
            "module called twice",
        ],
    )
    def test_patches_times_the_weight_matrix_are_the_layers_output(self, name: str) -> None:
        case = named(name)
        layer = case.kronecker_layers[0]
        part = case.module.get_submodule(layer)
        slices = reference.flat_slices(case.module)
        values = torch.cat([p.detach().reshape(-1) for p in case.module.parameters()])
        index = reference.flat_index(part, slices[f"{layer}.weight"], slices.get(f"{layer}.bias"))
        entered, _ = reference.recorded(case.module, layer, case.inputs)
        given = entered[0][0]
        a = reference.patches(part, given)
        if f"{layer}.bias" in slices:
            a = torch.cat([a, torch.ones_like(a[..., :1])], dim=-1)
        expected = reference.position_gradients(part, part(given).detach())
        assert relative(a @ values[index].transpose(1, 2), expected) < 1e-13

    @pytest.mark.parametrize(
        "name", ["linear on sequences", "conv2d with groups", "transposed conv2d with everything"]
    )
    def test_gradients_and_patches_give_the_jacobian(self, name: str) -> None:
        case = named(name)
        layer = case.kronecker_layers[0]
        part = case.module.get_submodule(layer)
        slices = reference.flat_slices(case.module)
        weight, bias = slices[f"{layer}.weight"], slices.get(f"{layer}.bias")
        index = reference.flat_index(part, weight, bias)
        entered, returned = reference.recorded(case.module, layer, case.inputs)
        a = reference.patches(part, entered[2][0])
        a = torch.cat([a, torch.ones_like(a[..., :1])], dim=-1)[..., : index.shape[2]]
        g = reference.position_gradients(part, returned[2][1][0])
        assert relative(g.transpose(1, 2) @ a, case.rows[2, 1][index]) < 1e-13

    def test_one_sample_at_one_position_makes_the_blocks_exact(self) -> None:
        case = named("one sample")
        exact = case.fisher("categorical")
        metric = case.output_metric("categorical")
        factors = reference.kfac_factors(case.module, "0", case.inputs, metric)
        where = factors.index.reshape(-1)
        block = reference.kronecker_dense(factors, case.d)[where[:, None], where]
        assert relative(block, exact[where[:, None], where]) < 1e-14

    def test_the_difference_to_the_exact_block_is_a_covariance(self) -> None:
        """Proposition 4.2.1: F - B (x) A = cov(g g^T, a a^T)."""
        case = named("mlp")
        metric = case.output_metric("categorical")
        factors = reference.kfac_factors(case.module, "2", case.inputs, metric)
        entered, returned = reference.recorded(case.module, "2", case.inputs)
        products, firsts, seconds = [], [], []
        for i in range(case.n):
            a = torch.cat([entered[i][0][0], torch.ones(1, dtype=torch.float64)])
            g = torch.stack([by_output[0][0] for by_output in returned[i]])
            firsts.append(g.T @ metric[i] @ g)
            seconds.append(torch.outer(a, a))
            products.append(reference.kronecker(firsts[-1], seconds[-1]))
        mean = lambda parts: torch.stack(parts).mean(0)  # noqa: E731
        covariance = mean(products) - reference.kronecker(mean(firsts), mean(seconds))
        where = factors.index.reshape(-1)
        exact = case.fisher("categorical")[where[:, None], where]
        kfac = reference.kronecker_dense(factors, case.d)[where[:, None], where]
        assert relative(exact - kfac, covariance) < 1e-12

    def test_ekfac_leaves_the_least_error_of_all_diagonals_in_its_basis(self) -> None:
        """Lemma 1: no diagonal comes closer, and the error is |F|^2 - |S|^2."""
        case = named("mlp")
        exact = case.fisher("categorical")
        metric = case.output_metric("categorical")
        factors = reference.kfac_factors(case.module, "2", case.inputs, metric)
        where = factors.index.reshape(-1)
        block = exact[where[:, None], where]
        best = reference.ekfac_dense(factors, exact)[where[:, None], where]
        error = (block - best).norm() ** 2
        assert float(error) == pytest.approx(float(block.norm() ** 2 - best.norm() ** 2))


class TestKernelNumbers:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [((1, 1, 1, 1), 4.0), ((3, 1), 1.7547653506), ((4, 2, 1, 1), 3.3635856610)],
    )
    def test_effective_rank_003_3_6_6(self, values: tuple[int, ...], expected: float) -> None:
        rank = reference.effective_rank(torch.tensor(values, dtype=torch.float64))
        assert rank == pytest.approx(expected, abs=5e-11)

    def test_alignment_of_the_identity_with_labels_003_3_6_8(self) -> None:
        y = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
        identity = torch.eye(4, dtype=torch.float64)
        both = reference.centring(4, 1, "all")
        assert reference.alignment(identity, torch.outer(y, y), both) == pytest.approx(3**-0.5)
        uncentred = reference.alignment(identity, torch.outer(y, y), identity)
        assert uncentred == pytest.approx(0.5)

    def test_alignment_with_one_hot_labels_003_3_6_8(self) -> None:
        kernel = reference.label_kernel(torch.tensor([0, 1]), 2)
        identity = torch.eye(4, dtype=torch.float64)
        both = reference.centring(2, 2, "all")
        assert reference.alignment(identity, kernel, both) == pytest.approx(0.5773502692)

    def test_centring_over_samples_is_that_of_the_features(self) -> None:
        case = named("mlp")
        centred = case.rows - case.rows.mean(0, keepdim=True)
        flat = case.rows.reshape(-1, case.d)
        projection = reference.centring(case.n, case.c, "samples")
        actual = projection @ flat @ flat.T @ projection
        expected = centred.reshape(-1, case.d) @ centred.reshape(-1, case.d).T
        assert relative(actual, expected) < 1e-13

    def test_trace_ratios_count_the_largest_first(self) -> None:
        values = torch.tensor([1.0, 4.0, 3.0, 2.0])
        assert reference.trace_ratios(values, [1, 2, 4]) == pytest.approx([0.4, 0.7, 1.0])


def test_the_kernel_and_the_metric_share_their_spectrum_apart_from_zeros() -> None:
    case = named("mlp")
    kernel = reference.tangent_kernel(case.rows).reshape(case.n * case.c, -1)
    metric = reference.fisher(case.rows, case.output_metric("euclidean"))
    one = torch.linalg.eigvalsh(kernel).flip(0)[: case.n * case.c]
    two = torch.linalg.eigvalsh(metric).flip(0)[: case.n * case.c]
    assert relative(two * case.n, one) < 1e-13
