"""Points in the plane and on a line, and the labels of toy tasks: small enough to look at."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
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
