"""Every test starts from the same random state and gives the same result on every machine.

This file must not import pullback: its annotations are checked only in modules that are imported
after pytest has installed jaxtyping's import hook for the package.
"""

from __future__ import annotations

import random

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
