"""The numbers of a report: what report.json holds, and all that figures and page are made from."""

from __future__ import annotations

import math
from typing import Any, TypedDict

import torch
from torch import Tensor

from pullback.probes import Record


class Estimate(TypedDict):
    """A mean over random draws, and its standard error."""

    value: float
    stderr: float
    draws: int


class Spectrum(TypedDict):
    """Some eigenvalues, descending, each with its rank counted from 1."""

    ranks: list[int]
    values: list[float]


class Layer(TypedDict):
    """A module with parameters of its own."""

    name: str
    kind: str
    parameters: int


class NetworkNumbers(TypedDict):
    """A network."""

    name: str
    parameters: int
    outputs: int
    layers: list[Layer]
    checkpoint: str | None


class DataNumbers(TypedDict):
    """The data, and the samples on which the kernel was taken (the probe set)."""

    name: str
    shape: list[int]
    classes: list[str]
    sizes: dict[str, int]
    counts: list[int]
    evaluated: dict[str, int]
    probe_split: str
    probe_asked: int
    probe_labels: list[int]
    images: list[list[Any]] | None


class TrainingNumbers(TypedDict):
    """How the network was trained."""

    epochs: int
    steps: int
    batch: float
    learning_rate: float
    momentum: float


class Eigenfunction(TypedDict):
    """One eigenfunction of the kernel on the probe set."""

    value: float
    share: float
    explained_by_class: float
    values: list[float]
    class_means: list[float]
    lowest: list[int]
    highest: list[int]


class LeadingFunctions(TypedDict):
    """What a centred kernel's leading eigenfunctions make of the samples, at one state."""

    state: str
    step: int
    coordinates: list[list[float]]
    shares: list[float]
    eigenfunctions: list[Eigenfunction]


class KernelNumbers(LeadingFunctions):
    """The tangent kernel, summed over outputs, at one state of the network."""

    cosines: list[list[float]]
    same_class: float
    other_class: float


class FisherLayer(TypedDict):
    """The block of one layer."""

    name: str
    parameters: int
    trace: float
    spectrum: Spectrum


class FisherNumbers(TypedDict):
    """The Fisher information matrix at one state, EKFAC, one block a layer."""

    state: str
    samples: int
    trace: float
    layers: list[FisherLayer]
    ways: dict[str, str]


class SolveError(TypedDict):
    """How a damped solve with an approximation compares with the dense one.

    Damping is given as a share of the dense matrix's largest eigenvalue.
    """

    damping: float
    cosine: Estimate
    residual: Estimate
    gradient_cosine: float


class Approximation(TypedDict):
    """How far a representation is from the dense Fisher matrix."""

    representation: str
    frobenius: float
    trace: float
    product_cosine: Estimate
    product_residual: Estimate
    solve: list[SolveError]


class ApproximationState(TypedDict):
    """All representations at one state of the network.

    `between_layers` is the share of the dense matrix's Frobenius norm in its entries between
    layers: the least error of any block-diagonal form.
    """

    state: str
    largest_eigenvalue: float
    between_layers: float
    representations: list[Approximation]


class ApproximationNumbers(TypedDict):
    """The comparison of representations, and the network it was made on."""

    network: NetworkNumbers
    companion: bool
    steps: int
    accuracy: dict[str, float]
    samples: int
    states: list[ApproximationState]


class CostNumbers(TypedDict):
    """What one part of the run cost."""

    part: str
    seconds: float
    peak_bytes: int


class Tile(TypedDict):
    """One number at the top of the page, with what it was before training."""

    name: str
    before: str | None
    value: str


class Summary(TypedDict):
    """The top of the page."""

    headline: str
    tiles: list[Tile]


class Measured(TypedDict):
    """Everything that was measured."""

    about: dict[str, str]
    settings: dict[str, Any]
    network: NetworkNumbers
    data: DataNumbers
    training: TrainingNumbers | None
    series: list[Record]
    kernels: list[KernelNumbers]
    fishers: list[FisherNumbers]
    approximations: ApproximationNumbers | None
    cost: list[CostNumbers]
    notes: list[str]


class Report(Measured):
    """Everything that is shown."""

    summary: Summary


def estimate(draws: Tensor) -> Estimate:
    """The mean of independent draws (k,) and its standard error."""
    values = draws.double()
    spread = values.std().item() if len(values) > 1 else 0.0
    return Estimate(
        value=values.mean().item(), stderr=spread / math.sqrt(len(values)), draws=len(values)
    )


def rounded(values: Tensor, digits: int = 5) -> list[Any]:
    """A tensor as nested lists of numbers with so many significant digits."""
    if values.ndim == 0:
        raise ValueError("values: a number, not a list of them")
    if values.ndim > 1:
        return [rounded(row, digits) for row in values]
    return [float(f"{value:.{digits}g}") for value in values.tolist()]


def spectrum(eigenvalues: Tensor, points: int = 200) -> Spectrum:
    """Eigenvalues (d,), descending, at about `points` ranks that are even on a logarithmic axis."""
    d = len(eigenvalues)
    ranks = sorted({round(d ** (i / (points - 1))) for i in range(points)})
    chosen = eigenvalues[torch.tensor(ranks) - 1].clamp(min=0)
    return Spectrum(ranks=ranks, values=rounded(chosen, 6))
