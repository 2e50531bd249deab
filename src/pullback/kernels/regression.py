"""What a kernel predicts for new samples: ridge regression, classification, kernel PCA.

A linearised network trains from the function f0 that it starts with, so everything is relative to
one (the network's outputs at the parameters of the kernel; zero where none is given):

    f(x) = f0(x) + k(x, X) a        with        (K + ridge I) a = y - f0(X)

The ridge is added to the kernel as it is, and neither is divided by anything: to minimise
`1/n sum_i |f(x_i) - y_i|^2 + mu |f - f0|^2`, take `ridge = n mu`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pullback.batches import all_finite
from pullback.errors import InputError
from pullback.kernels.dense import TangentKernel
from pullback.kernels.kernel import Kernel
from pullback.kernels.solvers import Solver, factor_of, solver_of
from pullback.linalg import not_negative


def kernel_regression(
    kernel: Kernel,
    targets: Tensor,
    ridge: int | float = 0.0,
    prior: Tensor | None = None,
    solver: str | Solver | None = None,
) -> KernelRegression:
    """Ridge regression on a kernel: the least `|f - y|^2 + ridge |f - f0|^2` over its functions.

    The errors are summed over samples and outputs, and `|f - f0|` is the norm of the kernel's
    function space: the length of the smallest displacement of the parameters of the linearised
    network that makes f out of f0. Without a ridge f interpolates; where the kernel is singular, so
    that nothing or too much does, `gradient_flow(...)` has the limit at `math.inf`.

    Args:
        kernel: K, of the training samples with themselves.
        targets: y, shape (n, c) for a kernel of all pairs of outputs; (n,), or (n, k) for k
            functions that share a kernel of one; or integer labels (n,), see `class_targets`.
        ridge: added to the diagonal of K, in units of the kernel (not multiplied by n).
        prior: f0 on the training samples, in the shape of the (real) targets; None for zero.
        solver: "direct" or a `Direct`, for kernels that are a matrix; "cg" or a
            `ConjugateGradients`, for any; None for the first of them that can be used.

    Raises:
        InputError: the targets, the prior or the ridge do not fit, the kernel is not one of a data
            set with itself, or the ridge leaves it singular.

    Source:
        George 2023, examples 2 and 3 (eq. 2.2.10, where a mean over samples makes `ridge` n
        lambda); Ortiz-Jimenez et al. 2021, eq. 2.

    Example:
        >>> import torch, pullback as pb
        >>> from pullback.kernels.regression import kernel_regression
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> x, new = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0]])
        >>> K = pb.tangent_kernel(model, x)
        >>> fit = kernel_regression(K, torch.tensor([[1.0], [2.0]]), ridge=5)
        >>> fit.predict(pb.tangent_kernel(model, new, y=x))  # 5 / (5 + ridge) of the slope
        tensor([[1.5000]])
        >>> fit.leave_one_out()
        tensor([[0.5556],
                [1.6667]])
    """
    if not (ridge >= 0 and math.isfinite(ridge)):
        raise InputError(f"ridge: {ridge}; give a finite number >= 0")
    problem = Problem.of(kernel, targets, prior)
    found = solver_of(solver, kernel).solve(kernel, problem.displacement, ridge)
    return KernelRegression(problem, ridge, problem.shaped(found))


def class_targets(labels: Int[Tensor, " n"], classes: int | None = None) -> Float[Tensor, "n c"]:
    """Labels as real targets: `1 - 1/c` for the class of a sample and `-1/c` for the others.

    They add up to zero for each sample, so that zero prefers no class; the largest prediction
    names the class, `fit.predict(...).argmax(-1)`.

    Args:
        labels: from 0 to c - 1.
        classes: c; None for the largest label and one.

    Raises:
        InputError: there are no labels, or one is out of range.

    Example:
        >>> import torch
        >>> from pullback.kernels.regression import class_targets
        >>> class_targets(torch.tensor([0, 1]))
        tensor([[ 0.5000, -0.5000],
                [-0.5000,  0.5000]], dtype=torch.float64)
    """
    if not len(labels):
        raise InputError("labels: none; give one for each sample")
    least, most = int(labels.min()), int(labels.max())
    count = most + 1 if classes is None else classes
    if least < 0 or most >= count:
        raise InputError(
            f"labels: from {least} to {most} for {count} classes; number them from 0, or give real "
            "targets in floating point"
        )
    return F.one_hot(labels.long(), count).double() - 1 / count


@dataclass(frozen=True, eq=False)
class Problem:
    """What a kernel is to learn, and from where.

    The targets are k functions on the samples: one, or several that share the kernel. Flat, they
    are k rows of r numbers, r = n c for all pairs of outputs and n otherwise.

    Attributes:
        kernel: of the training samples with themselves.
        targets: real numbers, in the kernel's precision.
        prior: the function f0 on the training samples, or None.
    """

    kernel: Kernel
    targets: Float[Tensor, "n ..."]
    prior: Float[Tensor, "n ..."] | None

    @classmethod
    def of(cls, kernel: Kernel, targets: Tensor, prior: Tensor | None) -> Problem:
        """The problem, once everything fits.

        Raises:
            InputError: something does not.
        """
        check_kernel(kernel)
        if targets.ndim == 1 and not targets.is_floating_point():
            targets = class_targets(targets.long(), _classes(kernel, targets))
        real = on_samples(kernel, targets, "targets")
        if prior is None:
            return cls(kernel, real, None)
        if prior.shape != real.shape:
            raise InputError(
                f"prior: shape {tuple(prior.shape)} for targets of shape {tuple(real.shape)}; give "
                "the outputs that these are compared with"
            )
        return cls(kernel, real, on_samples(kernel, prior, "prior"))

    @property
    def displacement(self) -> Float[Tensor, "k r"]:
        """What is to be learned, `y - f0`."""
        wanted = self.targets if self.prior is None else self.targets - self.prior
        return self.flat(wanted)

    def flat(self, functions: Float[Tensor, "n ..."]) -> Float[Tensor, "k r"]:
        """Functions in the shape of the targets as flat rows."""
        return functions.reshape(math.prod(self.kernel.rows), -1).T

    def shaped(self, rows: Float[Tensor, "k r"]) -> Float[Tensor, "n ..."]:
        """Flat rows as functions in the shape of the targets."""
        return rows.T.reshape(self.targets.shape)

    def predicted(
        self, cross: Kernel, coefficients: Float[Tensor, "k r"], prior: Tensor | None
    ) -> Float[Tensor, "m ..."]:
        """The functions `f0 + k(x, X) a` at new samples."""
        check_cross(self.kernel, cross)
        if (prior is None) != (self.prior is None):
            raise InputError(
                "prior: give it both for the training samples and for the new ones, or for neither"
            )
        change = cross @ coefficients.reshape(-1, *self.kernel.rows)
        found = change.flatten(1).T.reshape(cross.rows[0], *self.targets.shape[1:])
        if prior is None:
            return found
        if prior.shape != found.shape:
            raise InputError(
                f"prior: shape {tuple(prior.shape)} for predictions of shape {tuple(found.shape)}"
            )
        return prior.detach().to(found) + found


def _classes(kernel: Kernel, labels: Int[Tensor, " n"]) -> int:
    """The outputs that a kernel pairs; those of the network, or more, where all share a kernel."""
    if len(kernel.rows) == 2 or not len(labels):
        return kernel.rows[-1]
    return max(kernel.outputs, int(labels.max()) + 1)


@dataclass(frozen=True, eq=False)
class KernelRegression:
    """A function fitted to targets. Made by `kernel_regression`.

    Attributes:
        problem: the kernel, the targets (of labels, their real coding) and the prior.
        ridge: as given.
        coefficients: `a = (K + ridge I)^-1 (y - f0)`, in the shape of the targets; `ridge a` is
            what the fit leaves of these on the training samples.
    """

    problem: Problem
    ridge: int | float
    coefficients: Float[Tensor, "n ..."]

    def predict(self, cross: Kernel, prior: Tensor | None = None) -> Float[Tensor, "m ..."]:
        """The fitted function at m samples, `f0(x) + k(x, X) a`, shaped as the targets are.

        Args:
            cross: the kernel of the m samples with the training samples, in this order:
                `tangent_kernel(model, x_new, y=x_train)`.
            prior: f0 at the m samples, where the fit has one.

        Raises:
            InputError: the kernel is not with these training samples, or the prior does not fit.
        """
        return self.problem.predicted(cross, self.problem.flat(self.coefficients), prior)

    def leave_one_out(self) -> Float[Tensor, "n ..."]:
        """What each target differs by from the prediction of a fit without its sample.

        Without sample i, with all its outputs, `y_i - f(x_i)` is `B_ii^-1 a_i`, where B_ii is its
        block (c x c) of `(K + ridge I)^-1`: nothing is fitted again. The ridge stays as it is.

        Raises:
            InputError: the kernel is no matrix, or singular.

        Source:
            Rasmussen and Williams 2006, eq. 5.12, for one output.
        """
        samples = self.problem.kernel.rows[0]
        count = math.prod(self.problem.kernel.rows[1:])
        inverse = torch.cholesky_inverse(factor_of(self.problem.kernel, self.ridge))
        blocks = inverse.view(samples, count, samples, count).diagonal(dim1=0, dim2=2)
        coefficients = self.coefficients.reshape(samples, count, -1)
        residuals = torch.linalg.solve(blocks.permute(2, 0, 1), coefficients)
        return residuals.reshape(self.coefficients.shape)

    def squared_norm(self) -> Float[Tensor, "*k"]:
        """The squared norm of `f - f0` in the kernel's function space, `a^T K a`.

        It is the squared length of the smallest displacement of the parameters of the linearised
        network that makes f out of f0: shape (), or (k,) for k functions that share the kernel.

        Source:
            Ortiz-Jimenez et al. 2021, eq. 3; without a ridge, `(y - f0)^T K^-1 (y - f0)`.
        """
        return squared_norm(self.problem, self.problem.flat(self.coefficients))


def squared_norm(problem: Problem, coefficients: Float[Tensor, "k r"]) -> Float[Tensor, "*k"]:
    """`a^T K a` of each function, of shape () where there is one."""
    products = problem.kernel._product(coefficients)
    return (coefficients * products).sum(1).squeeze(-1)


def project(kernel: TangentKernel, cross: Kernel, k: int = 2) -> Float[Tensor, "m k"]:
    """New samples on the principal components of the training samples (kernel PCA).

    The features of the new samples are centred by the mean of those of the training samples, so
    that training samples are where `TangentKernel.principal_components` has them.

    Args:
        kernel: of the training samples with themselves.
        cross: of the new samples with the training samples, in this order.
        k: how many components.

    Returns:
        One row for each row of `cross.flat`, shape (m c, k) or (m, k); 0 on components along which
        the training samples do not vary.

    Raises:
        InputError: the kernels do not belong together, or there are fewer components.

    Source:
        Schoelkopf et al. 1998; George 2023, section 3.4.2.

    Example:
        >>> import torch, pullback as pb
        >>> from pullback.kernels.regression import project
        >>> model, x = torch.nn.Linear(1, 1), torch.tensor([[0.0], [2.0]])
        >>> K = pb.tangent_kernel(model, x)
        >>> K.principal_components(1).abs()
        tensor([[1.],
                [1.]])
        >>> project(K, pb.tangent_kernel(model, torch.tensor([[4.0]]), y=x), 1).abs()
        tensor([[3.]])
    """
    check_cross(kernel, cross)
    centred = kernel.centred("all")
    if not 1 <= k <= len(centred.flat):
        raise InputError(f"k: {k} components of a kernel that has {len(centred.flat)}")
    values, functions = (part[:k] for part in modes(centred))
    means = (kernel @ functions).flatten(1).mean(1, keepdim=True)
    scales = torch.where(values > 0, values.rsqrt(), 0).unsqueeze(1)
    return (scales * ((cross @ functions).flatten(1) - means)).T


def modes(kernel: Kernel) -> tuple[Float[Tensor, " r"], Float[Tensor, "r n ..."]]:
    """Eigenvalues, falling, those that are only rounding as zeros, and their eigenfunctions.

    Raises:
        InputError: the kernel is no matrix, not that of a data set with itself, or not positive.
    """
    check_kernel(kernel)
    if not isinstance(kernel, TangentKernel):
        raise InputError(
            f"kernel: {type(kernel).__name__} does not have all its eigenfunctions at hand; take a "
            "TangentKernel"
        )
    values, functions = kernel.eigh()
    if not all_finite(not_negative(values)):
        raise InputError(
            f"kernel: has the eigenvalue {float(values[-1]):g}; a kernel has none below zero"
        )
    rounding = values[0] * len(values) ** 0.5 * torch.finfo(values.dtype).eps
    return torch.where(values <= rounding, 0, values), functions


def check_kernel(kernel: Kernel) -> None:
    """Raise InputError unless the kernel is that of a data set with itself, and finite.

    Raises:
        InputError: as said.
    """
    kernel._check_symmetric()
    if isinstance(kernel, TangentKernel) and not all_finite(kernel.matrix):
        raise InputError("kernel: contains NaN or infinity")


def check_cross(kernel: Kernel, cross: Kernel) -> None:
    """Raise InputError unless the second data set of `cross` can be that of `kernel`.

    Raises:
        InputError: as said.
    """
    if cross.columns != kernel.rows:
        raise InputError(
            f"cross: of samples with functions of shape {cross.columns}, but the kernel has "
            f"{kernel.rows}; give tangent_kernel(model, x_new, y=x_train) with the same outputs"
        )


def on_samples(kernel: Kernel, values: Tensor, name: str) -> Float[Tensor, "n ..."]:
    """Values as one or several functions on the samples of a kernel, in its precision.

    Raises:
        InputError: they are none.
    """
    rows = kernel.rows
    whole = math.prod(rows)
    fits = values.ndim in (1, 2) and len(values) == rows[0] and values.numel() > 0
    if not fits or (len(rows) == 2 and values.numel() != whole):
        wanted = f"({rows[0]},) or ({rows[0]}, k)" if len(rows) == 1 else f"{rows}"
        raise InputError(f"{name}: shape {tuple(values.shape)}; this kernel takes {wanted}")
    if not all_finite(values):
        raise InputError(f"{name}: contain NaN or infinity")
    return values.detach().to(kernel._like)
