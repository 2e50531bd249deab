"""Numbers that are estimated from random vectors carry their standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean of independent draws, with its standard error.

    Attributes:
        value: the mean.
        stderr: its standard error, the deviation of one draw over the root of their number.
        samples: how many draws.

    Example:
        >>> import torch
        >>> from pullback.estimates import Estimate
        >>> Estimate.of(torch.tensor([1.0, 3.0]))
        Estimate(value=2.0, stderr=1.0, samples=2)
    """

    value: float
    stderr: float
    samples: int

    @classmethod
    def of(cls, draws: Float[Tensor, " samples"]) -> Estimate:
        """The mean of some draws (two at least)."""
        draws = draws.double()
        stderr = float(draws.std()) / math.sqrt(len(draws))
        return cls(float(draws.mean()), stderr, len(draws))

    def __float__(self) -> float:
        return self.value
