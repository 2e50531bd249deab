"""The floor of every operation on the Fisher matrix."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..cases import OUTPUTS, Case
from .chain import Chain
from .network import FastNetwork
from .products import exact_cotangents
from .squares import diagonal_of, trace_of

PIECE = 25
"""Samples of a loader's batch that are processed together, so that activations stay in cache."""


def network_of(case: Case) -> Chain | FastNetwork:
    plain = (nn.Sequential, nn.Linear, nn.ReLU)
    is_chain = all(isinstance(m, plain) for m in case.model.modules())
    return Chain(case.model) if is_chain else FastNetwork(case.model)


def pieces(case: Case, network: Chain | FastNetwork) -> Iterator[Tensor]:
    for x, _ in case.batches():
        yield from x.split(len(x) if isinstance(network, Chain) else PIECE)


def diag(case: Case) -> Tensor:
    """The diagonal (d,)."""
    network = network_of(case)
    parts = [diagonal_of(layer) for layer in network.layers]
    for x in pieces(case, network):
        _accumulate(network.record(x), parts)
    flat = torch.empty(network.size)
    for part in parts:
        part.write(flat)
    return flat / case.samples


def trace(case: Case) -> Tensor:
    """The trace, (1,)."""
    network = network_of(case)
    parts = None
    for x in pieces(case, network):
        record = network.record(x)
        parts = parts or [
            trace_of(layer, y[0, 0].numel(), OUTPUTS - 1)
            for layer, y in zip(network.layers, record.kept, strict=True)
        ]
        _accumulate(record, parts)
    return torch.tensor([sum(part.total for part in parts) / case.samples])


def _accumulate(record, parts) -> None:
    for part, a, y in zip(parts, record.taken, record.kept, strict=True):
        part.start(a, y)
    for gradients in record.gradients(exact_cotangents(record.outputs)):
        for part, g in zip(parts, gradients, strict=True):
            part.add(g)
    for part in parts:
        part.finish()
