"""The matrix itself: dense, its blocks, its factor, its eigenvectors, its quasi-diagonal."""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cases import OUTPUTS, Case
from .fisher import ConvolutionDiagonal, LinearDiagonal
from .network import Layer, Network, contract, exact_cotangents, inputs_of
from .products import add_gram, fill_lower, in_cache


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

    def block(self, other: Kept, samples: int) -> Tensor:
        """The block of two layers, in the order (o, i + 1) of each.

        It is sum_n (sum_k g_k h_k^T)_n (x) (a b^T)_n: one product of (o o', n) with (n, i i'), the
        cotangents summed before it; the gradient rows are never formed.
        """
        total = torch.zeros(())
        for g, h, a, b in zip(self.kept, other.kept, self.taken, other.taken, strict=True):
            outer_g = torch.bmm(g.transpose(1, 2), h).flatten(1)
            outer_a = (a[:, :, None] * b[:, None, :]).flatten(1)
            total = total + outer_g.T @ outer_a
        shape = (self.layer.o, other.layer.o, self.layer.i + 1, other.layer.i + 1)
        block = total.view(shape).transpose(1, 2)
        return block.reshape(shape[0] * shape[2], shape[1] * shape[3]) / samples


class Rows:
    """The gradients of a layer's weight and bias, (k n, o (i + 1)) for each piece."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.pieces: list[Tensor] = []

    def start(self, a: Tensor) -> None:
        u = self.layer.met(a)
        self.u = F.pad(u, (0, 1), value=1.0) if self.layer.has_bias else u
        self.found = self.u.new_empty(OUTPUTS - 1, len(a), self.layer.o, self.u.shape[2])

    def add(self, k: int, g: Tensor) -> None:
        rows = self.layer.rows(g).transpose(1, 2)
        # With one position it is an outer product, which `bmm` takes five times as long.
        times = torch.mul if self.layer.is_linear else torch.bmm
        times(rows, self.u, out=self.found[k])

    def finish(self) -> None:
        self.pieces.append(self.found.flatten(0, 1).flatten(1))
        del self.u, self.found

    def block(self, other: Rows, samples: int) -> Tensor:
        """The block of two layers, in the order (o, i + 1) of each."""
        total = torch.zeros(self.layer.size, other.layer.size)
        for left, right in zip(self.pieces, other.pieces, strict=True):
            if self is other:
                add_gram(total, left)
            else:
                total.addmm_(left.T, right)
        return (fill_lower(total) if self is other else total) / samples


def _parts(case: Case) -> list[Kept] | list[Rows]:
    network = Network(case.model)
    part_of = Kept if all(layer.is_linear for layer in network.layers) else Rows
    return contract(network, inputs_of(case), exact_cotangents, part_of)


def _places(layer: Layer, start: int) -> Tensor:
    """Where the entries (o, i + 1) of a layer lie in the flat vector."""
    return layer.matrix(torch.arange(start, start + layer.size)).flatten()


def dense(case: Case) -> Tensor:
    """The Fisher matrix (d, d), block by block, the upper ones by symmetry."""
    parts = _parts(case)
    ends = [0, *accumulate(part.layer.size for part in parts)]
    found = torch.empty(ends[-1], ends[-1])
    places = [_places(part.layer, start) for part, start in zip(parts, ends[:-1], strict=True)]
    for j, left in enumerate(parts):
        for m, right in enumerate(parts[: j + 1]):
            block = left.block(right, case.samples)
            found[places[j][:, None], places[m]] = block
            if m < j:
                found[places[m][:, None], places[j]] = block.T
    return found


def block(case: Case) -> Tensor:
    """The diagonal blocks one after another, each flattened."""
    found = []
    for part in _parts(case):
        own, places = part.block(part, case.samples), _places(part.layer, 0)
        ordered = torch.empty_like(own)
        ordered[places[:, None], places] = own
        found.append(ordered.flatten())
    return torch.cat(found)


def lowrank(case: Case) -> Tensor:
    """v^T F v and the trace from the rows of R, formed and kept."""
    parts = contract(Network(case.model), inputs_of(case), exact_cotangents, Rows)
    pieces = case.direction().split([part.layer.size for part in parts])
    vectors = [part.layer.matrix(v).flatten() for part, v in zip(parts, pieces, strict=True)]
    product = trace = torch.zeros(())
    for rows in zip(*(part.pieces for part in parts), strict=True):
        along = sum(r @ v for r, v in zip(rows, vectors, strict=True))
        product = product + along @ along
        trace = trace + sum(torch.dot(r.flatten(), r.flatten()) for r in rows)
    return torch.stack([product, trace]) / case.samples


def eigh(case: Case, matrix: Tensor) -> Tensor:
    """The eigenvalues, largest first, and F v from them and the eigenvectors."""
    values, vectors = torch.linalg.eigh(matrix)
    along = vectors.T @ case.direction()
    return torch.cat([values.flip(0), vectors @ (values * along)])


class LinearQuasi(LinearDiagonal):
    """The diagonal, and sum_n (sum_k g_k^2) a^T, what a weight shares with its bias."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        self.cross = torch.zeros(layer.o, layer.i)

    def finish(self) -> None:
        super().finish()
        self.cross.addmm_(self.squares.T, self.a)


class ConvolutionQuasi(ConvolutionDiagonal):
    """The diagonal, and the per-sample products times those of the bias."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        self.shared = torch.zeros_like(self.squares)

    def add(self, k: int, g: Tensor) -> None:
        rows = self.layer.rows(g)
        bias = rows.sum(1)
        if self.bias is not None:
            self.bias += bias.square().sum(0)
        start = 0
        for p in in_cache(rows, self.u, self.buffer):
            if self.bias is not None:
                self.shared[: len(p)].addcmul_(p, bias[start : start + len(p), :, None])
            self.squares[: len(p)].addcmul_(p, p)
            start += len(p)

    @property
    def weight(self) -> Tensor:
        return self.squares.sum(0)

    @property
    def cross(self) -> Tensor:
        return self.shared.sum(0)


def quasi(case: Case) -> Tensor:
    """The quasi-diagonal matrix times the fixed direction, (d,)."""

    def part_of(layer: Layer) -> LinearQuasi | ConvolutionQuasi:
        return LinearQuasi(layer) if layer.is_linear else ConvolutionQuasi(layer)

    parts = contract(Network(case.model), inputs_of(case), exact_cotangents, part_of)
    found: list[Tensor] = []
    for part, piece in zip(
        parts, case.direction().split([part.layer.size for part in parts]), strict=True
    ):
        v, i, cross = part.layer.matrix(piece), part.layer.i, part.cross
        weight = part.weight * v[:, :i]
        if part.bias is None:
            found += part.layer.flat(weight, None)
            continue
        weight.addcmul_(cross, v[:, i:])
        found += part.layer.flat(weight, part.bias * v[:, i] + (cross * v[:, :i]).sum(1))
    return torch.cat(found) / case.samples
