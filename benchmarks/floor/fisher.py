"""The diagonal, the trace, the product with a vector, and the solve by such products."""

from __future__ import annotations

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor
from torch.func import functional_call

from ..cases import OUTPUTS, Case
from ..program import CG_RESIDUAL, DAMPING
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


class Product:
    """F v: one forward, one tangent forward, one backward.

    Dual tensors whose primal requires grad: the tangent shares the forward with the backward.
    """

    def __init__(self, case: Case) -> None:
        self.samples, self.pieces = case.samples, list(pieces(inputs_of(case)))
        self.model = Network(case.model, kinds=()).model
        self.parameters = {n: p.requires_grad_() for n, p in self.model.named_parameters()}
        self.sizes = [p.numel() for p in self.parameters.values()]

    def __call__(self, v: Tensor) -> Tensor:
        parameters = list(self.parameters.values())
        tangents = {
            name: torch.empty_like(p).copy_(piece.view(p.shape))  # in the memory order of p
            for (name, p), piece in zip(self.parameters.items(), v.split(self.sizes), strict=True)
        }
        total = [torch.zeros_like(p) for p in parameters]
        for x in self.pieces:
            with forward_ad.dual_level():
                duals = {
                    n: forward_ad.make_dual(p, tangents[n]) for n, p in self.parameters.items()
                }
                outputs, tangent = forward_ad.unpack_dual(functional_call(self.model, duals, (x,)))
            # Outside the level: inside it the backward would compute the gradients' tangents too.
            p = torch.softmax(outputs.detach(), 1)
            weighted = p * tangent.detach()
            cotangent = weighted.addcmul_(p, weighted.sum(1, keepdim=True), value=-1)
            gradients = torch.autograd.grad(outputs, parameters, cotangent)
            torch._foreach_add_(total, gradients)
        return torch.cat([t.flatten() for t in total]) / self.samples


def fvp(case: Case) -> Tensor:
    """F v for the fixed direction, (d,)."""
    return Product(case)(case.direction())


def solve_cg(case: Case) -> Tensor:
    """(F + damping I) x = v by SciPy's conjugate gradients, (d,)."""
    product, right = Product(case), case.direction()

    def damped(vector: np.ndarray) -> np.ndarray:
        v = torch.from_numpy(vector).view(-1)
        return (product(v) + DAMPING * v).numpy()

    shifted = LinearOperator((len(right), len(right)), matvec=damped, dtype=np.float32)
    found, _ = cg(shifted, right.numpy(), rtol=CG_RESIDUAL)
    return torch.from_numpy(found)
