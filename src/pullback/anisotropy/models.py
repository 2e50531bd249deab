"""The architectures whose directions are studied, with and without pooling, at any width.

Weights are drawn as PyTorch does unless said otherwise, from its global generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from pullback.errors import InputError

IMAGE = (1, 32, 32)
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class Architecture(Protocol):
    """Makes a new network; what an architecture does not have changes nothing.

    Args of each:
        shape: of one input, (channels, height, width).
        outputs: how many.
        pooling: whether layers that pool, those over the whole image too, are there; without them
            the linear layer behind gets more inputs.
        width: a factor of the numbers of channels and hidden units.
        activation: "relu" or "gelu".

    Raises:
        InputError: a name that is unknown, a number out of range, or images that are too small.
    """

    def __call__(
        self,
        shape: Sequence[int] = IMAGE,
        outputs: int = 1,
        pooling: bool = True,
        width: int | float = 1.0,
        activation: str = "relu",
    ) -> nn.Module:
        """The network."""
        ...


def logistic_regression(
    shape: Sequence[int] = IMAGE,
    outputs: int = 1,
    pooling: bool = True,
    width: int | float = 1.0,
    activation: str = "relu",
) -> nn.Module:
    """One linear layer, for inputs of any shape. See `Architecture`."""
    _checked(shape, outputs, width, activation)
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), outputs))


def perceptron(
    shape: Sequence[int] = IMAGE,
    outputs: int = 1,
    pooling: bool = True,
    width: int | float = 1.0,
    activation: str = "relu",
) -> nn.Module:
    """Three hidden layers of 500 units, for inputs of any shape. See `Architecture`.

    Source:
        Ortiz-Jimenez et al. 2020, appendix D.3.
    """
    nonlinear = _checked(shape, outputs, width, activation)
    size, hidden = torch.Size(shape).numel(), _scaled(500, width)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(size, hidden), nonlinear(),
        nn.Linear(hidden, hidden), nonlinear(), nn.Linear(hidden, hidden), nonlinear(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


def lenet(
    shape: Sequence[int] = IMAGE,
    outputs: int = 1,
    pooling: bool = True,
    width: int | float = 1.0,
    activation: str = "relu",
) -> nn.Module:
    """LeNet-5 with convolutions that do not pad, and max pooling. See `Architecture`.

    Source:
        LeCun et al. 1998, as in the published code of Ortiz-Jimenez et al. 2020.

    Example:
        >>> from pullback.anisotropy import models
        >>> sum(one.numel() for one in models.lenet(outputs=2).parameters())
        61026
    """
    nonlinear = _checked(shape, outputs, width, activation)
    channels, *sides = _image(shape, smallest=16 if pooling else 9)
    sides = [((side - 4) // 2 - 4) // 2 if pooling else side - 8 for side in sides]
    first, second, third, fourth = (_scaled(count, width) for count in (6, 16, 120, 84))
    return nn.Sequential(
        nn.Conv2d(channels, first, 5), nonlinear(), *_max_pool(pooling),
        nn.Conv2d(first, second, 5), nonlinear(), *_max_pool(pooling),
        nn.Flatten(), nn.Linear(second * sides[0] * sides[1], third), nonlinear(),
        nn.Linear(third, fourth), nonlinear(), nn.Linear(fourth, outputs),
    )  # fmt: skip


def vgg11(
    shape: Sequence[int] = IMAGE,
    outputs: int = 1,
    pooling: bool = True,
    width: int | float = 1.0,
    activation: str = "relu",
) -> nn.Module:
    """VGG-11 with batch norm, and dropout before two hidden layers of 512. See `Architecture`.

    Convolutions are drawn from a normal distribution with variance 2/n, n the fan-out, and have no
    biases to begin with.

    Source:
        Simonyan and Zisserman 2015, as in the published code of Ortiz-Jimenez et al. 2020.
    """
    nonlinear = _checked(shape, outputs, width, activation)
    before, *sides = _image(shape, smallest=32 if pooling else 1)
    layers: list[nn.Module] = []
    for stage in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
        for channels in (_scaled(count, width) for count in stage):
            convolution = nn.Conv2d(before, channels, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
            layers += [convolution, nn.BatchNorm2d(channels), nonlinear()]
            before = channels
        layers += _max_pool(pooling)
    places = (sides[0] // 32) * (sides[1] // 32) if pooling else sides[0] * sides[1]
    hidden = _scaled(512, width)
    return nn.Sequential(
        *layers, nn.Flatten(),
        nn.Dropout(), nn.Linear(before * places, hidden), nonlinear(),
        nn.Dropout(), nn.Linear(hidden, hidden), nonlinear(), nn.Linear(hidden, outputs),
    )  # fmt: skip


def resnet18(
    shape: Sequence[int] = IMAGE,
    outputs: int = 1,
    pooling: bool = True,
    width: int | float = 1.0,
    activation: str = "relu",
) -> nn.Module:
    """ResNet-18 for small images: its first convolution keeps their size. See `Architecture`.

    Strides are no pooling, and stay without it.

    Source:
        He et al. 2016, as in the published code of Ortiz-Jimenez et al. 2020.
    """
    nonlinear = _checked(shape, outputs, width, activation)
    channels, *sides = _image(shape, smallest=1)
    before = _scaled(64, width)
    layers = [_convolution(channels, before), nn.BatchNorm2d(before), nonlinear()]
    for count, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        after = _scaled(count, width)
        layers.append(_ResidualBlock(before, after, stride, nonlinear))
        layers.append(_ResidualBlock(after, after, 1, nonlinear))
        before = after
    places = -(-sides[0] // 8) * -(-sides[1] // 8)
    return nn.Sequential(*layers, *_read_out(before, places, outputs, pooling))


def densenet121(
    shape: Sequence[int] = IMAGE,
    outputs: int = 1,
    pooling: bool = True,
    width: int | float = 1.0,
    activation: str = "relu",
) -> nn.Module:
    """DenseNet-121 for small images: its first convolution keeps their size. See `Architecture`.

    Each layer adds 32 channels (times the width), by way of four times as many; between blocks
    the channels are halved, and the sides too where there is pooling.

    Source:
        Huang et al. 2017, as in the published code of Ortiz-Jimenez et al. 2020.
    """
    nonlinear = _checked(shape, outputs, width, activation)
    channels, *sides = _image(shape, smallest=8 if pooling else 1)
    growth = _scaled(32, width)
    before = 2 * growth
    layers: list[nn.Module] = [_convolution(channels, before)]
    for place, count in enumerate((6, 12, 24, 16)):
        if place:
            layers += [nn.BatchNorm2d(before), nonlinear(), _convolution(before, before // 2, 1)]
            layers += [nn.AvgPool2d(2)] * pooling
            before //= 2
        for _ in range(count):
            layers.append(_DenseLayer(before, growth, nonlinear))
            before += growth
    layers += [nn.BatchNorm2d(before), nonlinear()]
    places = sides[0] * sides[1]
    return nn.Sequential(*layers, *_read_out(before, places, outputs, pooling))


ARCHITECTURES: dict[str, Architecture] = {
    "logistic-regression": logistic_regression,
    "perceptron": perceptron,
    "lenet": lenet,
    "vgg11": vgg11,
    "resnet18": resnet18,
    "densenet121": densenet121,
}


class _ResidualBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int, nonlinear: type[nn.Module]) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            _convolution(before, after, 3, stride), nn.BatchNorm2d(after), nonlinear(),
            _convolution(after, after), nn.BatchNorm2d(after),
        )  # fmt: skip
        # Only where the sizes differ does the published architecture convolve the other way too.
        same = stride == 1 and before == after
        self.skip = (
            nn.Identity()
            if same
            else nn.Sequential(_convolution(before, after, 1, stride), nn.BatchNorm2d(after))
        )
        self.last = nonlinear()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.inner(x) + self.skip(x))
        return result


class _DenseLayer(nn.Module):
    """Adds channels to those there are."""

    def __init__(self, before: int, growth: int, nonlinear: type[nn.Module]) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.BatchNorm2d(before), nonlinear(), _convolution(before, 4 * growth, 1),
            nn.BatchNorm2d(4 * growth), nonlinear(), _convolution(4 * growth, growth),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.inner(x), x], 1)


def _convolution(before: int, after: int, size: int = 3, stride: int = 1) -> nn.Module:
    return nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)


def _max_pool(pooling: bool) -> list[nn.Module]:
    return [nn.MaxPool2d(2)] if pooling else []


def _read_out(channels: int, places: int, outputs: int, pooling: bool) -> list[nn.Module]:
    """From feature maps of so many places to the outputs."""
    if pooling:
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs)]
    return [nn.Flatten(), nn.Linear(channels * places, outputs)]


def _scaled(count: int, width: int | float) -> int:
    return max(1, round(count * width))


def _checked(
    shape: Sequence[int], outputs: int, width: int | float, activation: str
) -> type[nn.Module]:
    """The kind of activation."""
    if activation not in ACTIVATIONS:
        raise InputError(f"activation: {activation!r}; choose one of {', '.join(ACTIVATIONS)}")
    if outputs < 1 or not 0 < width < float("inf"):
        raise InputError(
            f"outputs, width: {outputs}, {width}; give at least one output and a positive width"
        )
    if not shape or min(shape) < 1:
        raise InputError(
            f"shape: {tuple(shape)}; give that of one input, (channels, height, width)"
        )
    return ACTIVATIONS[activation]


def _image(shape: Sequence[int], smallest: int) -> Sequence[int]:
    if len(shape) != 3 or min(shape[1:]) < smallest:
        raise InputError(
            f"shape: {tuple(shape)}; give (channels, height, width) with sides of at least "
            f"{smallest}"
        )
    return shape
