"""The layers of infinitely wide networks: what they do to kernels, and their finite relatives."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from pullback.errors import InputError

PADDINGS = ("same", "circular", "valid")
CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
POOLINGS = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
# Rounding hides whether vectors at a smaller angle, about 1e-7, are parallel; 1 minus its cosine.
PARALLEL = 32 * torch.finfo(torch.float64).eps

Size = int | tuple[int, ...]


class Layer(ABC):
    """A layer of an infinitely wide network, and of its finite relatives."""

    def sources(self, size: int, axis: int) -> Int[Tensor, "out k"]:
        """The positions that each output position reads along an axis, -1 for zeros outside.

        Args:
            size: how many positions the axis has.
            axis: its number.
        """
        return torch.arange(size).unsqueeze(1)

    def after(self, positions: Sequence[int]) -> tuple[int, ...]:
        """The sizes of the axes of the output, from those of the input.

        Raises:
            InputError: the layer cannot take such an input.
        """
        return tuple(len(self.sources(size, axis)) for axis, size in enumerate(positions))

    @abstractmethod
    def finite(
        self, channels: int, positions: Sequence[int], width: int, generator: torch.Generator
    ) -> nn.Module:
        """The layer of a finite network.

        Args:
            channels: of its input.
            positions: the sizes of the axes of its input.
            width: channels of its output, where it has weights.
            generator: draws these.
        """


class Linear(Layer):
    """A layer that averages kernels over pairs of positions.

    Attributes:
        mixes: whether each position read in one sample meets each one read in the other, or only
            its counterpart.
    """

    mixes = False

    def nngp(self, mean: Tensor) -> Tensor:
        """The covariance of the outputs, from the mean over pairs of positions."""
        return mean

    def tangent(self, mean: Tensor, nngp: Tensor) -> Tensor:
        """The tangent kernel of the outputs, from its mean and from their covariance."""
        return mean


class Affine(Linear):
    """A layer with weights; a pre-activation is `weight / sqrt(fan_in) W x + bias b`.

    Attributes:
        weight: the scale of the weights W, which are drawn from N(0, 1).
        bias: the scale of the biases b, likewise; 0 for none.

    Raises:
        InputError: a scale is negative or not finite, or that of the weights is 0.
    """

    weight: int | float
    bias: int | float

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise InputError(f"weight: {self.weight}; give a positive scale, such as 2**0.5")
        if not 0 <= self.bias < math.inf:
            raise InputError(f"bias: {self.bias}; give a positive scale, or 0 for no bias")

    def nngp(self, mean: Tensor) -> Tensor:
        return self.weight**2 * mean + self.bias**2

    def tangent(self, mean: Tensor, nngp: Tensor) -> Tensor:
        return self.weight**2 * mean + nngp

    @abstractmethod
    def fan(self, channels: int, positions: Sequence[int]) -> tuple[int, ...]:
        """The shape of the weights of one output channel."""

    @abstractmethod
    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The operation, without scales."""

    def finite(
        self, channels: int, positions: Sequence[int], width: int, generator: torch.Generator
    ) -> nn.Module:
        return _Scaled(self, (width, *self.fan(channels, positions)), generator)


@dataclass(frozen=True)
class Dense(Affine):
    """A fully connected layer, of all channels and positions of its input.

    On inputs of shape (n, channels, positions...) it flattens these first.

    Attributes:
        weight: the scale of the weights, drawn from N(0, 1) and divided by the root of their number
            for each output.
        bias: the scale of the biases, drawn from N(0, 1).

    Raises:
        InputError: a scale is negative or not finite, or that of the weights is 0.

    Example:
        >>> import torch
        >>> from pullback.kernels.infinite import Dense, InfiniteNetwork
        >>> InfiniteNetwork([Dense(weight=2.0, bias=1.0)]).tangent_kernel(torch.eye(2)).matrix
        tensor([[3., 1.],
                [1., 3.]])
    """

    weight: int | float = 1.0
    bias: int | float = 0.0

    def sources(self, size: int, axis: int) -> Int[Tensor, "out k"]:
        return torch.arange(size).unsqueeze(0)

    def after(self, positions: Sequence[int]) -> tuple[int, ...]:
        return ()

    def fan(self, channels: int, positions: Sequence[int]) -> tuple[int, ...]:
        return (channels * math.prod(positions),)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x.flatten(1), weight, bias)


@dataclass(frozen=True)
class Convolution(Affine):
    """A convolution along one, two or three axes, those of its input (n, channels, positions...).

    Attributes:
        kernel: how many positions it reads along each axis: a number, or one for each.
        weight: the scale of the weights, drawn from N(0, 1) and divided by the root of their number
            for each output channel, those that meet padding among them.
        bias: the scale of the biases, drawn from N(0, 1).
        stride: the distance between output positions, likewise a number or one for each axis.
        padding: "same" for zeros around the input, so that there are as many outputs as inputs
            with stride 1 (of an even kernel the longer part is behind); "circular" for the other
            end of the input instead; "valid" for none.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import torch
        >>> from pullback.kernels.infinite import Convolution, Dense, InfiniteNetwork
        >>> wide = InfiniteNetwork([Convolution(3, padding="circular"), Dense()])
        >>> wide.tangent_kernel(torch.ones(1, 4, 8)).matrix
        tensor([[2.]])
    """

    kernel: Size
    weight: int | float = 1.0
    bias: int | float = 0.0
    stride: Size = 1
    padding: str = "same"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_size("kernel", self.kernel)
        _check_size("stride", self.stride)
        if self.padding not in PADDINGS:
            raise InputError(f"padding: {self.padding!r}; choose one of {PADDINGS}")

    def _edges(self, axis: int) -> tuple[int, int]:
        """How many positions are added before and behind."""
        extra = 0 if self.padding == "valid" else _along(self.kernel, axis) - 1
        return extra // 2, extra - extra // 2

    def sources(self, size: int, axis: int) -> Int[Tensor, "out k"]:
        before, behind = self._edges(axis)
        positions = torch.arange(-before, size + behind)
        if self.padding == "circular":
            positions %= size
        else:
            positions[positions >= size] = -1
            positions.clamp_(min=-1)
        return positions.unfold(0, _along(self.kernel, axis), _along(self.stride, axis))

    def after(self, positions: Sequence[int]) -> tuple[int, ...]:
        smallest = self.kernel if self.padding != "same" else 1
        _check_window(self, positions, smallest, self.kernel, self.stride)
        return super().after(positions)

    def fan(self, channels: int, positions: Sequence[int]) -> tuple[int, ...]:
        return (channels, *(_along(self.kernel, axis) for axis in range(len(positions))))

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        axes = x.ndim - 2
        # The last axis first, as `pad` has it.
        edges = [edge for axis in reversed(range(axes)) for edge in self._edges(axis)]
        padded = F.pad(x, edges, "circular" if self.padding == "circular" else "constant")
        strides = [_along(self.stride, axis) for axis in range(axes)]
        return CONVOLUTIONS[axes - 1](padded, weight, bias, strides)


@dataclass(frozen=True)
class AveragePool(Linear):
    """The mean over windows of positions, or over all of them.

    Attributes:
        window: positions along each axis, a number or one for each; None for all (global average
            pooling).
        stride: the distance between windows; None for windows side by side.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import torch
        >>> from pullback.kernels.infinite import AveragePool, Dense, InfiniteNetwork
        >>> x = torch.tensor([[[1.0, 0.0, 0.0, 0.0]], [[0.0, 1.0, 0.0, 0.0]]])
        >>> InfiniteNetwork([Dense()]).tangent_kernel(x).matrix
        tensor([[0.2500, 0.0000],
                [0.0000, 0.2500]])
        >>> InfiniteNetwork([AveragePool(), Dense()]).tangent_kernel(x).matrix
        tensor([[0.0625, 0.0625],
                [0.0625, 0.0625]])
    """

    window: Size | None = None
    stride: Size | None = None

    mixes = True

    def __post_init__(self) -> None:
        for name, size in (("window", self.window), ("stride", self.stride)):
            if size is not None:
                _check_size(name, size)

    def _extent(self, size: int, axis: int) -> tuple[int, int]:
        """Window and stride along an axis."""
        window = size if self.window is None else _along(self.window, axis)
        return window, window if self.stride is None else _along(self.stride, axis)

    def sources(self, size: int, axis: int) -> Int[Tensor, "out k"]:
        return torch.arange(size).unfold(0, *self._extent(size, axis))

    def after(self, positions: Sequence[int]) -> tuple[int, ...]:
        sizes = [size for size in (self.window, self.stride) if size is not None]
        _check_window(self, positions, self.window or 1, *sizes)
        return super().after(positions)

    def finite(
        self, channels: int, positions: Sequence[int], width: int, generator: torch.Generator
    ) -> nn.Module:
        return _Applied(self)

    def apply(self, x: Tensor) -> Tensor:
        """The operation."""
        extents = [self._extent(size, axis) for axis, size in enumerate(x.shape[2:])]
        windows, strides = zip(*extents, strict=True)
        return POOLINGS[len(extents) - 1](x, windows, strides)


class Activation(Layer):
    """A function of each entry; a subclass gives it and its expectations."""

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """The function f."""

    @abstractmethod
    def dual(self, first: Tensor, second: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """`E f(u) f(v)` and `E f'(u) f'(v)` for Gaussian u and v of mean zero.

        Args:
            first: the variances of u.
            second: those of v.
            covariance: of u and v; the three shapes can be broadcast against each other.
        """

    def finite(
        self, channels: int, positions: Sequence[int], width: int, generator: torch.Generator
    ) -> nn.Module:
        return _Applied(self)


@dataclass(frozen=True)
class Relu(Activation):
    """`max(x, 0)`, whose expectations are arc-cosine kernels of degree 1 and 0.

    Source:
        Cho and Saul 2009, eq. 6 with their factor 2 left out.

    Example:
        >>> import torch
        >>> from pullback.kernels.infinite import Relu
        >>> one = torch.ones(1)
        >>> Relu().dual(one, one, one)
        (tensor([0.5000]), tensor([0.5000]))
    """

    def apply(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def dual(self, first: Tensor, second: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        area = _area(first, second, covariance)
        slope = 0.5 - torch.atan2(area, covariance) / (2 * math.pi)
        return slope * covariance + area / (2 * math.pi), slope


@dataclass(frozen=True)
class Erf(Activation):
    """The error function, a sigmoid between -1 and 1.

    Source:
        Williams 1997, eq. 11; its derivative's expectation by the same Gaussian integral.

    Example:
        >>> import torch
        >>> from pullback.kernels.infinite import Erf
        >>> one = torch.ones(1)
        >>> Erf().dual(one, one, one)
        (tensor([0.4646]), tensor([0.5694]))
    """

    def apply(self, x: Tensor) -> Tensor:
        return torch.erf(x)

    def dual(self, first: Tensor, second: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        # The root of (1 + 2 first)(1 + 2 second) - (2 covariance)^2, without its cancellation.
        root = (1 + 2 * (first + second) + 4 * _area(first, second, covariance) ** 2).sqrt()
        return 2 / math.pi * torch.atan2(2 * covariance, root), 4 / math.pi / root


@dataclass(frozen=True)
class Identity(Activation):
    """No activation, for deep linear networks.

    Example:
        >>> import torch
        >>> from pullback.kernels.infinite import Dense, Identity, InfiniteNetwork
        >>> deep = InfiniteNetwork([Dense(), Identity(), Dense(), Identity(), Dense()])
        >>> deep.tangent_kernel(torch.ones(1, 5)).matrix
        tensor([[3.]])
    """

    def apply(self, x: Tensor) -> Tensor:
        return x

    def dual(self, first: Tensor, second: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        return covariance, torch.ones_like(covariance)


class _Applied(nn.Module):
    """A layer without parameters."""

    def __init__(self, layer: Activation | AveragePool) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer.apply(x)

    def extra_repr(self) -> str:
        return str(self.layer)


class _Scaled(nn.Module):
    """An affine layer in the NTK parametrisation.

    What goes in and comes out is scaled, not the parameters: these reach their operation as they
    are, so that the tape has a rule for it.
    """

    def __init__(self, layer: Affine, shape: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.layer = layer
        self.weight = nn.Parameter(torch.randn(*shape, generator=generator))
        self.bias: nn.Parameter | None = None
        if layer.bias:
            self.bias = nn.Parameter(torch.randn(shape[0], generator=generator))
        self.outer = layer.bias or 1.0
        self.inner = layer.weight / math.sqrt(math.prod(shape[1:])) / self.outer

    def forward(self, x: Tensor) -> Tensor:
        return self.outer * self.layer.apply(self.inner * x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return str(self.layer)


def _area(first: Tensor, second: Tensor, covariance: Tensor) -> Tensor:
    """The root of `first second - covariance^2`: of the parallelogram with u and v as its sides."""
    # Lengths instead of cosines, which have no value at variance zero.
    length = first.sqrt() * second.sqrt()
    apart = length - covariance.abs()
    apart = torch.where(apart > PARALLEL * length, apart, 0)
    return apart.sqrt() * (length + covariance.abs()).sqrt()


def _along(size: Size, axis: int) -> int:
    return size if isinstance(size, int) else size[axis]


def _check_size(name: str, size: Size) -> None:
    sizes = (size,) if isinstance(size, int) else size
    if not sizes or min(sizes) < 1:
        raise InputError(f"{name}: {size}; give a positive number, or one for each axis")


def _check_window(layer: Layer, positions: Sequence[int], least: Size, *sizes: Size) -> None:
    """Raise InputError where there are fewer positions than `least`, or sizes for other axes."""
    if not positions:
        raise InputError(
            f"layers: {layer} needs positions, and after Dense() or for samples of shape "
            "(features,) there are none; give samples of shape (channels, positions...)"
        )
    if any(isinstance(size, tuple) and len(size) != len(positions) for size in sizes):
        raise InputError(
            f"layers: {layer} has sizes for another number of axes than the {len(positions)} of "
            "its input; give one for each"
        )
    if any(_along(least, axis) > size for axis, size in enumerate(positions)):
        raise InputError(
            f"layers: {layer} does not fit into its input of {' x '.join(map(str, positions))} "
            "positions; take a smaller one, or padding='same'"
        )
