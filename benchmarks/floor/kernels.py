"""The floor of the tangent kernels: K = J J^T summed layer by layer, half of it computed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from ..cases import OUTPUTS, Case
from .chain import Chain
from .metrics import PIECE, network_of
from .network import Layer

PANEL_FLOATS = 8_000_000
"""Floats of gradient rows that are formed, and multiplied, at a time."""


class LinearRows:
    """T = 1: the rows g a^T are never formed."""

    def __init__(self, layer: Layer, n: int, output: Tensor) -> None:
        self.layer = layer
        self.a = output.new_empty(n, layer.i)
        self.g = output.new_empty(OUTPUTS, n, layer.o)

    def start(self, piece: slice, a: Tensor, output: Tensor) -> None:
        self.piece = piece
        self.a[piece] = a

    def add(self, k: int, g: Tensor) -> None:
        self.g[k, self.piece] = g

    @property
    def inputs(self) -> Tensor:
        """The kernel of the inputs, a a^T + 1, (n, n)."""
        return torch.addmm(self.a.new_ones(()), self.a, self.a.T)


class ConvolutionRows:
    """What both ways of keeping a convolution's gradient rows share: shift and norm parameters."""

    def __init__(self, layer: Layer, n: int, output: Tensor) -> None:
        self.layer = layer
        self.norm_rows = output.new_empty(OUTPUTS, n, layer.o) if layer.norm else None
        self.shift = output.new_empty(OUTPUTS, n, layer.o) if layer.shifted else None

    def extras(self) -> list[Tensor]:
        return [rows for rows in (self.norm_rows, self.shift) if rows is not None]


class StoredRows(ConvolutionRows):
    """Gradient rows smaller than the gradient g itself: they are kept."""

    def __init__(self, layer: Layer, n: int, output: Tensor) -> None:
        super().__init__(layer, n, output)
        self.rows = output.new_empty(OUTPUTS, n, layer.o, layer.i)

    def start(self, piece: slice, a: Tensor, output: Tensor) -> None:
        self.piece, self.u = piece, self.layer.patches(a)

    def add(self, k: int, g: Tensor) -> None:
        layer, g, rows = self.layer, self.layer.rows(g), self.rows[k, self.piece]
        torch.bmm(g.transpose(1, 2), self.u, out=rows)
        if layer.shifted:
            torch.sum(g, 1, out=self.shift[k, self.piece])
        if layer.norm is not None:
            self.norm_rows[k, self.piece] = layer.gamma_rows(rows, self.shift[k, self.piece])
            rows *= layer.norm.scale[:, None]

    def panels(self) -> Iterator[Tensor]:
        yield self.rows.flatten(2)


class StoredGradients(ConvolutionRows):
    """Gradient rows larger than g: g and the patches are kept, the rows formed in panels."""

    def __init__(self, layer: Layer, n: int, output: Tensor) -> None:
        super().__init__(layer, n, output)
        positions = output[0, 0].numel()
        self.g = output.new_empty(OUTPUTS, n, positions, layer.o)
        self.u = output.new_empty(n, positions, layer.i)

    def start(self, piece: slice, a: Tensor, output: Tensor) -> None:
        self.piece, norm = piece, self.layer.norm
        self.u[piece] = self.layer.patches(a)
        if norm is not None:
            self.normalised = self.layer.normalised(output)

    def add(self, k: int, g: Tensor) -> None:
        layer, g = self.layer, self.layer.rows(g)
        if layer.shifted:
            torch.sum(g, 1, out=self.shift[k, self.piece])
        if layer.norm is None:
            self.g[k, self.piece] = g
        else:
            self.norm_rows[k, self.piece] = (g * self.normalised).sum(1)
            torch.mul(g, layer.norm.scale, out=self.g[k, self.piece])

    def panels(self) -> Iterator[Tensor]:
        n, _, i = self.u.shape
        width = max(1, PANEL_FLOATS // (OUTPUTS * n * i))
        space = self.u.new_empty(OUTPUTS * n * min(width, self.layer.o) * i)
        for channels in self.g.split(width, dim=-1):
            size = OUTPUTS * n * channels.shape[-1] * i
            panel = space[:size].view(OUTPUTS, n, channels.shape[-1], i)
            for g, out in zip(channels, panel, strict=True):
                torch.bmm(g.transpose(1, 2), self.u, out=out)
            yield panel.flatten(2)


Rows = LinearRows | StoredRows | StoredGradients


def _rows_of(layer: Layer, n: int, output: Tensor) -> Rows:
    if layer.is_linear:
        return LinearRows(layer, n, output)
    smaller = layer.o * layer.i < output[0].numel()
    return (StoredRows if smaller else StoredGradients)(layer, n, output)


def _gather(case: Case) -> list[Rows]:
    """One forward and c backwards of every piece."""
    network, x = network_of(case), case.kernel_inputs
    size = len(x) if isinstance(network, Chain) else PIECE
    parts: list[Rows] = []
    for start in range(0, len(x), size):
        record = network.record(x[start : start + size])
        if not parts:
            parts = [
                _rows_of(layer, len(x), y)
                for layer, y in zip(network.layers, record.kept, strict=True)
            ]
        m = len(record.outputs)
        for part, a, y in zip(parts, record.taken, record.kept, strict=True):
            part.start(slice(start, start + m), a, y)
        units = torch.eye(OUTPUTS)[:, None, :].expand(OUTPUTS, m, OUTPUTS)
        for k, gradients in enumerate(record.gradients(units)):
            for part, g in zip(parts, gradients, strict=True):
                part.add(k, g)
    return parts


def ntk_all(case: Case) -> Tensor:
    """All outputs: (n, c, n, c)."""
    n = case.kernel_samples
    kernel = torch.zeros(OUTPUTS, n, OUTPUTS, n)
    parts = _gather(case)
    flat = kernel.view(OUTPUTS * n, OUTPUTS * n)
    for part in parts:
        if isinstance(part, LinearRows):
            _add_linear(kernel, part)
            continue
        for panel in part.panels():
            _add_outer(flat, panel.flatten(0, 1))
    extras = [rows for part in parts if not part.layer.is_linear for rows in part.extras()]
    if extras:
        _add_outer(flat, torch.cat(extras, 2).flatten(0, 1))
    for i in range(OUTPUTS):
        for j in range(i):
            kernel[i, :, j, :] = kernel[j, :, i, :].T
    return kernel.permute(1, 0, 3, 2)


def _add_linear(kernel: Tensor, part: LinearRows) -> None:
    """Add (a a^T + 1) * (g g^T), one row of output blocks at a time, from the diagonal on."""
    inputs, n = part.inputs, part.a.shape[0]
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
    n = case.kernel_samples
    kernel = torch.zeros(n, n)
    for part in _gather(case):
        if isinstance(part, LinearRows):
            g = part.g.transpose(0, 1).flatten(1)
            kernel.addcmul_(part.inputs, g @ g.T)
            continue
        for panel in chain(part.panels(), part.extras()):
            for rows in panel:
                kernel.addmm_(rows, rows.T)
    return kernel
