"""The 8x8 digits that come with scikit-learn: small enough for every exact quantity."""

from __future__ import annotations

import torch

from pullback.data.registry import ImageSet, Pixels, register

TEST_IMAGES = 360
SEED = 0


class Digits(ImageSet):
    """1,797 handwritten digits; the split is ours: stratified, shuffled with a fixed seed."""

    def read(self, split: str) -> Pixels:
        """The images of one split."""
        # Imported here because scikit-learn takes a second to import.
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        train, test = train_test_split(
            range(len(digits.target)),
            test_size=TEST_IMAGES,
            stratify=digits.target,
            random_state=SEED,
        )
        chosen = train if split == "train" else test
        values = torch.from_numpy(digits.images[chosen]).to(torch.uint8).unsqueeze(1)
        return Pixels(values, torch.from_numpy(digits.target[chosen]).long())


register(
    Digits(
        name="digits",
        classes=tuple("0123456789"),
        levels=16,
        mean=(0.3054,),
        std=(0.3761,),
    )
)
