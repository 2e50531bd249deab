"""KFAC and EKFAC against the slow twin, over the whole grid, and what their theorems promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests import reference
from tests.cases import CASES, WITH_TARGETS, Case, named
from tests.checks import assert_agree
from tests.entries import measured
from tests.metrics.conformance import BlockConformance, metric_of

SEVERAL = [case for case in CASES if case.c > 1 and not case.repeated]


class TestAlgebraOfKfac(BlockConformance):
    representation = "kfac"


class TestAlgebraOfEkfac(BlockConformance):
    representation = "ekfac"


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
