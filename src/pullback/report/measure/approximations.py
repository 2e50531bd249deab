"""How far the compact representations of a Fisher matrix are from the dense one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pullback import estimates
from pullback.metrics.fisher import fisher
from pullback.metrics.metric import Metric
from pullback.metrics.quality import quality
from pullback.parameters import ParameterSpace, ParameterVector, owner_of
from pullback.probes import undisturbed
from pullback.report.numbers import Approximation, ApproximationState, Estimate, SolveError
from pullback.report.samples import Subset

REPRESENTATIONS = ("diagonal", "kfac", "ekfac")
DAMPINGS = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 3))
DRAWS = 20
DENSE_LIMIT = 3000


def approximation_numbers(
    model: nn.Module, samples: Subset, state: str, seed: int, tick: Callable[[], None]
) -> ApproximationState:
    """Compare diagonal, KFAC and EKFAC with the dense Fisher matrix of a small network.

    The measures are those of section 3.4.1 of the linearisation thesis: for random unit vectors v,
    the cosine and the relative difference of F_a v and F v, and of v and
    (F_a + damping)^-1 (F + damping) v; besides, the cosine between the two natural gradients.

    Args:
        model: a classifier with at most about `DENSE_LIMIT` parameters.
        samples: inputs and labels.
        state: what to call the state of the network.
        seed: for the random vectors.
        tick: called after each representation.
    """
    inputs, labels = samples
    with undisturbed(model):
        dense = fisher(model, inputs, representation="dense", progress=False)
        gradient = _gradient(model, inputs, labels, dense.space)
        truth = _Truth(dense, gradient)
        compared = []
        for representation in REPRESENTATIONS:
            metric = fisher(model, inputs, representation=representation, progress=False)
            compared.append(_compare(representation, metric, truth, seed))
            tick()
    return ApproximationState(
        state=state,
        largest_eigenvalue=truth.largest,
        between_layers=_between_layers(truth.matrix, dense.space),
        representations=compared,
    )


def _between_layers(matrix: Float[Tensor, "d d"], space: ParameterSpace) -> float:
    """The share of the Frobenius norm in entries whose parameters are of different layers."""
    layers = [owner_of(name) for name in space.names]
    numbers = torch.tensor([layers.index(layer) for layer in layers])
    owners = numbers.repeat_interleave(torch.tensor(space.sizes))
    outside = matrix[owners[:, None] != owners[None, :]]
    return (outside.norm() / matrix.norm()).item()


class _Truth:
    """The dense matrix, and what it does to the gradient."""

    def __init__(self, metric: Metric, gradient: ParameterVector) -> None:
        self.metric, self.gradient = metric, gradient
        self.matrix = metric.to_dense()
        values, basis = torch.linalg.eigh(self.matrix.double())
        self.largest = values[-1].item()
        self._values, self._basis = values.clamp(min=0), basis

    def natural_gradient(self, damping: float) -> Float[Tensor, " d"]:
        coordinates = self._basis.T @ self.gradient.flat.double()
        return self._basis @ (coordinates / (self._values + damping))


def _compare(representation: str, metric: Metric, truth: _Truth, seed: int) -> Approximation:
    dampings = [relative * truth.largest for relative in DAMPINGS]
    found = quality(truth.metric, metric, dampings, DRAWS, seed)
    error = torch.linalg.norm(metric.to_dense() - truth.matrix) / torch.linalg.norm(truth.matrix)
    return Approximation(
        representation=representation,
        frobenius=error.item(),
        trace=abs(found.trace),
        product_cosine=_numbers(found.cosine),
        product_residual=_numbers(found.residual),
        solve=[
            SolveError(
                damping=relative,
                cosine=_numbers(solve.cosine),
                residual=_numbers(solve.residual),
                gradient_cosine=_natural_gradients(metric, truth, solve.damping),
            )
            for relative, solve in zip(DAMPINGS, found.solve, strict=True)
        ],
    )


def _natural_gradients(metric: Metric, truth: _Truth, damping: float) -> float:
    """The cosine of the natural gradients by the metric and by the dense matrix."""
    step = metric.solve(truth.gradient, damping=damping).flat.double()
    return functional.cosine_similarity(step, truth.natural_gradient(damping), dim=0).item()


def _numbers(found: estimates.Estimate) -> Estimate:
    return Estimate(value=found.value, stderr=found.stderr, draws=found.samples)


def _gradient(
    model: nn.Module, inputs: Tensor, labels: Tensor, space: ParameterSpace
) -> ParameterVector:
    """The gradient of the mean loss; the model's own `.grad` stays as it is."""
    parameters = {n: p for n, p in model.named_parameters() if n in space.names}
    loss = functional.cross_entropy(model(inputs), labels)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return space.vector(dict(zip(parameters, gradients, strict=True)))
