"""The implicit representation: the exact matrix, never stored.

A product costs one forward pass with its tangent and one backward pass for each batch; trace and
diagonal are sums of squares from the tape. A solve is conjugate gradients on the product.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from pullback.autodiff import add_push_pull_
from pullback.batches import Batch, all_finite, tracked
from pullback.cotangents import Cotangents, Pass
from pullback.errors import InputError
from pullback.metrics import dense, diagonal
from pullback.metrics.metric import BlockMetric, Metric, origin_of
from pullback.network import Network
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
        super().__init__(sweep.network.space, origin_of(sweep))
        self._sweep = sweep
        self.tolerance, self.iterations = tolerance, iterations

    def _product(self, flat: Tensor) -> Tensor:
        sweep = self._sweep
        draws = sweep.source.open()
        total = self.space.zeros(flat.shape[:-1])
        samples = 0
        for batch in tracked(sweep.batches, "product", sweep.batches.count, sweep.progress):
            add_product_(total, sweep.network, flat, batch, draws)
            samples += len(batch)
        if not all_finite(total.flat):
            raise InputError("gradients or vector: not finite, so neither is the product")
        return total.flat / samples

    def _solution(self, flat: Tensor, damping: int | float) -> Tensor:
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
        total = self._sweep.settled(self._squared_norms)
        if not math.isfinite(total):
            raise InputError("gradients: not finite; the network's derivative is NaN or infinite")
        return total / self._sweep.samples

    def _squared_norms(self) -> float:
        total = 0.0
        for step in self._sweep.steps("trace"):
            for part in step.parts():
                total += float(part.squared_norm().double().sum())
        return total

    def diagonal(self) -> ParameterVector:
        return self._sweep.settled(lambda: diagonal.build(self._sweep)).diagonal()

    def norm(self) -> float:
        return self._dense().norm()

    def eigenvalues(self) -> Tensor:
        return self._dense().eigenvalues()

    def to_dense(self) -> Tensor:
        return self._dense().to_dense()

    def _dense(self) -> BlockMetric:
        return self._sweep.settled(lambda: dense.build(self._sweep))


def add_product_(
    total: ParameterVector,
    network: Network,
    flat: Float[Tensor, "*b d"],
    batch: Batch,
    draws: Pass,
) -> None:
    """Add `J^T M J v` of one batch, summed over its samples."""
    drawn: list[Cotangents] = []  # the same for every vector

    def metric(outputs: Tensor, change: Tensor) -> Tensor:
        if not drawn:
            drawn.append(draws.next(outputs, batch.targets))
        return drawn[0].apply(change)

    add_push_pull_(total, network, flat, batch, metric)


def build(sweep: Sweep) -> Implicit:
    """The metric of a sweep's gradients by its products."""
    return Implicit(sweep)
