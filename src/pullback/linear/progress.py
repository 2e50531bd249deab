"""Runs compared where they are equally far, rather than after equally many updates.

A network is faster than its linearisation at nearly everything, so that curves over updates say
little about which samples or groups either prefers. Over the training loss, they do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.batches import all_finite
from pullback.errors import InputError

Series = tuple[Tensor | Sequence[float], Tensor | Sequence[float] | Sequence[Sequence[float]]]


@dataclass(frozen=True, eq=False)
class EqualProgress:
    """What several runs measured where their progress was the same. Made by `equal_progress`.

    Attributes:
        thresholds: of the progress, in the order in which they are reached, shape (k,).
        values: of each run, shape (k, ...).
    """

    thresholds: Float[Tensor, " k"]
    values: dict[str, Float[Tensor, "k ..."]]

    def difference(self, first: str, second: str) -> Float[Tensor, "k ..."]:
        """What the first run has more than the second at each threshold.

        Raises:
            InputError: there is no such run.
        """
        for name in (first, second):
            if name not in self.values:
                raise InputError(f"run: {name!r}; there are {sorted(self.values)}")
        return self.values[first] - self.values[second]


def equal_progress(
    runs: Mapping[str, Series],
    thresholds: Tensor | Sequence[int | float] | int = 50,
    rising: bool = False,
) -> EqualProgress:
    """Quantities of several runs at common thresholds of their progress.

    A threshold counts as reached when the progress first passes it; between two measurements both
    are taken to be straight lines.

    Args:
        runs: for each name a pair of the progress at each measurement, shape (t,), and the quantity
            there, shape (t, ...).
        thresholds: where to compare, shape (k,); or how many, even over what all runs have passed.
        rising: whether progress goes up, as an accuracy does, rather than down, as a loss does.

    Raises:
        InputError: no runs, shapes that do not fit, values that are not finite, or a threshold
            that a run does not reach.

    Source:
        George 2023, section 5.3.1 (eq. 5.3.1 is the difference of two runs).

    Example:
        >>> from pullback.linear import equal_progress
        >>> quick, slow = ([1.0, 0.5, 0.0], [0.0, 2.0, 2.0]), ([1.0, 0.8, 0.6], [0.0, 0.2, 1.0])
        >>> found = equal_progress({"quick": quick, "slow": slow}, [0.9, 0.7])
        >>> found.difference("quick", "slow")
        tensor([0.3000, 0.6000])
    """
    if not runs:
        raise InputError("runs: none; give a name and a pair (progress, values) for each")
    sign = -1.0 if rising else 1.0
    series = {name: _checked(name, *pair) for name, pair in runs.items()}
    falling = {name: (sign * progress).cummin(0).values for name, (progress, _) in series.items()}
    start = min(float(one[0]) for one in falling.values())
    end = max(float(one[-1]) for one in falling.values())
    if isinstance(thresholds, int):
        if thresholds < 1 or not start > end:
            raise InputError(
                f"thresholds: {thresholds}, over a range that all runs pass from {sign * start:g} "
                f"to {sign * end:g}; give runs that overlap"
            )
        places = torch.linspace(start, end, thresholds + 1, dtype=torch.float64)[1:]
    else:
        places = (sign * torch.as_tensor(thresholds, dtype=torch.float64)).sort(descending=True)[0]
        _check_reached(places, falling, sign)
    values = {
        name: _interpolated(sign * progress, measured, places)
        for name, (progress, measured) in series.items()
    }
    return EqualProgress((sign * places).to(torch.get_default_dtype()), values)


def _checked(
    name: str,
    progress: Tensor | Sequence[float],
    values: Tensor | Sequence[float] | Sequence[Sequence[float]],
) -> tuple[Float[Tensor, " t"], Tensor]:
    first = torch.as_tensor(progress, dtype=torch.float64)
    second = torch.as_tensor(values)
    if first.ndim != 1 or not len(first) or len(second) != len(first):
        raise InputError(
            f"runs[{name!r}]: progress of shape {tuple(first.shape)} and values of shape "
            f"{tuple(second.shape)}; give (t,) and (t, ...)"
        )
    if not (all_finite(first) and all_finite(second)):
        raise InputError(f"runs[{name!r}]: some values are NaN or infinite")
    return first, second


def _check_reached(places: Tensor, falling: Mapping[str, Tensor], sign: float) -> None:
    for name, one in falling.items():
        missed = places[(places < one[-1]) | (places > one[0])]
        if len(missed):
            raise InputError(
                f"thresholds: run {name!r} does not pass {sign * float(missed[0]):g}; it goes from "
                f"{sign * float(one[0]):g} to {sign * float(one[-1]):g}"
            )


def _interpolated(
    progress: Float[Tensor, " t"], values: Tensor, places: Float[Tensor, " k"]
) -> Tensor:
    """Values where a falling progress first passes each place."""
    found = []
    for place in places.tolist():
        after = int((progress <= place).int().argmax())
        before = max(after - 1, 0)
        length = float(progress[before] - progress[after])
        share = (float(progress[before]) - place) / length if length > 0 else 0.0
        found.append(torch.lerp(values[before], values[after], share))
    return torch.stack(found)
