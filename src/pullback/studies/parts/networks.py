"""The networks of the documents, at widths that a CPU trains too.

None has batch norm: its statistics would be frozen in the linearisation and not in the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn


class Network(Protocol):
    """Makes a network for inputs of a shape; its weights come from torch's global generator."""

    def __call__(self, shape: Sequence[int], outputs: int = 1) -> nn.Module:
        """The network, for inputs of `shape` (without the dimension of samples)."""
        ...


def perceptron(
    shape: Sequence[int], outputs: int = 1, width: int = 100, hidden: int = 2
) -> nn.Module:
    """A perceptron with ReLU, by default with two hidden layers of 100 units."""
    sizes = [torch.Size(shape).numel(), *[width] * hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


def lenet(
    shape: Sequence[int], outputs: int = 1, activation: type[nn.Module] = nn.ReLU
) -> nn.Module:
    """LeNet-5 with padding and average pooling, as in the code of Ortiz-Jimenez et al. 2021."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2), activation(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5, padding=2), activation(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(16 * (height // 4) * (width // 4), 120), activation(),
        nn.Linear(120, 84), activation(), nn.Linear(84, outputs),
    )  # fmt: skip


def resnet(shape: Sequence[int], outputs: int = 1, width: int = 8) -> nn.Module:
    """A residual network of three blocks without normalisation, then the mean over places.

    Initialised as George 2023, appendix A.3, does without batch norm: variance 2/n behind a ReLU,
    1/n where nothing is before, 0.2/n for the last layer of a block, with n the fan-in.
    """
    return nn.Sequential(
        _convolution(shape[0], width, variance=1), nn.ReLU(),
        _Block(width, width), _Block(width, 2 * width), _Block(2 * width, 4 * width),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, outputs),
    )  # fmt: skip


class _Block(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.inner = nn.Sequential(
            _convolution(before, after, variance=2, stride=stride), nn.ReLU(),
            _convolution(after, after, variance=0.2),
        )  # fmt: skip
        self.skip = (
            nn.Identity()
            if before == after
            else _convolution(before, after, variance=1, size=1, stride=stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.skip(x) + self.inner(x))


def _convolution(
    before: int, after: int, variance: int | float, size: int = 3, stride: int = 1
) -> nn.Module:
    layer = nn.Conv2d(before, after, size, stride=stride, padding=size // 2)
    nn.init.normal_(layer.weight, std=(variance / (before * size**2)) ** 0.5)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


NETWORKS: dict[str, Network] = {
    "mlp": perceptron,
    "deep": partial(perceptron, width=256, hidden=3),
    "lenet": lenet,
    "resnet": resnet,
}


def fan_in_start(module: nn.Module) -> nn.Module:
    """A module, at the start that the documents' code gives it.

    Weights of linear layers and convolutions get variance 1/n, with n the fan-in, and no biases, as
    is usual in Flax; torch's own start has a third of that variance, from which a LeNet takes many
    times the updates.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def started(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network with the weights of a seed; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
