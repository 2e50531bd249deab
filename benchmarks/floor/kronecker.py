"""The Kronecker-factored operations, on linear and convolution layers only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cases import KRONECKER, OUTPUTS, Case
from .network import Layer, Network, contract, exact_cotangents, inputs_of
from .products import add_gram, fill_lower, in_cache, slab

Basis = tuple[Tensor, Tensor]


class Factors:
    """A = mean over samples and positions of u u^T (a 1 appended for a bias), G = mean of g g^T."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.a, self.ones = torch.zeros(layer.i, layer.i), torch.zeros(layer.i)
        self.g = torch.zeros(layer.o, layer.o)

    def start(self, a: Tensor) -> None:
        u = self.layer.met(a).flatten(0, 1)
        add_gram(self.a, u)
        if self.layer.has_bias:
            self.ones += u.sum(0)

    def add(self, k: int, g: Tensor) -> None:
        rows = self.layer.rows(g).flatten(0, 1)
        self.g.addmm_(rows.T, rows)

    def finish(self) -> None:
        pass

    def result(self, samples: int) -> tuple[Tensor, Tensor]:
        a, count = fill_lower(self.a), samples * self.layer.positions
        if self.layer.has_bias:
            last = torch.cat([self.ones, self.ones.new_full((1,), count)])
            a = torch.cat([torch.cat([a, self.ones[:, None]], 1), last[None]], 0)
        return a / count, fill_lower(self.g) / samples


class LinearFactors(Factors):
    """One position: one product for all cotangents; `keep` what the scales of EKFAC need."""

    def __init__(self, layer: Layer, keep: bool) -> None:
        super().__init__(layer)
        self.keep = keep
        self.taken: list[Tensor] = []
        self.kept: list[list[Tensor]] = []

    def start(self, a: Tensor) -> None:
        super().start(a)
        self.taken.append(a)
        self.kept.append([])

    def add(self, k: int, g: Tensor) -> None:
        self.kept[-1].append(g)

    def finish(self) -> None:
        add_gram(self.g, torch.cat(self.kept[-1]))
        if not self.keep:
            self.taken.clear()
            self.kept.clear()

    def scales(self, basis_a: Tensor, basis_g: Tensor) -> Tensor:
        """((g U_G)^2)^T (a U_A)^2, the squares summed over cotangents first."""
        total = torch.zeros(len(basis_g), len(basis_a))
        for a, gradients in zip(self.taken, self.kept, strict=True):
            inputs = torch.addmm(basis_a[-1], a, basis_a[:-1])
            projected = torch.empty_like(gradients[0])
            squares = torch.zeros_like(projected)
            for g in gradients:
                torch.mm(g, basis_g, out=projected)
                squares.addcmul_(projected, projected)
            total.addmm_(squares.T, inputs.square_())
        return total


def _factors(
    case: Case, cotangents: Callable[[Tensor], Tensor], keep: bool = False
) -> list[Factors]:
    def part_of(layer: Layer) -> Factors:
        return LinearFactors(layer, keep) if layer.is_linear else Factors(layer)

    network = Network(case.model, KRONECKER)
    return contract(network, inputs_of(case), cotangents, part_of)


def _matrices(case: Case, layers: list[Layer]) -> list[Tensor]:
    """The fixed direction, layer by layer, (o, i) or (o, i + 1)."""
    pieces = case.direction(kronecker=True).split([layer.size for layer in layers])
    return [layer.matrix(piece) for layer, piece in zip(layers, pieces, strict=True)]


def _with_direction(
    case: Case, parts: list[Factors]
) -> Iterator[tuple[Layer, Tensor, Tensor, Tensor]]:
    """Each layer, the fixed direction (o, i), A and G."""
    for part, v in zip(parts, _matrices(case, [part.layer for part in parts]), strict=True):
        yield part.layer, v, *part.result(case.samples)


def exact_factors(case: Case) -> list[tuple[Layer, Tensor, Tensor, Tensor]]:
    """Each layer, the fixed direction (o, i), A and G by exact cotangents."""
    return list(_with_direction(case, _factors(case, exact_cotangents)))


def _kfac(case: Case, cotangents: Callable[[Tensor], Tensor]) -> Tensor:
    product, trace = torch.zeros(()), torch.zeros(())
    for _, v, a, g in _with_direction(case, _factors(case, cotangents)):
        product += ((g @ v @ a) * v).sum()
        trace += a.trace() * g.trace()
    return torch.stack([product, trace])


def kfac(case: Case) -> Tensor:
    """v^T K v and the trace, exact cotangents."""
    return _kfac(case, exact_cotangents)


def kfac_mc(case: Case) -> Tensor:
    """v^T K v and the trace, one label drawn from the model: one cotangent."""
    generator = torch.Generator().manual_seed(0)

    def sampled(outputs: Tensor) -> Tensor:
        p = torch.softmax(outputs, 1)
        labels = torch.multinomial(p, 1, generator=generator)
        return p.scatter_add(1, labels, -torch.ones_like(p[:, :1])).unsqueeze(0)

    return _kfac(case, sampled)


class ConvolutionScales:
    """Squared per-sample products in the eigenbasis.

    Each side is projected before the product with the other or after it, whichever takes fewer
    operations; the inputs once, not once for each cotangent.
    """

    def __init__(self, layer: Layer, basis_a: Tensor, basis_g: Tensor) -> None:
        self.layer, self.basis_a, self.basis_g = layer, basis_a, basis_g
        self.size = self.width = len(basis_a)
        self.early_a = layer.positions < (OUTPUTS - 1) * layer.o
        self.early_g = layer.positions < self.width
        if self.early_a:  # columns to a multiple of 16, which the products like better
            self.width = -(-self.width // 16) * 16
            self.basis_a = F.pad(basis_a, (0, self.width - self.size))
        self.squares = torch.zeros(slab(layer.o, self.width), layer.o, self.width)
        self.buffer = torch.empty_like(self.squares)

    def start(self, a: Tensor) -> None:
        u, i = self.layer.met(a), self.layer.i
        if self.early_a:
            flat, basis = u.flatten(0, 1), self.basis_a
            u = torch.addmm(basis[-1], flat, basis[:i]) if self.layer.has_bias else flat @ basis
            u = u.view(len(a), -1, self.width)
        elif self.layer.has_bias:
            u = torch.cat([u, torch.ones_like(u[..., :1])], -1)
        self.u = u

    def add(self, k: int, g: Tensor) -> None:
        g = self.layer.rows(g)
        if self.early_g:
            g = g @ self.basis_g
        for p in in_cache(g, self.u, self.buffer):
            if not self.early_a:
                p = p @ self.basis_a
            if not self.early_g:
                p = self.basis_g.T @ p
            self.squares[: len(p)].addcmul_(p, p)

    def finish(self) -> None:
        del self.u

    def result(self) -> Tensor:
        return self.squares.sum(0)[:, : self.size]


def eigenbases(case: Case) -> list[tuple[Layer, Tensor, Tensor, Tensor, Tensor]]:
    """Each layer, the fixed direction, the eigenvectors of A and G, and the scales (o, i).

    The factors, their eigenvectors, and the scales in a second pass. Linear layers need no second
    pass, their inputs and gradients were kept.
    """
    parts = _factors(case, exact_cotangents, keep=True)
    bases = {
        part.layer.name: tuple(torch.linalg.eigh(f)[1] for f in part.result(case.samples))
        for part in parts
    }
    scales = {
        part.layer.name: part.scales(*bases[part.layer.name])
        for part in parts
        if isinstance(part, LinearFactors)
    }
    if len(scales) < len(parts):
        convolutions = contract(
            Network(case.model, (nn.Conv2d,)),
            inputs_of(case),
            exact_cotangents,
            lambda layer: ConvolutionScales(layer, *bases[layer.name]),
        )
        scales |= {part.layer.name: part.result() for part in convolutions}
    layers = [part.layer for part in parts]
    return [
        (layer, v, *bases[layer.name], scales[layer.name].div_(case.samples))
        for layer, v in zip(layers, _matrices(case, layers), strict=True)
    ]


def ekfac(case: Case) -> Tensor:
    """v^T K v and the trace."""
    product, trace = torch.zeros(()), torch.zeros(())
    for _, v, basis_a, basis_g, scales in eigenbases(case):
        product += ((basis_g.T @ v @ basis_a).square() * scales).sum()
        trace += scales.sum()
    return torch.stack([product, trace])
