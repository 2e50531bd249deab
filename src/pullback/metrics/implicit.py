"""The implicit representation: the exact matrix, never stored.

A product costs one forward pass with its tangent and one backward pass for each batch, which
several vectors share where memory and the module allow it; trace and diagonal are sums of squares
from the tape. Everything else is iterative, as for any `Operator`. Where the cotangents are drawn
at random, trace and quadratic form carry their standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.autodiff import add_pull_, add_push_pull_, push_batch
from pullback.batches import Batch, all_finite, tracked, working_memory
from pullback.cotangents import Cotangents, Pass
from pullback.errors import InputError
from pullback.estimates import Estimate
from pullback.metrics.build import build, mean_gradient
from pullback.metrics.metric import BlockMetric
from pullback.metrics.operator import Operator
from pullback.metrics.origin import origin_of
from pullback.network import Network
from pullback.parameters import ParameterVector
from pullback.tape.sweep import Sweep

# Bytes of a vector and of what it moves in a batch. Beyond, a CPU gains nothing from several
# vectors at once: ten took 0.3 to 0.8 of the time up to 8 MiB, and 1.1 of it at 21 MiB.
NEAR = 8 * 2**20


class Implicit(Operator):
    """The metric by its products alone.

    Args:
        sweep: the function, the data and the source of cotangents.
    """

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep.network.space, origin_of(sweep))
        self._sweep = sweep
        self._mean = mean_gradient(sweep) if self.origin.estimator == "centred" else None

    def _product(self, flat: Tensor) -> Tensor:
        sweep = self._sweep
        draws = sweep.source.open()
        total = self.space.zeros(flat.shape[:-1])
        samples = 0
        batches, network = sweep.whole_batches("product"), sweep.network.arranged()
        for batch in batches:
            add_product_(total, network, flat, batch, draws, self._vectors_at_once(batch))
            samples += len(batch)
        if not all_finite(total.flat):
            raise InputError("gradients or vector: not finite, so neither is the product")
        found = total.flat / samples
        if self._mean is not None:
            found -= torch.outer((flat @ self._mean.flat).flatten(), self._mean.flat).view_as(flat)
        return found

    def _vectors_at_once(self, batch: Batch) -> int:
        """How many vectors share the passes over a batch."""
        space, device = self.space, self.space.device
        uses = sum(use.inputs + use.gradients for use in self._sweep.plan.floats)
        each = (space.size + len(batch) * uses) * space.dtype.itemsize
        if device.type == "cpu" and each > NEAR:
            return 1
        return max(1, working_memory(self._sweep.memory, device) // each)

    def sample(self, seed: int = 0, batch: Sequence[int] = ()) -> ParameterVector:
        # With as much noise as there are cotangents, `J^T M^(1/2) noise` needs no root of F.
        sweep, total = self._sweep, self.space.zeros(batch)
        draws, generator = sweep.source.open(), torch.Generator().manual_seed(seed)
        samples = 0
        for piece in sweep.batches:
            outputs = sweep.network(piece)
            roots = draws.next(outputs, piece.targets)
            shape = (len(outputs), *total.flat.shape[:-1], len(roots))  # samples first
            noise = torch.randn(shape, dtype=torch.float64, generator=generator).to(outputs)
            mixed = torch.einsum("n...k,knc->...nc", noise, roots.part(0, len(roots)))
            add_pull_(total, sweep.network, mixed, piece)
            samples += len(piece)
            if self._mean is not None:
                total.flat.sub_(noise.sum((0, -1)).unsqueeze(-1) * self._mean.flat)
        return total / math.sqrt(samples)

    @property
    def _drawn(self) -> bool:
        """Whether the cotangents are drawn at random, so that what is made of them is estimated."""
        return self.origin.estimator in ("sketched", "sampled")

    def quadratic(self, vector: ParameterVector) -> float | Estimate:
        if not self._drawn:
            return super().quadratic(vector)
        sweep, flat = self._sweep, self._single(vector)
        draws, found = sweep.source.open(), []
        for batch in tracked(sweep.batches, "quadratic", sweep.batches.count, sweep.progress):
            roots = draws.next(sweep.network(batch), batch.targets)
            change = push_batch(sweep.network, flat, batch)
            along = torch.einsum("knc,nc->kn", roots.part(0, len(roots)), change)
            found.append(along.double().square() * len(roots))
        return self._estimated(torch.cat(found, 1))

    def trace(self) -> float | Estimate:
        if self._drawn:
            return self._estimated(self._sweep.settled(self._norms_of_draws))
        total = self._sweep.settled(self._squared_norms)
        if not math.isfinite(total):
            raise InputError("gradients: not finite; the network's derivative is NaN or infinite")
        mean = 0.0 if self._mean is None else float(self._mean @ self._mean)
        return total / self._sweep.samples - mean

    def _squared_norms(self) -> float:
        total = 0.0
        for step in self._sweep.steps("trace", squares=self._sweep.network.space.names):
            for part in step.parts():
                total += float(part.squared_norm().double().sum())
        return total

    def _norms_of_draws(self) -> Float[Tensor, "t n"]:
        """The squared norm of each sample's gradient for each draw, as if it were the only one."""
        norms = self._sweep.squared_norms("trace")
        return norms * len(norms)

    @staticmethod
    def _estimated(draws: Float[Tensor, "t n"]) -> Estimate:
        """The mean of independent draws for each sample.

        Raises:
            InputError: they are not finite.
        """
        if not all_finite(draws):
            raise InputError("gradients: not finite; the network's derivative is NaN or infinite")
        return Estimate.over_samples(draws)

    def diagonal(self) -> ParameterVector:
        return self._sweep.settled(lambda: build(self._sweep, "diagonal")).diagonal()

    def to(self, representation: str) -> BlockMetric:
        """The same matrix in another representation, by another pass over the data."""
        return self._sweep.settled(lambda: build(self._sweep, representation))


def add_product_(
    total: ParameterVector,
    network: Network,
    flat: Float[Tensor, "*b d"],
    batch: Batch,
    draws: Pass,
    at_once: int = 1,
) -> None:
    """Add `J^T M J v` of one batch, summed over its samples, `at_once` vectors at a time."""
    drawn: list[Cotangents] = []  # the same for every vector

    def metric(outputs: Tensor, change: Tensor) -> Tensor:
        if not drawn:
            drawn.append(draws.next(outputs, batch.targets))
        return drawn[0].apply(change)

    add_push_pull_(total, network, flat, batch, metric, at_once)
