"""The diagonal, the trace, the dense matrix, and the product with a vector."""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from ..cases import OUTPUTS, Case
from .network import Layer, Network, contract, exact_cotangents, inputs_of, pieces
from .products import in_cache, slab


class LinearDiagonal:
    """One position: the cotangents are summed before the product, (sum_k g_k^2)^T a^2."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.weight, self.bias = torch.zeros(layer.o, layer.i), torch.zeros(layer.o)

    def start(self, a: Tensor) -> None:
        self.a, self.squares = a, a.new_zeros(len(a), self.layer.o)

    def add(self, k: int, g: Tensor) -> None:
        self.squares.addcmul_(g, g)

    def finish(self) -> None:
        self.weight.addmm_(self.squares.T, self.a.square())
        self.bias += self.squares.sum(0)

    def result(self) -> list[Tensor]:
        return self.layer.flat(self.weight, self.bias)


class ConvolutionDiagonal:
    """Per-sample products g^T u, squared and added while they are in cache."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.squares = torch.zeros(slab(layer.o, layer.i), layer.o, layer.i)
        self.buffer = torch.empty_like(self.squares)
        self.bias = torch.zeros(layer.o) if layer.has_bias else None

    def start(self, a: Tensor) -> None:
        self.u = self.layer.met(a)

    def add(self, k: int, g: Tensor) -> None:
        rows = self.layer.rows(g)
        if self.bias is not None:
            self.bias += rows.sum(1).square_().sum(0)
        for p in in_cache(rows, self.u, self.buffer):
            self.squares[: len(p)].addcmul_(p, p)

    def finish(self) -> None:
        del self.u

    def result(self) -> list[Tensor]:
        return self.layer.flat(self.squares.sum(0), self.bias)


class NormDiagonal:
    """A vector each for weight and bias."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.weight, self.bias = torch.zeros(layer.o), torch.zeros(layer.o)

    def start(self, a: Tensor) -> None:
        self.x = self.layer.met(a)

    def add(self, k: int, g: Tensor) -> None:
        rows = self.layer.rows(g)
        self.weight += (rows * self.x).sum(1).square_().sum(0)
        self.bias += rows.sum(1).square_().sum(0)

    def finish(self) -> None:
        del self.x

    def result(self) -> list[Tensor]:
        return self.layer.flat(self.weight, self.bias)


def _diagonal_of(layer: Layer) -> LinearDiagonal | ConvolutionDiagonal | NormDiagonal:
    if layer.is_linear:
        return LinearDiagonal(layer)
    return NormDiagonal(layer) if layer.is_norm else ConvolutionDiagonal(layer)


def diag(case: Case) -> Tensor:
    """The diagonal (d,)."""
    parts = contract(Network(case.model), inputs_of(case), exact_cotangents, _diagonal_of)
    return torch.cat([piece for part in parts for piece in part.result()]).div_(case.samples)


class LinearTrace:
    """One position: sum_n |g|^2 (|a|^2 + 1)."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.total = layer, 0.0

    def start(self, a: Tensor) -> None:
        self.size = a.square().sum(1).add_(1)
        self.squares = a.new_zeros(len(a), self.layer.o)

    def add(self, k: int, g: Tensor) -> None:
        self.squares.addcmul_(g, g)

    def finish(self) -> None:
        self.total += float(self.squares.sum(1) @ self.size)


class ProductTrace:
    """A convolution: the sum of squares of the per-sample products."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.total = layer, 0.0
        self.buffer = torch.empty(slab(layer.o, layer.i), layer.o, layer.i)

    def start(self, a: Tensor) -> None:
        self.u = self.layer.met(a)

    def add(self, k: int, g: Tensor) -> None:
        rows = self.layer.rows(g)
        if self.layer.has_bias:
            self.total += _square(rows.sum(1))
        for p in in_cache(rows, self.u, self.buffer):
            self.total += _square(p)

    def finish(self) -> None:
        del self.u


class GramTrace:
    """A convolution with few positions: sum over position pairs of (sum_k g_k g_k^T) * (u u^T)."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.total = layer, 0.0

    def start(self, a: Tensor) -> None:
        u = self.layer.met(a)
        self.inputs = torch.bmm(u, u.transpose(1, 2))
        if self.layer.has_bias:
            self.inputs += 1
        self.gradients = torch.zeros_like(self.inputs)

    def add(self, k: int, g: Tensor) -> None:
        rows = self.layer.rows(g)
        self.gradients.baddbmm_(rows, rows.transpose(1, 2))

    def finish(self) -> None:
        self.total += float(torch.dot(self.gradients.flatten(), self.inputs.flatten()))


class NormTrace:
    """The squares of the vectors of weight and bias."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.total = layer, 0.0

    def start(self, a: Tensor) -> None:
        self.x = self.layer.met(a)

    def add(self, k: int, g: Tensor) -> None:
        rows = self.layer.rows(g)
        self.total += _square((rows * self.x).sum(1)) + _square(rows.sum(1))

    def finish(self) -> None:
        del self.x


def _square(t: Tensor) -> float:
    return float(torch.dot(t.flatten(), t.flatten()))


def _trace_of(layer: Layer) -> LinearTrace | ProductTrace | GramTrace | NormTrace:
    """For a convolution the cheaper program, by counted products."""
    if layer.is_linear:
        return LinearTrace(layer)
    if layer.is_norm:
        return NormTrace(layer)
    c = OUTPUTS - 1
    gram = layer.positions * (c * layer.o + layer.i)
    return GramTrace(layer) if gram < c * layer.o * layer.i else ProductTrace(layer)


def trace(case: Case) -> Tensor:
    """The trace, (1,)."""
    parts = contract(Network(case.model), inputs_of(case), exact_cotangents, _trace_of)
    return torch.tensor([sum(part.total for part in parts) / case.samples])


class Kept:
    """A linear layer's inputs, a 1 appended, and gradients, by piece."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.taken: list[Tensor] = []  # (n, i + 1)
        self.kept: list[Tensor] = []  # (n, k, o)

    def start(self, a: Tensor) -> None:
        self.taken.append(F.pad(a, (0, 1), value=1.0))
        self.found: list[Tensor] = []

    def add(self, k: int, g: Tensor) -> None:
        self.found.append(g)

    def finish(self) -> None:
        self.kept.append(torch.stack(self.found, 1))


def dense(case: Case) -> Tensor:
    """The Fisher matrix (d, d) of a network of linear layers.

    Block (j, m) is sum_n (sum_k g_k^j g_k^m^T)_n (x) (a^j a^m^T)_n: one product of (o o', n) with
    (n, i i'), the cotangents summed before it; the gradient rows are never formed.
    """
    parts = contract(Network(case.model), inputs_of(case), exact_cotangents, Kept)
    ends = [0, *accumulate(part.layer.size for part in parts)]
    found = torch.empty(ends[-1], ends[-1])
    # Where the entries (o, i + 1) of each layer's weight and bias lie in the flat vector.
    places = [
        part.layer.matrix(torch.arange(start, end)).flatten()
        for part, start, end in zip(parts, ends[:-1], ends[1:], strict=True)
    ]
    for j, left in enumerate(parts):
        for m, right in enumerate(parts[: j + 1]):
            total = torch.zeros(())
            pieces_of = zip(left.kept, right.kept, left.taken, right.taken, strict=True)
            for g, h, a, b in pieces_of:
                outer_g = torch.bmm(g.transpose(1, 2), h).flatten(1)
                outer_a = (a[:, :, None] * b[:, None, :]).flatten(1)
                total = total + outer_g.T @ outer_a
            block = total.view(left.layer.o, right.layer.o, left.layer.i + 1, right.layer.i + 1)
            block = block.transpose(1, 2).reshape(len(places[j]), len(places[m])) / case.samples
            found[places[j][:, None], places[m]] = block
            found[places[m][:, None], places[j]] = block.T
    return found


def fvp(case: Case) -> Tensor:
    """F v for the fixed direction, (d,): one forward, one tangent forward, one backward.

    Dual tensors whose primal requires grad: the tangent shares the forward with the backward.
    """
    model = Network(case.model, kinds=()).model
    parameters = {name: p.requires_grad_() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in parameters.values()]
    tangents = {
        name: torch.empty_like(p).copy_(piece.view(p.shape))  # in the memory order of p
        for (name, p), piece in zip(parameters.items(), case.direction().split(sizes), strict=True)
    }
    total = [torch.zeros_like(p) for p in parameters.values()]
    for x in pieces(inputs_of(case)):
        with forward_ad.dual_level():
            duals = {n: forward_ad.make_dual(p, tangents[n]) for n, p in parameters.items()}
            outputs, tangent = forward_ad.unpack_dual(functional_call(model, duals, (x,)))
        # Outside the level: inside it the backward would compute the gradients' tangents too.
        p = torch.softmax(outputs.detach(), 1)
        weighted = p * tangent.detach()
        cotangent = weighted.addcmul_(p, weighted.sum(1, keepdim=True), value=-1)
        gradients = torch.autograd.grad(outputs, list(parameters.values()), cotangent)
        torch._foreach_add_(total, gradients)
    return torch.cat([t.flatten() for t in total]) / case.samples
