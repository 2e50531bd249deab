"""A kernel as a matrix in memory, with its whole spectrum and everything that takes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pullback.errors import InputError
from pullback.kernels import spectra
from pullback.kernels.kernel import Kernel


@dataclass(frozen=True, eq=False)
class TangentKernel(Kernel):
    """A tangent kernel on one or two data sets, as a matrix.

    The spectral measures are those of the matrix `flat`, not divided by the number of samples.

    Attributes:
        matrix: shape (n, c, n', c) for all pairs of outputs, (c, n, n') for each output apart,
            (n, n') otherwise.
        outputs: how many outputs c the network has.
        symmetric: whether it is the kernel of one data set with itself.
        layers: the kernel of each layer, where asked for.
    """

    matrix: Float[Tensor, "..."]
    outputs: int
    symmetric: bool
    layers: dict[str, TangentKernel] = field(default_factory=dict)

    @property
    def flat(self) -> Float[Tensor, "*batch r s"]:
        """The kernel as a matrix: (n c, n' c) for all pairs of outputs, otherwise as it is."""
        if self.matrix.ndim == 4:
            return self.matrix.flatten(2).flatten(0, 1)
        return self.matrix

    @property
    def rows(self) -> tuple[int, ...]:
        """The shape of a function on the first set."""
        self._check_one()
        return tuple(self.matrix.shape[: self.matrix.ndim // 2])

    @property
    def columns(self) -> tuple[int, ...]:
        """The shape of a function on the second set."""
        self._check_one()
        return tuple(self.matrix.shape[self.matrix.ndim // 2 :])

    def _check_one(self) -> None:
        if self.matrix.ndim == 3:
            raise InputError(
                f"kernel: shape {tuple(self.matrix.shape)} is one kernel for each output; use "
                "outputs='all', 'sum' or one output"
            )

    @property
    def _like(self) -> Tensor:
        return self.matrix

    def _product(self, flat: Float[Tensor, "b s"]) -> Float[Tensor, "b r"]:
        return flat @ self.flat.T

    def diagonal(self) -> Tensor:
        return self._square.diagonal().reshape(self.rows)

    @property
    def _square(self) -> Float[Tensor, "r r"]:
        flat = self.flat
        if flat.ndim != 2 or not self.symmetric:
            raise InputError(
                f"kernel: shape {tuple(self.matrix.shape)} is not one kernel of one data set with "
                "itself; use outputs='all', 'sum' or one output, and a single data set"
            )
        return flat

    def _per_sample(self, vectors: Float[Tensor, "r k"]) -> Tensor:
        """Columns over the rows of `flat` as functions (k, n, c), or (k, n)."""
        columns = vectors.T
        return columns.unflatten(1, self.matrix.shape[:2]) if self.matrix.ndim == 4 else columns

    @cached_property
    def _decomposition(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self._square)
        return values.flip(0), vectors.flip(1)

    def eigh(self, k: int | None = None) -> tuple[Float[Tensor, " k"], Float[Tensor, "k n ..."]]:
        """The largest k eigenvalues and their eigenfunctions on the samples.

        Args:
            k: how many; None for all.

        Returns:
            Eigenvalues, largest first, shape (k,), and orthonormal eigenfunctions, shape (k, n, c)
            for all pairs of outputs and (k, n) otherwise.

        Raises:
            InputError: the kernel is not one of a data set with itself, or has fewer eigenvalues.
        """
        values, vectors = self._decomposition
        count = len(values) if k is None else k
        if not 0 <= count <= len(values):
            raise InputError(f"k: {k} eigenvalues of a kernel that has {len(values)}")
        return values[:count], self._per_sample(vectors[:, :count])

    def eigvalsh(self) -> Float[Tensor, " r"]:
        """All eigenvalues, largest first."""
        return self._decomposition[0]

    def effective_rank(self) -> float:
        """The exponential of the entropy of the normalised spectrum."""
        return spectra.effective_rank(self.eigvalsh())

    def trace_ratios(self, counts: Sequence[int]) -> list[float]:
        """The shares of the trace that the largest k eigenvalues hold, for each k in `counts`."""
        return spectra.trace_ratios(self.eigvalsh(), counts)

    def norm(self) -> float:
        """The Frobenius norm."""
        return float(torch.linalg.vector_norm(self.matrix.double()))

    def centred(self, centring: str = "all") -> TangentKernel:
        """The kernel of centred features.

        Args:
            centring: "all" subtracts the mean over every index (n c of them); "samples" the mean
                over samples, for each output by itself. They agree where there is one output.

        Raises:
            InputError: an unknown centring, or not a kernel of a data set with itself.
        """
        by_output = self.outputs if self.matrix.ndim == 4 else 1
        matrix = spectra.centred(self._square, centring, by_output)
        return replace(self, matrix=matrix.view(self.matrix.shape), layers={})

    def normalised(self) -> TangentKernel:
        """The kernel divided by the square roots of its diagonal: cosines between features."""
        square = self._square
        scale = square.diagonal().rsqrt()
        matrix = square * scale * scale.unsqueeze(1)
        return replace(self, matrix=matrix.view(self.matrix.shape), layers={})

    def principal_components(self, k: int = 2) -> Float[Tensor, "r k"]:
        """Coordinates on the first k principal components of the centred features (kernel PCA).

        Returns:
            One row for each row of `flat`, shape (n c, k) or (n, k).
        """
        values, vectors = self.centred("all")._decomposition
        return vectors[:, :k] * values[:k].clamp(min=0).sqrt()

    def alignment(self, other: Tensor | TangentKernel, centring: str | None = "all") -> float:
        """The kernel alignment with labels or with another kernel, in [0, 1].

        Args:
            other: integer labels (n,), one-hot or real targets (n, c), or another kernel. Labels
                enter as the kernel `Y Y^T`: of rank one on the n c indices for all pairs of
                outputs, and n x n otherwise.
            centring: "all" or "samples" for centred kernel alignment (see `centred`), None for the
                uncentred one.

        Raises:
            InputError: the labels do not fit the kernel.

        Source:
            George 2023, section 3.6.8 (eq. 6.3.3).
        """
        theirs = other if isinstance(other, TangentKernel) else self._of_labels(other)
        if self._square.shape != theirs._square.shape:
            raise InputError("other: the two kernels are not on the same samples and outputs")
        by_output = self.outputs if self.matrix.ndim == 4 else 1
        return spectra.alignment(self._square, theirs._square, centring, by_output)

    def _of_labels(self, labels: Tensor) -> TangentKernel:
        n = self.matrix.shape[0]
        if len(labels) != n:
            raise InputError(f"labels: {len(labels)} of them for a kernel of {n} samples")
        targets = labels
        if labels.ndim == 1 and not labels.is_floating_point():
            if int(labels.min()) < 0:
                raise InputError(f"labels: {int(labels.min())} is negative")
            targets = F.one_hot(labels.long(), max(self.outputs, int(labels.max()) + 1))
        targets = targets.to(self.matrix.dtype).to(self.matrix.device)
        if self.matrix.ndim != 4:
            rows = targets.reshape(n, -1)
            return replace(self, matrix=rows @ rows.T, layers={})
        if targets.shape != (n, self.outputs):
            raise InputError(
                f"labels: shape {tuple(targets.shape)} for a network with {self.outputs} outputs"
            )
        return replace(self, matrix=torch.einsum("nc,md->ncmd", targets, targets), layers={})
