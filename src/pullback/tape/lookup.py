"""Embeddings: rows of a table, looked up by index; a sample touches few of them.

Layout: `g` (k, n, t, e), e numbers a row, t look-ups a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pullback.parameters import accumulation_dtype
from pullback.tape.use import SavedInput, Use


class LookupUse(Use):
    """A use `table[indices]`.

    Args:
        table: the name of the table.
        shape: its shape (rows, e).
        dtype: its precision.
        indices: what is looked up, with the samples in front.
        padding: a row that receives no gradient, or None.
    """

    way = "embedding"

    def __init__(
        self,
        table: str,
        shape: torch.Size,
        dtype: torch.dtype,
        indices: Int[Tensor, "n ..."],
        padding: int | None,
    ) -> None:
        self.names = (table,)
        self.shape, self._padding = shape, padding
        self.dtype = accumulation_dtype(dtype)
        self._indices = SavedInput(indices)

    def stack(self, gradients: Sequence[Tensor]) -> Float[Tensor, "k n t e"]:
        return torch.stack([g.to(self.dtype).reshape(len(g), -1, g.shape[-1]) for g in gradients])

    @property
    def floats(self) -> tuple[int, int]:
        count = self._indices.get()[0].numel()
        return count, count * self.shape[1]

    @cached_property
    def _touched(self) -> tuple[Tensor, Tensor, Tensor]:
        """The distinct (sample, row) pairs, and which of them each look-up belongs to."""
        indices = self._indices.get()
        indices = indices.reshape(len(indices), -1)
        samples = torch.arange(len(indices), device=indices.device).unsqueeze(1)
        keys, places = torch.unique(samples * self.shape[0] + indices, return_inverse=True)
        return keys // self.shape[0], keys % self.shape[0], places.flatten()

    def _summed(self, g: Tensor) -> Float[Tensor, "k s e"]:
        """The gradient of each touched row in each sample."""
        samples, rows, places = self._touched
        flat = g.flatten(1, 2)
        total = flat.new_zeros(len(g), len(samples), self.shape[1]).index_add_(1, places, flat)
        if self._padding is not None:
            total[:, rows == self._padding] = 0
        return total

    def per_sample(self, g: Tensor) -> dict[str, Tensor]:
        samples, rows, _ = self._touched
        out = g.new_zeros(g.shape[0], g.shape[1], *self.shape)
        out[:, samples, rows] = self._summed(g)
        return {self.names[0]: out}

    def squared_norm(self, g: Tensor) -> Tensor:
        samples, _, _ = self._touched
        squares = self._summed(g).square().sum((0, 2))
        return g.new_zeros(g.shape[1]).index_add_(0, samples, squares)

    def diagonal(self, g: Tensor) -> dict[str, Tensor]:
        _, rows, _ = self._touched
        squares = self._summed(g).square().sum(0)
        return {self.names[0]: g.new_zeros(self.shape).index_add_(0, rows, squares)}
