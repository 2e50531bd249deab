"""The architecture of a look at directions: built in, or the user's own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial

from torch import nn

from pullback.anisotropy.population import MakeModel
from pullback.errors import InputError
from pullback.report import user_code
from pullback.report.anisotropy.settings import AnisotropySettings

Shape = tuple[int, ...]


def lenet(shape: Shape, outputs: int) -> nn.Module:
    """Two convolutions without padding, max pooling, and three linear layers.

    Raises:
        InputError: an input is not an image, or too small.
    """
    if len(shape) != 3 or min(shape[1:]) < 16:
        raise InputError(f"shape: {shape}; lenet takes images (c, h, w) with sides from 16 on")
    height, width = (((side - 4) // 2 - 4) // 2 for side in shape[1:])
    return nn.Sequential(
        nn.Conv2d(shape[0], 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * height * width, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, outputs),
    )  # fmt: skip


def logistic_regression(shape: Shape, outputs: int) -> nn.Module:
    """A linear layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), outputs))


BUILT_IN: dict[str, Callable[[Shape, int], nn.Module]] = {
    "logistic-regression": logistic_regression,
    "lenet": lenet,
}


def factory(settings: AnisotropySettings) -> MakeModel:
    """What draws a network: a built-in architecture, or FILE.py:function.

    A built-in one has as many outputs as the settings name.

    Raises:
        InputError: an unknown name, or a file without that function.
    """
    name, read_out = settings.model, settings.read_out
    if user_code.names_a_function(name):
        function = user_code.load_function("model", name)
        arguments = (settings.sizes,) if _needs_one(function) else ()
        return partial(user_code.call, "model", function, *arguments)
    if name not in BUILT_IN:
        raise InputError(
            f"model: {name!r} is unknown; choose one of {sorted(BUILT_IN)} or write "
            "FILE.py:function"
        )
    highest = max(read_out) if isinstance(read_out, tuple) else read_out or 0
    return partial(BUILT_IN[name], settings.sizes, highest + 1)


def _needs_one(function: Callable[..., object]) -> bool:
    """Whether a function cannot be called without an argument."""
    needed = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return len(needed) == 1
