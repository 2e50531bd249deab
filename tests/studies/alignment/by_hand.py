"""The usual loop, tangent features from plain autograd, and alignments of these."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pullback.studies.parts import Descent


def learn(module: nn.Module, x: Tensor, y: Tensor, descent: Descent, seed: int) -> None:
    """Train a classifier in place at a rate that does not fall."""
    optimiser = torch.optim.SGD(module.parameters(), lr=descent.rate, momentum=descent.momentum)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(descent.epochs):
        for some in torch.randperm(len(x), generator=generator).split(descent.batch):
            optimiser.zero_grad()
            F.cross_entropy(module(x[some]), y[some]).backward()
            optimiser.step()


def features(module: nn.Module, x: Tensor) -> list[Tensor]:
    """The gradient of each output of each sample, (n, c, d), of one layer after the other."""
    layers = [layer for layer in module.double() if isinstance(layer, nn.Linear | nn.Conv2d)]
    parameters = [one for layer in layers for one in layer.parameters()]
    rows: list[list[Tensor]] = [[] for _ in layers]
    for sample in x.double():
        outputs = module(sample[None])[0]
        for output in outputs:
            gradients = torch.autograd.grad(output, parameters, retain_graph=True)
            for place, row in enumerate(rows):
                row.append(torch.cat([one.flatten() for one in gradients[2 * place :][:2]]))
    return [torch.stack(row).unflatten(0, (len(x), -1)) for row in rows]


def aligned(rows: Tensor, labels: Tensor, centred: bool = True) -> float:
    """The alignment of the features' kernel with that of one-hot labels."""
    y = F.one_hot(labels, rows.shape[1]).double()
    if centred:
        rows, y = rows - rows.mean(0), y - y.mean(0)
    gram = rows.flatten(0, 1) @ rows.flatten(0, 1).T
    return float(y.flatten() @ gram @ y.flatten() / gram.norm() / y.square().sum())
