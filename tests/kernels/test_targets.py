"""What kernels say of target functions, against `torch.func.jacrev`, and the identities."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, jacrev

import pullback as pb
from pullback.kernels.dense import TangentKernel
from pullback.kernels.mercer import Eigenfunctions, eigenfunctions
from pullback.kernels.targets import (
    energy_concentration,
    rkhs_lower_bound,
    rkhs_norm,
    rotation,
    target_alignment,
)
from tests import reference
from tests.cases import CASES, Case, named
from tests.checks import SINGLE, assert_agree, unchanged
from tests.entries import batches_of, data_of, network_of

MLP = named("mlp")  # 7 samples, 3 outputs
# With memory for all targets at once, but not for their products with all samples.
MANY = [("two convolutions and pooling", (1, 6, 6), 200_000), ("mlp", (4,), 30_000)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@cache
def scalar() -> tuple[nn.Module, Tensor, Tensor]:
    """A network with one output, 9 inputs, and its Jacobian (n, d) by `jacrev`."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x = normal(9, 3, seed=2)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    by_name = jacrev(lambda p: functional_call(model, p, (x,)).squeeze(1))(parameters)
    return model, x, torch.cat([rows.flatten(1) for rows in by_name.values()], dim=1)


@cache
def pairs_of(outputs: object = 0) -> Eigenfunctions:
    """All eigenfunctions of the network with one output, or of the MLP's kernel of all pairs."""
    if outputs == "all":
        return eigenfunctions(pb.tangent_kernel(MLP.module, MLP.inputs))
    model, x, _ = scalar()
    return eigenfunctions(pb.tangent_kernel(model, x, outputs=0))


def alpha_of(rows: Tensor, targets: Tensor) -> Tensor:
    """`|sum_i J(x_i)^T f(x_i)|^2 / n^2`, with the Jacobian written out."""
    return torch.einsum("tnc,ncd->td", targets, rows).square().sum(1) / len(rows) ** 2


class TestOnTheGrid:
    @pytest.mark.parametrize("case", CASES[::4], ids=str)
    def test_few_targets(self, case: Case) -> None:
        targets = normal(1, case.n, case.c)
        actual = target_alignment(network_of(case), data_of(case), targets)
        assert_agree(actual, alpha_of(case.rows, targets))

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_more_targets_than_outputs(self, case: Case) -> None:
        targets = normal(case.c + 2, case.n, case.c)
        actual = target_alignment(network_of(case), data_of(case), targets)
        assert_agree(actual, alpha_of(case.rows, targets))

    @pytest.mark.parametrize("case", CASES[::4], ids=str)
    def test_the_least_memory_gives_the_same(self, case: Case) -> None:
        targets = normal(case.c + 2, case.n, case.c)
        actual = target_alignment(network_of(case), data_of(case), targets, memory=1)
        assert_agree(actual, alpha_of(case.rows, targets))

    @pytest.mark.parametrize("case", [case for case in CASES if case.n > 1][1::4], ids=str)
    def test_batches_give_the_same(self, case: Case) -> None:
        targets = normal(case.c + 2, case.n, case.c)
        batches = batches_of(case, [1, case.n - 1])
        actual = target_alignment(network_of(case), batches, targets)
        assert_agree(actual, alpha_of(case.rows, targets))

    @pytest.mark.parametrize("case", CASES[2::4], ids=str)
    def test_trace_normalised(self, case: Case) -> None:
        targets = normal(case.c + 2, case.n, case.c)
        actual = target_alignment(network_of(case), data_of(case), targets, normalise="trace")
        quotients = alpha_of(case.rows, targets) * case.n**2 / targets.square().sum((1, 2))
        assert_agree(actual, quotients / case.rows.square().sum())

    @pytest.mark.parametrize("case", CASES[3::4], ids=str)
    def test_single_precision(self, case: Case) -> None:
        targets = normal(case.c + 2, case.n, case.c)
        network, data = network_of(case, torch.float32), data_of(case, dtype=torch.float32)
        actual = target_alignment(network, data, targets.float())
        assert_agree(actual, alpha_of(case.rows, targets).float(), 2 * SINGLE)  # it is a square

    @pytest.mark.parametrize("case", CASES[::4], ids=str)
    def test_the_module_is_left_alone(self, case: Case) -> None:
        targets = normal(case.c + 2, case.n, case.c)
        with unchanged(case.module):
            target_alignment(network_of(case), data_of(case), targets, normalise="trace")


class TestTargetAlignment:
    def test_three_ways_agree_000_t17(self) -> None:
        """n^-2 f K f, |n^-1 J^T f|^2 and the sum of lambda_j E[phi_j f]^2."""
        model, x, rows = scalar()
        targets = normal(6, 9)
        kernel = pb.tangent_kernel(model, x, outputs=0)
        actual = target_alignment(model, x, targets)
        assert_agree(actual, (targets @ rows).square().sum(1) / 81)
        assert_agree(actual, (targets * (kernel @ targets)).sum(1) / 81)
        pairs = pairs_of()
        by_modes = (pairs.mercer_values * pairs.coefficients(targets).square()).sum(1)
        assert_agree(actual, by_modes)

    def test_three_ways_agree_for_several_outputs(self) -> None:
        """000 T17, 004 lemma 1."""
        targets = normal(6, 7, 3)
        kernel, pairs = pb.tangent_kernel(MLP.module, MLP.inputs), pairs_of("all")
        actual = target_alignment(MLP.module, MLP.inputs, targets)
        assert_agree(actual, (targets * (kernel @ targets)).sum((1, 2)) / 49)
        by_modes = (pairs.mercer_values * pairs.coefficients(targets).square()).sum(1)
        assert_agree(actual, by_modes)

    def test_of_eigenfunctions_it_is_their_eigenvalues_000_t18(self) -> None:
        model, x, _ = scalar()
        pairs = pairs_of()
        assert_agree(target_alignment(model, x, pairs.mercer_functions), pairs.mercer_values)

    def test_of_eigenfunctions_of_all_outputs_it_is_their_eigenvalues(self) -> None:
        """000 T18, 004 section 5."""
        pairs = pairs_of("all")
        actual = target_alignment(MLP.module, MLP.inputs, pairs.mercer_functions)
        assert_agree(actual, pairs.mercer_values)

    def test_labels_of_eigenfunctions_are_aligned_at_least_so_much(self) -> None:
        """004, 3.8: alpha(sign phi_j) >= E[|phi_j|]^2 lambda_j."""
        model, x, _ = scalar()
        pairs = pairs_of()
        labels = torch.stack([pairs.labels(j) for j in range(9)])
        least = pairs.mercer_functions.abs().mean(1).square() * pairs.mercer_values
        assert bool((target_alignment(model, x, labels) >= least * (1 - 1e-10)).all())

    @settings(max_examples=20)
    @given(st.floats(-1e3, 1e3))
    def test_it_grows_with_the_square_of_the_target(self, scale: float) -> None:
        """004 3.7."""
        model, x, _ = scalar()
        target = normal(9)
        once = target_alignment(model, x, target)
        assert_agree(target_alignment(model, x, scale * target), scale**2 * once)

    def test_over_an_orthonormal_basis_it_adds_up_to_the_trace(self) -> None:
        """004 3.7."""
        model, x, rows = scalar()
        basis = torch.linalg.qr(normal(9, 9))[0]
        total = target_alignment(model, x, basis, normalise="rayleigh").sum()
        assert_agree(total, rows.square().sum())
        assert_agree(target_alignment(model, x, basis, normalise="trace").sum(), 1.0)

    def test_the_rayleigh_quotient_is_that_of_the_matrix(self) -> None:
        model, x, rows = scalar()
        targets = normal(6, 9)
        expected = np.einsum("tn,nm,tm->t", targets, rows @ rows.T, targets)
        expected /= np.square(targets.numpy()).sum(1)
        actual = target_alignment(model, x, targets, normalise="rayleigh")
        assert_agree(actual, torch.from_numpy(expected))

    def test_the_rayleigh_quotient_is_n_alpha_over_the_mean_square(self) -> None:
        """004 3.7."""
        targets = normal(5, 7, 3)
        alpha = target_alignment(MLP.module, MLP.inputs, targets)
        actual = target_alignment(MLP.module, MLP.inputs, targets, normalise="rayleigh")
        assert_agree(actual, 7 * alpha / targets.square().sum(2).mean(1))

    def test_normalised_by_the_trace_the_scale_of_the_network_does_not_matter(self) -> None:
        model, x, _ = scalar()
        larger = pb.Network(model, outputs=lambda y: 3 * y)
        targets = normal(6, 9)
        once = target_alignment(model, x, targets, normalise="trace")
        assert_agree(target_alignment(larger, x, targets, normalise="trace"), once)

    def test_it_ranks_eigenfunctions_by_their_number(self) -> None:
        """004 3.7."""
        model, x, _ = scalar()
        pairs = pairs_of()
        alpha = target_alignment(model, x, pairs.mercer_functions[torch.tensor([4, 0, 7, 2])])
        assert alpha.argsort(descending=True).tolist() == [1, 3, 0, 2]

    @pytest.mark.parametrize("shape", [(9,), (9, 1), (1, 9), (4, 9), (4, 9, 1), (2, 3, 9)], ids=str)
    def test_leading_dimensions_are_kept(self, shape: tuple[int, ...]) -> None:
        model, x, rows = scalar()
        targets = normal(*shape)
        lead = shape[:-2] if shape[-2:] == (9, 1) else shape[:-1]
        expected = (targets.reshape(-1, 9) @ rows).square().sum(1).reshape(lead) / 81
        assert_agree(target_alignment(model, x, targets), expected)

    def test_one_function_of_several_outputs_is_a_number(self) -> None:
        target = normal(7, 3)
        expected = alpha_of(MLP.rows, target[None])[0]
        assert_agree(target_alignment(MLP.module, MLP.inputs, target), expected)

    def test_a_network_with_one_output_read_out_takes_scalar_functions(self) -> None:
        network = pb.Network(MLP.module, outputs=lambda y: y[:, 1:2])  # type: ignore[index]
        targets = normal(3, 7)
        expected = (targets @ MLP.rows[:, 1]).square().sum(1) / 49
        assert_agree(target_alignment(network, MLP.inputs, targets), expected)

    def test_some_parameters_have_an_alignment_of_their_own(self) -> None:
        targets = normal(5, 7, 3)
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs, by_layer=True).layers["2"]
        network = pb.Network(MLP.module, parameters="2.*")
        expected = (targets * (kernel @ targets)).sum((1, 2)) / 49
        assert_agree(target_alignment(network, MLP.inputs, targets), expected)

    def test_whole_numbers_will_do(self) -> None:
        model, x, _ = scalar()
        signs = normal(9).sign()
        assert_agree(target_alignment(model, x, signs.long()), target_alignment(model, x, signs))

    @pytest.mark.parametrize(("name", "shape", "memory"), MANY)
    @pytest.mark.parametrize("targets", [2, 40])
    def test_many_samples(
        self, name: str, shape: tuple[int, ...], memory: int, targets: int
    ) -> None:
        """Enough for several steps of the sweep, and for several blocks of targets."""
        module, _ = named(name).fresh()
        x, functions = normal(70, *shape, seed=4), normal(targets, 70, 3)
        expected = alpha_of(reference.jacobian(module, x), functions)
        assert_agree(target_alignment(module, x, functions, memory=memory), expected)

    @pytest.mark.parametrize(("outputs", "targets", "most"), [(1, 30, 5), (30, 1, 5)])
    def test_it_goes_back_for_each_output_or_each_target_whichever_is_less(
        self, outputs: int, targets: int, most: int
    ) -> None:
        passes = []

        class Counted(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Linear(3, 4), nn.Linear(4, outputs)

            def forward(self, x: Tensor) -> Tensor:
                hidden = self.first(x).tanh()
                if hidden.requires_grad:
                    hidden.register_hook(passes.append)
                return self.second(hidden)

        target_alignment(Counted(), torch.randn(5, 3), torch.randn(targets, 5, outputs))
        assert 1 <= len(passes) <= most


class TestRKHSNorm:
    def full_rank(self) -> tuple[nn.Module, Tensor, Tensor]:
        model, x, rows = scalar()  # 41 parameters, 9 samples
        assert int(torch.linalg.matrix_rank(rows)) == 9
        return model, x, rows

    def test_it_is_the_quadratic_form_of_the_inverse(self) -> None:
        """004 3.6 and section 5: `y K^-1 y`."""
        _, _, rows = self.full_rank()
        targets = normal(5, 9)
        expected = (targets * torch.linalg.solve(rows @ rows.T, targets.T).T).sum(1)
        norm = rkhs_norm(pairs_of(), targets)
        assert_agree(norm.squared, expected)
        assert_agree(norm.captured, torch.ones(5, dtype=torch.float64))
        assert (norm.used, norm.jitter) == (9, 0.0)

    def test_it_is_the_squared_length_of_the_shortest_step_000_t20(self) -> None:
        _, _, rows = self.full_rank()
        target = normal(9)
        step = torch.linalg.pinv(rows) @ target
        assert_agree(rows @ step, target)
        assert_agree(rkhs_norm(pairs_of(), target).squared, step.square().sum())

    def test_of_an_eigenfunction_it_is_one_over_its_eigenvalue(self) -> None:
        """004 3.6 and section 5."""
        norm = rkhs_norm(pairs_of(), pairs_of().mercer_functions)
        assert_agree(norm.squared, 1 / pairs_of().mercer_values)

    def test_of_several_outputs(self) -> None:
        target = normal(7, 3)
        matrix = torch.einsum("ncd,med->ncme", MLP.rows, MLP.rows).reshape(21, 21)
        expected = target.flatten() @ torch.linalg.solve(matrix, target.flatten())
        assert_agree(rkhs_norm(pairs_of("all"), target).squared, expected)

    def test_jitter_is_added_to_the_matrix(self) -> None:
        _, _, rows = scalar()
        target, eye = normal(9), torch.eye(9, dtype=torch.float64)
        expected = target @ torch.linalg.solve(rows @ rows.T + 0.3 * eye, target)
        norm = rkhs_norm(pairs_of(), target, jitter=0.3)
        assert_agree(norm.squared, expected)
        assert norm.jitter == 0.3

    def test_jitter_takes_in_what_is_only_rounding(self) -> None:
        rows = normal(6, 2)
        pairs, target = eigenfunctions(TangentKernel(rows @ rows.T, 1, True)), normal(6)
        expected = target @ torch.linalg.solve(rows @ rows.T + 0.1 * torch.eye(6).double(), target)
        norm = rkhs_norm(pairs, target, jitter=0.1)
        assert_agree(norm.squared, expected)
        assert norm.used == 6

    def test_without_jitter_it_is_that_of_the_pseudoinverse(self) -> None:
        rows = normal(6, 2)
        pairs, target = eigenfunctions(TangentKernel(rows @ rows.T, 1, True)), normal(6)
        inverse = torch.linalg.pinv(rows @ rows.T, hermitian=True)
        norm = rkhs_norm(pairs, target)
        assert_agree(norm.squared, target @ inverse @ target)
        inside = rows @ torch.linalg.pinv(rows) @ target
        assert_agree(norm.captured, inside.square().sum() / target.square().sum())
        assert norm.used == 2

    def test_leading_eigenfunctions_bound_it_from_below(self) -> None:
        model, x, _ = scalar()
        leading = eigenfunctions(pb.tangent_kernel(model, x, outputs=0), 4)
        target = normal(9)
        part, whole = rkhs_norm(leading, target), rkhs_norm(pairs_of(), target)
        assert float(part.squared) < float(whole.squared)
        shares = pairs_of().coefficients(target).square() * 9 / target.square().sum()
        assert_agree(part.captured, shares[:4].sum())

    def test_the_bound_holds_000_t19(self) -> None:
        model, x, _ = scalar()
        targets = normal(50, 9)
        bound = rkhs_lower_bound(target_alignment(model, x, targets), targets)
        assert bool((bound < rkhs_norm(pairs_of(), targets).squared).all())

    def test_the_bound_is_the_fourth_power_of_the_length_over_alpha(self) -> None:
        """000 T19, 004 lemma 1."""
        targets, alpha = normal(4, 7, 3), normal(4, seed=1).abs()
        expected = targets.square().sum(2).mean(1).square() / alpha
        assert_agree(rkhs_lower_bound(alpha, targets), expected)

    def test_the_bound_is_attained_by_eigenfunctions_alone_000_t19(self) -> None:
        model, x, _ = scalar()
        targets = 3 * pairs_of().functions
        bound = rkhs_lower_bound(target_alignment(model, x, targets), targets)
        assert_agree(bound, rkhs_norm(pairs_of(), targets).squared)

    def test_without_alignment_the_bound_is_infinite(self) -> None:
        assert rkhs_lower_bound(torch.tensor(0.0), torch.ones(3)) == math.inf

    def test_the_mean_of_the_kernel_is_the_sum_of_eigenvalues(self) -> None:
        """004, eq. 2: E[K(x, x)] = tr K / n = sum of lambda_j."""
        model, x, rows = scalar()
        assert_agree(pairs_of().mercer_values.sum(), rows.square().sum(1).mean())


class TestEnergyConcentration:
    def test_it_is_the_length_of_the_projection(self) -> None:
        """004 3.11 (the ratio), 000 M4.8 (its square)."""
        _, _, rows = scalar()
        vectors = np.linalg.eigh((rows @ rows.T).numpy())[1][:, ::-1][:, :4]
        targets = normal(5, 9)
        expected = np.linalg.norm(targets.numpy() @ vectors, axis=1)
        expected /= np.linalg.norm(targets.numpy(), axis=1)
        concentration = energy_concentration(pairs_of(), targets, 4)
        assert_agree(concentration.ratio, torch.from_numpy(expected))
        assert_agree(concentration.energy, torch.from_numpy(expected) ** 2)

    def test_of_several_outputs(self) -> None:
        target = normal(7, 3)
        inner = pairs_of("all").functions[:4].flatten(1) @ target.flatten()
        expected = inner.square().sum() / target.square().sum()
        assert_agree(energy_concentration(pairs_of("all"), target, 4).energy, expected)

    def test_it_rises_to_1_000_t26(self) -> None:
        targets = normal(5, 9)
        energies = [energy_concentration(pairs_of(), targets, k).energy for k in range(1, 10)]
        steps = torch.stack(energies).diff(dim=0)
        assert float(steps.min()) >= 0
        assert float(energies[0].min()) >= 0
        assert_agree(energies[-1], torch.ones(5, dtype=torch.float64))

    def test_of_the_first_eigenfunction_it_is_1_at_once(self) -> None:
        """004 3.11."""
        concentration = energy_concentration(pairs_of(), pairs_of().functions, 1)
        expected = torch.tensor([1.0] + [0.0] * 8, dtype=torch.float64)
        assert_agree(concentration.energy, expected)

    def test_by_default_it_takes_all_eigenfunctions(self) -> None:
        assert_agree(energy_concentration(pairs_of(), normal(9)).ratio, 1.0)

    def test_turns_within_an_eigenspace_do_not_matter(self) -> None:
        """004 3.11."""
        basis = torch.linalg.qr(normal(6, 6))[0]
        values = torch.tensor([3.0, 3.0, 2.0, 1.0, 1.0, 1.0], dtype=torch.float64)
        turned = basis.clone()
        turned[:, :2] = basis[:, :2] @ torch.linalg.qr(normal(2, 2, seed=5))[0]
        target = normal(6)
        one, other = (
            energy_concentration(Eigenfunctions(values, q.T, 0.0), target, 2).energy
            for q in (basis, turned)
        )
        assert_agree(one, other)

    @pytest.mark.parametrize(
        ("samples", "ratio", "energy"), [(12_000, 0.0645, 0.0042), (10_000, 0.0707, 0.0050)]
    )
    def test_the_baseline_004_3_11(self, samples: int, ratio: float, energy: float) -> None:
        functions = torch.zeros(50, samples)
        functions[range(50), range(50)] = 1
        pairs = Eigenfunctions(torch.ones(50), functions, 0.0)
        concentration = energy_concentration(pairs, torch.ones(samples))
        assert concentration.random_ratio == pytest.approx(ratio, abs=5e-5)
        assert concentration.random_energy == pytest.approx(energy, abs=5e-5)

    def test_random_labels_have_the_baseline_on_average_000_t26(self) -> None:
        labels = normal(20_000, 9).sign()
        concentration = energy_concentration(pairs_of(), labels, 3)
        mean = float(concentration.energy.mean())
        assert mean == pytest.approx(concentration.random_energy, abs=0.005)

    def test_the_baseline_counts_outputs(self) -> None:
        concentration = energy_concentration(pairs_of("all"), normal(7, 3), 7)
        assert concentration.random_energy == pytest.approx(7 / 21)

    def test_other_eigenfunctions_as_targets_tell_how_far_the_subspace_turned(self) -> None:
        """The mean squared cosine of the principal angles between the two."""
        other = eigenfunctions(TangentKernel(normal(9, 9) @ normal(9, 9).T, 1, True), 3)
        overlap = energy_concentration(pairs_of(), other.functions, 3).energy.mean()
        cosines = torch.linalg.svdvals(pairs_of().functions[:3] @ other.functions.T)
        assert_agree(overlap, cosines.square().mean())


class TestRotation:
    before, after = normal(6).abs() + 0.1, normal(6, seed=1).abs()

    def test_growth_is_the_quotient(self) -> None:
        assert_agree(rotation(self.before, self.after, 2).growth, self.after / self.before)

    @pytest.mark.parametrize("count", [5, 6])
    def test_the_ratio_is_to_the_median_of_the_others(self, count: int) -> None:
        before, after = self.before[:count], self.after[:count]
        growth = (after / before).numpy()
        expected = growth[2] / np.median(np.delete(growth, 2))
        assert rotation(before, after, 2).ratio == pytest.approx(expected)

    def test_a_kernel_that_was_scaled_has_not_turned(self) -> None:
        assert rotation(self.before, 5 * self.before, 0).ratio == pytest.approx(1)

    @pytest.mark.parametrize("learned", [5, 20])
    def test_training_turns_the_kernel_towards_what_is_learned_004_4_2(self, learned: int) -> None:
        torch.manual_seed(0)
        sizes = [nn.Linear(10, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 1)]
        model, x = nn.Sequential(*sizes).double(), normal(150, 10)
        pairs = eigenfunctions(pb.tangent_kernel(model, x, outputs=0), 40)
        before = target_alignment(model, x, pairs.mercer_functions)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        for _ in range(150):
            optimizer.zero_grad()
            outputs = model(x).squeeze(1)
            nn.functional.soft_margin_loss(outputs, pairs.labels(learned)).backward()
            optimizer.step()
        turned = rotation(before, target_alignment(model, x, pairs.mercer_functions), learned)
        assert int(turned.growth.argmax()) == learned
        assert turned.ratio > 1.3


class TestBadInput:
    def test_an_unknown_normalisation(self) -> None:
        with pytest.raises(pb.InputError, match=r"normalise.*norm"):
            target_alignment(MLP.module, MLP.inputs, normal(7, 3), normalise="norm")

    @pytest.mark.parametrize("shape", [(7,), (3, 7), (6, 3), (7, 2), (3, 7, 1)], ids=str)
    def test_targets_of_another_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(pb.InputError, match=r"targets.*\(\.\.\., 7, 3\)"):
            target_alignment(MLP.module, MLP.inputs, normal(*shape))

    @pytest.mark.parametrize("shape", [(8,), (9, 2), (2, 8)], ids=str)
    def test_scalar_targets_of_another_shape(self, shape: tuple[int, ...]) -> None:
        model, x, _ = scalar()
        with pytest.raises(pb.InputError, match="targets"):
            target_alignment(model, x, normal(*shape))

    def test_targets_that_are_not_finite(self) -> None:
        targets = normal(7, 3)
        targets[2, 1] = math.inf
        with pytest.raises(pb.InputError, match="targets"):
            target_alignment(MLP.module, MLP.inputs, targets)

    @pytest.mark.parametrize("normalise", ["rayleigh", "trace"])
    def test_a_target_of_zeros_cannot_be_normalised(self, normalise: str) -> None:
        targets = normal(3, 7, 3)
        targets[1] = 0
        with pytest.raises(pb.InputError, match=r"targets: number 1 is zero"):
            target_alignment(MLP.module, MLP.inputs, targets, normalise)

    @pytest.mark.parametrize("count", [1, 4])
    def test_gradients_that_are_not_finite(self, count: int) -> None:
        model = nn.Linear(2, 2)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        network = pb.Network(model, outputs=lambda y: y.sqrt())  # type: ignore[attr-defined]
        with pytest.raises(pb.InputError, match="not finite"):
            target_alignment(network, torch.ones(3, 2), torch.ones(count, 3, 2))

    @pytest.mark.parametrize("shape", [(4, 9), (9,), (5, 9, 2, 2)], ids=str)
    def test_a_bound_for_other_targets(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(pb.InputError, match="targets"):
            rkhs_lower_bound(torch.ones(5), torch.ones(shape))

    def test_a_bound_for_a_target_of_zeros(self) -> None:
        with pytest.raises(pb.InputError, match="zero"):
            rkhs_lower_bound(torch.ones(2), torch.zeros(2, 3))

    def test_a_bound_from_alignments_that_are_not_finite(self) -> None:
        with pytest.raises(pb.InputError, match="alignments"):
            rkhs_lower_bound(torch.tensor([math.nan]), torch.ones(1, 3))

    @pytest.mark.parametrize("jitter", [-1e-3, math.inf, math.nan])
    def test_jitter_that_is_no_addition(self, jitter: float) -> None:
        with pytest.raises(pb.InputError, match="jitter"):
            rkhs_norm(pairs_of(), normal(9), jitter)

    def test_the_norm_of_a_target_of_zeros(self) -> None:
        with pytest.raises(pb.InputError, match="zero"):
            rkhs_norm(pairs_of(), torch.zeros(9))

    def test_the_norm_in_a_kernel_of_zeros(self) -> None:
        pairs = eigenfunctions(TangentKernel(torch.zeros(3, 3), 1, True))
        with pytest.raises(pb.InputError, match="kernel is zero"):
            rkhs_norm(pairs, torch.ones(3))

    @pytest.mark.parametrize("k", [0, -1, 10])
    def test_concentration_on_eigenfunctions_that_there_are_not(self, k: int) -> None:
        with pytest.raises(pb.InputError, match=r"k: .*9"):
            energy_concentration(pairs_of(), normal(9), k)

    def test_concentration_of_a_target_of_zeros(self) -> None:
        with pytest.raises(pb.InputError, match="zero"):
            energy_concentration(pairs_of(), torch.zeros(2, 9))

    @pytest.mark.parametrize(("before", "after"), [(3, 4), (1, 1)])
    def test_rotation_of_other_functions(self, before: int, after: int) -> None:
        with pytest.raises((pb.InputError, TypeError), match=r"before|Type-check"):
            rotation(torch.ones(before), torch.ones(after), 0)

    @pytest.mark.parametrize("target", [-1, 3])
    def test_rotation_towards_a_function_that_there_is_not(self, target: int) -> None:
        with pytest.raises(pb.InputError, match="target"):
            rotation(torch.ones(3), torch.ones(3), target)

    def test_rotation_from_no_alignment(self) -> None:
        with pytest.raises(pb.InputError, match="before: function 1"):
            rotation(torch.tensor([1.0, 0.0]), torch.ones(2), 0)

    def test_rotation_of_alignments_that_are_not_finite(self) -> None:
        with pytest.raises(pb.InputError, match="NaN"):
            rotation(torch.ones(2), torch.tensor([1.0, math.nan]), 0)
