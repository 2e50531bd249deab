"""Values of a function of tensors and its derivatives along one direction, by forward mode.

Where an operation has no forward mode, the first derivative comes from reverse mode, twice: the
derivative of `u -> J^T u`, which is linear in u.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.autograd import forward_ad

from pullback.autodiff import AsInReverse, in_transform
from pullback.errors import InputError

Tensors = Mapping[str, Tensor]
Function = Callable[[Tensors], list[Tensor]]


def expansion(
    function: Function, point: Tensors, change: Tensors, order: int
) -> list[list[Tensor]]:
    """`f`, `df`, and so on to `d^order f`: derivatives at a point along a change.

    All can be differentiated by the change.

    Args:
        function: from tensors by name to some tensors.
        point: where.
        change: along which; for some of the tensors at least.
        order: 1 or more.

    Raises:
        InputError: an operation has no derivative of this kind.
        Exception: what the function itself raises.
    """
    try:
        return _forward(function, point, change, order)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as problem:
        if order > 1:
            function(point)  # its own error, if that is what it is
            raise _refusal(problem, "derivatives of order 2 by forward mode") from problem
    try:
        return _reverse(function, point, change)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as problem:
        function(point)
        raise _refusal(
            problem, "a derivative by forward mode, nor by reverse mode twice"
        ) from problem


def _refusal(problem: Exception, what: str) -> InputError:
    first = " ".join(str(problem).split())[:300]
    return InputError(f"model: an operation in it does not have {what}: {first}")


def _forward(function: Function, point: Tensors, change: Tensors, order: int) -> list[list[Tensor]]:
    if order == 1 and not _inside_another():
        return _dual(function, point, change)

    def derivative(tensors: dict[str, Tensor], order: int) -> list[list[Tensor]]:
        if order == 0:
            with AsInReverse():
                return [function({**point, **tensors})]
        pair = torch.func.jvp(lambda t: derivative(t, order - 1), (tensors,), (dict(change),))
        return [*pair[0], pair[1][-1]]

    return derivative({name: point[name] for name in change}, order)


def _inside_another() -> bool:
    """Whether a transform of `torch.func` or a level of dual numbers is at work already."""
    return forward_ad._current_level >= 0 or in_transform()


def _dual(function: Function, point: Tensors, change: Tensors) -> list[list[Tensor]]:
    """Dual numbers by themselves, which cost less than `torch.func.jvp`."""
    with forward_ad._set_fwd_grad_enabled(True), forward_ad.dual_level():
        moving = {name: forward_ad.make_dual(point[name], step) for name, step in change.items()}
        with AsInReverse():
            found = function({**point, **moving})
        pairs = [forward_ad.unpack_dual(one) for one in found]
    return [
        [value for value, _ in pairs],
        [torch.zeros_like(v) if t is None else t for v, t in pairs],
    ]


def _reverse(function: Function, point: Tensors, change: Tensors) -> list[list[Tensor]]:
    leaves = {name: point[name].detach().requires_grad_() for name in change}
    values = function({**point, **leaves})
    reached = [value for value in values if value.requires_grad]
    if not reached:
        return [values, [torch.zeros_like(value) for value in values]]
    dummies = [torch.zeros_like(value, requires_grad=True) for value in reached]
    pulled = torch.autograd.grad(
        reached, list(leaves.values()), dummies, create_graph=True, materialize_grads=True
    )
    steps = [change[name] for name in leaves]
    changes = iter(
        torch.autograd.grad(pulled, dummies, steps, create_graph=True, materialize_grads=True)
    )
    tangents = [next(changes) if v.requires_grad else torch.zeros_like(v) for v in values]
    return [values, tangents]
