"""The numbers of directions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.anisotropy import Directions
from pullback.estimates import Estimate
from pullback.kernels.spectra import effective_rank
from pullback.report.anisotropy.numbers import DirectionNumbers, PictureNumbers, WithError
from pullback.report.numbers import rounded

PICTURES = 12
LEADING = 10
DIGITS = 8


def direction_numbers(found: Directions, pictures: int = PICTURES) -> DirectionNumbers:
    """All that the page says about some directions, with so many as pictures."""
    leading = min(LEADING, len(found.spectrum))
    cumulative = found.spectrum.cumsum(0) / found.spectrum.sum()
    shares: dict[str, Callable[[Tensor], float]] = {
        "effective rank": effective_rank,
        "participation": lambda one: float(one.sum().square() / one.square().sum()),
        "leading": lambda one: float(one[:leading].sum() / one.sum()),
    }
    estimates = {name: _with_error(found.estimate(of)) for name, of in shares.items()}
    return DirectionNumbers(
        count=len(found.spectrum),
        rank=found.rank,
        meaning=found.meaning,
        spectrum=rounded(found.spectrum, DIGITS),
        stderr=_known(found.stderr),
        cumulative=rounded(cumulative, DIGITS),
        overlap=_known(found.overlap),
        effective_rank=estimates["effective rank"],
        participation=estimates["participation"],
        leading=leading,
        leading_share=estimates["leading"],
        most=1 + int((cumulative < 0.9).sum()),
        pictures=_pictures(found, pictures),
    )


def _with_error(found: Estimate) -> WithError:
    stderr = found.stderr if math.isfinite(found.stderr) else None
    return WithError(value=found.value, stderr=stderr)


def _known(values: Float[Tensor, " D"]) -> list[float] | None:
    return None if bool(values.isnan().any()) else rounded(values, DIGITS)


def _pictures(found: Directions, count: int) -> list[PictureNumbers] | None:
    """The first directions, where an input is a signal (n,) or an image (h, w) or (c, h, w)."""
    if len(found.shape) > 3:
        return None
    rows = (1,) * (3 - len(found.shape)) + found.shape
    return [picture(one.view(rows)) for one in found.vectors[:count]]


def picture(channels: Float[Tensor, "c h w"]) -> PictureNumbers:
    """A direction with the energy of its Fourier transform."""
    energy = torch.fft.fft2(channels, norm="ortho").abs().square().sum(0)
    mirrored = energy.flip(0, 1).roll((1, 1), (0, 1))
    sizes = torch.tensor(energy.shape)
    own = (torch.cartesian_prod(*(torch.arange(n) for n in energy.shape)) * 2 % sizes == 0).all(1)
    both = torch.where(own.view(energy.shape), energy, energy + mirrored)
    # Of a frequency and its mirror the one is named that comes first in this order.
    place = int(both.argmax())
    row, column = divmod(place, energy.shape[1])
    peak = [_signed(row, energy.shape[0]), _signed(column, energy.shape[1])]
    return PictureNumbers(
        pixels=rounded(channels),
        energy=rounded(torch.fft.fftshift(energy)),
        peak=peak,
        peak_energy=float(both.max()),
    )


def _signed(frequency: int, size: int) -> int:
    return frequency if frequency <= size // 2 else frequency - size
