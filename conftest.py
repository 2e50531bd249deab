"""Every test and every example starts from the same state, and leaves none behind.

This file must not import pullback: its annotations are checked only in modules that are imported
after pytest has installed jaxtyping's import hook for the package.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings

# Two worker processes that each use every core are slower than two that use one each.
torch.set_num_threads(1)

# The same examples in every run, and no failure because the machine was busy.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_stays_registered() -> Iterator[None]:
    from pullback.likelihoods.information import _REGISTRY

    before = dict(_REGISTRY)
    yield
    _REGISTRY.clear()
    _REGISTRY.update(before)
