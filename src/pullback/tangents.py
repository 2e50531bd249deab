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


def _bilinear(function: Callable[..., Tensor], channels: int) -> Callable[..., Tensor]:
    """The rule of `function(input, weight, bias, ...)`, linear in the input and in the rest.

    Args:
        function: a linear layer or a convolution.
        channels: where the output has the bias's channels, counted from its end.
    """

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
            changes.append(db.view(-1, *[1] * (channels - 1)).expand_as(value))
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
    if attn_mask is not None or dropout_p > 0 or is_causal or enable_gqa:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    (q, dq), (k, dk), (v, dv) = unpack_dual(query), unpack_dual(key), unpack_dual(value)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    q, dq = q * factor, None if dq is None else dq * factor
    weights = (q @ k.mT).softmax(-1)
    moved = _sum(([] if dq is None else [dq @ k.mT]) + ([] if dk is None else [q @ dk.mT]))
    changes = [] if dv is None else [weights @ dv]
    if moved is not None:
        moved = moved * weights
        moved = torch.addcmul(moved, weights, moved.sum(-1, keepdim=True), value=-1)
        changes.append(moved @ v)
    return _joined(weights @ v, _sum(changes))


RULES: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.linear: _bilinear(F.linear, 1),
    torch.conv1d: _bilinear(torch.conv1d, 2),
    torch.conv2d: _bilinear(torch.conv2d, 3),
    torch.conv3d: _bilinear(torch.conv3d, 4),
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.scaled_dot_product_attention: _attention,
}
