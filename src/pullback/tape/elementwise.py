"""Elementwise operations: the scale and shift of normalisation layers, and parameters added.

Layouts of the former: `x` (e, n, t) is the normalised input and `g` k gradients (e, n, t), for e
elements of the scale and t positions that share each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.linalg import sum_over_positions
from pullback.parameters import accumulation_dtype
from pullback.tape.use import Gradients, SavedInput, Use


class ScaleUse(Use):
    """A use `weight * normalised(x) + bias`.

    Args:
        weight, bias: their names, or None.
        shape: the shape of both.
        x: the operation's input, with the samples in front.
        normalise: the operation without scale and shift.
        channels_first: whether the scale runs along dimension 1 (batch, group and instance norm)
            or along the last ones (layer and RMS norm).
    """

    way = "normalisation"

    def __init__(
        self,
        weight: str | None,
        bias: str | None,
        shape: torch.Size,
        x: Tensor,
        normalise: Callable[[Tensor], Tensor],
        channels_first: bool,
    ) -> None:
        self.weight, self.bias, self.shape = weight, bias, shape
        self.names = tuple(name for name in (weight, bias) if name is not None)
        self._x = SavedInput(x)
        self._normalise = normalise
        self._channels_first = channels_first
        self.dtype = accumulation_dtype(x.dtype)

    def _laid_out(self, values: Tensor) -> Float[Tensor, "e n t"]:
        values = values.to(self.dtype)
        elements = math.prod(self.shape)
        if self._channels_first:
            return values.reshape(len(values), elements, -1).transpose(0, 1)
        return values.reshape(len(values), -1, elements).permute(2, 0, 1)

    def lay_out(self, gradient: Tensor) -> Float[Tensor, "e n t"]:
        return self._laid_out(gradient)

    @property
    def floats(self) -> tuple[int, int]:
        count = self._x.get()[0].numel()
        return count, count

    @cached_property
    def _normalised(self) -> Float[Tensor, "e n t"]:
        """The normalised input, for all cotangents."""
        return self._laid_out(self._normalise(self._x.get()))

    def release(self) -> None:
        self.__dict__.pop("_normalised", None)

    def per_sample(self, g: Gradients) -> dict[str, Tensor]:
        out = {}
        if self.weight is not None:
            x = self._normalised
            out[self.weight] = self._per_parameter([sum_over_positions(one * x) for one in g])
        if self.bias is not None:
            out[self.bias] = self._per_parameter([sum_over_positions(one) for one in g])
        return out

    def _per_parameter(self, values: list[Float[Tensor, "e n"]]) -> Float[Tensor, "k n *shape"]:
        stacked = torch.stack([value.T for value in values])
        return stacked.reshape(*stacked.shape[:2], *self.shape)


class ShiftUse(Use):
    """A use `x + shift`: learned positions, a bias by hand.

    Here `g` is k gradients (n, *shape), the sums over what shares an element of the shift.

    Args:
        shift: its name.
        shape: its shape.
        dtype: its precision.
    """

    way = "addition"

    def __init__(self, shift: str, shape: torch.Size, dtype: torch.dtype) -> None:
        self.names = (shift,)
        self.shape = shape
        self.dtype = accumulation_dtype(dtype)

    def lay_out(self, gradient: Tensor) -> Float[Tensor, "n *shape"]:
        values = gradient.to(self.dtype)
        own = self.shape[1:] if len(self.shape) == values.ndim else self.shape
        between = (1,) * (values.ndim - 1 - len(own))
        return values.sum_to_size(len(values), *between, *own).reshape(len(values), *self.shape)

    @property
    def floats(self) -> tuple[int, int]:
        return 0, math.prod(self.shape)

    def per_sample(self, g: Gradients) -> dict[str, Tensor]:
        return {self.names[0]: torch.stack(g)}
