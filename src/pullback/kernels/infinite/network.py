"""Networks of infinite width: their tangent kernel and their Gaussian process."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pullback.batches import all_finite, check_fits, tracked, working_memory
from pullback.errors import InputError
from pullback.kernels.dense import TangentKernel
from pullback.kernels.infinite.layers import Activation, Affine, Dense, Linear
from pullback.kernels.infinite.recursion import Recursion, plan


class InfiniteNetwork:
    """A network in the limit of infinite width, in the NTK parametrisation.

    Every layer with weights but the last has infinitely many channels, all weights are drawn from
    N(0, 1), and the outputs are independent of each other; kernels are those of one output.

    Args:
        layers: `Dense`, `Convolution`, `AveragePool` and activations. The last one is `Dense`, and
            an activation comes after a layer with weights, or after the pooling of its outputs.

    Raises:
        InputError: the layers cannot follow each other so.

    Source:
        Jacot et al. 2018, theorem 1; Lee et al. 2018; for convolutions and pooling Arora et al.
        2019, section 4. Ortiz-Jimenez et al. 2021, section 2, refer to this limit for the kernels
        of finite networks.

    Example:
        >>> import torch, pullback as pb
        >>> from pullback.kernels.infinite import Dense, InfiniteNetwork, Relu
        >>> wide = InfiniteNetwork([Dense(2**0.5), Relu(), Dense(2**0.5)])
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> wide.tangent_kernel(x).matrix
        tensor([[2.0000, 1.8183],
                [1.8183, 4.0000]])
        >>> finite = wide.finite(shape=(2,), width=10_000)
        >>> pb.tangent_kernel(finite, x, outputs=0).matrix
        tensor([[2.0, 1.8],
                [1.8, 4.0]])
    """

    def __init__(self, layers: Sequence[Linear | Activation]) -> None:
        self.layers = tuple(layers)
        before: object = "the inputs"
        gaussian = False
        for layer in self.layers:
            if not isinstance(layer, Linear | Activation):
                raise InputError(
                    f"layers: {layer} is no layer of infinite width; see pullback.kernels.infinite"
                )
            if isinstance(layer, Activation) and not gaussian:
                raise InputError(
                    f"layers: {layer} after {before}, where nothing is Gaussian over the weights; "
                    "put Dense() or a Convolution in between"
                )
            gaussian = isinstance(layer, Affine) or (gaussian and isinstance(layer, Linear))
            before = layer
        if not isinstance(before, Dense):
            raise InputError(f"layers: {before} at the end; add Dense(), which reads out")

    def __repr__(self) -> str:
        return f"InfiniteNetwork({list(self.layers)})"

    def tangent_kernel(
        self,
        x: Float[Tensor, "n channels ..."],
        y: Float[Tensor, "m channels ..."] | None = None,
        memory: int | None = None,
        progress: bool | None = None,
    ) -> TangentKernel:
        """The tangent kernel (NTK) of one output; not divided by anything.

        It is computed in float64. Samples at an angle below 1e-7 count as parallel.

        Args:
            x: n samples, shape (n, features) or (n, channels, positions...) with up to three axes
                of positions.
            y: n' samples of the same shape, or None for x again.
            memory: bytes for intermediate results; None for a default.
            progress: whether to show a progress bar; None shows one on a terminal.

        Returns:
            A kernel with a matrix of shape (n, n'), in the precision of x (at least float32).

        Raises:
            InputError: the samples do not fit the layers or each other, are not finite, or the
                kernel cannot fit into memory.

        Source:
            Jacot et al. 2018, theorem 1; Arora et al. 2019, section 4.
        """
        return self._kernels(x, y, memory, progress)[1]

    def nngp_kernel(
        self,
        x: Float[Tensor, "n channels ..."],
        y: Float[Tensor, "m channels ..."] | None = None,
        memory: int | None = None,
        progress: bool | None = None,
    ) -> TangentKernel:
        """The covariance of one output over the random weights (NNGP); not divided by anything.

        It is also the tangent kernel of the last layer's parameters alone.

        Args:
            x: n samples, as for `tangent_kernel`.
            y: n' samples, or None for x again.
            memory: bytes for intermediate results; None for a default.
            progress: whether to show a progress bar; None shows one on a terminal.

        Returns:
            A kernel with a matrix of shape (n, n'), in the precision of x (at least float32).

        Raises:
            InputError: as `tangent_kernel`.

        Source:
            Lee et al. 2018, eq. 5; for convolutions Novak et al. 2019.

        Example:
            >>> import torch
            >>> from pullback.kernels.infinite import Dense, InfiniteNetwork, Relu
            >>> wide = InfiniteNetwork([Dense(2**0.5), Relu(), Dense()])
            >>> wide.nngp_kernel(torch.eye(2)).matrix
            tensor([[0.5000, 0.1592],
                    [0.1592, 0.5000]])
        """
        return self._kernels(x, y, memory, progress)[0]

    def finite(
        self, shape: Sequence[int], width: int, outputs: int = 1, seed: int = 0
    ) -> nn.Sequential:
        """A network of these layers with so many channels, whose kernels approach those of this.

        The error falls as one over the root of the width.

        Args:
            shape: that of one sample, (features,) or (channels, positions...).
            width: channels of every layer with weights but the last.
            outputs: those of the last one.
            seed: of the weights, drawn from N(0, 1) in torch's default precision.

        Raises:
            InputError: the layers cannot take such samples, or a number is not positive.

        Source:
            Jacot et al. 2018, section 3.

        Example:
            >>> import torch
            >>> from pullback.kernels.infinite import AveragePool, Convolution, Dense
            >>> from pullback.kernels.infinite import InfiniteNetwork, Relu
            >>> wide = InfiniteNetwork([Convolution(3, bias=0.1), Relu(), AveragePool(), Dense()])
            >>> module = wide.finite(shape=(3, 8, 8), width=16, outputs=10)
            >>> [tuple(parameter.shape) for parameter in module.parameters()]
            [(16, 3, 3, 3), (16,), (10, 16)]
            >>> module(torch.zeros(5, 3, 8, 8)).shape
            torch.Size([5, 10])
        """
        for name, count in (("width", width), ("outputs", outputs)):
            if count < 1:
                raise InputError(f"{name}: {count}; give a positive number")
        seen = self._positions(shape)
        generator = torch.Generator().manual_seed(seed)
        channels = shape[0]
        modules = []
        for layer, positions in zip(self.layers[:-1], seen, strict=False):
            modules.append(layer.finite(channels, positions, width, generator))
            channels = width if isinstance(layer, Affine) else channels
        modules.append(self.layers[-1].finite(channels, seen[-1], outputs, generator))
        return nn.Sequential(*modules)

    def _positions(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """The positions that each layer sees in a sample of that shape."""
        if not 1 <= len(shape) <= 4 or min(shape) < 1:
            raise InputError(
                f"shape: a sample has shape {tuple(shape)}; expected (features,), or (channels, "
                "positions...) with up to three axes of positions"
            )
        seen = [tuple(shape[1:])]
        for layer in self.layers[:-1]:
            seen.append(layer.after(seen[-1]))
        return seen

    @torch.no_grad()
    def _kernels(
        self, x: Tensor, y: Tensor | None, memory: int | None, progress: bool | None
    ) -> tuple[TangentKernel, TangentKernel]:
        """NNGP and tangent kernel, in blocks of samples; of one set its lower triangle."""
        _check_sets(x, y)
        self._positions(x.shape[1:])
        recursion = Recursion(plan(self.layers, x.shape[2:], x.device))
        side = recursion.side(x.shape[1], working_memory(memory, x.device), x.device)
        rows = recursion.samples(x, side)
        columns = rows if y is None else recursion.samples(y, side)
        shape = (2, len(x), len(x if y is None else y))
        check_fits(
            f"kernel: {' x '.join(map(str, shape))} numbers",
            math.prod(shape) * 8,
            x.device,
            "take fewer samples",
        )
        both = torch.zeros(shape, dtype=torch.float64, device=x.device)
        blocks = [(a, b) for a in rows for b in columns if y is not None or b.start <= a.start]
        for a, b in tracked(blocks, "infinite-width kernel", len(blocks), progress):
            both[:, a.start : a.stop, b.start : b.stop] = recursion.kernels(a, b)
        if y is None:
            both = both.tril() + both.tril(-1).mT
        both = both.to(torch.promote_types(x.dtype, torch.float32))
        if not all_finite(both):
            raise InputError("x: the kernel is not finite; give inputs on a smaller scale")
        nngp, tangent = both
        return TangentKernel(nngp, 1, y is None), TangentKernel(tangent, 1, y is None)


def _check_sets(x: Tensor, y: Tensor | None) -> None:
    _check_samples(x, "x")
    if y is None:
        return
    _check_samples(y, "y")
    if (y.shape[1:], y.dtype, y.device) != (x.shape[1:], x.dtype, x.device):
        raise InputError(
            f"y: samples of shape {tuple(y.shape[1:])}, {y.dtype} on {y.device}, but those of x "
            f"are {tuple(x.shape[1:])}, {x.dtype} on {x.device}; give two sets alike"
        )


def _check_samples(x: Tensor, name: str) -> None:
    if not x.is_floating_point():
        raise InputError(f"{name}: {x.dtype}; give floating-point numbers, {name}.float()")
    if x.ndim < 2 or len(x) == 0:
        raise InputError(
            f"{name}: shape {tuple(x.shape)}; expected at least one sample, (n, features) or "
            "(n, channels, positions...)"
        )
    if not all_finite(x):
        raise InputError(f"{name}: contains NaN or infinity; clean the samples first")
