"""Embeddings: rows of a table, looked up by index; a sample touches few of them.

Layout: `g` holds k tensors (n, t, e), e numbers a row, t look-ups a sample.
"""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pullback.parameters import accumulation_dtype
from pullback.tape.use import Gradients, SavedInput, Use


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

    def lay_out(self, gradient: Tensor) -> Float[Tensor, "n t e"]:
        return gradient.to(self.dtype).reshape(len(gradient), -1, gradient.shape[-1])

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

    def _summed(self, g: Gradients) -> Float[Tensor, "k s e"]:
        """The gradient of each touched row in each sample."""
        samples, rows, places = self._touched
        total = g[0].new_zeros(len(g), len(samples), self.shape[1])
        for target, one in zip(total, g, strict=True):
            target.index_add_(0, places, one.flatten(0, 1))
        if self._padding is not None:
            total[:, rows == self._padding] = 0
        return total

    def per_sample(self, g: Gradients) -> dict[str, Tensor]:
        samples, rows, _ = self._touched
        out = g[0].new_zeros(len(g), len(g[0]), *self.shape)
        out[:, samples, rows] = self._summed(g)
        return {self.names[0]: out}

    def squared_norm(self, g: Gradients) -> Tensor:
        samples, _, _ = self._touched
        squares = self._summed(g).square().sum((0, 2))
        return g[0].new_zeros(len(g[0])).index_add_(0, samples, squares)

    def diagonal(self, g: Gradients) -> dict[str, Tensor]:
        _, rows, _ = self._touched
        squares = self._summed(g).square().sum(0)
        return {self.names[0]: g[0].new_zeros(self.shape).index_add_(0, rows, squares)}
