"""Max pooling without gradients: PyTorch's own keeps the places of the maxima, which takes long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

LARGEST = 5  # side of a window; with larger ones there are too many slices
MANY = 32  # channels; where they are last in memory PyTorch's own takes them together


class QuickPooling(TorchFunctionMode):
    """Max pooling of images as a maximum of slices: the same numbers, several times as fast.

    What is padded, dilated, or quick anyway is left alone. For use under `torch.no_grad()`: where
    numbers tie, the gradient would be another one.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func in (F.max_pool2d, torch.max_pool2d):
            found = _pooled(*args, **named)
            return func(*args, **named) if found is None else found
        return func(*args, **named)


def _pooled(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:
    """The maxima; None where slices do not give them, or not sooner."""
    windows = _pair(kernel_size)
    strides = _pair(stride) if stride else windows
    plain = not ceil_mode and not return_indices and _pair(padding) == (0, 0)
    fits = all(window <= size for window, size in zip(windows, input.shape[-2:], strict=True))
    slow = max(windows) <= LARGEST and not (input.stride(-3) == 1 and input.shape[-3] >= MANY)
    if not (plain and fits and slow and _pair(dilation) == (1, 1)):
        return None
    for axis, window, step in zip((-2, -1), windows, strides, strict=True):
        parts = input.unfold(axis, window, step).unbind(-1)
        input = parts[0]
        for part in parts[1:]:
            input = torch.maximum(input, part)
    return input


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
