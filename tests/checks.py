"""What tests assert with: relative agreement, and a module left exactly as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn

from pullback import InputError

REFUSED = (InputError, TypeCheckError)  # types are checked before the library sees them in tests
EXACT = 1e-10  # relative, for exact quantities in float64
SINGLE = 1e-5  # relative, for the same in float32


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest entry of `expected` (over 1 where that is 0)."""
    difference = float((actual.double() - expected.double()).abs().max())
    scale = float(expected.abs().max())
    return difference / scale if scale > 1e-14 else difference


def assert_agree(actual: Tensor | float, expected: Tensor | float, within: float = EXACT) -> None:
    """Same shape, and the largest difference within a share of the largest entry."""
    actual, expected = (
        x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64)
        for x in (actual, expected)
    )
    assert actual.shape == expected.shape
    error = relative_error(actual, expected)
    assert error <= within, f"relative error {error:.2e} > {within:.0e}"


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Everything about a module and the process that a measurement has to leave alone.

    Python's own random state is left out: the type checks of a test run draw from it.
    """
    state = {f"value of {name}": value.clone() for name, value in module.state_dict().items()}
    for name, buffer in module.named_buffers():
        state[f"buffer {name}"] = buffer.clone()
    for name, parameter in module.named_parameters():
        state[f"gradient of {name}"] = None if parameter.grad is None else parameter.grad.clone()
        state[f"identity of {name}"] = id(parameter)
        state[f"flag of {name}"] = parameter.requires_grad
        state[f"version of {name}"] = parameter._version
    for name, part in module.named_modules():
        state[f"mode of {name}"] = part.training
        state[f"forward hooks of {name}"] = list(part._forward_hooks)
        state[f"forward pre-hooks of {name}"] = list(part._forward_pre_hooks)
        state[f"backward hooks of {name}"] = list(part._backward_hooks)
        state[f"attributes of {name}"] = sorted(vars(part))
    state["random state of torch"] = torch.get_rng_state()
    state["random state of numpy"] = str(numpy.random.get_state())
    state["gradients enabled"] = torch.is_grad_enabled()
    state["default precision"] = torch.get_default_dtype()
    state["threads"] = torch.get_num_threads()
    state["encoder fast path"] = torch.backends.mha.get_fastpath_enabled()
    state["flash attention"] = torch.backends.cuda.flash_sdp_enabled()
    state["memory-efficient attention"] = torch.backends.cuda.mem_efficient_sdp_enabled()
    state["mkldnn"] = torch.backends.mkldnn.enabled
    return state


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is not the same, bit for bit."""
    return [
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not _same(before[name], after[name])
    ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Assert that what happens inside leaves the module and the process as they were."""
    before = snapshot(module)
    yield
    assert differences(before, snapshot(module)) == []
