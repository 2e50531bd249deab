"""What every representation of a metric answers, checked against its own dense matrix.

A representation's test file inherits `MetricConformance` and names the representation. The values
of the matrix itself are compared with the slow twin elsewhere; here it is the algebra alone.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import pullback as pb
from pullback.metrics.implicit import Implicit
from tests.cases import Case, named
from tests.checks import EXACT, assert_agree
from tests.entries import measured, space_of

ALGEBRA = [
    named(name)
    for name in (
        "mlp",
        "mlp without bias",
        "linear on sequences",
        "conv2d with groups",
        "transposed conv2d with everything",
        "layer norm",
        "embedding with padding index",
        "attention, batch first",
        "gru",
        "tied weights",
        "raw parameter multiplied",
        "frozen layers",
        "one output",
    )
]


@cache
def metric_of(representation: str, case: Case, estimator: str = "exact") -> pb.Metric:
    """The library's metric of a case, computed once."""
    return measured(case, representation, estimator=estimator)


class MetricConformance:
    """The algebra of a metric; subclasses say of which representation."""

    representation: ClassVar[str]
    residual: ClassVar[float] = EXACT  # relative, of a solve

    @pytest.fixture(params=ALGEBRA, ids=str)
    def metric(self, request: pytest.FixtureRequest) -> pb.Metric:
        return metric_of(self.representation, request.param)

    @pytest.fixture
    def dense(self, metric: pb.Metric) -> Tensor:
        return metric.to_dense()

    def damped(self, dense: Tensor, damping: float) -> Tensor:
        return dense + damping * torch.eye(len(dense), dtype=dense.dtype)

    def test_the_dense_matrix_is_square(self, metric: pb.Metric, dense: Tensor) -> None:
        assert dense.shape == (metric.space.size, metric.space.size)

    def test_the_dense_matrix_is_in_the_precision_of_the_model(self, dense: Tensor) -> None:
        assert dense.dtype == torch.float64

    def test_it_is_symmetric(self, dense: Tensor) -> None:
        assert_agree(dense, dense.T, 1e-14)

    def test_it_is_positive(self, dense: Tensor) -> None:
        assert float(torch.linalg.eigvalsh(dense).min()) > -1e-13 * float(dense.norm())

    def test_changing_the_dense_matrix_does_not_change_it(self, metric: pb.Metric) -> None:
        before = metric.trace()
        metric.to_dense().zero_()
        assert metric.trace() == before

    def test_product_with_a_vector(self, metric: pb.Metric, dense: Tensor) -> None:
        v = metric.space.randn(seed=1)
        assert_agree((metric @ v).flat, dense @ v.flat)

    def test_product_with_a_vector_on_the_left(self, metric: pb.Metric, dense: Tensor) -> None:
        v = metric.space.randn(seed=1)
        assert_agree((v @ metric).flat, v.flat @ dense)

    def test_products_with_a_batch_of_vectors(self, metric: pb.Metric, dense: Tensor) -> None:
        v = metric.space.randn(seed=2, batch=(2, 3))
        assert_agree((metric @ v).flat, v.flat @ dense)

    def test_products_with_an_empty_batch_of_vectors(self, metric: pb.Metric) -> None:
        v = metric.space.zeros(batch=(0,))
        assert (metric @ v).flat.shape == (0, metric.space.size)

    def test_quadratic_form(self, metric: pb.Metric, dense: Tensor) -> None:
        v = metric.space.randn(seed=3)
        assert_agree(v @ metric @ v, v.flat @ dense @ v.flat)

    def test_products_do_not_change_the_vector(self, metric: pb.Metric) -> None:
        v = metric.space.randn(seed=3)
        before = v.flat.clone()
        _ = metric @ v
        assert torch.equal(v.flat, before)

    @pytest.mark.parametrize("damping", [1e-3, 1e-1, 10.0])
    def test_solve(self, metric: pb.Metric, dense: Tensor, damping: float) -> None:
        v = metric.space.randn(seed=4)
        x = metric.solve(v, damping=damping).flat
        error = (self.damped(dense, damping) @ x - v.flat).norm() / v.flat.norm()
        assert float(error) <= self.residual

    def test_solve_for_a_batch_of_vectors(self, metric: pb.Metric, dense: Tensor) -> None:
        v = metric.space.randn(seed=5, batch=(2, 2))
        x = metric.solve(v, damping=0.1).flat
        error = (x @ self.damped(dense, 0.1) - v.flat).norm() / v.flat.norm()
        assert float(error) <= self.residual

    def test_the_default_damping_is_1e_3(self, metric: pb.Metric) -> None:
        v = metric.space.randn(seed=6)
        assert torch.equal(metric.solve(v).flat, metric.solve(v, damping=1e-3).flat)

    def test_trace(self, metric: pb.Metric, dense: Tensor) -> None:
        assert_agree(metric.trace(), dense.trace())

    def test_frobenius_norm(self, metric: pb.Metric, dense: Tensor) -> None:
        assert_agree(metric.norm(), dense.norm())

    def test_diagonal(self, metric: pb.Metric, dense: Tensor) -> None:
        assert_agree(metric.diagonal().flat, dense.diagonal())

    def test_diagonal_is_a_vector_of_the_space(self, metric: pb.Metric) -> None:
        assert metric.diagonal().space == metric.space

    def test_eigenvalues(self, metric: pb.Metric, dense: Tensor) -> None:
        assert_agree(metric.eigenvalues(), torch.linalg.eigvalsh(dense).flip(0))

    def test_eigenvalues_fall(self, metric: pb.Metric) -> None:
        values = metric.eigenvalues()
        assert bool((values[1:] <= values[:-1]).all())

    def test_every_parameter_says_how_it_was_computed(self, metric: pb.Metric) -> None:
        assert tuple(metric.ways) == metric.space.names

    @pytest.mark.parametrize("damping", [-1e-9, -1.0, float("nan"), float("inf")])
    def test_a_damping_that_is_not_a_positive_number_is_refused(self, damping: float) -> None:
        metric = metric_of(self.representation, ALGEBRA[0])
        with pytest.raises(pb.InputError, match="damping"):
            metric.solve(metric.space.randn(), damping=damping)

    def test_no_damping_of_a_singular_matrix_is_refused(self) -> None:
        """A layer that no output depends on makes every representation singular."""
        metric = measured(named("unused layer"), self.representation)
        if isinstance(metric, Implicit):
            metric.iterations = 60  # enough for d = 51 directions, were it not singular
        with pytest.raises(pb.InputError, match="damping"):
            metric.solve(metric.space.randn(), damping=0.0)

    @pytest.mark.parametrize("operation", ["__matmul__", "__rmatmul__", "solve"])
    def test_a_vector_of_another_space_is_refused(self, operation: str) -> None:
        metric = metric_of(self.representation, ALGEBRA[0])
        other = space_of(named("conv1d").module).zeros()
        with pytest.raises(pb.InputError, match=r"vector.*space"):
            getattr(metric, operation)(other)

    def test_a_plain_tensor_is_no_vector(self) -> None:
        metric = metric_of(self.representation, ALGEBRA[0])
        with pytest.raises((TypeError, pb.InputError)):
            _ = metric @ torch.zeros(metric.space.size)  # type: ignore[operator]

    def test_a_vector_made_from_single_precision_is_used_in_the_metrics(self) -> None:
        metric = metric_of(self.representation, ALGEBRA[0])
        v = metric.space.randn(seed=7)
        single = metric.space.vector(v.flat.float())
        assert_agree((metric @ single).flat, (metric @ v).flat, 1e-5)


class BlockConformance(MetricConformance):
    """Representations that keep named blocks: these, apart, are the whole."""

    def test_traces_of_the_blocks_add_up(self, metric: pb.Metric) -> None:
        assert_agree(sum(block.trace() for block in metric.blocks.values()), metric.trace())

    def test_squared_norms_of_the_blocks_add_up(self, metric: pb.Metric) -> None:
        total = sum(block.norm() ** 2 for block in metric.blocks.values())
        assert_agree(total**0.5, metric.norm())

    def test_eigenvalues_of_the_blocks_are_all_there_are(self, metric: pb.Metric) -> None:
        values = torch.cat([block.eigenvalues() for block in metric.blocks.values()])
        assert_agree(values.sort(descending=True).values, metric.eigenvalues())

    def test_dense_blocks_have_the_norm_that_they_say(self, metric: pb.Metric) -> None:
        norms = [block.norm() for block in metric.blocks.values()]
        said = torch.tensor(norms, dtype=torch.float64)
        found = torch.stack([block.to_dense().norm() for block in metric.blocks.values()])
        assert_agree(said, found)

    def test_dense_blocks_have_the_eigenvalues_that_they_say(self, metric: pb.Metric) -> None:
        said = torch.cat([block.eigenvalues() for block in metric.blocks.values()])
        found = [torch.linalg.eigvalsh(b.to_dense()).flip(0) for b in metric.blocks.values()]
        assert_agree(said, torch.cat(found))

    def test_every_parameter_is_in_exactly_one_block(self, metric: pb.Metric) -> None:
        sizes = [len(block.eigenvalues()) for block in metric.blocks.values()]
        assert sum(sizes) == metric.space.size
