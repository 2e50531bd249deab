"""The parameter space: order, views, algebra, and what cannot be mixed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pullback as pb
from tests.cases import CASES, Case, named
from tests.checks import EXACT, REFUSED, assert_agree, unchanged
from tests.entries import space_of


def space() -> pb.ParameterSpace:
    """The space of a small convolution and a linear layer, d = 27 + 8."""
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 2)).double()
    return space_of(model)


class TestSpace:
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_it_holds_what_requires_a_gradient_in_the_modules_own_order(self, case: Case) -> None:
        expected = [n for n, p in case.module.named_parameters() if p.requires_grad]
        assert list(space_of(case.module).names) == expected

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_its_size_is_the_number_of_entries(self, case: Case) -> None:
        assert space_of(case.module).size == case.d

    def test_slices_follow_each_other(self) -> None:
        stops = [0, 24, 27, 33, 35]
        expected = [slice(a, b) for a, b in zip(stops, stops[1:], strict=False)]
        assert list(space().slices.values()) == expected

    def test_tied_weights_count_once(self) -> None:
        case = named("tied weights")
        assert "second.weight" not in space_of(case.module).names

    def test_precision_follows_the_model(self) -> None:
        assert space().dtype == torch.float64

    def test_half_precision_parameters_have_single_precision_vectors(self) -> None:
        model = nn.Linear(2, 2).to(torch.bfloat16)
        assert space_of(model).dtype == torch.float32

    def test_scalar_parameters_have_size_one(self) -> None:
        case = named("raw parameter multiplied")
        where = space_of(case.module).slices["temperature"]
        assert where.stop - where.start == 1

    def test_a_module_without_parameters_is_refused(self) -> None:
        with pytest.raises(pb.InputError, match="parameters"):
            space_of(nn.ReLU())

    def test_spaces_of_the_same_names_and_shapes_are_equal(self) -> None:
        assert space() == space()

    def test_it_cannot_be_changed(self) -> None:
        with pytest.raises(AttributeError):
            space().names = ()  # type: ignore[misc]


class TestVector:
    def test_flat_and_dictionary_forms_are_inverse_to_each_other(self) -> None:
        v = space().randn(seed=1)
        assert torch.equal(space().vector(v.as_dict()).flat, v.flat)

    def test_batched_flat_and_dictionary_forms_are_inverse_to_each_other(self) -> None:
        v = space().randn(seed=1, batch=(2, 3))
        assert torch.equal(space().vector(v.as_dict()).flat, v.flat)

    def test_the_dictionarys_own_order_does_not_matter(self) -> None:
        v = space().randn(seed=1)
        backwards = dict(reversed(v.as_dict().items()))
        assert torch.equal(space().vector(backwards).flat, v.flat)

    def test_an_entry_has_the_parameters_shape(self) -> None:
        assert space().zeros()["0.weight"].shape == (3, 2, 2, 2)

    def test_an_entry_of_a_batch_keeps_the_leading_dimensions(self) -> None:
        assert space().zeros(batch=(5, 4))["2.weight"].shape == (5, 4, 2, 3)

    def test_an_entry_is_a_view(self) -> None:
        v = space().zeros()
        v["2.bias"].fill_(7.0)
        assert float(v.flat.sum()) == 14.0

    def test_a_scalar_parameters_entry_has_no_dimensions(self) -> None:
        scalars = space_of(named("raw parameter multiplied").module)
        assert scalars.zeros()["temperature"].shape == ()

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_from_model_stacks_the_parameters_row_by_row(self, case: Case) -> None:
        chosen = [p.detach().reshape(-1) for p in case.module.parameters() if p.requires_grad]
        assert torch.equal(pb.ParameterVector.from_model(case.module).flat, torch.cat(chosen))

    def test_from_model_does_not_share_memory_with_the_model(self) -> None:
        model = nn.Linear(2, 2)
        with unchanged(model):
            pb.ParameterVector.from_model(model).flat.fill_(0.0)

    def test_from_gradients_reads_the_gradients(self) -> None:
        model = nn.Linear(2, 1).double()
        model(torch.tensor([[2.0, 3.0]]).double()).sum().backward()
        gradient = pb.ParameterVector.from_gradients(model)
        assert gradient.flat.tolist() == [2.0, 3.0, 1.0]

    def test_from_gradients_without_any_names_the_parameter(self) -> None:
        with pytest.raises(pb.InputError, match=r"model.*weight.*backward"):
            pb.ParameterVector.from_gradients(nn.Linear(2, 1))

    def test_copy_to_writes_what_from_model_reads(self) -> None:
        module, _ = named("mlp").fresh()
        v = space_of(module).randn(seed=3)
        v.copy_to(module)
        assert torch.equal(pb.ParameterVector.from_model(module).flat, v.flat)

    def test_copy_to_leaves_frozen_parameters_alone(self) -> None:
        module, _ = named("frozen layers").fresh()
        before = module[0].weight.clone()
        space_of(module).randn().copy_to(module)
        assert torch.equal(module[0].weight, before)

    def test_copy_to_a_model_without_the_parameter_is_refused(self) -> None:
        with pytest.raises(pb.InputError, match="model"):
            space().zeros().copy_to(nn.Linear(2, 1))

    def test_copying_a_batch_of_vectors_into_a_model_is_refused(self) -> None:
        module, _ = named("mlp").fresh()
        with pytest.raises(pb.InputError):
            space_of(module).randn(batch=(2,)).copy_to(module)

    def test_the_same_seed_gives_the_same_vector(self) -> None:
        assert torch.equal(space().randn(seed=5).flat, space().randn(seed=5).flat)

    def test_another_seed_gives_another_vector(self) -> None:
        assert not torch.equal(space().randn(seed=5).flat, space().randn(seed=6).flat)

    def test_random_vectors_leave_the_global_random_state_alone(self) -> None:
        parameters = space()
        before = torch.get_rng_state()
        parameters.randn(seed=5)
        assert torch.equal(torch.get_rng_state(), before)


class TestAlgebra:
    v, w = space().randn(seed=1), space().randn(seed=2)

    def test_sum(self) -> None:
        assert torch.equal((self.v + self.w).flat, self.v.flat + self.w.flat)

    def test_difference(self) -> None:
        assert torch.equal((self.v - self.w).flat, self.v.flat - self.w.flat)

    def test_negative(self) -> None:
        assert torch.equal((-self.v).flat, -self.v.flat)

    def test_scalar_on_the_left(self) -> None:
        assert torch.equal((3 * self.v).flat, 3 * self.v.flat)

    def test_scalar_on_the_right(self) -> None:
        assert torch.equal((self.v * 3).flat, 3 * self.v.flat)

    def test_zero_dimensional_tensor_on_the_left(self) -> None:
        assert torch.equal((torch.tensor(3.0) * self.v).flat, 3 * self.v.flat)

    def test_quotient(self) -> None:
        assert torch.equal((self.v / 4).flat, self.v.flat / 4)

    def test_inner_product(self) -> None:
        assert_agree(self.v @ self.w, torch.dot(self.v.flat, self.w.flat), 1e-14)

    def test_inner_products_of_batches(self) -> None:
        batch = space().randn(seed=3, batch=(4,))
        assert_agree(batch @ batch, batch.flat.square().sum(1), 1e-14)

    @pytest.mark.parametrize("order", [1, 2, float("inf")])
    def test_norm(self, order: float) -> None:
        expected = torch.linalg.vector_norm(self.v.flat, order)
        assert_agree(self.v.norm(order=order), expected, 1e-15)

    def test_the_default_norm_is_euclidean(self) -> None:
        assert_agree(self.v.norm(), (self.v @ self.v).sqrt(), 1e-14)

    def test_operations_do_not_change_their_operands(self) -> None:
        before = self.v.flat.clone()
        _ = (2 * self.v - self.w) / 3 + self.v * 2
        assert torch.equal(self.v.flat, before)

    @pytest.mark.parametrize("operation", ["__add__", "__sub__", "__matmul__"])
    def test_vectors_of_another_space_are_refused(self, operation: str) -> None:
        other = space_of(nn.Linear(5, 7).double()).zeros()  # d = 42
        with pytest.raises(pb.InputError, match=r"vector.*space"):
            getattr(self.v, operation)(other)

    def test_vectors_of_the_same_size_under_other_names_are_refused(self) -> None:
        one = space_of(nn.Linear(2, 3)).zeros()
        other = space_of(nn.Sequential(nn.Linear(2, 3))).zeros()
        with pytest.raises(pb.InputError, match=r"vector.*space"):
            one + other

    @given(st.integers(0, 2**31), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
    @settings(deadline=None)
    def test_the_inner_product_is_linear(self, seed: int, a: float, b: float) -> None:
        u = space().randn(seed=seed)
        combined = (a * self.v + b * self.w) @ u
        apart = a * (self.v @ u) + b * (self.w @ u)
        scale = abs(a) * self.v.norm() * u.norm() + abs(b) * self.w.norm() * u.norm() + 1e-300
        assert float((combined - apart).abs() / scale) < EXACT


class TestBadInput:
    def test_a_flat_tensor_of_another_length(self) -> None:
        with pytest.raises(pb.InputError, match=r"flat.*34.*35"):
            space().vector(torch.zeros(34, dtype=torch.float64))

    def test_a_missing_name(self) -> None:
        values = space().zeros().as_dict()
        del values["2.bias"]
        with pytest.raises(pb.InputError, match=r"values.*2\.bias"):
            space().vector(values)

    def test_a_name_too_many(self) -> None:
        values = {**space().zeros().as_dict(), "odd": torch.zeros(3)}
        with pytest.raises(pb.InputError, match=r"values.*odd"):
            space().vector(values)

    def test_a_wrong_shape(self) -> None:
        values: dict[str, Tensor] = {**space().zeros().as_dict(), "2.bias": torch.zeros(3)}
        with pytest.raises(pb.InputError, match=r"values.*2\.bias"):
            space().vector(values)

    def test_a_zero_dimensional_tensor(self) -> None:
        with pytest.raises(REFUSED, match="flat"):
            space().vector(torch.tensor(1.0, dtype=torch.float64))
