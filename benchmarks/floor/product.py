"""The floor of the Fisher-vector product: one forward, one tangent forward, one backward."""

from __future__ import annotations

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.func import functional_call

from ..cases import Case
from .chain import Chain
from .metrics import network_of, pieces
from .network import FastNetwork


def fvp(case: Case) -> Tensor:
    """F v for the fixed direction, (d,)."""
    network = network_of(case)
    if isinstance(network, Chain):
        return _chain_product(case, network)
    return _network_product(case, network)


def _output_product(outputs: Tensor, tangent: Tensor) -> Tensor:
    """(diag p - p p^T) tangent."""
    p = torch.softmax(outputs, 1)
    weighted = p * tangent
    return weighted.addcmul_(p, weighted.sum(1, keepdim=True), value=-1)


def _network_product(case: Case, network: FastNetwork) -> Tensor:
    """Dual tensors whose primal requires grad: the tangent shares the forward with the backward."""
    parameters = {name: p.detach().requires_grad_() for name, p in network.model.named_parameters()}
    tangents = network.fold(case.direction())
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for x in pieces(case, network):
        x = x.contiguous(memory_format=torch.channels_last)
        with forward_ad.dual_level():
            duals = {n: forward_ad.make_dual(p, tangents[n]) for n, p in parameters.items()}
            outputs, tangent = forward_ad.unpack_dual(functional_call(network.model, duals, (x,)))
        # Outside the level: inside it the backward would compute the gradients' tangents too.
        cotangent = _output_product(outputs.detach(), tangent.detach())
        gradients = torch.autograd.grad(outputs, list(parameters.values()), cotangent)
        torch._foreach_add_(list(total.values()), gradients)
    return network.unfold(total) / case.samples


def _chain_product(case: Case, network: Chain) -> Tensor:
    flat, size = case.direction(), len(network.layers)
    weights = [layer.original for layer in network.layers]
    moves = [flat[layer.weight].view(layer.shape) for layer in network.layers]
    shifts = [flat[layer.bias] for layer in network.layers]
    # Both products of the first layer in one.
    first = torch.cat([weights[0], moves[0]]).T
    first_bias = torch.cat([network.biases[0], shifts[0]])
    width = len(weights[0])
    total = torch.zeros(network.size)
    sums = [total[layer.weight].view(layer.shape) for layer in network.layers]
    for x in pieces(case, network):
        taken = [x]
        both = torch.addmm(first_bias, x, first)
        value, tangent = both[:, :width], both[:, width:]
        for j in range(1, size):
            value = torch.relu(value)
            tangent = tangent * (value > 0)
            taken.append(value)
            tangent = torch.addmm(shifts[j], tangent, weights[j].T).addmm_(value, moves[j].T)
            value = torch.addmm(network.biases[j], value, weights[j].T)
        g = _output_product(value, tangent)
        for j in range(size - 1, -1, -1):
            sums[j].addmm_(g.T, taken[j])
            total[network.layers[j].bias] += g.sum(0)
            if j:
                g = (g @ weights[j]).mul_(taken[j] > 0)
    return total / case.samples
