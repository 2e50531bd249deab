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
    nothing = torch.zeros(FOLDS, size, size, dtype=torch.float64)
    state = kept.begin({"sums": nothing, "pieces": torch.tensor(0)})
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
            state["sums"][place % FOLDS] += total
            state["pieces"] += 1
            if time.monotonic() - written > PERIOD:
                kept.write(state)
                written = time.monotonic()
    finally:
        kept.write(state)
    counts = torch.zeros(FOLDS, dtype=torch.float64)
    for place, weight in enumerate(weights):
        counts[place % FOLDS] += weight
    return mirror_(state["sums"]), counts


def errors(
    sums: Float[Tensor, "f D D"], counts: Float[Tensor, " f"], vectors: Float[Tensor, "k D"]
) -> Float[Tensor, " k"]:
    """Standard errors of the mean along some directions, from the spread of the folds.

    NaN for fewer than two folds.
    """
    known = [(one, float(count)) for one, count in zip(sums, counts, strict=True) if count > 0]
    if len(known) < 2:
        return torch.full((len(vectors),), math.nan, dtype=vectors.dtype)
    along = torch.stack([((vectors @ one) * vectors).sum(1) / count for one, count in known])
    shares = torch.tensor([[count] for _, count in known], dtype=vectors.dtype) / counts.sum()
    mean = (shares * along).sum(0)
    return (shares * (along - mean).square()).sum(0).div(len(known) - 1).sqrt()
