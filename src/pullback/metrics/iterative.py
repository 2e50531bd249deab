"""Linear algebra with products alone: the one place where iterative methods are called.

Conjugate gradients and the implicitly restarted Lanczos method are SciPy's, Lanczos
tridiagonalisation is `linear_operator`'s.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from linear_operator.utils.lanczos import lanczos_tridiag
from scipy.sparse.linalg import LinearOperator, cg, eigsh
from torch import Tensor

from pullback.errors import InputError

# A product with each of a batch of vectors.
Products = Callable[[Tensor], Tensor]


def solve(
    operator: LinearOperator,
    right: Float[Tensor, "*b d"],
    damping: int | float,
    tolerance: float,
    iterations: int,
) -> Float[Tensor, "*b d"]:
    """The solutions x of `(F + damping I) x = right`, by conjugate gradients.

    Args:
        operator: F.
        right: one vector or a batch.
        damping: lambda.
        tolerance: relative residual at which to stop.
        iterations: at most so many products for each vector.

    Raises:
        InputError: the tolerance was not reached.
    """
    size = right.shape[-1]

    def damped(vector: object) -> object:
        return operator.matvec(vector) + damping * vector  # type: ignore[operator]

    shifted = LinearOperator((size, size), matvec=damped, dtype="float64")
    out = []
    for one in right.reshape(-1, size):
        found, left = cg(shifted, one.double().cpu().numpy(), rtol=tolerance, maxiter=iterations)
        if left:
            raise InputError(
                f"damping: {damping} is so small that conjugate gradients did not reach "
                f"{tolerance:g} in {iterations} products; raise the damping"
            )
        out.append(torch.as_tensor(found, dtype=right.dtype, device=right.device))
    return torch.stack(out).reshape(right.shape) if out else torch.zeros_like(right)


def largest_eigenpairs(
    operator: LinearOperator, k: int, by_size: bool = False
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k d"]]:
    """The k largest eigenvalues, falling, and their eigenvectors in rows.

    Args:
        operator: the matrix.
        k: how many, fewer than d.
        by_size: largest in absolute value instead.
    """
    values, vectors = eigsh(operator, k, which="LM" if by_size else "LA")
    found = torch.as_tensor(values.copy()).flip(0), torch.as_tensor(vectors.T.copy()).flip(0)
    return found


def quadrature(
    products: Products,
    start: Float[Tensor, "b d"],
    steps: int,
) -> tuple[Float[Tensor, "b m"], Float[Tensor, "b m"], Float[Tensor, "b m d"]]:
    """Nodes and weights of the Gauss quadrature that Lanczos finds for each starting vector.

    `start^T f(F) start` is nearly `|start|^2 sum_j weights_j f(nodes_j)`, exactly so for
    polynomials of degree 2 m - 1 (Golub and Meurant). The Ritz vectors give `f(F) start` itself, as
    `|start| sum_j sqrt(weights_j) f(nodes_j) vectors_j`.
    """
    basis, tridiagonal = lanczos_tridiag(
        lambda columns: products(columns.mT).mT,
        max_iter=min(steps, start.shape[1]),
        dtype=start.dtype,
        device=start.device,
        matrix_shape=torch.Size((start.shape[1], start.shape[1])),
        init_vecs=start.T.contiguous(),
    )
    if tridiagonal.ndim == 2:
        basis, tridiagonal = basis.unsqueeze(0), tridiagonal.unsqueeze(0)
    nodes, turned = torch.linalg.eigh(tridiagonal)
    first = turned[:, 0, :]
    vectors = (basis @ turned).mT * first.sign().unsqueeze(2)
    return nodes, first.square(), vectors


def function_times(
    products: Products,
    right: Float[Tensor, "*b d"],
    function: Callable[[Tensor], Tensor],
    steps: int,
) -> Float[Tensor, "*b d"]:
    """`f(F) v` for each of a batch of vectors, by Lanczos."""
    rows = right.reshape(-1, right.shape[-1])
    if len(rows) == 0:
        return torch.zeros_like(right)
    nodes, weights, vectors = quadrature(products, rows, steps)
    along = weights.sqrt() * function(nodes)
    found = (along.unsqueeze(1) @ vectors).squeeze(1) * rows.norm(dim=1, keepdim=True)
    return found.reshape(right.shape)
