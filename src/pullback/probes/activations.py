"""Probes: whether the network still is where its linearisation holds, by its activations.

The activations are seen while the network runs, whatever module or function computes them, so no
name of a layer is needed and nothing is hooked to the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pullback.errors import InputError
from pullback.kernels.spectra import alignment
from pullback.probes.quiet import undisturbed
from pullback.probes.recorder import Moment

RECTIFIERS = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


class _Watch(TorchFunctionMode):
    """Keeps what some functions take or return while a module runs."""

    def __init__(self, seen: Callable[[Any, Tensor, Tensor], None]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = (*args, *(kwargs or {}).values())
        result = func(*args, **(kwargs or {}))
        if given and isinstance(given[0], Tensor) and isinstance(result, Tensor):
            self._seen(func, given[0], result)
        return result


def _watched(model: nn.Module, inputs: Tensor, seen: Callable[[Any, Tensor, Tensor], None]) -> None:
    with torch.no_grad(), _Watch(seen):
        model(inputs)


def _active(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Where each rectified linear unit is active, call by call."""
    found: list[Tensor] = []

    def seen(function: Any, _: Tensor, result: Tensor) -> None:
        if function in RECTIFIERS:
            found.append(result > 0)

    _watched(model, inputs, seen)
    return found


class SignSimilarity:
    """Which share of the rectified linear units are active, or not, where they were at the start.

    1 means that the network is the same linear map of each sample's features as at the start.

    Args:
        inputs: samples, shape (n, ...).
        start: the model at the reference point.

    Raises:
        InputError: the network has no rectified linear units.

    Source:
        George 2023, section 5.2 (sign similarity).

    Example:
        >>> import torch
        >>> from pullback.probes import Moment, SignSimilarity
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU())
        >>> for parameter in model.parameters():
        ...     _ = torch.nn.init.ones_(parameter)
        >>> probe = SignSimilarity(torch.ones(3, 1), model)
        >>> _ = torch.nn.init.constant_(model[0].bias[:1].data, -5.0)
        >>> probe.measure(Moment(model, step=1))
        {'all': 0.5}
    """

    name = "sign_similarity"

    def __init__(self, inputs: Float[Tensor, "n ..."], start: nn.Module) -> None:
        self.inputs = inputs
        with undisturbed(start) as model:
            self.start = _active(model, inputs)
        if not self.start:
            raise InputError("start: the network has no rectified linear units to compare")

    def measure(self, moment: Moment) -> dict[str, float]:
        """`{"all": share}` of all units and samples, in [0, 1].

        Raises:
            InputError: the network does not use its units as it did at the start.
        """
        now = _active(moment.model, self.inputs)
        if [one.shape for one in now] != [one.shape for one in self.start]:
            raise InputError("model: it does not use its rectified linear units as at the start")
        same = sum(int((a == b).sum()) for a, b in zip(now, self.start, strict=True))
        return {"all": same / sum(one.numel() for one in now)}


def _representation(model: nn.Module, inputs: Tensor) -> Float[Tensor, "n r"]:
    """What enters the last linear layer."""
    found: list[Tensor] = []

    def seen(function: Any, first: Tensor, _: Tensor) -> None:
        if function is F.linear:
            found[:] = [first]

    _watched(model, inputs, seen)
    if not found or len(found[0]) != len(inputs):
        raise InputError(
            "model: has no linear layer at its end that takes one row for each sample; this probe "
            "compares what enters it"
        )
    return found[0].detach().flatten(1).clone()


class RepresentationAlignment:
    """Alignment of the kernel of the last hidden representation with that at the start.

    The representation is what enters the last linear layer; its kernel, the inner products of
    samples, is not centred.

    Args:
        inputs: samples, shape (n, ...).
        start: the model at the reference point.

    Raises:
        InputError: the network has no last linear layer.

    Source:
        George 2023, section 5.2 (representation alignment).

    Example:
        >>> import torch
        >>> from pullback.probes import Moment, RepresentationAlignment
        >>> layers = torch.nn.Linear(2, 3), torch.nn.Sigmoid(), torch.nn.Linear(3, 1)
        >>> model = torch.nn.Sequential(*layers)
        >>> RepresentationAlignment(torch.eye(2), model).measure(Moment(model, step=0))
        {'all': 1.0}
    """

    name = "representation_alignment"

    def __init__(self, inputs: Float[Tensor, "n ..."], start: nn.Module) -> None:
        self.inputs = inputs
        with undisturbed(start) as model:
            self.start = _representation(model, inputs)

    def measure(self, moment: Moment) -> dict[str, float]:
        """`{"all": alignment}`, in [0, 1]; 0 where a representation is zero."""
        rows = [one.double() for one in (_representation(moment.model, self.inputs), self.start)]
        kernels = [one @ one.T for one in rows]
        if not all(bool(kernel.any()) for kernel in kernels):
            return {"all": 0.0}
        return {"all": min(1.0, alignment(kernels[0], kernels[1], None))}
