"""A network that can be solved: its function is quadratic in its parameters, mode by mode.

    f(x) = sum_j theta_j v_j^T x        with        theta_j = w_j^2 / 2

Gradient flow from the start `theta0` on `1/2 |f - y|^2` moves each mode by itself, towards
`theta* = y_j / sqrt(mu_j)`; the network by `-2 mu theta (theta - theta*)`, its linearisation at the
start by `-2 mu theta0 (theta - theta*)`. The network learns first what matters for the targets
(`mu theta*`), the linearisation what the inputs make large (`mu`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.batches import all_finite
from pullback.errors import InputError

REGIMES = ("network", "linearized")
FORMS = ("exact", "approximate", "printed")


@dataclass(frozen=True, eq=False)
class QuadraticModel:
    """The modes of a solvable network. Made by `quadratic_model`.

    Attributes:
        mu: squared singular values of the inputs, largest first, shape (r,).
        target: theta*, where each mode goes, shape (r,), not negative.
        start: theta0, shape (r,), positive.
        functions: the modes on the samples, `u_j`, shape (r, n), with signs so that targets are
            positive.
    """

    mu: Float[Tensor, " r"]
    target: Float[Tensor, " r"]
    start: Float[Tensor, " r"]
    functions: Float[Tensor, "r n"]

    @property
    def speed(self) -> Float[Tensor, " r"]:
        """What the network learns a mode at: `mu theta*`, in print `y tilde`."""
        return self.mu * self.target

    def modes(
        self, time: int | float, regime: str = "network", printed: bool = False
    ) -> Float[Tensor, " r"]:
        """The coefficients theta at a time of gradient flow.

        Args:
            time: 0 or more.
            regime: "network" or "linearized".
            printed: the source's formula for the linearisation, half as fast as it is.

        Raises:
            InputError: no such time or regime.

        Source:
            George 2023, proposition 5.4.1 (eqs. 5.4.5 and 5.4.6).

        Example:
            >>> import torch
            >>> from pullback.linear import quadratic_model
            >>> one = quadratic_model(torch.tensor([[2.0**0.5]]), torch.tensor([4.5**0.5]), 0.02)
            >>> one.modes(1), one.modes(1, "linearized")
            (tensor([1.0954]), tensor([0.0684]))
        """
        _check_regime(regime)
        if not time >= 0:
            raise InputError(f"time: {time}; give a number that is not negative")
        if regime == "linearized":
            decay = torch.exp(-(1 if printed else 2) * self.mu * self.start * time)
            return self.target + decay * (self.start - self.target)
        exponents = -2 * self.speed * time
        whole = self.target * exponents.exp() - self.start * torch.expm1(exponents)
        slow = self.start / (1 + 2 * self.mu * self.start * time)
        nothing = self.target == 0
        return torch.where(nothing, slow, self.start * self.target / whole.where(~nothing, 1))

    def outputs(self, time: int | float, regime: str = "network") -> Float[Tensor, " n"]:
        """The function on the samples at a time."""
        return (self.mu.sqrt() * self.modes(time, regime)) @ self.functions

    def convergence_times(
        self, epsilon: int | float, regime: str = "network", form: str = "exact"
    ) -> Float[Tensor, " r"]:
        """When each mode is so near to its target; 0 where it is from the start.

        Args:
            epsilon: the distance of theta from theta*, above 0.
            regime: "network" or "linearized".
            form: "exact"; "approximate" for a small start and a small epsilon, as the source
                derives it; "printed" for what is printed there, which is not what it derives.

        Raises:
            InputError: no such distance, regime or form.

        Source:
            George 2023, eq. 5.4.7.
        """
        _check_regime(regime)
        if not epsilon > 0:
            raise InputError(f"epsilon: {epsilon}; give a positive distance")
        if form not in FORMS:
            raise InputError(f"form: {form!r}; choose one of {FORMS}")
        if form == "exact":
            return self._exact_times(epsilon, regime)
        if regime == "linearized":
            rate, distance = self.mu * self.start, self.target / epsilon
            if form == "approximate":
                rate, distance = 2 * rate, (self.target - self.start).abs() / epsilon
            return distance.log().clamp(min=0) / rate
        if form == "printed":
            return (self.target / (epsilon * self.start)).log().clamp(min=0) / self.speed
        return (self.target**2 / (epsilon * self.start)).log().clamp(min=0) / (2 * self.speed)

    def _exact_times(self, epsilon: int | float, regime: str) -> Float[Tensor, " r"]:
        gap = self.start - self.target
        if regime == "linearized":
            return (gap.abs() / epsilon).log().clamp(min=0) / (2 * self.mu * self.start)
        reached = self.target + epsilon * gap.sign()
        ratio = reached * gap.abs() / (self.start * epsilon)
        times = ratio.clamp(min=1).log() / (2 * self.speed)
        vanishing = (self.start / epsilon - 1).clamp(min=0) / (2 * self.mu * self.start)
        return torch.where(self.target == 0, vanishing, times)

    def when_learned(
        self, mode: int, epsilon: int | float, form: str = "exact"
    ) -> Float[Tensor, " r"]:
        """Where the network's modes are when one of them is learned: one after the other.

        With a small start, modes with a larger speed are learned then, the others not begun.

        Args:
            mode: which, from 0.
            epsilon: see `convergence_times`.
            form: as there; "printed" has twice the exponents, and a wrong threshold for them.

        Raises:
            InputError: no such mode, distance or form.

        Source:
            George 2023, eq. 5.4.8.
        """
        if not 0 <= mode < len(self.mu):
            raise InputError(f"mode: {mode}; there are modes 0 to {len(self.mu) - 1}")
        time = self.convergence_times(epsilon, form="exact")[mode]
        if form == "exact":
            return self.modes(float(time))
        if form not in FORMS:
            raise InputError(f"form: {form!r}; choose one of {FORMS}")
        ratio = self.speed / self.speed[mode]
        if form == "printed":
            ratio = 2 * ratio
        left = epsilon * self.start[mode] / self.target[mode] ** 2
        return self.target * self.start / (self.start + self.target * left**ratio)


def _check_regime(regime: str) -> None:
    if regime not in REGIMES:
        raise InputError(f"regime: {regime!r}; choose one of {REGIMES}")


def quadratic_model(
    inputs: Float[Tensor, "n d"],
    targets: Float[Tensor, " n"],
    start: int | float | Tensor,
    functions: Float[Tensor, "r n"] | None = None,
) -> QuadraticModel:
    """The modes of a network whose function is quadratic in its parameters.

    Where singular values coincide, the modes are not unique, and neither is the model: it learns
    slowly what lies in many modes, and fast what lies in one.

    Args:
        inputs: X, shape (n, d).
        targets: y, shape (n,).
        start: the square of w where training starts, so that theta0 is half of it: for all modes,
            or of each, shape (r,), r the rank of X.
        functions: which modes to take, left singular vectors of X, orthonormal; None for those
            that the singular value decomposition happens to give.

    Raises:
        InputError: a shape does not fit, a number is not finite, the inputs are zero, the start is
            not positive, or the functions are no singular vectors.

    Source:
        George 2023, section 5.4 and appendix C.1.

    Example:
        >>> import torch
        >>> from pullback.linear import quadratic_model
        >>> inputs, targets = torch.diag(torch.tensor([3.0, 1.0])), torch.tensor([1.0, 6.0])
        >>> model = quadratic_model(inputs, targets, start=1e-3)
        >>> model.convergence_times(0.01).argsort()  # what the targets ask for comes first
        tensor([1, 0])
        >>> model.convergence_times(0.01, "linearized").argsort()
        tensor([0, 1])
    """
    if inputs.ndim != 2 or targets.shape != inputs.shape[:1]:
        raise InputError(
            f"inputs, targets: shapes {tuple(inputs.shape)} and {tuple(targets.shape)}; give "
            "(n, d) and (n,)"
        )
    if not (all_finite(inputs) and all_finite(targets)):
        raise InputError("inputs, targets: some are NaN or infinite")
    chosen = _singular_vectors(inputs) if functions is None else functions
    mu = (chosen @ inputs).square().sum(1)
    _check_modes(inputs, chosen, mu)
    along = chosen @ targets
    chosen = torch.where(along[:, None] < 0, -chosen, chosen)
    squares = torch.as_tensor(start, dtype=mu.dtype, device=mu.device).expand(len(mu))
    if not bool((squares > 0).all()):
        raise InputError("start: not positive; at zero, nothing is ever learned")
    return QuadraticModel(mu, along.abs() / mu.sqrt(), squares / 2, chosen)


def _singular_vectors(inputs: Float[Tensor, "n d"]) -> Float[Tensor, "r n"]:
    left, scales, _ = torch.linalg.svd(inputs, full_matrices=False)
    kept = scales > max(inputs.shape) * torch.finfo(scales.dtype).eps * scales[0]
    if not bool(kept.any()):
        raise InputError("inputs: all zero; there is no mode to learn")
    return left.T[kept]


def _check_modes(
    inputs: Float[Tensor, "n d"], functions: Float[Tensor, "r n"], mu: Float[Tensor, " r"]
) -> None:
    """That the functions are orthonormal singular vectors, and all that the inputs have."""
    allowed = torch.finfo(mu.dtype).eps ** 0.5
    crossed = functions @ functions.T - torch.eye(len(functions)).to(functions)
    turned = (inputs @ (inputs.T @ functions.T) - mu * functions.T) / mu.max()
    missing = inputs.square().sum() / mu.sum() - 1
    if any(bool((one.abs() > allowed).any()) for one in (crossed, turned, missing)):
        raise InputError(
            "functions: no orthonormal left singular vectors of the inputs, or not all of them"
        )
