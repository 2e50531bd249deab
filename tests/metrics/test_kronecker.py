"""KFAC and EKFAC against the slow twin, over the whole grid, and what their theorems promise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from pullback.metrics.kronecker import KFAC
from tests import reference
from tests.cases import CASES, WITH_TARGETS, Case, named
from tests.checks import assert_agree
from tests.entries import measured
from tests.metrics.conformance import (
    DAMPING,
    Answers,
    BlockConformance,
    metric_of,
    output_metric_of,
)

SEVERAL = [case for case in CASES if case.c > 1 and not case.repeated]


class KroneckerConformance(BlockConformance):
    """Kronecker-factored blocks where the form is prescribed; where it is not, no entries are."""

    def check_values(
        self, answers: Answers, metric: pb.Metric, dense: Tensor, case: Case, estimator: str
    ) -> None:
        corrected = self.representation == "ekfac"
        if corrected and case.repeated:
            # Eigenvectors of repeated eigenvalues are not unique; the trace is, whatever they are.
            exact = reference.fisher(case.rows, output_metric_of(case, estimator))
            answers.compare("trace of the exact matrix", dense.trace(), exact.trace())
            return
        expected = case.factored(output_metric_of(case, estimator), corrected=corrected)
        answers.compare("entries", prescribed(case, dense), prescribed(case, expected))


class TestAlgebraOfKfac(KroneckerConformance):
    representation = "kfac"
    split = True
    sums = differences = False

    def check_operations(self, answers: Answers, metric: pb.Metric, dense: Tensor) -> None:
        super().check_operations(answers, metric, dense)
        v = metric.space.randn(seed=4)
        factored = any(isinstance(block, KFAC) for block in metric.blocks.values())
        for split in ("equal", "trace"):
            if not factored:  # there are no two factors to share the damping between
                with pytest.raises(pb.InputError, match="no Kronecker factors"):
                    metric.solve(v, DAMPING, split=split)
                continue
            found = metric.solve(v, DAMPING, split=split)
            answers.compare(
                f"solve, split {split}", found.flat, split_solution(metric, v, DAMPING, split).flat
            )

    def check_algebra(
        self, answers: Answers, metric: pb.Metric, dense: Tensor, folder: Path
    ) -> None:
        super().check_algebra(answers, metric, dense, folder)
        answers.compare("to the nearest factors", metric.to("kfac-nearest").to_dense(), dense)
        if any(isinstance(block, KFAC) for block in metric.blocks.values()):
            answers.compare("to ekfac", metric.to("ekfac").to_dense(), dense)


class TestAlgebraOfEkfac(KroneckerConformance):
    representation = "ekfac"


def split_solution(
    metric: pb.Metric, v: pb.ParameterVector, damping: float, split: str
) -> pb.ParameterVector:
    """The solution with each Kronecker factor damped by itself, by dense matrices."""
    out = metric.space.zeros()
    for name, block in metric.blocks.items():
        part = metric[name]
        mine = part.space.vector(torch.cat([v[m].flatten() for m in part.space.names]))
        if isinstance(block, KFAC):
            dense = torch.zeros(block.size, block.size, dtype=torch.float64)
            for group in range(block.layout.groups):
                a, b = block.inputs[group], block.outputs[group]
                pi = 1.0
                if split == "trace" and float(b.trace()) * float(a.trace()) > 0:
                    pi = float(((a.trace() / len(a)) / (b.trace() / len(b))).sqrt())
                a = a + pi * damping**0.5 * torch.eye(len(a), dtype=a.dtype)
                b = b + damping**0.5 / pi * torch.eye(len(b), dtype=b.dtype)
                places = block.layout.matrix(torch.arange(block.size))[group].flatten()
                dense[places[:, None], places] = torch.kron(b, a)
            mine = part.space.vector(torch.linalg.solve(dense, mine.flat))
        else:
            mine = part.solve(mine, damping)
        for member, piece in mine.as_dict().items():
            out[member].copy_(piece)
    return out


def prescribed(case: Case, matrix: Tensor) -> Tensor:
    """The rows and columns of parameters for which the form of the block is prescribed."""
    where = case.prescribed.nonzero().squeeze(1)
    return matrix[where[:, None], where]


def compare(case: Case, representation: str, likelihood: str, estimator: str = "exact") -> None:
    """Compare a metric with the twin's on the prescribed blocks."""
    output_metric = case.output_metric(likelihood) if estimator == "exact" else None
    if output_metric is None:
        output_metric = reference.outer(case.score(likelihood))
    expected = case.factored(output_metric, corrected=representation == "ekfac")
    actual = measured(case, representation, likelihood, estimator).to_dense()
    assert_agree(prescribed(case, actual), prescribed(case, expected))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_exact_kfac(case: Case) -> None:
    compare(case, "kfac", case.likelihood)


@pytest.mark.parametrize("case", [case for case in CASES if not case.repeated], ids=str)
def test_exact_ekfac(case: Case) -> None:
    compare(case, "ekfac", case.likelihood)


@pytest.mark.parametrize("case", CASES[::3], ids=str)
@pytest.mark.parametrize("representation", ["kfac", "ekfac"])
class TestBlockStructure:
    def test_no_block_reaches_across_layers(self, case: Case, representation: str) -> None:
        """Blocks of a free form too: whatever they are, they are blocks of the exact matrix."""
        metric = metric_of(representation, case)
        dense = metric.to_dense()
        mask = torch.zeros_like(dense, dtype=torch.bool)
        for names in metric.members.values():
            slices = [metric.space.slices[name] for name in names]
            where = torch.cat([torch.arange(s.start, s.stop) for s in slices])
            mask[where[:, None], where] = True
        assert float(dense[~mask].abs().sum()) == 0.0


@pytest.mark.parametrize("representation", ["kfac", "ekfac"])
@pytest.mark.parametrize("case", SEVERAL[::6], ids=str)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "euclidean"])
def test_exact_for_other_likelihoods(case: Case, representation: str, likelihood: str) -> None:
    compare(case, representation, likelihood)


@pytest.mark.parametrize("representation", ["kfac", "ekfac"])
@pytest.mark.parametrize("case", SEVERAL[4::6], ids=str)
@pytest.mark.parametrize("likelihood", WITH_TARGETS)
def test_empirical(case: Case, representation: str, likelihood: str) -> None:
    compare(case, representation, likelihood, "empirical")


@pytest.mark.parametrize("case", CASES, ids=str)
class TestTheorems:
    def test_ekfac_has_the_exact_trace(self, case: Case) -> None:
        expected = case.fisher(case.likelihood).trace()
        assert_agree(metric_of("ekfac", case).trace(), expected)

    def test_ekfac_is_never_further_from_the_exact_matrix_than_kfac(self, case: Case) -> None:
        """George et al. 2018, theorem 2."""
        exact = case.fisher(case.likelihood)
        errors = [
            float((metric_of(representation, case).to_dense() - exact).norm())
            for representation in ("ekfac", "kfac")
        ]
        assert errors[0] <= errors[1] + 1e-13 * float(exact.norm())

    def test_the_error_of_ekfac_is_orthogonal_to_it(self, case: Case) -> None:
        """|F|^2 = |F_EKFAC|^2 + |F - F_EKFAC|^2, since it is a projection of F."""
        exact, ekfac = case.fisher(case.likelihood), metric_of("ekfac", case).to_dense()
        assert_agree(ekfac.norm() ** 2 + (exact - ekfac).norm() ** 2, exact.norm() ** 2)


class TestExactCases:
    @pytest.mark.parametrize("representation", ["kfac", "ekfac"])
    def test_one_sample_at_one_position_makes_every_block_exact(self, representation: str) -> None:
        case = named("one sample")
        exact = case.fisher("categorical")
        # parameters in order: 0.weight 12, 0.bias 4, 2.weight 8, 2.bias 2
        first, second = torch.arange(16), torch.arange(16, 26)
        expected = torch.zeros_like(exact)
        for where in (first, second):
            expected[where[:, None], where] = exact[where[:, None], where]
        assert_agree(metric_of(representation, case).to_dense(), expected)

    def test_a_linear_model_under_a_gaussian_has_exact_blocks(self) -> None:
        """With g the same for all samples, the second moment of g a^T factorises."""
        model = torch.nn.Linear(4, 3).double()
        x = torch.randn(6, 4, dtype=torch.float64)
        rows = reference.jacobian(model, x)
        case = Case("a linear model", lambda: (model, x))
        expected = reference.fisher(rows, case.output_metric("gaussian"))
        assert_agree(measured(case, "kfac", "gaussian").to_dense(), expected)


class TestBlocks:
    @pytest.mark.parametrize("representation", ["kfac", "ekfac"])
    def test_blocks_have_the_names_of_the_layers(self, representation: str) -> None:
        assert list(metric_of(representation, named("mlp")).blocks) == ["0", "2", "4"]

    @pytest.mark.parametrize("representation", ["kfac", "ekfac"])
    def test_blocks_of_other_layers_are_dense_and_named_alike(self, representation: str) -> None:
        metric = metric_of(representation, named("group norm"))
        assert list(metric.blocks) == ["0", "1", "4"]

    @pytest.mark.parametrize("name", ["group norm", "batch norm 2d", "layer norm", "lstm"])
    def test_blocks_without_kronecker_form_are_exact(self, name: str) -> None:
        case = named(name)
        exact = case.fisher("categorical")
        ekfac = metric_of("ekfac", case).to_dense()
        for block in case.dense_blocks:
            where = torch.tensor(block)
            assert_agree(ekfac[where[:, None], where], exact[where[:, None], where])


class TestSplitDamping:
    """Each factor damped by itself (003, section 3.4.8)."""

    @pytest.mark.parametrize("split", ["equal", "trace"])
    @pytest.mark.parametrize("case", [case for case in CASES if case.c > 1][::9], ids=str)
    def test_it_is_the_solve_with_damped_factors(self, case: Case, split: str) -> None:
        metric, damping = metric_of("kfac", case), 0.3
        v = metric.space.randn(seed=1)
        found = metric.solve(v, damping, split=split)
        assert_agree(found.flat, split_solution(metric, v, damping, split).flat)

    def test_equal_splits_add_what_appendix_a4_says(self) -> None:
        """(A + e)(x)(B + e) - A (x) B = e^2 + e (A (x) 1 + 1 (x) B), e the root of the damping."""
        metric, damping = metric_of("kfac", named("mlp")), 0.2
        v = metric.space.randn(seed=2)
        x = metric.solve(v, damping, split="equal")
        restored = metric @ x + damping * x
        for name, block in metric.blocks.items():
            assert isinstance(block, KFAC)
            part = metric[name].space
            own = part.vector(torch.cat([x[m].flatten() for m in part.names])).flat
            matrix = block.layout.matrix(own)
            extra = damping**0.5 * (matrix @ block.inputs + block.outputs @ matrix)
            for member, piece in part.vector(block.layout.flat(extra)).as_dict().items():
                restored[member].add_(piece)
        assert_agree(restored.flat, v.flat)


class TestVariants:
    """Other treatments of shared positions, and the optimal factors."""

    def test_reduce_is_kfac_of_averaged_inputs_and_summed_gradients(self) -> None:
        """Eschenhagen et al. 2023: with one position the two are the same."""
        expand, reduce = (measured(named("mlp"), r) for r in ("kfac", "kfac-reduce"))
        assert_agree(reduce.to_dense(), expand.to_dense())

    def test_reduce_on_a_sequence(self) -> None:
        torch.manual_seed(0)
        module = nn.Linear(3, 2).double()
        x = torch.randn(6, 4, 3, dtype=torch.float64)
        network = pb.Network(module, outputs=lambda y: y.mean(1))
        metric = pb.fisher(network, x, "euclidean", "kfac-reduce")
        mean = torch.cat([x.mean(1), torch.ones(6, 1, dtype=x.dtype)], 1)
        (block,) = metric.blocks.values()
        assert_agree(block.inputs[0], mean.T @ mean / 6)
        assert_agree(block.outputs[0], torch.eye(2, dtype=x.dtype))
        # The positions of a mean share one gradient, for which reducing is exact.
        assert_agree(metric.to_dense(), pb.fisher(network, x, "euclidean", "dense").to_dense())

    def test_uncorrelated_keeps_the_moments_of_channels_at_a_point(self) -> None:
        case = named("conv2d")
        full, sua = measured(case, "kfac"), measured(case, "kfac-uncorrelated")
        for name, block in full.blocks.items():
            if not isinstance(block, KFAC):
                continue
            other = sua.blocks[name]
            kernel = block.layout.weight[2:].numel()
            channels = block.layout.inputs // kernel
            expected = torch.zeros_like(block.inputs)
            mean = sum(
                block.inputs[:, p : p + channels, p : p + channels]
                for p in range(0, block.layout.inputs, channels)
            )
            for p in range(0, block.layout.inputs, channels):
                expected[:, p : p + channels, p : p + channels] = mean / kernel
            if block.layout.bias:
                expected[:, -1, -1] = 1
            assert_agree(other.inputs, expected)
            assert_agree(other.outputs, block.outputs)

    @pytest.mark.parametrize("case", [case for case in CASES if not case.repeated][::8], ids=str)
    def test_nearest_factors_are_the_leading_singular_vectors(self, case: Case) -> None:
        blocks, found = metric_of("block", case), measured(case, "kfac-nearest")
        for name, block in found.blocks.items():
            if not isinstance(block, KFAC) or block.layout.groups > 1:
                continue
            dense = blocks[name].to_dense()
            places = block.layout.matrix(torch.arange(block.size)).flatten()
            o, i = block.layout.outputs, block.layout.columns
            ordered = dense[places[:, None], places].view(o, i, o, i)
            values = torch.linalg.svdvals(ordered.transpose(1, 2).reshape(o * o, i * i))
            error = float((block.to_dense() - dense).norm())
            assert abs(error - float(values[1:].norm())) <= 1e-7 * float(values.norm())

    @pytest.mark.parametrize("case", [case for case in CASES if not case.repeated][::8], ids=str)
    def test_nearest_factors_are_no_further_than_moments(self, case: Case) -> None:
        dense = metric_of("block", case).to_dense()
        errors = [
            float((metric_of(r, case).to_dense() - dense).norm()) for r in ("kfac-nearest", "kfac")
        ]
        assert errors[0] <= errors[1] * (1 + 1e-9) + 1e-12


class TestMixtures:
    """A representation for each layer, by a rule or a function."""

    def make(self) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
        )
        return module.double(), torch.randn(5, 2, 4, 4, dtype=torch.float64)

    def test_by_module_type(self) -> None:
        module, x = self.make()
        rule = {nn.Linear: "kfac", nn.GroupNorm: "block", nn.Module: "diagonal"}
        metric = pb.fisher(module, x, representation=rule)
        assert {n: block.kind for n, block in metric.blocks.items()} == {
            "0": "diagonal",
            "1": "dense",
            "4": "kfac",
        }
        for name, single in (("0", "diagonal"), ("1", "block"), ("4", "kfac")):
            expected = pb.fisher(module, x, representation=single)[name]
            assert_agree(metric[name].to_dense(), expected.to_dense())

    def test_by_a_function(self) -> None:
        module, x = self.make()
        metric = pb.fisher(
            module, x, representation=lambda name, _: "ekfac" if name == "0" else "quasidiagonal"
        )
        kinds = {name: block.kind for name, block in metric.blocks.items()}
        assert kinds == {"0": "ekfac", "1": "quasidiagonal", "4": "quasidiagonal"}
        expected = pb.fisher(module, x, representation="ekfac")["0"]
        assert_agree(metric["0"].to_dense(), expected.to_dense())

    def test_what_no_rule_covers_gets_full_blocks(self) -> None:
        module, x = self.make()
        metric = pb.fisher(module, x, representation={nn.Linear: "kfac"})
        assert [block.kind for block in metric.blocks.values()] == ["dense", "dense", "kfac"]

    def test_a_kind_that_does_not_exist_is_refused(self) -> None:
        module, x = self.make()
        with pytest.raises(pb.InputError, match="representation"):
            pb.fisher(module, x, representation={nn.Linear: "kfca"})

    @pytest.mark.parametrize("representation", ["ekfac", "ekfac-reduce", "ekfac-nearest"])
    def test_an_earlier_basis_without_eigenvectors_is_refused(self, representation: str) -> None:
        module, x = self.make()
        diagonal = pb.fisher(module, x, representation="diagonal")
        with pytest.raises(pb.InputError, match="basis"):
            pb.fisher(module, x, representation=representation, basis=diagonal)
