"""The covariance of a class label, `diag p - p p^T`, by its exact Cholesky factor R (v, v - 1).

Column k of R is `sqrt(p_k q_k / q_(k-1)) (e_k - sum_(j>k) p_j e_j / q_k)` with `q_k = sum_(j>k)
p_j`. Products with R and its transpose take cumulative sums, hence v operations.

Source:
    Tanabe and Sagae 1992.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def root_times(
    p: Float[Tensor, "*#b v"], vectors: Float[Tensor, "*#b v-1"]
) -> Float[Tensor, "*b v"]:
    """The product R z."""
    diagonal, below = _scales(p)
    before = F.pad((below * vectors).cumsum(-1), (1, 0))  # the sum over k < j, for each j
    return F.pad(diagonal * vectors, (0, 1)) - p * before


def transposed_root_times(
    p: Float[Tensor, "*#b v"], vectors: Float[Tensor, "*#b v"]
) -> Float[Tensor, "*b v-1"]:
    """The product R^T v."""
    diagonal, below = _scales(p)
    return diagonal * vectors[..., :-1] - below * _tails(p * vectors)[..., 1:]


def _tails(values: Tensor) -> Tensor:
    return values.flip(-1).cumsum(-1).flip(-1)


def _scales(p: Tensor) -> tuple[Tensor, Tensor]:
    """What multiplies e_k and -p_j e_j in each column; zero once no probability is left."""
    tails = _tails(p)  # entry k is q_(k-1)
    rest, with_k = tails[..., 1:], tails[..., :-1]
    diagonal = (p[..., :-1] * rest / with_k).nan_to_num().sqrt()
    return diagonal, (diagonal / rest).nan_to_num(posinf=0.0)
