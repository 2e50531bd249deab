"""The solvable network against its flow, its golden numbers, and what is printed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from pullback import InputError
from pullback.data import SharedFeature, opposed_modes, shared_feature
from pullback.linear import QuadraticModel, equal_progress, quadratic_model
from tests.checks import REFUSED, assert_agree

GOLDEN = (
    (2.0, 1.5, 0.01, 1.0, 1.0954229710, 0.0684237357),
    (2.0, 1.5, 0.01, 0.5, 0.1781838112, 0.0395039768),
    (0.7, 0.9, 0.05, 3.0, 0.6484216407, 0.2110033909),
    (2.0, 0.0, 0.3, 4.0, 0.0517241379, 0.0024689241),
    (1.0, 0.5, 2.0, 1.0, 0.6905214965, 0.5274734583),
)


def one_mode(mu: float, target: float, start: float) -> QuadraticModel:
    numbers = [torch.tensor([value], dtype=torch.float64) for value in (mu, target, start)]
    return QuadraticModel(*numbers, torch.ones(1, 1, dtype=torch.float64))


def example_1(start: float = 1e-3) -> QuadraticModel:
    """George 2023, eq. 5.4.9: what the inputs make large is what the targets make small."""
    mu = torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0], dtype=torch.float64)
    return quadratic_model(*opposed_modes(mu), start)


@pytest.mark.parametrize(("mu", "target", "start", "time", "network", "linearized"), GOLDEN)
class TestGolden:
    """003, G4."""

    def test_the_closed_forms(
        self, mu: float, target: float, start: float, time: float, network: float, linearized: float
    ) -> None:
        model = one_mode(mu, target, start)
        assert float(model.modes(time)) == pytest.approx(network, abs=3e-10)
        assert float(model.modes(time, "linearized")) == pytest.approx(linearized, abs=3e-10)

    def test_they_solve_the_flow_of_the_parameters(
        self, mu: float, target: float, start: float, time: float, network: float, linearized: float
    ) -> None:
        """`dw/dt = -mu (theta - theta*) w` with `theta = w^2 / 2`."""
        w0 = math.sqrt(2 * start)

        def flow(_: float, w: np.ndarray) -> np.ndarray:
            return np.asarray(-mu * (w**2 / 2 - target) * w)

        def linear(_: float, w: np.ndarray) -> np.ndarray:
            return np.asarray(-mu * (start + w0 * (w - w0) - target) * w0)

        options = {"rtol": 1e-11, "atol": 1e-13}
        w = solve_ivp(flow, (0, time), [w0], **options).y[0, -1]
        assert w**2 / 2 == pytest.approx(network, abs=1e-9)
        w = solve_ivp(linear, (0, time), [w0], **options).y[0, -1]
        assert start + w0 * (w - w0) == pytest.approx(linearized, abs=1e-9)

    def test_the_printed_linearisation_is_half_as_fast_err_8(
        self, mu: float, target: float, start: float, time: float, network: float, linearized: float
    ) -> None:
        model = one_mode(mu, target, start)
        printed = model.modes(2 * time, "linearized", printed=True)
        assert float(printed) == pytest.approx(linearized, abs=3e-10)


class TestTimes:
    def test_the_check_of_the_specification_err_9(self) -> None:
        model = one_mode(2.0, 1.5, 1e-6)
        assert float(model.convergence_times(1e-4)) == pytest.approx(3.97278564, abs=1e-8)
        found = float(model.convergence_times(1e-4, form="approximate"))
        assert found == pytest.approx(3.97279686, abs=1e-8)
        assert float(model.convergence_times(1e-4, form="printed")) == pytest.approx(7.81, abs=5e-3)

    @pytest.mark.parametrize("regime", ["network", "linearized"])
    @pytest.mark.parametrize(("mu", "target", "start", "time", "network", "linearized"), GOLDEN)
    def test_at_its_time_a_mode_is_so_near(
        self, mu: float, target: float, start: float, time: float, network: float,
        linearized: float, regime: str,
    ) -> None:  # fmt: skip
        model = one_mode(mu, target, start)
        for epsilon in (0.1, 1e-3):
            found = float(model.convergence_times(epsilon, regime))
            left = abs(float(model.modes(found, regime)) - target)
            assert left == pytest.approx(epsilon, rel=1e-9)
        assert float(model.convergence_times(10.0, regime)) == 0

    def test_the_approximate_time_of_the_linearisation_is_exact(self) -> None:
        model = example_1()
        approximate = model.convergence_times(1e-2, "linearized", "approximate")
        assert_agree(approximate, model.convergence_times(1e-2, "linearized"))
        printed = model.convergence_times(1e-2, "linearized", "printed")
        assert bool((printed > 1.9 * approximate).all())

    def test_ratios_of_times_are_those_of_speeds_inverted_err_10(self) -> None:
        model = example_1(1e-12)
        times = model.convergence_times(1e-12)
        ratio = float(times[0] / times[4])
        assert ratio == pytest.approx(float(model.speed[4] / model.speed[0]), rel=0.05)


class TestExample1:
    """George 2023, section 5.4.4: the order of learning is reversed."""

    def test_times(self) -> None:
        model = example_1()
        network = model.convergence_times(1e-2, form="approximate")
        assert network.tolist() == pytest.approx([1.103, 0.969, 0.872, 0.799, 0.743], abs=5e-4)
        linear = model.convergence_times(1e-2, "linearized", "approximate")
        assert linear.tolist() == pytest.approx([446.4, 539.7, 657.9, 815.5, 1038.6], abs=0.2)

    def test_one_after_the_other_err_11(self) -> None:
        model = example_1(1e-7)
        for mode in range(5):
            exact = model.when_learned(mode, 1e-2)
            approximate = model.when_learned(mode, 1e-2, "approximate")
            assert float((exact - approximate).abs().max()) < 0.01 * float(model.target.max())
        first = model.when_learned(4, 1e-2)
        assert float(first[4] / model.target[4]) > 0.98
        printed = model.when_learned(4, 1e-2, "printed")
        assert float((printed - first).abs().max()) > 0.1


def group_errors(model: QuadraticModel, samples: SharedFeature) -> dict[str, tuple[Tensor, Tensor]]:
    """For each regime the mean squared errors of the majority, and those of the others."""
    times = [0.0, *torch.logspace(-3, 6, 2000).tolist()]
    runs = {}
    for regime in ("network", "linearized"):
        errors = torch.stack([model.outputs(t, regime) - samples.labels for t in times]).square()
        runs[regime] = errors[:, ~samples.against].mean(1), errors[:, samples.against].mean(1)
    return runs


def doubled(samples: SharedFeature) -> SharedFeature:
    return SharedFeature(samples.inputs.double(), samples.labels.double(), samples.against)


class TestExamples2And3:
    """George 2023, section 5.4.4: wrong labels, and a shortcut that misleads."""

    @pytest.mark.parametrize(
        ("own", "second", "network", "linearized"),
        [(1.0, 0.0, 2.10, 1.67), (1.0, 0.2, 2.01, 1.51), (10.0, 0.5, 0.088, 0.367)],
    )
    def test_errors_of_the_others_where_the_majority_is_at_0_3(
        self, own: float, second: float, network: float, linearized: float
    ) -> None:
        samples = doubled(shared_feature(20, 5, own, second))
        model = quadratic_model(samples.inputs, samples.labels, start=1e-3)
        found = equal_progress(group_errors(model, samples), [0.3]).values
        assert float(found["network"]) == pytest.approx(network, abs=0.006)
        assert float(found["linearized"]) == pytest.approx(linearized, abs=0.006)

    def test_the_highest_errors_on_wrong_labels(self) -> None:
        samples = doubled(shared_feature(20, 5, 1.0))
        model = quadratic_model(samples.inputs, samples.labels, start=1e-3)
        highest = {name: float(run[1].max()) for name, run in group_errors(model, samples).items()}
        assert highest == pytest.approx({"network": 2.24, "linearized": 1.68}, abs=0.005)

    @pytest.mark.parametrize(("n", "against", "own", "second"), [(20, 5, 3.0, 0.0), (9, 2, 1, 0.5)])
    def test_kernels_of_the_inputs(self, n: int, against: int, own: float, second: float) -> None:
        samples = doubled(shared_feature(n, against, own, second))
        shared = torch.where(samples.against, -samples.labels, samples.labels)
        expected = shared.outer(shared) + second**2 * samples.labels.outer(samples.labels)
        assert_agree(samples.inputs @ samples.inputs.T, expected + own**2 * torch.eye(n))
        assert int(samples.against.sum()) == against

    def test_after_the_shared_mode_the_errors_are_those_of_its_direction(self) -> None:
        """Squares of 2q/n for the majority and 2 - 2q/n for the others."""
        samples = doubled(shared_feature(20, 5, 1e-3))
        model = quadratic_model(samples.inputs, samples.labels, start=1e-3)
        errors = (model.outputs(3.0) - samples.labels).square()
        assert float(errors[~samples.against].mean()) == pytest.approx(0.25, abs=1e-3)
        assert float(errors[samples.against].mean()) == pytest.approx(2.25, abs=1e-3)


class TestChosenModes:
    def test_where_singular_values_coincide_the_choice_decides(self) -> None:
        """With what is left of the labels in one mode, the majority is not learned first."""
        samples = doubled(shared_feature(20, 5, 5.0))
        x, y = samples.inputs, samples.labels
        shared = torch.where(samples.against, -y, y) / 20**0.5
        left = y - shared * (shared @ y)
        rest = torch.linalg.svd(torch.stack([shared, left]), full_matrices=True)[2][2:]
        modes = torch.cat([torch.stack([shared, left / left.norm()]), rest])
        aligned = group_errors(quadratic_model(x, y, 1e-3, functions=modes), samples)
        usual = group_errors(quadratic_model(x, y, 1e-3), samples)
        assert float(aligned["network"][1].max()) <= 1.0 + 1e-3
        assert float(usual["network"][1].max()) > 1.5
        # The linearisation depends on it by its start alone, which is of the order of 1e-3.
        for one, other in zip(aligned["linearized"], usual["linearized"], strict=True):
            assert float((one - other).abs().max()) < 0.01

    def test_the_ones_of_the_decomposition_change_nothing(self) -> None:
        x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        y = torch.ones(4, dtype=torch.float64)
        own = quadratic_model(x, y, 0.1)
        again = quadratic_model(x, y, 0.1, functions=-own.functions)
        assert_agree(again.outputs(0.3), own.outputs(0.3))
        assert_agree(again.mu, torch.linalg.svdvals(x).square())

    @pytest.mark.parametrize("wrong", ["not singular", "not orthonormal", "too few"])
    def test_others_are_refused(self, wrong: str) -> None:
        x = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
        modes = torch.eye(3)
        if wrong == "not singular":
            modes[:2, :2] = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
        elif wrong == "not orthonormal":
            modes[2] = modes[1]
        else:
            modes = modes[:2]
        with pytest.raises(InputError, match="functions"):
            quadratic_model(x, torch.ones(3), 0.1, functions=modes)


def test_the_function_is_that_of_gradient_descent_on_w() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 7, dtype=torch.float64, generator=generator)
    y = torch.randn(5, dtype=torch.float64, generator=generator)
    model = quadratic_model(x, y, start=0.3)
    assert model.mu.shape == (5,)
    _, scales, right = torch.linalg.svd(x, full_matrices=False)
    signs = torch.sign(torch.linalg.svd(x, full_matrices=False)[0].T @ y)
    directions = right * signs[:, None]
    w = torch.full((5,), math.sqrt(0.3), dtype=torch.float64)
    rate, steps = 1e-4, 4000

    def outputs(w: Tensor) -> Tensor:
        return x @ ((w.square() / 2) @ directions)

    for _ in range(steps):
        w = w - rate * w * (directions @ x.T @ (outputs(w) - y))
    found = model.outputs(rate * steps)
    assert float((found - outputs(w)).abs().max()) < 1e-3
    assert (
        float((model.outputs(0) - outputs(torch.full_like(w, math.sqrt(0.3)))).abs().max()) < 1e-12
    )
    assert float((model.outputs(1e4) - y).abs().max()) < 1e-10


class TestBadInput:
    @pytest.mark.parametrize("start", [0.0, -1.0])
    def test_a_start_that_never_moves(self, start: float) -> None:
        with pytest.raises(InputError, match="start"):
            quadratic_model(torch.eye(2), torch.ones(2), start)

    def test_shapes(self) -> None:
        with pytest.raises(REFUSED, match="targets"):
            quadratic_model(torch.eye(2), torch.ones(3), 1.0)

    def test_nothing_to_learn_from(self) -> None:
        with pytest.raises(InputError, match="all zero"):
            quadratic_model(torch.zeros(2, 2), torch.ones(2), 1.0)
        with pytest.raises(InputError, match="NaN"):
            quadratic_model(torch.eye(2) / 0, torch.ones(2), 1.0)

    def test_words(self) -> None:
        model = example_1()
        with pytest.raises(InputError, match="regime: 'lazy'"):
            model.modes(1, "lazy")
        with pytest.raises(InputError, match="form: 'wrong'"):
            model.convergence_times(0.1, form="wrong")
        with pytest.raises(InputError, match="form: 'wrong'"):
            model.when_learned(0, 0.1, form="wrong")
        with pytest.raises(InputError, match="time"):
            model.modes(-1)
        with pytest.raises(InputError, match="epsilon"):
            model.convergence_times(0)
        with pytest.raises(InputError, match="mode: 5"):
            model.when_learned(5, 0.1)
