"""Affine uses: linear layers, convolutions and transposed convolutions are one thing.

Each output position is `W a_t + b` of a patch `a_t` of the input, so with the patches written out
a convolution of any dimension, stride, dilation and padding is a linear layer shared by its
positions, and a transposed convolution is a convolution of its input with zeros put in between.
Layouts:

    a   (G, i, n, t)   G groups, i inputs a group
    g   (G, o, n, t)   o outputs a group, for each cotangent

With one position the products factorise over samples, `(sum_k g^2)^T (a^2)`; with more, the
gradient of a sample is the product `g a^T` over positions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from pullback.linalg import add_gram_, sum_over_positions
from pullback.parameters import accumulation_dtype
from pullback.tape.use import Gradients, SavedInput, Squares, Use

# Bytes of per-sample gradients made at a time where only a sum over them is wanted. On a CPU they
# stay in the second-level cache and no fresh memory has to be mapped; a GPU wants large products.
CACHED_BYTES = {"cpu": 2**20, "cuda": 2**28}


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
        """The patch under each output position, in memory as (G, n, t, i) with channels last.

        Products over positions and those over samples are both quickest in that order.
        """
        if any(step > 1 for step in self.stretch):
            x = _stretched(x, self.stretch)
        if any(edge != (0, 0) for edge in self.padding):
            x = F.pad(x, [width for edge in reversed(self.padding) for width in edge])
        x = x.movedim(1, -1).contiguous()
        n, *space, channels = x.shape
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        out = [(s - r) // h + 1 for s, r, h in zip(space, reach, self.stride, strict=True)]
        each = channels // self.groups
        over_n, *over_space, over_c = x.stride()
        view = x.as_strided(
            (self.groups, n, *out, *self.kernel, each),
            (
                each * over_c,
                over_n,
                *(s * h for s, h in zip(over_space, self.stride, strict=True)),
                *(s * d for s, d in zip(over_space, self.dilation, strict=True)),
                over_c,
            ),
        )
        if self.transposed:  # its kernel runs backwards
            first = 2 + len(out)
            view = view.flip(tuple(range(first, first + len(self.kernel))))
        inputs = each * math.prod(self.kernel)
        return view.reshape(self.groups, n, math.prod(out), inputs).permute(0, 3, 1, 2)


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

    @property
    def _patch(self) -> tuple[int, ...]:
        """The shape of one group's patch: kernel, then channels."""
        kernel = self.weight[2:]
        return (*kernel, self.inputs // math.prod(kernel))

    def uncorrelated(self, inputs: Float[Tensor, "g ii ii"]) -> Float[Tensor, "g ii ii"]:
        """Second moments of patches without those between different points of the kernel.

        What is left is one matrix over channels, the mean over points, repeated at each of them;
        and the bias by itself.
        """
        kernel = math.prod(self._patch[:-1])
        patches = inputs[:, : self.inputs, : self.inputs]
        apart = patches.unflatten(2, (kernel, -1)).unflatten(1, (kernel, -1))
        channels = apart.diagonal(dim1=1, dim2=3).mean(-1)  # (G, C, C)
        out = torch.zeros_like(inputs)
        for group, one in enumerate(channels):
            out[group, : self.inputs, : self.inputs] = torch.block_diag(*[one] * kernel)
        if self.bias:
            out[:, -1, -1] = inputs[:, -1, -1]
        return out

    def weight_of(self, rows: Shaped[Tensor, "*b g o i"]) -> Tensor:
        """Values for each weight in the weight's own shape, (..., *weight)."""
        lead = rows.shape[:-3]
        apart = rows.reshape(*lead, self.groups, self.outputs, *self._patch)
        channels = len(lead) + (1 if self.transposed else 2)
        return apart.movedim(-1, channels).reshape(*lead, *self.weight)

    def rows_of(self, weight: Tensor) -> Shaped[Tensor, "*b g o i"]:
        """A weight (..., *weight) as rows; the inverse of `weight_of`."""
        lead = weight.shape[: weight.ndim - len(self.weight)]
        apart = self.apart(weight).movedim(len(lead) + 2, -1)
        return apart.reshape(*lead, self.groups, self.outputs, self.inputs)

    def apart(self, weight: Tensor) -> Shaped[Tensor, "*b g o c *kernel"]:
        """A weight (..., *weight) by group, output, input channel and kernel: a view."""
        lead = weight.ndim - len(self.weight)
        weight = weight.unflatten(lead, (self.groups, -1))
        return weight.transpose(lead + 1, lead + 2) if self.transposed else weight

    def channels_first(self, patches: Float[Tensor, "g i n t"]) -> Float[Tensor, "g i n t"]:
        """Patches with their channels before the kernel, as in the weight."""
        if len(self.weight) == 2:
            return patches
        channels = patches.unflatten(1, self._patch).movedim(len(self._patch), 1)
        rows = channels.movedim((-2, -1), (1, 2))  # in memory as (G, n, t, i)
        return rows.flatten(3).permute(0, 3, 1, 2)

    def matrix(self, flat: Shaped[Tensor, "*b d"]) -> Shaped[Tensor, "*b g o ii"]:
        """Flat values [weight ..., bias ...] as one matrix [W | b] a group."""
        size = math.prod(self.weight)
        rows = self.rows_of(flat[..., :size].reshape(*flat.shape[:-1], *self.weight))
        if not self.bias:
            return rows
        bias = flat[..., size:].reshape(*flat.shape[:-1], self.groups, self.outputs, 1)
        return torch.cat([rows, bias], dim=-1)

    def flat(self, matrix: Shaped[Tensor, "*b g o ii"]) -> Shaped[Tensor, "*b d"]:
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
        front: what brings the samples of the operation's output to the front.
    """

    def __init__(
        self,
        weight: str | None,
        bias: str | None,
        shape: torch.Size,
        x: Tensor,
        window: Window | None,
        front: Callable[[Tensor], Tensor] = lambda output: output,
    ) -> None:
        self.weight, self.bias, self.window, self._front = weight, bias, window, front
        self.names = tuple(name for name in (weight, bias) if name is not None)
        groups, transposed = (window.groups, window.transposed) if window else (1, False)
        self.layout = AffineLayout(shape, groups, transposed, bias is not None)
        self.dtype = accumulation_dtype(x.dtype)
        self._x = SavedInput(x)
        self._projected: tuple[Tensor, Tensor] | None = None  # a basis, and the inputs in it

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

    def reduced(self) -> AffineUse:
        """The use with its inputs averaged over positions, as of a layer with one position."""
        use = copy.copy(self)
        use.release()
        use.a = self.a.mean(-1, keepdim=True)
        return use

    @cached_property
    def _position_gram(self) -> Float[Tensor, "g n t t"]:
        """The inner products of the inputs at each pair of positions."""
        inputs = _by_sample(self.a)
        return inputs.mT @ inputs

    def release(self) -> None:
        """Forget what was derived from the input; it is made again when asked for."""
        self.__dict__.pop("a", None)
        self.__dict__.pop("_position_gram", None)
        self._projected = None

    def lay_out(self, gradient: Tensor) -> Float[Tensor, "g o n t"]:
        gradient = self._front(gradient.to(self.dtype))
        if self.window is None:
            rows = gradient.reshape(len(gradient), -1, gradient.shape[-1])  # (n, t, o)
            return rows.permute(2, 0, 1).unsqueeze(0)
        channels = gradient.flatten(2).unflatten(1, (self.layout.groups, self.layout.outputs))
        return channels.permute(1, 2, 0, 3)

    @property
    def factorises(self) -> bool:
        return self._positions(self._x.get()) == 1

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

    def weight_rows(self, g: Gradients, out: Tensor | None = None) -> Float[Tensor, "k n g o i"]:
        """The gradient by the weight of each sample; `g` may hold some of the outputs only."""
        groups, o, n, _ = g[0].shape
        inputs = _by_sample(self.a).mT
        if out is None:
            out = g[0].new_empty(len(g), n, groups, o, self.layout.inputs)
        # With one position it is an outer product, which a matrix product takes five times as long.
        times = torch.mul if inputs.shape[-2] == 1 else torch.matmul
        for target, one in zip(out, g, strict=True):
            times(_by_sample(one), inputs, out=target.transpose(0, 1))
        return out

    def bias_rows(self, g: Gradients) -> Float[Tensor, "k n go"]:
        """The gradient by the bias of each sample."""
        return torch.stack([sum_over_positions(one).flatten(0, 1).T for one in g])

    def write_rows(
        self, g: Gradients, out: Float[Tensor, "k n d"], places: Mapping[str, slice]
    ) -> None:
        if self.weight is not None and self.weight in places:
            self._write_weight_rows(g, out[..., places[self.weight]])
        if self.bias is not None and self.bias in places:
            out[..., places[self.bias]] = self.bias_rows(g)

    def _write_weight_rows(self, g: Gradients, out: Float[Tensor, "k n w"]) -> None:
        rows = self.layout.apart(out.unflatten(2, self.layout.weight))  # (k, n, G, o, c, *kernel)
        if self.window is None and g[0].shape[-1] == 1:
            self.weight_rows(g, rows)
            return
        a = self.layout.channels_first(self.a)
        for target, one in zip(rows.transpose(1, 2), g, strict=True):
            for samples, chunk in self._in_cache([one], a):
                target[:, samples] = chunk.unflatten(3, target.shape[3:])

    def per_sample(self, g: Gradients) -> dict[str, Tensor]:
        out = {}
        if self.weight is not None:
            out[self.weight] = self.layout.weight_of(self.weight_rows(g))
        if self.bias is not None:
            out[self.bias] = self.bias_rows(g)
        return out

    def total(self, g: Gradients) -> dict[str, Tensor]:
        out, summed = {}, torch.stack(g).sum(0)
        if self.weight is not None:
            rows = summed.flatten(2) @ self.a.flatten(2).mT
            out[self.weight] = self.layout.weight_of(rows)
        if self.bias is not None:
            out[self.bias] = summed.sum((2, 3)).flatten()
        return out

    def squared_norm(self, g: Gradients) -> Tensor:
        _, o, n, t = g[0].shape
        if t == 1:
            size = self.a[..., 0].square().sum(1) if self.weight is not None else 0
            size = size + (self.bias is not None)  # (G, n)
            return (_squares(g)[..., 0].sum(1) * size).sum(0)
        total = g[0].new_zeros(n)
        if self.bias is not None:
            total += self.bias_rows(g).square_().sum((0, 2))
        if self.weight is None:
            return total
        # Either the gradient of each sample or the two Gram matrices of its positions.
        k, i = self.cotangents, self.layout.inputs
        if t * (k * o + i) < k * o * i:
            for one in map(_by_sample, g):
                total += ((one.mT @ one) * self._position_gram).sum((0, 2, 3))
            return total
        for samples, rows in self._in_cache(g, self.a):
            flat = rows.flatten(2)
            total[samples] += torch.linalg.vecdot(flat, flat).sum(0)
        return total

    def diagonal(self, g: Gradients) -> dict[str, Tensor]:
        out = {}
        squares = _squares(g)[..., 0] if g[0].shape[-1] == 1 else None
        if self.weight is not None:
            if squares is None:
                rows = self._sum_of_squares(self._in_cache(g, self.a))
            else:
                rows = squares @ self.a[..., 0].square().mT
            out[self.weight] = self.layout.weight_of(rows)
        if self.bias is not None:
            if squares is None:
                out[self.bias] = self.bias_rows(g).square_().sum((0, 1))
            else:
                out[self.bias] = squares.sum(-1).flatten()
        return out

    def _in_cache(self, g: Gradients, a: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Products `sum_t g_t a_t^T` (G, samples, o, i), a few at a time in reused memory."""
        groups, o, n, _ = g[0].shape
        inputs = _by_sample(a).mT
        room = CACHED_BYTES["cuda" if a.is_cuda else "cpu"]
        width = max(1, min(n, room // (groups * o * a.shape[1] * a.element_size())))
        buffer = a.new_empty(groups, width, o, a.shape[1])
        for one in map(_by_sample, g):
            for start in range(0, n, width):
                samples = slice(start, min(start + width, n))
                chunk = buffer[:, : samples.stop - start]
                torch.matmul(one[:, samples], inputs[:, samples], out=chunk)
                yield samples, chunk

    @staticmethod
    def _sum_of_squares(products: Iterator[tuple[slice, Tensor]]) -> Float[Tensor, "g o i"]:
        """The squares of products (G, samples, o, i), summed over all samples."""
        total: Tensor | None = None
        for _, rows in products:
            if total is None:
                total = torch.zeros_like(rows)
            total[:, : rows.shape[1]].addcmul_(rows, rows)
        assert total is not None  # there is at least one sample
        return total.sum(1)

    # What Kronecker-factored metrics need. The homogeneous coordinate of the bias is the last one.

    def add_input_gram_(self, total: Float[Tensor, "g i i"]) -> int:
        """Add `sum a~ a~^T` over samples and positions (lower triangle); return their number."""
        a = self.a.flatten(2)
        add_gram_(total[:, : self.layout.inputs, : self.layout.inputs], a)
        if self.bias is not None:
            total[:, -1, : self.layout.inputs] += a.sum(2)
            total[:, -1, -1] += a.shape[2]
        return a.shape[2]

    def add_gradient_gram_(self, total: Float[Tensor, "g o o"], g: Gradients) -> None:
        """Add `sum g g^T` over samples, positions and cotangents (lower triangle)."""
        _, o, _, t = g[0].shape
        for one in g:
            if t > o and one.stride(1) != 1:  # one product a sample, rather than a copy of all
                rows = _by_sample(one)
                total += (rows @ rows.mT).sum(1)
            else:
                add_gram_(total, one.flatten(2))

    def projected_squares(
        self, g: Gradients, left: Float[Tensor, "g o o"], right: Float[Tensor, "g i i"]
    ) -> Float[Tensor, "g o i"]:
        """The squares of `left^T (sum_t g_t a~_t^T) right`, summed over samples and cotangents."""
        _, o, _, t = g[0].shape
        if t == 1:
            inputs = self._projected_input(right)[..., 0].square()
            return _squares([_turned(one, left) for one in g])[..., 0] @ inputs.mT
        # A projection can be made before the sum over positions or after it, whichever is less.
        early_left, early_right = t < self.layout.inputs, t < self.cotangents * o
        if early_left:
            g = [_turned(one, left) for one in g]
        a = self._projected_input(right) if early_right else self.homogeneous()
        products = self._in_cache(g, a)
        if not early_right:
            products = ((samples, rows @ right.unsqueeze(1)) for samples, rows in products)
        if not early_left:
            products = ((samples, left.mT.unsqueeze(1) @ rows) for samples, rows in products)
        return self._sum_of_squares(products)

    def squares_and_cross(
        self, g: Gradients
    ) -> tuple[Float[Tensor, "g o ii"], Float[Tensor, "g o ii"]]:
        """The squares of the gradients of [W | b], and their products with those of the bias."""
        if g[0].shape[-1] == 1:
            squares, inputs = _squares(g)[..., 0], self.homogeneous()[..., 0]
            return squares @ inputs.square().mT, squares @ inputs.mT
        layout = self.layout
        squares = self.a.new_zeros(layout.groups, layout.outputs, layout.columns)
        cross = torch.zeros_like(squares)
        for _, rows in self._in_cache(g, self.homogeneous()):
            squares += rows.square().sum(1)
            cross += (rows * rows[..., -1:]).sum(1)
        return squares, cross

    def homogeneous(self) -> Float[Tensor, "g ii n t"]:
        """The inputs with the coordinate of the bias, if there is one."""
        if self.bias is None:
            return self.a
        rows = self.a.permute(0, 2, 3, 1)
        return torch.cat([rows, torch.ones_like(rows[..., :1])], dim=-1).permute(0, 3, 1, 2)

    def _projected_input(self, right: Tensor) -> Float[Tensor, "g ii n t"]:
        """The homogeneous inputs in the basis `right`, kept for the next cotangents."""
        if self._projected is not None and self._projected[0] is right:
            return self._projected[1]
        rows = self.a.flatten(2).mT @ right[:, : self.layout.inputs]
        if self.bias is not None:
            rows += right[:, -1].unsqueeze(1)
        projected = rows.mT.unflatten(2, self.a.shape[2:])
        self._projected = right, projected
        return projected


def _by_sample(values: Float[Tensor, "g c n t"]) -> Float[Tensor, "g n c t"]:
    return values.transpose(1, 2)


def _squares(g: Gradients) -> Float[Tensor, "g o n t"]:
    """The squares, summed over cotangents."""
    if isinstance(g, Squares):
        return g[0]
    total = torch.zeros_like(g[0])
    for one in g:
        total.addcmul_(one, one)
    return total


def _turned(g: Float[Tensor, "g o n t"], left: Float[Tensor, "g o o"]) -> Float[Tensor, "g o n t"]:
    """A gradient in the basis `left`."""
    return (left.mT @ g.flatten(2)).unflatten(2, g.shape[2:])
