"""The algebra of kernels on functions, which every way of holding one answers.

    K @ f              functions (n,) or (n, c), and each of a batch of them
    K.quadratic(f)     f K f
    K.trace(), K.norm(), K.diagonal()
    K.eigh(k)          the largest eigenvalues and their eigenfunctions

A kernel may be a matrix in memory (`TangentKernel`), one on disk (`StoredKernel`), or known by its
products alone (`ImplicitKernel`). Whatever needs no more than these operations takes any of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from pullback.errors import InputError
from pullback.estimates import Estimate
from pullback.metrics import iterative

SAMPLES = 32  # random vectors of an estimate, where nobody says otherwise
STEPS = 50  # of Lanczos, for a spectral density


class Kernel(ABC):
    """A linear map between functions on data sets; not divided by anything.

    Attributes:
        outputs: how many outputs c the network has.
        symmetric: whether it is the kernel of one data set with itself.
        rows: the shape of a function on the first set, (n,) or (n, c).
        columns: that of a function on the second.
    """

    outputs: int
    symmetric: bool

    @property
    @abstractmethod
    def rows(self) -> tuple[int, ...]:
        """The shape of a function on the first set."""

    @property
    @abstractmethod
    def columns(self) -> tuple[int, ...]:
        """The shape of a function on the second set."""

    @property
    @abstractmethod
    def _like(self) -> Tensor:
        """A tensor of the kernel's precision, on its device."""

    @abstractmethod
    def _product(self, flat: Float[Tensor, "b s"]) -> Float[Tensor, "b r"]:
        """The product with functions on the second set, given as flat rows."""

    @abstractmethod
    def diagonal(self) -> Float[Tensor, "n ..."]:
        """The kernel of each sample (and output) with itself, shaped like a function."""

    @abstractmethod
    def norm(self) -> float | Estimate:
        """The Frobenius norm."""

    def __matmul__(self, functions: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The product with a function, or with each of a batch of them (batch dimensions first).

        Raises:
            InputError: these are no functions on the second data set.
        """
        flat, lead = self._flat(functions, self.columns, "function")
        return self._product(flat).reshape(*lead, *self.rows)

    def quadratic(self, function: Float[Tensor, "n ..."]) -> float:
        """The quadratic form `f K f` of one function.

        Raises:
            InputError: it is no single function on the samples, or there are two sets of these.
        """
        self._check_symmetric()
        flat, lead = self._flat(function, self.rows, "function")
        if lead:
            raise InputError(f"function: a batch of shape {tuple(lead)}; give one function")
        return float(flat[0].double() @ self._product(flat)[0].double())

    def trace(self) -> float:
        """The trace."""
        self._check_symmetric()
        return float(self.diagonal().double().sum())

    def eigh(self, k: int) -> tuple[Float[Tensor, " k"], Float[Tensor, "k n ..."]]:
        """The largest k eigenvalues and their eigenfunctions on the samples.

        Args:
            k: how many, fewer than there are.

        Returns:
            Eigenvalues, largest first, shape (k,), and orthonormal eigenfunctions, shape (k, n, c)
            for all pairs of outputs and (k, n) otherwise.

        Raises:
            InputError: the kernel is not one of a data set with itself, or has fewer eigenvalues.
        """
        self._check_symmetric()
        size = math.prod(self.rows)
        if not 1 <= k < size:
            raise InputError(f"k: {k}; iteration finds 1 to {size - 1:,} of {size:,} eigenvalues")
        values, vectors = iterative.largest_eigenpairs(self.to_scipy(), k)
        return values.to(self._like), vectors.to(self._like).reshape(k, *self.rows)

    def spectral_density(
        self, samples: int = 8, seed: int = 0
    ) -> tuple[Float[Tensor, "b m"], Float[Tensor, "b m"]]:
        """The eigenvalue density: nodes and weights, one row for each random vector.

        Each row is a measure of mass one whose mean over rows estimates the share of eigenvalues
        at each value; the scatter between rows is its error.
        """
        self._check_symmetric()
        nodes, weights, _ = iterative.quadrature(self._product, self._signs(samples, seed), STEPS)
        return nodes, weights

    def to_scipy(self) -> LinearOperator:
        """The kernel as a `scipy.sparse.linalg.LinearOperator` in double precision."""
        self._check_symmetric()
        size = math.prod(self.rows)

        def product(matrix: object) -> object:
            columns = torch.as_tensor(matrix, dtype=self._like.dtype, device=self._like.device)
            return self._product(columns.reshape(size, -1).T).T.double().cpu().numpy()

        return LinearOperator(
            (size, size), matvec=product, matmat=product, rmatvec=product, dtype="float64"
        )

    def _signs(self, samples: int, seed: int) -> Float[Tensor, "b r"]:
        if samples < 2:
            raise InputError(f"samples: {samples}; an error needs two random vectors at least")
        generator = torch.Generator().manual_seed(seed)
        shape = samples, math.prod(self.rows)
        return (torch.randint(0, 2, shape, generator=generator) * 2 - 1).to(self._like)

    def _check_symmetric(self) -> None:
        if not self.symmetric:
            raise InputError(
                f"kernel: of {self.rows[0]:,} samples with {self.columns[0]:,} others, not of one "
                "data set with itself"
            )

    def _flat(
        self, functions: Tensor, shape: tuple[int, ...], name: str
    ) -> tuple[Float[Tensor, "b r"], torch.Size]:
        """Functions as flat rows, and their batch dimensions."""
        lead = functions.shape[: functions.ndim - len(shape)]
        if tuple(functions.shape[len(lead) :]) != shape:
            raise InputError(
                f"{name}: shape {tuple(functions.shape)}; give (..., {', '.join(map(str, shape))})"
            )
        return functions.to(self._like).reshape(-1, math.prod(shape)), lead
