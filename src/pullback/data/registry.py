"""What a data set of images is, and the table of those that can be loaded by name.

A new set is one small file: a subclass of `ImageSet` that can `read` a split (or a `FetchedSet`,
which already can), and one call of `register`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Int64, UInt8
from torch import Tensor

from pullback.errors import InputError

SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class Pixels:
    """One split as it is stored: whole intensities and labels.

    Attributes:
        values: intensities from 0 to the set's `levels`.
        labels: class indices.
    """

    values: UInt8[Tensor, "n channels height width"]
    labels: Int64[Tensor, " n"]


@dataclass(frozen=True)
class ImageSet(ABC):
    """A set of labelled images, split into training and test images.

    Attributes:
        name: what `load` calls it.
        classes: the name of each class, in the order of the labels.
        levels: the stored intensity that means full brightness.
        mean: mean of each channel over the training images, full brightness being 1.
        std: standard deviation of each channel over the training images, likewise.
    """

    name: str
    classes: tuple[str, ...]
    levels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @abstractmethod
    def read(self, split: str) -> Pixels:
        """The images of one split (`"train"` or `"test"`), always in the same order."""


_SETS: dict[str, ImageSet] = {}


def register(image_set: ImageSet) -> None:
    """Make a data set loadable by its name.

    Raises:
        InputError: another set has that name already.
    """
    if image_set.name in _SETS:
        raise InputError(
            f"image_set: a data set named {image_set.name!r} is registered already; "
            "give this one another name"
        )
    _SETS[image_set.name] = image_set


def registered() -> tuple[ImageSet, ...]:
    """All data sets that can be loaded, in the order of their registration."""
    return tuple(_SETS.values())


def find(name: str) -> ImageSet:
    """The data set of that name.

    Raises:
        InputError: no data set has that name.
    """
    if name not in _SETS:
        raise InputError(f"name={name!r} is no data set; choose one of {', '.join(_SETS)}")
    return _SETS[name]
