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

    @classmethod
    def over_samples(cls, draws: Float[Tensor, "t n"]) -> Estimate:
        """The mean over n given samples of what t independent draws for each of them estimate.

        The samples are the data, so the error is that of the draws alone: their scatter within each
        sample. One draw for each shows none of it; there the scatter between samples is taken,
        which contains it, so that the error is an upper bound (infinite for a single draw in all).

        Example:
            >>> import torch
            >>> from pullback.estimates import Estimate
            >>> Estimate.over_samples(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
            Estimate(value=3.5, stderr=0.5, samples=4)
        """
        t, n = draws.shape
        draws = draws.double()
        if t > 1:
            variance = float(draws.var(0).sum()) / n**2 / t
        else:
            variance = float(draws.var()) / n if n > 1 else math.inf
        return cls(float(draws.mean()), math.sqrt(variance), t * n)

    def __float__(self) -> float:
        return self.value
