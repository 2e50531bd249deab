"""The implicit representation: the exact matrix, never stored.

A product costs one forward pass with its tangent and one backward pass for each batch; trace and
diagonal are sums of squares from the tape. A solve is conjugate gradients on the product.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from pullback.batches import Batch, tracked
from pullback.cotangents import Pass
from pullback.errors import InputError
from pullback.jacobian import pull_batch, push_batch
from pullback.metrics import dense, diagonal
from pullback.metrics.metric import Metric, origin_of
from pullback.network import Network, undisturbed
from pullback.parameters import ParameterVector
from pullback.tape.sweep import Sweep


class Implicit(Metric):
    """The metric by its products alone.

    Args:
        sweep: the function, the data and the source of cotangents.

    Attributes:
        tolerance: relative residual at which a solve stops.
        iterations: at most so many products in a solve.
    """

    representation = "implicit"

    def __init__(self, sweep: Sweep, tolerance: float = 1e-6, iterations: int = 1000) -> None:
        sweep.samples = sum(len(batch) for batch in sweep.batches)
        super().__init__(sweep.network.space, origin_of(sweep))
        self._sweep = sweep
        self.tolerance, self.iterations = tolerance, iterations

    def _product(self, flat: Tensor) -> Tensor:
        sweep = self._sweep
        draws = sweep.source.open()
        total = torch.zeros_like(flat)
        for batch in tracked(sweep.batches, "product", sweep.batches.count, sweep.progress):
            total += product_batch(sweep.network, flat, batch, draws)
        return total / self.origin.samples

    def _solution(self, flat: Tensor, damping: float) -> Tensor:
        size = self.space.size

        def damped(vector: object) -> object:
            v = torch.as_tensor(vector, dtype=flat.dtype, device=flat.device).reshape(size)
            return (self._product(v) + damping * v).double().cpu().numpy()

        operator = LinearOperator((size, size), matvec=damped, dtype="float64")
        out = []
        for right in flat.reshape(-1, size):
            found, left = cg(
                operator,
                right.double().cpu().numpy(),
                rtol=self.tolerance,
                maxiter=self.iterations,
            )
            if left:
                raise InputError(
                    f"damping: {damping} is so small that conjugate gradients did not reach "
                    f"{self.tolerance:g} in {self.iterations} products; raise the damping"
                )
            out.append(torch.as_tensor(found, dtype=flat.dtype, device=flat.device))
        return torch.stack(out).reshape(flat.shape)

    def trace(self) -> float:
        total = 0.0
        for step in self._sweep.steps("trace"):
            for part in step.parts():
                total += float(part.squared_norm().double().sum())
        if total != total or total == float("inf"):
            raise InputError("gradients: not finite; the network's derivative is NaN or infinite")
        return total / self._sweep.samples

    def diagonal(self) -> ParameterVector:
        return diagonal.build(self._sweep).diagonal()

    def norm(self) -> float:
        return dense.build(self._sweep).norm()

    def eigenvalues(self) -> Tensor:
        return dense.build(self._sweep).eigenvalues()

    def to_dense(self) -> Tensor:
        return dense.build(self._sweep).to_dense()


def product_batch(
    network: Network, flat: Float[Tensor, "*b d"], batch: Batch, draws: Pass
) -> Float[Tensor, "*b d"]:
    """`J^T M J v` of one batch, summed over its samples."""
    changes = push_batch(network, flat, batch)
    with torch.no_grad(), undisturbed():
        outputs = network.forward(network.tensors, batch)
    cotangents = draws.next(outputs, batch.targets)
    applied = [cotangents.apply(change) for change in changes.reshape(-1, *outputs.shape)]
    return pull_batch(network, torch.stack(applied).reshape(changes.shape), batch)


def build(sweep: Sweep) -> Implicit:
    """The metric of a sweep's gradients by its products."""
    return Implicit(sweep)
