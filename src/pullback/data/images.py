"""`load`: a data set by name, as tensors that a network can take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from pullback.data.registry import SPLITS, ImageSet, Pixels, find
from pullback.errors import InputError

NORMALISATIONS = ("standard", "unit")


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images of one split of a data set.

    Attributes:
        inputs: the images, in the normalisation that `load` was asked for.
        labels: class indices.
        classes: the name of each class, in the order of the labels.
        name: the data set.
        split: `"train"` or `"test"`.
    """

    inputs: Float32[Tensor, "n channels height width"]
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    name: str
    split: str

    def __len__(self) -> int:
        return len(self.labels)


def load(
    name: str,
    split: str = "train",
    *,
    normalisation: str = "standard",
    samples: int | None = None,
) -> Images:
    """Load one split of a data set by name, always in the same order.

    `"digits"` comes with scikit-learn; `"mnist"`, `"fashion-mnist"` and `"cifar10"` have to be
    fetched once, by `make data`, into the folder `pullback.data.folder()`.

    Args:
        name: `"digits"` (8x8 grey, 1,437 training and 360 test images), `"mnist"`,
            `"fashion-mnist"` (28x28 grey, 60,000 and 10,000), `"cifar10"` (32x32 colour, 50,000
            and 10,000), or a set that was added by `register`.
        split: `"train"` or `"test"`.
        normalisation: `"standard"` subtracts each channel's mean over the training images and
            divides by its standard deviation, for both splits; `"unit"` gives intensities from
            0 (dark) to 1 (full brightness).
        samples: how many images, counted from the first; all of the split by default.

    Returns:
        Images whose `inputs` are float32 `(n, channels, height, width)` and whose `labels` are
        int64 `(n,)`.

    Raises:
        InputError: an argument has an unknown value, the split has fewer images than asked for, or
            the data set was not fetched yet.

    Example:
        >>> from pullback.data import load
        >>> digits = load("digits", "test", samples=100)
        >>> digits.inputs.shape
        torch.Size([100, 1, 8, 8])
        >>> digits.classes[digits.labels[0]]
        '7'
    """
    image_set = find(name)
    _check_choice("split", split, SPLITS)
    _check_choice("normalisation", normalisation, NORMALISATIONS)
    pixels = _first(image_set.read(split), samples)
    inputs = pixels.values.float().div_(image_set.levels)
    if normalisation == "standard":
        _standardise(inputs, image_set)
    return Images(inputs, pixels.labels, image_set.classes, name, split)


def _check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        options = " or ".join(repr(choice) for choice in choices)
        raise InputError(f"{argument}={value!r} is unknown; choose {options}")


def _first(pixels: Pixels, samples: int | None) -> Pixels:
    available = len(pixels.labels)
    if samples is None:
        return pixels
    if not 1 <= samples <= available:
        raise InputError(
            f"samples={samples} is out of range; this split has {available} images, "
            "ask for 1 to that many"
        )
    return Pixels(pixels.values[:samples], pixels.labels[:samples].clone())


def _standardise(inputs: Float32[Tensor, "n channels height width"], image_set: ImageSet) -> None:
    mean = torch.tensor(image_set.mean).view(-1, 1, 1)
    std = torch.tensor(image_set.std).view(-1, 1, 1)
    inputs.sub_(mean).div_(std)
