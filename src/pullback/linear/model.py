"""A network expanded in its parameters, as a module that trains like any other.

    f(x; w0) + J(x; w0) (w - w0)

The parameters w are real ones: every optimiser moves them, and they are saved and loaded. The point
w0 stays.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from pullback.errors import InputError
from pullback.linear.expansion import expansion
from pullback.network import undisturbed
from pullback.parameters import ParameterSpace, ParameterVector


def linearize(
    model: nn.Module,
    at: nn.Module | ParameterVector | None = None,
    order: int = 1,
    bias: bool = True,
) -> LinearizedModel:
    """The expansion of a network in its parameters, `f(x; w0) + J(x; w0) (w - w0)`, as a module.

    It takes and returns what the network does, and starts at the network's own parameters:

        linearize(model)                        # trains in the tangent space at where model is
        linearize(tuned, at=pretrained)         # a fine-tuned network, seen from where it began
        linearize(model, at=trained, bias=False)    # starts from zero with a trained kernel

    Batch norm and dropout stay in evaluation mode, also under `train()`: with statistics of the
    batch a sample has no function of its own, and a random one has no derivative.

    Args:
        model: where w starts; those of its parameters that require a gradient are w.
        at: the point w0, as a module of the same kind or a vector; None for the model itself. From
            a module its buffers are taken too, such as the statistics of batch norm.
        order: 1, or 2 for the quadratic expansion, which has `d J d / 2` besides, with d = w - w0.
        bias: False for `J(x; w0) (w - w_start)` alone, which is zero where training starts.

    Raises:
        InputError: nothing requires a gradient, the point does not fit, batch norm has no running
            statistics, or there is no such order.

    Source:
        Ortiz-Jimenez et al. 2021, eq. 1 and section 4.3; Ortiz-Jimenez 2023, eqs. 4.1 and 4.15 and
        property 6.2; George 2023, section 5.2.

    Example:
        >>> import torch, pullback as pb
        >>> layers = torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
        >>> model, x = torch.nn.Sequential(*layers), torch.randn(5, 2)
        >>> tangent = pb.linearize(model)
        >>> torch.equal(tangent(x), model(x))
        True
        >>> optimiser = torch.optim.SGD(tangent.parameters(), lr=0.1)
        >>> tangent(x).square().mean().backward()
        >>> optimiser.step()
        >>> tangent.displacement().norm() > 0
        tensor(True)
    """
    return LinearizedModel(model, at, order, bias)


class LinearizedModel(nn.Module):
    """A network expanded in its parameters. Made by `linearize`.

    Attributes:
        network: the network itself at w, with the parameters that are trained; `network(x)` is what
            it does there without an expansion.
        point: the same at w0, all buffers.
        order: of the expansion.
        bias: whether the outputs at w0 are added.
    """

    def __init__(
        self,
        model: nn.Module,
        at: nn.Module | ParameterVector | None = None,
        order: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if order not in (1, 2):
            raise InputError(f"order: {order}; give 1 or 2")
        self.order, self.bias = order, bias
        self.network = copy.deepcopy(model)
        self.moving = tuple(n for n, p in model.named_parameters() if p.requires_grad)
        if not self.moving:
            raise InputError("model: has no parameter that requires a gradient")
        _refuse_statistics_of_the_batch(model)
        self.point = frozen(_at(model, at, self.moving))
        self.start = None if bias else frozen(copy.deepcopy(model))
        self.train(model.training)

    def train(self, mode: bool = True) -> LinearizedModel:
        """Set the mode of this module; the network inside stays in evaluation mode."""
        super().train(mode)
        for inner in (self.network, self.point, self.start):
            if inner is not None:
                inner.eval()
        return self

    def displacement(self) -> ParameterVector:
        """How far the parameters are from where displacements are counted: w0, or the start."""
        steps = {name: step.detach() for name, step in self._steps().items()}
        space = ParameterSpace.of_tensors(steps)
        return space.vector(steps)

    def _steps(self) -> dict[str, Tensor]:
        origin = dict((self.point if self.start is None else self.start).named_buffers())
        own = dict(self.network.named_parameters())
        return {name: own[name] - origin[name] for name in self.moving}

    def _point(self) -> dict[str, Tensor]:
        """The tensors of the network at w0; copies of its buffers, which it may write to."""
        parameters = dict(self.network.named_parameters())
        return {
            name: tensor if name in parameters else tensor.clone()
            for name, tensor in self.point.named_buffers()
        }

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network would return, of its expansion."""
        keep = torch.is_grad_enabled()
        structure: list[Any] = []

        def function(tensors: Any) -> list[Tensor]:
            result = functional_call(self.point, dict(tensors), args, kwargs)
            leaves, tree = pytree.tree_flatten(result)
            structure[:] = [leaves, tree]
            return [leaf for leaf in leaves if _real(leaf)]

        # What a module does under `no_grad` has no derivative; the caller's own is another matter.
        with torch.enable_grad(), undisturbed():
            steps = self._steps()
            if not keep:
                steps = {name: step.detach() for name, step in steps.items()}
            point = self._point()
            terms = expansion(function, point, steps, self.order)
        leaves, tree = structure
        sums = [self._sum(values) for values in zip(*terms, strict=True)]
        found = iter(sums if keep else [one.detach() for one in sums])
        return pytree.tree_unflatten([next(found) if _real(one) else one for one in leaves], tree)

    def _sum(self, terms: tuple[Tensor, ...]) -> Tensor:
        value, change, *rest = terms
        total = value + change if self.bias else change
        return total + rest[0] / 2 if rest else total


def _refuse_statistics_of_the_batch(model: nn.Module) -> None:
    for name, part in model.named_modules():
        if isinstance(part, _BatchNorm) and part.running_mean is None:
            raise InputError(
                f"model: {name or 'the module'}: batch norm without running statistics has no "
                "function of a single sample; take track_running_stats=True, or another norm"
            )


def _real(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _at(
    model: nn.Module, at: nn.Module | ParameterVector | None, moving: tuple[str, ...]
) -> nn.Module:
    """A copy of the model at the point.

    Raises:
        InputError: the point is of another network.
    """
    if at is None:
        return copy.deepcopy(model)
    own = dict(model.named_parameters())
    if isinstance(at, ParameterVector):
        found, values = copy.deepcopy(model), at.as_dict()
        _check_same(own, values, "vector")
        with torch.no_grad():
            for name, parameter in found.named_parameters():
                if name in values:
                    parameter.copy_(values[name])
        return found
    if not isinstance(at, nn.Module):
        raise InputError(f"at: {type(at).__name__}; give a module or a ParameterVector")
    theirs = dict(at.named_parameters())
    _check_same(own, theirs, "module")
    for name in own.keys() - set(moving):
        if name not in theirs or not torch.equal(own[name], theirs[name]):
            raise InputError(
                f"at: parameter {name!r} differs from the model's, where it does not require a "
                "gradient; let it require one, or make them equal"
            )
    return copy.deepcopy(at)


def _check_same(own: dict[str, Any], theirs: dict[str, Any], kind: str) -> None:
    unknown = sorted(theirs.keys() - own.keys())
    missing = sorted(own.keys() - theirs.keys()) if kind == "module" else []
    if unknown or missing:
        raise InputError(
            f"at: the {kind} is of another network; it has {unknown[:3]} besides, and lacks "
            f"{missing[:3]}"
        )
    for name, tensor in theirs.items():
        if tensor.shape != own[name].shape:
            raise InputError(
                f"at: {name!r} has shape {tuple(tensor.shape)}, not {tuple(own[name].shape)}"
            )


def frozen(module: nn.Module) -> nn.Module:
    """The module, changed so that its parameters are buffers, tied ones still tied."""
    buffers: dict[int, Tensor] = {}
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                tensor = buffers.setdefault(id(parameter), parameter.detach())
                del part._parameters[name]
                part.register_buffer(name, tensor)
    return module
