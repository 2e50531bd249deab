"""Look at a model in the middle of training without the training noticing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode; afterwards everything is bit for bit as it was.

    Restored are the mode of each submodule by itself (a part that was frozen in evaluation mode
    stays there), the buffers, and the random states of torch, numpy and Python.

    Example:
        >>> import torch
        >>> from pullback.probes import undisturbed
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout()).train()
        >>> with undisturbed(model):
        ...     model.training, model[1].training
        (False, False)
        >>> model.training, model[1].training
        (True, True)
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(enabled=True):
            yield model.eval()
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        random.setstate(python_state)
        np.random.set_state(numpy_state)
