"""`J v` and `J^T u` on one batch, by automatic differentiation of the whole module.

What a parameter's gradient is, reverse mode defines: an embedding's padding row has none, nor has
what is computed under `no_grad`. Forward mode knows neither, so `AsInReverse` teaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from pullback.batches import Batch, Batches
from pullback.cotangents import ReadOut
from pullback.network import Network, check_finite_outputs, undisturbed
from pullback.parameters import ParameterVector
from pullback.tangents import RULES
from pullback.tape.generic import Linearised
from pullback.tape.sweep import Sweep
from pullback.tape.use import flat_rows

# From outputs and their change, both (n, c), to cotangents (n, c).
OutputMetric = Callable[[Tensor, Tensor], Tensor]


def push_batch(
    network: Network, flat: Float[Tensor, "*b d"], batch: Batch
) -> Float[Tensor, "*b n c"]:
    """`J v` on one batch, for each of a batch of vectors."""
    vectors = flat.reshape(-1, flat.shape[-1])
    with torch.enable_grad(), undisturbed():
        changes = torch.stack([_outputs_and_change(network, {}, v, batch)[1] for v in vectors])
    return changes.reshape(*flat.shape[:-1], *changes.shape[1:])


def add_pull_(
    total: ParameterVector, network: Network, cotangents: Float[Tensor, "*b n c"], batch: Batch
) -> None:
    """Add `J^T u` of one batch: one forward pass, one backward pass for each u."""
    leaves = _leaves(network)
    rows = total.flat.view(-1, network.space.size)
    with torch.enable_grad(), undisturbed():
        outputs = network.forward(leaves, batch)
        check_finite_outputs(outputs)
        for row, u in zip(rows, cotangents.reshape(-1, *cotangents.shape[-2:]), strict=True):
            _add_pulled_(ParameterVector(network.space, row), leaves, outputs, u)


def add_push_pull_(
    total: ParameterVector,
    network: Network,
    flat: Float[Tensor, "*b d"],
    batch: Batch,
    metric: OutputMetric,
    at_once: int = 1,
) -> None:
    """Add `J^T M J v` of one batch: one forward pass with its tangent, and one backward pass.

    `metric` gets the outputs and their change, both (n, c), and returns the cotangents (n, c).
    Of several vectors, `at_once` at a time share these passes where `vmap` can follow the module.
    """
    space = network.space
    rows, vectors = total.flat.view(-1, space.size), flat.reshape(-1, space.size)
    with torch.enable_grad(), undisturbed():
        for start in range(0, len(vectors), at_once):
            some = slice(start, start + at_once)
            mine = ParameterVector(space, rows[some])
            if len(mine.flat) == 1 or not _add_together_(
                mine, network, vectors[some], batch, metric
            ):
                _add_one_by_one_(mine, network, vectors[some], batch, metric)


def _add_one_by_one_(
    total: ParameterVector,
    network: Network,
    vectors: Float[Tensor, "b d"],
    batch: Batch,
    metric: OutputMetric,
) -> None:
    for row, vector in zip(total.flat, vectors, strict=True):
        leaves = _leaves(network)
        outputs, change = _outputs_and_change(network, leaves, vector, batch)
        cotangents = metric(outputs.detach(), change.detach())
        _add_pulled_(ParameterVector(network.space, row), leaves, outputs, cotangents)


def _add_together_(
    total: ParameterVector,
    network: Network,
    vectors: Float[Tensor, "b d"],
    batch: Batch,
    metric: OutputMetric,
) -> bool:
    """Add the products with all vectors; False where an operation does not allow it."""
    leaves = _leaves(network)
    try:
        outputs = network.forward(leaves, batch)
        check_finite_outputs(outputs)
        changes = _changes(network, vectors, batch)
        cotangents = torch.stack([metric(outputs.detach(), change) for change in changes])
        gradients = torch.autograd.grad(
            outputs,
            list(leaves.values()),
            cotangents.to(outputs.dtype),
            is_grads_batched=True,
            materialize_grads=True,
        )
    except RuntimeError:
        return False
    for name, gradient in zip(leaves, gradients, strict=True):
        total[name].add_(gradient)
    return True


def _changes(
    network: Network, vectors: Float[Tensor, "b d"], batch: Batch
) -> Float[Tensor, "b n c"]:
    """`J v` for all vectors in one pass.

    Raises:
        RuntimeError: an operation has no forward mode, or `vmap` cannot follow it.
    """

    def change(vector: Tensor) -> Tensor:
        tensors, tangents = (network.tensors,), (network.split(vector),)
        return torch.func.jvp(lambda t: network.forward(t, batch), tensors, tangents)[1]

    with AsInReverse():
        return torch.func.vmap(change)(vectors).detach()


def _leaves(network: Network) -> dict[str, Tensor]:
    return {name: tensor.detach().requires_grad_() for name, tensor in network.tensors.items()}


def _add_pulled_(
    total: ParameterVector, leaves: dict[str, Tensor], outputs: Tensor, cotangents: Tensor
) -> None:
    if not outputs.requires_grad:
        return  # no parameter has an influence
    gradients = torch.autograd.grad(
        outputs,
        list(leaves.values()),
        cotangents.to(outputs.dtype),
        retain_graph=True,
        materialize_grads=True,
    )
    for name, gradient in zip(leaves, gradients, strict=True):
        total[name].add_(gradient)


def _outputs_and_change(
    network: Network, leaves: dict[str, Tensor], vector: Float[Tensor, " d"], batch: Batch
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """The outputs and their change `J v`, by one pass in forward mode where that is possible.

    The outputs can be differentiated by `leaves`, which stand for parameters.
    """
    tensors, tangents = {**network.tensors, **leaves}, network.split(vector)
    try:
        # A caller's `autograd.Function` turns tangents off, and would get zeros.
        with forward_ad._set_fwd_grad_enabled(True), forward_ad.dual_level(), AsInReverse():
            moving = {n: forward_ad.make_dual(t, tangents[n]) for n, t in tensors.items()}
            outputs, change = forward_ad.unpack_dual(network.forward(moving, batch))
    except (RuntimeError, NotImplementedError):
        outputs, change = network.forward(tensors, batch), _reverse_change(network, vector, batch)
    check_finite_outputs(outputs)
    return outputs, torch.zeros_like(outputs) if change is None else change


class AsInReverse(TorchFunctionMode):
    """Takes away tangents where reverse mode would not propagate a gradient.

    Operations whose own rule for tangents takes longer than it has to get another.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in RULES and torch.is_grad_enabled() and not in_transform():
            return RULES[func](*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if func is F.embedding:
            return _without_padding(result, *args, **(kwargs or {}))
        if torch.is_grad_enabled():
            return result
        return pytree.tree_map_only(Tensor, lambda t: forward_ad.unpack_dual(t).primal, result)


def in_transform() -> bool:
    """Whether a transform of `torch.func` is at work."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _without_padding(
    rows: Tensor, indices: Tensor, table: Tensor, padding_idx: int | None = None, *_: Any, **__: Any
) -> Tensor:
    if padding_idx is None:
        return rows
    padding = (indices == padding_idx % len(table)).unsqueeze(-1)
    return torch.where(padding, forward_ad.unpack_dual(rows).primal, rows)


def _reverse_change(
    network: Network, vector: Float[Tensor, " d"], batch: Batch
) -> Float[Tensor, "n c"]:
    """`J v` where an operation has no forward mode: the derivative of `u -> J^T u`, linear in u."""
    try:
        outputs, pull = cast(
            Linearised, torch.func.vjp(lambda t: network.forward(t, batch), network.tensors)
        )
        pull_back = torch.func.vjp(lambda u: pull(u)[0], torch.zeros_like(outputs))[1]
        return cast(tuple[Tensor], pull_back(network.split(vector)))[0]
    except (RuntimeError, NotImplementedError):
        return _change_by_rows(network, vector, batch)


def _change_by_rows(
    network: Network, vector: Float[Tensor, " d"], batch: Batch
) -> Float[Tensor, "n c"]:
    """`J v` where an operation cannot be differentiated twice either: row by row of J."""
    sweep = Sweep(network, Batches([batch], network.device), ReadOut(), None, False)
    values = ParameterVector(network.space, vector).as_dict()

    def rows() -> Tensor:
        out = vector.new_zeros(len(batch), sweep.plan.outputs)
        for step in sweep.steps("Jacobian"):
            place = out[step.start : step.start + step.samples, step.cotangents]
            for part in step.parts():
                for name, gradients in part.per_sample.items():
                    place += (flat_rows(gradients) @ values[name].flatten()).T
        return out

    return sweep.settled(rows)
