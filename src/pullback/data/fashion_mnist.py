"""Fashion-MNIST: 70,000 articles of clothing, 28x28 grey (Xiao, Rasul and Vollgraf, 2017)."""

from __future__ import annotations

from functools import partial

from pullback.data.fetched import FetchedSet, Figures
from pullback.data.formats import decode_idx_splits
from pullback.data.packages import DebianPackage
from pullback.data.registry import register

register(
    FetchedSet(
        name="fashion-mnist",
        classes=(
            "T-shirt/top",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        levels=255,
        mean=(0.2860,),
        std=(0.3530,),
        package=DebianPackage(
            name="dataset-fashion-mnist",
            version="0.0~git20200523.55506a9-1",
            sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            size=30.9,
            root="./usr/share/datasets/fashion-mnist",
        ),
        decode=partial(decode_idx_splits, suffix=".gz"),
        figures={
            "train": Figures(
                shape=(60_000, 1, 28, 28),
                first_labels=(9, 0, 0, 3, 0),
                class_counts=(6000,) * 10,
                first_pixel=(0,),
            ),
            "test": Figures(
                shape=(10_000, 1, 28, 28),
                first_labels=(9, 2, 1, 1, 6),
                class_counts=(1000,) * 10,
                first_pixel=(0,),
            ),
        },
    )
)
