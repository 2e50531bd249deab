"""The tangent features of a layer, and the kernel they form.

The kernel of a layer is `J J'^T` for its per-sample gradients J. For an affine use at one position
it factorises, `(a a'^T) * (g g'^T)`, and J is never formed. For one at many positions the smaller
of two things is kept until all samples are there: the rows of J, or the pair (a, g), from which the
rows of some outputs at a time are made when they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.linalg import add_gram_
from pullback.tape.affine import AffineUse
from pullback.tape.sweep import Part
from pullback.tape.use import flat_rows

# From features (n, k, b) to batches of rows whose inner products are the kernel's entries.
Arrangement = Callable[[Float[Tensor, "n k b"]], Float[Tensor, "batch rows b"]]


def pairs(x: Tensor) -> Tensor:
    """One row for each sample and output: the kernel (n c, n' c) of all pairs of outputs."""
    return x.flatten(0, 1).unsqueeze(0)


def summed(x: Tensor) -> Tensor:
    """One row for each sample, all outputs side by side: the kernel (n, n') summed over outputs."""
    return x.flatten(1).unsqueeze(0)


def separate(x: Tensor) -> Tensor:
    """One batch for each output: its own kernel (n, n')."""
    return x.transpose(0, 1)


@runtime_checkable
class Features(Protocol):
    """The features of one layer on some samples, as a matrix (outputs, columns) a sample."""

    outputs: int
    columns: int

    def rows(self, start: int, stop: int) -> Float[Tensor, "n k b"]:
        """The features of outputs `start` to `stop`."""
        ...

    def finite(self) -> bool:
        """Whether no entry is NaN or infinite."""
        ...


class WrittenOut:
    """Features kept as they are.

    Args:
        matrix: shape (k, n, outputs, columns).
    """

    def __init__(self, matrix: Float[Tensor, "k n o i"]) -> None:
        self._matrix = matrix
        self.outputs, self.columns = matrix.shape[2:]

    def rows(self, start: int, stop: int) -> Tensor:
        return self._matrix[:, :, start:stop].flatten(2).transpose(0, 1)

    def finite(self) -> bool:
        return bool(self._matrix.sum().isfinite())


class Factored:
    """Features of an affine use, kept as its inputs and gradients.

    Args:
        use: one use.
        gradients: what came back, (k, G, o, n, t).
    """

    def __init__(self, use: AffineUse, gradients: Float[Tensor, "k g o n t"]) -> None:
        self.use, self.gradients = use, gradients
        self.outputs = use.layout.outputs
        self.columns = use.layout.groups * use.layout.columns

    def rows(self, start: int, stop: int) -> Tensor:
        matrix = self.use.matrices(self.gradients[:, :, start:stop])  # (k, n, G, o, i)
        self.use.release()
        return matrix.transpose(2, 3).flatten(2).transpose(0, 1)

    def finite(self) -> bool:
        return bool(self.gradients.sum().isfinite())


def features_of(part: Part) -> Features:
    """The features of a part, in whichever form is smaller."""
    use, g = part.uses[0], part.gradients[0]
    if len(part.uses) == 1 and isinstance(use, AffineUse) and use.weight is not None:
        positions = g.shape[-1]
        if positions == 1 or positions < use.layout.columns:
            return Factored(use, g)
        matrix = use.matrices(g)
        return WrittenOut(matrix.transpose(2, 3).flatten(3))
    flat = torch.cat([flat_rows(value) for value in part.per_sample().values()], dim=2)
    return WrittenOut(flat.unsqueeze(2))


def add_kernel_(
    total: Float[Tensor, "batch rows rows2"],
    left: Sequence[Features],
    right: Sequence[Features] | None,
    arrange: Arrangement,
    memory: int,
) -> None:
    """Add the kernel of a layer's features on two sets, in place.

    Args:
        total: what to add to; with `right` None only its lower block triangle is filled.
        left: features of successive samples.
        right: likewise; None for the kernel of `left` with itself.
        arrange: which entries to form.
        memory: bytes that the rows of one piece may take.
    """
    factored = _at_one_position(left)
    if factored is not None:
        other = None if right is None else _at_one_position(right)
        if right is None or other is not None:
            _add_product_(total, factored, other, arrange)
            return
    for start, stop in _spans(left, memory):
        rows = arrange(torch.cat([piece.rows(start, stop) for piece in left]))
        if right is None:
            add_gram_(total, rows)
        else:
            others = arrange(torch.cat([piece.rows(start, stop) for piece in right]))
            total.baddbmm_(rows, others.mT)


def _spans(pieces: Sequence[Features], memory: int) -> Iterator[tuple[int, int]]:
    """Ranges of outputs whose rows, for all samples, fit into the memory."""
    first = pieces[0].rows(0, 1)
    samples = sum(len(piece.rows(0, 1)) for piece in pieces[1:]) + len(first)
    width = max(1, memory // (samples * first[0].numel() * first.element_size()))
    for start in range(0, pieces[0].outputs, width):
        yield start, min(start + width, pieces[0].outputs)


def _at_one_position(pieces: Sequence[Features]) -> list[Factored] | None:
    """The pieces, if all of them are affine uses at one position and of one group."""
    known = [
        piece
        for piece in pieces
        if isinstance(piece, Factored)
        and piece.gradients.shape[-1] == 1
        and piece.use.layout.groups == 1
    ]
    return known if len(known) == len(pieces) else None


def _add_product_(
    total: Tensor, left: Sequence[Factored], right: Sequence[Factored] | None, arrange: Arrangement
) -> None:
    inputs, gradients = _inputs(left), arrange(_gradients(left))
    if right is None:
        over_inputs = inputs @ inputs.T
        over_gradients = torch.zeros_like(total)
        add_gram_(over_gradients, gradients)
    else:
        over_inputs = inputs @ _inputs(right).T
        over_gradients = gradients @ arrange(_gradients(right)).mT
    if left[0].use.bias is not None:
        over_inputs += 1
    n, m = over_inputs.shape
    batch, rows, columns = over_gradients.shape
    paired = over_gradients.view(batch, n, rows // n, m, columns // m)
    total += paired.mul_(over_inputs[:, None, :, None]).view(total.shape)


def _inputs(pieces: Sequence[Factored]) -> Float[Tensor, "n i"]:
    return torch.cat([piece.use.a[0, ..., 0].T for piece in pieces])


def _gradients(pieces: Sequence[Factored]) -> Float[Tensor, "n k o"]:
    return torch.cat([piece.gradients[:, 0, ..., 0].permute(2, 0, 1) for piece in pieces])
