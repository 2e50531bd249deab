"""How gradient descent learns on a fixed kernel, in closed form: each mode at a speed of its own.

A linearised network that descends the squared error from f0 moves, on the training samples and off
them, mode by mode. With the eigenvalues lambda_j of the kernel, the deviations d_j of the targets
from f0 along its eigenfunctions and s = 1/n for a mean over samples, 1 for a sum:

    steps      f_j(t) - y_j = -(1 - rate s lambda_j)^t d_j
    flow       f_j(t) - y_j = -exp(-s lambda_j t) d_j
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pullback.errors import InputError
from pullback.kernels.kernel import Kernel
from pullback.kernels.regression import Problem, check_cross, modes, on_samples, squared_norm


def gradient_descent(
    kernel: Kernel,
    targets: Tensor,
    rate: int | float | None = None,
    prior: Tensor | None = None,
    mean: bool = True,
) -> Trajectory:
    """What gradient descent on the squared error does to a linearised network, after any steps.

    The loss is `1/(2n) sum_i |f(x_i) - y_i|^2`, a mean over the n samples and a sum over outputs.

    Args:
        kernel: K, of the training samples with themselves.
        targets: y, as for `kernel_regression`.
        rate: the step size; None for that which learns the first mode in one step, 1 / (s
            lambda_1) with the largest eigenvalue of K.
        prior: f0 on the training samples, where training starts; None for zero.
        mean: False for the loss `1/2 sum_i |f(x_i) - y_i|^2`, which is not divided by n.

    Raises:
        InputError: the targets or the prior do not fit, the kernel is not one of a data set with
            itself, or no matrix, or the rate is not below 2 / (s lambda_1), where descent diverges.

    Source:
        George 2023, propositions B.1.4 to B.1.6 (with `mean=False`); Ortiz-Jimenez et al. 2021.

    Example:
        >>> import torch, pullback as pb
        >>> from pullback.kernels.dynamics import gradient_descent
        >>> model, x = torch.nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [2.0]])
        >>> path = gradient_descent(pb.tangent_kernel(model, x), 3 * x, rate=0.1, mean=False)
        >>> path.at(1)  # the slope goes half the way from 0 to 3
        tensor([[1.5000],
                [3.0000]])
        >>> path.predict(pb.tangent_kernel(model, torch.tensor([[4.0]]), y=x), 2)
        tensor([[9.]])
    """
    problem = Problem.of(kernel, targets, prior)
    scale = _scale(kernel, mean)
    values, functions = modes(kernel)
    largest = scale * float(values[0])
    if not largest > 0:
        raise InputError("kernel: is zero; gradient descent does not move")
    size = 1 / largest if rate is None else float(rate)
    shares = size * scale * values
    if not (size > 0 and float(shares[0]) < 2):
        raise InputError(
            f"rate: {rate}; give one above 0 and below {2 / largest:g}, where descent diverges"
        )
    logs = torch.log1p(-torch.minimum(shares, 2 - shares))
    return Trajectory(problem, values, functions, scale, size, logs, shares > 1, "steps")


def gradient_flow(
    kernel: Kernel,
    targets: Tensor,
    prior: Tensor | None = None,
    mean: bool = True,
) -> Trajectory:
    """What gradient flow, descent in infinitely small steps, does to a linearised network.

    Time is the rate times the number of steps. The loss is that of `gradient_descent`.

    Args:
        kernel: K, of the training samples with themselves.
        targets: y, as for `kernel_regression`.
        prior: f0 on the training samples, where training starts; None for zero.
        mean: False for the loss that is not divided by n.

    Raises:
        InputError: the targets or the prior do not fit, or the kernel is not one of a data set with
            itself, or no matrix.

    Example:
        >>> import torch, pullback as pb
        >>> from pullback.kernels.dynamics import gradient_flow
        >>> model, x = torch.nn.Linear(1, 1, bias=False), torch.tensor([[1.0]])
        >>> path = gradient_flow(pb.tangent_kernel(model, x), torch.tensor([[1.0]]))
        >>> path.at(1.0)
        tensor([[0.6321]])
    """
    problem = Problem.of(kernel, targets, prior)
    scale = _scale(kernel, mean)
    values, functions = modes(kernel)
    never = torch.zeros_like(values, dtype=torch.bool)
    return Trajectory(problem, values, functions, scale, 1.0, -scale * values, never, "time")


def _scale(kernel: Kernel, mean: bool) -> float:
    return 1 / kernel.rows[0] if mean else 1.0


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A path of functions from f0 to the targets. Made by `gradient_descent` or `gradient_flow`.

    Times are numbers of steps, or any numbers in a flow; `math.inf` is the limit: the least-squares
    solution that is nearest to f0, in which modes whose eigenvalue is zero, up to rounding, are not
    learned.

    Attributes:
        problem: the kernel, the targets (of labels, their real coding) and the prior.
        eigenvalues: of the kernel, largest first, rounding errors as zeros.
        eigenfunctions: orthonormal functions on the training samples.
        scale: s, what the squared errors are multiplied by in the loss, twice over.
        rate: the step size; 1 in a flow.
        log_factors: the logarithm of the factor, in size, by which a unit of time multiplies the
            error of each mode.
        overshoots: whether that factor is negative.
        unit: "steps" or "time".
    """

    problem: Problem
    eigenvalues: Float[Tensor, " r"]
    eigenfunctions: Float[Tensor, "r n ..."]
    scale: float
    rate: float
    log_factors: Float[Tensor, " r"]
    overshoots: Bool[Tensor, " r"]
    unit: str

    @cached_property
    def _deviations(self) -> Float[Tensor, "r k"]:
        """What each mode has to learn of each function, `u_j^T (y - f0)`."""
        return self.eigenfunctions.flatten(1) @ self.problem.displacement.T

    def at(self, time: int | float) -> Float[Tensor, "n ..."]:
        """The function on the training samples at a time, in the shape of the targets.

        Raises:
            InputError: the time is negative, or no whole number of steps.
        """
        learned = self._learned(time).unsqueeze(1) * self._deviations
        change = self.problem.shaped(learned.T @ self.eigenfunctions.flatten(1))
        return change if self.problem.prior is None else self.problem.prior + change

    def predict(
        self, cross: Kernel, time: int | float, prior: Tensor | None = None
    ) -> Float[Tensor, "m ..."]:
        """The function at m samples at a time, shaped as the targets are.

        Args:
            cross: the kernel of the m samples with the training samples, in this order:
                `tangent_kernel(model, x_new, y=x_train)`.
            time: see `at`.
            prior: f0 at the m samples, where the trajectory has one.

        Raises:
            InputError: the kernel is not with these training samples, the prior does not fit, or
                there is no such time.
        """
        return self.problem.predicted(cross, self._coefficients(time), prior)

    def errors(self, time: int | float = 0) -> Float[Tensor, "r ..."]:
        """What each mode has yet to learn at a time, `u_j^T (y - f)`, largest eigenvalue first.

        Shape (r,), or (r, k) for k functions that share the kernel.

        Raises:
            InputError: there is no such time.
        """
        return self._left(time).squeeze(-1)

    def loss(self, time: int | float) -> float:
        """The loss at a time, half a mean over samples (half a sum where `mean` is False).

        Raises:
            InputError: there is no such time.
        """
        return self.scale / 2 * float(self._left(time).double().square().sum())

    def squared_norm(self, time: int | float) -> Float[Tensor, "*k"]:
        """The squared distance that the parameters have gone, `|w(t) - w(0)|^2`.

        It is the squared norm of `f(t) - f0` in the kernel's function space: shape (), or (k,) for
        k functions that share the kernel, whose displacements are then of other parameters each.

        Raises:
            InputError: there is no such time.
        """
        return squared_norm(self.problem, self._coefficients(time))

    def learning_times(self, fraction: float = 1 / math.e) -> Float[Tensor, " r"]:
        """The time after which only a fraction of each mode's error is left, in size.

        It is a real number, infinite for modes that are never learned. For 1/e and the default rate
        it is the time constant `-1 / log(1 - lambda_j / lambda_1)`, which is printed without the
        inverse in the source.

        Args:
            fraction: between 0 and 1.

        Raises:
            InputError: it is not.

        Source:
            George 2023, after eq. B.1.33; Baratin 2021, appendix B.1.5.2.

        Example:
            >>> import torch, pullback as pb
            >>> from pullback.kernels.dynamics import gradient_descent
            >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
            >>> path = gradient_descent(pb.tangent_kernel(model, x), torch.ones(2, 1))
            >>> path.eigenvalues, path.learning_times()
            (tensor([4., 1.]), tensor([0.0000, 3.4761]))
        """
        if not 0 < fraction < 1:
            raise InputError(f"fraction: {fraction}; give a number between 0 and 1")
        return -math.log(fraction) / -self.log_factors

    def _exponents(self, time: int | float) -> Float[Tensor, " r"]:
        """The logarithm of the share of each mode's error that is left, in size."""
        whole = self.unit == "time" or math.isinf(time) or time % 1 == 0
        if not (time >= 0 and whole):
            kind = "a number" if self.unit == "time" else "a whole number of steps"
            raise InputError(f"time: {time}; give {kind} >= 0, or infinity")
        if time == 0:
            return torch.zeros_like(self.log_factors)
        return torch.where(self.log_factors == 0, 0, self.log_factors * time)

    def _flipped(self, time: int | float) -> Bool[Tensor, " r"]:
        return self.overshoots & (math.isfinite(time) and time % 2 == 1)

    def _learned(self, time: int | float) -> Float[Tensor, " r"]:
        """The share of each mode's deviation that is learned, in [0, 2)."""
        exponents = self._exponents(time)
        return torch.where(self._flipped(time), 1 + exponents.exp(), -exponents.expm1())

    def _left(self, time: int | float) -> Float[Tensor, "r k"]:
        left = self._exponents(time).exp()
        signed = torch.where(self._flipped(time), -left, left)
        return signed.unsqueeze(1) * self._deviations

    def _coefficients(self, time: int | float) -> Float[Tensor, "k r"]:
        """The coefficients a of `f = f0 + k(x, X) a`, flat.

        Modes of eigenvalue zero have coefficients too, which grow with each step, but k(x, X) is
        zero along them; the limit leaves them out.
        """
        growing = self.rate * self.scale * time if math.isfinite(time) else 0.0
        known = self.eigenvalues > 0
        gains = torch.where(known, self._learned(time) / self.eigenvalues, growing)
        return (gains.unsqueeze(1) * self._deviations).T @ self.eigenfunctions.flatten(1)


def step_modes(kernel: Kernel, gradient: Tensor, rate: int | float) -> StepModes:
    """A step of gradient descent on any loss, mode by mode: `-rate lambda_j (u_j^T grad)` each.

    To first order in the rate this is what the step does to the network itself.

    Args:
        kernel: K, at the parameters where the step is taken.
        gradient: of the loss by the function on the samples, shape (n, c) for all pairs of outputs;
            (n,), or (n, k) for k functions that share a kernel of one. Whatever mean the loss takes
            is in it.
        rate: the step size.

    Raises:
        InputError: the gradient does not fit, or the kernel is not one of a data set with itself,
            or no matrix.

    Source:
        George 2023, lemma 6.2.1 and propositions B.1.2 and B.1.3.

    Example:
        >>> import torch, pullback as pb
        >>> from pullback.kernels.dynamics import step_modes
        >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> step = step_modes(pb.tangent_kernel(model, x), torch.ones(2, 1), rate=0.1)
        >>> step.amounts.abs(), step.change
        (tensor([0.4000, 0.1000]), tensor([[-0.4000],
            [-0.1000]]))
    """
    if not math.isfinite(rate):
        raise InputError(f"rate: {rate}; give a finite number")
    values, functions = modes(kernel)
    problem = Problem(kernel, on_samples(kernel, gradient, "gradient"), None)
    pulls = -rate * functions.flatten(1) @ problem.displacement.T
    return StepModes(problem, values, functions, pulls)


@dataclass(frozen=True, eq=False)
class StepModes:
    """A change of the function, taken apart into modes. Made by `step_modes`.

    Attributes:
        problem: the kernel and the gradient, as its targets.
        eigenvalues: of the kernel, largest first, rounding errors as zeros.
        eigenfunctions: orthonormal functions on the samples.
        pulls: `-rate u_j^T grad` of each mode.
    """

    problem: Problem
    eigenvalues: Float[Tensor, " r"]
    eigenfunctions: Float[Tensor, "r n ..."]
    pulls: Float[Tensor, "r k"]

    @property
    def amounts(self) -> Float[Tensor, "r ..."]:
        """How far each mode moves; shape (r,), or (r, k) for k functions that share the kernel."""
        return self._amounts.squeeze(-1)

    @property
    def _amounts(self) -> Float[Tensor, "r k"]:
        return self.eigenvalues.unsqueeze(1) * self.pulls

    @property
    def change(self) -> Float[Tensor, "n ..."]:
        """All of it on the samples of the kernel, `-rate K grad`, in the shape of the gradient."""
        return self.problem.shaped(self._amounts.T @ self.eigenfunctions.flatten(1))

    def at(self, cross: Kernel) -> Float[Tensor, "r m ..."]:
        """The change of each mode at m other samples; their sum is `-rate k(x, X) grad`.

        Args:
            cross: the kernel of the m samples with those of the step, in this order.

        Raises:
            InputError: the kernel is not with these samples.
        """
        check_cross(self.problem.kernel, cross)
        products = (cross @ self.eigenfunctions).flatten(1)
        changes = products.unsqueeze(2) * self.pulls.unsqueeze(1)
        return changes.reshape(len(changes), cross.rows[0], *self.problem.targets.shape[1:])
