"""Where the samples are in a tensor: in front, another dimension, or folded into the first one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

# The number of a dimension; or the first one has (samples, positions), or (positions, samples).
Placement = int | Literal["samples first", "positions first"]


def in_front(tensor: Tensor, placement: Placement, samples: int) -> Tensor | None:
    """A view with the samples as the first dimension; None where the numbers do not fit."""
    if isinstance(placement, int):
        return tensor.movedim(placement, 0)
    if len(tensor) % samples:
        return None
    if placement == "samples first":
        return tensor.unflatten(0, (samples, -1))
    return tensor.unflatten(0, (-1, samples)).movedim(1, 0)


def placements(one: torch.Size, other: torch.Size, samples: tuple[int, int]) -> list[Placement]:
    """Where the samples can be, from the shapes that two numbers of them give.

    The last dimension, that of the features, is no candidate.
    """
    if len(one) != len(other):
        return [0]
    pairs = list(zip(one[:-1], other[:-1], strict=True))
    changed = [axis for axis, (mine, theirs) in enumerate(pairs) if mine != theirs]
    if len(changed) != 1:
        return [0]
    mine, theirs = pairs[changed[0]]
    if (mine, theirs) == samples:
        return [changed[0]]
    if changed == [0] and mine * samples[1] == theirs * samples[0] and mine % samples[0] == 0:
        return ["samples first", "positions first"]
    return [0]
