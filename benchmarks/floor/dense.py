"""The floor of the dense Fisher matrix of a chain of linear layers."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cases import Case
from .chain import Chain
from .network import Layer
from .products import exact_cotangents


def dense(case: Case) -> Tensor:
    """The Fisher matrix (d, d).

    Block (j, m) is sum_n (sum_k g_k^j g_k^m^T)_n (x) (a^j a^m^T)_n: one product of (o o', n) with
    (n, i i'), the cotangents summed before it; the gradient rows are never formed.
    """
    network = Chain(case.model)
    pairs = [(j, m) for j in range(len(network.layers)) for m in range(j + 1)]
    sums: dict[tuple[int, int], Tensor | float] = dict.fromkeys(pairs, 0.0)
    for x, _ in case.batches():
        record = network.record(x)
        rows: list[list[Tensor]] = [[] for _ in network.layers]
        for gradients in record.gradients(exact_cotangents(record.outputs)):
            for kept, g in zip(rows, gradients, strict=True):
                kept.append(g.clone())
        g = [torch.stack(kept, 1) for kept in rows]  # (n, k, o)
        a = [torch.cat([t, torch.ones_like(t[:, :1])], 1) for t in record.taken]
        for j, m in pairs:
            outer_g = torch.bmm(g[j].transpose(1, 2), g[m]).flatten(1)
            outer_a = (a[j][:, :, None] * a[m][:, None, :]).flatten(1)
            sums[j, m] = sums[j, m] + outer_g.T @ outer_a
    places = [_places(layer) for layer in network.layers]
    found = torch.empty(network.size, network.size)
    for j, m in pairs:
        left, right = network.layers[j], network.layers[m]
        block = sums[j, m].view(left.o, right.o, left.i + 1, right.i + 1)
        block = block.transpose(1, 2).reshape(len(places[j]), len(places[m])) / case.samples
        found[places[j][:, None], places[m]] = block
        found[places[m][:, None], places[j]] = block.T
    return found


def _places(layer: Layer) -> Tensor:
    """Where the entries (o, i + 1) of weight and bias lie in the flat vector."""
    weight = torch.arange(layer.weight.start, layer.weight.stop).view(layer.shape)
    bias = torch.arange(layer.bias.start, layer.bias.stop)[:, None]
    return torch.cat([weight, bias], 1).flatten()
