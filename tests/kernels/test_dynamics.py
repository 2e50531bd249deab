"""Closed-form trajectories against descent itself: step by step, by an ODE solver, by a network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, getcontext

import numpy
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import solve_ivp
from torch import Tensor, nn

import pullback as pb
from pullback.kernels.dynamics import (
    StepModes,
    Trajectory,
    gradient_descent,
    gradient_flow,
    step_modes,
)
from pullback.kernels.regression import kernel_regression
from tests.checks import SINGLE, assert_agree
from tests.kernels.test_regression import (
    ALL,
    NEW,
    SETUPS,
    SEVERAL,
    SUM,
    TRAIN,
    ByProducts,
    Setup,
    built,
    drawn,
    gram,
)


def scale_of(mean: bool) -> float:
    return 1 / TRAIN if mean else 1.0


def largest_stable(setup: Setup, mean: bool) -> float:
    """The rate at which descent on the setup's loss starts to diverge."""
    return 2 / (scale_of(mean) * float(torch.linalg.svdvals(setup.features)[0]) ** 2)


def descended(setup: Setup, rate: float, mean: bool, steps: int) -> Tensor:
    """The displacement of the parameters after explicit steps of gradient descent, (d, k)."""
    moved = torch.zeros(setup.features.shape[1], setup.wanted.shape[1], dtype=torch.float64)
    for _ in range(steps):
        errors = setup.features @ moved - setup.wanted
        moved = moved - rate * scale_of(mean) * setup.features.T @ errors
    return moved


def on_train(setup: Setup, moved: Tensor) -> Tensor:
    """`f0 + Phi w` at the training samples."""
    return setup.prior + (setup.features @ moved).reshape(setup.targets.shape)


def descent(setup: Setup, share: float = 0.9, mean: bool = True) -> Trajectory:
    """The trajectory at a share of the rate that diverges."""
    rate = share * largest_stable(setup, mean)
    return gradient_descent(setup.kernel, setup.targets, rate, setup.prior, mean)


def flow(setup: Setup, mean: bool = True) -> Trajectory:
    return gradient_flow(setup.kernel, setup.targets, setup.prior, mean)


@pytest.mark.parametrize("mean", [True, False], ids=["mean", "sum"])
@pytest.mark.parametrize("setup", SETUPS, ids=str)
class TestDescent:
    @pytest.mark.parametrize("share", [0.05, 0.95])
    @pytest.mark.parametrize("steps", [0, 1, 2, 25, 60])
    def test_it_is_where_explicit_steps_lead_003_b_1_4(
        self, setup: Setup, mean: bool, share: float, steps: int
    ) -> None:
        """On the samples and off them; also 000 T21 (a sum), 004 section 5 (a mean), 002 B.4."""
        moved = descended(setup, share * largest_stable(setup, mean), mean, steps)
        path = descent(setup, share, mean)
        assert_agree(path.at(steps), on_train(setup, moved))
        assert_agree(path.predict(setup.cross, steps, setup.new_prior), setup.shaped(moved))

    @pytest.mark.parametrize("steps", [0, 1, 25])
    def test_the_squared_norm_is_the_distance_gone(
        self, setup: Setup, mean: bool, steps: int
    ) -> None:
        """004 section 5."""
        moved = descended(setup, 0.95 * largest_stable(setup, mean), mean, steps)
        found = descent(setup, 0.95, mean).squared_norm(steps)
        assert found.shape == (() if moved.shape[1] == 1 else moved.shape[1:])
        assert_agree(found.reshape(-1), moved.square().sum(0))

    @pytest.mark.parametrize("steps", [0, 1, 25])
    def test_the_loss_is_half_the_squared_error(self, setup: Setup, mean: bool, steps: int) -> None:
        path = descent(setup, 0.95, mean)
        errors = (path.at(steps) - setup.targets).square().sum()
        assert_agree(path.loss(steps), errors * scale_of(mean) / 2)

    def test_each_mode_keeps_the_same_share_of_its_error_in_each_step_003_b_1_6(
        self, setup: Setup, mean: bool
    ) -> None:
        """By `1 - rate s lambda_j`; also 002 B.5 and lemma 003 B.1.5."""
        path = descent(setup, 0.95, mean)
        values, functions = torch.linalg.eigh(setup.features @ setup.features.T)
        factors = 1 - path.rate * scale_of(mean) * values.flip(0)
        start = path.errors().reshape(len(values), -1)
        assert_agree(start.abs(), (functions.flip(1).T @ setup.wanted).abs(), 1e-8)
        left = path.errors(3).reshape(len(values), -1)
        assert_agree(left, factors[:, None] ** 3 * start)

    def test_predictions_at_the_training_samples_are_the_function_there(
        self, setup: Setup, mean: bool
    ) -> None:
        path = descent(setup, 0.3, mean)
        assert_agree(path.predict(setup.kernel, 40, setup.prior), path.at(40))

    def test_it_goes_on_from_where_it_is(self, setup: Setup, mean: bool) -> None:
        path = descent(setup, 0.7, mean)
        rest = gradient_descent(setup.kernel, setup.targets, path.rate, path.at(13), mean)
        assert_agree(rest.at(9), path.at(22))


@pytest.mark.parametrize("setup", SETUPS, ids=str)
class TestFlow:
    @pytest.mark.parametrize("mean", [True, False], ids=["mean", "sum"])
    def test_it_solves_the_differential_equation(self, setup: Setup, mean: bool) -> None:
        time = 1.7 * largest_stable(setup, mean)
        features, wanted = setup.features.numpy(), setup.wanted.numpy()
        shape = features.shape[1], wanted.shape[1]

        def velocity(_: float, flat: numpy.ndarray) -> numpy.ndarray:
            errors = features @ flat.reshape(shape) - wanted
            return -scale_of(mean) * (features.T @ errors).reshape(-1)

        start = numpy.zeros(math.prod(shape))
        solved = solve_ivp(velocity, (0, time), start, method="DOP853", rtol=1e-12, atol=1e-13)
        moved = torch.from_numpy(solved.y[:, -1].copy()).reshape(shape)
        path = flow(setup, mean)
        assert_agree(path.at(time), on_train(setup, moved))
        assert_agree(path.predict(setup.cross, time, setup.new_prior), setup.shaped(moved))
        assert_agree(path.squared_norm(time).reshape(-1), moved.square().sum(0))

    def test_it_goes_on_from_where_it_is(self, setup: Setup) -> None:
        rest = gradient_flow(setup.kernel, setup.targets, flow(setup).at(0.4))
        assert_agree(rest.at(2.1), flow(setup).at(2.5))

    def test_its_loss_falls_by_the_squared_gradient(self, setup: Setup) -> None:
        """`dL/dt = -|dL/dw|^2`, by central differences."""
        path, time, step = flow(setup), 0.3, 1e-5
        slope = (path.loss(time + step) - path.loss(time - step)) / (2 * step)
        errors = (path.at(time) - setup.targets).reshape(setup.wanted.shape)
        gradient = setup.features.T @ errors / TRAIN
        assert_agree(slope, -gradient.square().sum(), 1e-7)

    def test_many_small_steps_come_close_to_it(self, setup: Setup) -> None:
        """Of first order in the rate: half of it is nearly half as far."""
        time = largest_stable(setup, True)
        far = []
        for steps in (1000, 2000):
            path = gradient_descent(setup.kernel, setup.targets, time / steps, setup.prior)
            far.append(float((path.at(steps) - flow(setup).at(time)).norm()))
        assert far[0] / far[1] == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("setup", SETUPS, ids=str)
class TestLimit:
    @pytest.mark.parametrize("make", [descent, flow])
    def test_it_is_at_the_nearest_parameters_that_fit_000_t21(
        self, setup: Setup, make: Callable[[Setup], Trajectory]
    ) -> None:
        """Also 002 B.4 and 004 section 5: the distance gone."""
        moved = torch.linalg.lstsq(setup.features, setup.wanted, driver="gelsd").solution
        path = make(setup)
        found = path.predict(setup.cross, math.inf, setup.new_prior)
        assert_agree(found, setup.shaped(moved))
        assert_agree(path.squared_norm(math.inf).reshape(-1), moved.square().sum(0))
        assert_agree(path.at(math.inf), setup.targets)

    def test_it_is_kernel_regression_without_a_ridge(self, setup: Setup) -> None:
        """000 T21: `f0(x) + k(x, X) K^-1 (y - f0(X))`."""
        fit = kernel_regression(setup.kernel, setup.targets, prior=setup.prior)
        expected = fit.predict(setup.cross, setup.new_prior)
        assert_agree(flow(setup).predict(setup.cross, math.inf, setup.new_prior), expected)

    def test_a_long_time_comes_close_to_it(self, setup: Setup) -> None:
        path = descent(setup)
        longest = math.ceil(40 * float(path.learning_times().max()))
        assert_agree(path.at(longest), path.at(math.inf))


class TestSingularKernel:
    """Twelve samples of four features: eight modes have the eigenvalue zero."""

    features, new = drawn(12, 4), drawn(5, 4, seed=1)
    targets = drawn(12, seed=2)
    kernel = gram(features @ features.T)
    cross = pb.TangentKernel(new @ features.T, 1, symmetric=False)

    def test_its_limit_is_least_squares(self) -> None:
        moved = torch.linalg.lstsq(self.features, self.targets[:, None], driver="gelsd").solution
        path = gradient_flow(self.kernel, self.targets)
        assert_agree(path.at(math.inf), (self.features @ moved)[:, 0])
        assert_agree(path.predict(self.cross, math.inf), (self.new @ moved)[:, 0])

    @pytest.mark.parametrize("steps", [1, 30, 100_000])
    def test_its_steps_are_those_of_the_features(self, steps: int) -> None:
        """The powers of `I - rate Phi^T Phi / n`, by squaring, instead of single steps."""
        path = gradient_descent(self.kernel, self.targets)
        covariance, mean = self.features.T @ self.features / 12, self.features.T @ self.targets / 12
        step = torch.linalg.matrix_power(torch.eye(4) - path.rate * covariance, steps)
        moved = torch.linalg.solve(covariance, mean - step @ mean)
        assert_agree(path.predict(self.cross, steps), self.new @ moved)
        assert_agree(path.at(steps), self.features @ moved)

    def test_its_null_modes_are_never_learned(self) -> None:
        path = gradient_descent(self.kernel, self.targets)
        times = path.learning_times()
        assert bool(times[:4].isfinite().all())
        assert bool((times[4:] == math.inf).all())
        assert torch.equal(path.errors(math.inf)[4:], path.errors(0)[4:])

    def test_its_eigenvalues_below_rounding_are_zero(self) -> None:
        values = gradient_flow(self.kernel, self.targets).eigenvalues
        assert int((values > 0).sum()) == 4
        assert int((values == 0).sum()) == 8

    def test_samples_that_are_the_same_end_at_the_mean_of_their_targets(self) -> None:
        x = SUM.x.clone()
        x[5] = x[2]
        kernel = pb.tangent_kernel(SUM.module, x, outputs="sum")
        found = gradient_flow(kernel, SUM.targets).at(math.inf)
        assert_agree(found[[2, 5]], SUM.targets[[2, 5]].mean().expand(2), 1e-8)


class TestNetworks:
    """Networks that are linear in their parameters, trained by PyTorch's own optimiser."""

    @pytest.mark.parametrize("steps", [1, 25])
    @pytest.mark.parametrize("model", ["linear", "random features"])
    def test_the_optimiser_follows_the_closed_form_004_3_15(self, model: str, steps: int) -> None:
        frozen = built(nn.Linear(4, 20), nn.Tanh()).requires_grad_(False)
        head = built(nn.Linear(4 if model == "linear" else 20, 3))
        network = head if model == "linear" else nn.Sequential(frozen, head)
        x, new, y = drawn(9, 4), drawn(5, 4, seed=1), drawn(9, 3, seed=2)
        kernel, cross = pb.tangent_kernel(network, x), pb.tangent_kernel(network, new, x)
        path = gradient_descent(kernel, y, rate=0.2, prior=network(x))
        expected = path.predict(cross, steps, network(new))

        optimiser = torch.optim.SGD(head.parameters(), lr=0.2)
        for _ in range(steps):
            optimiser.zero_grad()
            ((network(x) - y).square().sum() / (2 * len(x))).backward()
            optimiser.step()
        with torch.no_grad():
            assert_agree(path.at(steps), network(x))
            assert_agree(expected, network(new))
            loss = (network(x) - y).square().sum() / (2 * len(x))
        assert_agree(path.loss(steps), loss)


class TestLearningTimes:
    @pytest.mark.parametrize("setup", SETUPS, ids=str)
    def test_at_the_default_rate_they_are_the_corrected_time_constants_err_12(
        self, setup: Setup
    ) -> None:
        path = gradient_descent(setup.kernel, setup.targets)
        values = setup.kernel.eigvalsh()
        expected = -1 / torch.log(1 - values[1:] / values[0])
        assert_agree(path.learning_times()[1:], expected, 1e-8)

    def test_printed_without_the_inverse_they_would_not_be_times(self) -> None:
        """Errors fall to 1/e after tau_j steps; the printed constant falls where tau_j rises."""
        kernel = gram(torch.diag(torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)))
        times = gradient_descent(kernel, torch.ones(3, dtype=torch.float64)).learning_times()
        assert times.tolist()[1:] == pytest.approx([1.4426950408889634, 9.491221581029903])

    @pytest.mark.parametrize("fraction", [0.5, 1e-3])
    def test_in_a_flow_only_the_fraction_is_left_of_each_mode_then(self, fraction: float) -> None:
        path = flow(ALL)
        start = path.errors()
        for j, time in enumerate(path.learning_times(fraction).tolist()):
            assert float(path.errors(time)[j] / start[j]) == pytest.approx(fraction, rel=1e-9)

    @pytest.mark.parametrize("share", [0.2, 0.8])
    def test_in_steps_they_lie_between_the_whole_ones(self, share: float) -> None:
        path = descent(ALL, share)
        start = path.errors().abs()
        for j, time in enumerate(path.learning_times(0.1).tolist()):
            assert float(path.errors(math.floor(time))[j].abs() / start[j]) >= 0.1
            assert float(path.errors(math.ceil(time))[j].abs() / start[j]) <= 0.1

    def test_a_mode_that_is_learned_in_the_first_step_takes_no_time(self) -> None:
        kernel = gram(torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64)))
        path = gradient_descent(kernel, torch.ones(2, dtype=torch.float64), mean=False)
        assert path.rate == 0.25
        assert float(path.learning_times()[0]) == 0
        assert_agree(path.at(1), torch.tensor([1.0, 0.25], dtype=torch.float64))


class TestNumerics:
    @pytest.mark.parametrize("steps", [1, 10**6, 10**13])
    @pytest.mark.parametrize("value", [1.0, 1e-3, 1e-9, 1e-13])
    def test_small_eigenvalues_are_learned_to_full_precision(
        self, value: float, steps: int
    ) -> None:
        """With the exact power of a number of sixty digits, at rate 1/2."""
        getcontext().prec = 60
        kernel = gram(torch.diag(torch.tensor([1.0, value], dtype=torch.float64)))
        targets = torch.tensor([0.0, 1.0], dtype=torch.float64)
        path = gradient_descent(kernel, targets, rate=0.5, mean=False)
        left = (1 - Decimal(value) / 2) ** steps
        assert float(path.at(steps)[1]) == pytest.approx(float(1 - left), rel=1e-12, abs=0)
        assert float(path.errors(steps).abs().max()) == pytest.approx(float(left), rel=1e-9, abs=0)

    @pytest.mark.parametrize(("time", "expected"), [(1, 2e-10), (10**6, 2e-4), (math.inf, 0.0)])
    def test_a_mode_below_rounding_moves_off_the_samples_until_the_limit(
        self, time: float, expected: float
    ) -> None:
        """A feature of size 1e-9 in the sample and 1 in the new one: `w = rate / n 1e-9 t`."""
        kernel = gram(torch.diag(torch.tensor([1.0, 1e-18], dtype=torch.float64)))
        matrix = torch.tensor([[0.0, 1e-9]], dtype=torch.float64)
        cross = pb.TangentKernel(matrix, 1, symmetric=False)
        path = gradient_descent(kernel, torch.tensor([0.0, 1.0]), rate=0.4)
        found = float(path.predict(cross, time))
        assert found == pytest.approx(expected, rel=1e-9, abs=0)

    def test_a_kernel_in_single_precision(self) -> None:
        kernel = replace(ALL.kernel, matrix=ALL.kernel.matrix.float())
        cross = replace(ALL.cross, matrix=ALL.cross.matrix.float())
        path = gradient_descent(kernel, ALL.targets, descent(ALL).rate, ALL.prior)
        assert path.at(20).dtype == torch.float32
        assert_agree(path.at(20), descent(ALL).at(20), SINGLE)
        expected = descent(ALL).predict(ALL.cross, 20, ALL.new_prior)
        assert_agree(path.predict(cross, 20, ALL.new_prior), expected, SINGLE)

    @pytest.mark.parametrize("steps", [10**9, 10**9 + 1])
    def test_oscillation_dies_out(self, steps: int) -> None:
        assert_agree(descent(ALL, 0.999).at(steps), ALL.targets, 1e-6)

    def test_an_oscillating_mode_changes_sides(self) -> None:
        path = descent(ALL, 0.95)
        assert float(path.errors(1)[0] / path.errors(0)[0]) == pytest.approx(-0.9)
        assert float(path.errors(2)[0] / path.errors(0)[0]) == pytest.approx(0.81)


class TestTargets:
    @pytest.mark.parametrize("j", [0, 1])
    def test_functions_that_share_a_kernel_move_each_by_itself(self, j: int) -> None:
        together = descent(SEVERAL)
        alone = gradient_descent(
            SEVERAL.kernel, SEVERAL.targets[:, j], together.rate, SEVERAL.prior[:, j]
        )
        assert_agree(together.at(7)[:, j], alone.at(7))
        assert_agree(together.errors(7)[:, j], alone.errors(7))
        assert_agree(together.squared_norm(7)[j], alone.squared_norm(7))

    def test_labels_are_learned_as_their_coding(self) -> None:
        labels = torch.tensor([0, 2, 1, 1, 2, 0, 0, 1])
        path = gradient_flow(ALL.kernel, labels)
        assert_agree(path.at(math.inf), torch.eye(3).double()[labels] - 1 / 3)

    def test_a_loss_that_is_a_mean_takes_n_times_as_long(self) -> None:
        assert_agree(flow(ALL, mean=True).at(TRAIN * 0.3), flow(ALL, mean=False).at(0.3))


def stepped(setup: Setup) -> tuple[Tensor, StepModes]:
    """A gradient on the samples, and a step against it."""
    gradient = drawn(*setup.targets.shape, seed=9)
    return gradient, step_modes(setup.kernel, gradient, rate=0.2)


@pytest.mark.parametrize("setup", SETUPS, ids=str)
class TestStepModes:
    def test_they_add_up_to_the_kernel_times_the_gradient_003_b_1_3(self, setup: Setup) -> None:
        """Also 002 B.3."""
        gradient, step = stepped(setup)
        columns = gradient.reshape(len(setup.features), -1)
        expected = -0.2 * setup.features @ (setup.features.T @ columns)
        assert_agree(step.change, expected.reshape(setup.targets.shape))
        functions = step.eigenfunctions.flatten(1)
        summed = functions.T @ step.amounts.reshape(len(functions), -1)
        assert_agree(summed, expected)

    def test_off_the_samples_they_add_up_likewise(self, setup: Setup) -> None:
        """003 B.1.2, 002 B.2: `-eta k(x, X) grad`."""
        gradient, step = stepped(setup)
        columns = gradient.reshape(len(setup.features), -1)
        expected = -0.2 * setup.new_features @ (setup.features.T @ columns)
        found = step.at(setup.cross)
        assert found.shape == (len(setup.features), NEW, *setup.tail)
        assert_agree(found.sum(0), expected.reshape(NEW, *setup.tail))

    def test_each_moves_by_its_eigenvalue_times_its_part_of_the_gradient_003_6_2_1(
        self, setup: Setup
    ) -> None:
        gradient, step = stepped(setup)
        values, functions = torch.linalg.eigh(setup.features @ setup.features.T)
        parts = functions.flip(1).T @ gradient.reshape(len(values), -1)
        expected = -0.2 * values.flip(0)[:, None] * parts
        assert_agree(step.amounts.reshape(expected.shape).abs(), expected.abs(), 1e-8)

    def test_on_the_samples_each_is_its_amount_of_its_eigenfunction(self, setup: Setup) -> None:
        _, step = stepped(setup)
        functions = step.eigenfunctions.flatten(1)
        amounts = step.amounts.reshape(len(functions), 1, -1)
        expected = amounts * functions.unsqueeze(2)
        found = step.at(setup.kernel)
        assert_agree(found.reshape(expected.shape), expected)

    def test_a_gradient_along_one_mode_moves_that_mode_alone(self, setup: Setup) -> None:
        functions = setup.kernel.eigh()[1]
        step = step_modes(setup.kernel, functions[2], rate=1.0)
        expected = torch.zeros(len(functions), dtype=torch.float64)
        expected[2] = -setup.kernel.eigvalsh()[2]
        assert_agree(step.amounts, expected)


class TestStepOfANetwork:
    @pytest.mark.parametrize("where", ["train", "new"])
    def test_a_small_step_is_the_sum_of_the_modes_to_second_order(self, where: str) -> None:
        """003 6.2.1, 002 4.1, for a mean of cross-entropies: half the rate, a quarter as far."""
        labels = torch.tensor([0, 2, 1, 1, 2, 0, 0, 1])
        outputs = ALL.module(ALL.x)
        by_function = torch.autograd.grad(F.cross_entropy(outputs, labels), outputs)[0]
        kernel = ALL.kernel if where == "train" else ALL.cross
        inputs = ALL.x if where == "train" else ALL.new
        differences = []
        for rate in (1e-2, 5e-3):
            trained = copy.deepcopy(ALL.module)
            F.cross_entropy(trained(ALL.x), labels).backward()
            torch.optim.SGD(trained.parameters(), lr=rate).step()
            with torch.no_grad():
                change = trained(inputs) - ALL.module(inputs)
            step = step_modes(ALL.kernel, by_function, rate)
            differences.append(float((change - step.at(kernel).sum(0)).norm()))
            assert differences[-1] < 0.02 * float(change.norm())
        assert differences[0] / differences[1] == pytest.approx(4, rel=0.02)


class TestTrainedLinearisation:
    """A real linearised network, trained by a real optimiser on real digits, is where it should be.

    The linearisation is `f(w0) + J (w - w0)` by forward-mode differentiation, with parameters that
    the optimiser moves; nothing of it is the library's.
    """

    SAMPLES, TESTED, STEPS = 40, 20, 300

    @pytest.fixture(params=["perceptron", "convolutions"])
    def network(self, request: pytest.FixtureRequest) -> nn.Module:
        torch.manual_seed(5)
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10)]
        if request.param == "convolutions":
            layers = [
                nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
                nn.Linear(64, 10),
            ]  # fmt: skip
        return nn.Sequential(*layers).double()

    def linearised(self, network: nn.Module, moved: dict[str, Tensor], x: Tensor) -> Tensor:
        start = {name: value.detach() for name, value in network.named_parameters()}
        steps = {name: moved[name] - start[name] for name in start}

        def function(parameters: dict[str, Tensor]) -> Tensor:
            found: Tensor = torch.func.functional_call(network, parameters, (x,))
            return found

        value, change = torch.func.jvp(function, (start,), (steps,))
        return torch.as_tensor(value + change)

    def test_it_is_where_the_closed_form_says_to_1e_8(self, network: nn.Module) -> None:
        train = pb.data.load("digits", split="train", samples=self.SAMPLES)
        test = pb.data.load("digits", split="test", samples=self.TESTED)
        x, new = train.inputs.double(), test.inputs.double()
        targets = F.one_hot(train.labels, 10).double()
        kernel = pb.tangent_kernel(network, x)
        path = gradient_descent(kernel, targets, prior=network(x).detach())
        moved = {n: p.detach().clone().requires_grad_() for n, p in network.named_parameters()}
        optimiser = torch.optim.SGD(moved.values(), lr=path.rate)
        for _ in range(self.STEPS):
            optimiser.zero_grad()
            errors = self.linearised(network, moved, x) - targets
            (errors.square().sum() / (2 * self.SAMPLES)).backward()
            optimiser.step()
        with torch.no_grad():
            here = self.linearised(network, moved, x)
            there = self.linearised(network, moved, new)
            start = network(new)
            gone = sum((moved[n] - p).square().sum() for n, p in network.named_parameters())
        cross = pb.tangent_kernel(network, new, x)
        assert (here - network(x)).abs().max() > 0.3  # it has learned something
        assert (path.at(self.STEPS) - here).abs().max() < 1e-8
        assert (path.predict(cross, self.STEPS, start) - there).abs().max() < 1e-8
        assert abs(float(path.squared_norm(self.STEPS)) - float(gone)) < 1e-8


class TestBadInput:
    @pytest.mark.parametrize("mean", [True, False], ids=["mean", "sum"])
    def test_a_rate_that_diverges_is_named_with_the_largest_that_does_not(self, mean: bool) -> None:
        largest = largest_stable(ALL, mean)
        with pytest.raises(pb.InputError, match=rf"rate: .*{largest:g}"):
            gradient_descent(ALL.kernel, ALL.targets, 1.001 * largest, mean=mean)
        gradient_descent(ALL.kernel, ALL.targets, 0.999 * largest, mean=mean)

    @pytest.mark.parametrize("rate", [0.0, -0.1, math.nan, math.inf])
    def test_a_rate_that_is_none(self, rate: float) -> None:
        with pytest.raises(pb.InputError, match="rate"):
            gradient_descent(ALL.kernel, ALL.targets, rate)

    def test_a_kernel_of_zeros(self) -> None:
        kernel = gram(torch.zeros(3, 3, dtype=torch.float64))
        with pytest.raises(pb.InputError, match="kernel.*zero"):
            gradient_descent(kernel, torch.ones(3, dtype=torch.float64))

    def test_a_matrix_that_is_no_kernel(self) -> None:
        kernel = gram(torch.diag(torch.tensor([1.0, -0.5], dtype=torch.float64)))
        with pytest.raises(pb.InputError, match=r"kernel.*-0\.5"):
            gradient_flow(kernel, torch.ones(2, dtype=torch.float64))

    @pytest.mark.parametrize("make", [gradient_descent, gradient_flow])
    def test_a_kernel_that_is_not_finite(self, make: Callable[..., Trajectory]) -> None:
        matrix = SUM.kernel.matrix.clone()
        matrix[0, 1] = math.nan
        with pytest.raises(pb.InputError, match="kernel"):
            make(replace(SUM.kernel, matrix=matrix), SUM.targets)

    @pytest.mark.parametrize("make", [gradient_descent, gradient_flow])
    def test_a_kernel_between_two_sets(self, make: Callable[..., Trajectory]) -> None:
        with pytest.raises(pb.InputError, match="kernel"):
            make(ALL.cross, ALL.targets[:NEW])

    @pytest.mark.parametrize("make", [gradient_descent, gradient_flow])
    def test_targets_of_another_length(self, make: Callable[..., Trajectory]) -> None:
        with pytest.raises(pb.InputError, match="targets"):
            make(ALL.kernel, ALL.targets[:-1])

    @pytest.mark.parametrize("make", [gradient_descent, gradient_flow])
    def test_a_kernel_without_a_spectrum(self, make: Callable[..., Trajectory]) -> None:
        with pytest.raises(pb.InputError, match="kernel.*TangentKernel"):
            make(ByProducts(SUM.kernel), SUM.targets)

    @pytest.mark.parametrize("time", [-1, 0.5, math.nan, -math.inf])
    def test_steps_that_cannot_be_taken(self, time: float) -> None:
        with pytest.raises(pb.InputError, match="time.*whole"):
            descent(ALL).at(time)

    @pytest.mark.parametrize("time", [-1, -0.5, math.nan])
    def test_times_before_the_beginning(self, time: float) -> None:
        with pytest.raises(pb.InputError, match="time"):
            flow(ALL).predict(ALL.cross, time, ALL.new_prior)

    @pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, math.nan])
    def test_fractions_that_are_none(self, fraction: float) -> None:
        with pytest.raises(pb.InputError, match="fraction"):
            flow(ALL).learning_times(fraction)

    @pytest.mark.parametrize(
        "use",
        [
            lambda cross: flow(ALL).predict(cross, 1.0, ALL.new_prior),
            lambda cross: stepped(ALL)[1].at(cross),
        ],
        ids=["trajectory", "step"],
    )
    def test_a_cross_kernel_with_other_samples(self, use: Callable[[object], Tensor]) -> None:
        with pytest.raises(pb.InputError, match="cross"):
            use(pb.tangent_kernel(ALL.module, ALL.new, ALL.x[:-1]))

    def test_a_prior_for_the_training_samples_alone(self) -> None:
        with pytest.raises(pb.InputError, match="prior"):
            flow(ALL).predict(ALL.cross, 1.0)

    def test_a_gradient_of_another_shape(self) -> None:
        with pytest.raises(pb.InputError, match=r"gradient.*\(8, 3\)"):
            step_modes(ALL.kernel, ALL.targets[:, :2], 0.1)

    def test_a_gradient_that_is_not_finite(self) -> None:
        gradient = ALL.targets.clone()
        gradient[0, 0] = math.inf
        with pytest.raises(pb.InputError, match="gradient"):
            step_modes(ALL.kernel, gradient, 0.1)

    def test_a_step_of_no_size(self) -> None:
        with pytest.raises(pb.InputError, match="rate"):
            step_modes(ALL.kernel, ALL.targets, math.nan)
