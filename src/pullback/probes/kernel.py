"""Probes of the tangent kernel: size, spectrum, alignment with the labels, drift.

The probes of this file share one kernel a moment: each takes a `KernelSample`, which computes it
for the first that asks. The kernel is taken between all outputs of all samples (nc x nc), and
centred over the samples for each output, as in "Implicit Regularization via Neural Feature
Alignment" (section 6.3.1 of the linearisation thesis).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pullback.kernels.dense import TangentKernel
from pullback.kernels.mercer import eigenfunctions
from pullback.kernels.spectra import effective_rank, trace_ratios
from pullback.kernels.tangent import tangent_kernel
from pullback.kernels.targets import energy_concentration, rotation, target_alignment
from pullback.probes.quiet import undisturbed
from pullback.probes.recorder import Moment


class KernelSample:
    """The samples on which a kernel is followed, and the kernel of a moment.

    Args:
        inputs: samples in an order that stays fixed; sorted by class makes its pictures readable.
        labels: their classes.
    """

    def __init__(self, inputs: Float[Tensor, "n ..."], labels: Int[Tensor, " n"]) -> None:
        self.inputs = inputs
        self.labels = labels

    def of(self, model: nn.Module) -> TangentKernel:
        """The kernel between all outputs, (n, c, n, c), and that of each layer."""
        return tangent_kernel(model, self.inputs, outputs="all", by_layer=True, progress=False)

    def kernel(self, moment: Moment) -> TangentKernel:
        """The kernel at a moment, computed once."""
        return moment.once((self, "kernel"), lambda: self.of(moment.model))

    def eigenvalues(self, moment: Moment) -> dict[str, Float[Tensor, " nc"]]:
        """Spectra at a moment, descending, of the centred kernel ("all") and of each layer's."""
        return moment.once((self, "eigenvalues"), lambda: _spectra(self.kernel(moment)))


def _parts(kernel: TangentKernel) -> dict[str, TangentKernel]:
    """The whole kernel under "all", and the share of each layer under the layer's name."""
    return {"all": kernel, **kernel.layers}


def _spectra(kernel: TangentKernel) -> dict[str, Float[Tensor, " nc"]]:
    parts = _parts(kernel).items()
    return {name: part.centred("samples").eigvalsh().clamp(min=0) for name, part in parts}


def _varies(kernel: TangentKernel) -> bool:
    """Whether the kernel depends on the samples; that of a bias of the outputs does not."""
    blocks = kernel.matrix.diagonal(dim1=1, dim2=3)
    own = float(blocks.diagonal(dim1=0, dim2=1).double().sum())
    shared = float(blocks.double().sum()) / len(blocks)
    return own - shared > 1e-6 * own


def _alignment(kernel: TangentKernel, other: Tensor | TangentKernel, centring: str) -> float:
    """The centred alignment; 0 where centring over samples leaves nothing to align."""
    kernels = [kernel, other] if isinstance(other, TangentKernel) else [kernel]
    if centring == "samples" and not all(map(_varies, kernels)):
        return 0.0
    return kernel.alignment(other, centring)


class Spectrum:
    """All eigenvalues of the centred kernel, descending; its trace before centring, by layer."""

    name = "spectrum"

    def __init__(self, sample: KernelSample) -> None:
        self.sample = sample

    def measure(self, moment: Moment) -> dict[str, Any]:
        """`{"eigenvalues": [...], "trace": {"all": .., layer: ..}}`."""
        parts = _parts(self.sample.kernel(moment)).items()
        return {
            "eigenvalues": self.sample.eigenvalues(moment)["all"].tolist(),
            "trace": {layer: part.trace() for layer, part in parts},
        }


class EffectiveRank:
    """Over how many directions the centred kernel is spread: exp of its spectrum's entropy.

    A layer whose kernel does not vary with the sample has rank 0.
    """

    name = "effective_rank"

    def __init__(self, sample: KernelSample) -> None:
        self.sample = sample

    def measure(self, moment: Moment) -> dict[str, float]:
        """`{"all": rank, layer: rank}`, each between 1 and nc."""
        parts = _parts(self.sample.kernel(moment))
        return {
            name: effective_rank(spectrum) if name == "all" or _varies(parts[name]) else 0.0
            for name, spectrum in self.sample.eigenvalues(moment).items()
        }


class TraceRatios:
    """Which share of the centred kernel's trace its k largest eigenvalues carry.

    Args:
        sample: where the kernel is taken.
        ks: the numbers of eigenvalues.
    """

    name = "trace_ratios"

    def __init__(self, sample: KernelSample, ks: Sequence[int] = (1, 5, 10)) -> None:
        self.sample = sample
        self.ks = tuple(ks)

    def measure(self, moment: Moment) -> dict[str, float]:
        """`{"1": share, "5": share, ...}`."""
        ratios = trace_ratios(self.sample.eigenvalues(moment)["all"], self.ks)
        return {str(k): ratio for k, ratio in zip(self.ks, ratios, strict=True)}


CENTRINGS = {"entries": "all", "samples": "samples"}
"""What the two centrings are called in the records, and by `TangentKernel.alignment`."""


class LabelAlignment:
    """Centred alignment of the kernel with the labels' kernel y y^T, y the one-hot rows, by layer.

    Two centrings are in use and both are recorded: over all nc entries, and over the samples for
    each output.
    """

    name = "alignment"

    def __init__(self, sample: KernelSample) -> None:
        self.sample = sample

    def measure(self, moment: Moment) -> dict[str, dict[str, float]]:
        """`{"entries": {"all": .., layer: ..}, "samples": {"all": .., layer: ..}}`, in [0, 1]."""
        parts, labels = _parts(self.sample.kernel(moment)), self.sample.labels
        return {
            name: {layer: _alignment(part, labels, centring) for layer, part in parts.items()}
            for name, centring in CENTRINGS.items()
        }


class KernelDrift:
    """Centred alignment of the kernel with the kernel at the reference point, by layer.

    1 means that the network still learns in the features it had there; the further below, the more
    the features have turned.

    Args:
        sample: where the kernel is taken.
        start: the model at the reference point; its kernel is computed now.
    """

    name = "drift"

    def __init__(self, sample: KernelSample, start: nn.Module) -> None:
        self.sample = sample
        with undisturbed(start) as model:
            self.start = sample.of(model)

    def measure(self, moment: Moment) -> dict[str, float]:
        """`{"all": alignment, layer: alignment}`, in [0, 1]."""
        now, then = _parts(self.sample.kernel(moment)), _parts(self.start)
        return {layer: _alignment(now[layer], then[layer], "samples") for layer in now}


class LabelConcentration:
    """How much of the labels lies in the leading eigenfunctions of the kernel, not centred.

    The labels are one-hot rows without their mean over samples.

    Args:
        sample: where the kernel is taken.
        ks: numbers of eigenfunctions.
    """

    name = "concentration"

    def __init__(self, sample: KernelSample, ks: Sequence[int] = (10, 50)) -> None:
        self.sample = sample
        self.ks = tuple(ks)

    def measure(self, moment: Moment) -> dict[str, dict[str, float]]:
        """`{"10": {"ratio": of lengths, "energy": its square, "random": a random ratio}, ...}`."""
        kernel = self.sample.kernel(moment)
        pairs = eigenfunctions(kernel)
        targets = _labels(self.sample, kernel.outputs, pairs.functions)
        found = {}
        for k in self.ks:
            one = energy_concentration(pairs, targets, k)
            found[str(k)] = {
                "ratio": float(one.ratio),
                "energy": float(one.energy),
                "random": one.random_ratio,
            }
        return found


class KernelRotation:
    """How much more the alignment of the labels grows than that of the kernel's own functions.

    The functions are the leading eigenfunctions of the kernel at the reference point. No kernel is
    formed later.

    Args:
        sample: where the functions are taken.
        start: the model at the reference point.
        k: how many eigenfunctions.
    """

    name = "rotation"

    def __init__(self, sample: KernelSample, start: nn.Module, k: int = 20) -> None:
        self.sample = sample
        with undisturbed(start) as model:
            kernel = tangent_kernel(model, sample.inputs, progress=False)
            leading = eigenfunctions(kernel, k).functions
            labels = _labels(sample, kernel.outputs, leading)
            self.functions = torch.cat([labels.unsqueeze(0), leading])
            self.before = self._alignments(model)

    def _alignments(self, model: nn.Module) -> Float[Tensor, " t"]:
        return target_alignment(model, self.sample.inputs, self.functions, progress=False)

    def measure(self, moment: Moment) -> dict[str, Any]:
        """`{"labels": growth, "functions": [growth, ...], "ratio": of the first to the median}`."""
        found = rotation(self.before, self._alignments(moment.model), target=0)
        growth = found.growth.tolist()
        return {"labels": growth[0], "functions": growth[1:], "ratio": found.ratio}


def _labels(sample: KernelSample, outputs: int, like: Tensor) -> Float[Tensor, "n c"]:
    """One-hot labels without their mean over samples."""
    rows = F.one_hot(sample.labels.long(), outputs).to(like)
    return rows - rows.mean(0)
