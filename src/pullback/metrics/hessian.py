"""The Hessian of a mean loss: exact, by two backward passes for each product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pullback.batches import Batches, all_finite, tracked
from pullback.errors import InputError
from pullback.estimates import Estimate
from pullback.likelihoods import Likelihood, likelihood_of
from pullback.metrics.dense import Dense
from pullback.metrics.metric import BlockMetric, check_dense_fits
from pullback.metrics.operator import Operator
from pullback.metrics.origin import Origin, layouts_of
from pullback.network import Network, undisturbed
from pullback.parameters import ParameterVector
from pullback.tape.record import inspect

# From outputs (n, c) and targets to the mean loss.
Loss = Callable[[Tensor, Tensor], Tensor]
# Rows of the identity that are multiplied at a time.
ROWS = 64


def hessian(
    model: nn.Module | Network,
    data: object,
    loss: str | Likelihood | Loss = "categorical",
    representation: str = "implicit",
    progress: bool | None = None,
) -> Operator | BlockMetric:
    """The Hessian of the mean loss by the parameters, of both signs.

    It is the generalised Gauss-Newton matrix plus the curvature of the network itself. For the
    former, give `fisher` the loss as its likelihood.

    Args:
        model: a module, or a `Network` that selects parameters or outputs.
        data: pairs (inputs, targets), or an iterable of such batches; n samples in all.
        loss: a likelihood or its name, for the mean negative log-likelihood; or a function from
            outputs (n, c) and targets to a mean over samples, such as
            `torch.nn.functional.cross_entropy`.
        representation: "implicit" (products alone), or what a dense matrix converts to: "dense",
            "block", "diagonal", "quasidiagonal", "kfac-nearest"; these take d products.
        progress: whether to show a progress bar; None shows one on a terminal.

    Raises:
        InputError: there are no targets, or the matrix cannot fit.

    Example:
        >>> import torch, pullback as pb
        >>> model, x, y = torch.nn.Linear(3, 2), torch.eye(3), torch.tensor([0, 1, 1])
        >>> H = pb.hessian(model, (x, y), representation="dense")
        >>> F = pb.fisher(model, x, representation="dense")  # the same for one linear layer
        >>> bool((H - F).norm() < 1e-6)
        True
    """
    network = Network.of(model)
    if isinstance(loss, str | Likelihood):
        chosen = likelihood_of(loss)
        name = chosen.name
        function: Loss = chosen.loss
    else:
        name = getattr(loss, "__name__", type(loss).__name__)
        function = loss
    found = Hessian(network, Batches(data, network.device), name, function, progress)
    return found if representation == "implicit" else found.to(representation)


class Hessian(Operator):
    """The Hessian by its products alone. Made by `hessian`."""

    def __init__(
        self,
        network: Network,
        batches: Batches,
        name: str,
        loss: Loss,
        progress: bool | None,
    ) -> None:
        with undisturbed():
            plan = inspect(network, next(iter(batches)))
        layouts = layouts_of(plan, network.space)
        origin = Origin(name, "hessian", 1, None, plan.ways, plan.reasons, layouts)
        super().__init__(network.space, origin)
        self._network, self._batches, self._loss = network, batches, loss
        self._progress = progress

    def _product(self, flat: Tensor) -> Tensor:
        rows = flat.reshape(-1, self.space.size)
        total = self.space.zeros((len(rows),))
        samples = 0
        batches = self._batches
        with torch.enable_grad(), undisturbed(), _PlainWeightNorm():
            for batch in tracked(batches, "Hessian", batches.count, self._progress):
                if batch.targets is None:
                    raise InputError("data: the Hessian of a loss needs targets")
                leaves = {n: t.requires_grad_() for n, t in self._leaves().items()}
                outputs = self._network.forward(leaves, batch)
                loss = self._loss(outputs, batch.targets) * len(batch)
                slopes = torch.autograd.grad(
                    loss, list(leaves.values()), create_graph=True, materialize_grads=True
                )
                for row, vector in enumerate(rows):
                    self._add_row_(total, row, leaves, slopes, vector)
                samples += len(batch)
        if not all_finite(total.flat):
            raise InputError("loss or vector: not finite, so neither is the product")
        return total.flat.reshape(flat.shape) / samples

    def _leaves(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._network.tensors.items()}

    def _add_row_(
        self,
        total: ParameterVector,
        row: int,
        leaves: dict[str, Tensor],
        slopes: tuple[Tensor, ...],
        vector: Float[Tensor, " d"],
    ) -> None:
        pieces = self._network.split(vector)
        moving = [(g, pieces[n]) for n, g in zip(leaves, slopes, strict=True) if g.requires_grad]
        if not moving:  # the loss is linear in the parameters
            return
        try:
            found = torch.autograd.grad(
                [slope for slope, _ in moving],
                list(leaves.values()),
                [piece for _, piece in moving],
                retain_graph=True,
                materialize_grads=True,
            )
        except NotImplementedError as problem:
            raise InputError(
                f"model: torch has no second derivative of one of its operations: {problem}"
            ) from None
        for name, second in zip(leaves, found, strict=True):
            total[name][row].add_(second)

    def trace(self, samples: int = 32, seed: int = 0) -> Estimate:
        """The trace, estimated: `z H z` has it as its mean for random signs z (Hutchinson)."""
        signs = self._signs(samples, seed)
        return Estimate.of(torch.linalg.vecdot(signs, self._product(signs)))

    def diagonal(self) -> ParameterVector:
        return self.to("dense").diagonal()

    def to(self, representation: str) -> BlockMetric:
        check_dense_fits(self.space, "representation")
        size = self.space.size
        eye = torch.eye(size, dtype=self.space.dtype, device=self.space.device)
        matrix = torch.cat([self._product(rows) for rows in eye.split(ROWS)])
        uneven = float((matrix - matrix.T).norm())
        if uneven > 100 * size * torch.finfo(matrix.dtype).eps * float(matrix.norm()):
            raise InputError(
                "model: its Hessian by torch is not symmetric, so an operation of the model has a "
                "wrong second derivative there; write that operation in others"
            )
        matrix = (matrix + matrix.T) / 2
        whole = BlockMetric(
            self.space, self.origin, "dense", {"all": Dense(matrix)}, {"all": self.space.names}
        )
        return whole if representation == "dense" else whole.to(representation)


class _PlainWeightNorm(TorchFunctionMode):
    """Weight norm in elementary operations: the fused one has a wrong second derivative.

    Of torch 2.13 on a CPU, by 15 % against finite differences for a convolution.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch._weight_norm:
            return _weight_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    over = [axis for axis in range(v.ndim) if dim == -1 or axis != dim % v.ndim]
    return v * (g / torch.linalg.vector_norm(v, dim=over, keepdim=True))
