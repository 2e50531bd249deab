"""Tangents of layers, in as few products as there are moving parts.

PyTorch's own rules multiply with zeros where a part does not move (the data, at the first layer),
and take batch norm apart into elementwise operations. These do neither; they hold for dual numbers
of `torch.autograd.forward_ad`, and can be differentiated in reverse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.forward_ad import make_dual, unpack_dual

Pair = tuple[Tensor, Tensor | None]


def _split(tensor: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if tensor is None else tuple(unpack_dual(tensor))


def _sum(terms: list[Tensor]) -> Tensor | None:
    """Their sum; None where nothing moves."""
    if not terms:
        return None
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _joined(value: Tensor, change: Tensor | None) -> Tensor:
    return value if change is None else make_dual(value, change)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x, dx = unpack_dual(input)
    w, dw = unpack_dual(weight)
    b, db = _split(bias)
    value = F.linear(x, w, b)
    change = None if db is None else db.expand_as(value)
    if dw is not None and dx is not None:
        # The second product is added to the first by itself, not in a pass of its own.
        rows, moved = (one.reshape(-1, one.shape[-1]) for one in (x, dx))
        change = F.linear(rows, dw, db).addmm_(moved, w.T).view(value.shape)
    elif dw is not None:
        change = F.linear(x, dw, db)
    elif dx is not None:
        change = F.linear(dx, w, db)
    return _joined(value, change)


def _convolution(function: Callable[..., Tensor], dimensions: int) -> Callable[..., Tensor]:
    """The rule of a convolution, linear in the input and in the rest."""

    def rule(
        input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **named: Any
    ) -> Tensor:
        x, dx = unpack_dual(input)
        w, dw = unpack_dual(weight)
        b, db = _split(bias)
        value = function(x, w, b, *rest, **named)
        changes = []
        if dw is not None:
            changes.append(function(x, dw, db, *rest, **named))
        elif db is not None:
            changes.append(db.view(-1, *[1] * dimensions).expand_as(value))
        if dx is not None:
            changes.append(function(dx, w, None, *rest, **named))
        return _joined(value, _sum(changes))

    return rule


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch norm in evaluation mode: a scale and a shift of each channel."""
    if training or running_mean is None or running_var is None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    x, dx = unpack_dual(input)
    w, dw = _split(weight)
    b, db = _split(bias)

    def normalised(scale: Tensor | None, shift: Tensor | None) -> Tensor:
        return F.batch_norm(x, running_mean, running_var, scale, shift, False, momentum, eps)

    changes = []
    if dw is not None:
        changes.append(normalised(dw, db))
    elif db is not None:
        changes.append(normalised(torch.zeros_like(db), db))
    if dx is not None:
        scale = (running_var + eps).rsqrt()
        scale = scale if w is None else scale * w
        changes.append(dx * scale.view(-1, *[1] * (dx.ndim - 2)))
    return _joined(normalised(w, b), _sum(changes))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    x, dx = unpack_dual(input)
    w, dw = _split(weight)
    b, db = _split(bias)
    axes = tuple(range(-len(normalized_shape), 0))
    if dx is None and dw is None:
        value = F.layer_norm(x, normalized_shape, w, b, eps)
        return _joined(value, None if db is None else db.expand_as(value))
    plain, _, scale = torch.native_layer_norm(x, normalized_shape, None, None, eps)
    changes = [] if dw is None else [plain * dw if db is None else torch.addcmul(db, plain, dw)]
    if dw is None and db is not None:
        changes.append(db.expand_as(plain))
    if dx is not None:
        centred = dx - dx.mean(axes, keepdim=True)
        along = (plain * dx).mean(axes, keepdim=True)
        moved = torch.addcmul(centred, plain, along, value=-1) * scale
        changes.append(moved if w is None else moved * w)
    value = plain if w is None else plain * w if b is None else torch.addcmul(b, plain, w)
    return _joined(value, _sum(changes))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention without a mask; with one, what PyTorch makes of it."""
    alike = query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    if attn_mask is not None or dropout_p > 0 or is_causal or enable_gqa or not alike:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    shape = (*query.shape[:-1], value.shape[-1])
    (q, dq), (k, dk), (v, dv) = (_batched(one) for one in (query, key, value))
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    weights = (factor * (q @ k.mT)).softmax(-1)
    moved = _products((dq, k.mT), (q, None if dk is None else dk.mT))
    if moved is not None:
        moved = moved * weights * factor
        moved = torch.addcmul(moved, weights, moved.sum(-1, keepdim=True), value=-1)
    change = _products((weights, dv), (moved, v))
    return _joined((weights @ v).view(shape), None if change is None else change.view(shape))


def _batched(tensor: Tensor) -> Pair:
    """Value and tangent, (..., t, d) as (b, t, d), in the order that products like."""
    value, change = unpack_dual(tensor)
    shape = (-1, *value.shape[-2:])
    return value.reshape(shape), None if change is None else change.reshape(shape)


def _products(*pairs: tuple[Tensor | None, Tensor | None]) -> Tensor | None:
    """The sum of some batched products; None stands for what does not move."""
    total = None
    for first, second in pairs:
        if first is not None and second is not None:
            total = first @ second if total is None else total.baddbmm_(first, second)
    return total


RULES: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.linear: _linear,
    torch.conv1d: _convolution(torch.conv1d, 1),
    torch.conv2d: _convolution(torch.conv2d, 2),
    torch.conv3d: _convolution(torch.conv3d, 3),
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.scaled_dot_product_attention: _attention,
}
