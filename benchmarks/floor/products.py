"""Matrix products that the contractions share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CACHE_FLOATS = 300_000
"""Floats of a product's output that stays in cache between being written and being squared."""
GRAM_WIDTH = 64
"""Columns of a symmetric product computed at a time: 32 to 128 are alike, 1.6 times the whole."""


def slab(o: int, i: int) -> int:
    """How many per-sample products (o, i) stay in cache together."""
    return max(1, CACHE_FLOATS // (o * i))


def in_cache(g: Tensor, u: Tensor, buffer: Tensor) -> Iterator[Tensor]:
    """Per-sample products g^T u, (m, o, i), of g (n, T, o) and u (n, T, i), m samples at a time.

    Each is written into `buffer` (m, o, i), small enough to be read again from cache, and is valid
    until the next one.
    """
    left = g.transpose(1, 2)
    for start in range(0, len(g), len(buffer)):
        out = buffer[: min(len(buffer), len(g) - start)]
        stop = start + len(out)
        yield torch.bmm(left[start:stop], u[start:stop], out=out)


def add_gram(total: Tensor, rows: Tensor) -> None:
    """Add rows^T rows, only the block upper triangle: `fill_lower` completes it."""
    size = rows.shape[1]
    width = size if size < 128 else GRAM_WIDTH
    for start in range(0, size, width):
        stop = start + width
        total[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])


def fill_lower(total: Tensor) -> Tensor:
    """Copy the upper triangle below the diagonal."""
    upper = torch.triu(total)
    return upper + torch.triu(total, 1).T
