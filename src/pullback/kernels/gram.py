"""From sweeps of gradients to the entries of a kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pullback.batches import check_fits, working_memory
from pullback.cotangents import ReadOut
from pullback.errors import InputError
from pullback.kernels.arrangement import AllPairs, Arrangement, Separate, Single, Summed
from pullback.kernels.features import Features, Room, add_kernel_, factored, features_by_owner
from pullback.tape.sweep import Sweep

Outputs = str | int | tuple[int, int] | Tensor
ARRANGEMENTS = {"all": AllPairs(), "sum": Summed(), "each": Separate()}


def read_out(outputs: Outputs) -> tuple[ReadOut, Arrangement]:
    """Which combinations of outputs a kernel is of, and which of their pairs it has.

    Raises:
        InputError: there is no such choice.
    """
    if not isinstance(outputs, str):
        several = isinstance(outputs, Tensor) and outputs.ndim == 2
        return ReadOut(outputs), AllPairs() if several else Single()
    if outputs not in ARRANGEMENTS:
        raise InputError(
            f"outputs: {outputs!r}; choose one of {sorted(ARRANGEMENTS)}, the number of an "
            "output, a pair of numbers, or weights of the outputs"
        )
    return ReadOut(), ARRANGEMENTS[outputs]


@dataclass
class Collected:
    """The tangent features of a data set: pieces of successive samples, by owner and parameters.

    Attributes:
        samples: how many samples n.
        outputs: how many outputs c the network has.
        cotangents: how many combinations of these k.
    """

    parts: dict[tuple[str, tuple[str, ...]], list[Features]]
    samples: int
    outputs: int
    cotangents: int


def collected(sweep: Sweep, arrangement: Arrangement, method: str | None) -> Collected:
    """The features of a sweep's data.

    Raises:
        InputError: they are not finite.
    """
    parts: dict[tuple[str, tuple[str, ...]], list[Features]] = {}
    count = sweep.source.count(sweep.plan.outputs)
    unasked = factored(sweep.plan, arrangement.pairs(count), method)
    for step in sweep.steps("tangent features", unasked=unasked):
        for part in step.parts():
            for owner, features in features_by_owner(part, arrangement, method).items():
                if not features.finite():
                    raise InputError(
                        f"gradients: not finite in {owner!r}; the network's derivative is NaN or "
                        "infinite on this data"
                    )
                pieces = parts.setdefault((owner, part.names), [])
                if step.fresh:
                    pieces.append(features)
                else:
                    pieces[-1].extend(features)
    return Collected(parts, sweep.samples, sweep.plan.outputs, count)


def matrices(
    sweep: Sweep,
    left: Collected,
    right: Collected | None,
    arrangement: Arrangement,
    by_layer: bool = False,
    keep: bool = False,
) -> dict[str, Tensor]:
    """The kernel of two sets of features, or of one with itself; by layer, or all under "".

    Args:
        sweep: what the features come from.
        left: the features of the first set.
        right: those of the second, if there is one.
        arrangement: which entries to form, and how they are seen.
        by_layer: whether each layer's is asked for.
        keep: whether the features are needed again; otherwise they are let go of once used.

    Raises:
        InputError: it cannot fit into memory.
    """
    network = sweep.network
    shape = arrangement.shape(left.cotangents, left.samples, (right or left).samples)
    layers = tuple(dict.fromkeys(owner for owner, _ in left.parts)) if by_layer else ("",)
    check_fits(
        f"tangent_kernel: {len(layers)} times {' x '.join(map(str, shape))} numbers",
        len(layers) * math.prod(shape) * network.space.dtype.itemsize,
        network.device,
        "take fewer samples, outputs='sum', a store on disk, or representation='implicit'",
    )
    totals = {
        layer: torch.zeros(shape, dtype=network.space.dtype, device=network.device)
        for layer in layers
    }
    budget = working_memory(sweep.memory, network.device)
    rooms = Room(budget), Room(budget)
    for key in list(left.parts):
        ours = left.parts[key] if keep else left.parts.pop(key)
        theirs = None
        if right is not None:
            theirs = right.parts[key] if keep else right.parts.pop(key)
        add_kernel_(totals[key[0] if by_layer else ""], arrangement, ours, theirs, rooms)
    alone = right is None
    return {layer: arrangement.finished(total, alone) for layer, total in totals.items()}
