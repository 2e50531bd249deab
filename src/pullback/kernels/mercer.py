"""Eigenfunctions of a tangent kernel: on its samples, beyond them, on grids, in frequency.

Two normalisations are in use. As a matrix, `K q = kappa q` with `|q| = 1`; as Mercer's expansion of
the kernel under the distribution of n samples, `lambda = kappa / n` and `phi = sqrt(n) q`, so that
`E[phi^2] = 1`. The second is the one that does not depend on how many samples there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from pullback.batches import all_finite
from pullback.errors import InputError
from pullback.kernels.dense import TangentKernel
from pullback.kernels.kernel import Kernel
from pullback.metrics.iterative import largest_eigenpairs


def numerical_rank(values: Float[Tensor, " r"], tolerance: int | float | None = None) -> int:
    """How many eigenvalues, or singular values, are more than rounding.

    Args:
        values: in any order, shape (r,).
        tolerance: the share of the largest that a value has to exceed; None for r times the
            relative spacing of the values' floating-point numbers.

    Raises:
        InputError: a value is not finite, or the tolerance is negative.

    Source:
        Ortiz-Jimenez 2023, section 6.6.1 (the rank that local energies add up to); the default
        tolerance is LAPACK's, as in `numpy.linalg.matrix_rank`.

    Example:
        >>> import torch
        >>> from pullback.kernels.mercer import numerical_rank
        >>> numerical_rank(torch.tensor([3.0, 1e-3, 1e-9])), numerical_rank(torch.zeros(2))
        (2, 0)
    """
    if not all_finite(values):
        raise InputError("values: some are NaN or infinite; give a finite spectrum")
    if not values.numel():
        return 0
    share = _tolerance(tolerance, len(values), values.dtype)
    return int((values > share * values.max().clamp(min=0)).sum())


def _tolerance(tolerance: int | float | None, size: int, dtype: torch.dtype) -> float:
    """The share of the largest value below which a value counts as zero."""
    if tolerance is None:
        return size * torch.finfo(dtype).eps
    if not tolerance >= 0:
        raise InputError(f"tolerance: {tolerance}; give a share of the largest value, 0 or more")
    return float(tolerance)


def eigenfunctions(
    kernel: Kernel,
    k: int | None = None,
    centring: str | None = None,
    tolerance: int | float | None = None,
) -> Eigenfunctions:
    """The k leading eigenfunctions of a kernel on its samples, with a fixed sign.

    Of each eigenfunction, the entry of largest magnitude is positive; where several are equally
    large, as on a symmetric grid, the first of them.

    Args:
        kernel: of one data set with itself, for all pairs of outputs, their sum, or one of them.
        k: how many; None for all, of a kernel in memory.
        centring: "all" or "samples" for those of the centred kernel (see `TangentKernel.centred`),
            so that extensions are centred too. A kernel that is centred already has no extension
            from a cross kernel that is not.
        tolerance: the share of the largest eigenvalue above which one counts as more than rounding;
            None for the number of function values times the relative spacing of floating point.

    Raises:
        InputError: the kernel is not one of a data set with itself, has fewer eigenvalues, or is
            not finite; an unknown centring; a negative tolerance.

    Source:
        Ortiz-Jimenez et al. 2021, section 2 and appendix B; George 2023, section 6.2 (eq. 6.2.3).

    Example:
        >>> import torch, pullback as pb
        >>> from pullback.kernels.mercer import eigenfunctions
        >>> model, x, new = torch.nn.Linear(2, 1), torch.randn(20, 2), torch.randn(7, 2)
        >>> found = eigenfunctions(pb.tangent_kernel(model, x, outputs=0))
        >>> found.functions.shape, found.rank
        (torch.Size([20, 20]), 3)
        >>> leading = eigenfunctions(pb.tangent_kernel(model, x, outputs=0), k=3)
        >>> leading.extend(pb.tangent_kernel(model, new, x, outputs=0)).functions.shape
        torch.Size([3, 7])
    """
    count = math.prod(kernel.rows) if k is None else k
    if centring is None:
        values, functions = kernel.eigh(count)
        means = None
    else:
        constants = _constants(kernel.rows, centring)
        images = kernel @ constants
        values, functions = _centred_eigh(kernel, count, centring, constants)
        values, functions = values.to(images), functions.to(images)
        means = _means(images, functions, constants)
    if not (all_finite(values) and all_finite(functions)):
        raise InputError("kernel: its eigenvalues are NaN or infinite; give a finite kernel")
    share = _tolerance(tolerance, math.prod(kernel.rows), values.dtype)
    sign = _sign(functions)
    return Eigenfunctions(values, functions * sign, share, None if means is None else means * sign)


def _centred_eigh(
    kernel: Kernel, k: int, centring: str, constants: Float[Tensor, "g n ..."]
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k n ..."]]:
    """The leading eigenpairs of the centred kernel; by products, where it is not in memory."""
    if isinstance(kernel, TangentKernel):
        return kernel.centred(centring).eigh(k)
    size, basis = math.prod(kernel.rows), constants.flatten(1)
    if not 1 <= k < size:
        raise InputError(f"k: {k}; iteration finds 1 to {size - 1:,} of {size:,} eigenvalues")

    def centred(rows: Tensor) -> Tensor:
        return rows - rows @ basis.T @ basis

    def product(columns: object) -> object:
        rows = centred(torch.as_tensor(columns, dtype=basis.dtype).reshape(size, -1).T)
        images = (kernel @ rows.unflatten(1, kernel.rows)).flatten(1)
        return centred(images.to(basis)).T.numpy()

    operator = LinearOperator((size, size), matvec=product, matmat=product, dtype="float64")
    values, vectors = largest_eigenpairs(operator, k)
    return values, vectors.unflatten(1, kernel.rows)


def _constants(shape: tuple[int, ...], centring: str) -> Float[Tensor, "g n ..."]:
    """What centring takes away, as orthonormal functions of that shape.

    Raises:
        InputError: an unknown centring.
    """
    if centring not in ("all", "samples"):
        raise InputError(f"centring: {centring!r}; choose 'all' or 'samples'")
    outputs = shape[1:]
    if centring == "samples" and outputs:
        rows = torch.eye(outputs[0], dtype=torch.float64).unsqueeze(1).expand(-1, *shape)
    else:
        rows = torch.ones(1, *shape, dtype=torch.float64)
    return rows / torch.linalg.vector_norm(rows[0])


def _means(
    images: Float[Tensor, "g n ..."],
    functions: Float[Tensor, "k n ..."],
    constants: Float[Tensor, "g n ..."],
) -> Float[Tensor, "k 1 ..."]:
    """What centring takes away from `K q`, by the images `K u` of the constants u."""
    shares = functions.flatten(1) @ images.flatten(1).T
    return torch.tensordot(shares, constants[:, :1].to(shares), dims=1)


def _sign(functions: Float[Tensor, "k n ..."]) -> Float[Tensor, "k 1 ..."]:
    """The sign of the first entry that is as large as any, but for rounding."""
    flat = functions.flatten(1)
    sizes, slack = flat.abs(), math.sqrt(torch.finfo(flat.dtype).eps)
    largest = sizes >= (1 - slack) * sizes.amax(1, keepdim=True)
    first = largest.int().argmax(1, keepdim=True)
    return flat.gather(1, first).sign().view(-1, *[1] * (functions.ndim - 1))


def flat_targets(targets: Tensor, shape: Sequence[int], like: Tensor) -> Float[Tensor, "*b r"]:
    """Functions on samples, (*b, *shape), as vectors.

    Args:
        targets: real functions, of any number type.
        shape: that of one of them, (n,) or (n, c).
        like: a tensor of the precision, and on the device, that they are wanted in.

    Raises:
        InputError: another shape, or a value that is not finite.
    """
    if tuple(targets.shape[-len(shape) :]) != tuple(shape):
        raise InputError(
            f"targets: shape {tuple(targets.shape)} does not end in {tuple(shape)}, the shape of "
            "one function on the samples"
        )
    if not all_finite(targets):
        raise InputError("targets: some values are NaN or infinite; give finite functions")
    return targets.to(like).flatten(targets.ndim - len(shape))


@dataclass(frozen=True, eq=False)
class Eigenfunctions:
    """Eigenvalues and eigenfunctions of a kernel. Made by `eigenfunctions`.

    Attributes:
        values: of the kernel matrix, largest first, shape (k,): kappa in `K q = kappa q`.
        functions: q on the samples, orthonormal, shape (k, n), or (k, n, c) for a kernel of all
            pairs of outputs.
        tolerance: the share of the largest eigenvalue above which one is more than rounding.
        means: what centring takes away from `K q`, shape (k, 1) or (k, 1, c); None if not centred.
        extended: whether they are approximations on other samples, made by `extend`.
    """

    values: Float[Tensor, " k"]
    functions: Float[Tensor, "k n ..."]
    tolerance: float
    means: Float[Tensor, "k 1 ..."] | None = None
    extended: bool = False

    @property
    def mercer_values(self) -> Float[Tensor, " k"]:
        """Eigenvalues under the samples' distribution, `lambda = kappa / n`."""
        return self.values / self.functions.shape[1]

    @property
    def mercer_functions(self) -> Float[Tensor, "k n ..."]:
        """Eigenfunctions of unit mean square, `phi = sqrt(n) q`, so that `E[phi^2] = 1`."""
        return self.functions * math.sqrt(self.functions.shape[1])

    @property
    def rank(self) -> int:
        """How many of the eigenvalues are more than rounding, by `tolerance`."""
        return numerical_rank(self.values, self.tolerance)

    def coefficients(self, targets: Tensor) -> Float[Tensor, "*b k"]:
        """The coefficients of functions in Mercer's basis, `E[phi_j f]`.

        Args:
            targets: f on the samples, (*b, n), or (*b, n, c) for all pairs of outputs.

        Raises:
            InputError: the targets have another shape, or are not finite.

        Example:
            >>> import torch, pullback as pb
            >>> from pullback.kernels.mercer import eigenfunctions
            >>> model, x = torch.nn.Linear(2, 1), torch.randn(9, 2)
            >>> found = eigenfunctions(pb.tangent_kernel(model, x, outputs=0), k=2)
            >>> found.coefficients(found.mercer_functions).round(decimals=4).abs()
            tensor([[1., 0.],
                    [0., 1.]])
        """
        flat = flat_targets(targets, self.functions.shape[1:], self.functions)
        return flat @ self.functions.flatten(1).T / math.sqrt(self.functions.shape[1])

    def extend(self, cross: Kernel) -> Eigenfunctions:
        """The eigenfunctions on other samples, by Nystrom's formula.

        `phi_j(x) = (sqrt(n) / kappa_j) sum_i K(x, x_i) q_ji`, which on the samples themselves is
        what is stored. `mercer_values` stay the same; `values` are those of a kernel matrix on as
        many samples as are new. If the kernel was centred, so is `cross`, by the same means.

        Args:
            cross: the kernel of m other samples with these, `tangent_kernel(model, x_new, x)`, with
                the same outputs and not centred.

        Returns:
            The same k eigenfunctions on m samples, there only nearly orthonormal.

        Raises:
            InputError: the kernel has other columns, an eigenvalue is only rounding, or these are
                extended themselves.

        Source:
            Ortiz-Jimenez et al. 2021, appendix B; George 2023, eq. 6.2.3.
        """
        if self.extended:
            raise InputError("extend: these are extended already; extend those of the kernel")
        if self.rank < len(self.values):
            raise InputError(
                f"k: {len(self.values)} eigenfunctions, but only {self.rank} eigenvalues are more "
                f"than rounding, and the others have no extension; take k={self.rank} or fewer"
            )
        if cross.columns != tuple(self.functions.shape[1:]):
            raise InputError(
                f"cross: takes functions of shape {cross.columns}, but these are on "
                f"{tuple(self.functions.shape[1:])}; give tangent_kernel(model, x_new, x) with the "
                "samples x of the kernel and the same outputs"
            )
        images = cross @ self.functions
        if self.means is not None:
            images = images - self.means
        ratio = images.shape[1] / self.functions.shape[1]
        scale = self.values * math.sqrt(ratio)
        functions = images / scale.view(-1, *[1] * (images.ndim - 1))
        return replace(self, values=self.values * ratio, functions=functions, extended=True)

    def labels(self, j: int) -> Float[Tensor, "n ..."]:
        """The binary task of an eigenfunction: its sign, -1 or 1 (1 where it is zero).

        Args:
            j: which, from 0.

        Raises:
            InputError: there is no eigenfunction of that number.

        Source:
            Ortiz-Jimenez et al. 2021, section 3.1.
        """
        if not 0 <= j < len(self.functions):
            raise InputError(f"j: {j}; there are eigenfunctions 0 to {len(self.functions) - 1}")
        chosen = self.functions[j]
        return torch.where(chosen >= 0, 1.0, -1.0).to(chosen)

    @property
    def majority(self) -> Float[Tensor, "k ..."]:
        """The share of the more frequent label of each eigenfunction, and output, in [0.5, 1].

        It is what a constant prediction of `labels` scores.
        """
        positive = (self.functions >= 0).to(self.functions).mean(1)
        return torch.maximum(positive, 1 - positive)

    def on_grid(self, shape: Sequence[int]) -> Float[Tensor, "k ..."]:
        """The eigenfunctions as maps, where the samples are the points of a grid, row by row.

        Args:
            shape: the grid's, for instance (height, width).

        Returns:
            Shape (k, *shape), with the outputs last for all pairs of outputs.

        Raises:
            InputError: the grid has another number of points than there are samples.

        Example:
            >>> import torch, pullback as pb
            >>> from pullback.kernels.mercer import eigenfunctions
            >>> side = torch.linspace(-1, 1, 4)
            >>> points = torch.cartesian_prod(side, side)
            >>> kernel = pb.tangent_kernel(torch.nn.Linear(2, 1), points, outputs="sum")
            >>> eigenfunctions(kernel, k=3).on_grid((4, 4)).shape
            torch.Size([3, 4, 4])
        """
        n = self.functions.shape[1]
        if not shape or min(shape) < 1 or math.prod(shape) != n:
            raise InputError(
                f"shape: a grid of {' x '.join(map(str, shape)) or 'no'} points for "
                f"{n} samples; give the sizes of the grid that the samples are"
            )
        return self.functions.unflatten(1, tuple(shape))

    def fourier(self, shape: Sequence[int] | None = None) -> Float[Tensor, "k ..."]:
        """The magnitudes of the eigenfunctions' discrete Fourier transform on a grid.

        The transform is orthonormal, so the squares of each eigenfunction's sum to 1. Frequencies
        are in the order of `torch.fft.fftfreq`; `torch.fft.fftshift` brings 0 to the middle.

        Args:
            shape: the grid's, as in `on_grid`; None for points on a line.

        Raises:
            InputError: the grid has another number of points than there are samples.

        Source:
            George 2023, figure B.2; Ortiz-Jimenez et al. 2021, figure 9.
        """
        grid = self._grid(shape)
        axes = tuple(range(1, 1 + len(grid)))
        return torch.fft.fftn(self.on_grid(grid), dim=axes, norm="ortho").abs()

    def radial_energy(self, shape: Sequence[int] | None = None) -> Float[Tensor, "k frequencies"]:
        """The share of each eigenfunction's energy at each radial frequency, summed over outputs.

        A frequency vector, in cycles over the length of each side, counts at the whole number that
        is nearest to its length; both signs are together.

        Args:
            shape: the grid's, as in `on_grid`; None for points on a line.

        Returns:
            Shape (k, frequencies), from 0 on; each row sums to 1.

        Raises:
            InputError: the grid has another number of points than there are samples.

        Example:
            >>> import math, torch
            >>> from pullback.kernels.mercer import Eigenfunctions
            >>> wave = torch.cos(2 * math.pi * 2 * torch.arange(8) / 8)
            >>> one = Eigenfunctions(torch.ones(1), wave[None] / wave.norm(), 0.0)
            >>> one.radial_energy().round(decimals=4)
            tensor([[0., 0., 1., 0., 0.]])
        """
        grid = self._grid(shape)
        energy = self.fourier(grid).square().reshape(len(self.values), math.prod(grid), -1).sum(-1)
        cycles = [torch.fft.fftfreq(size, 1 / size).to(energy) for size in grid]
        points = torch.stack(torch.meshgrid(*cycles, indexing="ij")).flatten(1)
        nearest = torch.linalg.vector_norm(points, dim=0).round().long()
        out = energy.new_zeros(len(energy), int(nearest.max()) + 1)
        return out.index_add_(1, nearest, energy)

    def _grid(self, shape: Sequence[int] | None) -> Sequence[int]:
        return (self.functions.shape[1],) if shape is None else shape


def local_energy(kernel: TangentKernel, tolerance: int | float | None = None) -> LocalEnergy:
    """Where the eigenfunctions of a task live: on its own samples, or on a control's as well.

    The energy at a point is the sum of squares there of the kernel's right singular vectors.

    Args:
        kernel: of n samples of the task with these and m - n of a control, in this order:
            `tangent_kernel(model, task, torch.cat([task, control]), outputs="each")`; of each
            output by itself, or of one function.
        tolerance: the share of the largest singular value above which one is more than rounding;
            None for m times the relative spacing of floating point.

    Raises:
        InputError: the kernel has another form, no samples of a control, is not finite, or the
            tolerance is negative.

    Source:
        Ortiz-Jimenez 2023, section 6.6.1, eq. 6.10.

    Example:
        >>> import torch, pullback as pb
        >>> from pullback.kernels.mercer import local_energy
        >>> model, task, control = torch.nn.Linear(2, 3), torch.randn(4, 2), torch.randn(4, 2)
        >>> both = torch.cat([task, control])
        >>> found = local_energy(pb.tangent_kernel(model, task, both, outputs="each"))
        >>> found.values.shape, found.rank, found.baseline
        (torch.Size([3, 8]), tensor([3, 3, 3]), tensor([0.3750, 0.3750, 0.3750]))
    """
    matrix = kernel.matrix
    if matrix.ndim == 4:
        raise InputError(
            "kernel: of all pairs of outputs, where a point has no energy of its own; use "
            "outputs='each', 'sum' or one output"
        )
    rows, columns = matrix.shape[-2:]
    if kernel.symmetric or columns <= rows:
        raise InputError(
            f"kernel: {rows} samples with {columns}; take tangent_kernel(model, task, both), with "
            "those of the task first in both and then those of a control"
        )
    if not all_finite(matrix):
        raise InputError("kernel: some entries are NaN or infinite; give a finite kernel")
    _, scales, vectors = torch.linalg.svd(matrix, full_matrices=False)
    share = _tolerance(tolerance, columns, matrix.dtype)
    kept = scales > share * scales.amax(-1, keepdim=True)
    values = (vectors.square() * kept.unsqueeze(-1)).sum(-2)
    return LocalEnergy(values, kept.sum(-1), rows)


@dataclass(frozen=True, eq=False)
class LocalEnergy:
    """The energy of a kernel's right singular vectors at each sample. Made by `local_energy`.

    It is the squared length of what a subspace retains of each sample's indicator, so the mean over
    all samples depends on the rank alone; what localises is a mean over the task's samples above
    `baseline`, by many times `spread`. Part of that is mechanical, since a kernel links each sample
    with itself most: compare it with a network at its initialisation.

    Attributes:
        values: in [0, 1], shape (m,), or (c, m) for each output; those of the task come first.
        rank: what they add up to, shape () or (c,).
        task: how many samples n of the task there are.
    """

    values: Float[Tensor, "*c m"]
    rank: Int[Tensor, "*c"]
    task: int

    @property
    def on_task(self) -> Float[Tensor, "*c"]:
        """The mean over the samples of the task."""
        return self.values[..., : self.task].mean(-1)

    @property
    def on_control(self) -> Float[Tensor, "*c"]:
        """The mean over the samples of the control."""
        return self.values[..., self.task :].mean(-1)

    @property
    def baseline(self) -> Float[Tensor, "*c"]:
        """What a random subspace of the same rank has on average at any sample: rank / m."""
        return self.rank.to(self.values) / self.values.shape[-1]

    @property
    def spread(self) -> Float[Tensor, "*c"]:
        """The standard deviation of `on_task` for a uniformly random subspace of the same rank.

        At one sample the energy has a Beta(rank / 2, (m - rank) / 2) distribution; energies at two
        samples are anticorrelated by 1 / (m - 1), because their sum is fixed.
        """
        n, m = self.task, self.values.shape[-1]
        variance = 2 * self.baseline * (1 - self.baseline) / (m + 2)
        return (variance / n * (m - n) / (m - 1)).sqrt()
