"""Maxima of slices against PyTorch's own max pooling."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pullback.anisotropy.pooling import QuickPooling


class Seen(TorchDispatchMode):
    """The names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def pooled(pool: nn.Module, x: Tensor) -> tuple[Tensor, bool]:
    """What comes out, and whether PyTorch's own pooling ran."""
    with torch.no_grad(), Seen() as seen, QuickPooling():
        found = pool(x)
    return found, any("max_pool" in name for name in seen.names)


@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("options", "slices"),
    [
        ({"kernel_size": 2}, True),
        ({"kernel_size": 3, "stride": 2}, True),
        ({"kernel_size": (3, 2), "stride": (1, 3)}, True),
        ({"kernel_size": 3, "stride": 2, "padding": 1}, False),
        ({"kernel_size": 2, "dilation": 2}, False),
        ({"kernel_size": 2, "ceil_mode": True}, False),
        ({"kernel_size": 6}, False),
    ],
)
def test_the_same_numbers(channels: int, last: bool, options: dict, slices: bool) -> None:
    x = torch.randn(4, channels, 9, 11)
    x[0, 0, 1, 1], x[1, 0, 2, 2] = torch.nan, torch.inf
    arranged = x.contiguous(memory_format=torch.channels_last) if last else x
    pool = nn.MaxPool2d(**options)
    found, own = pooled(pool, arranged)
    torch.testing.assert_close(found, pool(x), rtol=0, atol=0, equal_nan=True)
    assert own == (not slices or (last and channels == 40))


def test_one_image_and_a_window_that_does_not_fit() -> None:
    x = torch.randn(2, 4, 5)
    found, own = pooled(nn.MaxPool2d(2), x)
    assert torch.equal(found, nn.MaxPool2d(2)(x)) and not own
    with pytest.raises(RuntimeError, match="too small"):
        pooled(nn.MaxPool2d(5), x)


def test_places_are_given_where_they_are_asked_for() -> None:
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad(), QuickPooling():
        found, places = nn.MaxPool2d(2, return_indices=True)(x)
    expected = nn.MaxPool2d(2, return_indices=True)(x)
    assert torch.equal(found, expected[0]) and torch.equal(places, expected[1])
