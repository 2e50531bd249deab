"""Sums of squared per-sample gradients, layer by layer: the diagonal and the trace."""

from __future__ import annotations

import torch
from torch import Tensor

from .network import Layer, to_weight_order
from .products import in_cache, slab


class LinearDiagonal:
    """T = 1: the cotangents are summed before the product, (sum_k g_k^2)^T a^2."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.weight = layer.original.new_zeros(layer.o, layer.i)
        self.shift = layer.original.new_zeros(layer.o)

    def start(self, a: Tensor, output: Tensor) -> None:
        self.a, self.squares = a, a.new_zeros(len(a), self.layer.o)

    def add(self, g: Tensor) -> None:
        self.squares.addcmul_(g, g)

    def finish(self) -> None:
        self.weight.addmm_(self.squares.T, self.a.square())
        self.shift += self.squares.sum(0)

    def write(self, flat: Tensor) -> None:
        flat[self.layer.weight] = self.weight.flatten()
        flat[self.layer.bias] = self.shift


class ConvolutionDiagonal:
    """Per-sample products g^T u, squared and added while they are in cache."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.squares = layer.original.new_zeros(slab(layer.o, layer.i), layer.o, layer.i)
        self.buffer = torch.empty_like(self.squares)
        self.shift = layer.original.new_zeros(layer.o)
        self.gamma = layer.original.new_zeros(layer.o)
        self.normalised: Tensor | None = None

    def start(self, a: Tensor, output: Tensor) -> None:
        self.u = self.layer.patches(a)
        # Gamma's gradient from the products or, where there are few positions, from the output.
        if self.layer.norm is not None and 2 * self.u.shape[1] < self.layer.i:
            self.normalised = self.layer.normalised(output)

    def add(self, g: Tensor) -> None:
        layer, rows = self.layer, self.layer.rows(g)
        if layer.shifted:
            shift = rows.sum(1)
            self.shift += shift.square().sum(0)
        for start, p in in_cache(rows, self.u, self.buffer):
            self.squares[: len(p)].addcmul_(p, p)
            if layer.norm is not None and self.normalised is None:
                gamma = layer.gamma_rows(p, shift[start : start + len(p)])
                self.gamma += gamma.square_().sum(0)
        if self.normalised is not None:
            self.gamma += (rows * self.normalised).sum(1).square_().sum(0)

    def finish(self) -> None:
        del self.u

    def write(self, flat: Tensor) -> None:
        layer, weight = self.layer, self.squares.sum(0)
        if layer.norm is not None:
            weight *= layer.norm.scale.square()[:, None]
            flat[layer.norm.beta] = self.shift
            flat[layer.norm.gamma] = self.gamma
        elif layer.shifted:
            flat[layer.bias] = self.shift
        flat[layer.weight] = to_weight_order(weight, layer)


class LinearTrace:
    """T = 1: sum_n |g|^2 (|a|^2 + 1)."""

    def __init__(self, layer: Layer) -> None:
        self.total = 0.0

    def start(self, a: Tensor, output: Tensor) -> None:
        self.size = a.square().sum(1).add_(1)
        self.squares = torch.zeros_like(output)

    def add(self, g: Tensor) -> None:
        self.squares.addcmul_(g, g)

    def finish(self) -> None:
        self.total += float(self.squares.sum(1) @ self.size)


class ProductTrace:
    """A convolution: the sum of squares of the per-sample products."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.total = layer, 0.0
        self.buffer = layer.original.new_empty(slab(layer.o, layer.i), layer.o, layer.i)
        self.sums = layer.original.new_zeros(layer.o)  # of squares, by output channel

    def start(self, a: Tensor, output: Tensor) -> None:
        self.u = self.layer.patches(a)

    def add(self, g: Tensor) -> None:
        layer, rows = self.layer, self.layer.rows(g)
        if layer.shifted:
            shift = rows.sum(1)
            self.total += float(torch.dot(shift.flatten(), shift.flatten()))
        for start, p in in_cache(rows, self.u, self.buffer):
            if layer.norm is None:
                self.total += float(torch.dot(p.flatten(), p.flatten()))
                continue
            self.sums += torch.linalg.vecdot(p, p).sum(0) * layer.norm.scale.square()
            self.sums += layer.gamma_rows(p, shift[start : start + len(p)]).square_().sum(0)

    def finish(self) -> None:
        self.total += float(self.sums.sum())
        self.sums.zero_()


class GramTrace:
    """A convolution with few positions: sum over position pairs of (sum_k g_k g_k^T) * (u u^T)."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self.total = layer, 0.0

    def start(self, a: Tensor, output: Tensor) -> None:
        u, norm = self.layer.patches(a), self.layer.norm
        self.inputs = torch.bmm(u, u.transpose(1, 2))
        self.gradients = torch.zeros_like(self.inputs)
        if norm is not None:
            self.normalised = self.layer.normalised(output)

    def add(self, g: Tensor) -> None:
        layer, rows = self.layer, self.layer.rows(g)
        if layer.shifted:
            self.total += float(rows.sum(1).square().sum())
        if layer.norm is not None:
            self.total += float((rows * self.normalised).sum(1).square().sum())
            rows = rows * layer.norm.scale
        self.gradients.baddbmm_(rows, rows.transpose(1, 2))

    def finish(self) -> None:
        self.total += float(torch.dot(self.gradients.flatten(), self.inputs.flatten()))


def diagonal_of(layer: Layer) -> LinearDiagonal | ConvolutionDiagonal:
    return LinearDiagonal(layer) if layer.is_linear else ConvolutionDiagonal(layer)


def trace_of(
    layer: Layer, positions: int, cotangents: int
) -> LinearTrace | ProductTrace | GramTrace:
    """The cheaper program for this layer, by counted products."""
    if layer.is_linear:
        return LinearTrace(layer)
    gram = positions * (cotangents * layer.o + layer.i)
    return GramTrace(layer) if gram < cotangents * layer.o * layer.i else ProductTrace(layer)
