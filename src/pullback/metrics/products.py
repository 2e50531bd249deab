"""A symmetric matrix known by its products, as an operator of the library `linear_operator`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from linear_operator import LinearOperator
from torch import Tensor


class Products(LinearOperator):  # type: ignore[misc]
    """A symmetric d x d matrix by its products and its diagonal.

    Args:
        like: any tensor of shape (..., d), for the size, the precision and the device.
        product: from vectors (..., d) to their products.
        diagonal: computes the diagonal (d,).
    """

    def __init__(
        self,
        like: Float[Tensor, "*b d"],
        product: Callable[[Tensor], Tensor],
        diagonal: Callable[[], Tensor],
    ) -> None:
        # The library takes tensors by position, and rebuilds an operator from these and the rest.
        super().__init__(like, product=product, diagonal=diagonal)
        self._length, self._product, self._compute_diagonal = like.shape[-1], product, diagonal

    def _matmul(self, rhs: Tensor) -> Tensor:
        return self._product(rhs) if rhs.ndim == 1 else self._product(rhs.mT).mT

    def _size(self) -> torch.Size:
        return torch.Size((self._length, self._length))

    def _transpose_nonbatch(self) -> Products:
        return self

    def _diagonal(self) -> Tensor:
        return self._compute_diagonal()
