"""Symmetric matrices of the input space that are sums of many pieces, with their errors."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.batches import tracked
from pullback.errors import InputError
from pullback.linalg import mirror_
from pullback.unfinished import Unfinished

FOLDS = 8  # sums of their own, whose differences give the errors
PERIOD = 30.0  # seconds between two writings of what is unfinished


class Moments(ABC):
    """A mean of symmetric matrices, measured piece by piece.

    Attributes:
        meaning: what its quadratic form along a direction is.
    """

    meaning: str

    @abstractmethod
    def weights(self) -> list[int]:
        """For each piece, of how many terms it is the sum."""

    @abstractmethod
    def add_(self, total: Float[Tensor, "D D"], place: int) -> None:
        """Add a piece to the lower triangle of a matrix; the other one is of no account."""


def summed(
    moments: Moments, size: int, dtype: torch.dtype, kept: Unfinished, progress: bool | None
) -> tuple[Float[Tensor, "f D D"], Float[Tensor, " f"]]:
    """The sum of each fold over its pieces, and how many terms each has.

    Raises:
        InputError: a piece is not finite, or what is kept cannot be used.
    """
    weights = moments.weights()
    names = [f"sum {fold}" for fold in range(FOLDS)]
    spare, *nothing = (torch.zeros(size, size, dtype=torch.float64) for _ in range(FOLDS + 1))
    state = kept.begin({"pieces": torch.tensor(0), **dict(zip(names, nothing, strict=True))})
    del nothing
    left, written = range(int(state["pieces"]), len(weights)), time.monotonic()
    try:
        for place in tracked(left, "directions", len(left), progress):
            total = torch.zeros(size, size, dtype=dtype)
            moments.add_(total, place)
            # The sum is a quick look: it is finite only where everything is.
            if not total.sum().isfinite() and not bool(total.tril().isfinite().all()):
                raise InputError(
                    "make_model: the derivatives of a network are not finite; they overflow, or "
                    "the input is out of its range"
                )
            name = names[place % FOLDS]
            old, new = state[name], torch.add(state[name], total, out=spare)
            # A piece is added and counted in one step: Ctrl-C finds both done or neither.
            state = {**state, name: new, "pieces": torch.tensor(place + 1)}
            spare = old
            if time.monotonic() - written > PERIOD:
                kept.write(state)
                written = time.monotonic()
    finally:
        kept.write(state)
    counts = torch.zeros(FOLDS, dtype=torch.float64)
    for place, weight in enumerate(weights):
        counts[place % FOLDS] += weight
    return mirror_(torch.stack([state[name] for name in names])), counts


def along(
    sums: Float[Tensor, "f D D"], counts: Float[Tensor, " f"], vectors: Float[Tensor, "k D"]
) -> tuple[Float[Tensor, "g k"], Float[Tensor, " g"]]:
    """The mean along some directions in each fold that has terms, and the shares of the terms."""
    known = counts > 0
    found = [
        ((vectors @ one) * vectors).sum(1) / count
        for one, count in zip(sums[known], counts[known], strict=True)
    ]
    return torch.stack(found), counts[known] / counts.sum()


def errors(means: Float[Tensor, "g k"], shares: Float[Tensor, " g"]) -> Float[Tensor, " k"]:
    """Standard errors of the mean over all folds, from what `along` gives.

    NaN for fewer than two folds.
    """
    if len(means) < 2:
        return torch.full(means.shape[1:], math.nan, dtype=means.dtype)
    mean = shares @ means
    return (shares @ (means - mean).square()).div(len(means) - 1).sqrt()
