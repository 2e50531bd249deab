"""Kernel regression against explicit features: least squares, refits, the smallest displacement."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from pullback.kernels.kernel import Kernel
from pullback.kernels.regression import (
    KernelRegression,
    class_targets,
    kernel_regression,
    project,
)
from pullback.kernels.solvers import ConjugateGradients, Direct
from tests import reference
from tests.checks import REFUSED, SINGLE, assert_agree

TRAIN, NEW = 8, 4


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built(*layers: nn.Module) -> nn.Module:
    """The layers with the same parameters in each run, none of them zero."""
    module = nn.Sequential(*layers).double()
    for seed, parameter in enumerate(module.parameters()):
        parameter.data = drawn(*parameter.shape, seed=seed) / math.sqrt(parameter[0].numel())
    return module


MODULES = {
    "mlp": (built(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), (4,)),
    "conv": (
        built(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Conv2d(4, 2, 2), nn.Flatten(), nn.Linear(18, 3)),
        (1, 6, 6),
    ),
}


@dataclass(frozen=True)
class Setup:
    """A network of three outputs, two data sets, a choice of outputs, and k functions to learn."""

    model: str
    outputs: str | int | tuple[int, int]
    functions: int = 1

    def __str__(self) -> str:
        return f"{self.model}-{self.outputs}-{self.functions}"

    @property
    def module(self) -> nn.Module:
        return MODULES[self.model][0]

    @cached_property
    def inputs(self) -> Tensor:
        return drawn(TRAIN + NEW, *MODULES[self.model][1], seed=1)

    @property
    def x(self) -> Tensor:
        return self.inputs[:TRAIN]

    @property
    def new(self) -> Tensor:
        return self.inputs[TRAIN:]

    @cached_property
    def kernel(self) -> pb.TangentKernel:
        return pb.tangent_kernel(self.module, self.x, outputs=self.outputs)

    @cached_property
    def cross(self) -> pb.TangentKernel:
        return pb.tangent_kernel(self.module, self.new, self.x, self.outputs)

    @cached_property
    def _all_features(self) -> Tensor:
        rows = reference.jacobian(self.module, self.inputs)
        if self.outputs == "all":
            return rows
        if self.outputs == "sum":
            return rows.flatten(1)
        if isinstance(self.outputs, int):
            return rows[:, self.outputs]
        first, second = self.outputs
        return rows[:, second] - rows[:, first]

    @property
    def features(self) -> Tensor:
        """One row of derivatives for each number to learn, (r, d)."""
        return self._all_features[:TRAIN].flatten(0, -2)

    @property
    def new_features(self) -> Tensor:
        return self._all_features[TRAIN:].flatten(0, -2)

    @property
    def tail(self) -> tuple[int, ...]:
        """What follows the samples in the shape of the targets."""
        if self.outputs == "all":
            return (3,)
        return () if self.functions == 1 else (self.functions,)

    @cached_property
    def targets(self) -> Tensor:
        return drawn(TRAIN, *self.tail, seed=2)

    @cached_property
    def prior(self) -> Tensor:
        return drawn(TRAIN, *self.tail, seed=3)

    @cached_property
    def new_prior(self) -> Tensor:
        return drawn(NEW, *self.tail, seed=4)

    @property
    def wanted(self) -> Tensor:
        """`y - f0` in columns, (r, k)."""
        return (self.targets - self.prior).reshape(len(self.features), -1)

    def shaped(self, displacement: Tensor) -> Tensor:
        """`f0 + Phi w` at the new samples, for parameters in columns (d, k)."""
        return self.new_prior + (self.new_features @ displacement).reshape(NEW, *self.tail)

    def fit(self, ridge: float = 0.0, **options: object) -> KernelRegression:
        return kernel_regression(self.kernel, self.targets, ridge, self.prior, **options)


SETUPS = [
    Setup("mlp", "all"),
    Setup("mlp", "sum"),
    Setup("mlp", "sum", functions=2),
    Setup("mlp", 1),
    Setup("conv", "all"),
    Setup("conv", "sum", functions=3),
    Setup("conv", (0, 2)),
]
ALL = SETUPS[0]
SUM = SETUPS[1]
SEVERAL = SETUPS[2]
RIDGES = [0.0, 0.01, 30.0]


def least_squares(features: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """The parameters that minimise `|Phi w - wanted|^2 + ridge |w|^2`, the shortest of them."""
    size = features.shape[1]
    stacked = torch.cat([features, math.sqrt(ridge) * torch.eye(size, dtype=torch.float64)])
    zeros = torch.zeros(size, wanted.shape[1], dtype=torch.float64)
    return torch.linalg.lstsq(stacked, torch.cat([wanted, zeros]), driver="gelsd").solution


def gram(matrix: Tensor) -> pb.TangentKernel:
    """A kernel of one output from its matrix."""
    return pb.TangentKernel(matrix, 1, symmetric=True)


class ByProducts(Kernel):
    """A kernel of which only products are known, counted."""

    def __init__(self, kernel: pb.TangentKernel) -> None:
        self.kernel, self.products = kernel, 0
        self.outputs, self.symmetric = kernel.outputs, kernel.symmetric

    @property
    def rows(self) -> tuple[int, ...]:
        return self.kernel.rows

    @property
    def columns(self) -> tuple[int, ...]:
        return self.kernel.columns

    @property
    def _like(self) -> Tensor:
        return self.kernel.matrix

    def _product(self, flat: Tensor) -> Tensor:
        self.products += len(flat)
        return flat @ self.kernel.flat.T

    def diagonal(self) -> Tensor:
        raise AssertionError("products are all there is")

    def norm(self) -> float:
        raise AssertionError("products are all there is")


@pytest.mark.parametrize("setup", SETUPS, ids=str)
class TestAgainstFeatures:
    @pytest.mark.parametrize("ridge", RIDGES)
    def test_predictions_are_those_of_ridge_regression_in_the_parameters_003_3_1_2(
        self, setup: Setup, ridge: float
    ) -> None:
        found = setup.fit(ridge).predict(setup.cross, setup.new_prior)
        assert_agree(found, setup.shaped(least_squares(setup.features, setup.wanted, ridge)))

    @pytest.mark.parametrize("ridge", RIDGES)
    def test_the_squared_norm_is_that_of_the_displacement_000_t20(
        self, setup: Setup, ridge: float
    ) -> None:
        expected = least_squares(setup.features, setup.wanted, ridge).square().sum(0)
        found = setup.fit(ridge).squared_norm()
        assert found.shape == (() if len(expected) == 1 else expected.shape)
        assert_agree(found.reshape(-1), expected)

    def test_without_a_ridge_it_interpolates(self, setup: Setup) -> None:
        assert_agree(setup.fit().predict(setup.kernel, setup.prior), setup.targets)

    def test_without_a_ridge_the_squared_norm_is_that_of_the_inverse_kernel(
        self, setup: Setup
    ) -> None:
        """000 T20, 004 section 5: `(y - f0) K^-1 (y - f0)`."""
        inverse = torch.linalg.inv(setup.features @ setup.features.T)
        expected = torch.einsum("rk,rs,sk->k", setup.wanted, inverse, setup.wanted)
        assert_agree(setup.fit().squared_norm().reshape(-1), expected)

    def test_what_is_left_on_the_training_samples_is_the_ridge_times_the_coefficients(
        self, setup: Setup
    ) -> None:
        fit = setup.fit(0.3)
        left = setup.targets - fit.predict(setup.kernel, setup.prior)
        assert_agree(0.3 * fit.coefficients, left)

    def test_a_mean_objective_has_n_times_its_penalty_as_ridge_004_eq_2(self, setup: Setup) -> None:
        penalty, features = 0.02, setup.features
        inside = features.T @ features / TRAIN
        inside.diagonal().add_(penalty)
        minimum = torch.linalg.solve(inside, features.T @ setup.wanted / TRAIN)
        found = setup.fit(TRAIN * penalty).predict(setup.cross, setup.new_prior)
        assert_agree(found, setup.shaped(minimum))

    @pytest.mark.parametrize("ridge", RIDGES)
    def test_leaving_out_a_sample_is_fitting_again_without_it(
        self, setup: Setup, ridge: float
    ) -> None:
        left = []
        for own in torch.arange(len(setup.features)).chunk(TRAIN):
            rest = [row for row in range(len(setup.features)) if row not in own]
            displacement = least_squares(setup.features[rest], setup.wanted[rest], ridge)
            left.append(setup.wanted[own] - setup.features[own] @ displacement)
        expected = torch.cat(left).reshape(setup.targets.shape)
        assert_agree(setup.fit(ridge).leave_one_out(), expected)

    def test_the_kernel_and_the_targets_are_left_alone(self, setup: Setup) -> None:
        matrix = setup.kernel.matrix.contiguous()
        kernel, targets = replace(setup.kernel, matrix=matrix), setup.targets.clone()
        before = matrix.clone()
        kernel_regression(kernel, targets, 0.5).leave_one_out()
        assert torch.equal(matrix, before)
        assert torch.equal(targets, setup.targets)

    def test_single_precision(self, setup: Setup) -> None:
        kernel = replace(setup.kernel, matrix=setup.kernel.matrix.float())
        cross = replace(setup.cross, matrix=setup.cross.matrix.float())
        fit = kernel_regression(kernel, setup.targets, 3.0, setup.prior)
        found = fit.predict(cross, setup.new_prior)
        assert found.dtype == torch.float32
        assert_agree(found, setup.fit(3.0).predict(setup.cross, setup.new_prior), SINGLE)


@pytest.mark.parametrize("setup", SETUPS, ids=str)
class TestConjugateGradients:
    solver = ConjugateGradients(rank=5, tolerance=1e-13)

    @pytest.mark.parametrize("ridge", [0.01, 30.0])
    def test_they_find_the_direct_solution(self, setup: Setup, ridge: float) -> None:
        found = setup.fit(ridge, solver=self.solver)
        assert_agree(found.coefficients, setup.fit(ridge, solver="direct").coefficients)

    def test_a_kernel_that_is_known_by_products_alone_is_enough(self, setup: Setup) -> None:
        kernel = ByProducts(setup.kernel)
        fit = kernel_regression(kernel, setup.targets, 0.01, setup.prior, solver=self.solver)
        direct = setup.fit(0.01)
        found = fit.predict(ByProducts(setup.cross), setup.new_prior)
        assert_agree(found, direct.predict(setup.cross, setup.new_prior))
        assert_agree(fit.squared_norm(), direct.squared_norm())

    def test_the_default_tolerance_is_kept(self, setup: Setup) -> None:
        fit = kernel_regression(setup.kernel, setup.targets, 0.01, setup.prior, solver="cg")
        left = setup.targets - fit.predict(setup.kernel, setup.prior) - 0.01 * fit.coefficients
        assert float(left.norm()) <= 1.01e-8 * float((setup.targets - setup.prior).norm())

    def test_rank_and_seed_change_nothing_but_the_way(self, setup: Setup) -> None:
        one = setup.fit(0.1, solver=replace(self.solver, rank=0)).coefficients
        other = setup.fit(0.1, solver=replace(self.solver, rank=9, seed=7)).coefficients
        assert_agree(one, other)


@pytest.mark.parametrize("setup", SETUPS, ids=str)
class TestOtherWaysToHoldAKernel:
    solver = ConjugateGradients(tolerance=1e-13)

    def test_a_network_is_fitted_without_ever_forming_its_kernel(self, setup: Setup) -> None:
        options = {"outputs": setup.outputs, "representation": "implicit"}
        kernel = pb.tangent_kernel(setup.module, setup.x, **options)
        cross = pb.tangent_kernel(setup.module, setup.new, setup.x, **options)
        fit = kernel_regression(kernel, setup.targets, 0.05, setup.prior, self.solver)
        found, expected = fit.predict(cross, setup.new_prior), setup.fit(0.05)
        assert_agree(found, expected.predict(setup.cross, setup.new_prior))
        assert_agree(fit.squared_norm(), expected.squared_norm())

    def test_a_kernel_on_disk_is_fitted(self, setup: Setup, tmp_path: Path) -> None:
        kernel = pb.tangent_kernel(setup.module, setup.x, outputs=setup.outputs, store=tmp_path)
        fit = kernel_regression(kernel, setup.targets, 0.05, setup.prior, self.solver)
        assert_agree(fit.coefficients, setup.fit(0.05).coefficients)


class TestSolvers:
    def test_a_kernel_of_products_is_solved_by_conjugate_gradients_by_default(self) -> None:
        kernel = ByProducts(SUM.kernel)
        kernel_regression(kernel, SUM.targets, 0.1)
        assert kernel.products > TRAIN

    def test_a_matrix_is_solved_directly_by_default(self) -> None:
        default = SUM.fit(0.1).coefficients
        assert torch.equal(default, SUM.fit(0.1, solver=Direct()).coefficients)

    @pytest.mark.parametrize("functions", [1, 3])
    def test_the_preconditioner_saves_most_of_the_products(self, functions: int) -> None:
        """A spectrum 1 / j^2 over a ridge far below it, as kernels have."""
        size = 300
        basis = torch.linalg.qr(drawn(size, size)).Q
        values = 1 / torch.arange(1, size + 1, dtype=torch.float64) ** 2
        targets = drawn(size, functions, seed=1)
        needed = {}
        for rank in (0, 50):
            kernel = ByProducts(gram(basis * values @ basis.T))
            kernel_regression(kernel, targets, 1e-5, solver=ConjugateGradients(rank=rank))
            needed[rank] = (kernel.products - rank) / functions
        assert needed[50] < needed[0] / 4

    def test_a_consistent_singular_system_needs_no_ridge(self) -> None:
        """Its smallest solution interpolates, though the kernel has rank 4."""
        features = drawn(10, 4)
        kernel, targets = gram(features @ features.T), features @ drawn(4, seed=1)
        solver = ConjugateGradients(tolerance=1e-12)
        assert_agree(kernel_regression(kernel, targets, solver=solver).predict(kernel), targets)

    def test_targets_of_zero_have_coefficients_of_zero(self) -> None:
        zeros = torch.zeros(TRAIN, dtype=torch.float64)
        assert torch.equal(kernel_regression(SUM.kernel, zeros, solver="cg").coefficients, zeros)


class TestTargets:
    @pytest.mark.parametrize("j", [0, 1])
    def test_functions_that_share_a_kernel_are_fitted_each_by_itself(self, j: int) -> None:
        together, targets, prior = SEVERAL.fit(0.1), SEVERAL.targets[:, j], SEVERAL.prior[:, j]
        alone = kernel_regression(SEVERAL.kernel, targets, 0.1, prior)
        assert_agree(together.coefficients[:, j], alone.coefficients)
        assert_agree(together.leave_one_out()[:, j], alone.leave_one_out())
        assert_agree(together.squared_norm()[j], alone.squared_norm())

    def test_without_a_prior_it_is_zero(self) -> None:
        zeros = torch.zeros_like(ALL.targets)
        with_zeros = kernel_regression(ALL.kernel, ALL.targets, 0.1, zeros)
        without = kernel_regression(ALL.kernel, ALL.targets, 0.1)
        found = without.predict(ALL.cross)
        assert_agree(with_zeros.predict(ALL.cross, torch.zeros_like(found)), found)

    def test_far_from_the_training_samples_the_prediction_is_the_prior(self) -> None:
        cross = replace(ALL.cross, matrix=torch.zeros_like(ALL.cross.matrix))
        assert torch.equal(ALL.fit(0.1).predict(cross, ALL.new_prior), ALL.new_prior)

    def test_outputs_of_the_network_serve_as_prior_with_their_graph(self) -> None:
        outputs = ALL.module(ALL.x)
        assert outputs.requires_grad
        fit = kernel_regression(ALL.kernel, ALL.targets, 0.1, outputs, solver="cg")
        found = fit.predict(ALL.cross, ALL.module(ALL.new))
        assert not found.requires_grad

    def test_targets_of_one_output_need_no_dimension_for_it(self) -> None:
        module = built(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
        x, new, y = drawn(6, 4), drawn(3, 4, seed=1), drawn(6, seed=2)
        kernel, cross = pb.tangent_kernel(module, x), pb.tangent_kernel(module, new, x)
        found = kernel_regression(kernel, y, 0.1).predict(cross)
        expected = kernel_regression(kernel, y[:, None], 0.1).predict(cross)
        assert found.shape == (3,)
        assert_agree(found, expected[:, 0])

    def test_a_single_sample_left_out_leaves_the_prior(self) -> None:
        kernel = gram(torch.tensor([[2.0]], dtype=torch.float64))
        fit = kernel_regression(kernel, torch.tensor([3.0]), 1.0, torch.tensor([0.5]))
        assert_agree(fit.leave_one_out(), torch.tensor([2.5], dtype=torch.float64))


class TestLabels:
    labels = torch.tensor([0, 2, 1, 1, 2, 0, 0, 1])

    def test_they_are_coded_around_zero(self) -> None:
        third = 1 / 3
        expected = [[-third, -third, 2 * third], [2 * third, -third, -third]]
        found = class_targets(torch.tensor([2, 0]))
        assert_agree(found, torch.tensor(expected, dtype=torch.float64))

    @pytest.mark.parametrize("setup", [ALL, SUM], ids=str)
    def test_they_are_fitted_as_their_coding(self, setup: Setup) -> None:
        coded = torch.eye(3, dtype=torch.float64)[self.labels] - 1 / 3
        found = kernel_regression(setup.kernel, self.labels, 0.1).predict(setup.cross)
        expected = kernel_regression(setup.kernel, coded, 0.1).predict(setup.cross)
        assert found.shape == (NEW, 3)
        assert_agree(found, expected)

    @pytest.mark.parametrize("setup", [ALL, SUM], ids=str)
    def test_the_largest_interpolated_value_is_the_label(self, setup: Setup) -> None:
        found = kernel_regression(setup.kernel, self.labels).predict(setup.kernel)
        assert torch.equal(found.argmax(-1), self.labels)

    def test_a_class_that_the_samples_lack_is_still_there(self) -> None:
        fit = kernel_regression(SUM.kernel, self.labels % 2, 0.1)
        assert fit.coefficients.shape == (TRAIN, 3)

    def test_a_kernel_of_one_function_learns_more_classes_than_the_network_has(self) -> None:
        fit = kernel_regression(SUM.kernel, self.labels + 2, 0.1)
        assert fit.coefficients.shape == (TRAIN, 5)

    def test_a_kernel_of_pairs_has_a_class_for_each_of_its_outputs(self) -> None:
        """Two differences of outputs, of a network that has three."""
        weights = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
        kernel = pb.tangent_kernel(ALL.module, ALL.x, outputs=weights)
        fit = kernel_regression(kernel, self.labels % 2, 0.1)
        assert_agree(fit.problem.targets, torch.eye(2).double()[self.labels % 2] - 0.5)

    def test_separable_classes_are_recognised(self) -> None:
        """Two clouds that are far apart, by a network at random parameters."""
        module = built(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
        labels = torch.arange(12) % 2
        x = drawn(12, 2) * 0.3 + 3 * labels[:, None] - 1.5
        fit = kernel_regression(pb.tangent_kernel(module, x[:8]), labels[:8], 0.01)
        found = fit.predict(pb.tangent_kernel(module, x[8:], x[:8]))
        assert torch.equal(found.argmax(-1), labels[8:])
        left_out = fit.problem.targets - fit.leave_one_out()
        assert torch.equal(left_out.argmax(-1), labels[:8])


@pytest.mark.parametrize("setup", [s for s in SETUPS if s.functions == 1], ids=str)
class TestProjection:
    def test_training_samples_are_where_their_components_are(self, setup: Setup) -> None:
        expected = setup.kernel.principal_components(4)
        assert_agree(project(setup.kernel, setup.kernel, 4), expected)

    def test_new_samples_are_projected_on_the_components_of_the_features(
        self, setup: Setup
    ) -> None:
        features = setup.features
        mean = features.mean(0)
        _, _, axes = torch.linalg.svd(features - mean, full_matrices=False)
        expected = (setup.new_features - mean) @ axes[:3].T
        assert_agree(project(setup.kernel, setup.cross, 3).abs(), expected.abs())

    def test_all_components_keep_the_distances_between_training_samples(self, setup: Setup) -> None:
        count = len(setup.features)
        found = project(setup.kernel, setup.kernel, count)
        assert_agree(torch.cdist(found, found), torch.cdist(setup.features, setup.features), 1e-6)


class TestProjectionOfFewDirections:
    def test_directions_without_variation_have_no_coordinate(self) -> None:
        features, new = drawn(6, 2), drawn(3, 2, seed=1)
        kernel = gram(features @ features.T)
        cross = pb.TangentKernel(new @ features.T, 1, symmetric=False)
        found = project(kernel, cross, 5)
        assert torch.equal(found[:, 2:], torch.zeros(3, 3, dtype=torch.float64))
        assert_agree(found.norm(dim=1), (new - features.mean(0)).norm(dim=1))


class TestBadInput:
    @pytest.mark.parametrize("ridge", [-1e-3, math.nan, math.inf])
    def test_a_ridge_that_is_none(self, ridge: float) -> None:
        with pytest.raises(pb.InputError, match="ridge"):
            ALL.fit(ridge)

    @pytest.mark.parametrize("setup", [ALL, SUM], ids=str)
    def test_targets_of_another_length(self, setup: Setup) -> None:
        with pytest.raises(pb.InputError, match=r"targets.*8"):
            kernel_regression(setup.kernel, setup.targets[:-1], 0.1)

    def test_targets_of_other_outputs(self) -> None:
        with pytest.raises(pb.InputError, match=r"targets.*\(8, 3\)"):
            kernel_regression(ALL.kernel, ALL.targets[:, :2], 0.1)

    def test_one_target_for_several_outputs(self) -> None:
        with pytest.raises(pb.InputError, match=r"targets.*\(8, 3\)"):
            kernel_regression(ALL.kernel, ALL.targets[:, 0], 0.1)

    @pytest.mark.parametrize("setup", [ALL, SUM], ids=str)
    def test_labels_of_another_length(self, setup: Setup) -> None:
        with pytest.raises(pb.InputError, match=r"targets.*8"):
            kernel_regression(setup.kernel, torch.tensor([0, 1, 2]), 0.1)

    @pytest.mark.parametrize("setup", [ALL, SUM], ids=str)
    def test_negative_labels(self, setup: Setup) -> None:
        with pytest.raises(pb.InputError, match=r"labels.*-1"):
            kernel_regression(setup.kernel, torch.tensor([-1, 1] * 4), 0.1)

    def test_labels_beyond_the_outputs(self) -> None:
        with pytest.raises(pb.InputError, match=r"labels.*3 classes"):
            kernel_regression(ALL.kernel, torch.tensor([0, 3] * 4), 0.1)

    @pytest.mark.parametrize("setup", [ALL, SUM], ids=str)
    def test_no_labels(self, setup: Setup) -> None:
        with pytest.raises(pb.InputError, match="labels"):
            kernel_regression(setup.kernel, torch.zeros(0, dtype=torch.long), 0.1)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    @pytest.mark.parametrize("name", ["targets", "prior"])
    def test_numbers_that_are_not_finite(self, name: str, bad: float) -> None:
        given = {"targets": ALL.targets, "prior": ALL.prior}
        given[name] = given[name].clone()
        given[name][2, 1] = bad
        with pytest.raises(pb.InputError, match=name):
            kernel_regression(ALL.kernel, given["targets"], 0.1, given["prior"])

    @pytest.mark.parametrize("solver", ["direct", "cg"])
    def test_a_kernel_that_is_not_finite(self, solver: str) -> None:
        matrix = ALL.kernel.matrix.clone()
        matrix[0, 0, 0, 0] = math.nan
        with pytest.raises(pb.InputError, match="kernel"):
            kernel_regression(replace(ALL.kernel, matrix=matrix), ALL.targets, 0.1, solver=solver)

    def test_products_that_are_not_finite(self) -> None:
        matrix = SUM.kernel.matrix.clone()
        matrix[3, 3] = math.inf
        kernel = ByProducts(replace(SUM.kernel, matrix=matrix))
        with pytest.raises(pb.InputError, match="kernel.*NaN"):
            kernel_regression(kernel, SUM.targets, 0.1)

    def test_a_kernel_between_two_sets(self) -> None:
        with pytest.raises(pb.InputError, match="kernel"):
            kernel_regression(ALL.cross, ALL.targets[:NEW], 0.1)

    def test_a_kernel_of_each_output(self) -> None:
        kernel = pb.tangent_kernel(ALL.module, ALL.x, outputs="each")
        with pytest.raises(pb.InputError, match="kernel.*each"):
            kernel_regression(kernel, ALL.targets, 0.1)

    def test_a_prior_of_another_shape(self) -> None:
        with pytest.raises(pb.InputError, match="prior"):
            kernel_regression(ALL.kernel, ALL.targets, 0.1, ALL.prior[:, 0])

    def test_a_prior_for_the_training_samples_alone(self) -> None:
        with pytest.raises(pb.InputError, match="prior.*both"):
            ALL.fit(0.1).predict(ALL.cross)

    def test_a_prior_for_the_new_samples_alone(self) -> None:
        with pytest.raises(pb.InputError, match="prior.*both"):
            kernel_regression(ALL.kernel, ALL.targets, 0.1).predict(ALL.cross, ALL.new_prior)

    def test_a_prior_of_other_new_samples(self) -> None:
        with pytest.raises(pb.InputError, match="prior"):
            ALL.fit(0.1).predict(ALL.cross, ALL.new_prior[:-1])

    def test_a_cross_kernel_with_other_training_samples(self) -> None:
        cross = pb.tangent_kernel(ALL.module, ALL.new, ALL.x[:-1])
        with pytest.raises(pb.InputError, match=r"cross.*\(8, 3\)"):
            ALL.fit(0.1).predict(cross, ALL.new_prior)

    def test_a_cross_kernel_the_wrong_way_round(self) -> None:
        cross = pb.tangent_kernel(ALL.module, ALL.x, ALL.new)
        with pytest.raises(pb.InputError, match="cross"):
            ALL.fit(0.1).predict(cross, ALL.prior)

    def test_a_cross_kernel_of_other_outputs(self) -> None:
        with pytest.raises(pb.InputError, match="cross"):
            ALL.fit(0.1).predict(SUM.cross, ALL.new_prior)

    def test_a_cross_kernel_of_other_outputs_for_components(self) -> None:
        with pytest.raises(pb.InputError, match="cross"):
            project(ALL.kernel, SUM.cross)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("setup", [ALL, SUM], ids=str)
    def test_a_duplicate_without_a_ridge_is_named(self, setup: Setup, dtype: torch.dtype) -> None:
        x = setup.x.clone()
        x[5] = x[2]
        kernel = pb.tangent_kernel(setup.module, x, outputs=setup.outputs)
        kernel = replace(kernel, matrix=kernel.matrix.to(dtype))
        with pytest.raises(
            pb.InputError, match=r"ridge: 0.* [25] is determined.*duplicate.*be enough"
        ):
            kernel_regression(kernel, setup.targets)

    @pytest.mark.parametrize("representation", ["dense", "implicit"])
    def test_a_duplicate_with_another_target_has_no_solution_by_products_either(
        self, representation: str
    ) -> None:
        x = SUM.x.clone()
        x[5] = x[2]
        kernel = pb.tangent_kernel(SUM.module, x, outputs="sum", representation=representation)
        with pytest.raises(
            pb.InputError, match=r"ridge: 0.*singular \(a duplicate.*raise the ridge"
        ):
            kernel_regression(kernel, SUM.targets, solver="cg")

    def test_leaving_out_one_of_two_that_are_the_same_needs_a_ridge(self) -> None:
        """A fit by conjugate gradients exists, if both have the same target."""
        x, targets = SUM.x.clone(), SUM.targets.clone()
        x[5], targets[5] = x[2], targets[2]
        fit = kernel_regression(
            pb.tangent_kernel(SUM.module, x, outputs="sum"), targets, solver="cg"
        )
        with pytest.raises(pb.InputError, match=r"ridge: 0.*sample [25] .*duplicate.*be enough"):
            fit.leave_one_out()

    def test_more_numbers_than_parameters_without_a_ridge(self) -> None:
        features = drawn(30, 7)
        with pytest.raises(pb.InputError, match="ridge.*parameters"):
            kernel_regression(gram(features @ features.T), drawn(30, seed=1))

    def test_a_duplicate_with_the_ridge_that_the_message_gives(self) -> None:
        x = SUM.x.clone()
        x[5] = x[2]
        kernel = pb.tangent_kernel(SUM.module, x, outputs="sum")
        with pytest.raises(pb.InputError, match="would be enough") as caught:
            kernel_regression(kernel, SUM.targets)
        enough = float(str(caught.value).split("; ")[-1].split()[0])
        fit = kernel_regression(kernel, SUM.targets, enough)
        found = fit.predict(kernel)
        assert_agree(found[2], SUM.targets[[2, 5]].mean(), 1e-4)

    def test_a_singular_system_that_conjugate_gradients_cannot_solve(self) -> None:
        features = drawn(30, 7)
        kernel, targets = gram(features @ features.T), drawn(30, seed=1)
        with pytest.raises(pb.InputError, match="ridge.*conjugate"):
            kernel_regression(kernel, targets, solver=ConjugateGradients(iterations=50))

    @pytest.mark.parametrize("solver", ["cholesky", 3], ids=str)
    def test_an_unknown_solver(self, solver: object) -> None:
        with pytest.raises(REFUSED, match="solver"):
            ALL.fit(0.1, solver=solver)

    @pytest.mark.parametrize(
        "options",
        [{"rank": -1}, {"iterations": 0}, {"tolerance": 0.0}, {"tolerance": 2.0}],
        ids=str,
    )
    def test_numbers_that_make_no_solver(self, options: dict[str, float]) -> None:
        with pytest.raises(pb.InputError, match="solver"):
            ConjugateGradients(**options)

    def test_a_direct_solution_without_a_matrix(self) -> None:
        with pytest.raises(pb.InputError, match="kernel.*cg"):
            kernel_regression(ByProducts(SUM.kernel), SUM.targets, 0.1, solver="direct")

    def test_leaving_out_samples_without_a_matrix(self) -> None:
        with pytest.raises(pb.InputError, match="kernel.*matrix"):
            kernel_regression(ByProducts(SUM.kernel), SUM.targets, 0.1).leave_one_out()

    @pytest.mark.parametrize("k", [0, -1, TRAIN + 1])
    def test_components_that_there_are_not(self, k: int) -> None:
        with pytest.raises(pb.InputError, match="k:"):
            project(SUM.kernel, SUM.cross, k)
