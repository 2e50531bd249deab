"""The tangent features of a layer, and the kernel they form.

The kernel of a layer is `J J'^T` for its per-sample gradients J. For an affine use it is also
`sum_ts (a_t a'_s^T) * (g_t g'_s^T)` over pairs of positions, and J is never formed: the structured
way. For p pairs of outputs, t positions, o outputs and i inputs of the layer, an entry takes p o i
operations by way of gradients and t^2 (i + p o) this way, of which each also goes through memory
p t^2 times. Whichever is less is done.

Where gradients are contracted, the smaller of two things is kept until all samples are there: the
rows of J, or the pair (a, g), from which the rows of some outputs at a time are made when they are
needed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.kernels.arrangement import Arrangement, Slab
from pullback.parameters import by_owner, owner_of
from pullback.tape.affine import AffineLayout, AffineUse
from pullback.tape.record import Plan
from pullback.tape.sweep import Part
from pullback.tape.use import Gradients, flat_rows

METHODS = ("gradients", "structured")
# Operations that one further pass through memory is worth.
PASS = 8


@runtime_checkable
class Features(Protocol):
    """The features of one layer on some samples, cut into slabs of its outputs.

    Attributes:
        samples: number of samples n.
        cotangents: number of combinations of the network's outputs k.
        outputs: how many outputs the layer's weight has; slabs are ranges of them.
        width: features of one of these.
        derived: numbers for each sample that the features are made from, kept until `release`.
    """

    samples: int
    cotangents: int
    outputs: int
    width: int
    derived: int

    def empty(self, *shape: int) -> Tensor:
        """Memory for features, on their device and in their precision."""
        ...

    def fill(self, out: Float[Tensor, "k n b"], chosen: slice, start: int, stop: int) -> None:
        """Write the features of the chosen cotangents and of outputs `start` to `stop`.

        Those of a bias are not among them.
        """
        ...

    def release(self) -> None:
        """Forget what the features were made from; it is made again when asked for."""
        ...

    def bias_rows(self) -> Float[Tensor, "k n b"] | None:
        """The features of the bias, if there is one."""
        ...

    def finite(self) -> bool:
        """Whether no entry is NaN or infinite."""
        ...

    def extend(self, more: Any) -> None:
        """Take in those, of the same kind, of further cotangents on the same samples."""
        ...


class WrittenOut:
    """Features kept as they are.

    Args:
        rows: shape (k, n, G, outputs, features of one).
        bias: those of the bias, (k, n, G outputs).
    """

    derived = 0

    def __init__(
        self, rows: Float[Tensor, "k n g o i"], bias: Float[Tensor, "k n b"] | None = None
    ) -> None:
        self._rows, self._biases = list(rows), [] if bias is None else [bias]
        self.cotangents, self.samples, groups, self.outputs, features = rows.shape
        self.width = groups * features

    def empty(self, *shape: int) -> Tensor:
        return self._rows[0].new_empty(shape)

    def fill(self, out: Tensor, chosen: slice, start: int, stop: int) -> None:
        for target, one in zip(out, self._rows[chosen], strict=True):
            values = one[..., start:stop, :]
            target.view(values.shape).copy_(values)

    def release(self) -> None:
        return

    def bias_rows(self) -> Tensor | None:
        return torch.cat(self._biases) if self._biases else None

    def finite(self) -> bool:
        return _finite(self._rows)

    def extend(self, more: WrittenOut) -> None:
        self._rows += more._rows
        self._biases += more._biases
        self.cotangents += more.cotangents


class Factored:
    """Features of an affine use, kept as its inputs and gradients.

    Args:
        use: one use.
        gradients: what came back, k tensors (G, o, n, t).
        structured: whether the kernel is made of these themselves.
    """

    def __init__(self, use: AffineUse, gradients: Gradients, structured: bool) -> None:
        use.release()  # every piece is kept, so its patches are not
        self.use, self.gradients, self.structured = use, list(gradients), structured
        self.positions = gradients[0].shape[-1]
        self.cotangents, self.samples = len(gradients), gradients[0].shape[2]
        self.outputs = use.layout.outputs
        self.width = use.layout.groups * use.layout.inputs
        self.derived = use.floats[0]

    def empty(self, *shape: int) -> Tensor:
        return self.gradients[0].new_empty(shape)

    def fill(self, out: Tensor, chosen: slice, start: int, stop: int) -> None:
        layout = self.use.layout
        shape = (*out.shape[:2], layout.groups, stop - start, layout.inputs)
        self.use.weight_rows([g[:, start:stop] for g in self.gradients[chosen]], out.view(shape))

    def release(self) -> None:
        self.use.release()

    def bias_rows(self) -> Tensor | None:
        return None if self.use.bias is None else self.use.bias_rows(self.gradients)

    def finite(self) -> bool:
        return _finite(self.gradients)

    def extend(self, more: Factored) -> None:
        self.gradients += more.gradients
        self.cotangents += more.cotangents


def _finite(values: Sequence[Tensor]) -> bool:
    """Whether no entry of these is NaN or infinite: their sum is not if one is."""
    return math.isfinite(float(torch.stack([one.sum() for one in values]).sum()))


def features_by_owner(
    part: Part, arrangement: Arrangement, method: str | None
) -> dict[str, Features]:
    """The features of a part, by the module that owns the parameters.

    Args:
        part: uses of parameters that belong together.
        arrangement: which entries are to be formed.
        method: "gradients" or "structured" to force one, None for what takes less.
    """
    owners = by_owner(part.names)
    use = part.uses[0]
    if len(part.uses) == len(owners) == 1 and isinstance(use, AffineUse) and use.weight is not None:
        pairs = arrangement.pairs(use.cotangents)
        return {owner_of(use.weight): _of_weight(use, part.gradients[0], pairs, method)}
    gradients = part.per_sample
    flat = {
        owner: torch.cat([flat_rows(gradients[name]) for name in names], dim=2)
        for owner, names in owners.items()
    }
    return {owner: WrittenOut(rows[:, :, None, None]) for owner, rows in flat.items()}


def _of_weight(use: AffineUse, g: Gradients, pairs: int, method: str | None) -> Features:
    """The features of a weight and its bias, in the form that takes least."""
    positions = g[0].shape[-1]
    if _is_structured(use.layout, positions, pairs, method):
        return Factored(use, g, structured=True)
    if positions < use.layout.inputs:
        return Factored(use, g, structured=False)
    return WrittenOut(use.weight_rows(g), None if use.bias is None else use.bias_rows(g))


def _is_structured(layout: AffineLayout, positions: int, pairs: int, method: str | None) -> bool:
    o, i = layout.outputs, layout.inputs
    of_pairs = positions**2 * (i + pairs * (o + PASS))
    return method == "structured" or (method is None and of_pairs < pairs * o * i)


def factored(plan: Plan, pairs: int, method: str | None) -> set[str]:
    """The parameters whose features are kept as inputs and gradients, and no patches written out.

    Args:
        plan: how they are used.
        pairs: how many pairs of outputs there are.
        method: as for `features_by_owner`.
    """
    found: set[str] = set()
    for use in plan.floats:
        layout = plan.affine.get(use.names)
        if layout is None or any(plan.uses[name] > 1 for name in use.names):
            continue
        positions = use.inputs // (layout.groups * layout.inputs)
        if positions < layout.inputs or _is_structured(layout, positions, pairs, method):
            found.update(use.names)
    return found


class Room:
    """Memory for slabs that is used again: fresh pages take as long as what is written into them.

    Args:
        memory: bytes that a slab may take.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self._space: Tensor | None = None

    def slab(self, features: Features, *shape: int) -> Slab:
        """Room for features of that shape; what was there before is lost."""
        size = math.prod(shape)
        if self._space is None or self._space.numel() < size:
            self._space = None  # before there is another
            self._space = features.empty(size)
        return self._space[:size].view(shape)


@dataclass(frozen=True)
class Cut:
    """How the features of a layer are cut into slabs.

    Attributes:
        cotangents: how many in a slab.
        width: how many outputs of the layer in a slab.
        kept: whether what the features are made from is kept for the next slab.
    """

    cotangents: int
    width: int
    kept: bool

    @classmethod
    def of(cls, pieces: Sequence[Features], arrangement: Arrangement, memory: int) -> Cut:
        """What fits into so many bytes.

        Where the network's outputs never meet, slabs of one cotangent are quicker, and a quarter of
        the memory is enough: many of a layer's outputs at a time make products of a good shape.
        """
        first, samples = pieces[0], sum(piece.samples for piece in pieces)
        itemsize = first.empty(0).element_size()
        kept = sum(piece.samples * piece.derived for piece in pieces) * itemsize <= memory
        if arrangement.apart and kept:
            cotangents, memory = 1, memory // 4
        else:
            cotangents = first.cotangents
        width = memory // max(1, samples * cotangents * first.width * itemsize)
        return cls(cotangents, max(1, width), kept)


def add_kernel_(
    total: Tensor,
    arrangement: Arrangement,
    left: Sequence[Features],
    right: Sequence[Features] | None,
    rooms: tuple[Room, Room],
) -> None:
    """Add the kernel of a layer's features on two sets, in place.

    Args:
        total: what to add to.
        arrangement: which entries to form.
        left: features of successive samples.
        right: likewise; None for the kernel of `left` with itself.
        rooms: where a slab of each is formed.
    """
    ours, theirs = _structured(left), None if right is None else _structured(right)
    if ours and (theirs or right is None):
        _add_pairs_(total, arrangement, ours, theirs)
        return
    cut = Cut.of([*left, *(right or ())], arrangement, rooms[0].memory)
    if right is None:
        for output, rows in _slabs(left, cut, rooms[0]):
            arrangement.add_rows_(total, rows, None, output)
    else:
        slabs = zip(_slabs(left, cut, rooms[0]), _slabs(right, cut, rooms[1]), strict=True)
        for (output, rows), (_, others) in slabs:
            arrangement.add_rows_(total, rows, others, output)


def _slabs(pieces: Sequence[Features], cut: Cut, room: Room) -> Iterator[tuple[int, Slab]]:
    """The features of all samples, with the number of the first cotangent; the bias comes last."""
    first, samples = pieces[0], sum(piece.samples for piece in pieces)
    starts = range(0, first.outputs, cut.width)
    for cotangent, start in itertools.product(range(0, first.cotangents, cut.cotangents), starts):
        stop = min(start + cut.width, first.outputs)
        slab = room.slab(first, cut.cotangents, samples, first.width * (stop - start))
        chosen = slice(cotangent, cotangent + cut.cotangents)
        filled = 0
        for piece in pieces:
            piece.fill(slab[:, filled : filled + piece.samples], chosen, start, stop)
            filled += piece.samples
            if not cut.kept:
                piece.release()
        yield cotangent, slab
    for piece in pieces:
        piece.release()
    biases = [bias for piece in pieces if (bias := piece.bias_rows()) is not None]
    if biases:
        yield 0, torch.cat(biases, dim=1)


def _structured(pieces: Sequence[Features]) -> list[Factored]:
    """The pieces, if their kernel is made of inputs and gradients; none otherwise."""
    found = [piece for piece in pieces if isinstance(piece, Factored) and piece.structured]
    alike = len({piece.positions for piece in found}) == 1
    return found if alike and len(found) == len(pieces) else []


def _add_pairs_(
    total: Tensor,
    arrangement: Arrangement,
    left: Sequence[Factored],
    right: Sequence[Factored] | None,
) -> None:
    """Add the products of inputs times those of gradients, for each pair of positions."""
    bias = left[0].use.bias is not None
    for group in range(left[0].use.layout.groups):
        ours = _factors(left, group)
        theirs = ours if right is None else _factors(right, group)
        for inputs, gradients in ours:
            for others, back in theirs:
                products = inputs @ others.T
                if bias:
                    products += 1
                # One position with itself: half the entries are enough.
                alone = right is None and len(ours) == 1
                arrangement.add_products_(total, gradients, None if alone else back, products)
    for piece in (*left, *(right or ())):
        piece.use.release()


def _factors(
    pieces: Sequence[Factored], group: int
) -> list[tuple[Float[Tensor, "n i"], list[Float[Tensor, "n o"]]]]:
    """Inputs and gradients of all samples, the latter by cotangent, position by position."""
    inputs = [piece.use.a for piece in pieces]
    gradients = list(zip(*(piece.gradients for piece in pieces), strict=True))
    return [
        (
            _at(inputs, group, position),
            [_at(of_pieces, group, position) for of_pieces in gradients],
        )
        for position in range(pieces[0].positions)
    ]


def _at(
    pieces: Sequence[Float[Tensor, "g c _ t"]], group: int, position: int
) -> Float[Tensor, "n c"]:
    """The rows of all samples at one position, copied only where they lie apart."""
    rows = [piece[group, ..., position].T for piece in pieces]
    return rows[0].contiguous() if len(rows) == 1 else torch.cat(rows)
