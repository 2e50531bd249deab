"""Gradients of random networks, and what the spaces of their directions are like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.anisotropy import models
from pullback.anisotropy.gradients import GradientCovariance
from pullback.anisotropy.population import Population
from pullback.kernels.spectra import effective_rank
from pullback.report.numbers import rounded

FIRST = 10  # directions that are looked at
PICTURES = 3
SPACING = 4  # of the combs: three strides of 2 on images with 32 pixels a side
LESS = 0.999  # how much of a transposed gradient counts
AT_ONCE = 10  # networks that are drawn together


@dataclass(frozen=True)
class Architecture:
    """Of which random networks, and how many.

    Attributes:
        name: one of `models.ARCHITECTURES`.
        width: a factor of its numbers of channels and hidden units.
        networks: random ones, an even number; half of them are compared with the other half.
    """

    name: str
    width: int | float
    networks: int


def gradients(
    drawn: Architecture,
    at: Float[Tensor, "c h w"],
    step: int | float,
    seed: int,
    advance: Callable[[int], None] = lambda done: None,
) -> Float[Tensor, "t D"]:
    """Those of random networks by the input, by finite differences: one a row."""
    make = partial(models.ARCHITECTURES[drawn.name], at.shape, 1, width=drawn.width)
    population = Population(make, at.shape, seed=seed, at_most=AT_ONCE)
    measured = GradientCovariance(population, drawn.networks, at, step)
    parts = []
    for place, count in enumerate(measured.weights()):
        parts.append(measured.rows(population.stack(place), count).double())
        advance(count)
    return torch.cat(parts)


def with_images(
    rows: Float[Tensor, "t D"], shape: Sequence[int], mirrored: bool
) -> Float[Tensor, "s D"]:
    """Gradients together with their transposed images, and those with both axes turned round too.

    They are those of networks with transposed or mirrored weights, which are as likely as the
    networks themselves; only the input stays, beside which the step is large. All images of a
    network stand together.

    Args:
        rows: the gradients.
        shape: of an input.
        mirrored: whether the architecture has such networks; with strides it has not.
    """
    found = rows.view(-1, 1, *shape[-2:])
    # With all of them a direction and its transposed image would be as good as their mixtures.
    found = torch.cat([found, LESS * found.transpose(2, 3)], 1)
    if mirrored:
        for axis in (2, 3):
            found = torch.cat([found, found.flip(axis)], 1)
    return found.reshape(-1, rows.shape[1])


def components(
    rows: Float[Tensor, "t D"],
) -> tuple[Float[Tensor, " r"], Float[Tensor, "r D"]]:
    """The mean square along each direction, falling, and the directions, as many as are known."""
    _, scales, vectors = torch.linalg.svd(rows, full_matrices=False)
    return scales.square() / len(rows), vectors


def looked_at(
    values: Float[Tensor, " r"], vectors: Float[Tensor, "r D"], shape: Sequence[int]
) -> dict[str, Any]:
    """What the first directions of an architecture are like."""
    images = vectors[:FIRST].view(-1, *shape[-2:])
    energy = torch.fft.fft2(images, norm="ortho").abs().square()
    return {
        "pixels": rounded(images[:PICTURES], 3),
        "shares": rounded(values[:PICTURES] / values.sum()),
        "spread": rounded(1 / energy.square().sum((1, 2))),
        "comb": rounded(comb_share(energy, SPACING)),
        "frequency": rounded(mean_frequency(energy)),
        "rank": effective_rank(values),
    }


def comb_share(energy: Float[Tensor, "k h w"], spacing: int) -> Float[Tensor, " k"]:
    """The share of the energy on the best of all combs of frequencies with a spacing."""
    combs = [
        energy[:, row::spacing, column::spacing].sum((1, 2))
        for row in range(spacing)
        for column in range(spacing)
    ]
    return torch.stack(combs).amax(0) / energy.sum((1, 2))


def mean_frequency(energy: Float[Tensor, "k h w"]) -> Float[Tensor, " k"]:
    """In cycles an image, weighted by energy."""
    axes = [torch.fft.fftfreq(n, 1 / n, dtype=energy.dtype) for n in energy.shape[1:]]
    radius = (axes[0].square()[:, None] + axes[1].square()).sqrt()
    return (energy * radius).sum((1, 2)) / energy.sum((1, 2))


def elsewhere(one: Float[Tensor, "s D"], other: Float[Tensor, "t D"]) -> Float[Tensor, " r"]:
    """How much of the gradients of other networks lies along the first k directions, for each k.

    A share of the whole, the mean of both ways round. The networks that gave the directions do not
    count, because along these they have more than others.
    """
    count = min(len(one), len(other))
    ways = []
    for own, others in ((one, other), (other, one)):
        along = (others @ components(own)[1][:count].T).square().mean(0)
        ways.append(along.cumsum(0) / others.square().sum(1).mean())
    return (ways[0] + ways[1]) / 2


def alike(one: Float[Tensor, "r D"], other: Float[Tensor, "s D"], count: int) -> float:
    """The mean squared cosine of the spaces of the first directions."""
    return float((one[:count] @ other[:count].T).square().sum() / count)
