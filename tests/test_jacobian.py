"""The Jacobian as a linear map: pushing, pulling and its rows, over the whole grid."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pullback as pb
from tests.cases import CASES, Case, named
from tests.checks import SINGLE, assert_agree, unchanged
from tests.entries import batches_of, data_of, network_of, space_of

MLP = named("mlp")


def jacobian_of(case: Case) -> pb.Jacobian:
    """The library's Jacobian of a case."""
    return pb.jacobian(network_of(case), data_of(case))


@pytest.mark.parametrize("case", CASES, ids=str)
class TestOnTheGrid:
    def test_rows(self, case: Case) -> None:
        assert_agree(jacobian_of(case).rows(), case.rows)

    def test_push_is_the_product_with_the_rows(self, case: Case) -> None:
        jacobian = jacobian_of(case)
        v = jacobian.space.randn(seed=1)
        assert_agree(jacobian.push(v), case.rows @ v.flat)

    def test_pull_is_the_product_with_the_transposed_rows(self, case: Case) -> None:
        u = torch.randn(case.n, case.c, dtype=torch.float64, generator=generator(1))
        expected = torch.einsum("nc,ncd->d", u, case.rows)
        assert_agree(jacobian_of(case).pull(u).flat, expected)

    def test_push_and_pull_are_adjoint(self, case: Case) -> None:
        jacobian = jacobian_of(case)
        v = jacobian.space.randn(seed=2)
        u = torch.randn(case.n, case.c, dtype=torch.float64, generator=generator(2))
        assert_agree((jacobian.push(v) * u).sum(), v @ jacobian.pull(u))

    def test_rows_in_single_precision(self, case: Case) -> None:
        module, _ = case.fresh(torch.float32)
        network = pb.Network(module, outputs=case.readout)
        rows = pb.jacobian(network, data_of(case, dtype=torch.float32)).rows()
        assert_agree(rows, case.rows.float(), SINGLE)

    def test_rows_leave_the_module_alone(self, case: Case) -> None:
        with unchanged(case.module):
            jacobian_of(case).rows()

    def test_push_leaves_the_module_alone(self, case: Case) -> None:
        jacobian = jacobian_of(case)
        with unchanged(case.module):
            jacobian.push(jacobian.space.randn())

    def test_pull_leaves_the_module_alone(self, case: Case) -> None:
        jacobian = jacobian_of(case)
        with unchanged(case.module):
            jacobian.pull(torch.ones(case.n, case.c, dtype=torch.float64))


def generator(seed: int) -> torch.Generator:
    """A seeded generator."""
    return torch.Generator().manual_seed(seed)


class TestBatchesOfVectors:
    jacobian = jacobian_of(MLP)

    def test_push_takes_leading_dimensions(self) -> None:
        v = self.jacobian.space.randn(seed=1, batch=(2, 3))
        assert_agree(self.jacobian.push(v), torch.einsum("ncd,abd->abnc", MLP.rows, v.flat))

    def test_pull_takes_leading_dimensions(self) -> None:
        u = torch.randn(2, 3, MLP.n, MLP.c, dtype=torch.float64, generator=generator(1))
        expected = torch.einsum("ncd,abnc->abd", MLP.rows, u)
        assert_agree(self.jacobian.pull(u).flat, expected)

    def test_push_across_batches_of_samples(self) -> None:
        cut = pb.jacobian(MLP.module, batches_of(MLP, [1, 4, 2]))
        v = cut.space.randn(seed=3, batch=(2,))
        assert_agree(cut.push(v), self.jacobian.push(v))

    def test_pull_across_batches_of_samples(self) -> None:
        cut = pb.jacobian(MLP.module, batches_of(MLP, [1, 4, 2]))
        u = torch.randn(2, MLP.n, MLP.c, dtype=torch.float64, generator=generator(1))
        assert_agree(cut.pull(u).flat, self.jacobian.pull(u).flat)


class TestSelections:
    def test_columns_of_the_last_layer(self) -> None:
        network = pb.Network(MLP.module, parameters="4.*")
        assert_agree(pb.jacobian(network, MLP.inputs).rows(), MLP.rows[..., -18:])

    def test_columns_of_all_biases(self) -> None:
        network = pb.Network(MLP.module, parameters="*.bias")
        keep = torch.cat([torch.arange(24, 30), torch.arange(60, 65), torch.arange(80, 83)])
        assert_agree(pb.jacobian(network, MLP.inputs).rows(), MLP.rows[..., keep])

    def test_one_output(self) -> None:
        network = pb.Network(MLP.module, outputs=lambda y: y[:, 2:])  # type: ignore[index]
        assert_agree(pb.jacobian(network, MLP.inputs).rows(), MLP.rows[:, 2:])


class TestProperties:
    jacobian = jacobian_of(MLP)

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=20, deadline=None)
    def test_adjointness(self, seed: int) -> None:
        v = self.jacobian.space.randn(seed=seed)
        u = torch.randn(MLP.n, MLP.c, dtype=torch.float64, generator=generator(seed))
        left, right = float((self.jacobian.push(v) * u).sum()), float(v @ self.jacobian.pull(u))
        scale = float(v.norm() * u.norm() * MLP.rows.norm())
        assert abs(left - right) < 1e-12 * scale

    @given(seed=st.integers(0, 2**31), a=st.floats(-1e3, 1e3), b=st.floats(-1e3, 1e3))
    @settings(max_examples=20, deadline=None)
    def test_push_is_linear(self, seed: int, a: float, b: float) -> None:
        v, w = self.jacobian.space.randn(seed=seed), self.jacobian.space.randn(seed=seed + 1)
        combined = self.jacobian.push(a * v + b * w)
        apart = a * self.jacobian.push(v) + b * self.jacobian.push(w)
        assert float((combined - apart).norm()) <= 1e-12 * (abs(a) + abs(b) + 1) * 100

    @given(scale=st.floats(1e-3, 1e3))
    @settings(max_examples=10, deadline=None)
    def test_a_scaled_read_out_scales_the_rows(self, scale: float) -> None:
        network = pb.Network(MLP.module, outputs=lambda y: scale * y)  # type: ignore[operator]
        assert_agree(pb.jacobian(network, MLP.inputs).rows(), scale * MLP.rows)

    def test_it_is_the_derivative_of_the_function(self) -> None:
        """The remainder f(w + v) - f(w) - J v falls with the square of the step."""
        case = named("dropout and identity in evaluation mode")
        network, jacobian = network_of(case), jacobian_of(case)
        w = pb.ParameterVector.from_model(case.module)
        v = w.space.randn(seed=5)

        def remainder(step: float) -> float:
            moved = network(case.inputs, w + step * v)
            return float((moved - case.outputs - step * jacobian.push(v)).norm())

        assert remainder(1e-3) / remainder(1e-4) == pytest.approx(100, rel=0.05)


class TestBadInput:
    jacobian = jacobian_of(MLP)

    def test_a_vector_of_another_space(self) -> None:
        other = space_of(named("conv1d").module).zeros()
        with pytest.raises(pb.InputError, match=r"vector.*space"):
            self.jacobian.push(other)

    @pytest.mark.parametrize("rows", [6, 8])
    def test_cotangents_for_another_number_of_samples(self, rows: int) -> None:
        with pytest.raises(pb.InputError, match=r"cotangents.*sample"):
            self.jacobian.pull(torch.zeros(rows, 3, dtype=torch.float64))

    def test_cotangents_for_another_number_of_outputs(self) -> None:
        with pytest.raises(pb.InputError, match=r"cotangents"):
            self.jacobian.pull(torch.zeros(7, 2, dtype=torch.float64))

    def test_rows_that_cannot_fit_say_how_much_they_need(self) -> None:
        module = torch.nn.Linear(2000, 2000)
        jacobian = pb.jacobian(module, torch.zeros(400, 2000))
        with pytest.raises(pb.InputError, match=r"GB"):
            jacobian.rows()  # 400 x 2,000 x 4,002,000 numbers

    def test_outputs_that_are_not_finite(self) -> None:
        network = pb.Network(MLP.module, outputs=lambda y: y / 0)  # type: ignore[operator]
        with pytest.raises(pb.InputError, match=r"outputs.*not finite"):
            pb.jacobian(network, MLP.inputs).rows()
