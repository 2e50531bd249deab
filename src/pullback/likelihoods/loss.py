"""Any loss of outputs and targets as an output metric: its Hessian in the outputs.

Pulled back to the parameters this is the generalised Gauss-Newton matrix. For the negative
log-likelihoods of exponential families it is the Fisher matrix; for others it depends on the
targets.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.errors import InputError
from pullback.likelihoods.base import Likelihood, Uniform


class Loss(Likelihood):
    """A loss that is convex in the outputs, and that treats samples apart.

    Args:
        function: from outputs (n, c) and targets to the mean over samples, such as
            `torch.nn.functional.huber_loss`.
        targets: those of the samples at hand; `given` sets them.

    Example:
        >>> import torch, pullback as pb
        >>> model, x, y = torch.nn.Linear(3, 1), torch.eye(3), torch.zeros(3, 1)
        >>> loss = pb.likelihoods.Loss(torch.nn.functional.mse_loss)
        >>> pb.fisher(model, (x, y), loss, "dense").diagonal()["bias"]
        tensor([2.0000])
    """

    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor], targets: Tensor | None = None
    ) -> None:
        self.function, self.targets = function, targets
        self.name = getattr(function, "__name__", type(function).__name__)

    def given(self, targets: Tensor | None) -> Loss:
        return Loss(self.function, targets)

    def rank(self, outputs: int) -> int:
        return outputs

    def mix(self, outputs: Tensor, vectors: Tensor) -> Tensor:
        values, basis = torch.linalg.eigh(self._hessian(outputs))
        rounding = values.abs().amax() * values.shape[1] * torch.finfo(values.dtype).eps
        if bool((values < -rounding).any()):
            raise InputError(
                f"likelihood: the loss {self.name!r} is not convex in the outputs, so it gives no "
                "metric; use pullback.hessian for its curvature"
            )
        root = basis * values.clamp(min=0).sqrt().unsqueeze(1)
        return (root.unsqueeze(1) @ vectors.unsqueeze(3)).squeeze(3).transpose(0, 1)

    def apply(self, outputs: Tensor, vectors: Tensor) -> Tensor:
        return (self._hessian(outputs) @ vectors.unsqueeze(2)).squeeze(2)

    def scores(self, outputs: Tensor, uniform: Uniform) -> Tensor:
        raise InputError(f"estimator: the loss {self.name!r} has no labels that could be drawn")

    def residual(self, outputs: Tensor, targets: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.loss(leaf, targets) * len(leaf), leaf)
        return slope

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.function(outputs, targets)

    def _hessian(self, outputs: Tensor) -> Float[Tensor, "n c c"]:
        """That of each sample's loss in its own outputs."""
        if self.targets is None:
            raise InputError("data: the curvature of a loss needs targets; give (inputs, targets)")
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            loss = self.loss(leaf, self.targets) * len(leaf)
            (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
            if not slope.requires_grad:  # the loss is linear
                return outputs.new_zeros(*outputs.shape, outputs.shape[1])
            rows = [
                torch.autograd.grad(one.sum(), leaf, retain_graph=True, materialize_grads=True)[0]
                for one in slope.unbind(1)
            ]
        return torch.stack(rows, 1)
