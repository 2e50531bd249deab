"""A module as a pure function f(w, x) of chosen parameters, with outputs of shape (n, c).

`Network` answers the first of the three questions a user has to settle: *which function*. Which
module, which of its parameters are w, and which of its outputs are f:

    Network(model)                                           # all that require a gradient; as is
    Network(model, parameters="head.*")                      # last layer only
    Network(model, parameters=nn.LayerNorm)                  # those of such modules
    Network(model, outputs=lambda out: out.logits[:, 0])     # a read-out of a structured output
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeGuard, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from pullback.batches import Batch, all_finite
from pullback.errors import InputError
from pullback.parameters import ParameterSpace, ParameterVector, accumulation_dtype, matching

Chosen = Callable[[str, nn.Parameter], bool]
Kinds = type[nn.Module] | tuple[type[nn.Module], ...]
Selection = None | str | Sequence[str] | Kinds | Chosen


class Network:
    """A module as a pure function of chosen parameters.

    The module itself is never changed: not its weights, mode, gradients, hooks or buffers.

    Args:
        module: any `nn.Module`; with batch norm or dropout it has to be in evaluation mode.
        parameters: which parameters are w: None for those that require a gradient, a glob pattern
            on names or a list of them, a type of modules or a tuple of types (what such modules own
            themselves, tied parameters once), or a predicate `(name, parameter) -> bool`.
        outputs: the read-out, from what the module returns to a tensor (n, c); None where the
            module returns one.

    Raises:
        InputError: nothing is selected, or batch norm or dropout is in training mode.

    Example:
        >>> import torch, pullback as pb
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> network = pb.Network(model, parameters="1.*")
        >>> network.space.names, network.space.size
        (('1.weight', '1.bias'), 8)
        >>> network(torch.zeros(5, 4)).shape
        torch.Size([5, 2])
        >>> pb.Network(model, parameters=torch.nn.Linear).space.size
        23
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Selection = None,
        outputs: Callable[[object], Tensor] | None = None,
    ) -> None:
        _refuse_training_mode(module)
        everything = dict(module.named_parameters())
        selected = _selector(parameters, module)
        self.module = module
        self.tensors = {n: p.detach() for n, p in everything.items() if selected(n, p)}
        if not self.tensors:
            raise InputError(
                f"parameters: {parameters!r} selects none of the module's {len(everything)} "
                "parameters; None selects those with requires_grad=True"
            )
        self.constants = {n: p.detach() for n, p in everything.items() if n not in self.tensors}
        self.space = ParameterSpace.of_tensors(self.tensors)
        self._read_out = outputs
        self._channels_last: bool | None = None  # whether images can be so; unknown till tried

    @classmethod
    def of(cls, model: nn.Module | Network) -> Network:
        """The model itself if it is a network already, otherwise a network with all defaults.

        Raises:
            InputError: `model` is neither.
        """
        if isinstance(model, Network):
            return model
        if not isinstance(model, nn.Module):
            raise InputError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        return cls(model)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.space.device

    def __call__(
        self, inputs: Tensor | Batch, vector: ParameterVector | None = None
    ) -> Float[Tensor, "n c"]:
        """The outputs f(w, x), shape (n, c), at w = `vector` or at the module's own parameters."""
        batch = inputs if isinstance(inputs, Batch) else Batch((inputs,))
        with torch.no_grad(), undisturbed():
            here = self.tensors if vector is None else self.split(vector.in_space(self.space))
            return self.forward(here, batch)

    def split(self, flat: Float[Tensor, " d"]) -> dict[str, Tensor]:
        """A flat vector as tensors by name, in the parameters' own precision."""
        pieces = ParameterVector(self.space, flat).as_dict()
        return {name: piece.to(self.tensors[name].dtype) for name, piece in pieces.items()}

    def forward(self, tensors: Mapping[str, Tensor], batch: Batch) -> Float[Tensor, "n c"]:
        """The outputs with the given parameter tensors; differentiable, for the library's own use.

        Raises:
            InputError: the outputs are not of shape (n, c), or not finite.
        """
        if self._channels_last is None:
            self._channels_last = self._runs_channels_last(batch)
        result = self._result(tensors, batch.map(channels_last) if self._channels_last else batch)
        if not isinstance(result, Tensor) or result.ndim != 2 or len(result) != len(batch):
            seen = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise InputError(
                f"outputs: the model gave {seen} for {len(batch)} samples, expected shape (n, c); "
                "give Network(model, outputs=...) a read-out that returns one"
            )
        return result.to(accumulation_dtype(result.dtype))

    def arranged(self) -> Network:
        """The same function for one pass, its kernels in the memory order of its images.

        They are copies, which would miss a later change of the module.
        """
        if not self._channels_last:
            return self
        network = copy.copy(self)
        network.tensors = {n: channels_last(t) for n, t in self.tensors.items()}
        network.constants = {n: channels_last(t) for n, t in self.constants.items()}
        return network

    def _result(self, tensors: Mapping[str, Tensor], batch: Batch) -> object:
        # Clones, because a module may write to its buffers while it runs.
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        state = {**self.constants, **buffers, **tensors}
        result = functional_call(self.module, state, batch.args, batch.kwargs)
        return result if self._read_out is None else self._read_out(result)

    def _runs_channels_last(self, batch: Batch) -> bool:
        """Whether the module takes images with channels last in memory, and gives the same.

        On a CPU convolutions and their gradients are quicker in that order, by up to a third; a
        module may yet rely on the other one, with `Tensor.view` for instance.
        """
        everything = (*self.tensors.values(), *self.constants.values())
        if self.device.type != "cpu" or all(
            t.ndim != 4 or t.dtype != torch.float32 for t in everything
        ):
            return False
        few = batch.take(0, 2)
        with torch.no_grad():
            usual = self._result(self.tensors, few)
            try:
                found = self._result(self.tensors, few.map(channels_last))
            except RuntimeError:
                return False
        return (
            isinstance(usual, Tensor)
            and isinstance(found, Tensor)
            and agree_but_for_rounding(usual, found)
        )


def channels_last(tensor: Tensor) -> Tensor:
    """A float32 image or kernel with its channels last in memory; others as they are."""
    if tensor.ndim != 4 or tensor.dtype != torch.float32:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def agree_but_for_rounding(expected: Tensor, actual: Tensor) -> bool:
    """Whether two tensors are the same but for the order in which numbers were added."""
    if expected.shape != actual.shape:
        return False
    expected, actual = expected.detach().double(), actual.detach().double()
    return bool((expected - actual).abs().max() <= 1e-3 * expected.abs().max() + 1e-6)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave no trace in the global random state; use attention kernels that can be differentiated.

    Fused attention has no forward-mode and no double-backward rule on the CPU, and the fused
    encoder layer hides its operations.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(devices), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def check_finite_outputs(outputs: Tensor) -> None:
    """Raise InputError when an output is NaN or infinite.

    Raises:
        InputError: naming the first sample concerned.
    """
    if not all_finite(outputs):
        first = int((~outputs.isfinite().all(dim=1)).nonzero()[0])
        raise InputError(
            f"outputs: not finite for sample {first} of a batch; the network diverged, or its "
            "input is out of range"
        )


def _selector(parameters: Selection, module: nn.Module) -> Chosen:
    if parameters is None:
        return lambda name, parameter: parameter.requires_grad
    if is_kinds(parameters):
        chosen = owned_by(parameters, module, "parameters")
    elif callable(parameters):
        return cast(Chosen, parameters)
    else:
        names = [name for name, _ in module.named_parameters()]
        chosen = matching(cast(str | Sequence[str], parameters), names, "parameters")
    return lambda name, parameter: name in chosen


def is_kinds(selection: object) -> TypeGuard[Kinds]:
    """Whether it is a type of modules, or a tuple of them."""
    types = selection if isinstance(selection, tuple) else (selection,)
    return len(types) > 0 and all(isinstance(t, type) and issubclass(t, nn.Module) for t in types)


def owned_by(kinds: Kinds, module: nn.Module, argument: str) -> set[str]:
    """The names of the parameters that modules of some types own themselves.

    Raises:
        InputError: there are none; `argument` is what the message calls the types.
    """
    # By identity, since a tied parameter has one name and several owners.
    owners = [part for part in module.modules() if isinstance(part, kinds)]
    owned = {id(own) for part in owners for own in part.parameters(recurse=False)}
    if not owned:
        types = kinds if isinstance(kinds, tuple) else (kinds,)
        raise InputError(
            f"{argument}: no module of type {', '.join(t.__name__ for t in types)} has parameters "
            f"of its own; there are {', '.join(_types_with_parameters(module))}"
        )
    return {name for name, parameter in module.named_parameters() if id(parameter) in owned}


def _types_with_parameters(module: nn.Module) -> list[str]:
    parts = [part for part in module.modules() if any(True for _ in part.parameters(recurse=False))]
    return sorted({type(part).__name__ for part in parts})


def _refuse_training_mode(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if not part.training:
            continue
        random_rate = part.p if isinstance(part, _DropoutNd) else getattr(part, "dropout", 0.0)
        if isinstance(part, _BatchNorm):
            reason = "batch norm in training mode has no function of a single sample"
        elif isinstance(random_rate, float) and random_rate > 0:
            reason = "dropout in training mode is random"
        else:
            continue
        raise InputError(f"model: {name or 'the module'}: {reason}; call model.eval() first")
