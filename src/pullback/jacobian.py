"""The Jacobian J of a network's outputs by its parameters, as a linear map and never as a matrix.

`push` carries a move of the parameters forward to the outputs, `pull` carries a cotangent of the
outputs back; `rows` writes the matrix out.
"""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pullback.autodiff import add_pull_, push_batch
from pullback.batches import Batches, check_fits
from pullback.cotangents import ReadOut
from pullback.errors import InputError
from pullback.network import Network
from pullback.parameters import ParameterVector
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
    return Jacobian(Sweep(network, Batches(data, network.device), ReadOut(), memory, False))


class Jacobian:
    """The linear map J: parameters to outputs, shape (n, c) x d. Made by `jacobian`.

    Attributes:
        network: the function.
        space: its parameter space.
        ways: for each parameter, how the gradients of single samples are computed.
        samples: how many samples n the data has.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.network = sweep.network
        self.space = sweep.network.space
        self.ways = sweep.plan.ways
        self._sweep = sweep

    @cached_property
    def samples(self) -> int:
        """How many samples n the data has."""
        return sum(len(batch) for batch in self._sweep.batches)

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
            InputError: the cotangents do not have one row a sample and one column an output.
        """
        if cotangents.shape[-1] != self._sweep.plan.outputs:
            raise InputError(
                f"cotangents: {cotangents.shape[-1]} columns for a model with "
                f"{self._sweep.plan.outputs} outputs"
            )
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
        sweep, samples = self._sweep, self.samples
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
                    part.write_rows(place.transpose(0, 1), self.space.slices)
            return out

        return sweep.settled(fill)
