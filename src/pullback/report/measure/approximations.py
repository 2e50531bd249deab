"""How far the compact representations of a Fisher matrix are from the dense one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pullback.metrics.fisher import fisher
from pullback.metrics.metric import Metric
from pullback.parameters import ParameterSpace, ParameterVector, owner_of
from pullback.probes import undisturbed
from pullback.report.numbers import Approximation, ApproximationState, SolveError, estimate
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
        truth = _Truth(dense, gradient, seed)
        compared = []
        for representation in REPRESENTATIONS:
            metric = fisher(model, inputs, representation=representation, progress=False)
            compared.append(_compare(representation, metric, truth))
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
    """The dense matrix, with what it does to some random unit vectors and to the gradient."""

    def __init__(self, dense: Metric, gradient: ParameterVector, seed: int) -> None:
        draws = dense.space.randn(seed=seed, batch=(DRAWS,))
        self.matrix = dense.to_dense()
        self.vectors = dense.space.vector(draws.flat / draws.norm()[:, None])
        self.products = dense @ self.vectors
        self.gradient = gradient
        values, basis = torch.linalg.eigh(self.matrix.double())
        self.largest = values[-1].item()
        self._values, self._basis = values.clamp(min=0), basis

    def natural_gradient(self, damping: float) -> Float[Tensor, " d"]:
        coordinates = self._basis.T @ self.gradient.flat.double()
        return self._basis @ (coordinates / (self._values + damping))


def _compare(representation: str, metric: Metric, truth: _Truth) -> Approximation:
    matrix, products = metric.to_dense(), metric @ truth.vectors
    error = torch.linalg.norm(matrix - truth.matrix) / torch.linalg.norm(truth.matrix)
    trace, true_trace = float(metric.trace()), truth.matrix.trace()
    return Approximation(
        representation=representation,
        frobenius=error.item(),
        trace=abs(float(trace / true_trace) - 1),
        product_cosine=estimate(_cosine(products.flat, truth.products.flat)),
        product_residual=estimate(_difference(products.flat, truth.products.flat)),
        solve=[_solve_error(metric, truth, relative) for relative in DAMPINGS],
    )


def _solve_error(metric: Metric, truth: _Truth, relative: float) -> SolveError:
    damping = relative * truth.largest
    damped = truth.products + damping * truth.vectors
    recovered = metric.solve(damped, damping=damping)
    step = metric.solve(truth.gradient, damping=damping).flat.double()
    return SolveError(
        damping=relative,
        cosine=estimate(_cosine(recovered.flat, truth.vectors.flat)),
        residual=estimate(_difference(truth.vectors.flat, recovered.flat)),
        gradient_cosine=_cosine(step[None], truth.natural_gradient(damping)[None]).item(),
    )


def _cosine(a: Float[Tensor, "k d"], b: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
    return functional.cosine_similarity(a.double(), b.double(), dim=-1)


def _difference(a: Float[Tensor, "k d"], reference: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
    return (a - reference).double().norm(dim=-1) / reference.double().norm(dim=-1)


def _gradient(
    model: nn.Module, inputs: Tensor, labels: Tensor, space: ParameterSpace
) -> ParameterVector:
    """The gradient of the mean loss; the model's own `.grad` stays as it is."""
    parameters = {n: p for n, p in model.named_parameters() if n in space.names}
    loss = functional.cross_entropy(model(inputs), labels)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return space.vector(dict(zip(parameters, gradients, strict=True)))
