"""A fast copy of a case's network, and the record of one forward with its backwards.

What the copy changes, each for a measured gain and none of it changing the function:
channels-last convolutions, batch norm folded into the convolution before it (its parameters come
back by the chain rule, see `Layer`), ReLU and max pooling as one multiplication by a mask that is
computed once for all cotangents, and ReLU's backward in place.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Folded:
    """The batch norm that was folded into a layer: y = scale * (W a - mean) + beta."""

    scale: Tensor  # (o,) gamma / std
    shift: Tensor  # (o,) beta - mean gamma / std
    mean: Tensor  # (o,)
    rstd: Tensor  # (o,)
    gamma: slice  # where the parameters lie in the flat vector
    beta: slice


class Layer:
    """A linear or convolution layer of the fast copy, with its place in the flat parameter vector.

    With P (o, i) the gradient of the folded weight and b (o,) that of the folded bias, the
    gradients of the original parameters are W: scale P, gamma: rstd (<W, P>_i - mean b), beta: b.
    Weights are stored as (o, i) with i in patch order, channels last.
    """

    def __init__(
        self, module: nn.Module, slices: dict[str, slice], name: str, norm: Folded | None = None
    ) -> None:
        self.module = module
        self.norm = norm
        self.weight = slices[f"{name}.weight"]
        self.bias = slices.get(f"{name}.bias")
        self.is_linear = isinstance(module, nn.Linear)
        self.original = to_patch_order(module.weight.detach()).clone()
        self.o, self.i = self.original.shape
        self.shape = module.weight.shape
        if norm is not None:
            module.weight.data.mul_(norm.scale.view(-1, 1, 1, 1))
            module.bias = nn.Parameter(norm.shift, requires_grad=False)

    @property
    def shifted(self) -> bool:
        """Whether the gradient of the folded bias is needed."""
        return self.bias is not None or self.norm is not None

    def patches(self, a: Tensor) -> Tensor:
        """What each output position sees: (n, T, i)."""
        if self.is_linear:
            return a.unsqueeze(1)
        (k, _), (s, _), (p, _) = self.module.kernel_size, self.module.stride, self.module.padding
        a = F.pad(a.permute(0, 2, 3, 1), (0, 0, p, p, p, p))
        windows = a.unfold(1, k, s).unfold(2, k, s)  # (n, h, w, C, k, k)
        return windows.permute(0, 1, 2, 4, 5, 3).reshape(len(a), -1, self.i)

    def gamma_rows(self, p: Tensor, shift: Tensor) -> Tensor:
        """Per-sample gradients of gamma (n, o) from those of the folded weight and bias."""
        along = torch.linalg.vecdot(p, self.original)
        return along.addcmul_(shift, self.norm.mean, value=-1).mul_(self.norm.rstd)

    def normalised(self, output: Tensor) -> Tensor:
        """What gamma multiplies, by position (n, T, o): the other way to its gradients."""
        beta = self.norm.shift + self.norm.mean * self.norm.scale
        return (self.rows(output.detach()) - beta) * (self.norm.rstd / self.norm.scale)

    def rows(self, g: Tensor) -> Tensor:
        """Output gradients by position: (n, T, o)."""
        return g.unsqueeze(1) if self.is_linear else g.permute(0, 2, 3, 1).flatten(1, 2)


def to_patch_order(weight: Tensor) -> Tensor:
    """(o, C, k, k) -> (o, k k C); a linear weight as it is."""
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)


def to_weight_order(rows: Tensor, layer: Layer) -> Tensor:
    """(..., o, k k C) -> (..., o C k k), the order of the flat vector."""
    if layer.is_linear:
        return rows.flatten(-2)
    _, channels, k, _ = layer.module.weight.shape
    return rows.unflatten(-1, (k, k, channels)).movedim(-1, -3).flatten(-4)


class Rectify(torch.autograd.Function):
    """ReLU. Its incoming gradient is always a fresh tensor here, so the backward is in place."""

    @staticmethod
    def forward(ctx, x):
        out = torch.relu(x)
        ctx.save_for_backward(out)
        ctx.save_for_forward(out)
        return out

    @staticmethod
    def jvp(ctx, t):
        return torch.ops.aten.threshold_backward(t, ctx.saved_tensors[0], 0)

    @staticmethod
    def backward(ctx, g):
        (out,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward.grad_input(g, out, 0, grad_input=g)


class RectifyPool(torch.autograd.Function):
    """ReLU and max pooling (kernel = stride): the backward is one product with a 0/1 mask."""

    @staticmethod
    def forward(ctx, x, k):
        pooled, index = F.max_pool2d(x, k, return_indices=True)
        active = (pooled > 0).to(x.dtype)
        mask = torch.ops.aten.max_pool2d_with_indices_backward(
            active, x, [k, k], [k, k], [0, 0], [1, 1], False, index
        )
        ctx.save_for_backward(mask)
        ctx.save_for_forward(mask)
        ctx.k = k
        return pooled.relu_()

    @staticmethod
    def jvp(ctx, t, _):
        return F.avg_pool2d(t * ctx.saved_tensors[0], ctx.k, divisor_override=1)

    @staticmethod
    def backward(ctx, g):
        (mask,), k = ctx.saved_tensors, ctx.k
        n, c, h, w = g.shape
        cells = mask.permute(0, 2, 3, 1).view(n, h, k, w, k, c)
        g = g.permute(0, 2, 3, 1).reshape(n, h, 1, w, 1, c)
        return (cells * g).view(n, h * k, w * k, c).permute(0, 3, 1, 2), None


class _Activation(nn.Module):
    def __init__(self, pool: int | None = None) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return Rectify.apply(x) if self.pool is None else RectifyPool.apply(x, self.pool)


@dataclass(frozen=True)
class Record:
    """One sub-batch: outputs, and for each layer its input and its output."""

    outputs: Tensor
    taken: list[Tensor]
    kept: list[Tensor]

    def gradients(self, cotangents: Tensor) -> Iterator[list[Tensor]]:
        """For each cotangent (k, n, c), the gradient at every layer's output."""
        last = len(cotangents) - 1
        for j, u in enumerate(cotangents):
            yield list(torch.autograd.grad(self.outputs, self.kept, u, retain_graph=j < last))


def parameter_slices(model: nn.Module) -> dict[str, slice]:
    """Where each parameter lies in the flat vector."""
    slices, start = {}, 0
    for name, p in model.named_parameters():
        slices[name] = slice(start, start + p.numel())
        start += p.numel()
    return slices


class FastNetwork:
    """The fast copy with its layers; `record` runs one sub-batch."""

    def __init__(self, model: nn.Module) -> None:
        self.size = sum(p.numel() for p in model.parameters())
        slices = parameter_slices(model)
        model = copy.deepcopy(model).requires_grad_(False)
        self.layers: list[Layer] = []
        self.names: list[str] = []
        modules = list(model.named_modules())
        for (name, module), (next_name, following) in zip(
            modules, [*modules[1:], ("", nn.Identity())], strict=True
        ):
            if not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            norm = None
            if isinstance(following, nn.BatchNorm2d):
                rstd = (following.running_var + following.eps).rsqrt()
                scale = following.weight.detach() * rstd
                norm = Folded(
                    scale, following.bias.detach() - following.running_mean * scale,
                    following.running_mean, rstd,
                    slices[f"{next_name}.weight"], slices[f"{next_name}.bias"],
                )  # fmt: skip
                _replace(model, next_name, nn.Identity())
            self.names.append(name)
            self.layers.append(Layer(module, slices, name, norm))
        _fuse_activations(model)
        self.model = model.to(memory_format=torch.channels_last)

    def fold(self, flat: Tensor) -> dict[str, Tensor]:
        """A flat tangent (d,) as tangents of the folded parameters, by the copy's names."""
        found = {}
        for name, layer in zip(self.names, self.layers, strict=True):
            weight, norm = flat[layer.weight].view(layer.shape), layer.norm
            if norm is not None:
                gamma = flat[norm.gamma] * norm.rstd
                raw = to_weight_order(layer.original, layer).view(layer.shape)
                column = (-1, 1, 1, 1)
                weight = gamma.view(column) * raw + norm.scale.view(column) * weight
                found[f"{name}.bias"] = flat[norm.beta] - norm.mean * gamma
            elif layer.bias is not None:
                found[f"{name}.bias"] = flat[layer.bias]
            if not layer.is_linear:
                weight = weight.contiguous(memory_format=torch.channels_last)
            found[f"{name}.weight"] = weight
        return found

    def unfold(self, gradients: dict[str, Tensor]) -> Tensor:
        """The transpose of `fold`: gradients of the folded parameters as one flat vector (d,)."""
        flat = torch.empty(self.size)
        for name, layer in zip(self.names, self.layers, strict=True):
            weight, norm = to_patch_order(gradients[f"{name}.weight"]), layer.norm
            if norm is not None:
                shift = gradients[f"{name}.bias"]
                along = (weight * layer.original).sum(1)
                flat[norm.gamma] = norm.rstd * (along - norm.mean * shift)
                flat[norm.beta] = shift
                weight = weight * norm.scale[:, None]
            elif layer.bias is not None:
                flat[layer.bias] = gradients[f"{name}.bias"]
            flat[layer.weight] = to_weight_order(weight, layer)
        return flat

    def record(self, x: Tensor) -> Record:
        taken: list[Tensor] = []
        kept: list[Tensor] = []

        def hook(module, inputs, output):
            taken.append(inputs[0].detach())
            kept.append(output if output.requires_grad else output.requires_grad_())

        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        handles = [layer.module.register_forward_hook(hook) for layer in self.layers]
        outputs = self.model(x)
        for handle in handles:
            handle.remove()
        return Record(outputs, taken, kept)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _fuse_activations(model: nn.Module) -> None:
    names = [name for name, m in model.named_modules() if isinstance(m, nn.ReLU)]
    modules = dict(model.named_modules())
    order = list(modules)
    for name in names:
        following = order[order.index(name) + 1] if order.index(name) + 1 < len(order) else name
        pool = modules[following] if isinstance(modules[following], nn.MaxPool2d) else None
        _replace(model, name, _Activation(pool.kernel_size if pool else None))
        if pool:
            _replace(model, following, nn.Identity())
