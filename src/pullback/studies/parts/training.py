"""Training as the documents do it: stochastic gradient descent, of one network or of many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

Loss = Callable[[Tensor, Tensor], Tensor]
"""From outputs (n, c) and labels (n,) to their mean loss."""


@dataclass(frozen=True)
class Descent:
    """How a network is trained.

    Attributes:
        epochs: over all samples, in an order of its own each.
        batch: samples an update.
        rate: the learning rate, at the start if it falls.
        momentum: of stochastic gradient descent.
        falling: whether the rate falls linearly to 0.
        optimiser: "sgd" or "adam".
    """

    epochs: int
    batch: int = 128
    rate: int | float = 0.05
    momentum: int | float = 0.9
    falling: bool = True
    optimiser: str = "sgd"

    def per_epoch(self, samples: int) -> int:
        """Updates of an epoch."""
        return -(-samples // self.batch)

    def updates(self, samples: int) -> int:
        """Updates of the whole training."""
        return self.epochs * self.per_epoch(samples)


def logistic(outputs: Float[Tensor, "n 1"], labels: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The mean logistic loss of one output, for labels 1 and -1, in nats."""
    return F.softplus(-labels * outputs[:, 0]).mean()


def right(outputs: Float[Tensor, "*t n c"], labels: Tensor) -> Bool[Tensor, "*t n"]:
    """Which samples are told right: by the sign of one output, or by the largest of many."""
    if outputs.shape[-1] == 1:
        return (outputs[..., 0] > 0) == (labels > 0)
    return outputs.argmax(-1) == labels


def trained(
    module: nn.Module, x: Tensor, y: Tensor, loss: Loss, descent: Descent, seed: int
) -> Iterator[int]:
    """Train a module in place; yields the number of finished updates, from 0 on."""
    parameters = [one for one in module.parameters() if one.requires_grad]
    optimiser, falling = _optimiser(parameters, descent, len(x))
    yield 0
    for count, some in enumerate(_batches(len(x), descent, seed), start=1):
        optimiser.zero_grad()
        loss(module(x[some]), y[some]).backward()
        optimiser.step()
        falling.step()
        yield count


def trained_together(
    module: nn.Module,
    parameters: Mapping[str, Float[Tensor, "t ..."]],
    x: Tensor,
    y: Tensor,
    loss: Loss,
    descent: Descent,
    seed: int,
) -> Iterator[int]:
    """Train t networks of one kind on t label vectors at once; yields as `trained` does.

    Both optimisers work on each number by itself, so that stacked parameters are trained as each
    network would be alone.

    Args:
        module: the kind, with the buffers of all.
        parameters: of all networks, stacked; they are changed in place.
        x: inputs that all share, shape (n, ...).
        y: labels of each, shape (t, n).
        loss: of one network.
        descent: of all, with the same order of the samples.
        seed: of that order.
    """
    buffers = dict(module.named_buffers())

    def one_loss(own: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return loss(functional_call(module, {**buffers, **own}, (inputs,)), labels)

    gradients = vmap(grad(one_loss), in_dims=(0, None, 0))
    stacked = dict(parameters)
    optimiser, falling = _optimiser(stacked.values(), descent, len(x))
    yield 0
    for count, some in enumerate(_batches(len(x), descent, seed), start=1):
        for name, gradient in gradients(stacked, x[some], y[:, some]).items():
            stacked[name].grad = gradient
        optimiser.step()
        falling.step()
        yield count


def _batches(samples: int, descent: Descent, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(descent.epochs):
        yield from torch.randperm(samples, generator=generator).split(descent.batch)


def _optimiser(
    parameters: Iterable[Tensor], descent: Descent, samples: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimiser: torch.optim.Optimizer
    if descent.optimiser == "adam":
        optimiser = torch.optim.Adam(parameters, lr=descent.rate)
    else:
        optimiser = torch.optim.SGD(parameters, lr=descent.rate, momentum=descent.momentum)
    end = 0.0 if descent.falling else 1.0
    updates = descent.updates(samples)
    return optimiser, torch.optim.lr_scheduler.LinearLR(optimiser, 1, end, total_iters=updates)
