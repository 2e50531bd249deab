"""The networks whose kernels are followed here, by the names of the settings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from pullback.studies.parts import Network, lenet, perceptron, resnet

# Channels of the convolutions between two poolings, and how many of them (Simonyan and Zisserman).
VGG = {11: (1, 1, 2, 2, 2), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


def vgg(shape: Sequence[int], outputs: int = 1, layers: int = 19) -> nn.Module:
    """A VGG network without batch norm and with one linear layer, for images of 32 x 32.

    Initialised as in the published code of Baratin et al. 2021: He's normal weights, zero biases.
    """
    modules: list[nn.Module] = []
    before = shape[0]
    for channels, count in zip(CHANNELS, VGG[layers], strict=True):
        for _ in range(count):
            modules += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
            before = channels
        modules.append(nn.MaxPool2d(2))
    made = nn.Sequential(*modules, nn.Flatten(), nn.Linear(before, outputs))
    for layer in made:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return made


NETWORKS: dict[str, Network] = {
    "perceptron": partial(perceptron, width=80, hidden=6),
    "lenet": lenet,
    "resnet": partial(resnet, width=32),
    "vgg11": partial(vgg, layers=11),
    "vgg19": vgg,
}
