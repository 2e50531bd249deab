"""Images of a data set, drawn for a seed."""

from __future__ import annotations

from dataclasses import replace

import torch

from pullback.data.images import Images, load
from pullback.errors import InputError


def drawn(name: str, split: str, count: int, seed: int, normalisation: str = "standard") -> Images:
    """So many images of a split, in a random order, without replacement.

    The same seed draws the first of the same images, whatever the count.

    Raises:
        InputError: the split has fewer, or the data set was not fetched yet.
    """
    images = load(name, split, normalisation=normalisation)
    if count > len(images):
        raise InputError(f"count: {count} images of {name}, which has {len(images)} to {split}")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=generator)[:count]
    return replace(images, inputs=images.inputs[chosen], labels=images.labels[chosen])
