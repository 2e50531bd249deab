"""The network of a report: built in or the user's own, and the weights it starts from."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pullback.errors import InputError
from pullback.report import user_code
from pullback.report.numbers import Layer

Shape = tuple[int, ...]
Parts = list[tuple[str, nn.Module]]
Maker = Callable[[Shape, int], nn.Module]


def conv(shape: Shape, classes: int) -> nn.Module:
    """Three 3x3 convolutions, the last two of stride 2, and a linear layer on a 2x2 average.

    Small images (sides up to 16) get 6, 10 and 14 channels: 2,454 parameters for grey digits.
    Larger ones get 8, 16, 32 channels if they are grey and 16, 32, 64 if not.

    Raises:
        InputError: an input is not an image (channels, height, width).
    """
    if len(shape) != 3:
        raise InputError(f"model: 'conv' takes images (c, h, w), these inputs are {shape}; use mlp")
    if max(shape[1:]) <= 16:
        return _sequential(_conv(shape[0], (6, 10, 14), classes))
    return _sequential(_conv(shape[0], (8, 16, 32) if shape[0] == 1 else (16, 32, 64), classes))


def _conv(channels: int, widths: tuple[int, int, int], classes: int) -> Parts:
    first, second, third = widths
    return [
        ("conv1", nn.Conv2d(channels, first, 3, padding=1)),
        ("relu1", nn.ReLU()),
        ("conv2", nn.Conv2d(first, second, 3, stride=2, padding=1)),
        ("relu2", nn.ReLU()),
        ("conv3", nn.Conv2d(second, third, 3, stride=2, padding=1)),
        ("relu3", nn.ReLU()),
        ("pool", nn.AdaptiveAvgPool2d(2)),
        ("flatten", nn.Flatten()),
        ("linear", nn.Linear(4 * third, classes)),
    ]


def _sequential(parts: Parts) -> nn.Sequential:
    return nn.Sequential(OrderedDict(parts))


def mlp(shape: Shape, classes: int) -> nn.Module:
    """Two hidden layers of 32 rectified linear units."""
    return _sequential(
        [
            ("flatten", nn.Flatten()),
            ("linear1", nn.Linear(math.prod(shape), 32)),
            ("relu1", nn.ReLU()),
            ("linear2", nn.Linear(32, 32)),
            ("relu2", nn.ReLU()),
            ("linear3", nn.Linear(32, classes)),
        ]
    )


def companion(shape: Shape, classes: int) -> nn.Module:
    """A network small enough for dense matrices, for data of any shape.

    Images are averaged down to 8x8 and go through the small `conv`; other inputs are averaged down
    to at most 64 numbers and go through one hidden layer of 16 units.
    """
    if len(shape) == 3:
        parts = _conv(shape[0], (6, 10, 14), classes)
        return _sequential([("shrink", nn.AdaptiveAvgPool2d(8)), *parts])
    width = min(64, math.prod(shape))
    return _sequential(
        [
            ("flatten", nn.Flatten()),
            ("shrink", nn.AdaptiveAvgPool1d(width)),
            ("linear1", nn.Linear(width, 16)),
            ("relu1", nn.ReLU()),
            ("linear2", nn.Linear(16, classes)),
        ]
    )


BUILT_IN: dict[str, Maker] = {"conv": conv, "mlp": mlp}


def make(name: str, shape: Shape, classes: int) -> nn.Module:
    """The network that `name` asks for: a built-in one, or that of FILE.py:function.

    Raises:
        InputError: an unknown name, or a function that fails or returns something else.
    """
    if not user_code.names_a_function(name):
        if name not in BUILT_IN:
            raise InputError(
                f"model: {name!r} is unknown; choose one of {sorted(BUILT_IN)} or write "
                "FILE.py:function"
            )
        return BUILT_IN[name](shape, classes)
    function = user_code.load_function("model", name)
    arguments = (shape, classes) if _takes_two(function) else ()
    model = user_code.call("model", function, *arguments)
    if not isinstance(model, nn.Module):
        raise InputError(f"model: {name} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether a function cannot be called without two arguments."""
    needed = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return len(needed) == 2


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Read weights from a .pt or .safetensors file into the model.

    A .pt file may hold the dictionary of tensors itself, or have it under "state_dict" or "model".

    Raises:
        InputError: the file is missing or unreadable, or its names or shapes are not the model's.
    """
    if not path.is_file():
        raise InputError(f"checkpoint: there is no file {str(path)!r}")
    state = _read_state(path)
    own = model.state_dict()
    _refuse("has no values for", sorted(set(own) - set(state)), path)
    _refuse("has values the model does not have:", sorted(set(state) - set(own)), path)
    other_shape = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if state[name].shape != own[name].shape
    ]
    _refuse("has other shapes:", other_shape, path)
    model.load_state_dict(state)


UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, UnpicklingError, SafetensorError)


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        content = _read(path)
    except UNREADABLE as error:
        raise InputError(
            f"checkpoint: {path} cannot be read as weights: {user_code.one_line(error)[:200]}"
        ) from error
    if isinstance(content, Mapping):
        for key in ("state_dict", "model"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise InputError(f"checkpoint: {path} holds no dictionary of tensors; save a state_dict")
    return dict(content)


def _refuse(what: str, names: list[str], path: Path) -> None:
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise InputError(
            f"checkpoint: {path} does not match the model: it {what} {', '.join(names[:5])}{more}"
        )


def describe_layers(model: nn.Module) -> list[Layer]:
    """The layers that hold parameters of their own: name, kind, and number of parameters."""
    layers = []
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if own:
            kind = f"{type(module).__name__}({module.extra_repr()})"
            count = sum(parameter.numel() for parameter in own)
            layers.append(Layer(name=name or "(root)", kind=kind, parameters=count))
    return layers
