"""The tangent kernel of a network, `K(x, x') = J(x) J(x')^T`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pullback.batches import Batches, check_fits, working_memory
from pullback.cotangents import ReadOut
from pullback.errors import InputError
from pullback.kernels import spectra
from pullback.kernels.arrangement import AllPairs, Arrangement, Separate, Single, Summed
from pullback.kernels.features import Features, add_kernel_, features_by_owner
from pullback.network import Network
from pullback.tape.sweep import Sweep

Outputs = str | int | tuple[int, int]


def tangent_kernel(
    model: nn.Module | Network,
    x: object,
    y: object | None = None,
    outputs: Outputs = "all",
    by_layer: bool = False,
    memory: int | None = None,
    progress: bool | None = None,
) -> TangentKernel:
    """The tangent kernel between two data sets, or of one with itself; not divided by anything.

    Args:
        model: a module, or a `Network` that selects parameters or outputs.
        x: n samples: a tensor, a pair (inputs, targets) or an iterable of batches.
        y: n' samples, or None for x again.
        outputs: "all" for every pair of outputs, (n, c, n', c); "sum" for the sum of the outputs'
            own kernels, (n, n'); "each" for these apart, (c, n, n'); a number for one of them,
            (n, n'); a pair (c1, c2) for the kernel of the difference f_c2 - f_c1, (n, n').
        by_layer: whether to keep the kernel of each layer too (their sum is the kernel).
        memory: bytes for intermediate results; None for a default.
        progress: whether to show a progress bar; None shows one on a terminal.

    Raises:
        InputError: an argument cannot be used, or the kernel cannot fit into memory.

    Source:
        George 2023, sections 2.1.7 and 3.6.1; Jacot et al. 2018.

    Example:
        >>> import torch, pullback as pb
        >>> model, x = torch.nn.Linear(2, 3), torch.tensor([[1.0, 0.0], [1.0, 2.0]])
        >>> pb.tangent_kernel(model, x, outputs=0).matrix
        tensor([[2., 2.],
                [2., 6.]])
        >>> pb.tangent_kernel(model, x).matrix.shape
        torch.Size([2, 3, 2, 3])
    """
    network = Network.of(model)
    source = ReadOut(_combination(outputs))
    # Half, because features of all samples are kept besides.
    half = max(1, working_memory(memory, network.device) // 2)
    sweep = Sweep(network, Batches(x, network.device), source, half, progress)
    others = None if y is None else Batches(y, network.device)
    return sweep.settled(lambda: _kernel(sweep, others, outputs, by_layer))


def _kernel(
    sweep: Sweep, others: Batches | None, outputs: Outputs, by_layer: bool
) -> TangentKernel:
    network = sweep.network
    left, right = _collected(sweep), None
    if others is not None:
        second = replace(sweep, batches=others)
        second.plan = sweep.plan
        right = _collected(second)
    arrangement = _arrangement(outputs)
    shape = arrangement.shape(left.cotangents, left.samples, (right or left).samples)
    layers = tuple(dict.fromkeys(owner for owner, _ in left.parts)) if by_layer else ("",)
    check_fits(
        f"tangent_kernel: {len(layers)} times {' x '.join(map(str, shape))} numbers",
        len(layers) * math.prod(shape) * network.space.dtype.itemsize,
        network.device,
        "take fewer samples, or outputs='sum'",
    )
    totals = {
        layer: torch.zeros(shape, dtype=network.space.dtype, device=network.device)
        for layer in layers
    }
    budget = working_memory(sweep.memory, network.device)
    for key in list(left.parts):  # features are let go of as soon as they are used
        theirs = None if right is None else right.parts.pop(key)
        total = totals[key[0] if by_layer else ""]
        add_kernel_(total, arrangement, left.parts.pop(key), theirs, budget)
    alone = right is None
    kernels = {
        layer: TangentKernel(arrangement.finished(total, alone), left.outputs, alone)
        for layer, total in totals.items()
    }
    if not by_layer:
        return kernels[""]
    matrix = torch.stack([kernel.matrix for kernel in kernels.values()]).sum(0)
    return TangentKernel(matrix, left.outputs, alone, kernels)


ARRANGEMENTS = {"all": AllPairs(), "sum": Summed(), "each": Separate()}


def _arrangement(outputs: Outputs) -> Arrangement:
    return ARRANGEMENTS[outputs] if isinstance(outputs, str) else Single()


def _combination(outputs: Outputs) -> int | tuple[int, int] | None:
    if not isinstance(outputs, str):
        return outputs
    if outputs not in ARRANGEMENTS:
        raise InputError(
            f"outputs: {outputs!r}; choose one of {sorted(ARRANGEMENTS)}, the number of an "
            "output, or a pair of numbers"
        )
    return None


@dataclass
class _Collected:
    """The tangent features of a data set: pieces of successive samples, by owner and parameters."""

    parts: dict[tuple[str, tuple[str, ...]], list[Features]]
    samples: int
    outputs: int
    cotangents: int


def _collected(sweep: Sweep) -> _Collected:
    parts: dict[tuple[str, tuple[str, ...]], list[Features]] = {}
    for step in sweep.steps("tangent features"):
        for part in step.parts():
            for owner, features in features_by_owner(part).items():
                if not features.finite():
                    raise InputError(
                        f"gradients: not finite in {owner!r}; the network's derivative is NaN or "
                        "infinite on this data"
                    )
                pieces = parts.setdefault((owner, part.names), [])
                if step.fresh:
                    pieces.append(features)
                else:
                    pieces[-1].extend(features)
    count = sweep.source.count(sweep.plan.outputs)
    return _Collected(parts, sweep.samples, sweep.plan.outputs, count)


@dataclass(frozen=True, eq=False)
class TangentKernel:
    """A tangent kernel on one or two data sets.

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

    def trace(self) -> float:
        """The trace."""
        return float(self._square.diagonal().double().sum())

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
