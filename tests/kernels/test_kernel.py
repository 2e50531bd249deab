"""Every way of holding a kernel answers alike: in memory, on disk, by products."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import pullback as pb
from pullback.estimates import Estimate
from pullback.kernels.kernel import Kernel
from tests import reference
from tests.cases import CASES, Case, named
from tests.checks import assert_agree
from tests.entries import data_of, network_of
from tests.kernels.test_tangent import SEVERAL, two_sets

MLP = named("mlp")
WEIGHTS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 1.0]], dtype=torch.float64)
CHOICES = {"all": "all", "sum": "sum", "one": 1, "difference": (0, 2), "two": WEIGHTS,
           "combination": WEIGHTS[0]}  # fmt: skip
KINDS = ("dense", "implicit", "stored")


def held(kind: str, folder: Path, x: object, y: object | None, outputs: object) -> Kernel:
    """A kernel of the MLP, held in one of the ways; a store has several tiles."""
    options = {
        "dense": {},
        "implicit": {"representation": "implicit"},
        "stored": {"store": folder / "kernel", "memory": 30_000},
    }[kind]
    return pb.tangent_kernel(network_of(MLP), x, y, outputs, **options)


def expected_of(outputs: object, rows: Tensor, others: Tensor | None = None) -> Tensor:
    """The slow twin's kernel."""
    if not isinstance(outputs, Tensor):
        return reference.tangent_kernel(rows, others, outputs=outputs)
    left = torch.einsum("...c,ncd->n...d", outputs, rows)
    right = left if others is None else torch.einsum("...c,ncd->n...d", outputs, others)
    return torch.tensordot(left, right, dims=([-1], [-1]))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("choice", CHOICES)
class TestAlgebra:
    def test_products(self, kind: str, choice: str, tmp_path: Path) -> None:
        """003 F30: by products alone, on disk and in memory, as the dense matrix."""
        kernel = held(kind, tmp_path, data_of(MLP), None, CHOICES[choice])
        matrix = expected_of(CHOICES[choice], MLP.rows)
        generator = torch.Generator().manual_seed(0)
        assert kernel.rows == kernel.columns == tuple(matrix.shape[: matrix.ndim // 2])
        f = torch.randn(2, *kernel.rows, dtype=torch.float64, generator=generator)
        found = torch.tensordot(f, matrix, dims=kernel_dims(matrix))
        assert_agree(kernel @ f, found)
        assert_agree(kernel @ f[0], found[0])
        assert_agree(kernel.quadratic(f[1]), (f[1] * found[1]).sum())

    def test_products_with_a_second_set(self, kind: str, choice: str, tmp_path: Path) -> None:
        kernel = held(kind, tmp_path, *two_sets(MLP), CHOICES[choice])
        matrix = expected_of(CHOICES[choice], MLP.rows[:2], MLP.rows[2:])
        f = torch.randn(kernel.columns, dtype=torch.float64)
        half = matrix.ndim // 2
        assert_agree(kernel @ f, torch.tensordot(matrix, f, dims=half))
        assert not kernel.symmetric

    def test_spectrum(self, kind: str, choice: str, tmp_path: Path) -> None:
        """004 3.5 and section 5: Lanczos against the dense decomposition."""
        kernel = held(kind, tmp_path, data_of(MLP), None, CHOICES[choice])
        matrix = expected_of(CHOICES[choice], MLP.rows)
        size = matrix.shape[: matrix.ndim // 2].numel()
        flat = matrix.reshape(size, size)
        values, functions = kernel.eigh(3)
        assert_agree(values, torch.linalg.eigvalsh(flat).flip(0)[:3])
        rows = functions.reshape(3, size)
        assert_agree(rows @ flat, values.unsqueeze(1) * rows)
        assert_agree(rows @ rows.T, torch.eye(3, dtype=torch.float64))
        assert_agree(kernel.trace(), flat.trace())
        assert_agree(kernel.diagonal(), flat.diagonal().reshape(kernel.rows))
        norm = kernel.norm()
        if isinstance(norm, Estimate):
            assert abs(norm.value - flat.norm()) <= 5 * norm.stderr
        else:
            assert_agree(norm, flat.norm())


def kernel_dims(matrix: Tensor) -> tuple[list[int], list[int]]:
    """The dimensions of a batch of functions, and those of the second set in the kernel."""
    half = matrix.ndim // 2
    return list(range(1, half + 1)), list(range(half, 2 * half))


def test_a_density_has_the_moments_of_the_spectrum(kind: str, tmp_path: Path) -> None:
    kernel = held(kind, tmp_path, data_of(MLP), None, "sum")
    nodes, weights = kernel.spectral_density(samples=200, seed=1)
    moments = (weights * nodes).sum(1)
    error = float(moments.std()) / 200**0.5
    assert abs(float(moments.mean()) - kernel.trace() / kernel.rows[0]) <= 4 * error + 1e-9


@pytest.mark.parametrize("samples", [16, 256])
def test_the_norm_of_products_has_an_honest_error(samples: int) -> None:
    kernel = pb.tangent_kernel(network_of(MLP), data_of(MLP), representation="implicit")
    exact = float(reference.tangent_kernel(MLP.rows).norm())
    found = [kernel.norm(samples, seed=seed) for seed in range(30)]
    deviations = torch.tensor([(one.value - exact) / one.stderr for one in found])
    assert float((deviations.abs() <= 2).float().mean()) >= 0.75


@pytest.mark.parametrize("method", ["gradients", "structured", "products"])
class TestMethods:
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_all_outputs(self, case: Case, method: str) -> None:
        """003 F28, 002 section 5.3: three independent computations agree."""
        kernel = pb.tangent_kernel(network_of(case), data_of(case), method=method)
        assert_agree(kernel.matrix, reference.tangent_kernel(case.rows))

    @pytest.mark.parametrize("outputs", ["sum", "each", 0])
    @pytest.mark.parametrize("case", SEVERAL[::2], ids=str)
    def test_other_choices(self, case: Case, outputs: str | int, method: str) -> None:
        kernel = pb.tangent_kernel(network_of(case), data_of(case), None, outputs, method=method)
        assert_agree(kernel.matrix, reference.tangent_kernel(case.rows, outputs=outputs))

    @pytest.mark.parametrize("case", [case for case in CASES if case.n > 2][::2], ids=str)
    def test_two_sets(self, case: Case, method: str) -> None:
        kernel = pb.tangent_kernel(network_of(case), *two_sets(case), method=method)
        assert_agree(kernel.matrix, reference.tangent_kernel(case.rows[:2], case.rows[2:]))


@pytest.mark.parametrize("method", ["gradients", "structured"])
def test_images_of_another_size_have_another_number_of_positions(method: str) -> None:
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(1, 4, 3), torch.nn.Tanh(), torch.nn.AdaptiveAvgPool2d(1)
    model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4, 2)).double()
    x, y = torch.randn(3, 1, 4, 4).double(), torch.randn(2, 1, 5, 5).double()
    rows, others = (reference_rows(model, inputs) for inputs in (x, y))
    kernel = pb.tangent_kernel(model, x, y, method=method)
    assert_agree(kernel.matrix, torch.einsum("ncd,med->ncme", rows, others))


def reference_rows(model: torch.nn.Module, x: Tensor) -> Tensor:
    """The Jacobian of each output, by plain autograd."""
    parameters = list(model.parameters())
    outputs = model(x)
    found = [
        torch.cat([g.flatten() for g in torch.autograd.grad(one, parameters, retain_graph=True)])
        for one in outputs.flatten()
    ]
    return torch.stack(found).reshape(*outputs.shape, -1)


class TestRefused:
    def test_functions_of_another_shape(self, kind: str, tmp_path: Path) -> None:
        kernel = held(kind, tmp_path, data_of(MLP), None, "sum")
        with pytest.raises(pb.InputError, match=r"function: shape \(2, 2\)"):
            _ = kernel @ torch.ones(2, 2)

    def test_a_spectrum_of_two_sets(self, kind: str, tmp_path: Path) -> None:
        kernel = held(kind, tmp_path, *two_sets(MLP), "sum")
        with pytest.raises(pb.InputError, match="kernel"):
            kernel.eigh(1)

    def test_a_batch_in_a_quadratic_form(self, kind: str, tmp_path: Path) -> None:
        kernel = held(kind, tmp_path, data_of(MLP), None, "sum")
        with pytest.raises(pb.InputError, match="one function"):
            kernel.quadratic(torch.ones(2, *kernel.rows))

    @pytest.mark.parametrize("options", [
        {"method": "magic"},
        {"representation": "sparse"},
        {"representation": "implicit", "by_layer": True},
        {"representation": "implicit", "method": "gradients"},
        {"representation": "implicit", "outputs": "each"},
        {"method": "products", "by_layer": True},
        {"method": "products", "store": "somewhere"},
        {"outputs": torch.ones(7)},
    ], ids=str)  # fmt: skip
    def test_choices_that_do_not_go_together(self, options: dict[str, object]) -> None:
        with pytest.raises(pb.InputError, match="|".join(options)):
            pb.tangent_kernel(network_of(MLP), data_of(MLP), **options)
