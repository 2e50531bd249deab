"""The tangent kernels: K = J J^T summed layer by layer, half of it computed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from ..cases import OUTPUTS, Case
from ..program import leading_part
from .network import Layer, Network, contract

PANEL_FLOATS = 8_000_000
"""Floats of gradient rows that are formed, and multiplied, at a time."""


class Rows:
    """A layer's gradient rows of every sample and output, in what form is smallest.

    Those of vectors, biases and batch norm, are kept as they are: `vectors` (c, n, w).
    """

    def __init__(self, layer: Layer, n: int) -> None:
        self.layer, self.n, self.piece = layer, n, slice(0, 0)
        self.vectors = torch.empty(OUTPUTS, n, self.width)

    @property
    def width(self) -> int:
        return self.layer.o * self.layer.has_bias

    def start(self, a: Tensor) -> None:
        self.piece = slice(self.piece.stop, self.piece.stop + len(a))

    def finish(self) -> None:
        pass

    def panels(self) -> Iterator[Tensor]:
        """The weight's rows, (c, n, some), a part of them at a time."""
        yield from ()

    def one_by_one(self) -> Iterator[Tensor]:
        """The weight's rows, (n, all), for one output at a time."""
        for panel in self.panels():
            yield from panel


class LinearRows(Rows):
    """One position: g and a are kept, the rows g a^T never formed."""

    width = 0

    def __init__(self, layer: Layer, n: int) -> None:
        super().__init__(layer, n)
        self.a, self.g = torch.empty(n, layer.i), torch.empty(OUTPUTS, n, layer.o)

    def start(self, a: Tensor) -> None:
        super().start(a)
        self.a[self.piece] = a

    def add(self, k: int, g: Tensor) -> None:
        self.g[k, self.piece] = g

    @property
    def inputs(self) -> Tensor:
        """The kernel of the inputs, a a^T + 1, (n, n)."""
        return torch.addmm(self.a.new_ones(()), self.a, self.a.T)


class NormRows(Rows):
    """Two vectors."""

    @property
    def width(self) -> int:
        return self.layer.size

    def start(self, a: Tensor) -> None:
        super().start(a)
        self.x = self.layer.met(a)

    def add(self, k: int, g: Tensor) -> None:
        rows = self.layer.rows(g)
        weight, bias = self.vectors[k, self.piece].chunk(2, -1)
        torch.sum(rows * self.x, 1, out=weight)
        torch.sum(rows, 1, out=bias)


class ShiftRows(Rows):
    """What is added to the network's values: the gradient itself."""

    @property
    def width(self) -> int:
        return self.layer.size

    def add(self, k: int, g: Tensor) -> None:
        self.vectors[k, self.piece] = g.flatten(1)


class StoredRows(Rows):
    """Several positions, and gradient rows that are smaller than the gradient g: they are kept.

    Rows take p o i operations for each pair of samples and p pairs of outputs, products over pairs
    of positions t^2 (i + p o): more for every layer of these networks that has several.
    """

    def __init__(self, layer: Layer, n: int) -> None:
        super().__init__(layer, n)
        self.rows = torch.empty(OUTPUTS, n, layer.o, layer.i)

    def start(self, a: Tensor) -> None:
        super().start(a)
        self.u = self.layer.met(a)

    def add(self, k: int, g: Tensor) -> None:
        g = self.layer.rows(g)
        torch.bmm(g.transpose(1, 2), self.u, out=self.rows[k, self.piece])
        if self.layer.has_bias:
            torch.sum(g, 1, out=self.vectors[k, self.piece])

    def panels(self) -> Iterator[Tensor]:
        yield self.rows.flatten(2)


class StoredGradients(Rows):
    """Rows that are larger: g and the inputs are kept, rows formed in panels."""

    def __init__(self, layer: Layer, n: int) -> None:
        super().__init__(layer, n)
        self.g = torch.empty(OUTPUTS, n, layer.positions, layer.o)
        self.u = torch.empty(n, layer.positions, layer.i)

    def start(self, a: Tensor) -> None:
        super().start(a)
        self.u[self.piece] = self.layer.met(a)

    def add(self, k: int, g: Tensor) -> None:
        g = self.layer.rows(g)
        self.g[k, self.piece] = g
        if self.layer.has_bias:
            torch.sum(g, 1, out=self.vectors[k, self.piece])

    def panels(self) -> Iterator[Tensor]:
        n, _, i = self.u.shape
        width = min(self.layer.o, max(1, PANEL_FLOATS // (OUTPUTS * n * i)))
        space = self.u.new_empty(OUTPUTS * n * width * i)
        for channels in self.g.split(width, dim=-1):
            size = OUTPUTS * n * channels.shape[-1] * i
            panel = space[:size].view(OUTPUTS, n, channels.shape[-1], i)
            for g, out in zip(channels, panel, strict=True):
                torch.bmm(g.transpose(1, 2), self.u, out=out)
            yield panel.flatten(2)

    def one_by_one(self) -> Iterator[Tensor]:
        n, _, i = self.u.shape
        space = self.u.new_empty(n, self.layer.o, i)
        for g in self.g:
            torch.bmm(g.transpose(1, 2), self.u, out=space)
            yield space.flatten(1)


def _gather(case: Case) -> list[Rows]:
    """One forward and c backwards of every piece."""

    def part_of(layer: Layer) -> Rows:
        if layer.is_norm:
            kind = NormRows
        elif layer.is_shift:
            kind = ShiftRows
        elif layer.positions == 1:
            kind = LinearRows
        else:
            kind = StoredRows if layer.i < layer.positions else StoredGradients
        return kind(layer, case.kernel_samples)

    def units(outputs: Tensor) -> Tensor:
        return torch.eye(OUTPUTS)[:, None, :].expand(OUTPUTS, len(outputs), OUTPUTS)

    return contract(Network(case.model), [case.kernel_inputs], units, part_of)


def ntk_all(case: Case) -> Tensor:
    """All outputs: (n, c, n, c)."""
    n = case.kernel_samples
    kernel = torch.zeros(OUTPUTS, n, OUTPUTS, n)
    flat = kernel.view(OUTPUTS * n, OUTPUTS * n)
    parts = _gather(case)
    for part in parts:
        if isinstance(part, LinearRows):
            _add_linear(kernel, part)
        for panel in part.panels():
            _add_outer(flat, panel.flatten(0, 1))
    _add_outer(flat, torch.cat([part.vectors for part in parts], 2).flatten(0, 1))
    for i in range(OUTPUTS):
        for j in range(i):
            kernel[i, :, j, :] = kernel[j, :, i, :].T
    return kernel.permute(1, 0, 3, 2)


def _add_linear(kernel: Tensor, part: LinearRows) -> None:
    """Add (a a^T + 1) * (g g^T), one row of output blocks at a time, from the diagonal on."""
    inputs, n = part.inputs, part.n
    buffer = kernel.new_empty(n * OUTPUTS * n)
    for c in range(OUTPUTS):
        right = part.g[c:].flatten(0, 1)
        out = buffer[: n * len(right)].view(n, len(right))
        torch.mm(part.g[c], right.T, out=out)
        kernel[c, :, c:, :].addcmul_(out.view(n, -1, n), inputs[:, None, :])


def _add_outer(kernel: Tensor, rows: Tensor, blocks: int = 5) -> None:
    """Add rows rows^T, its block upper triangle."""
    size = len(kernel) // blocks
    for start in range(0, len(kernel), size):
        stop = start + size
        kernel[start:stop, start:].addmm_(rows[start:stop], rows[start:].T)


def ntk_sum(case: Case) -> Tensor:
    """The sum over outputs of K_cc, (n, n)."""
    kernel = torch.zeros(case.kernel_samples, case.kernel_samples)
    for part in _gather(case):
        if isinstance(part, LinearRows):
            g = part.g.transpose(0, 1).flatten(1)
            kernel.addcmul_(part.inputs, g @ g.T)
        for rows in chain(part.one_by_one(), part.vectors):
            kernel.addmm_(rows, rows.T)
    return kernel


def ntk_two(case: Case) -> Tensor:
    """All outputs of the first half of the samples with those of the second, (n/2, c, n/2, c)."""
    half = case.kernel_samples // 2
    kernel = torch.zeros(OUTPUTS, half, OUTPUTS, half)
    flat = kernel.view(OUTPUTS * half, OUTPUTS * half)
    parts = _gather(case)
    for part in parts:
        if isinstance(part, LinearRows):
            inputs = torch.addmm(part.a.new_ones(()), part.a[:half], part.a[half:].T)
            right = part.g[:, half:].flatten(0, 1)
            for rows, out in zip(part.g[:, :half], kernel, strict=True):
                out.addcmul_((rows @ right.T).view(half, OUTPUTS, half), inputs[:, None, :])
        for panel in part.panels():
            flat.addmm_(panel[:, :half].flatten(0, 1), panel[:, half:].flatten(0, 1).T)
    vectors = torch.cat([part.vectors for part in parts], 2)
    flat.addmm_(vectors[:, :half].flatten(0, 1), vectors[:, half:].flatten(0, 1).T)
    return kernel.permute(1, 0, 3, 2)


def ntk_eigh(case: Case) -> Tensor:
    """The largest eigenvalues of the summed kernel, and what they make of it, (n, n)."""
    return leading_part(ntk_sum(case))
