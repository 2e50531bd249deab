"""Between feature learning and the linearised network: the change of the function, scaled.

    f(x; w0) + alpha (f(x; w) - f(x; w0))

With a large alpha the parameters hardly move while the function does what it has to, so that the
network stays where it is linear ("lazy"); alpha = 1 is the network itself; below 1 its features
move more ("hasty").
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pullback.errors import InputError
from pullback.linear.model import frozen


class ScaledModel(nn.Module):
    """A network whose change since the start is multiplied by alpha, as a module that trains.

    At the start it is the network, for every alpha. A step of gradient descent moves the function
    as that of the network does, to first order, if the learning rate is divided by alpha squared:
    once for the gradient, which has a factor alpha, and once for what a step does to the function.
    `learning_rate` does it. Momentum changes nothing about that; optimisers that scale gradients
    away, such as Adam, take one factor alone.

    Batch norm and dropout stay in evaluation mode, also under `train()`: the network at the start
    and the one now would see other statistics, or drop other units.

    Args:
        model: the network, at its start.
        alpha: above 0.

    Attributes:
        network: the network at w, with the parameters that are trained.
        start: the same at w0, all buffers.
        alpha: as given.

    Raises:
        InputError: alpha is not positive, or nothing requires a gradient.

    Source:
        Chizat et al. 2019; George 2023, eq. 5.2.4 and section 5.2.

    Example:
        >>> import torch
        >>> from pullback.linear import ScaledModel
        >>> model, x = torch.nn.Linear(3, 1), torch.randn(5, 3)
        >>> lazy = ScaledModel(model, alpha=100)
        >>> torch.equal(lazy(x), model(x)), lazy.learning_rate(0.1)
        (True, 1e-05)
    """

    def __init__(self, model: nn.Module, alpha: int | float) -> None:
        super().__init__()
        if not 0 < alpha < math.inf:
            raise InputError(f"alpha: {alpha}; give a positive number")
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise InputError("model: has no parameter that requires a gradient")
        self.alpha = alpha
        self.network = copy.deepcopy(model)
        self.start = frozen(copy.deepcopy(model))
        self.train(model.training)

    def train(self, mode: bool = True) -> ScaledModel:
        """Set the mode of this module; the networks inside stay in evaluation mode."""
        super().train(mode)
        self.network.eval()
        self.start.eval()
        return self

    def learning_rate(self, rate: int | float) -> float:
        """The rate that moves this function as `rate` moves that of the network: over alpha^2."""
        return rate / self.alpha**2

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network would return, its floating-point numbers scaled."""
        with torch.no_grad():
            before = self.start(*args, **kwargs)
        return pytree.tree_map(self._scaled, self.network(*args, **kwargs), before)

    def _scaled(self, now: object, before: object) -> object:
        if isinstance(now, Tensor) and isinstance(before, Tensor) and now.is_floating_point():
            return before + self.alpha * (now - before)
        return now
