"""A case's network as it is given, run with hooks that keep what the contractions need.

One forward for each piece of a batch and one backward for each cotangent, down to the first layer's
output and never to a parameter. The gradients of a layer's parameters are products, over output
positions t, of the gradient g_t at its output with what g_t meets there:

- linear: sum_t g_t a_t^T and sum_t g_t, most often with one position;
- convolution: the same with the patches u_t;
- batch norm in eval mode and layer norm: sum_t g_t * x_t with the normalised input x_t, and
  sum_t g_t;
- learned positions, added to the tokens: g itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cases import Case, Positions

LAYERS = (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm, Positions)
PIECE_FLOATS = 25 * 3 * 32 * 32
"""Of a batch of images that are run together: 10 to 50 are alike in time, fewer take less memory.
Vectors and tokens are run a batch at a time: for the MLP a quarter faster than 50.
"""


class Layer:
    """A module with parameters: weight (o, i) with i in patch order, channels last, and bias."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module
        self.is_linear = isinstance(module, nn.Linear)
        self.is_norm = isinstance(module, nn.BatchNorm2d | nn.LayerNorm)
        self.is_shift = isinstance(module, Positions)
        self.has_bias = not self.is_shift and module.bias is not None
        self.o = len(module.weight)
        self.i = module.weight[0].numel()
        self.size = sum(p.numel() for p in module.parameters())
        self.positions = 1  # of the output; right once the network has run

    def met(self, a: Tensor) -> Tensor:
        """What the gradient at each output position meets: (n, T, i), for batch norm (n, T, o)."""
        if self.is_linear:
            return a.view(len(a), -1, self.i)
        if isinstance(self.module, nn.LayerNorm):
            return F.layer_norm(a, (self.o,), eps=self.module.eps)
        a = a.permute(0, 2, 3, 1)
        if self.is_norm:
            rstd = (self.module.running_var + self.module.eps).rsqrt()
            return ((a - self.module.running_mean) * rstd).flatten(1, 2)
        (k, _), (s, _), (p, _) = self.module.kernel_size, self.module.stride, self.module.padding
        windows = F.pad(a, (0, 0, p, p, p, p)).unfold(1, k, s).unfold(2, k, s)  # (n, h, w, C, k, k)
        return windows.permute(0, 1, 2, 4, 5, 3).reshape(len(a), -1, self.i)

    def rows(self, g: Tensor) -> Tensor:
        """Output gradients by position: (n, T, o)."""
        return g.permute(0, 2, 3, 1).flatten(1, 2) if g.ndim == 4 else g.view(len(g), -1, self.o)

    def flat(self, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
        """The pieces of the layer's stretch of the flat parameter vector."""
        if self.image_order:
            k, channels = self.image_order
            weight = weight.unflatten(1, (k, k, channels)).movedim(-1, 1)
        return [part.flatten() for part in (weight, bias) if part is not None]

    @property
    def image_order(self) -> tuple[int, int] | None:
        """Kernel size and channels of a convolution, whose patches have channels last."""
        if not isinstance(self.module, nn.Conv2d):
            return None
        return self.module.kernel_size[0], self.module.weight.shape[1]

    def matrix(self, flat: Tensor) -> Tensor:
        """The inverse of `flat` with the bias as last column: (o, i) or (o, i + 1)."""
        weight, bias = flat.split([self.o * self.i, self.size - self.o * self.i])
        weight = weight.view(self.module.weight.shape)
        if isinstance(self.module, nn.Conv2d):
            weight = weight.permute(0, 2, 3, 1).flatten(1)
        return torch.cat([weight, bias[:, None]], 1) if self.has_bias else weight


class Network:
    """A copy of the network whose layers are recorded, in the order of their parameters."""

    def __init__(self, model: nn.Module, kinds: tuple[type[nn.Module], ...] = LAYERS) -> None:
        # Weights in the memory order of the images: up to a tenth of the network's time.
        model = copy.deepcopy(model).requires_grad_(False).to(memory_format=torch.channels_last)
        self.model = model
        self.layers = [Layer(n, m) for n, m in model.named_modules() if isinstance(m, kinds)]
        self.taken: dict[int, Tensor] = {}
        self.kept: dict[int, Tensor] = {}
        for j, layer in enumerate(self.layers):
            layer.module.register_forward_hook(partial(self._keep, j))

    def _keep(self, j: int, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.taken[j] = inputs[0].detach()
        # The first layers' outputs are where the backward ends.
        self.kept[j] = output if output.requires_grad else output.requires_grad_()
        self.layers[j].positions = output[0].numel() // self.layers[j].o

    def run(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The outputs of the network, and the inputs and outputs of its layers."""
        outputs = self.model(x)
        taken = [self.taken.pop(j) for j in range(len(self.layers))]
        return outputs, taken, [self.kept.pop(j) for j in range(len(self.layers))]


def inputs_of(case: Case) -> list[Tensor]:
    return [x for x, _ in case.batches()]


def pieces(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """What is run together, images with channels last in memory."""
    for batch in batches:
        if batch.ndim < 4:
            yield batch
            continue
        for x in batch.split(PIECE_FLOATS // batch[0].numel()):
            yield x.contiguous(memory_format=torch.channels_last)


class Part(Protocol):
    """What one layer contributes to an operation."""

    def start(self, a: Tensor) -> None:
        """Take the layer's input for the next piece."""

    def add(self, k: int, g: Tensor) -> None:
        """Take the gradient of the k-th cotangent at the layer's output."""

    def finish(self) -> None:
        """After the last cotangent of a piece."""


P = TypeVar("P", bound=Part)


def contract(
    network: Network,
    batches: Iterable[Tensor],
    cotangents: Callable[[Tensor], Tensor],
    part_of: Callable[[Layer], P],
) -> list[P]:
    """Run everything, and hand each layer's inputs and gradients to its part."""
    parts: list[P] = []
    for x in pieces(batches):
        outputs, taken, kept = network.run(x)
        parts = parts or [part_of(layer) for layer in network.layers]
        for part, a in zip(parts, taken, strict=True):
            part.start(a)
        u = cotangents(outputs.detach())
        for k in range(len(u)):
            gradients = torch.autograd.grad(outputs, kept, u[k], retain_graph=k + 1 < len(u))
            for part, g in zip(parts, gradients, strict=True):
                part.add(k, g)
        for part in parts:
            part.finish()
    return parts


def exact_cotangents(outputs: Tensor) -> Tensor:
    """A square root of diag p - p p^T with c - 1 columns, (c - 1, n, c).

    Column j is sqrt(p_j q_j / q_{j-1}) (e_j - sum_{l > j} p_l e_l / q_j), q_j = sum_{l > j} p_l:
    the Cholesky factor, whose last column vanishes because the matrix has rank c - 1.
    """
    p = torch.softmax(outputs, 1)
    tail = p.flip(1).cumsum(1).flip(1)  # q_{j-1}
    before, after = tail[:, :-1], tail[:, 1:]
    size = (p[:, :-1] * after / before).sqrt()
    columns = torch.diag_embed(torch.ones_like(p))[:, :, :-1] - torch.triu(
        (p[:, None, :] / after[:, :, None]), diagonal=1
    ).transpose(1, 2)
    return (columns * size[:, None, :]).permute(2, 0, 1).contiguous()
