"""The Jacobian J of a network's outputs by its parameters, as a linear map and never as a matrix.

`push` carries a move of the parameters forward to the outputs, `pull` carries a cotangent of the
outputs back; `rows` writes the matrix out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad

from pullback.batches import Batch, Batches, check_fits
from pullback.cotangents import ReadOut
from pullback.errors import InputError
from pullback.network import Network, check_finite_outputs, undisturbed
from pullback.parameters import ParameterVector
from pullback.tape.generic import Linearised
from pullback.tape.sweep import Sweep
from pullback.tape.use import flat_rows

# From outputs and their change, both (n, c), to cotangents (n, c).
OutputMetric = Callable[[Tensor, Tensor], Tensor]


def jacobian(model: nn.Module | Network, data: object, memory: int | None = None) -> Jacobian:
    """The Jacobian of the outputs on a data set, at the model's parameters.

    Args:
        model: a module, or a `Network` that selects parameters or outputs.
        data: a tensor, a pair (inputs, targets) or an iterable of batches; n samples in all.
        memory: bytes for intermediate results; None for a default.

    Returns:
        The linear map from R^d to R^(n x c).

    Raises:
        InputError: the data or the model cannot be used.

    Example:
        >>> import torch, pullback as pb
        >>> model, x = torch.nn.Linear(3, 2), torch.ones(4, 3)
        >>> J = pb.jacobian(model, x)
        >>> J.push(J.space.randn()).shape, J.rows().shape
        (torch.Size([4, 2]), torch.Size([4, 2, 8]))
    """
    network = Network.of(model)
    return Jacobian(Sweep(network, Batches(data, network.device), ReadOut(), memory, False))


class Jacobian:
    """The linear map J: parameters to outputs, shape (n, c) x d. Made by `jacobian`.

    Attributes:
        network: the function.
        space: its parameter space.
        ways: for each parameter, how the gradients of single samples are computed.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.network = sweep.network
        self.space = sweep.network.space
        self.ways = sweep.plan.ways
        self._sweep = sweep

    def push(self, vector: ParameterVector) -> Float[Tensor, "*b n c"]:
        """The change of the outputs `J v`, shape (n, c), for each of a batch of vectors.

        Raises:
            InputError: the vector belongs to another space.
        """
        flat = vector.in_space(self.space)
        out = [push_batch(self.network, flat, batch) for batch in self._sweep.batches]
        return torch.cat(out, dim=-2)

    def pull(self, cotangents: Float[Tensor, "*b n c"]) -> ParameterVector:
        """The pull-back `J^T u`, summed over samples and outputs, for each of a batch of `u`.

        Raises:
            InputError: the cotangents do not have one row for each sample.
        """
        total = self.space.zeros(cotangents.shape[:-2])
        start = 0
        for batch in self._sweep.batches:
            piece = cotangents[..., start : start + len(batch), :]
            start += len(batch)
            if piece.shape[-2] < len(batch):
                break
            add_pull_(total, self.network, piece, batch)
        if start != cotangents.shape[-2]:
            raise InputError(
                f"cotangents: {cotangents.shape[-2]} rows, but the data has another number of "
                "samples; give one row for each sample"
            )
        return total

    def rows(self) -> Float[Tensor, "n c d"]:
        """The matrix itself, one row for each sample and output.

        Raises:
            InputError: it cannot fit into memory.
        """
        sweep = self._sweep
        samples = sum(len(batch) for batch in sweep.batches)
        outputs, size = sweep.plan.outputs, self.space.size
        check_fits(
            f"Jacobian.rows: {samples} x {outputs} x {size:,} numbers",
            samples * outputs * size * self.space.dtype.itemsize,
            self.space.device,
            "use push and pull",
        )
        out = torch.zeros(samples, outputs, size, dtype=self.space.dtype, device=self.space.device)

        def fill() -> Tensor:
            for step in sweep.steps("Jacobian", rows=size):
                place = out[step.start : step.start + step.samples, step.cotangents]
                for part in step.parts():
                    for name, gradients in part.per_sample().items():
                        place[..., self.space.slices[name]] = flat_rows(gradients).transpose(0, 1)
            return out

        return sweep.settled(fill)


def push_batch(
    network: Network, flat: Float[Tensor, "*b d"], batch: Batch
) -> Float[Tensor, "*b n c"]:
    """`J v` on one batch, for each of a batch of vectors."""
    vectors = flat.reshape(-1, flat.shape[-1])
    with torch.no_grad(), undisturbed():
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
) -> None:
    """Add `J^T M J v` of one batch: one forward pass with its tangent, and one backward pass.

    `metric` gets the outputs and their change, both (n, c), and returns the cotangents (n, c).
    """
    rows = total.flat.view(-1, network.space.size)
    with torch.enable_grad(), undisturbed():
        for row, vector in zip(rows, flat.reshape(-1, network.space.size), strict=True):
            leaves = _leaves(network)
            outputs, change = _outputs_and_change(network, leaves, vector, batch)
            cotangents = metric(outputs.detach(), change.detach())
            _add_pulled_(ParameterVector(network.space, row), leaves, outputs, cotangents)


def _leaves(network: Network) -> dict[str, Tensor]:
    return {name: tensor.detach().requires_grad_() for name, tensor in network.tensors.items()}


def _add_pulled_(
    total: ParameterVector, leaves: dict[str, Tensor], outputs: Tensor, cotangents: Tensor
) -> None:
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
        with forward_ad.dual_level():
            moving = {n: forward_ad.make_dual(t, tangents[n]) for n, t in tensors.items()}
            outputs, change = forward_ad.unpack_dual(network.forward(moving, batch))
    except (RuntimeError, NotImplementedError):
        outputs, change = network.forward(tensors, batch), _reverse_change(network, vector, batch)
    check_finite_outputs(outputs)
    return outputs, torch.zeros_like(outputs) if change is None else change


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
                for name, gradients in part.per_sample().items():
                    place += (flat_rows(gradients) @ values[name].flatten()).T
        return out

    return sweep.settled(rows)
