"""A look at a kernel, in numbers: one function for each question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pullback.batches import check_fits
from pullback.kernels.alignment import class_alignment, layer_alignment
from pullback.kernels.dense import TangentKernel
from pullback.kernels.dynamics import gradient_flow
from pullback.kernels.mercer import Eigenfunctions, eigenfunctions
from pullback.kernels.regression import kernel_regression
from pullback.kernels.spectra import effective_rank, trace_ratios
from pullback.kernels.tangent import tangent_kernel
from pullback.kernels.targets import rkhs_norm
from pullback.probes import undisturbed
from pullback.report.kernel.numbers import (
    AlignmentNumbers,
    FlowNumbers,
    LabelNumbers,
    RidgeNumbers,
    SpectrumNumbers,
    StateNumbers,
)
from pullback.report.kernel.task import Task
from pullback.report.measure import leading_functions
from pullback.report.numbers import LeadingFunctions, rounded, spectrum
from pullback.report.samples import Subset

RIDGES = tuple(10.0**power for power in range(-6, 3))
TIMES = (0.0, *(10 ** (power / 4) for power in range(-4, 21)))
RATIOS = (1, 5, 10, 50)
CENTRING = "samples"


@dataclass(frozen=True)
class Look:
    """A kernel on samples, what it is to predict, and how it is looked at.

    Attributes:
        kernel: of the training samples, in double precision.
        layers: the same by layer, in the network's precision.
        cross: of the test samples with the training samples, where there are any.
        task: which function it is of.
        labels: of the training samples, in order of class.
        test_labels: of the test samples.
        outputs, test_outputs: of the network, on both.
        rounding: the share of the largest eigenvalue below which one is only rounding.
        centred: whether the spectrum is that of the centred kernel.
    """

    kernel: TangentKernel
    layers: TangentKernel
    cross: TangentKernel | None
    task: Task
    labels: Int[Tensor, " n"]
    test_labels: Int[Tensor, " m"] | None
    outputs: Float[Tensor, "n c"]
    test_outputs: Float[Tensor, "m c"] | None
    rounding: float
    centred: bool

    @property
    def centring(self) -> str | None:
        """As `TangentKernel.alignment` takes it."""
        return CENTRING if self.centred else None

    @cached_property
    def shown(self) -> TangentKernel:
        """The kernel whose spectrum is shown; its eigenvectors are computed once."""
        return self.kernel.centred(CENTRING) if self.centred else self.kernel


def look(
    model: nn.Module,
    task: Task,
    samples: dict[str, Subset],
    centred: bool,
    store: Path | None,
    progress: bool | None,
) -> Look:
    """The kernel of a network at one state.

    Args:
        model: the network.
        task: which function of it.
        samples: those of the kernel ("train"), in order of class, and those that it predicts
            ("test"), where there are any.
        centred: as in the settings.
        store: a folder to keep the kernel in.
        progress: as `tangent_kernel` takes it.

    Raises:
        InputError: the kernels do not fit into memory.
    """
    inputs, labels = samples["train"]
    functions = task.outputs if task.read_out == "all" else 1
    rows = len(labels) * functions
    check_fits(
        f"samples: the kernel and its eigenvectors, of {rows:,} rows,",
        6 * 8 * rows**2,
        torch.device("cpu"),
        "take fewer samples, or outputs 'sum'; for larger kernels, call "
        "pullback.tangent_kernel(..., store=...)",
    )
    with undisturbed(model) as quiet, torch.no_grad():
        layers = tangent_kernel(
            quiet, inputs, outputs=task.read_out, by_layer=True, progress=progress
        )
        kernel = layers
        if store is not None:
            kernel = tangent_kernel(
                quiet, inputs, outputs=task.read_out, store=store, progress=progress
            ).load()
        cross = test_outputs = test_labels = None
        if "test" in samples:
            new, test_labels = samples["test"]
            found = tangent_kernel(quiet, new, inputs, outputs=task.read_out, progress=progress)
            cross = replace(found, matrix=found.matrix.double())
            test_outputs = quiet(new).double()
        outputs = quiet(inputs).double()
    return Look(
        _positive(kernel),
        layers,
        cross,
        task,
        labels,
        test_labels,
        outputs,
        test_outputs,
        rows * torch.finfo(kernel.matrix.dtype).eps,
        centred,
    )


def _positive(kernel: TangentKernel) -> TangentKernel:
    """The kernel in double precision, without the negative eigenvalues of lower precision."""
    wide = replace(kernel, matrix=kernel.matrix.double(), layers={})
    if kernel.matrix.dtype == torch.float64:
        return wide
    values, vectors = torch.linalg.eigh(wide.flat)
    matrix = vectors * values.clamp(min=0) @ vectors.T
    return replace(wide, matrix=matrix.view(wide.matrix.shape))


def state_numbers(
    seen: Look, classes: Sequence[str], functions: int, state: str, step: int, gram: str | None
) -> StateNumbers:
    """All numbers of one state.

    Args:
        seen: the kernel.
        classes: names of all classes.
        functions: how many eigenfunctions to show.
        state: what to call the state.
        step: how many updates the network has had.
        gram: where the kernel is kept, if it is.
    """
    found = eigenfunctions(seen.shown, tolerance=seen.rounding)
    return StateNumbers(
        state=state,
        step=step,
        spectrum=_spectrum(seen, found),
        alignment=_alignment(seen, classes),
        labels=_labels(seen, found),
        functions=_functions(seen, len(classes), functions, state, step),
        class_functions=_class_functions(seen, found, functions),
        class_cosines=_class_cosines(seen),
        ridge=_ridge(seen),
        flow=_flow(seen),
        gram=gram,
    )


def _spectrum(seen: Look, found: Eigenfunctions) -> SpectrumNumbers:
    values, kernel = found.values.clamp(min=0), seen.shown
    counts = [k for k in RATIOS if k < len(values)]
    return SpectrumNumbers(
        rows=len(values),
        trace=kernel.trace(),
        norm=kernel.norm(),
        eigenvalues=spectrum(values),
        effective_rank=effective_rank(values),
        numerical_rank=found.rank,
        trace_ratios=dict(zip(map(str, counts), trace_ratios(values, counts), strict=True)),
    )


def _alignment(seen: Look, classes: Sequence[str]) -> AlignmentNumbers:
    wanted = seen.task.aligned_with(seen.labels)
    layers = seen.layers
    parts = {"by layer": layer_alignment(layers, wanted.to(layers.matrix), seen.centring)}
    if seen.task.many:
        found = class_alignment(seen.kernel, seen.labels, seen.centring)
        parts["by class"] = {classes[label]: value for label, value in found.items()}
    return AlignmentNumbers(
        uncentred=seen.kernel.alignment(wanted, None),
        centred=seen.kernel.alignment(wanted, CENTRING),
        parts=parts,
        layer_shares={
            name: layer.trace() / layers.trace() for name, layer in layers.layers.items()
        },
    )


def _labels(seen: Look, found: Eigenfunctions) -> LabelNumbers:
    targets = _targets(seen)
    rows = targets.reshape(-1, *found.functions.shape[1:])
    energies = found.coefficients(rows).square()  # of Mercer's functions: per sample
    total = rows.square().sum() / rows.shape[1]
    shares = energies.sum(0).cumsum(0) / total
    ranks = spectrum(found.values)["ranks"]
    norm = rkhs_norm(found, rows)
    weights = rows.flatten(1).square().sum(1)
    return LabelNumbers(
        ks=ranks,
        energy=rounded(shares[torch.tensor(ranks) - 1].clamp(max=1)),
        squared_norm=float(norm.squared.sum()),
        captured=float((norm.captured * weights).sum() / weights.sum()),
        lower_bound=float(total**2 / (energies * found.mercer_values.clamp(min=0)).sum()),
    )


def _targets(seen: Look) -> Float[Tensor, "*t n ..."]:
    """The labels as functions, without their means where the kernel is centred."""
    targets = seen.task.functions(seen.labels)
    if not seen.centred:
        return targets
    return targets - targets.mean(-1 if seen.task.read_out != "all" else 0, keepdim=True)


def _functions(
    seen: Look, classes: int, count: int, state: str, step: int
) -> LeadingFunctions | None:
    """The leading eigenfunctions where each gives a sample one number."""
    if seen.task.read_out == "all":
        return None
    return leading_functions(seen.shown, seen.labels, classes, state, step, count)


def _class_functions(
    seen: Look, found: Eigenfunctions, count: int
) -> list[list[list[float]]] | None:
    """The mean of each leading eigenfunction over each class, where it has a value per output."""
    if seen.task.read_out != "all":
        return None
    leading = found.mercer_functions[:count]
    means = [leading[:, seen.labels == label].mean(1) for label in seen.labels.unique().tolist()]
    return rounded(torch.stack(means, 1))


def _class_cosines(seen: Look) -> list[list[float]]:
    """The mean cosine of samples of two classes, not of a sample with itself; 0 for too few."""
    matrix = seen.shown.matrix
    if matrix.ndim == 4:
        matrix = matrix.diagonal(dim1=1, dim2=3).sum(-1)
    scale = matrix.diagonal().clamp(min=torch.finfo(matrix.dtype).tiny).rsqrt()
    cosines = matrix * scale * scale.unsqueeze(1)
    one_hot = torch.stack([seen.labels == label for label in seen.labels.unique()]).double()
    sums = one_hot @ (cosines - cosines.diagonal().diag()) @ one_hot.T
    sizes = one_hot.sum(1)
    pairs = torch.outer(sizes, sizes) - sizes.diag()
    return rounded(sums / pairs.clamp(min=1))


def _ridge(seen: Look) -> RidgeNumbers:
    kernel, task = seen.kernel, seen.task
    targets = task.targets(seen.labels)
    mean = kernel.trace() / math.prod(kernel.rows)
    found = RidgeNumbers(
        shares=[], leave_one_out=[], leave_one_out_accuracy=[], test=[], test_accuracy=[], chosen=0
    )
    for share in RIDGES:
        fit = kernel_regression(kernel, targets, share * mean)
        left = fit.leave_one_out()
        found["shares"].append(share)
        found["leave_one_out"].append(_mean_square(left))
        found["leave_one_out_accuracy"].append(_accuracy(task, targets - left, seen.labels))
        if seen.cross is not None and seen.test_labels is not None:
            predicted = fit.predict(seen.cross)
            errors = task.targets(seen.test_labels) - predicted
            found["test"].append(_mean_square(errors))
            found["test_accuracy"].append(_accuracy(task, predicted, seen.test_labels))
    found["chosen"] = found["leave_one_out"].index(min(found["leave_one_out"]))
    return found


def _mean_square(errors: Float[Tensor, "n ..."]) -> float:
    """The mean over samples of the squared error, summed over outputs."""
    return float(errors.square().sum() / len(errors))


def _accuracy(task: Task, values: Float[Tensor, "n ..."], labels: Int[Tensor, " n"]) -> float:
    return float(task.correct(values, labels).double().mean())


def _flow(seen: Look) -> FlowNumbers:
    task = seen.task
    start = task.of_outputs(seen.outputs)
    path = gradient_flow(seen.kernel, task.targets(seen.labels), start)
    unit = 1 / (path.scale * float(path.eigenvalues[0]))
    found = FlowNumbers(
        times=rounded(torch.tensor(TIMES)),
        loss=[path.loss(time * unit) for time in TIMES],
        accuracy=[_accuracy(task, path.at(time * unit), seen.labels) for time in TIMES],
        test_accuracy=[],
        network_accuracy={"train": _accuracy(task, start, seen.labels)},
    )
    if seen.cross is not None and seen.test_outputs is not None and seen.test_labels is not None:
        there = task.of_outputs(seen.test_outputs)
        found["network_accuracy"]["test"] = _accuracy(task, there, seen.test_labels)
        for time in TIMES:
            predicted = path.predict(seen.cross, time * unit, there)
            found["test_accuracy"].append(_accuracy(task, predicted, seen.test_labels))
    return found
