"""Which entries of a tangent kernel are formed, and how they lie in memory meanwhile.

Features come as (k, n, b): b numbers for each of k outputs of n samples. With features of a second
set, every entry is formed; without, only the lower block triangle, for `mirror_` to complete.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.linalg import add_gram_, mirror_

# The features of the first set, and those of the second where there is one.
Slab = Float[Tensor, "k n b"]
Second = Float[Tensor, "k m b"] | None
# Gradients (n, o), one tensor for each of k outputs.
Apart = Sequence[Tensor]


class Arrangement(ABC):
    """A choice of entries.

    Attributes:
        one: whether they are one kernel, rather than one for each output.
        apart: whether each output meets none but itself.
    """

    one = True
    apart = True

    @abstractmethod
    def pairs(self, outputs: int) -> int:
        """How many pairs of that many outputs there are for a pair of samples."""

    @abstractmethod
    def shape(self, outputs: int, rows: int, columns: int) -> tuple[int, ...]:
        """The shape of the accumulated kernel."""

    @abstractmethod
    def add_rows_(self, total: Tensor, left: Slab, right: Second, first: int = 0) -> None:
        """Add the inner products of features, of outputs from the `first` on."""

    @abstractmethod
    def add_products_(
        self, total: Tensor, left: Apart, right: Apart | None, inputs: Float[Tensor, "n m"]
    ) -> None:
        """Add the inner products of gradients, each times that of the samples' inputs."""

    @abstractmethod
    def finished(self, total: Tensor, symmetric: bool) -> Tensor:
        """The kernel as the user sees it."""


class AllPairs(Arrangement):
    """Every pair of outputs: accumulated as (k, n, k, m), seen as (n, k, m, k)."""

    apart = False

    def pairs(self, outputs: int) -> int:
        return outputs**2

    def shape(self, outputs: int, rows: int, columns: int) -> tuple[int, ...]:
        return outputs, rows, outputs, columns

    def add_rows_(self, total: Tensor, left: Slab, right: Second, first: int = 0) -> None:
        _add_(total.flatten(2).flatten(0, 1), left.flatten(0, 1), _joined(right))

    def add_products_(
        self, total: Tensor, left: Apart, right: Apart | None, inputs: Tensor
    ) -> None:
        others = torch.cat(list(left if right is None else right))
        n, m = inputs.shape
        space = inputs.new_empty(n * len(others))
        for output, rows in enumerate(left):
            columns = (output + 1) * m if right is None else len(others)
            products = space[: n * columns].view(n, columns)
            torch.mm(rows, others[:columns].T, out=products)
            shaped = products.view(n, -1, m)
            total[output, :, : shaped.shape[1]].addcmul_(shaped, inputs.unsqueeze(1))

    def finished(self, total: Tensor, symmetric: bool) -> Tensor:
        if symmetric:
            mirror_(total.flatten(2).flatten(0, 1))
        return total.permute(1, 0, 3, 2)


class Summed(Arrangement):
    """The sum over outputs, (n, m)."""

    def pairs(self, outputs: int) -> int:
        return outputs

    def shape(self, outputs: int, rows: int, columns: int) -> tuple[int, ...]:
        return rows, columns

    def add_rows_(self, total: Tensor, left: Slab, right: Second, first: int = 0) -> None:
        for output, rows in enumerate(left):
            _add_(total, rows, None if right is None else right[output])

    def add_products_(
        self, total: Tensor, left: Apart, right: Apart | None, inputs: Tensor
    ) -> None:
        products = torch.zeros_like(total)
        for rows, others in zip(left, left if right is None else right, strict=True):
            products.addmm_(rows, others.T)
        total.addcmul_(products, inputs)

    def finished(self, total: Tensor, symmetric: bool) -> Tensor:
        return mirror_(total) if symmetric else total


class Separate(Arrangement):
    """Each output by itself, (k, n, m)."""

    one = False

    def pairs(self, outputs: int) -> int:
        return outputs

    def shape(self, outputs: int, rows: int, columns: int) -> tuple[int, ...]:
        return outputs, rows, columns

    def add_rows_(self, total: Tensor, left: Slab, right: Second, first: int = 0) -> None:
        for output, rows in enumerate(left):
            _add_(total[first + output], rows, None if right is None else right[output])

    def add_products_(
        self, total: Tensor, left: Apart, right: Apart | None, inputs: Tensor
    ) -> None:
        for own, rows, others in zip(total, left, left if right is None else right, strict=True):
            own.addcmul_(rows @ others.T, inputs)

    def finished(self, total: Tensor, symmetric: bool) -> Tensor:
        return mirror_(total) if symmetric else total


class Single(Separate):
    """The one combination of outputs that there is, (n, m)."""

    one = True

    def finished(self, total: Tensor, symmetric: bool) -> Tensor:
        return super().finished(total, symmetric).squeeze(0)


def _joined(slab: Second) -> Float[Tensor, "km b"] | None:
    return None if slab is None else slab.flatten(0, 1)


def _add_(total: Tensor, rows: Tensor, others: Tensor | None) -> None:
    if others is None:
        add_gram_(total, rows)
    else:
        total.addmm_(rows, others.T)
