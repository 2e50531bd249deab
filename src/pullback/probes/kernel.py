"""The kernel that probes share, and the probes of its spectrum.

The probes of the tangent kernel share one kernel a moment: each takes a `KernelSample`, which
computes it for the first that asks. The kernel is taken between all outputs of all samples
(nc x nc). Spectra are those of the kernel centred over the samples for each output, as in "Implicit
Regularization via Neural Feature Alignment" (section 6.3.1 of the linearisation thesis).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pullback.errors import InputError
from pullback.kernels.alignment import vanishes
from pullback.kernels.dense import TangentKernel
from pullback.kernels.mercer import Eigenfunctions, eigenfunctions, numerical_rank
from pullback.kernels.spectra import effective_rank, trace_ratios
from pullback.kernels.tangent import tangent_kernel
from pullback.probes.recorder import Moment


class KernelSample:
    """The samples on which a kernel is followed, and the kernel of a moment.

    Args:
        inputs: samples in an order that stays fixed, shape (n, ...); sorted by class makes its
            pictures readable.
        labels: their classes, shape (n,): the outputs that are to be largest, from 0; of a network
            with one output, any two numbers.

    Raises:
        InputError: the labels are no whole numbers, one for each input.

    Example:
        >>> import torch
        >>> from pullback.probes import KernelSample, Moment
        >>> sample = KernelSample(torch.randn(4, 2), torch.tensor([0, 0, 1, 2]))
        >>> moment = Moment(torch.nn.Linear(2, 3), step=0)
        >>> sample.kernel(moment).matrix.shape
        torch.Size([4, 3, 4, 3])
        >>> sample.kernel(moment) is sample.kernel(moment)
        True
    """

    def __init__(self, inputs: Float[Tensor, "n ..."], labels: Tensor) -> None:
        if labels.shape != (len(inputs),) or labels.is_floating_point():
            raise InputError(
                f"labels: {labels.dtype} of shape {tuple(labels.shape)} for {len(inputs)} inputs; "
                "give the number of a class for each"
            )
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

    def eigenfunctions(self, moment: Moment) -> Eigenfunctions:
        """All eigenfunctions at a moment, of the kernel that is not centred."""
        return moment.once((self, "eigenfunctions"), lambda: eigenfunctions(self.kernel(moment)))

    def check_classes(self) -> None:
        """Raise InputError unless the labels tell samples apart.

        Raises:
            InputError: as said.
        """
        if len(self.labels.unique()) < 2:
            raise InputError(
                "labels: all samples are of one class; give samples of two classes at least"
            )

    def targets(self, outputs: int, labels: Tensor | None = None) -> Float[Tensor, "m c"]:
        """Labels as functions, in double precision.

        One-hot rows; for a network of one output, -1 for the lower class and 1 for the higher.

        Args:
            outputs: c.
            labels: of m other samples, from the same classes; None for those of the sample.

        Raises:
            InputError: the classes are not those of so many outputs.
        """
        chosen = self.labels if labels is None else labels
        classes = self.labels.unique()
        if outputs == 1 and len(classes) == 2:
            signs = torch.where(chosen.to(classes) == classes[1], 1.0, -1.0)
            return signs.double().unsqueeze(1)
        if int(classes[0]) < 0 or int(classes[-1]) >= outputs:
            raise InputError(
                f"labels: from {int(classes[0])} to {int(classes[-1])}, but the network has "
                f"{outputs} outputs; number the classes from 0, or take two for one output"
            )
        return F.one_hot(chosen.long(), outputs).double()

    def centred_targets(self, outputs: int) -> Float[Tensor, "n c"]:
        """The labels as functions, without their means over samples."""
        rows = self.targets(outputs)
        return rows - rows.mean(0)


def parts(kernel: TangentKernel) -> dict[str, TangentKernel]:
    """The whole kernel under "all", and the share of each layer under the layer's name."""
    return {"all": kernel, **kernel.layers}


def _spectra(kernel: TangentKernel) -> dict[str, Float[Tensor, " nc"]]:
    return {
        name: part.centred("samples").eigvalsh().clamp(min=0)
        for name, part in parts(kernel).items()
    }


class Spectrum:
    """All eigenvalues of the centred kernel, descending; its trace before centring, by layer.

    Neither is divided by anything.

    Args:
        sample: where the kernel is taken.

    Source:
        George 2023, section 6.3.2.

    Example:
        >>> import torch
        >>> from pullback.probes import KernelSample, Moment, Spectrum
        >>> x, y = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1])
        >>> Spectrum(KernelSample(x, y)).measure(Moment(torch.nn.Linear(2, 2, bias=False), step=0))
        {'eigenvalues': [2.0, 2.0, 0.0, 0.0], 'trace': {'all': 4.0, '(root)': 4.0}}
    """

    name = "spectrum"

    def __init__(self, sample: KernelSample) -> None:
        self.sample = sample

    def measure(self, moment: Moment) -> dict[str, Any]:
        """`{"eigenvalues": [...], "trace": {"all": .., layer: ..}}`."""
        return {
            "eigenvalues": self.sample.eigenvalues(moment)["all"].tolist(),
            "trace": {
                layer: part.trace() for layer, part in parts(self.sample.kernel(moment)).items()
            },
        }


class EffectiveRank:
    """Over how many directions the centred kernel is spread: exp of its spectrum's entropy.

    A layer whose kernel does not vary with the sample has rank 0.

    Args:
        sample: where the kernel is taken.

    Source:
        Roy and Vetterli 2007; George 2023, eq. 6.3.1.

    Example:
        >>> import torch
        >>> from pullback.probes import EffectiveRank, KernelSample, Moment
        >>> x, y = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1])
        >>> EffectiveRank(KernelSample(x, y)).measure(Moment(torch.nn.Linear(2, 3), step=0))
        {'all': 3.0, '(root)': 3.0}
    """

    name = "effective_rank"

    def __init__(self, sample: KernelSample) -> None:
        self.sample = sample

    def measure(self, moment: Moment) -> dict[str, float]:
        """`{"all": rank, layer: rank}`, each between 1 and nc."""
        kernels = parts(self.sample.kernel(moment))
        return {
            layer: effective_rank(spectrum)
            if layer == "all" or not vanishes(kernels[layer], "samples")
            else 0.0
            for layer, spectrum in self.sample.eigenvalues(moment).items()
        }


class NumericalRank:
    """How many eigenvalues of the centred kernel are more than rounding, by layer.

    A layer whose kernel does not vary with the sample has rank 0.

    Args:
        sample: where the kernel is taken.
        tolerance: the share of the largest eigenvalue that one has to exceed; None for what
            rounding leaves: nc times the relative spacing of floating point, as a share of the
            norm of the kernel before centring.

    Raises:
        InputError: the tolerance is negative.

    Source:
        Ortiz-Jimenez 2023, section 6.6.1; the default tolerance is LAPACK's.

    Example:
        >>> import torch
        >>> from pullback.probes import KernelSample, Moment, NumericalRank
        >>> sample = KernelSample(torch.randn(8, 2), torch.arange(8) % 3)
        >>> NumericalRank(sample).measure(Moment(torch.nn.Linear(2, 3), step=0))
        {'all': 6, '(root)': 6}
    """

    name = "numerical_rank"

    def __init__(self, sample: KernelSample, tolerance: int | float | None = None) -> None:
        if tolerance is not None and not tolerance >= 0:
            raise InputError(f"tolerance: {tolerance}; give a share of the largest, 0 or more")
        self.sample = sample
        self.tolerance = tolerance

    def measure(self, moment: Moment) -> dict[str, int]:
        """`{"all": rank, layer: rank}`, each from 0 to nc."""
        kernels = parts(self.sample.kernel(moment))
        return {
            layer: self._rank(kernels[layer], spectrum)
            for layer, spectrum in self.sample.eigenvalues(moment).items()
        }

    def _rank(self, kernel: TangentKernel, spectrum: Float[Tensor, " nc"]) -> int:
        if vanishes(kernel, "samples"):
            return 0
        share = self.tolerance
        if share is None:
            # Centring a kernel that is nearly constant leaves rounding of the size of what it took.
            rounding = len(spectrum) * torch.finfo(spectrum.dtype).eps * kernel.norm()
            share = rounding / float(spectrum[0])
        return numerical_rank(spectrum, share)


class TraceRatios:
    """Which share of the centred kernel's trace its k largest eigenvalues carry.

    Args:
        sample: where the kernel is taken.
        ks: the numbers of eigenvalues.

    Source:
        George 2023, eq. 6.3.2, with the sum up to and including k.

    Example:
        >>> import torch
        >>> from pullback.probes import KernelSample, Moment, TraceRatios
        >>> x, y = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1])
        >>> TraceRatios(KernelSample(x, y), (1, 2)).measure(Moment(torch.nn.Linear(2, 2), step=0))
        {'1': 0.5, '2': 1.0}
    """

    name = "trace_ratios"

    def __init__(self, sample: KernelSample, ks: Sequence[int] = (1, 5, 10)) -> None:
        self.sample = sample
        self.ks = tuple(ks)

    def measure(self, moment: Moment) -> dict[str, float]:
        """`{"1": share, "5": share, ...}`."""
        ratios = trace_ratios(self.sample.eigenvalues(moment)["all"], self.ks)
        return {str(k): ratio for k, ratio in zip(self.ks, ratios, strict=True)}
