"""The floor of the Kronecker-factored operations."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cases import OUTPUTS, Case
from .chain import Chain, ChainRecord
from .metrics import network_of, pieces
from .network import FastNetwork, Layer, to_patch_order
from .products import (
    add_gram,
    exact_cotangents,
    fill_lower,
    in_cache,
    sampled_cotangents,
    slab,
)

Cotangents = Callable[[Tensor], Tensor]
Basis = tuple[Tensor, ...]


class Factors:
    """A = mean over samples and positions of u u^T (a 1 appended for a bias), G = mean of g g^T."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.a = layer.original.new_zeros(layer.i, layer.i)
        self.ones = layer.original.new_zeros(layer.i)
        self.g = layer.original.new_zeros(layer.o, layer.o)
        self.positions = 1

    def start(self, a: Tensor, cotangents: int) -> None:
        u = self.layer.patches(a)
        self.positions = u.shape[1]
        self._add_inputs(u.flatten(0, 1))

    def _add_inputs(self, u: Tensor) -> None:
        add_gram(self.a, u)
        if self.layer.bias is not None:
            self.ones += u.sum(0)

    def add(self, k: int, g: Tensor) -> None:
        rows = self.layer.rows(g).flatten(0, 1)
        self.g.addmm_(rows.T, rows)

    def finish(self) -> None:
        pass

    def result(self, samples: int) -> tuple[Tensor, Tensor]:
        a, count = fill_lower(self.a), samples * self.positions
        if self.layer.bias is not None:
            last = torch.cat([self.ones, self.ones.new_full((1,), count)])
            a = torch.cat([torch.cat([a, self.ones[:, None]], 1), last[None]], 0)
        g = fill_lower(self.g)
        if self.layer.norm is not None:
            scale = self.layer.norm.scale
            g *= scale[:, None] * scale
        return a / count, g / samples


class LinearFactors(Factors):
    """T = 1: one product for all cotangents; inputs and gradients are kept for the scales."""

    def __init__(self, layer: Layer, keep: bool) -> None:
        super().__init__(layer)
        self.keep = keep
        self.taken: list[Tensor] = []
        self.kept: list[Tensor] = []

    def start(self, a: Tensor, cotangents: int) -> None:
        self._add_inputs(a)
        self.taken.append(a)
        self.cotangents = cotangents

    def add(self, k: int, g: Tensor) -> None:
        if k == 0:
            self.kept.append(g.new_empty(self.cotangents, *g.shape))
        self.kept[-1][k] = g

    def finish(self) -> None:
        add_gram(self.g, self.kept[-1].flatten(0, 1))
        if not self.keep:
            self.taken.clear()
            self.kept.clear()

    def scales(self, basis_a: Tensor, basis_g: Tensor) -> Tensor:
        """((g U_G)^2)^T (a U_A)^2, the squares summed over cotangents first."""
        total = basis_a.new_zeros(len(basis_g), len(basis_a))
        for a, gradients in zip(self.taken, self.kept, strict=True):
            inputs = torch.addmm(basis_a[-1], a, basis_a[:-1])
            projected = torch.empty_like(gradients[0])
            squares = torch.zeros_like(projected)
            for g in gradients:
                torch.mm(g, basis_g, out=projected)
                squares.addcmul_(projected, projected)
            total.addmm_(squares.T, inputs.square_())
        return total


def _gather(
    case: Case, network: Chain | FastNetwork, cotangents: Cotangents, keep: bool = False
) -> list[Factors]:
    parts = [
        LinearFactors(layer, keep) if layer.is_linear else Factors(layer)
        for layer in network.layers
    ]
    for x in pieces(case, network):
        record = network.record(x)
        u = cotangents(record.outputs)
        for part, a in zip(parts, record.taken, strict=True):
            part.start(a, len(u))
        if isinstance(record, ChainRecord):
            for part, rows in zip(parts, record.stacked(u), strict=True):
                part.kept.append(rows)
        else:
            for k, gradients in enumerate(record.gradients(u)):
                for part, g in zip(parts, gradients, strict=True):
                    part.add(k, g)
        for part in parts:
            part.finish()
    return parts


def _matrices(case: Case, network: Chain | FastNetwork) -> list[Tensor]:
    """The fixed direction, layer by layer, (o, i) or (o, i + 1), in patch order."""
    flat, found = case.direction(), []
    for layer in network.layers:
        matrix = to_patch_order(flat[layer.weight].view(layer.shape))
        if layer.bias is not None:
            matrix = torch.cat([matrix, flat[layer.bias][:, None]], 1)
        found.append(matrix)
    return found


def _kfac(case: Case, cotangents: Cotangents) -> Tensor:
    network = network_of(case)
    factors = [part.result(case.samples) for part in _gather(case, network, cotangents)]
    product, trace = torch.zeros(()), torch.zeros(())
    for (a, g), v in zip(factors, _matrices(case, network), strict=True):
        product += ((g @ v @ a) * v).sum()
        trace += a.trace() * g.trace()
    return torch.stack([product, trace])


def kfac(case: Case) -> Tensor:
    """v^T K v and the trace, exact cotangents."""
    return _kfac(case, exact_cotangents)


def kfac_mc(case: Case) -> Tensor:
    """v^T K v and the trace, one sampled label."""
    generator = torch.Generator().manual_seed(0)
    return _kfac(case, lambda outputs: sampled_cotangents(outputs, generator))


class ConvolutionScales:
    """Squared per-sample products in the eigenbasis.

    Each side is projected before the product with the other or after it, whichever takes fewer
    operations; the inputs once, not once for each cotangent.
    """

    def __init__(self, layer: Layer, basis_a: Tensor, basis_g: Tensor, positions: int) -> None:
        self.layer = layer
        self.basis_a, self.basis_g = basis_a, basis_g
        if layer.norm is not None:
            self.basis_g = basis_g * layer.norm.scale[:, None]
        self.size = self.width = len(basis_a)
        self.early_a = positions < (OUTPUTS - 1) * layer.o
        self.early_g = positions < self.width
        if self.early_a:  # columns to a multiple of 16, which the products like better
            self.width = -(-self.width // 16) * 16
            self.basis_a = F.pad(basis_a, (0, self.width - self.size))
        self.squares = basis_a.new_zeros(slab(layer.o, self.width), layer.o, self.width)
        self.buffer = torch.empty_like(self.squares)

    def start(self, a: Tensor) -> None:
        u, i = self.layer.patches(a), self.layer.i
        has_bias = self.layer.bias is not None
        if self.early_a:
            flat, basis = u.flatten(0, 1), self.basis_a
            u = torch.addmm(basis[-1], flat, basis[:i]) if has_bias else flat @ basis
            u = u.view(len(a), -1, self.width)
        elif has_bias:
            u = torch.cat([u, torch.ones_like(u[..., :1])], -1)
        self.u = u

    def add(self, g: Tensor) -> None:
        g = self.layer.rows(g)
        if self.early_g:
            g = g @ self.basis_g
        for _, p in in_cache(g, self.u, self.buffer):
            if not self.early_a:
                p = p @ self.basis_a
            if not self.early_g:
                p = self.basis_g.T @ p
            self.squares[: len(p)].addcmul_(p, p)

    def result(self) -> Tensor:
        return self.squares.sum(0)[:, : self.size]


def ekfac(case: Case) -> Tensor:
    """v^T K v and the trace: the factors, their eigenvectors, and the scales in a second pass.

    Linear layers need no second pass, their inputs and gradients were kept.
    """
    network = network_of(case)
    factors = _gather(case, network, exact_cotangents, keep=True)
    bases = [tuple(torch.linalg.eigh(f)[1] for f in part.result(case.samples)) for part in factors]
    product, trace = torch.zeros(()), torch.zeros(())
    all_scales = _scales(case, network, factors, bases)
    matrices = _matrices(case, network)
    for scales, (basis_a, basis_g), v in zip(all_scales, bases, matrices, strict=True):
        product += ((basis_g.T @ v @ basis_a).square() * scales).sum() / case.samples
        trace += scales.sum() / case.samples
    return torch.stack([product, trace])


def _scales(
    case: Case, network: Chain | FastNetwork, factors: list[Factors], bases: list[Basis]
) -> list[Tensor]:
    """Sums over samples and cotangents of the squared gradients in the eigenbasis, (o, i)."""
    parts = {
        j: ConvolutionScales(part.layer, *basis, part.positions)
        for j, (part, basis) in enumerate(zip(factors, bases, strict=True))
        if not isinstance(part, LinearFactors)
    }
    for x in pieces(case, network) if parts else ():
        record = network.record(x)
        for j, part in parts.items():
            part.start(record.taken[j])
        for gradients in record.gradients(exact_cotangents(record.outputs)):
            for j, part in parts.items():
                part.add(gradients[j])
    return [
        part.scales(*basis) if isinstance(part, LinearFactors) else parts[j].result()
        for j, (part, basis) in enumerate(zip(factors, bases, strict=True))
    ]
