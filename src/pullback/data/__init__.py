"""Data sets of images, by name, and tasks made from them.

```python
from pullback.data import load

train = load("mnist")  # after `make data`
train.inputs, train.labels  # float32 (60000, 1, 28, 28), int64 (60000,)
```

To add a set, write one file beside `mnist.py` that registers it, and import that file below.
"""

from __future__ import annotations

from pullback.data import cifar10, digits, fashion_mnist, mnist  # noqa: F401  (each registers)
from pullback.data.fetched import FetchedSet, Figures, folder
from pullback.data.images import Images, load
from pullback.data.packages import DebianPackage, FetchError, NpmPackage
from pullback.data.registry import ImageSet, Pixels, register, registered
from pullback.data.tasks import (
    Mixture,
    NoisyLabels,
    attributes,
    coloured,
    groups_of,
    mixture,
    noisy_labels,
    of_two_classes,
    two_halves,
)
from pullback.data.toys import (
    SharedFeature,
    disk_labels,
    grid_points,
    opposed_modes,
    shared_feature,
    uniform_points,
    yin_yang_labels,
)

__all__ = [
    "DebianPackage",
    "FetchError",
    "FetchedSet",
    "Figures",
    "ImageSet",
    "Images",
    "Mixture",
    "NoisyLabels",
    "NpmPackage",
    "Pixels",
    "SharedFeature",
    "attributes",
    "coloured",
    "disk_labels",
    "folder",
    "grid_points",
    "groups_of",
    "load",
    "mixture",
    "noisy_labels",
    "of_two_classes",
    "opposed_modes",
    "register",
    "registered",
    "shared_feature",
    "two_halves",
    "uniform_points",
    "yin_yang_labels",
]
