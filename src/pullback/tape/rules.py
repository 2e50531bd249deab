"""A rule for each operation that takes parameters: how one of its calls becomes a `Use`.

A rule is a function with the operation's own signature, registered under it; it returns a `Site`,
which says which tensors take the parts of parameters and how to make the use, or None where the
call has a form that it does not cover. An operation without a rule loses nothing but speed: its
parameters take the generic way.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pullback.tape.affine import AffineUse, Window
from pullback.tape.elementwise import ScaleUse, ShiftUse
from pullback.tape.lookup import LookupUse
from pullback.tape.use import Use

Names = dict[int, str]


@dataclass(frozen=True)
class Site:
    """One call of an operation that a rule covers.

    Attributes:
        samples: the tensor whose first dimension has to be the samples.
        weight, bias: the tensors in the places of parameters.
        make: the use, from the names of weight and bias.
        moved: the same call with the samples of its input brought to the front by a function,
            where they may be elsewhere.
    """

    samples: Tensor
    weight: Tensor | None
    bias: Tensor | None
    make: Callable[[str | None, str | None], Use]
    moved: Callable[[Callable[[Tensor], Tensor]], Site] | None = None


Rule = Callable[..., Site | None]
RULES: dict[Callable[..., object], Rule] = {}


def rule(*operations: Callable[..., object]) -> Callable[[Rule], Rule]:
    """Register a rule for operations."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operations, function))
        return function

    return register


@rule(F.linear)
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Site | None:
    """A matrix times the last dimension; every other one but the samples' is positions."""
    if input.ndim < 2 or weight.ndim != 2:
        return None
    return _linear(input, weight, bias, lambda x: x)


def _linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, front: Callable[[Tensor], Tensor]
) -> Site:
    x = front(input)
    # No function that knows itself: such a cycle would keep the whole graph until it is collected.
    return Site(
        x,
        weight,
        bias,
        lambda w, b: AffineUse(w, b, weight.shape, x, None, front),
        partial(_linear, input, weight, bias),
    )


def _looked_into(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of torch that shows the operations it consists of, not itself, to a mode."""
    assert isinstance(function, FunctionType)
    names = {**function.__globals__, "has_torch_function": lambda _: False}
    opened = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


# Attention projects its inputs by linear layers, whose rule is worth having.
COMPOSED = {F.multi_head_attention_forward: _looked_into(F.multi_head_attention_forward)}


def _each(value: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dimensions if len(values) == 1 else values


@rule(F.conv1d, F.conv2d, F.conv3d)
def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Site | None:
    """A convolution; its `Window` says how the input is cut into patches."""
    if input.ndim != weight.ndim:  # no batch dimension
        return None
    kernel = tuple(weight.shape[2:])
    space = len(kernel)
    spread = _each(dilation, space)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(spread, kernel, strict=True)]
        edges = tuple((total // 2, total - total // 2) for total in totals)
    else:
        widths = _each(0 if isinstance(padding, str) else padding, space)
        edges = tuple((width, width) for width in widths)
    window = Window(
        kernel=kernel,
        stride=_each(stride, space),
        dilation=spread,
        padding=edges,
        groups=groups,
        transposed=False,
        stretch=(1,) * space,
    )
    return Site(
        input,
        weight,
        bias,
        lambda w, b: AffineUse(w, b, weight.shape, input, window),
    )


@rule(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
def transposed_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Site | None:
    """A transposed convolution, as a convolution of the stretched input."""
    if input.ndim != weight.ndim:
        return None
    kernel = tuple(weight.shape[2:])
    space = len(kernel)
    spread = _each(dilation, space)
    reach = [d * (k - 1) for d, k in zip(spread, kernel, strict=True)]
    pads = _each(padding, space)
    extra = _each(output_padding, space)
    window = Window(
        kernel=kernel,
        stride=(1,) * space,
        dilation=spread,
        padding=tuple((r - p, r - p + e) for r, p, e in zip(reach, pads, extra, strict=True)),
        groups=groups,
        transposed=True,
        stretch=_each(stride, space),
    )
    return Site(
        input,
        weight,
        bias,
        lambda w, b: AffineUse(w, b, weight.shape, input, window),
    )


@rule(F.batch_norm)
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Site | None:
    """Batch norm with its running statistics, a scale by channel."""

    def normalise(x: Tensor) -> Tensor:
        return F.batch_norm(x, running_mean, running_var, None, None, False, 0.0, eps)

    return _scale(input, weight, bias, normalise, channels_first=True)


@rule(F.instance_norm)
def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Site | None:
    """Instance norm, a scale by channel."""

    def normalise(x: Tensor) -> Tensor:
        statistics = (None, None) if use_input_stats else (running_mean, running_var)
        return F.instance_norm(x, *statistics, None, None, use_input_stats, 0.0, eps)

    return _scale(input, weight, bias, normalise, channels_first=True)


@rule(F.group_norm)
def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Site | None:
    """Group norm, a scale by channel."""

    def normalise(x: Tensor) -> Tensor:
        return F.group_norm(x, num_groups, None, None, eps)

    return _scale(input, weight, bias, normalise, channels_first=True)


@rule(F.layer_norm)
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Site | None:
    """Layer norm, a scale by entry of the last dimensions."""

    def normalise(x: Tensor) -> Tensor:
        return F.layer_norm(x, list(normalized_shape), None, None, eps)

    if input.ndim == len(normalized_shape):
        return None
    return _scale(input, weight, bias, normalise, channels_first=False)


@rule(F.rms_norm)
def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Site | None:
    """Root-mean-square norm, a scale by entry of the last dimensions."""

    def normalise(x: Tensor) -> Tensor:
        return F.rms_norm(x, list(normalized_shape), None, eps)

    if input.ndim == len(normalized_shape):
        return None
    return _scale(input, weight, None, normalise, channels_first=False)


def _scale(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    normalise: Callable[[Tensor], Tensor],
    channels_first: bool,
) -> Site | None:
    if weight is not None:
        shape = weight.shape
    elif bias is not None:
        shape = bias.shape
    else:
        return None
    return Site(
        input,
        weight,
        bias,
        lambda w, b: ScaleUse(w, b, shape, input, normalise, channels_first),
    )


@rule(torch.add, Tensor.add)
def addition(input: Tensor, other: object, *, alpha: int | float = 1) -> Site | None:
    """A shift that all samples share, as learned positions are."""
    if not isinstance(other, Tensor) or alpha != 1:
        return None
    if _is_shared(other, input):
        x, shift = input, other
    elif _is_shared(input, other):
        x, shift = other, input
    else:
        return None

    def make(name: str | None, _: str | None) -> Use:
        assert name is not None  # there is no bias, so the call is recorded for its shift
        return ShiftUse(name, shift.shape, shift.dtype)

    return Site(x, shift, None, make)


def _is_shared(shift: Tensor, x: Tensor) -> bool:
    """Whether the values of all samples, the first dimension of x, are shifted alike."""
    return shift.ndim < x.ndim or (shift.ndim == x.ndim > 0 and len(shift) == 1)


@rule(F.embedding)
def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Site | None:
    """A row of the weight for each index."""
    if max_norm is not None or scale_grad_by_freq or input.ndim == 0:
        return None
    padding = None if padding_idx is None else padding_idx % len(weight)

    def make(table: str | None, _: str | None) -> Use:
        assert table is not None  # there is no bias, so the call is recorded for its table
        return LookupUse(table, weight.shape, weight.dtype, input, padding)

    return Site(input, weight, None, make)


BATCH_STATISTICS = (F.batch_norm,)
RANDOM = (
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    F.rrelu,
)


def interference(
    operation: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
) -> str | None:
    """Why a call leaves the outputs without a function of one sample, or None where it does not."""
    if operation not in BATCH_STATISTICS and operation not in RANDOM:
        return None
    call = inspect.signature(operation).bind(*args, **kwargs)
    call.apply_defaults()
    if not call.arguments["training"]:
        return None
    if operation in BATCH_STATISTICS:
        return "batch norm uses the statistics of the batch, so no sample has a function of its own"
    if call.arguments.get("p", 1) == 0:  # the rate of a dropout
        return None
    return f"{operation.__name__} is in training mode, so the outputs are random"
