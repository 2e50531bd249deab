"""Rules of forward mode against PyTorch's own, for every choice of what moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from pullback.tangents import RULES
from tests.checks import assert_agree

Arguments = dict[str, Sequence[int]]
CASES: dict[str, tuple[Callable[..., Tensor], Arguments, dict[str, object]]] = {
    "linear, one vector": (F.linear, {"input": (3,), "weight": (4, 3), "bias": (4,)}, {}),
    "linear": (F.linear, {"input": (5, 3), "weight": (4, 3), "bias": (4,)}, {}),
    "linear, tokens": (F.linear, {"input": (2, 5, 3), "weight": (4, 3), "bias": (4,)}, {}),
    "linear, no bias": (F.linear, {"input": (2, 5, 3), "weight": (4, 3)}, {}),
    "conv1d": (torch.conv1d, {"input": (2, 3, 7), "weight": (4, 3, 2), "bias": (4,)}, {}),
    "conv2d": (
        torch.conv2d,
        {"input": (2, 4, 6, 5), "weight": (6, 2, 3, 3), "bias": (6,)},
        {"stride": 2, "padding": 1, "groups": 2},
    ),
    "layer norm": (
        F.layer_norm,
        {"input": (2, 5, 3), "weight": (3,), "bias": (3,)},
        {"normalized_shape": (3,)},
    ),
    "attention": (
        F.scaled_dot_product_attention,
        {"query": (2, 3, 4, 5), "key": (2, 3, 6, 5), "value": (2, 3, 6, 7)},
        {},
    ),
    "attention, one head": (
        F.scaled_dot_product_attention,
        {"query": (4, 5), "key": (6, 5), "value": (6, 7)},
        {"scale": 0.3},
    ),
    "attention, shared keys": (
        F.scaled_dot_product_attention,
        {"query": (2, 3, 4, 5), "key": (2, 1, 6, 5), "value": (2, 1, 6, 5)},
        {},
    ),
    "attention, causal": (
        F.scaled_dot_product_attention,
        {"query": (2, 3, 4, 5), "key": (2, 3, 4, 5), "value": (2, 3, 4, 5)},
        {"is_causal": True},
    ),
}
TRIALS = [
    (name, moving)
    for name, (_, arguments, _) in CASES.items()
    for moving in product((False, True), repeat=len(arguments))
    if any(moving)
]


@pytest.mark.parametrize(("name", "moving"), TRIALS, ids=str)
def test_value_tangent_and_gradients(name: str, moving: tuple[bool, ...]) -> None:
    function, arguments, named = CASES[name]
    generator = torch.Generator().manual_seed(0)

    def drawn(shape: Sequence[int]) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    values = {key: drawn(shape) for key, shape in arguments.items()}
    steps = {
        key: drawn(shape).requires_grad_()
        for (key, shape), moves in zip(arguments.items(), moving, strict=True)
        if moves
    }

    def differentiated(function: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            given = {
                key: forward_ad.make_dual(value, steps[key]) if key in steps else value
                for key, value in values.items()
            }
            value, change = forward_ad.unpack_dual(function(**given, **named))
            assert change is not None
            return value, change

    value, change = differentiated(RULES[function])
    expected_value, expected = differentiated(function)
    assert_agree(value, expected_value)
    assert_agree(change, expected)
    cotangent = drawn(expected.shape)
    found = torch.autograd.grad(change, list(steps.values()), cotangent)
    wanted = torch.autograd.grad(expected, list(steps.values()), cotangent)
    for one, other in zip(found, wanted, strict=True):
        assert_agree(one, other)
