"""The numbers of a look at a kernel: what kernel.json holds, and its figures are made of."""

from __future__ import annotations

from typing import Any, TypedDict

from pullback.report.numbers import (
    CostNumbers,
    DataNumbers,
    LeadingFunctions,
    NetworkNumbers,
    Spectrum,
    TrainingNumbers,
)


class SpectrumNumbers(TypedDict):
    """Eigenvalues of the kernel matrix; Mercer's are these divided by the number of samples."""

    rows: int
    trace: float
    norm: float
    eigenvalues: Spectrum
    effective_rank: float
    numerical_rank: int
    trace_ratios: dict[str, float]


class AlignmentNumbers(TypedDict):
    """Kernel alignment with the labels.

    Attributes:
        uncentred, centred: of the kernel with all labels.
        parts: "by layer", and "by class" against the rest; centred as the settings say.
        layer_shares: the share of the trace that each layer has.
    """

    uncentred: float
    centred: float
    parts: dict[str, dict[str, float]]
    layer_shares: dict[str, float]


class LabelNumbers(TypedDict):
    """Where the labels lie in the eigenfunctions, and their norm in the kernel's space.

    Attributes:
        ks: numbers of leading eigenfunctions.
        energy: the share of the labels' squared length within so many.
        squared_norm: of what is captured, `f K^-1 f`.
        captured: the share of `|f|^2` that has a finite norm.
        lower_bound: on the squared norm of all of it.
    """

    ks: list[int]
    energy: list[float]
    squared_norm: float
    captured: float
    lower_bound: float


class RidgeNumbers(TypedDict):
    """Ridge regression from zero with the kernel, for some ridges.

    Attributes:
        shares: the ridges, in units of the mean eigenvalue.
        leave_one_out: mean squared error of each sample, predicted from the others.
        leave_one_out_accuracy: share of these predictions that name the right class.
        test: mean squared error on test samples; empty without them.
        test_accuracy: share of test samples; empty without them.
        chosen: the place of the ridge of least leave-one-out error.
    """

    shares: list[float]
    leave_one_out: list[float]
    leave_one_out_accuracy: list[float]
    test: list[float]
    test_accuracy: list[float]
    chosen: int


class FlowNumbers(TypedDict):
    """Gradient flow of the squared error on the linearised network, from the network's function.

    Attributes:
        times: in units of the time constant of the fastest mode.
        loss: half the mean squared error on the samples of the kernel.
        accuracy: on these samples.
        test_accuracy: on test samples; empty without them.
        network_accuracy: of the network itself, by split.
    """

    times: list[float]
    loss: list[float]
    accuracy: list[float]
    test_accuracy: list[float]
    network_accuracy: dict[str, float]


class StateNumbers(TypedDict):
    """The kernel at one state of the network."""

    state: str
    step: int
    spectrum: SpectrumNumbers
    alignment: AlignmentNumbers
    labels: LabelNumbers
    functions: LeadingFunctions | None
    class_functions: list[list[list[float]]] | None
    class_cosines: list[list[float]]
    ridge: RidgeNumbers
    flow: FlowNumbers
    gram: str | None


class KernelReport(TypedDict):
    """Everything that is shown."""

    about: dict[str, str]
    settings: dict[str, Any]
    network: NetworkNumbers
    data: DataNumbers
    training: TrainingNumbers | None
    test_samples: int
    states: list[StateNumbers]
    cost: list[CostNumbers]
    notes: list[str]
