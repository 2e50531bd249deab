"""One use of parameters by an operation, and what can be computed from its two ends.

Every structured quantity is a contraction of what went *into* a use, `a`, with the gradients that
came back *out* of it, `g`. Shapes, throughout this room:

    k cotangents, n samples, t positions that share the parameters (1 for a plain linear layer)
    g   a list of k tensors, one for each cotangent, in a layout that is the use's own business

A use has to know one thing, the gradient of each sample (`per_sample`); whatever it can do at less
cost than through these, it overrides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.batches import Batch
from pullback.errors import InputError

# The gradients that came back out of a use, one for each cotangent.
Gradients = list[Tensor]


class Squares(list[Tensor]):
    """In place of gradients, the sum of their squares over cotangents: a list of one tensor."""


class Use(ABC):
    """Parameters used once by one operation on one batch.

    Attributes:
        way: how its quantities are computed, as the user sees it.
        names: the parameters, of this network, that it uses.
        cotangents: how many there are in all; what depends on the input alone is shared by them.
    """

    way: ClassVar[str]
    names: tuple[str, ...]
    cotangents: int = 1

    @abstractmethod
    def lay_out(self, gradient: Tensor) -> Tensor:
        """A gradient by the output in the use's own layout; a view where that is possible."""

    @abstractmethod
    def per_sample(self, g: Gradients) -> dict[str, Float[Tensor, "k n *shape"]]:
        """The gradient of each sample, for each parameter: shape (k, n, *shape)."""

    def write_rows(
        self, g: Gradients, out: Float[Tensor, "k n d"], places: Mapping[str, slice]
    ) -> None:
        """Write each sample's gradient into its row, at the places of parameters that have one."""
        write_rows(self.per_sample(g), out, places)

    @property
    @abstractmethod
    def floats(self) -> tuple[int, int]:
        """Numbers kept for one sample: of the input, and of the gradient for each cotangent."""

    @property
    def factorises(self) -> bool:
        """Whether squared norm and diagonal take no more than the squares of the gradients."""
        return False

    def release(self) -> None:
        """Forget what was derived from the input; it is made again when asked for."""
        return

    def total(self, g: Gradients) -> dict[str, Tensor]:
        """The gradients summed over samples and cotangents, by parameter."""
        return {name: rows.sum((0, 1)) for name, rows in self.per_sample(g).items()}

    def squared_norm(self, g: Gradients) -> Float[Tensor, " n"]:
        """The squared norm of each sample's gradient, summed over cotangents."""
        return squared_norm(self.per_sample(g))

    def diagonal(self, g: Gradients) -> dict[str, Tensor]:
        """The squares of the gradients, summed over samples and cotangents, by parameter."""
        return diagonal(self.per_sample(g))


class Unforeseen(Exception):
    """A batch shows something that the plan, made on the first one, has wrong.

    Attributes:
        reasons: parameters that need the generic way, and why.
        vmapped: False if the module does not run under `vmap` after all.
        batch: where to look instead, if the first batch showed too little.
    """

    def __init__(
        self, reasons: dict[str, str], vmapped: bool = True, batch: Batch | None = None
    ) -> None:
        super().__init__(f"{reasons}, vmapped: {vmapped}")
        self.reasons, self.vmapped, self.batch = reasons, vmapped, batch


class SavedInput:
    """A tensor kept from the forward pass, guarded against being overwritten since."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor.detach()
        self._version = tensor._version

    def get(self) -> Tensor:
        """The tensor as it was.

        Raises:
            InputError: the module has changed it in place after using it.
        """
        if self._tensor._version != self._version:
            raise InputError(
                "model: an in-place operation overwrites the input of a layer, so its gradients "
                "cannot be computed; use the out-of-place form"
            )
        return self._tensor


def flat_rows(gradients: Float[Tensor, "k n *shape"]) -> Float[Tensor, "k n d"]:
    """Per-sample gradients of one parameter as rows."""
    return gradients.reshape(*gradients.shape[:2], -1)


def write_rows(
    per_sample: Mapping[str, Tensor], out: Float[Tensor, "k n d"], places: Mapping[str, slice]
) -> None:
    """Write gradients given sample by sample into rows, at the places of those that have one."""
    for name, gradients in per_sample.items():
        if name in places:
            out[..., places[name]] = flat_rows(gradients)


def squared_norm(per_sample: dict[str, Tensor]) -> Float[Tensor, " n"]:
    """The squared norms (n,) of gradients given sample by sample."""
    norms = [flat_rows(g).square().sum((0, 2)) for g in per_sample.values()]
    return torch.stack(norms).sum(0)


def diagonal(per_sample: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sums over samples and cotangents of squared gradients given sample by sample."""
    return {name: g.square().sum((0, 1)) for name, g in per_sample.items()}


def connected(uses: Sequence[Use]) -> list[list[int]]:
    """The positions of uses, grouped so that no parameter is in two groups."""
    groups: list[tuple[set[str], list[int]]] = []
    for position, use in enumerate(uses):
        names, members = set(use.names), [position]
        apart = []
        for group in groups:
            if group[0] & names:
                names |= group[0]
                members = group[1] + members
            else:
                apart.append(group)
        groups = [*apart, (names, members)]
    return [members for _, members in groups]
