"""The identities of the linearization thesis that concern metrics (003, part 5), by their names.

Where an identity has its test elsewhere, the name of that test carries the section instead.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import pullback as pb
from pullback.metrics.kronecker import EKFAC, KFAC
from tests import reference
from tests.cases import named
from tests.checks import assert_agree
from tests.entries import network_of

SEEDS = st.integers(0, 10**6)
NARROW = (1 - 0.75**0.5) ** 0.5  # the deviation of two normals one apart


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def layer(seed: int, bias: bool = True) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4, bias=bias), nn.Tanh(), nn.Linear(4, 3, bias=bias))
    return module.double(), draw(seed, 6, 3)


def gradients(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Those of each sample and cotangent of the exact metric, (m, d), and that metric."""
    rows, outputs = reference.jacobian(module, x), reference.one_by_one(module, x)
    roots = torch.linalg.cholesky(
        reference.output_metric("bernoulli", outputs)
    )  # positive, so that there is one
    flat = torch.einsum("nck,ncd->nkd", roots, rows).flatten(0, 1)
    return flat, flat.T @ flat / len(x)


class TestKroneckerFacts:
    """Appendix A.1, for the products by which blocks are applied."""

    @given(SEEDS)
    @settings(max_examples=20)
    def test_a1_products_inverses_and_transposes_are_taken_factor_by_factor(
        self, seed: int
    ) -> None:
        a, c, b, d = draw(seed, 2, 3, 3).unbind() + draw(seed + 1, 2, 4, 4).unbind()
        assert_agree(torch.kron(a, b) @ torch.kron(c, d), torch.kron(a @ c, b @ d))
        assert_agree(torch.kron(a, b).T, torch.kron(a.T, b.T))
        eye = torch.eye(12, dtype=a.dtype)
        inverses = torch.kron(torch.linalg.inv(a), torch.linalg.inv(b))
        assert_agree(torch.kron(a, b) @ inverses, eye, 1e-7)

    @given(SEEDS)
    @settings(max_examples=20)
    def test_a1_singular_values_multiply_and_so_do_ranks(self, seed: int) -> None:
        a, b = draw(seed, 3, 2) @ draw(seed + 1, 2, 3), draw(seed + 2, 4, 4)
        products = torch.outer(torch.linalg.svdvals(a), torch.linalg.svdvals(b)).flatten()
        found = torch.linalg.svdvals(torch.kron(a, b))
        assert_agree(found, products.sort(descending=True).values)
        assert int(torch.linalg.matrix_rank(torch.kron(a, b))) == 2 * 4

    @given(SEEDS)
    @settings(max_examples=10, deadline=None)
    def test_a1_a_block_times_a_matrix_is_b_c_a_transposed(self, seed: int) -> None:
        """`(B (x) A) vec_r C = vec_r(B C A^T)`, rows after each other."""
        module, x = layer(seed)
        block = pb.fisher(module, x, representation="kfac").blocks["0"]
        assert isinstance(block, KFAC)
        c = draw(seed, block.size)
        matrix = block.layout.matrix(c)[0]
        expected = torch.kron(block.outputs[0], block.inputs[0]) @ matrix.flatten()
        found = block.layout.matrix(block.product(c))[0].flatten()
        assert_agree(found, expected)
        assert_agree(found, (block.outputs[0] @ matrix @ block.inputs[0].T).flatten())


class TestEigenbasis:
    """Appendix A.2: what the scales of EKFAC are, and that no others are better."""

    @given(SEEDS)
    @settings(max_examples=10, deadline=None)
    def test_lemma_1_second_moments_along_a_basis_are_its_best_diagonal(self, seed: int) -> None:
        g = draw(seed, 20, 5)
        matrix, basis = g.T @ g / 20, torch.linalg.qr(draw(seed + 1, 5, 5)).Q
        best = (g @ basis).square().mean(0)
        error = (matrix - basis @ torch.diag(best) @ basis.T).norm()
        assert_agree(error**2, matrix.norm() ** 2 - best.norm() ** 2)
        for size in (1e-3, 0.1, 1.0):
            moved = best + size * draw(seed + 2, 5)
            assert (matrix - basis @ torch.diag(moved) @ basis.T).norm() >= error

    @given(SEEDS)
    @settings(max_examples=10, deadline=None)
    def test_theorem_1_scales_are_second_moments_in_the_kronecker_basis(self, seed: int) -> None:
        module, x = layer(seed)
        flat, _ = gradients(module, x)
        metric = pb.fisher(module, x, "bernoulli", "ekfac")
        block = metric.blocks["2"]
        assert isinstance(block, EKFAC)
        own = torch.cat([flat[:, metric.space.slices[n]] for n in metric.members["2"]], 1)
        along = block.left.mT @ block.layout.matrix(own) @ block.right
        assert_agree(block.scales, along.square().sum(0) / len(x))

    @given(SEEDS)
    @settings(max_examples=10, deadline=None)
    def test_theorem_2_ekfac_is_never_further_than_kfac(self, seed: int) -> None:
        module, x = layer(seed)
        _, exact = gradients(module, x)
        blocks = pb.fisher(module, x, "bernoulli", "block").to_dense()
        errors = {
            r: float((pb.fisher(module, x, "bernoulli", r).to_dense() - blocks).norm())
            for r in ("kfac", "ekfac")
        }
        assert errors["ekfac"] <= errors["kfac"] * (1 + 1e-12)
        assert float((blocks - exact).norm()) > 0

    @given(SEEDS)
    @settings(max_examples=10, deadline=None)
    def test_theorem_3_eigenvalues_are_second_moments_along_eigenvectors(self, seed: int) -> None:
        module, x = layer(seed)
        flat, _ = gradients(module, x)
        values, vectors = pb.fisher(module, x, "bernoulli", "dense").eigh(6)
        assert_agree(values, (flat @ vectors.flat.T).square().sum(0) / len(x))


class TestProposition421:
    """KFAC is exact where inputs and gradients are uncorrelated."""

    def difference(self, module: nn.Module, x: Tensor) -> Tensor:
        kfac = pb.fisher(module, x, "gaussian", "kfac").to_dense()
        return kfac - pb.fisher(module, x, "gaussian", "block").to_dense()

    def test_one_sample_or_equal_samples_make_it_exact(self) -> None:
        module, x = layer(0)
        exact = pb.fisher(module, x[:1], "gaussian", "block").to_dense()
        for same in (x[:1], x[:1].expand(5, -1)):
            assert float(self.difference(module, same).norm()) < 1e-12 * float(exact.norm())

    def test_constant_gradients_make_it_exact(self) -> None:
        module = nn.Linear(3, 2).double()
        assert float(self.difference(module, draw(1, 7, 3)).norm()) < 1e-12

    def test_the_difference_is_the_covariance_of_the_products(self) -> None:
        module, x = layer(3, bias=False)
        inputs = torch.einsum("ni,nj->nij", x, x)
        hidden = (x @ module[0].weight.T).tanh()
        slopes = torch.einsum("co,no->nco", module[2].weight, 1 - hidden**2).detach()
        outer = torch.einsum("nco,ncp->nop", slopes, slopes)
        covariance = torch.einsum("nop,nij->oipj", outer - outer.mean(0), inputs - inputs.mean(0))
        found = -self.difference(module, x)[:12, :12]
        assert_agree(found, covariance.reshape(12, 12) / len(x))


class TestDamping:
    def test_a4_scales_of_kfac_with_the_factored_damping_are_the_split_solve(self) -> None:
        """`S_A (x) S_B + diag(eps') = (S_A + root eps) (x) (S_B + root eps)`, in the eigenbasis."""
        module, x = layer(4)
        metric, damping = pb.fisher(module, x, representation="kfac"), 0.3
        v = metric.space.randn(seed=1)
        found = metric.solve(v, damping, split="equal")
        for name, block in metric.blocks.items():
            assert isinstance(block, KFAC)
            basis = block.eigenbasis
            a, b = torch.linalg.eigvalsh(block.inputs), torch.linalg.eigvalsh(block.outputs)
            extra = damping + damping**0.5 * (a.unsqueeze(1) + b.unsqueeze(2))
            damped = EKFAC(block.layout, basis.left, basis.right, 1 / (basis.scales + extra))
            members = metric.members[name]
            own = torch.cat([v[m].flatten() for m in members])
            assert_agree(torch.cat([found[m].flatten() for m in members]), damped.product(own))


class TestSpectra:
    def test_b11_metric_and_kernel_share_their_spectrum_and_their_eigenvectors(self) -> None:
        """`J^T u / |J^T u|` is an eigenvector of the metric for each one u of the kernel."""
        case = named("mlp")
        network = network_of(case)
        metric = pb.fisher(network, case.inputs, "euclidean", "dense")
        kernel = pb.tangent_kernel(network, case.inputs)
        values, functions = torch.linalg.eigh(kernel.flat)
        top, u = values[-3:], functions[:, -3:].T.reshape(3, case.n, case.c)
        pulled = pb.jacobian(network, case.inputs).pull(u)
        assert_agree((metric @ pulled).flat, (top / case.n).unsqueeze(1) * pulled.flat)
        assert_agree(pulled.norm().square(), top)


class TestNormals:
    """003 G2 = 3.1.6: four normal distributions and their metric."""

    @pytest.mark.parametrize(
        ("one", "other", "expected"),
        [
            (Normal(0.0, 1.0), Normal(0.0, 2**0.5), 0.5 * (math.log(2) - 0.5)),
            (Normal(0.0, 2**0.5), Normal(0.0, 1.0), 0.5 * (1 - math.log(2))),
            (Normal(-0.5, NARROW), Normal(0.5, NARROW), 2 + 3**0.5),
        ],
    )
    def test_printed_divergences(self, one: Normal, other: Normal, expected: float) -> None:
        assert float(kl_divergence(one, other)) == pytest.approx(expected, abs=1e-6)

    def test_the_metric_in_mean_and_variance(self) -> None:
        """diag(1 / s, 1 / (2 s^2)) with s the variance; a module whose outputs are both."""
        variance = 0.7
        module = nn.Linear(1, 2).double()
        with torch.no_grad():
            module.weight.zero_()
            module.bias.copy_(torch.tensor([0.3, variance], dtype=torch.float64))
        network = pb.Network(module, parameters="bias")
        metric = pb.fisher(
            network,
            torch.ones(3, 1, dtype=torch.float64),
            lambda out: Normal(out[:, 0], out[:, 1].sqrt()),
            "dense",
        )
        expected = torch.tensor([1 / variance, 1 / (2 * variance**2)], dtype=torch.float64)
        assert_agree(metric.to_dense(), torch.diag(expected))


class TestRidge:
    @given(SEEDS, st.floats(1e-3, 10.0))
    @settings(max_examples=10, deadline=None)
    def test_312_the_primal_is_the_dual(self, seed: int, penalty: float) -> None:
        """`Phi w = K c`, by a solve with the metric and by one with the kernel."""
        module = nn.Linear(4, 1, bias=False).double()
        x, y = draw(seed, 9, 4), draw(seed + 1, 9, 1)
        metric = pb.fisher(module, x, "euclidean", "dense")
        kernel = pb.tangent_kernel(module, x).flat
        primal = metric.solve(pb.jacobian(module, x).pull(y) / 9, damping=penalty)
        eye = torch.eye(9, dtype=x.dtype)
        dual = torch.linalg.solve(kernel + penalty * 9 * eye, y)
        assert_agree(pb.jacobian(module, x).push(primal), kernel @ dual, 1e-8)


class TestSteps:
    """How a step of gradient descent moves the function (lemmas 6.2.1, B.1.2 and B.1.3)."""

    def test_621_each_mode_moves_by_its_eigenvalue(self) -> None:
        case = named("mlp")
        network = network_of(case)
        slope = draw(5, case.n, case.c)
        jacobian = pb.jacobian(network, case.inputs)
        moved = -0.1 * jacobian.push(jacobian.pull(slope))
        values, u = torch.linalg.eigh(pb.tangent_kernel(network, case.inputs).flat)
        expected = -0.1 * u @ (values * (u.T @ slope.flatten()))
        assert_agree(moved.flatten(), expected)

    def test_b14_descent_on_a_linear_model_has_a_closed_form(self) -> None:
        """`f_t = f_* + (I - eta K)^t (f_0 - f_*)`, 25 steps; and so mode by mode (B.1.5, B.1.6)."""
        module, x, y = nn.Linear(3, 1, bias=False).double(), draw(6, 3, 3), draw(7, 3, 1)
        kernel = pb.tangent_kernel(module, x).flat
        rate = 0.5 / float(torch.linalg.eigvalsh(kernel).max())
        start = module(x).detach()
        with torch.no_grad():
            for _ in range(25):
                module.weight -= rate * (x.T @ (module(x) - y)).T
        eye = torch.eye(3, dtype=x.dtype)
        expected = y + torch.linalg.matrix_power(eye - rate * kernel, 25) @ (start - y)
        assert_agree(module(x).detach(), expected)
        values, u = torch.linalg.eigh(kernel)
        modes = (1 - rate * values).pow(25).unsqueeze(1) * (u.T @ (start - y))
        assert_agree(u.T @ (module(x).detach() - y), modes)


def test_321_the_remainder_of_the_linearisation_falls_with_the_step() -> None:
    """`f(w + e v) - f(w) - e J v` over e is of order e."""
    case = named("mlp without bias")  # whose activation is smooth
    network = network_of(case)
    w = pb.ParameterVector.from_model(case.module)
    v = w.space.randn(seed=2)
    push = pb.jacobian(network, case.inputs).push(v)
    start = network(case.inputs)

    def remainder(step: float) -> float:
        return float((network(case.inputs, w + step * v) - start - step * push).norm()) / step

    sizes = [remainder(step) for step in (1e-2, 1e-3, 1e-4)]
    assert sizes[1] < 0.2 * sizes[0] and sizes[2] < 0.2 * sizes[1]


class TestAcceptanceLevel1:
    """003, part 10: relations between representations of one metric, on its three models."""

    def models(self, kind: str, bias: bool) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(1)
        middle = {"mlp": [], "conv": [], "conv and group norm": [nn.GroupNorm(2, 4)]}[kind]
        if kind == "mlp":
            return layer(2, bias)
        parts = [nn.Conv2d(2, 4, 3, bias=bias), *middle, nn.Tanh(), nn.Flatten()]
        return nn.Sequential(*parts, nn.Linear(16, 3, bias=bias)).double(), draw(3, 6, 2, 4, 4)

    @pytest.mark.parametrize("size", [1, 4, 6])
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("kind", ["mlp", "conv", "conv and group norm"])
    @pytest.mark.parametrize(
        ("dtype", "within"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["64", "32"]
    )
    def test_traces_diagonals_and_nested_errors(
        self, kind: str, bias: bool, size: int, dtype: torch.dtype, within: float
    ) -> None:
        module, x = self.models(kind, bias)
        data = list(x.to(dtype).split(size))
        names = ("dense", "block", "diagonal", "quasidiagonal", "lowrank", "ekfac", "implicit")
        found = {name: pb.fisher(module.to(dtype), data, "categorical", name) for name in names}
        dense = found["dense"].to_dense()
        for name in names:
            assert_agree(found[name].trace(), dense.trace().double(), within)
            if name != "ekfac":
                assert_agree(found[name].diagonal().flat, dense.diagonal(), within)
        errors = [
            float((found[n].to_dense() - dense).norm())
            for n in ("diagonal", "quasidiagonal", "block")
        ]
        assert errors[0] >= errors[1] >= errors[2]
