"""Affine uses: linear layers, convolutions and transposed convolutions are one thing.

Each output position is `W a_t + b` of a patch `a_t` of the input, so with the patches written out
a convolution of any dimension, stride, dilation and padding is a linear layer shared by its
positions, and a transposed convolution is a convolution of its input with zeros put in between.
Layouts:

    a   (G, i, n, t)      G groups, i inputs a group
    g   (k, G, o, n, t)   o outputs a group

With one position the products factorise over samples, `(sum_k g^2)^T (a^2)`; with more, the
gradient of a sample is the product `g a^T` over positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pullback.linalg import add_gram_
from pullback.parameters import accumulation_dtype
from pullback.tape.use import SavedInput, Use

# Bytes of per-sample gradients made at a time where only a sum over them is wanted: they stay in
# the second-level cache, and no fresh memory has to be mapped.
CACHED_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Window:
    """How a convolution cuts its input into patches.

    Attributes:
        kernel, stride, dilation: one number for each spatial dimension.
        padding: (before, after) for each spatial dimension; negative numbers crop.
        groups: channel groups that do not mix.
        transposed: whether it is a transposed convolution, as a convolution of a stretched input.
        stretch: the distance between input points (the stride of a transposed convolution).
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int
    transposed: bool
    stretch: tuple[int, ...]

    def patches(self, x: Float[Tensor, "n c *space"]) -> Float[Tensor, "g i n t"]:
        """The patch under each output position."""
        if any(step > 1 for step in self.stretch):
            x = _stretched(x, self.stretch)
        if any(edge != (0, 0) for edge in self.padding):
            x = F.pad(x, [width for edge in reversed(self.padding) for width in edge])
        x = x.contiguous()
        n, channels, *space = x.shape
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        out = [(s - r) // h + 1 for s, r, h in zip(space, reach, self.stride, strict=True)]
        over_n, over_c, *over_space = x.stride()
        view = x.as_strided(
            (channels, *self.kernel, n, *out),
            (
                over_c,
                *(s * d for s, d in zip(over_space, self.dilation, strict=True)),
                over_n,
                *(s * h for s, h in zip(over_space, self.stride, strict=True)),
            ),
        )
        if self.transposed:  # its kernel runs backwards
            view = view.flip(tuple(range(1, 1 + len(self.kernel))))
        inputs = channels // self.groups * math.prod(self.kernel)
        return view.reshape(self.groups, inputs, n, math.prod(out))


def _stretched(x: Tensor, steps: Sequence[int]) -> Tensor:
    """The input with `step - 1` zeros between neighbours."""
    space = [(size - 1) * step + 1 for size, step in zip(x.shape[2:], steps, strict=True)]
    wide = x.new_zeros(*x.shape[:2], *space)
    places = [slice(None, None, step) for step in steps]
    wide[(slice(None), slice(None), *places)] = x
    return wide


@dataclass(frozen=True)
class AffineLayout:
    """How a weight, and its bias if there is one, form a matrix for each group of channels.

    Attributes:
        weight: the weight's shape.
        groups: channel groups G.
        transposed: whether the weight has its inputs in front, as transposed convolutions do.
        bias: whether a bias is the last column (the homogeneous coordinate).
    """

    weight: torch.Size
    groups: int
    transposed: bool
    bias: bool

    @property
    def outputs(self) -> int:
        """Outputs o of one group."""
        return self.weight[1] if self.transposed else self.weight[0] // self.groups

    @property
    def inputs(self) -> int:
        """Inputs i of one group: the length of a patch."""
        return math.prod(self.weight) // (self.outputs * self.groups)

    @property
    def columns(self) -> int:
        """Columns of one group's matrix: its inputs, and the bias."""
        return self.inputs + self.bias

    def weight_of(self, rows: Float[Tensor, "*b g o i"]) -> Tensor:
        """Values for each weight in the weight's own shape, (..., *weight)."""
        lead = rows.shape[:-3]
        if not self.transposed:
            return rows.reshape(*lead, *self.weight)
        channels, kernel = self.weight[0] // self.groups, self.weight[2:]
        apart = rows.reshape(*lead, self.groups, self.outputs, channels, *kernel)
        return apart.transpose(len(lead) + 1, len(lead) + 2).reshape(*lead, *self.weight)

    def rows_of(self, weight: Tensor) -> Float[Tensor, "*b g o i"]:
        """A weight (..., *weight) as rows; the inverse of `weight_of`."""
        lead = weight.shape[: weight.ndim - len(self.weight)]
        if self.transposed:
            channels, kernel = self.weight[0] // self.groups, self.weight[2:]
            weight = weight.reshape(*lead, self.groups, channels, self.outputs, *kernel)
            weight = weight.transpose(len(lead) + 1, len(lead) + 2)
        return weight.reshape(*lead, self.groups, self.outputs, self.inputs)

    def matrix(self, flat: Float[Tensor, "*b d"]) -> Float[Tensor, "*b g o ii"]:
        """Flat values [weight ..., bias ...] as one matrix [W | b] a group."""
        size = math.prod(self.weight)
        rows = self.rows_of(flat[..., :size].reshape(*flat.shape[:-1], *self.weight))
        if not self.bias:
            return rows
        bias = flat[..., size:].reshape(*flat.shape[:-1], self.groups, self.outputs, 1)
        return torch.cat([rows, bias], dim=-1)

    def flat(self, matrix: Float[Tensor, "*b g o ii"]) -> Float[Tensor, "*b d"]:
        """The inverse of `matrix`."""
        weight = self.weight_of(matrix[..., : self.inputs]).flatten(-len(self.weight))
        if not self.bias:
            return weight
        return torch.cat([weight, matrix[..., -1].flatten(-2)], dim=-1)


class AffineUse(Use):
    """A use `W a + b` of a weight and a bias, either of which may be no parameter of ours.

    Args:
        weight, bias: their names, or None.
        shape: the weight's shape.
        x: the operation's input, with the samples in front.
        window: how a convolution cuts its input, None for a linear layer.
    """

    def __init__(
        self,
        weight: str | None,
        bias: str | None,
        shape: torch.Size,
        x: Tensor,
        window: Window | None,
    ) -> None:
        self.weight, self.bias, self.window = weight, bias, window
        self.names = tuple(name for name in (weight, bias) if name is not None)
        groups, transposed = (window.groups, window.transposed) if window else (1, False)
        self.layout = AffineLayout(shape, groups, transposed, bias is not None)
        self.dtype = accumulation_dtype(x.dtype)
        self._x = SavedInput(x)

    @property
    def way(self) -> str:  # type: ignore[override]
        return "linear" if self.window is None else "convolution"

    @cached_property
    def a(self) -> Float[Tensor, "g i n t"]:
        """What went in: one column for each position, as (G, i, n, t)."""
        x = self._x.get()
        if self.window is not None:
            return self.window.patches(x.to(self.dtype))
        flat = x.to(self.dtype).reshape(len(x), -1, x.shape[-1])  # (n, t, i)
        return flat.permute(2, 0, 1).unsqueeze(0)

    def release(self) -> None:
        """Forget the patches; they are made again when asked for."""
        self.__dict__.pop("a", None)

    def stack(self, gradients: Sequence[Tensor]) -> Float[Tensor, "k g o n t"]:
        if self.window is None:
            rows = [g.to(self.dtype).reshape(len(g), -1, g.shape[-1]) for g in gradients]
            stacked = rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(rows)
            return stacked.permute(0, 3, 1, 2).unsqueeze(1)
        first = gradients[0]
        n, channels = first.shape[:2]
        shape = (len(gradients), channels, n, first[0, 0].numel())
        stacked = first.new_empty(shape, dtype=self.dtype)
        for target, g in zip(stacked, gradients, strict=True):
            target.copy_(g.reshape(n, channels, -1).transpose(0, 1))
        return stacked.unflatten(1, (self.layout.groups, self.layout.outputs))

    @property
    def floats(self) -> tuple[int, int]:
        layout, positions = self.layout, self._positions(self._x.get())
        return layout.groups * layout.inputs * positions, layout.groups * layout.outputs * positions

    def _positions(self, x: Tensor) -> int:
        if self.window is None:
            return x[0].numel() // x.shape[-1]
        window = self.window
        count = 1
        for axis, size in enumerate(x.shape[2:]):
            before, after = window.padding[axis]
            wide = (size - 1) * window.stretch[axis] + 1 + before + after
            reach = window.dilation[axis] * (window.kernel[axis] - 1) + 1
            count *= (wide - reach) // window.stride[axis] + 1
        return count

    def matrices(self, g: Float[Tensor, "k g o n t"]) -> Float[Tensor, "k n g o ii"]:
        """The gradient [W | b] of each sample; `g` may hold some of the outputs only."""
        rows = []
        if self.weight is not None:
            merged = _merged(g).permute(0, 2, 1, 3) @ self.a.permute(0, 2, 3, 1)  # (G, n, k o, i)
            rows.append(merged.unflatten(2, (g.shape[0], g.shape[2])).permute(2, 1, 0, 3, 4))
        if self.bias is not None:
            rows.append(g.sum(-1).permute(0, 3, 1, 2).unsqueeze(-1))
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=-1)

    def per_sample(self, g: Tensor) -> dict[str, Tensor]:
        matrices = self.matrices(g)
        out = {}
        if self.weight is not None:
            out[self.weight] = self.layout.weight_of(matrices[..., : self.layout.inputs])
        if self.bias is not None:
            out[self.bias] = matrices[..., -1].flatten(2)
        return out

    def squared_norm(self, g: Tensor) -> Tensor:
        total = g.new_zeros(g.shape[3])
        if self.bias is not None:
            total += g.sum(-1).square().sum((0, 1, 2))
        if self.weight is None:
            return total
        k, groups, o, n, t = g.shape
        if t == 1:
            return total + (g.square().sum((0, 2)) * self.a.square().sum(1)).sum((0, 2))
        # Either the sample's gradient, (k o) t i products, or the two Gram matrices of positions.
        if t * (k * o + self.layout.inputs) < k * o * self.layout.inputs:
            backward = _merged(g).permute(0, 2, 3, 1)  # (G, n, t, k o)
            forward = self.a.permute(0, 2, 3, 1)  # (G, n, t, i)
            grams = (backward @ backward.mT) * (forward @ forward.mT)
            return total + grams.sum((0, 2, 3))
        for samples, rows in self._row_chunks(g, self.a):
            total[samples] += rows.square_().sum((0, 2, 3))
        return total

    def diagonal(self, g: Tensor) -> dict[str, Tensor]:
        out = {}
        if self.bias is not None:
            out[self.bias] = g.sum(-1).square().sum((0, 3)).flatten()
        if self.weight is not None:
            out[self.weight] = self.layout.weight_of(self.squares(g, self.a))
        return out

    def squares(self, g: Tensor, a: Tensor) -> Float[Tensor, "g o i"]:
        """The squares of `sum_t g_t a_t^T`, summed over samples and cotangents."""
        k, groups, o, n, t = g.shape
        if t == 1:
            return g[..., 0].square().sum(0) @ a[..., 0].square().mT
        total = g.new_zeros(groups, k * o, a.shape[1])
        for _, rows in self._row_chunks(g, a):
            if rows.shape[1] == 1:
                total.addcmul_(rows[:, 0], rows[:, 0])
            else:
                total += rows.square_().sum(1)
        return total.unflatten(1, (k, o)).sum(1)

    def _row_chunks(self, g: Tensor, a: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Per-sample gradients (G, samples, k o, i), some samples at a time, in reused memory."""
        merged = _merged(g).permute(0, 2, 1, 3)  # (G, n, k o, t)
        inputs = a.permute(0, 2, 3, 1)  # (G, n, t, i)
        groups, n, rows, _ = merged.shape
        size = max(1, CACHED_BYTES // (groups * rows * inputs.shape[-1] * g.element_size()))
        if g.is_cuda:
            size = n
        buffer = g.new_empty(groups, min(size, n), rows, inputs.shape[-1])
        for start in range(0, n, size):
            samples = slice(start, min(start + size, n))
            chunk = buffer[:, : samples.stop - start]
            if groups == 1:
                torch.bmm(merged[0, samples], inputs[0, samples], out=chunk[0])
            else:
                torch.matmul(merged[:, samples], inputs[:, samples], out=chunk)
            yield samples, chunk

    # What Kronecker-factored metrics need. The homogeneous coordinate of the bias is the last one.

    def add_input_gram_(self, total: Float[Tensor, "g i i"]) -> int:
        """Add `sum a~ a~^T` over samples and positions (lower triangle); return their number."""
        a = self.a.flatten(2)
        add_gram_(total[:, : self.layout.inputs, : self.layout.inputs], a)
        if self.bias is not None:
            total[:, -1, : self.layout.inputs] += a.sum(2)
            total[:, -1, -1] += a.shape[2]
        return a.shape[2]

    def add_gradient_gram_(self, total: Float[Tensor, "g o o"], g: Tensor) -> None:
        """Add `sum g g^T` over samples, positions and cotangents (lower triangle)."""
        for one in g:
            add_gram_(total, one.flatten(2))

    def projected_squares(
        self,
        g: Tensor,
        left: Float[Tensor, "g o o"],
        right: Float[Tensor, "g i i"],
    ) -> Float[Tensor, "g o i"]:
        """The squares of `left^T (sum_t g_t a~_t^T) right`, summed over samples and cotangents."""
        k, groups, o, n, t = g.shape
        i = self.layout.inputs
        a = self.a
        if t == 1:
            return self.squares(_turned(g, left), self._projected_input(right))
        # A projection can be made before the sum over positions or after it, whichever is less.
        early_left, early_right = t < i, t < k * o
        if early_left:
            g = _turned(g, left)
        if early_right:
            a = self._projected_input(right)
        elif self.bias is not None:
            a = torch.cat([a, torch.ones_like(a[:, :1])], dim=1)
        total = g.new_zeros(groups, k, o, right.shape[-1])
        for _, rows in self._row_chunks(g, a):
            if not early_right:
                rows = rows @ right.unsqueeze(1)
            rows = rows.unflatten(2, (k, o))
            if not early_left:
                rows = left.mT[:, None, None] @ rows
            total += rows.square_().sum(1)
        return total.sum(1)

    def _projected_input(self, right: Tensor) -> Float[Tensor, "g i n t"]:
        """The homogeneous inputs in the basis `right`."""
        flat = self.a.flatten(2)  # (G, i, n t)
        out = right[:, : self.layout.inputs].mT @ flat
        if self.bias is not None:
            out += right[:, -1].unsqueeze(2)
        return out.unflatten(2, self.a.shape[2:])


def _merged(g: Float[Tensor, "k g o n t"]) -> Float[Tensor, "g ko n t"]:
    """Cotangents and outputs as one axis of rows."""
    return g.transpose(0, 1).flatten(1, 2)


def _turned(g: Float[Tensor, "k g o n t"], left: Float[Tensor, "g o o"]) -> Tensor:
    """The gradients in the basis `left`."""
    return (left.mT @ g.flatten(3)).unflatten(3, g.shape[3:])
