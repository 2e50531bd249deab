"""The Jacobian J of a network's outputs by its parameters, as a linear map and never as a matrix.

`push` carries a move of the parameters forward to the outputs, `pull` carries a cotangent of the
outputs back; `rows` writes the matrix out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pullback.batches import Batch, Batches, check_fits
from pullback.cotangents import ReadOut
from pullback.errors import InputError
from pullback.network import Network, check_finite_outputs, undisturbed
from pullback.parameters import ParameterVector
from pullback.tape.generic import Linearised
from pullback.tape.sweep import Sweep


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
    return Jacobian(network, Batches(data, network.device), memory)


class Jacobian:
    """The linear map J: parameters to outputs, shape (n, c) x d. Made by `jacobian`.

    Attributes:
        network: the function.
        space: its parameter space.
    """

    def __init__(self, network: Network, batches: Batches, memory: int | None = None) -> None:
        self.network = network
        self.space = network.space
        self._batches = batches
        self._memory = memory

    def push(self, vector: ParameterVector) -> Float[Tensor, "*b n c"]:
        """The change of the outputs `J v`, shape (n, c), for each of a batch of vectors.

        Raises:
            InputError: the vector belongs to another space.
        """
        flat = vector.in_space(self.space)
        out = [push_batch(self.network, flat, batch) for batch in self._batches]
        return torch.cat(out, dim=-2)

    def pull(self, cotangents: Float[Tensor, "*b n c"]) -> ParameterVector:
        """The pull-back `J^T u`, summed over samples and outputs, for each of a batch of `u`.

        Raises:
            InputError: the cotangents do not have one row for each sample.
        """
        total = self.space.zeros(cotangents.shape[:-2])
        start = 0
        for batch in self._batches:
            piece = cotangents[..., start : start + len(batch), :]
            start += len(batch)
            if piece.shape[-2] < len(batch):
                break
            total.flat.add_(pull_batch(self.network, piece, batch))
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
        sweep = Sweep(self.network, self._batches, ReadOut(), self._memory, False)
        samples = sum(len(batch) for batch in self._batches)
        outputs, size = sweep.plan.outputs, self.space.size
        check_fits(
            f"Jacobian.rows: {samples} x {outputs} x {size:,} numbers",
            samples * outputs * size * self.space.dtype.itemsize,
            self.space.device,
            "use push and pull",
        )
        out = torch.zeros(samples, outputs, size, dtype=self.space.dtype, device=self.space.device)
        for step in sweep.steps("Jacobian", rows=size):
            place = out[step.start : step.start + step.samples, step.cotangents]
            for part in step.parts():
                for name, gradients in part.per_sample().items():
                    place[..., self.space.slices[name]] = gradients.flatten(2).transpose(0, 1)
        return out


def push_batch(
    network: Network, flat: Float[Tensor, "*b d"], batch: Batch
) -> Float[Tensor, "*b n c"]:
    """`J v` on one batch: forward mode, or twice reverse mode where an operation lacks it."""
    vectors = flat.reshape(-1, flat.shape[-1])
    with undisturbed():
        rows = [_push_one(network, network.split(v), batch) for v in vectors]
    out = torch.stack(rows)
    return out.reshape(*flat.shape[:-1], *out.shape[1:])


def _push_one(network: Network, tangents: Mapping[str, Tensor], batch: Batch) -> Tensor:
    def outputs(values: dict[str, Tensor]) -> Tensor:
        return network.forward(values, batch)

    try:
        pair = torch.func.jvp(outputs, (network.tensors,), (dict(tangents),))
        value, change = cast(tuple[Tensor, Tensor], pair)
    except (RuntimeError, NotImplementedError):
        # v -> J v is the derivative of u -> J^T u, which is linear in u.
        value, pull = cast(Linearised, torch.func.vjp(outputs, network.tensors))
        pull_back = torch.func.vjp(lambda u: pull(u)[0], torch.zeros_like(value))[1]
        (change,) = pull_back(dict(tangents))
    check_finite_outputs(value)
    return change.detach()


def pull_batch(
    network: Network, cotangents: Float[Tensor, "*b n c"], batch: Batch
) -> Float[Tensor, "*b d"]:
    """`J^T u` on one batch: one forward pass, one backward pass for each u."""
    leaves = {name: t.detach().requires_grad_() for name, t in network.tensors.items()}
    with undisturbed(), torch.enable_grad():
        values = network.forward(leaves, batch)
        check_finite_outputs(values)
        rows = []
        for u in cotangents.reshape(-1, *cotangents.shape[-2:]):
            gradients = torch.autograd.grad(
                values,
                list(leaves.values()),
                u.to(values.dtype),
                retain_graph=True,
                materialize_grads=True,
            )
            rows.append(network.space.vector(dict(zip(leaves, gradients, strict=True))).flat)
    return torch.stack(rows).reshape(*cotangents.shape[:-2], network.space.size)
