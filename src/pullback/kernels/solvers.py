"""Ways to solve with a kernel: by its factor, or by conjugate gradients on its products."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from pullback.batches import all_finite, check_fits
from pullback.errors import InputError
from pullback.kernels.dense import TangentKernel
from pullback.kernels.kernel import Kernel
from pullback.metrics.iterative import Products


class Solver(ABC):
    """A way to solve with a kernel."""

    @abstractmethod
    def solve(
        self, kernel: Kernel, right: Float[Tensor, "k r"], ridge: int | float
    ) -> Float[Tensor, "k r"]:
        """The solutions a of `(K + ridge I) a = right`, one for each flat row.

        Raises:
            InputError: there are none in the kernel's precision.
        """


@dataclass(frozen=True)
class Direct(Solver):
    """Cholesky's factorisation of the matrix: exact, r^3 / 3 multiplications for r rows."""

    def solve(
        self, kernel: Kernel, right: Float[Tensor, "k r"], ridge: int | float
    ) -> Float[Tensor, "k r"]:
        return torch.cholesky_solve(right.T, factor_of(kernel, ridge)).T


@dataclass(frozen=True)
class ConjugateGradients(Solver):
    """Conjugate gradients, preconditioned: all it needs of a kernel is products.

    The preconditioner is a Nystroem approximation from products with random functions. It takes
    the largest eigenvalues out of the condition number, at the price of `rank` products; it changes
    the number of iterations, not the solution.

    Attributes:
        rank: of the preconditioner; 0 for none.
        tolerance: relative residual, of all right-hand sides together, at which to stop.
        iterations: at most so many products after the first `rank`.
        seed: of the random functions.

    Raises:
        InputError: these numbers make no solver.

    Source:
        Frangella, Tropp and Udell 2023.
    """

    rank: int = 50
    tolerance: float = 1e-8
    iterations: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.rank >= 0 and self.iterations > 0 and 0 < self.tolerance < 1):
            raise InputError(
                f"solver: {self}; give a rank >= 0, a tolerance between 0 and 1 and at least one "
                "iteration"
            )

    def solve(
        self, kernel: Kernel, right: Float[Tensor, "k r"], ridge: int | float
    ) -> Float[Tensor, "k r"]:
        def products(rows: Tensor) -> Tensor:
            found = kernel._product(rows.to(right))
            if not all_finite(found):
                raise InputError("kernel: its products are NaN or infinite")
            return found.double()

        precondition = self._preconditioner(products, right, ridge)
        found = _conjugate_gradients(
            lambda rows: products(rows) + ridge * rows,
            right.double(),
            precondition,
            self.tolerance,
            self.iterations,
        )
        if found is None:
            raise InputError(
                f"ridge: {ridge} is so small that conjugate gradients did not reach "
                f"{self.tolerance:g} in {self.iterations} products; the kernel may be singular (a "
                "duplicate, or more numbers to fit than parameters): raise the ridge, or the rank "
                "or the iterations of the solver"
            )
        return found.to(right)

    def _preconditioner(
        self, products: Products, right: Float[Tensor, "k r"], ridge: int | float
    ) -> Products:
        """The product with an approximation of `(K + ridge I)^-1`, up to a factor."""
        values, functions = _nystroem(products, right, min(self.rank, right.shape[1]), self.seed)
        if not len(values):
            return lambda rows: rows
        shares = (values[-1] + ridge) / (values + ridge) - 1
        return lambda rows: rows + (rows @ functions.T * shares) @ functions


SOLVERS = {"direct": Direct(), "cg": ConjugateGradients()}


def solver_of(solver: str | Solver | None, kernel: Kernel) -> Solver:
    """The solver of that name; None is the first that can be used.

    Raises:
        InputError: there is none of that name.
    """
    if solver is None:
        return Direct() if isinstance(kernel, TangentKernel) else ConjugateGradients()
    if isinstance(solver, Solver):
        return solver
    if solver not in SOLVERS:
        raise InputError(f"solver: {solver!r}; choose one of {sorted(SOLVERS)}")
    return SOLVERS[solver]


def factor_of(kernel: Kernel, ridge: int | float) -> Float[Tensor, "r r"]:
    """The Cholesky factor of `K + ridge I`, lower.

    Raises:
        InputError: there is no matrix, it does not fit into memory, or it is singular.
    """
    if not isinstance(kernel, TangentKernel):
        raise InputError(
            f"kernel: {type(kernel).__name__} is no matrix in memory, which this needs; take a "
            "TangentKernel, or solver='cg' for a fit and its predictions"
        )
    size = math.prod(kernel.rows)
    needed = 2 * size**2 * kernel.matrix.element_size()
    check_fits(f"a factor of {size:,} rows", needed, kernel.matrix.device, "use solver='cg'")
    shifted = kernel.flat.clone(memory_format=torch.contiguous_format)
    shifted.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    position = int(failed) - 1 if failed else _determined(factor, shifted)
    if position is not None:
        sample = position // math.prod(kernel.rows[1:])
        enough = torch.finfo(shifted.dtype).eps ** 0.5 * torch.linalg.matrix_norm(shifted, 1)
        raise InputError(
            f"ridge: {ridge} leaves the kernel singular in its precision: sample {sample} is "
            "determined by the others (a duplicate, or more numbers to fit than parameters); "
            f"{float(enough):.1g} would be enough"
        )
    return factor


def _determined(factor: Float[Tensor, "r r"], matrix: Float[Tensor, "r r"]) -> int | None:
    """Which row of a singular matrix is a combination of the others; None if it is not singular.

    The largest eigenvalue of the inverse is found by inverse iteration, which takes a step or two
    where it matters: there it is larger than all others by far.
    """
    generator = torch.Generator().manual_seed(0)
    null = torch.randn(len(factor), 1, generator=generator, dtype=torch.float64).to(factor)
    for _ in range(3):
        null = torch.cholesky_solve(null / null.norm(), factor)
    condition = float(null.norm() * torch.linalg.matrix_norm(matrix, 1))
    singular = not condition * torch.finfo(factor.dtype).eps < 0.1
    return int(null.abs().argmax()) if singular else None


def _nystroem(
    products: Products, like: Float[Tensor, "k r"], rank: int, seed: int
) -> tuple[Float[Tensor, " s"], Float[Tensor, "s r"]]:
    """The largest eigenvalues, falling, and eigenfunctions of a kernel, from below, in double.

    The shift keeps the small matrix positive in floating point; eigenvalues no larger than it are
    left out.
    """
    generator = torch.Generator().manual_seed(seed)
    size = like.shape[1]
    draws = torch.randn(size, rank, generator=generator, dtype=torch.float64).to(like.device)
    basis = torch.linalg.qr(draws).Q
    found = products(basis.T).T if rank else basis
    shift = math.sqrt(size) * torch.finfo(like.dtype).eps * float(found.norm())
    found = found + shift * basis
    inside = basis.T @ found
    factor, failed = torch.linalg.cholesky_ex((inside + inside.T) / 2)
    if failed:
        return found.new_zeros(0), found.new_zeros(0, size)
    root = torch.linalg.solve_triangular(factor, found.T, upper=False)
    _, singular, functions = torch.linalg.svd(root, full_matrices=False)
    values = singular.square() - shift
    kept = values > shift
    return values[kept], functions[kept]


def _conjugate_gradients(
    products: Products,
    right: Float[Tensor, "k r"],
    precondition: Products,
    tolerance: float,
    iterations: int,
) -> Float[Tensor, "k r"] | None:
    """The solutions of a linear system for each row, or None where they were not reached."""

    def of_vectors(function: Products) -> LinearOperator:
        def product(vector: object) -> object:
            rows = torch.as_tensor(vector, dtype=right.dtype, device=right.device)
            return function(rows.view(right.shape)).flatten().cpu().numpy()

        return LinearOperator((right.numel(), right.numel()), matvec=product, dtype="float64")

    found, left = cg(
        of_vectors(products),
        right.flatten().cpu().numpy(),
        rtol=tolerance,
        maxiter=iterations,
        M=of_vectors(precondition),
    )
    return None if left else torch.as_tensor(found, device=right.device).view(right.shape)
