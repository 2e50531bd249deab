"""What the members on images share: intensities, and how well a network learns them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pullback.data.images import Images
from pullback.studies.anisotropy.preferences import Preferences, factory
from pullback.studies.parts import Descent, drawn, logistic, right, started, trained

Labelled = tuple[Tensor, Tensor]
"""Images (n, c, h, w) and labels (n,)."""


@dataclass(frozen=True)
class Learning(Preferences):
    """As `Preferences`, and which images are learned.

    Attributes:
        data: the name of an image set of 32 x 32.
        train: training images.
        test: test images.
        epochs: of gradient descent with momentum 0.9 and a rate that falls linearly to 0.
        batch: images an update.
        rate: the learning rate at the start.
    """

    data: str = "cifar10"
    train: int = 3000
    test: int = 2000
    epochs: int = 15
    batch: int = 64
    rate: float = 0.05


def intensities(settings: Learning, seed: int) -> tuple[Images, Images]:
    """Training and test images, from 0 to 1."""
    train, test = (
        drawn(settings.data, split, count, seed, "unit")
        for split, count in (("train", settings.train), ("test", settings.test))
    )
    return train, test


def accuracies(
    settings: Learning,
    train: Labelled,
    test: Labelled,
    outputs: int,
    seed: int,
    advance: Callable[[int], None],
    network: str | None = None,
) -> tuple[float, float]:
    """What a network is right on, of training and of test images, after training.

    Images are centred and scaled, by channel, with the figures of the training images.
    """
    mean = train[0].mean((0, 2, 3), keepdim=True)
    scale = train[0].std((0, 2, 3), keepdim=True)
    x, new = ((images - mean) / scale for images, _ in (train, test))
    module = learned(settings, (x, train[1]), outputs, seed, advance, network)
    return correct(module, x, train[1]), correct(module, new, test[1])


def learned(
    settings: Learning,
    train: Labelled,
    outputs: int,
    seed: int,
    advance: Callable[[int], None],
    network: str | None = None,
) -> nn.Module:
    """A network after training, by default that of the settings; of two classes for one output."""
    x, y = train
    module = started(factory(settings, x.shape[1:], outputs, network), seed)
    descent = Descent(settings.epochs, settings.batch, settings.rate)
    for count in trained(module, x, y, F.cross_entropy if outputs > 1 else logistic, descent, seed):
        if count and count % descent.per_epoch(len(x)) == 0:
            advance(1)
    return module


def correct(module: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of samples that are told right."""
    with torch.no_grad():
        outputs = torch.cat([module(some) for some in x.split(500)])
    return float(right(outputs, y).double().mean())
