"""Random networks of one architecture, many at a time: a factory called once for all of them.

The factory runs under `torch.func.vmap`, with new tensors that have a dimension for the networks
in front; every way to draw weights that vmap knows draws all of them in one call. Where it does
not know one, the factory is called for each network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode

from pullback.anisotropy.pooling import QuickPooling
from pullback.cotangents import ReadOut
from pullback.errors import InputError
from pullback.network import agree_but_for_rounding, channels_last

MakeModel = Callable[[], nn.Module]
Outputs = None | int | tuple[int, int]
State = dict[str, Tensor]
AT_ONCE = 100  # networks in a stack, at most
BYTES = 64 * 2**20  # of a stack


class Population:
    """Networks that a factory draws, in stacks of a fixed size.

    Each stack has a seed of its own, so that it is the same whenever it is drawn.

    Args:
        make_model: returns a new network, with weights from torch's global generator.
        shape: of one input.
        outputs: which output is f: None for the only one, a number, or a pair (a, b) for output b
            minus output a.
        seed: of all weights.
        at_most: networks in a stack.

    Attributes:
        module: one of the networks, in evaluation mode; gives the architecture.
        size: networks in a stack.
        together: whether the factory draws a whole stack at once.

    Raises:
        InputError: the factory returns no module, one that does not take such inputs, one that has
            several outputs where none is named, or the same weights each time.
    """

    def __init__(
        self,
        make_model: MakeModel,
        shape: Sequence[int],
        outputs: Outputs = None,
        seed: int = 0,
        at_most: int = AT_ONCE,
    ) -> None:
        self.make_model, self.shape, self.outputs, self.seed = make_model, (*shape,), outputs, seed
        with self._seeded(0):
            self.module = self._made()
        with self._seeded(1):
            other = self._made()
        if not _differ(_state(self.module), _state(other)):
            raise InputError(
                "make_model: returns the same weights each time; make a new network in it, and set "
                "no seed"
            )
        bytes_ = sum(tensor.nbytes for tensor in _state(self.module).values())
        self.size = max(1, min(AT_ONCE, at_most, BYTES // max(bytes_, 1)))
        self._weights = self._read_out()
        self._channels_last = len(self.shape) == 3 and self._runs_channels_last()
        self.together = self.size > 1 and self._draws_together()

    def one(self, number: int) -> State:
        """All parameters and buffers of one network."""
        state = self.stack(number // self.size)
        return {name: tensor[number % self.size] for name, tensor in state.items()}

    @property
    def inputs(self) -> int:
        """How many numbers an input has, D."""
        return int(np.prod(self.shape))

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of what is trained."""
        return tuple(name for name, one in self.module.named_parameters() if one.requires_grad)

    @property
    def output(self) -> int | tuple[int, int]:
        """Which output is f."""
        return 0 if self.outputs is None else self.outputs

    @property
    def dtype(self) -> torch.dtype:
        """Of the networks' parameters."""
        return next(self.module.parameters()).dtype

    def counts(self, networks: int) -> list[int]:
        """How many networks of each stack are used, where so many are wanted."""
        whole, rest = divmod(networks, self.size)
        return [self.size] * whole + [rest] * bool(rest)

    def stack(self, place: int) -> State:
        """All parameters and buffers of the networks of one stack, each with a dimension in front.

        Buffers and parameters that all networks have in common are there too.
        """
        if self.together:
            return self._drawn(place, self.size)
        with self._seeded(place):
            states = [_state(self._made()) for _ in range(self.size)]
        return {name: torch.stack([state[name] for state in states]) for name in states[0]}

    def function(self, state: State, x: Tensor) -> Tensor:
        """`f(x)` of one network, for one input of the shape; a number."""
        return self.functions(state, x.unsqueeze(0))[0]

    def functions(self, state: State, x: Tensor) -> Tensor:
        """`f(x)` of one network, for inputs (n, *shape); shape (n,)."""
        result: Tensor = functional_call(self.module, state, (x,))
        return result.flatten(1) @ self._weights.to(result)

    def network(self, state: State) -> Callable[[Tensor], Tensor]:
        """One network as a function of many inputs (n, *shape), with numbers (n,); no gradients."""
        arranged = channels_last if self._channels_last else lambda tensor: tensor
        own = {name: arranged(tensor) for name, tensor in state.items()}

        def values(x: Tensor) -> Tensor:
            with torch.no_grad(), QuickPooling():
                return self.functions(own, arranged(x))

        return values

    def _runs_channels_last(self) -> bool:
        """Whether the network takes images so, which is quicker on a CPU, and gives the same."""
        x = torch.randn(
            2, *self.shape, dtype=self.dtype, generator=torch.Generator().manual_seed(0)
        )
        state = _state(self.module)
        with torch.no_grad():
            usual = self.functions(state, x)
            try:
                found = self.functions(
                    {n: channels_last(t) for n, t in state.items()}, channels_last(x)
                )
            except RuntimeError:
                return False
        return agree_but_for_rounding(usual, found)

    def _read_out(self) -> Tensor:
        """The weights of the outputs in f."""
        x = torch.zeros(1, *self.shape, dtype=self.dtype)
        try:
            with torch.no_grad():
                found = self.module(x)
        except (RuntimeError, ValueError, TypeError) as problem:
            raise InputError(
                f"shape: the network does not take inputs of shape {self.shape}: {problem}"
            ) from problem
        if not isinstance(found, Tensor) or len(found) != 1:
            raise InputError("make_model: the network returns no tensor (n, c) for n inputs")
        count = found.numel()
        if self.outputs is None and count != 1:
            raise InputError(
                f"outputs: the network has {count}; name one by its number, or a pair (a, b) for "
                "output b minus output a"
            )
        return ReadOut(self.output).weights(found.view(1, -1))[0]

    def _draws_together(self) -> bool:
        """Whether the factory can run under vmap, and draws different networks there."""
        try:
            two = self._drawn(0, 2)
        except (RuntimeError, ValueError, TypeError, NotImplementedError):
            return False
        one = _state(self.module)
        same_kind = {name: tensor.shape for name, tensor in one.items()} == {
            name: tensor.shape[1:] for name, tensor in two.items()
        }
        first, second = ({name: t[place] for name, t in two.items()} for place in (0, 1))
        return same_kind and _differ(first, second)

    def _drawn(self, place: int, count: int) -> State:
        def draw(marker: Tensor) -> State:
            with _NewTensorsLike(marker):
                return _state(self._made())

        with self._seeded(place):
            return vmap(draw, randomness="different")(torch.zeros(count, dtype=self.dtype))

    def _made(self) -> nn.Module:
        module = self.make_model()
        if not isinstance(module, nn.Module) or not any(True for _ in module.parameters()):
            raise InputError(
                f"make_model: returned {type(module).__name__}; expected a torch.nn.Module with "
                "parameters"
            )
        return module.eval()

    @contextmanager
    def _seeded(self, place: int) -> Iterator[None]:
        """Torch's global generator, for one stack; afterwards it is as it was."""
        state = np.random.SeedSequence([self.seed, place]).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(state[0]))
            yield


class _NewTensorsLike(TorchFunctionMode):
    """New tensors get the dimensions over which vmap runs from a marker that has them."""

    def __init__(self, marker: Tensor) -> None:
        super().__init__()
        self.marker = marker

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func not in (torch.empty, torch.zeros, torch.ones) or "size" in named:
            return func(*args, **named)
        size = args[0] if len(args) == 1 and not isinstance(args[0], int) else args
        options = {key: named[key] for key in ("dtype", "device") if named.get(key) is not None}
        options.setdefault("dtype", torch.get_default_dtype())
        new = {
            torch.empty: self.marker.new_empty,
            torch.zeros: self.marker.new_zeros,
            torch.ones: self.marker.new_ones,
        }[func]
        return new(tuple(size), **options)


def _state(module: nn.Module) -> State:
    return {
        **{name: tensor.detach() for name, tensor in module.named_parameters()},
        **dict(module.named_buffers()),
    }


def _differ(one: State, other: State) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one)
