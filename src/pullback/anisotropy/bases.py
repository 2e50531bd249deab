"""Orthonormal bases of the input space: real Fourier vectors, and random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pullback.errors import InputError


@dataclass(frozen=True, eq=False)
class FourierBasis:
    """The real Fourier vectors of signals or images. Made by `fourier_basis`.

    Each frequency and its mirror give one vector of the real part and one of the imaginary part; a
    frequency that is its own mirror has no imaginary part.

    Attributes:
        vectors: one a row, orthonormal, shape (D, D): first those of real parts.
        frequencies: of each, from -n/2 to n/2 along each axis, shape (D, axes); of a frequency and
            its mirror one stands for both.
        imaginary: which are of imaginary parts, shape (D,).
        shape: of one input.
    """

    vectors: Float[Tensor, "D D"]
    frequencies: Int[Tensor, "D a"]
    imaginary: Bool[Tensor, " D"]
    shape: tuple[int, ...]

    def place(self, frequency: Sequence[int], imaginary: bool = False) -> int:
        """Which row is the vector of a frequency, or of its mirror, which has the same one.

        Args:
            frequency: along each axis, modulo the size.
            imaginary: of which part.

        Raises:
            InputError: it has no such vector.

        Example:
            >>> from pullback.anisotropy import fourier_basis
            >>> basis = fourier_basis((8, 8))
            >>> basis.place((0, 2)) == basis.place((0, -2))
            True
        """
        sizes, wanted = torch.tensor(self.shape), torch.tensor(tuple(frequency))
        if len(wanted) == len(sizes):
            pair = torch.stack([wanted, -wanted]) % sizes
            same = (self.frequencies[:, None] % sizes == pair).all(2).any(1)
            rows = (same & (self.imaginary == imaginary)).nonzero()
            if len(rows):
                return int(rows[0])
        part = "imaginary" if imaginary else "real"
        raise InputError(
            f"frequency: {tuple(frequency)} has no vector of its {part} part for inputs "
            f"{self.shape}; give one number an axis (frequencies that are their own mirrors have "
            "no imaginary part)"
        )

    def map(self, values: Float[Tensor, " k"], imaginary: bool = False) -> Float[Tensor, "..."]:
        """Numbers of the vectors of real (or imaginary) parts as an image of their frequencies.

        Zero frequency stands in the middle, at n // 2; mirrors have the same number, and there is
        NaN where there is none.

        Args:
            values: for each vector of that kind, in their order.
            imaginary: which kind.

        Raises:
            InputError: not as many values.
        """
        own = self.frequencies[self.imaginary == imaginary]
        if len(own) != len(values):
            raise InputError(f"values: {len(values)} for {len(own)} vectors of this kind")
        found = torch.full(self.shape, torch.nan, dtype=values.dtype)
        sizes = torch.tensor(self.shape)
        for sign in (1, -1):
            found[tuple(((sign * own + sizes // 2) % sizes).T)] = values
        return found


def fourier_basis(shape: Sequence[int]) -> FourierBasis:
    """The real, orthonormal Fourier vectors of signals (n,) or images (h, w) of any size.

    For an even number n a side there are `(n^2 + 4) / 2` of real and `(n^2 - 4) / 2` of imaginary
    parts: 514 and 510 for 32 x 32.

    Raises:
        InputError: the shape is not one of a signal or an image.

    Source:
        Ortiz-Jimenez et al. 2020, appendix A.2.1; the printed formula has the norm sqrt(2) at the
        frequencies that are their own mirrors, and is divided by it here.

    Example:
        >>> from pullback.anisotropy import fourier_basis
        >>> basis = fourier_basis((4, 4))
        >>> basis.vectors.shape, int(basis.imaginary.sum())
        (torch.Size([16, 16]), 6)
    """
    if not 1 <= len(shape) <= 2 or min(shape) < 1:
        raise InputError(f"shape: {tuple(shape)}; give that of a signal (n,) or an image (h, w)")
    sizes = torch.tensor(tuple(shape))
    axes = [torch.fft.fftfreq(n, 1 / n).round().long() for n in shape]
    everything = torch.cartesian_prod(*axes).view(-1, len(shape))
    mirrors = -everything % sizes
    own = (everything % sizes == mirrors).all(1)
    # Of a frequency and its mirror the one that comes first in the order of `everything` is kept.
    strides = torch.tensor([int(sizes[place + 1 :].prod()) for place in range(len(shape))])
    halves = ~own & ((everything % sizes) @ strides < mirrors @ strides)
    real, imaginary = everything[own | halves], everything[halves]
    vectors = torch.cat([_waves(real, shape, 0.0), _waves(imaginary, shape, 0.25)])
    kinds = torch.arange(len(vectors)) >= len(real)
    return FourierBasis(vectors, torch.cat([real, imaginary]), kinds, tuple(shape))


def _waves(
    frequencies: Int[Tensor, "k a"], shape: Sequence[int], shift: float
) -> Float[Tensor, "k D"]:
    """Cosines of these frequencies, by a quarter turn sines, of length 1."""
    places = torch.cartesian_prod(*[torch.arange(n, dtype=torch.float64) / n for n in shape])
    turns = frequencies.double() @ places.view(-1, len(shape)).T
    waves = torch.cos(2 * torch.pi * (turns - shift))
    return (waves / waves.norm(dim=1, keepdim=True)).to(torch.get_default_dtype())


def random_basis(size: int, seed: int = 0) -> Float[Tensor, "D D"]:
    """A random orthonormal basis, uniform over all: one vector a row.

    Raises:
        InputError: not at least one dimension.

    Source:
        Ortiz-Jimenez et al. 2020, appendix A.3.

    Example:
        >>> import torch
        >>> from pullback.anisotropy import random_basis
        >>> basis = random_basis(16)
        >>> torch.allclose(basis @ basis.T, torch.eye(16), atol=1e-6)
        True
    """
    if size < 1:
        raise InputError(f"size: {size}; give at least 1")
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).T.contiguous().to(torch.get_default_dtype())


def check_basis(vectors: Tensor, size: int, argument: str = "basis") -> None:
    """That some rows are orthonormal vectors of a space.

    Raises:
        InputError: they are not.
    """
    if vectors.ndim != 2 or vectors.shape[1] != size:
        raise InputError(
            f"{argument}: shape {tuple(vectors.shape)}; give vectors of {size} numbers, one a row"
        )
    wide = vectors.double()
    off = float((wide @ wide.T - torch.eye(len(wide), dtype=torch.float64)).abs().max())
    if not off <= 1e-4:
        raise InputError(f"{argument}: not orthonormal; products are off by up to {off:.2g}")
