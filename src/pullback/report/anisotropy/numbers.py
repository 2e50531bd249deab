"""The numbers of a look at directions: what nads.json holds, and its figures are made of."""

from __future__ import annotations

from typing import Any, TypedDict

from pullback.report.numbers import CostNumbers, NetworkNumbers


class WithError(TypedDict):
    """A number of the spectrum; the error over groups of networks, where there are several."""

    value: float
    stderr: float | None


class PictureNumbers(TypedDict):
    """A direction as an image or a signal.

    Attributes:
        pixels: by channel; an image has rows, a signal has one.
        energy: of its Fourier transform, summed over channels, zero frequency in the middle; the
            sum of all is 1.
        peak: the frequency that has most of it, together with its mirror.
        peak_energy: how much these two have.
    """

    pixels: list[list[list[float]]]
    energy: list[list[float]]
    peak: list[int]
    peak_energy: float


class DirectionNumbers(TypedDict):
    """The directions of an architecture.

    Attributes:
        count: how many there are, D.
        rank: how many have something along them.
        meaning: what the numbers of the spectrum are.
        spectrum: falling.
        stderr: of each, where it is known.
        cumulative: the share of the first k in the sum, for k = 1 to D.
        overlap: of the first k in two halves of the networks, where there are two.
        effective_rank: the exponential of the entropy of the shares.
        participation: `(sum of all)^2 / sum of squares`.
        leading: for how many directions the next is.
        leading_share: what the first so many hold of the sum.
        most: how many hold 90 % of it.
        pictures: of the first directions; None where an input is no image and no signal.
    """

    count: int
    rank: int
    meaning: str
    spectrum: list[float]
    stderr: list[float] | None
    cumulative: list[float]
    overlap: list[float] | None
    effective_rank: WithError
    participation: WithError
    leading: int
    leading_share: WithError
    most: int
    pictures: list[PictureNumbers] | None


class AnisotropyReport(TypedDict):
    """Everything that is shown."""

    about: dict[str, str]
    settings: dict[str, Any]
    network: NetworkNumbers
    directions: DirectionNumbers
    cost: list[CostNumbers]
    notes: list[str]
