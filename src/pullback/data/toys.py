"""Toy tasks, small enough to look at or to solve: points, their labels, samples of one feature."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pullback.errors import InputError

DISK = math.sqrt(2 / math.pi)  # of this radius it covers half of the square
YIN_YANG = ((0.5, -0.5), (-0.5, 0.5))  # centres of the two small disks
YIN_YANG_RADIUS = 0.3


def uniform_points(n: int, dimensions: int = 2, seed: int = 0) -> Float[Tensor, "n d"]:
    """Points drawn uniformly from [-1, 1] in each dimension.

    Raises:
        InputError: a number is not positive.

    Example:
        >>> from pullback.data import uniform_points
        >>> uniform_points(100).shape
        torch.Size([100, 2])
    """
    if n < 1 or dimensions < 1:
        raise InputError(f"n, dimensions: {n}, {dimensions}; give numbers of at least 1")
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(n, dimensions, generator=generator) - 1


def grid_points(side: int, dimensions: int = 2) -> Float[Tensor, "n d"]:
    """The points of a uniform grid on [-1, 1], ends included, row by row.

    Raises:
        InputError: fewer than two points a side, or no dimension.

    Example:
        >>> from pullback.data import grid_points
        >>> grid_points(3, dimensions=1).squeeze(1)
        tensor([-1.,  0.,  1.])
    """
    if side < 2 or dimensions < 1:
        raise InputError(f"side, dimensions: {side}, {dimensions}; give at least 2 and 1")
    line = torch.linspace(-1, 1, side)
    return torch.cartesian_prod(*[line] * dimensions).view(-1, dimensions)


def disk_labels(points: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """1 in the disk about 0 that covers half of the square, -1 around it.

    Source:
        George 2023, figure 6.1.
    """
    return torch.where(points.norm(dim=1) <= DISK, 1.0, -1.0)


def yin_yang_labels(points: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """-1 above the horizontal axis and 1 below, turned round in a small disk in each half.

    Source:
        George 2023, figure 5.1; the disks are those of its published code.

    Example:
        >>> import torch
        >>> from pullback.data import yin_yang_labels
        >>> yin_yang_labels(torch.tensor([[0.5, 0.9], [-0.5, 0.5], [0.9, -0.9], [0.5, -0.5]]))
        tensor([-1.,  1.,  1., -1.])
    """
    side = torch.where(points[:, 1] > 0, -1.0, 1.0)
    centres = torch.tensor(YIN_YANG).to(points)
    inside = (torch.cdist(points, centres) <= YIN_YANG_RADIUS).any(1)
    return torch.where(inside, -side, side)


def opposed_modes(mu: Float[Tensor, " n"]) -> tuple[Float[Tensor, "n n"], Float[Tensor, " n"]]:
    """Samples along the axes, whose targets ask most for what the inputs make small.

    `x_i = sqrt(mu_i) e_i` and `y_i = mu_(n-i+1) / sqrt(mu_i)`: a model that is linear in its
    parameters learns them in the order of mu, one that is quadratic in the opposite order.

    Args:
        mu: squared lengths of the inputs, positive and falling.

    Returns:
        Inputs (n, n) and targets (n,).

    Raises:
        InputError: mu is not positive and falling.

    Source:
        George 2023, eq. 5.4.9 (example 1).

    Example:
        >>> import torch
        >>> from pullback.data import opposed_modes
        >>> inputs, targets = opposed_modes(torch.tensor([4.0, 1.0]))
        >>> inputs, targets
        (tensor([[2., 0.],
                [0., 1.]]), tensor([0.5000, 4.0000]))
    """
    if not len(mu) or not bool((mu > 0).all()) or not bool((mu.diff() < 0).all()):
        raise InputError(f"mu: {mu.tolist()}; give positive, falling numbers")
    return mu.sqrt().diag(), mu.flip(0) / mu.sqrt()


@dataclass(frozen=True, eq=False)
class SharedFeature:
    """Samples that share a feature, of which some go against it. Made by `shared_feature`.

    Attributes:
        inputs: shape (n, n + 2).
        labels: 1 and -1 in turn, shape (n,).
        against: which samples have the shared feature the wrong way round, shape (n,).
    """

    inputs: Float[Tensor, "n d"]
    labels: Float[Tensor, " n"]
    against: Bool[Tensor, " n"]


def shared_feature(
    n: int, against: int, own: int | float, second: int | float = 0.0
) -> SharedFeature:
    """Samples with one feature for most of them, and one of their own each.

    `x_i = kappa_i y_i e_1 + second y_i e_2 + own e_(i+2)`, with `kappa_i` 1, or -1 for the last
    `against` samples. Without a second feature these are samples with wrong labels: what the
    others share says the opposite. With one, which holds for all, the first is a shortcut that
    misleads on some.

    Args:
        n: samples.
        against: how many of them have `kappa = -1`.
        own: the size of the feature that a sample shares with no other.
        second: the size of the feature that is always right.

    Raises:
        InputError: not `0 <= against <= n`, no sample, or a size that is negative.

    Source:
        George 2023, eqs. 5.4.10 to 5.4.12 (examples 2 and 3).

    Example:
        >>> from pullback.data import shared_feature
        >>> found = shared_feature(3, against=1, own=1.0)
        >>> found.inputs
        tensor([[ 1.,  0.,  1.,  0.,  0.],
                [-1., -0.,  0.,  1.,  0.],
                [-1.,  0.,  0.,  0.,  1.]])
    """
    if n < 1 or not 0 <= against <= n or own < 0 or second < 0:
        raise InputError(
            f"n, against, own, second: {n}, {against}, {own}, {second}; give samples, at most as "
            "many against, and sizes that are not negative"
        )
    labels = torch.ones(n)
    labels[1::2] = -1
    wrong = torch.arange(n) >= n - against
    shared = torch.where(wrong, -labels, labels)
    inputs = torch.cat([torch.stack([shared, second * labels], 1), own * torch.eye(n)], 1)
    return SharedFeature(inputs, labels, wrong)
