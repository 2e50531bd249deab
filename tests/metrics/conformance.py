"""What every representation of a metric answers, checked against its own dense matrix.

A representation's test file inherits `MetricConformance` and names the representation. Each
operation has a test of its own on a few cases; one further test goes over the whole grid, for exact
and for sampled metrics, and says by name which operations are wrong. The values of exact matrices
are compared with the slow twin elsewhere, those of sampled ones here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import pullback as pb
from pullback.cotangents import Source
from pullback.likelihoods import likelihood_of
from pullback.metrics.implicit import Implicit
from tests import reference
from tests.cases import CASES, Case, named
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


LABELS = 2  # drawn for each sample of a sampled metric
SEED = 3  # of these draws
DAMPING = 0.1
POWERS = (-1, 0.5, -0.5, 2)


def on_the_grid(case: Case, representation: str, estimator: str) -> pb.Metric:
    """A metric of its own, exact or of a few labels drawn for each sample."""
    return measured(case, representation, estimator=estimator, samples=LABELS, seed=SEED)


def output_metric_of(case: Case, estimator: str) -> Tensor:
    """The output metric of `on_the_grid`, (n, c, c): of sampled ones the mean over the labels."""
    if estimator == "exact":
        return case.output_metric(case.likelihood)
    source = Source(likelihood_of(case.likelihood), "sampled", LABELS, SEED)
    scores = source.open().next(case.outputs, None).part(0, LABELS)
    return torch.einsum("tni,tnj->nij", scores, scores)


class Answers:
    """Comparisons by name, all of which are made before any of them fails the test."""

    def __init__(self) -> None:
        self.wrong: dict[str, str] = {}

    def compare(
        self, name: str, found: Tensor | float, expected: Tensor | float, within: float = EXACT
    ) -> None:
        try:
            assert_agree(found, expected, within)
        except AssertionError as problem:
            self.wrong[name] = str(problem)

    def closed_or_refused(
        self, name: str, found: Callable[[], pb.Metric], elsewhere: str, expected: Tensor
    ) -> None:
        """Compare what is closed; what is not has to name a representation that is."""
        try:
            matrix = found().to_dense()
        except pb.InputError as problem:
            if elsewhere not in str(problem):
                self.wrong[name] = f"does not say {elsewhere}: {problem}"
        else:
            self.compare(name, matrix, expected)


@cache
def metric_of(representation: str, case: Case, estimator: str = "exact") -> pb.Metric:
    """The library's metric of a case, computed once."""
    return measured(case, representation, estimator=estimator)


class MetricConformance:
    """The algebra of a metric; subclasses say of which representation."""

    representation: ClassVar[str]
    residual: ClassVar[float] = EXACT  # relative, of a solve
    solved_with: ClassVar[float] = DAMPING  # on the whole grid
    positive: ClassVar[bool] = True  # quasi-diagonals need not be
    draws: ClassVar[int] = 20_000  # to compare a covariance with

    @pytest.mark.parametrize("estimator", ["exact", "sampled"])
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_every_operation_on_the_whole_grid(
        self, case: Case, estimator: str, tmp_path: Path
    ) -> None:
        metric = on_the_grid(case, self.representation, estimator)
        answers, dense = Answers(), metric.to_dense()
        self.check_values(answers, metric, dense, case, estimator)
        self.check_operations(answers, metric, dense)
        self.check_spectrum(answers, metric, dense)
        self.check_algebra(answers, metric, dense, tmp_path)
        assert answers.wrong == {}

    def check_values(
        self, answers: Answers, metric: pb.Metric, dense: Tensor, case: Case, estimator: str
    ) -> None:
        """The entries, against the twin, wherever the representation has room for them."""
        expected = reference.fisher(case.rows, output_metric_of(case, estimator))
        if self.representation not in ("dense", "lowrank", "implicit"):
            room = support(metric.space, metric, self.representation)
            expected = torch.where(room, expected, 0.0)
        answers.compare("entries", dense, expected)

    def check_operations(self, answers: Answers, metric: pb.Metric, dense: Tensor) -> None:
        """What is asked of every metric."""
        v, batch = metric.space.randn(seed=1), metric.space.randn(seed=2, batch=(2, 1))
        answers.compare("product", (metric @ v).flat, dense @ v.flat)
        answers.compare("product on the left", (v @ metric).flat, v.flat @ dense)
        answers.compare("products", (metric @ batch).flat, batch.flat @ dense)
        answers.compare("quadratic form", v @ metric @ v, v.flat @ dense @ v.flat)
        answers.compare("quadratic", float(metric.quadratic(v)), v.flat @ dense @ v.flat)
        answers.compare("product of two", (metric @ metric @ v).flat, dense @ (dense @ v.flat))
        answers.compare("trace", float(metric.trace()), dense.trace())
        answers.compare("diagonal", metric.diagonal().flat, dense.diagonal())
        for name, right in (("solve", v), ("solves", batch)):
            x = metric.solve(right, self.solved_with).flat
            answers.compare(name, x @ self.damped(dense, self.solved_with), right.flat)

    def check_spectrum(self, answers: Answers, metric: pb.Metric, dense: Tensor) -> None:
        """Eigenvalues and eigenvectors."""
        values = torch.linalg.eigvalsh(dense).flip(0)
        answers.compare("spectral norm", metric.spectral_norm(), values.abs().max())
        answers.compare("eigenvalues", metric.eigenvalues(), values)
        leading, vectors = metric.eigh(3)
        answers.compare("leading eigenvalues", leading, values[:3])
        answers.compare(
            "orthonormal eigenvectors", vectors.flat @ vectors.flat.T, torch.eye(3).double()
        )
        turned = leading.unsqueeze(1) * vectors.flat
        answers.compare("eigenvectors", (vectors.flat @ dense - turned).norm() / dense.norm(), 0.0)

    def check_algebra(
        self, answers: Answers, metric: pb.Metric, dense: Tensor, folder: Path
    ) -> None:
        """What makes metrics of metrics."""
        raise NotImplementedError

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

    def test_spectral_norm(self, metric: pb.Metric, dense: Tensor) -> None:
        assert_agree(metric.spectral_norm(), torch.linalg.matrix_norm(dense, 2))

    def test_diagonal(self, metric: pb.Metric, dense: Tensor) -> None:
        assert_agree(metric.diagonal().flat, dense.diagonal())

    def test_diagonal_is_a_vector_of_the_space(self, metric: pb.Metric) -> None:
        assert metric.diagonal().space == metric.space

    def test_eigenvalues(self, metric: pb.Metric, dense: Tensor) -> None:
        assert_agree(metric.eigenvalues(), torch.linalg.eigvalsh(dense).flip(0))

    def test_eigenvalues_fall(self, metric: pb.Metric) -> None:
        values = metric.eigenvalues()
        assert bool((values[1:] <= values[:-1]).all())

    @pytest.mark.parametrize("k", [1, 4])
    def test_leading_eigenvectors(self, metric: pb.Metric, dense: Tensor, k: int) -> None:
        values, vectors = metric.eigh(k)
        assert_agree(values, torch.linalg.eigvalsh(dense).flip(0)[:k], 1e-9)
        assert_agree(vectors.flat @ vectors.flat.T, torch.eye(k, dtype=dense.dtype), 1e-9)
        error = (vectors.flat @ dense - values.unsqueeze(1) * vectors.flat).norm()
        assert float(error) <= 1e-8 * float(dense.norm())

    @pytest.mark.parametrize("k", [0, -1, 10**9])
    def test_a_number_of_eigenvectors_that_there_cannot_be_is_refused(self, k: int) -> None:
        with pytest.raises(pb.InputError, match="eigenvectors"):
            metric_of(self.representation, ALGEBRA[0]).eigh(k)

    def test_as_an_operator_of_scipy(self, metric: pb.Metric, dense: Tensor) -> None:
        operator = metric.to_scipy()
        columns = metric.space.randn(seed=8, batch=(3,)).flat.T
        assert_agree(torch.as_tensor(operator @ columns.numpy()), dense @ columns)
        assert_agree(torch.as_tensor(operator @ columns[:, 0].numpy()), dense @ columns[:, 0])

    def test_as_an_operator_of_linear_operator(self, metric: pb.Metric, dense: Tensor) -> None:
        operator = metric.to_linear_operator()
        columns = metric.space.randn(seed=8, batch=(2, 3)).flat.mT
        assert operator.shape == dense.shape and operator.dtype == dense.dtype
        assert_agree(operator @ columns, dense @ columns, 1e-8)
        assert_agree(operator @ columns[0, :, 0], dense @ columns[0, :, 0], 1e-8)
        assert_agree(operator.mT @ columns[0], dense @ columns[0], 1e-8)
        assert_agree(operator.diagonal(), dense.diagonal(), 1e-8)
        assert_agree(operator.to_dense(), dense, 1e-8)

    def test_linear_operator_solves_and_takes_determinants(
        self, metric: pb.Metric, dense: Tensor
    ) -> None:
        damped = self.damped(dense, 0.1)
        if not self.positive and float(torch.linalg.eigvalsh(damped).min()) <= 0:
            return
        operator = metric.to_linear_operator().add_diagonal(dense.new_tensor(0.1))
        columns = metric.space.randn(seed=8, batch=(3,)).flat.T
        assert_agree(operator.solve(columns), torch.linalg.solve(damped, columns), 1e-8)
        assert_agree(operator.logdet(), torch.logdet(damped), 1e-8)

    def test_product_of_two(self, metric: pb.Metric, dense: Tensor) -> None:
        v = metric.space.randn(seed=9)
        twice = metric @ metric
        assert_agree((twice @ v).flat, dense @ (dense @ v.flat))
        assert_agree((twice.T @ v).flat, dense @ (dense @ v.flat))
        assert_agree(twice.to_dense(), dense @ dense)

    @pytest.mark.parametrize("estimator", ["exact", "sampled"])
    def test_samples_have_the_metric_as_covariance(self, estimator: str) -> None:
        """Each entry within five standard errors."""
        metric = metric_of(self.representation, named("layer norm"), estimator)
        check_covariance(metric.sample(seed=1, batch=(self.draws,)).flat, metric.to_dense())

    def test_a_sample_depends_on_the_seed_alone(self) -> None:
        metric = metric_of(self.representation, named("layer norm"))
        assert torch.equal(metric.sample(seed=3).flat, metric.sample(seed=3).flat)
        assert not torch.equal(metric.sample(seed=3).flat, metric.sample(seed=4).flat)

    def test_samples_of_the_inverse_have_it_as_covariance(self) -> None:
        metric = metric_of(self.representation, named("layer norm"))
        dense = metric.to_dense()
        samples = metric.sample_inverse(damping=0.5, seed=2, batch=(self.draws,)).flat
        check_covariance(samples, torch.linalg.inv(self.damped(dense, 0.5)))

    def test_metrics_of_different_spaces_do_not_multiply(self) -> None:
        other = metric_of(self.representation, named("conv1d"))
        with pytest.raises(pb.InputError, match="metrics"):
            _ = metric_of(self.representation, ALGEBRA[0]) @ other

    def test_an_unknown_split_is_refused(self) -> None:
        metric = metric_of(self.representation, ALGEBRA[0])
        with pytest.raises(pb.InputError, match="split"):
            metric.solve(metric.space.randn(), split="half")

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


def check_on_the_twin(case: Case, representation: str, estimator: str) -> None:
    """Whether a metric has the twin's entries wherever its representation has room for them."""
    exact = estimator == "exact"
    expected = (case.fisher if exact else case.empirical_fisher)(case.likelihood)
    metric = measured(case, representation, estimator=estimator)
    if representation not in ("dense", "lowrank"):
        room = support(metric.space, metric, representation)
        expected = torch.where(room, expected, 0.0)
    assert_agree(metric.to_dense(), expected)


def check_covariance(samples: Tensor, expected: Tensor) -> None:
    """Whether samples of a normal distribution of mean zero have a covariance."""
    found = samples.T @ samples / len(samples)
    variances = expected.diagonal()
    error = (expected.square() + variances.unsqueeze(1) * variances) / len(samples)
    assert bool(((found - expected).abs() <= 5 * error.sqrt() + 1e-12).all())


def support(space: pb.ParameterSpace, metric: pb.Metric, target: str) -> Tensor:
    """Where a representation by layers has room for entries, (d, d)."""
    room = torch.eye(space.size, dtype=torch.bool)
    if target == "diagonal":
        return room
    for members in metric.members.values():
        slices = [space.slices[member] for member in members]
        places = torch.cat([torch.arange(s.start, s.stop) for s in slices])
        if target == "block":
            room[places.unsqueeze(1), places] = True
        elif members in metric.origin.layouts and metric.origin.layouts[members].bias:
            rows = metric.origin.layouts[members].matrix(places)
            room[rows[..., :-1], rows[..., -1:]] = True
            room[rows[..., -1:], rows[..., :-1]] = True
    return room


class BlockConformance(MetricConformance):
    """Representations that keep named blocks: these, apart, are the whole."""

    functions: ClassVar[bool] = True  # whether powers are of the same kind
    split: ClassVar[bool] = False  # whether it has Kronecker factors
    sums: ClassVar[bool] = True  # whether sums are of the same kind
    differences: ClassVar[bool] = True

    def check_operations(self, answers: Answers, metric: pb.Metric, dense: Tensor) -> None:
        super().check_operations(answers, metric, dense)
        answers.compare("Frobenius norm", metric.norm(), dense.norm())
        damped = self.damped(dense, DAMPING)
        if self.positive or float(torch.linalg.eigvalsh(damped).min()) > 0:  # else there is none
            answers.compare("logdet", metric.logdet(DAMPING), torch.logdet(damped))

    def check_algebra(
        self, answers: Answers, metric: pb.Metric, dense: Tensor, folder: Path
    ) -> None:
        for factor in (2.5, -1.5):
            answers.compare(f"times {factor}", (factor * metric).to_dense(), factor * dense)
        convert = "metric.to("
        answers.closed_or_refused("sum", lambda: metric + 2.0 * metric, convert, 3 * dense)
        answers.closed_or_refused("difference", lambda: metric - 0.5 * metric, convert, dense / 2)
        answers.compare("average", pb.average([metric, metric], [0.3, 0.7]).to_dense(), dense)
        self.check_powers(answers, metric, dense)
        for name, members in metric.members.items():
            slices = [metric.space.slices[member] for member in members]
            places = torch.cat([torch.arange(s.start, s.stop) for s in slices])
            own = dense[places.unsqueeze(1), places]
            answers.compare(f"block {name}", metric[name].to_dense(), own)
        for target in ("dense", "block", "diagonal", "quasidiagonal", "lowrank"):
            self.check_conversion(answers, metric, dense, target)
        metric.save(folder / "metric.safetensors")
        again = pb.Metric.load(folder / "metric.safetensors")
        answers.compare("file", again.to_dense(), dense, 1e-15)

    def check_powers(self, answers: Answers, metric: pb.Metric, dense: Tensor) -> None:
        values, vectors = torch.linalg.eigh(self.damped(dense, DAMPING))
        for power in POWERS:
            expected = (vectors * values.pow(power)) @ vectors.T

            def found(power: float = power) -> pb.Metric:
                return metric.power(power, DAMPING)

            answers.closed_or_refused(f"power {power}", found, "metric.to('block')", expected)
        if self.functions:
            answers.compare(
                "inverse",
                metric.inverse(DAMPING).to_dense(),
                torch.linalg.inv(self.damped(dense, DAMPING)),
            )
            root = metric.power(0.5).to_dense()
            answers.compare("square of the root", root @ root, dense)

    def check_conversion(
        self, answers: Answers, metric: pb.Metric, dense: Tensor, target: str
    ) -> None:
        """What the target has room for is kept, the rest is zero."""
        if target == "lowrank" and not self.positive:  # a square is never negative
            answers.closed_or_refused("to lowrank", lambda: metric.to(target), "'dense'", dense)
            return
        found = metric.to(target)
        if target not in ("dense", "lowrank"):
            dense = torch.where(support(metric.space, found, target), dense, 0.0)
        answers.compare(f"to {target}", found.to_dense(), dense)

    def test_frobenius_norm(self, metric: pb.Metric, dense: Tensor) -> None:
        assert_agree(metric.norm(), dense.norm())

    @pytest.mark.parametrize("damping", [1e-3, 0.5])
    def test_logdet(self, metric: pb.Metric, dense: Tensor, damping: float) -> None:
        damped = self.damped(dense, damping)
        if not self.positive and float(torch.linalg.eigvalsh(damped).min()) <= 0:
            with pytest.raises(pb.InputError, match="damping"):
                metric.logdet(damping)
            return
        assert_agree(metric.logdet(damping), torch.logdet(damped))

    @pytest.mark.parametrize(
        ("exponent", "damping"), [(-1, 0.1), (0.5, 0.0), (2, 0.0), (-0.5, 0.2)]
    )
    def test_powers(
        self, metric: pb.Metric, dense: Tensor, exponent: float, damping: float
    ) -> None:
        if not self.functions:  # closed only where every block happens to be diagonal
            return
        values, vectors = torch.linalg.eigh(self.damped(dense, damping))
        expected = (vectors * values.clamp(min=0).pow(exponent)) @ vectors.T
        # The root of an eigenvalue that is zero but for rounding is the root of that rounding.
        assert_agree(metric.power(exponent, damping).to_dense(), expected, 1e-6)

    def test_inverse(self, metric: pb.Metric, dense: Tensor) -> None:
        if self.functions:
            found = metric.inverse(damping=0.3)
            assert_agree(found.to_dense(), torch.linalg.inv(self.damped(dense, 0.3)))
            assert_agree(
                (found @ metric.space.randn(1)).flat, metric.solve(metric.space.randn(1), 0.3).flat
            )
            assert_agree(found.trace(), found.to_dense().trace())
            assert_agree(found.diagonal().flat, found.to_dense().diagonal())

    def test_the_inverse_of_a_singular_matrix_is_refused(self) -> None:
        if self.functions:
            with pytest.raises(pb.InputError, match="damping"):
                measured(named("unused layer"), self.representation).inverse(damping=0.0)

    @pytest.mark.parametrize("factor", [2.5, 0.0, -1.5])
    def test_multiples(self, metric: pb.Metric, dense: Tensor, factor: float) -> None:
        assert_agree((metric * factor).to_dense(), factor * dense)
        assert_agree((factor * metric).trace(), factor * dense.trace())

    def test_sum(self, metric: pb.Metric, dense: Tensor) -> None:
        """Closed, or refused with the name of a representation in which it is."""
        try:
            total = metric + 2.0 * metric
        except pb.InputError as problem:
            assert not self.sums and "metric.to(" in str(problem)
            total = metric.to("dense") + 2.0 * metric.to("dense")
        assert_agree(total.to_dense(), 3 * dense)

    def test_difference(self, metric: pb.Metric, dense: Tensor) -> None:
        try:
            total = metric - 0.5 * metric
        except pb.InputError as problem:
            assert not self.differences and "metric.to(" in str(problem)
            total = metric.to("dense") - 0.5 * metric.to("dense")
        assert_agree(total.to_dense(), dense / 2)

    def test_metrics_of_different_spaces_do_not_add(self) -> None:
        other = metric_of(self.representation, named("conv1d"))
        with pytest.raises(pb.InputError, match="metrics"):
            _ = metric_of(self.representation, ALGEBRA[0]) + other

    def test_a_block_by_its_name_is_a_metric(self, metric: pb.Metric, dense: Tensor) -> None:
        for name, members in metric.members.items():
            part = metric[name]
            assert part.space.names == members
            slices = [metric.space.slices[member] for member in members]
            places = torch.cat([torch.arange(s.start, s.stop) for s in slices])
            assert_agree(part.to_dense(), dense[places.unsqueeze(1), places])

    def test_a_block_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(pb.InputError, match="name"):
            _ = metric_of(self.representation, ALGEBRA[0])["nobody"]

    @pytest.mark.parametrize("target", ["dense", "block", "diagonal", "lowrank", "quasidiagonal"])
    def test_conversions(self, metric: pb.Metric, dense: Tensor, target: str) -> None:
        """What the target has room for is kept; the rest is zero."""
        if target == "lowrank" and not self.positive:
            return
        found = metric.to(target)
        assert found.representation == target
        kept = found.to_dense()
        if target in ("dense", "lowrank"):
            assert_agree(kept, dense, 1e-9)
        else:
            room = support(metric.space, found, target)
            assert_agree(kept, torch.where(room, dense, 0.0))

    def test_a_conversion_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(pb.InputError, match="representation"):
            metric_of(self.representation, ALGEBRA[0]).to("implicit")

    def test_a_file_gives_the_same_metric_back(self, metric: pb.Metric, tmp_path: Path) -> None:
        metric.save(tmp_path / "metric.safetensors")
        again = pb.Metric.load(tmp_path / "metric.safetensors")
        assert torch.equal(again.to_dense(), metric.to_dense())
        assert again.space == metric.space
        assert again.origin == metric.origin
        assert again.members == metric.members
        assert repr(again) == repr(metric)

    @pytest.mark.parametrize("split", ["equal", "trace"])
    def test_split_damping_is_for_kronecker_factors(self, split: str) -> None:
        metric = metric_of(self.representation, ALGEBRA[0])
        if not self.split:
            with pytest.raises(pb.InputError, match="split"):
                metric.solve(metric.space.randn(), split=split)

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
        blocks = metric.blocks.values()
        said = torch.cat([b.eigenvalues().sort(descending=True).values for b in blocks])
        found = [torch.linalg.eigvalsh(b.to_dense()).flip(0) for b in metric.blocks.values()]
        assert_agree(said, torch.cat(found))

    def test_every_parameter_is_in_exactly_one_block(self, metric: pb.Metric) -> None:
        sizes = [len(block.eigenvalues()) for block in metric.blocks.values()]
        assert sum(sizes) == metric.space.size
