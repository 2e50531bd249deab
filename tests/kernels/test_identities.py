"""The identities of the documents that concern function space, by their numbers.

000: tests T16 to T26 and T38 to T40. 002: section 5.3. 003: part 5, for its chapter 6. 004:
sections 5 and 6. Where an identity has its test elsewhere, the name or the docstring of that test
carries the number instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import pullback as pb
from pullback.kernels.dense import TangentKernel
from pullback.kernels.dynamics import gradient_flow, step_modes
from pullback.kernels.infinite import Dense, InfiniteNetwork, Relu
from pullback.kernels.mercer import Eigenfunctions, eigenfunctions, local_energy
from pullback.kernels.regression import kernel_regression
from pullback.kernels.targets import rkhs_norm, target_alignment
from pullback.probes import KernelDrift, KernelRotation, KernelSample, LabelConcentration, Moment
from tests import reference
from tests.cases import CASES, Case, named
from tests.checks import assert_agree
from tests.entries import data_of, network_of
from tests.kernels.test_regression import built, drawn, gram

MLP = named("mlp")  # 7 samples, 3 outputs, 83 parameters
SIGNS = torch.tensor(list(product([-1.0, 1.0], repeat=8)), dtype=torch.float64)


def numbers(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@cache
def scalar() -> tuple[nn.Module, Tensor, Tensor]:
    """A smooth network with one output, 8 samples, and its Jacobian (n, d)."""
    model, x = built(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)), drawn(8, 3, seed=1)
    return model, x, reference.jacobian(model, x)[:, 0]


def linear_in(features: Tensor) -> tuple[nn.Module, Tensor]:
    """A model whose tangent features are those given, at weights of zero."""
    model = nn.Linear(features.shape[1], 1, bias=False).double()
    nn.init.zeros_(model.weight)
    return model, features


def kernel_of(features: Tensor) -> TangentKernel:
    return pb.tangent_kernel(*linear_in(features), outputs=0)


class Reparametrised(nn.Module):
    """The function of a module of the parameters `A^T w`, A invertible."""

    def __init__(self, module: nn.Module, a: Tensor) -> None:
        super().__init__()
        w = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
        self.w = nn.Parameter(a.T @ w)
        self.register_buffer("inverse", torch.linalg.inv(a).T)
        self.held = [module]  # in a list, because its parameters are not those of this one

    def forward(self, x: Tensor) -> Tensor:
        own, start, parameters = self.inverse @ self.w, 0, {}
        for name, old in self.held[0].named_parameters():
            parameters[name] = own[start : start + old.numel()].view(old.shape)
            start += old.numel()
        return functional_call(self.held[0], parameters, (x,))


class TestDocument000:
    @pytest.mark.parametrize("case", CASES[::3], ids=str)
    def test_t16_the_gram_matrix_is_symmetric_and_positive_semidefinite(self, case: Case) -> None:
        kernel = pb.tangent_kernel(network_of(case), data_of(case))
        assert torch.equal(kernel.flat, kernel.flat.T)
        values = kernel.eigvalsh()
        assert float(values[-1]) >= -1e-13 * float(values[0])

    @pytest.mark.parametrize("samples", [3, 12])
    def test_t16_its_rank_is_at_most_the_samples_and_the_parameters(self, samples: int) -> None:
        """Of the eight parameters of a linear map, and of the 56 of a network."""
        x = drawn(samples, 3, seed=2)
        few = pb.tangent_kernel(built(nn.Linear(3, 2)), x)
        assert eigenfunctions(few).rank == min(2 * samples, 8)
        many = pb.tangent_kernel(built(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 2)), x)
        assert eigenfunctions(many).rank == 2 * samples

    def test_t19_the_product_of_both_forms_is_at_least_the_fourth_power(self) -> None:
        """`(y K^-1 y)(y K y) >= (y y)^2`, and equal for eigenvectors."""
        model, x, _ = scalar()
        kernel = pb.tangent_kernel(model, x, outputs=0)
        for y in [*drawn(20, 8, seed=3), *kernel.eigh()[1]]:
            inverse = float(kernel_regression(kernel, y).squared_norm())
            least = float(y @ y) ** 2
            found = inverse * kernel.quadratic(y)
            assert found >= least * (1 - 1e-10)
            along = float((kernel @ y - kernel.quadratic(y) / (y @ y) * y).norm()) < 1e-12
            assert along == (found < least * (1 + 1e-10))

    def test_erratum_30_a_displacement_is_as_long_as_its_function_only_in_the_span(self) -> None:
        """Eq. 4.14 is printed as an equality for all displacements."""
        model, x, _ = scalar()
        jacobian = pb.jacobian(model, x)
        pairs = eigenfunctions(pb.tangent_kernel(model, x, outputs=0))
        inside = jacobian.pull(drawn(8, 1, seed=4))
        norm = rkhs_norm(pairs, jacobian.push(inside)[:, 0]).squared
        assert_agree(norm, inside.norm().square())
        any_other = jacobian.space.randn(seed=5)
        norm = rkhs_norm(pairs, jacobian.push(any_other)[:, 0]).squared
        assert float(norm) < 0.9 * float(any_other.norm().square())

    def test_t22_all_linear_predictors_are_equally_aligned_with_a_linear_model(self) -> None:
        x = whitened(5)
        directions = nn.functional.normalize(drawn(7, 5, seed=6))
        model = nn.Linear(5, 1, bias=False).double()
        found = target_alignment(model, x, directions @ x.T)
        assert_agree(found, torch.ones(7, dtype=torch.float64))

    @pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
    def test_t23_of_one_hidden_layer_the_alignment_follows_from_its_weights(
        self, activation: type[nn.Module]
    ) -> None:
        """`(|W u|^2 + |a|^2) / 4`, so that directions rank as right singular vectors of W."""
        model = built(nn.Linear(4, 9, bias=False), activation(), nn.Linear(9, 1, bias=False))
        w, a, x = model[0].weight.detach(), model[2].weight.detach(), whitened(4)
        directions = nn.functional.normalize(drawn(7, 4, seed=7))
        expected = ((directions @ w.T).square().sum(1) + a.square().sum()) / 4
        assert_agree(target_alignment(model, x, directions @ x.T), expected)
        _, scales, vectors = torch.linalg.svd(w)
        ranked = target_alignment(model, x, vectors @ x.T)
        assert_agree(ranked, (scales.square() + a.square().sum()) / 4)

    def test_t24_of_pooling_the_alignment_is_that_of_the_mixed_derivative(self) -> None:
        """Six inputs in two aliases of three; all of `B^T B`, so its singular vectors too."""
        model, x = Pooling(aliases=2, kept=3), whitened(6)
        phi, theta = model.phi.detach(), model.theta.detach()
        upper = model.pool * (phi * model.filter)
        lower = torch.diag((model.pool.T @ theta) * model.filter)
        b = torch.cat([upper, lower])
        assert_agree(bilinear(model, x), b.T @ b)
        _, scales, vectors = torch.linalg.svd(b)
        found = target_alignment(model, x, vectors @ x.T)
        assert_agree(found, scales.square())
        assert_agree(found.sum(), b.square().sum())

    def test_t25_the_cosine_with_a_gaussian_function_is_the_root_of_2_over_pi(self) -> None:
        """At the quantiles of a normal distribution; 0.7979, where the document reports 0.78."""
        shares = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
        gaussian = torch.special.ndtri(shares)
        rows = gaussian[None] / gaussian.norm()
        pairs = Eigenfunctions(torch.ones(1).to(rows), rows, 0.0)
        assert_agree(pairs.coefficients(pairs.labels(0))[0], math.sqrt(2 / math.pi), 1e-5)

    def test_erratum_20_random_labels_have_larger_cosines_than_printed(self) -> None:
        """The root of 2 / (pi n): 3.3e-3 for n = 60,000, where 1e-4 is printed."""
        rows = drawn(1, 60_000)
        pairs = Eigenfunctions(torch.ones(1).to(rows), rows / rows.norm(), 0.0)
        labels = drawn(300, 60_000, seed=1).sign()
        mean = float(pairs.coefficients(labels).abs().mean())
        assert mean == pytest.approx(math.sqrt(2 / (math.pi * 60_000)), rel=0.15)
        assert mean > 10 * 1e-4


def whitened(size: int) -> Tensor:
    """Points in pairs x and -x whose mean of `x x^T` is the identity.

    Averages of what is quadratic in x, or half of it in each half-space, are those of N(0, I).
    """
    rows = torch.linalg.qr(drawn(size, size, seed=11)).Q * math.sqrt(size)
    return torch.cat([rows, -rows])


def bilinear(model: nn.Module, x: Tensor) -> Tensor:
    """The alignment of `x -> u^T x` as a quadratic form of u, by polarisation."""
    eye = torch.eye(x.shape[1], dtype=torch.float64)
    pairs = torch.stack([eye[:, None] + eye, eye[:, None] - eye])
    sums, differences = target_alignment(model, x, pairs @ x.T)
    return (sums - differences) / 4


class Pooling(nn.Module):
    """000, M3.6: `theta^T A (m * phi * x)`, where A adds up aliases."""

    def __init__(self, aliases: int, kept: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(drawn(kept, seed=8))
        self.phi = nn.Parameter(drawn(aliases * kept, seed=9))
        self.register_buffer("filter", drawn(aliases * kept, seed=10))
        eye = torch.eye(kept, dtype=torch.float64)
        self.register_buffer("pool", eye.repeat(1, aliases) / math.sqrt(aliases))

    def forward(self, x: Tensor) -> Tensor:
        return ((self.filter * self.phi * x) @ (self.pool.T @ self.theta)).unsqueeze(1)


class Gated(nn.Module):
    """A network for each of three domains; the first input names the domain."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.ModuleList(
            built(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 1)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = [(x[:, :1] == t) * net(x[:, 1:]) for t, net in enumerate(self.own)]
        return sum(parts)


class Tasks:
    """Two tasks learned by a linearised network, each from the same start by its shortest step."""

    def __init__(self, model: nn.Module, domains: list[Tensor], targets: list[Tensor]) -> None:
        self.model, self.domains, self.targets = model, domains, targets
        self.fits = [
            kernel_regression(pb.tangent_kernel(model, x), y, prior=model(x))
            for x, y in zip(domains, targets, strict=True)
        ]
        self.steps = [
            pb.jacobian(model, x).pull(fit.coefficients)
            for x, fit in zip(domains, self.fits, strict=True)
        ]

    def edited(self, x: Tensor, first: float, second: float) -> Tensor:
        """The linearised network after so much of each step."""
        step = first * self.steps[0] + second * self.steps[1]
        return self.model(x).detach() + pb.jacobian(self.model, x).push(step)


class TestTaskArithmetic000:
    """T38 and T40, with propositions 6.1 and 6.2: when the steps of tasks can be added."""

    grid = [(1.0, 1.0), (0.3, -0.8), (-2.0, 0.5), (0.0, 3.0)]

    @staticmethod
    def gated() -> tuple[Tasks, Tensor]:
        """Two tasks on domains that share nothing, and samples of a third domain."""
        domains = [
            torch.cat([torch.full((6, 1), float(t)).double(), drawn(6, 3, seed=20 + t)], dim=1)
            for t in range(3)
        ]
        targets = [drawn(6, 1, seed=30 + t) for t in range(2)]
        return Tasks(Gated(), domains[:2], targets), domains[2]

    def test_t38_local_energy_is_1_on_the_task_and_0_on_the_control(self) -> None:
        tasks, _ = self.gated()
        both = torch.cat(tasks.domains)
        energy = local_energy(pb.tangent_kernel(tasks.model, tasks.domains[0], both, outputs=0))
        assert_agree(energy.values, numbers([1.0] * 6 + [0.0] * 6))

    def test_t38_each_eigenfunction_is_zero_on_one_of_the_domains(self) -> None:
        tasks, _ = self.gated()
        pairs = eigenfunctions(pb.tangent_kernel(tasks.model, torch.cat(tasks.domains), outputs=0))
        shares = pairs.functions.unflatten(1, (2, 6)).square().sum(2)
        assert_agree(shares.amax(1), torch.ones(12, dtype=torch.float64))
        first = torch.cat([tasks.targets[0][:, 0], torch.zeros(6, dtype=torch.float64)])
        elsewhere = shares[:, 1] > 0.5
        assert float(pairs.coefficients(first)[elsewhere].abs().max()) < 1e-12

    @pytest.mark.parametrize("amounts", grid, ids=str)
    def test_t38_property_6_1_holds_exactly(self, amounts: tuple[float, float]) -> None:
        tasks, elsewhere = self.gated()
        one, other = amounts
        for t, alone in enumerate([(one, 0.0), (0.0, other)]):
            x = tasks.domains[t]
            assert_agree(tasks.edited(x, *amounts), tasks.edited(x, *alone))
        assert_agree(tasks.edited(elsewhere, *amounts), tasks.model(elsewhere).detach())

    def test_t38_each_task_is_solved(self) -> None:
        tasks, _ = self.gated()
        for x, y in zip(tasks.domains, tasks.targets, strict=True):
            assert_agree(tasks.edited(x, 1.0, 1.0), y)

    def test_t40_the_kernel_on_a_ring_is_circulant(self) -> None:
        matrix = ring_kernel().matrix
        turned = torch.stack([row.roll(-i) for i, row in enumerate(matrix)])
        assert_agree(turned, matrix[:1].expand(24, -1))

    def test_t40_its_spectrum_and_eigenfunctions_are_those_of_fourier(self) -> None:
        kernel = ring_kernel()
        pairs = eigenfunctions(kernel)
        spectrum = torch.fft.fft(kernel.matrix[0]).real.sort(descending=True).values
        assert_agree(pairs.values, spectrum)
        energy = pairs.radial_energy()
        assert_agree(energy.amax(1), torch.ones(24, dtype=torch.float64))

    def test_t40_its_eigenspaces_have_the_same_energy_everywhere(self) -> None:
        """Each function of frequency 1 to 11 comes with another of the same eigenvalue."""
        pairs = eigenfunctions(ring_kernel())
        energy = pairs.functions.square()
        alone = energy[[0, 23]]
        in_pairs = energy[1:23].unflatten(0, (11, 2)).sum(1)
        assert_agree(alone, torch.full_like(alone, 1 / 24))
        assert_agree(in_pairs, torch.full_like(in_pairs, 2 / 24))

    def test_t40_the_leading_eigenfunctions_are_independent_on_an_arc(self) -> None:
        """So no function in their span is zero there, which 6.2 needs."""
        leading = eigenfunctions(ring_kernel(), 5).functions
        assert float(torch.linalg.svdvals(leading[:, :12])[-1]) > 0.01

    @staticmethod
    def on_the_ring() -> Tasks:
        """A model with the ring's kernel, and a task on each half of the ring."""
        pairs = eigenfunctions(ring_kernel())
        model, x = linear_in(pairs.functions.T * pairs.values.sqrt())
        assert_agree(pb.tangent_kernel(model, x, outputs=0).matrix, ring_kernel().matrix)
        angles = 2 * math.pi * torch.arange(24, dtype=torch.float64) / 24
        targets = [torch.sin(2 * angles[:12]), torch.cos(3 * angles[12:])]
        return Tasks(model, [x[:12], x[12:]], [y.unsqueeze(1) for y in targets])

    def test_t40_there_the_steps_of_two_tasks_cannot_be_added(self) -> None:
        tasks = self.on_the_ring()
        for t, alone in enumerate([(1.0, 0.0), (0.0, 1.0)]):
            x, y = tasks.domains[t], tasks.targets[t]
            assert_agree(tasks.edited(x, *alone), y)
            off = tasks.edited(x, 1.0, 1.0) - y
            assert float(off.norm()) > 0.1 * float(y.norm())
            across = pb.tangent_kernel(tasks.model, x, tasks.domains[1 - t])
            assert_agree(off, across @ tasks.fits[1 - t].coefficients)

    def test_t40_nor_does_one_step_leave_the_other_half_alone(self) -> None:
        tasks = self.on_the_ring()
        moved = tasks.edited(tasks.domains[1], 1.0, 0.0) - tasks.model(tasks.domains[1]).detach()
        assert float(moved.norm()) > 0.1 * float(tasks.targets[0].norm())


@cache
def ring_kernel() -> TangentKernel:
    """That of a fully connected network of infinite width on 24 points of a circle."""
    angles = 2 * math.pi * torch.arange(24, dtype=torch.float64) / 24
    wide = InfiniteNetwork([Dense(2**0.5, 0.5), Relu(), Dense(2**0.5, 0.5), Relu(), Dense()])
    return wide.tangent_kernel(torch.stack([angles.cos(), angles.sin()], dim=1))


class Quadratic(nn.Module):
    """Of degree two in each parameter, so that central differences are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = built(nn.Linear(3, 5)), built(nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).square())


class TestDocument002:
    """Section 5.3."""

    def test_tangent_features_are_finite_differences(self) -> None:
        model, x = Quadratic(), drawn(6, 3, seed=1)
        columns = []
        with torch.no_grad():
            for parameter in model.parameters():
                for entry in parameter.view(-1):
                    outputs = []
                    for step in (0.5, -1.0):
                        entry += step
                        outputs.append(model(x))
                    entry += 0.5
                    columns.append(outputs[0] - outputs[1])
        features = torch.stack(columns, dim=-1)
        assert_agree(pb.jacobian(model, x).rows(), features)
        matrix = torch.einsum("ncd,med->ncme", features, features)
        assert_agree(pb.tangent_kernel(model, x).matrix, matrix)

    @pytest.mark.parametrize("method", ["gradients", "structured", "products"])
    @pytest.mark.parametrize("bias", [False, True])
    def test_the_kernel_of_a_linear_model_is_that_of_its_inputs(
        self, bias: bool, method: str
    ) -> None:
        """`X X^T`, and one more with a bias (also 004, 3.4)."""
        x, y = drawn(6, 4), drawn(3, 4, seed=1)
        model = nn.Linear(4, 1, bias=bias).double()
        for other in (None, y):
            expected = x @ (x if other is None else other).T + (1.0 if bias else 0.0)
            kernel = pb.tangent_kernel(model, x, other, outputs=0, method=method)
            assert_agree(kernel.matrix, expected)

    def test_b_1_features_are_singular_vectors_with_roots_of_eigenvalues(self) -> None:
        """B.23 and B.24: `df = sum_j sqrt(lambda_j) (v_j^T dw) u_j`; without the root in ERR-11."""
        jacobian = pb.jacobian(MLP.module, MLP.inputs)
        pairs = eigenfunctions(pb.tangent_kernel(MLP.module, MLP.inputs))
        roots = pairs.values.sqrt()
        vectors = jacobian.pull(pairs.functions) / roots.unsqueeze(1)
        assert_agree(vectors.flat @ vectors.flat.T, torch.eye(21, dtype=torch.float64))
        step = jacobian.space.randn(seed=1)
        along = vectors.flat @ step.flat
        change = jacobian.push(step)
        assert_agree(torch.einsum("j,jnc->nc", roots * along, pairs.functions), change)
        printed = torch.einsum("j,jnc->nc", pairs.values * along, pairs.functions)
        assert float((printed - change).norm()) > 0.1 * float(change.norm())

    def test_b_1_the_kernel_is_the_sum_of_its_modes_off_the_samples_too(self) -> None:
        """`k(x, x_i) = sum_j lambda_j u_j(x) u_j(x_i)`; ERR-13 is without the eigenvalues."""
        model, x, _ = scalar()
        pairs = eigenfunctions(pb.tangent_kernel(model, x, outputs=0))
        cross = pb.tangent_kernel(model, drawn(5, 3, seed=2), x, outputs=0)
        off = pairs.extend(cross)
        summed = torch.einsum("j,jm,jn->mn", pairs.mercer_values, off.mercer_functions,
                              pairs.mercer_functions)  # fmt: skip
        assert_agree(summed, cross.matrix)
        printed = off.mercer_functions.T @ pairs.mercer_functions
        assert float((printed - cross.matrix).norm()) > 0.1 * float(cross.matrix.norm())

    def test_b_1_the_kernel_acts_on_its_eigenfunctions_by_their_eigenvalues(self) -> None:
        """Lemma B.1, by products alone."""
        pairs = eigenfunctions(pb.tangent_kernel(MLP.module, MLP.inputs))
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs, representation="implicit")
        scaled = pairs.values[:, None, None] * pairs.functions
        assert_agree(kernel @ pairs.functions, scaled)

    @pytest.mark.parametrize("output", [0, "sum"])
    def test_b_6_the_complexity_of_a_ball_is_below_the_root_of_the_trace(
        self, output: object
    ) -> None:
        """`|J^T s|^2 = s K s` for all signs; `tr K / 2 <= (E sqrt(s K s))^2 <= tr K`."""
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs, outputs=output)
        signs = torch.tensor(list(product([-1.0, 1.0], repeat=7)), dtype=torch.float64)
        squares = numbers([kernel.quadratic(s) for s in signs])
        rows = MLP.rows[:, 0] if output == 0 else MLP.rows.flatten(1)
        assert_agree(squares, (signs @ rows).square().sum(1))
        mean = float(squares.sqrt().mean()) ** 2
        assert kernel.trace() / 2 <= mean <= kernel.trace()

    def test_b_6_it_is_the_root_of_the_trace_for_orthogonal_features(self) -> None:
        basis = torch.linalg.qr(drawn(9, 8)).Q.T * drawn(8, 1, seed=1)
        kernel = kernel_of(basis)
        squares = numbers([kernel.quadratic(s) for s in SIGNS])
        assert_agree(squares, numbers([kernel.trace()] * 256))

    def test_b_7_the_interpolator_of_least_norm(self) -> None:
        """B.63: `w* = Phi^T K^-1 y = sum_j (u_j y / sqrt(lambda_j)) v_j`, which interpolates.

        Of white noise in y it has the covariance `sum_j v_j v_j^T / lambda_j`.
        """
        model, x, _ = scalar()
        jacobian, y = pb.jacobian(model, x), drawn(8, seed=1)
        kernel = pb.tangent_kernel(model, x, outputs=0)
        shortest = jacobian.pull(kernel_regression(kernel, y).coefficients.unsqueeze(1))
        assert_agree(jacobian.push(shortest)[:, 0], y)
        pairs = eigenfunctions(kernel)
        vectors = jacobian.pull(pairs.functions.unsqueeze(2)) / pairs.values.sqrt().unsqueeze(1)
        parts = (pairs.functions @ y) / pairs.values.sqrt()
        assert_agree(shortest.flat, parts @ vectors.flat)
        of_each = kernel_regression(kernel, torch.eye(8, dtype=torch.float64)).coefficients
        maps = jacobian.pull(of_each.T.unsqueeze(2)).flat
        noise = vectors.flat.T / pairs.values @ vectors.flat
        assert_agree(maps.T @ maps, noise)

    def test_b_7_the_best_rescaling_of_features_for_an_interpolator(self) -> None:
        """At `nu_j = kappa lambda_j / |u_j y|` (B.64) the bound is `sum_j |u_j y|`, and no less."""
        y = drawn(8, seed=1)
        functions, values, vectors = parts_of_scalar()
        overlaps = (functions @ y).abs()

        def bound(nu: Tensor) -> float:
            kernel = kernel_of(functions.T * (values / nu).sqrt() @ vectors)
            assert_agree(kernel.trace(), (values / nu).sum())
            norm = kernel_regression(kernel, y).squared_norm()
            assert_agree(norm, (nu / values * overlaps.square()).sum())  # B.65
            return math.sqrt(float(norm) * kernel.trace())

        for kappa in (1.0, 7.0):
            least = bound(kappa * values / overlaps)
            assert_agree(least, overlaps.sum())
        assert bound(torch.ones(8, dtype=torch.float64)) > 1.2 * least
        for nu in (values / overlaps) * drawn(50, 8, seed=2).mul(0.3).exp():
            assert bound(nu) > least

    def test_b_8_the_best_rescaling_of_features_for_a_step(self) -> None:
        """At `nu_j = kappa / |u_j grad|` (16) the bound is the sum of the modes' steps.

        Eigenvalues are multiplied by `|u_j grad|` (17), and the function is what it was. Also
        003, 6.4.2 and 6.4.10.
        """
        gradient, rate = drawn(8, seed=3), 0.1
        functions, values, vectors = parts_of_scalar()
        features = functions.T * values.sqrt() @ vectors
        moved = -rate * features.T @ gradient
        modes = step_modes(kernel_of(features), gradient, rate)
        eye = torch.eye(features.shape[1], dtype=torch.float64)

        def rescaled(nu: Tensor) -> tuple[float, TangentKernel]:
            a = vectors.T * nu.sqrt() @ vectors + eye - vectors.T @ vectors
            new = features @ torch.linalg.inv(a).T
            kernel = kernel_of(new)
            assert_agree(new @ (a.T @ moved), modes.change)
            return float((a.T @ moved).norm()) * math.sqrt(kernel.trace()), kernel

        best = 1 / (functions @ gradient).abs()
        for kappa in (1.0, 5.0):
            least, kernel = rescaled(kappa * best)
            assert_agree(least, modes.amounts.abs().sum())
            expected = (values / best / kappa).sort(descending=True).values
            assert_agree(kernel.eigvalsh(), expected)
        assert rescaled(torch.ones(8, dtype=torch.float64))[0] > 1.05 * least
        for nu in best * drawn(50, 8, seed=4).mul(0.3).exp():
            assert rescaled(nu)[0] > least

    @pytest.mark.parametrize("ratio", [0.2, 0.9])
    def test_effective_ranks_of_geometric_spectra(self, ratio: float) -> None:
        """The entropy of `q^j`, j < r, is `log Z - log(q) E[j]`."""
        size = 12
        z = (1 - ratio**size) / (1 - ratio)
        powers = 1 - size * ratio ** (size - 1) + (size - 1) * ratio**size
        mean = ratio * powers / ((1 - ratio) * (1 - ratio**size))
        spectrum = ratio ** torch.arange(size, dtype=torch.float64)
        expected = math.exp(math.log(z) - math.log(ratio) * mean)
        assert_agree(spectral(spectrum).effective_rank(), expected)

    @pytest.mark.parametrize("ones", [1, 2, 5, 9])
    def test_the_effective_rank_of_equal_eigenvalues_is_their_number(self, ones: int) -> None:
        spectrum = numbers([1.0] * ones + [0.0] * (9 - ones))
        assert_agree(spectral(spectrum).effective_rank(), float(ones))

    def test_the_effective_rank_is_at_most_the_rank(self) -> None:
        features = drawn(9, 4)
        kernel = gram(features @ features.T)
        assert 1 < kernel.effective_rank() < 4 + 1e-10

    def test_trace_ratios_include_the_last_eigenvalue_they_count(self) -> None:
        """ERR-36 (003, ERR-13): printed `j < k`, by which all eigenvalues would not make up 1."""
        model, x, _ = scalar()
        kernel = pb.tangent_kernel(model, x, outputs=0)
        ratios = kernel.trace_ratios(range(9))
        values = kernel.eigvalsh()
        assert_agree(ratios[8], 1.0)
        assert_agree(numbers(ratios).diff(), values / values.sum())
        assert all(ratio >= k / 8 - 1e-12 for k, ratio in enumerate(ratios))
        assert ratios[7] < 1 - 1e-6

    def test_features_that_are_shifted_align_as_before_once_centred(self) -> None:
        model, x = nn.Linear(3, 1, bias=False).double(), drawn(8, 3)
        labels = drawn(8, seed=1)
        kernel, shifted = (pb.tangent_kernel(model, z, outputs=0) for z in (x, x + 5.0))
        assert_agree(shifted.alignment(labels), kernel.alignment(labels))
        assert abs(shifted.alignment(labels, None) - kernel.alignment(labels, None)) > 0.01

    def test_features_of_each_output_that_are_shifted_align_as_before(self) -> None:
        """Each by a shift of its own: centred over samples, but not over all indices at once."""
        features, labels = drawn(6, 3, 5), torch.tensor([0, 2, 1, 1, 0, 2])
        kernels = []
        for rows in (features, features + drawn(3, 5, seed=1)):
            matrix = torch.einsum("ncd,med->ncme", rows, rows)
            kernels.append(TangentKernel(matrix, 3, True))
        once, again = (kernel.alignment(labels, "samples") for kernel in kernels)
        assert_agree(once, again)
        assert abs(kernels[0].alignment(labels) - kernels[1].alignment(labels)) > 0.01

    def test_features_orthogonal_to_the_labels_are_not_aligned(self) -> None:
        labels = drawn(8)
        features = drawn(8, 4, seed=1)
        basis = torch.linalg.qr(torch.stack([labels, torch.ones(8).double()], dim=1)).Q
        features = features - basis @ (basis.T @ features)
        assert abs(kernel_of(features).alignment(labels)) < 1e-15

    def test_the_trace_is_the_squared_norm_of_the_features(self) -> None:
        """18: `|Phi|_F = sqrt(tr K)`, of every way of holding the kernel."""
        expected = MLP.rows.square().sum()
        for representation in ("dense", "implicit"):
            kernel = pb.tangent_kernel(MLP.module, MLP.inputs, representation=representation)
            assert_agree(kernel.trace(), expected)


def spectral(values: Tensor) -> TangentKernel:
    """A kernel of that spectrum."""
    basis = torch.linalg.qr(drawn(len(values), len(values), seed=9)).Q
    return gram(basis * values @ basis.T)


def parts_of_scalar() -> tuple[Tensor, Tensor, Tensor]:
    """Eigenfunctions u (n, n), eigenvalues (n,) and directions v (n, d) of the smooth network."""
    model, x, rows = scalar()
    pairs = eigenfunctions(pb.tangent_kernel(model, x, outputs=0))
    return pairs.functions, pairs.values, pairs.functions @ rows / pairs.values.sqrt()[:, None]


class TestDocument003:
    """Part 5, for chapter 6; erratum 3 of chapter 2 is about the same norm."""

    def test_err_3_the_norm_is_that_of_the_coefficients_of_features(self) -> None:
        """`sum_j w_j sqrt(lambda_j) u_j` has `|w|^2`; printed for `sum_j w_j u_j`."""
        model, x, _ = scalar()
        pairs = eigenfunctions(pb.tangent_kernel(model, x, outputs=0))
        w = drawn(8, seed=1)
        features = pairs.mercer_values.sqrt()[:, None] * pairs.mercer_functions
        assert_agree(rkhs_norm(pairs, w @ features).squared, w.square().sum())
        printed = rkhs_norm(pairs, w @ pairs.mercer_functions).squared
        assert float(printed) > 2 * float(w.square().sum())

    @pytest.mark.parametrize("kind", ["dense", "implicit"])
    def test_621_the_sum_of_the_modes_is_the_product_with_the_gradient(self, kind: str) -> None:
        """`df = -eta K grad`; ERR-16 has `v_j dw` without the `-eta`."""
        gradient = drawn(7, 3, seed=1)
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs)
        step = step_modes(kernel, gradient, rate=0.3)
        held = pb.tangent_kernel(MLP.module, MLP.inputs, representation=kind)
        assert_agree(step.change, -0.3 * (held @ gradient), 1e-13)
        jacobian = pb.jacobian(MLP.module, MLP.inputs)
        moved = -0.3 * jacobian.pull(gradient)
        vectors = jacobian.pull(step.eigenfunctions) / step.eigenvalues.sqrt().unsqueeze(1)
        assert_agree(vectors.flat @ moved.flat, step.eigenvalues.sqrt() * step.pulls[:, 0])

    def test_b_2_1_and_6_4_7_a_reparametrised_network_has_the_kernel_of_the_metric(self) -> None:
        """`w -> A^T w`: the same function, `K_A = Phi (A A^T)^-1 Phi^T`."""
        model, x, rows = scalar()
        a = torch.eye(31, dtype=torch.float64) + 0.2 * drawn(31, 31, seed=1)
        other = Reparametrised(model, a)
        assert_agree(other(x).detach(), model(x).detach())
        expected = rows @ torch.linalg.solve(a @ a.T, rows.T)
        kernel = pb.tangent_kernel(other, x, outputs=0)
        assert_agree(kernel.matrix, expected)
        assert_agree(kernel.trace(), torch.linalg.solve(a, rows.T).square().sum())  # ERR-21

    def test_6_4_1_the_complexity_of_a_flow_is_below_the_sum_of_its_steps(self) -> None:
        """Five metrics and lengths; each sign's supremum is attained by a step of that length."""
        _, _, rows = scalar()
        exact = bound = 0.0
        for seed in range(5):
            a = torch.eye(31, dtype=torch.float64) + 0.2 * drawn(31, 31, seed=seed)
            features, length = rows @ torch.linalg.inv(a).T, 0.5 + seed
            kernel = kernel_of(features)
            roots = numbers([kernel.quadratic(s) for s in SIGNS]).sqrt()
            steepest = torch.linalg.solve(a @ a.T, rows.T @ SIGNS.T).T
            steepest = length * steepest / (steepest @ a).norm(dim=1, keepdim=True)
            assert_agree((SIGNS * (steepest @ rows.T)).sum(1), length * roots)
            exact += length * float(roots.mean()) / 8
            bound += length * math.sqrt(kernel.trace()) / 8
        assert bound / math.sqrt(2) <= exact <= bound

    def test_f32_the_kernel_of_a_difference_is_a_contraction_of_the_whole(self) -> None:
        whole = pb.tangent_kernel(MLP.module, MLP.inputs).matrix
        weights = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
        expected = torch.einsum("ncme,c,e->nm", whole, weights, weights)
        assert_agree(pb.tangent_kernel(MLP.module, MLP.inputs, outputs=(0, 2)).matrix, expected)

    def test_f31_kernel_principal_components_are_scaled_eigenfunctions(self) -> None:
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs, outputs="sum")
        pairs = eigenfunctions(kernel, 4, centring="all")
        expected = pairs.functions * pairs.values.sqrt()[:, None]
        assert_agree(kernel.principal_components(4).T.abs(), expected.abs())

    def test_f30_a_solution_gives_the_right_hand_side_back(self) -> None:
        matrix = torch.einsum("ncd,med->ncme", MLP.rows, MLP.rows).reshape(21, 21)
        right, ridge = drawn(7, 3, seed=1), 0.2
        eye = torch.eye(21, dtype=torch.float64)
        expected = torch.linalg.solve(matrix + ridge * eye, right.flatten()).view(7, 3)
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs)
        assert_agree(kernel_regression(kernel, right, ridge).coefficients, expected)


def in_the_plane(*lines: Tensor) -> tuple[Tensor, Tensor]:
    """Points of the plane and weights: averages under N(0, I) of what is smooth off some lines.

    In polar coordinates, by Gauss's rule on each sector and along the radius.

    Args:
        lines: vectors that the lines are orthogonal to.
    """
    cuts = [math.atan2(sign * float(w[0]), -sign * float(w[1])) for w in lines for sign in (1, -1)]
    edges = sorted([-math.pi, *cuts, math.pi])
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(40))
    angles = [(b - a) / 2 * nodes + (a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)]
    spans = [(b - a) / 2 * weights for a, b in zip(edges, edges[1:], strict=False)]
    angle, span = torch.cat(angles), torch.cat(spans)
    radius, along = 6 * nodes + 6, 6 * weights
    density = radius * (-(radius**2) / 2).exp() * along / (2 * math.pi)
    directions = torch.stack([angle.cos(), angle.sin()], dim=1)
    points = radius[:, None, None] * directions
    return points.flatten(0, 1), torch.outer(density, span).flatten()


def slopes_of_biases(activation: type[nn.Module], w: Tensor) -> Tensor:
    """004, 3.9: `c_i`, where a hidden bias has the mean `E[(u x) df/db_i] = a_i c_i (w_i u)`."""
    lengths = w.square().sum(1)
    if activation is nn.ReLU:
        return 1 / (2 * math.pi * lengths).sqrt()
    return (2 + lengths) / (math.sqrt(2 * math.pi) * (1 + lengths) ** 1.5)


class TestTheorem1Of004:
    """Neural anisotropy directions from the kernel: `alpha(u^T x) = |E[d2f/dx dw] u|^2`."""

    def model(self, activation: type[nn.Module], biases: bool) -> nn.Module:
        layers = nn.Linear(2, 3, bias=biases), activation(), nn.Linear(3, 1, bias=biases)
        model = built(*layers)
        if biases:
            nn.init.zeros_(model[0].bias)
        return model

    def alignments(self, model: nn.Module, directions: Tensor) -> Tensor:
        """Of `x -> u^T x` under N(0, I), by the library: weights of the points go to the target."""
        x, weights = in_the_plane(*model[0].weight.detach())
        return target_alignment(model, x, len(x) * weights * (directions @ x.T))

    def mixed(self, model: nn.Module, directions: Tensor) -> Tensor:
        """`|E[d2f/dx dw] u|^2`, by autograd, which sees no jump of a derivative."""
        x, weights = in_the_plane(*model[0].weight.detach())
        x.requires_grad_()
        slope = torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
        found = []
        for u in directions:
            mean = (weights * (slope @ u)).sum()
            by_parameter = torch.autograd.grad(
                mean, list(model.parameters()), retain_graph=True, materialize_grads=True
            )
            found.append(sum(g.square().sum() for g in by_parameter))
        return torch.stack(found)

    directions = nn.functional.normalize(drawn(4, 2, seed=5))

    @pytest.mark.parametrize("biases", [False, True])
    @pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
    def test_alignment_with_linear_functions_has_a_closed_form(
        self, activation: type[nn.Module], biases: bool
    ) -> None:
        """A quarter of `|W u|^2 + |a|^2`, and a term of `c_i` for the bias of each hidden unit."""
        model = self.model(activation, biases)
        w, a = model[0].weight.detach(), model[2].weight.detach()[0]
        inner = self.directions @ w.T
        expected = (inner.square().sum(1) + a.square().sum()) / 4
        if biases:
            expected += (a * slopes_of_biases(activation, w) * inner).square().sum(1)
        assert_agree(self.alignments(model, self.directions), expected)

    def test_of_a_linear_network_it_is_the_squared_length_of_both_layers(self) -> None:
        model = self.model(nn.Identity, False)
        w, a = model[0].weight.detach(), model[2].weight.detach()
        expected = (self.directions @ w.T).square().sum(1) + a.square().sum()
        assert_agree(self.alignments(model, self.directions), expected)

    @pytest.mark.parametrize("biases", [False, True])
    def test_it_is_that_of_the_mixed_derivative_of_a_smooth_network(self, biases: bool) -> None:
        model = self.model(nn.GELU, biases)
        expected = self.mixed(model, self.directions)
        assert_agree(self.alignments(model, self.directions), expected)

    def test_autograd_misses_the_jumps_of_rectifiers_with_biases(self) -> None:
        """By the terms of the biases, and by these alone."""
        model = self.model(nn.ReLU, True)
        w, a = model[0].weight.detach(), model[2].weight.detach()[0]
        along = a * slopes_of_biases(nn.ReLU, w) * (self.directions @ w.T)
        found = self.alignments(model, self.directions)
        assert_agree(found - self.mixed(model, self.directions), along.square().sum(1))
        assert float(along.square().sum(1).min()) > 1e-3 * float(found.max())

    @pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
    def test_over_an_orthonormal_basis_it_adds_up_to_the_squared_norm(
        self, activation: type[nn.Module]
    ) -> None:
        """Of the mixed derivative, whose squared singular values are those of its directions."""
        model = self.model(activation, False)
        x, weights = in_the_plane(*model[0].weight.detach())
        mean = torch.einsum("n,nd,ni->di", weights, reference.jacobian(model, x)[:, 0], x)
        _, scales, vectors = torch.linalg.svd(mean, full_matrices=False)
        assert_agree(self.alignments(model, vectors), scales.square())
        turned = torch.linalg.qr(drawn(2, 2, seed=6)).Q
        assert_agree(self.alignments(model, turned).sum(), mean.square().sum())


class TestDocument004:
    """Sections 5 and 6, and the identities of section 3 that they test."""

    def test_3_2_a_model_linear_in_its_parameters_is_its_linearisation(self) -> None:
        """000, T13 and T15: `f(w + v) = f(w) + J v` for all v, with the same kernel everywhere."""
        frozen = built(nn.Linear(4, 9), nn.Tanh()).requires_grad_(False)
        model = nn.Sequential(frozen, built(nn.Linear(9, 2)))
        network, x = pb.Network(model), drawn(6, 4, seed=1)
        w = pb.ParameterVector.from_model(model)
        v = 10 * w.space.randn(seed=2)
        expected = network(x, w) + pb.jacobian(model, x).push(v)
        assert_agree(network(x, w + v), expected)
        kernel = pb.tangent_kernel(model, x).matrix
        (w + v).copy_to(model)
        assert_agree(pb.tangent_kernel(model, x).matrix, kernel)

    def test_3_2_the_linearisation_is_affine(self) -> None:
        """000, T13: along a line between two displacements, at any place on it."""
        jacobian = pb.jacobian(MLP.module, MLP.inputs)
        one, other = jacobian.space.randn(seed=1), jacobian.space.randn(seed=2)
        for a in (-1.5, 0.3, 4.0):
            expected = a * jacobian.push(one) + (1 - a) * jacobian.push(other)
            assert_agree(jacobian.push(a * one + (1 - a) * other), expected)

    def test_3_2_half_the_displacement_has_a_quarter_of_the_remainder(self) -> None:
        """000, T14, for a smooth activation."""
        model, x, _ = scalar()
        network, w = pb.Network(model), pb.ParameterVector.from_model(model)
        v = w.space.randn(seed=3)
        push = pb.jacobian(model, x).push(v)
        left = [
            float((network(x, w + h * v) - network(x, w) - h * push).norm()) for h in (2e-3, 1e-3)
        ]
        assert left[0] / left[1] == pytest.approx(4, rel=0.01)

    def test_3_3_both_forms_of_the_unbiased_linearisation_learn_alike(self) -> None:
        """000, T27: `(w - w0) df(w*)` from w0, and `(w - w*) df(w*)` from w*: as on its kernel."""
        model, x, _ = scalar()
        y, rate = drawn(8, 1, seed=4), 0.05
        jacobian = pb.jacobian(model, x)
        trained = pb.ParameterVector.from_model(model)
        path = descended(pb.tangent_kernel(model, x), y, rate)
        for start in (trained, trained + trained.space.randn(seed=5)):
            w = start
            for step in range(6):
                outputs = jacobian.push(w - start)
                assert_agree(outputs, path(step))
                w = w - rate / 8 * jacobian.pull(outputs - y)

    @pytest.mark.parametrize("case", CASES[::4], ids=str)
    def test_3_4_the_trace_is_the_sum_of_squared_gradients(self, case: Case) -> None:
        kernel = pb.tangent_kernel(network_of(case), data_of(case))
        assert_agree(kernel.trace(), case.rows.square().sum())

    def test_3_4_the_kernel_of_an_output_bias_is_all_ones(self) -> None:
        model, _, _ = scalar()
        network = pb.Network(model, parameters="2.bias")
        kernel = pb.tangent_kernel(network, drawn(5, 3), outputs=0)
        assert torch.equal(kernel.matrix, torch.ones(5, 5, dtype=torch.float64))

    def test_3_6_of_an_eigenfunction_the_distance_gone_is_one_over_its_eigenvalue(self) -> None:
        """Descent from 0 to convergence on `y = phi_j`: aligned tasks lie closer."""
        model, x, _ = scalar()
        kernel = pb.tangent_kernel(model, x, outputs=0)
        pairs = eigenfunctions(kernel)
        path = gradient_flow(kernel, pairs.mercer_functions.T)
        assert_agree(path.squared_norm(math.inf), 1 / pairs.mercer_values)

    def test_3_6_the_distance_gone_is_the_quadratic_form_of_the_inverse(self) -> None:
        """`(y - f0) K^-1 (y - f0)`, to where the shortest parameters that fit are."""
        model, x, rows = scalar()
        y, prior = drawn(8, 1, seed=6), model(x).detach()
        kernel = pb.tangent_kernel(model, x)
        wanted = (y - prior)[:, 0]
        expected = wanted @ torch.linalg.solve(rows @ rows.T, wanted)
        assert_agree(gradient_flow(kernel, y, prior).squared_norm(math.inf), expected)

    def test_3_11_training_a_linear_model_leaves_its_kernel_as_it_was(self) -> None:
        """C10: concentration of the labels, rotation and drift are those of the start."""
        frozen = built(nn.Linear(4, 9), nn.Tanh()).requires_grad_(False)
        head = built(nn.Linear(9, 3))
        model, x = nn.Sequential(frozen, head), drawn(8, 4, seed=1)
        labels = torch.tensor([0, 1, 2, 0, 1, 2, 1, 0])
        sample = KernelSample(x, labels)
        concentration = LabelConcentration(sample, ks=(3, 9))
        turned = [KernelRotation(sample, model, k=4), KernelDrift(sample, model)]
        before = concentration.measure(Moment(model, 0))
        start = head[0].weight.detach().clone()
        optimiser = torch.optim.SGD(head.parameters(), lr=0.5)
        for _ in range(20):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), labels).backward()
            optimiser.step()
        assert float((head[0].weight - start).norm()) > 0.5
        moment = Moment(model, 1)
        after = concentration.measure(moment)
        for k, found in before.items():
            assert_agree(after[k]["energy"], found["energy"])
        rotation, drift = (probe.measure(moment) for probe in turned)
        growths = [rotation["ratio"], rotation["labels"], *rotation["functions"], drift["all"]]
        assert_agree(numbers(growths), numbers([1.0] * 7))


def descended(kernel: TangentKernel, y: Tensor, rate: float) -> Callable[[int], Tensor]:
    """The function after so many steps of descent from zero, by powers of `1 - rate K / n`."""
    matrix = kernel.flat / len(y)
    eye = torch.eye(len(matrix), dtype=torch.float64)
    return lambda t: y - torch.linalg.matrix_power(eye - rate * matrix, t) @ y
