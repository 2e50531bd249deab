"""Probes: where functions lie among the eigenfunctions of the kernel, and these on the samples.

Kernels here are not centred: their eigenfunctions are those that gradient descent learns. Labels
are functions on the samples, taken without their mean: one-hot rows, or -1 and 1 for a network of
one output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.errors import InputError
from pullback.kernels.mercer import Eigenfunctions, local_energy
from pullback.kernels.tangent import tangent_kernel
from pullback.kernels.targets import energy_concentration, rkhs_lower_bound, rkhs_norm
from pullback.probes.kernel import KernelSample
from pullback.probes.recorder import Moment


class LabelConcentration:
    """How much of the labels lies in the leading eigenfunctions of the kernel.

    Args:
        sample: where the kernel is taken.
        ks: numbers of eigenfunctions.

    Raises:
        InputError: a number is not positive, or all samples are of one class.

    Source:
        Ortiz-Jimenez et al. 2021, section 4.2 and table 1 (the ratio); Ortiz-Jimenez 2023, section
        4.4.2 (its square).

    Example:
        >>> import torch
        >>> from pullback.probes import KernelSample, LabelConcentration, Moment
        >>> sample = KernelSample(torch.tensor([[3.0], [-4.0]]), torch.tensor([1, 0]))
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> LabelConcentration(sample, ks=[1]).measure(Moment(model, step=0))
        {'1': {'ratio': 0.98994..., 'energy': 0.98, 'random': 0.70710...}}
    """

    name = "concentration"

    def __init__(self, sample: KernelSample, ks: Sequence[int] = (10, 50)) -> None:
        if any(k < 1 for k in ks):
            raise InputError(f"ks: {tuple(ks)}; give numbers of eigenfunctions, 1 or more")
        sample.check_classes()
        self.sample = sample
        self.ks = tuple(ks)

    def measure(self, moment: Moment) -> dict[str, dict[str, float]]:
        """`{"10": {"ratio": of lengths, "energy": its square, "random": a random ratio}, ...}`."""
        pairs = self.sample.eigenfunctions(moment)
        targets = self.sample.centred_targets(pairs.functions.shape[-1])
        found = {}
        for k in self.ks:
            one = energy_concentration(pairs, targets, k)
            found[str(k)] = {
                "ratio": float(one.ratio),
                "energy": float(one.energy),
                "random": one.random_ratio,
            }
        return found


class LabelNorm:
    """The squared norm of the labels in the kernel's function space, `y K^-1 y`, and a lower bound.

    It is the squared distance that the parameters of the linearised network would have to travel to
    add the labels to its outputs. Small eigenvalues decide it, so that it is read together with how
    many went in; the lower bound, `|y|^4 / y K y`, needs none of them.

    Args:
        sample: where the kernel is taken.
        jitter: added to the eigenvalues, in units of their mean. Without it those that are only
            rounding are left out.

    Raises:
        InputError: the jitter is negative, or all samples are of one class.

    Source:
        Ortiz-Jimenez et al. 2021, eq. 3 and Lemma 1; Ortiz-Jimenez 2023, eqs. 4.3 and 4.5.

    Example:
        >>> import torch
        >>> from pullback.probes import KernelSample, LabelNorm, Moment
        >>> sample = KernelSample(torch.tensor([[3.0], [-3.0]]), torch.tensor([1, 0]))
        >>> LabelNorm(sample).measure(Moment(torch.nn.Linear(1, 1, bias=False), step=0))
        {'squared': 0.1111..., 'captured': 1.0, 'rank': 1, 'lower_bound': 0.1111...}
    """

    name = "label_norm"

    def __init__(self, sample: KernelSample, jitter: int | float = 0.0) -> None:
        if not 0 <= jitter < math.inf:
            raise InputError(f"jitter: {jitter}; give 0 or a share of the mean eigenvalue")
        sample.check_classes()
        self.sample = sample
        self.jitter = jitter

    def measure(self, moment: Moment) -> dict[str, float | int | None]:
        """`{"squared": .., "captured": share, "rank": eigenvalues used, "lower_bound": ..}`.

        "captured" is the share of `|y|^2` that the norm is of; below 1 the rest has an infinite one
        without jitter. The lower bound is of the norm without jitter of all of y; null for
        infinity, where y does not meet the kernel.
        """
        pairs = self.sample.eigenfunctions(moment)
        targets = self.sample.centred_targets(pairs.functions.shape[-1])
        norm = rkhs_norm(pairs, targets, self.jitter * float(pairs.values.mean()))
        return {
            "squared": float(norm.squared),
            "captured": float(norm.captured),
            "rank": norm.used,
            "lower_bound": _lower_bound(pairs, targets),
        }


def _lower_bound(pairs: Eigenfunctions, targets: Float[Tensor, "n c"]) -> float | None:
    """Lemma 1's bound, from the eigenvalues that are more than rounding; None for infinity."""
    squares = pairs.coefficients(targets)[: pairs.rank].double().square()
    rounding = torch.finfo(pairs.values.dtype).eps * targets.square().sum() / len(targets)
    if float(squares.sum()) <= float(rounding):
        return None
    alignment = (pairs.mercer_values[: pairs.rank] * squares).sum()
    return float(rkhs_lower_bound(alignment, targets))


class EigenfunctionLocalisation:
    """Whether the eigenfunctions of a task live on its own samples, or on a control's as well.

    The energy at a sample is the sum of squares there of the right singular vectors of the kernel
    between the task and both sets. It adds up to the rank, so that what localises is a mean over
    the task above the baseline, by many times the spread; part of that is mechanical, since a
    kernel links each sample with itself most, so compare it with the step 0.

    Args:
        task: n samples, shape (n, ...).
        control: samples of another task, shape (m - n, ...).
        outputs: "each" for the kernel of each output apart, "sum" for their sum, or a number for
            one of them.
        tolerance: the share of the largest singular value above which one is more than rounding;
            None for m times the relative spacing of floating point.

    Raises:
        InputError: a set is empty, samples are of two shapes, there is no such choice of outputs,
            or the tolerance is negative.

    Source:
        Ortiz-Jimenez 2023, section 6.6.1, eq. 6.10.

    Example:
        >>> import torch
        >>> from pullback.probes import EigenfunctionLocalisation, Moment
        >>> task, control = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> probe = EigenfunctionLocalisation(task, control, outputs=0)
        >>> probe.measure(Moment(torch.nn.Linear(2, 3, bias=False), step=0))
        {'task': 1.0, 'control': 0.0, 'baseline': 0.5, 'spread': 0.3535..., 'rank': 1}
    """

    name = "localisation"

    def __init__(
        self,
        task: Float[Tensor, "n ..."],
        control: Float[Tensor, "k ..."],
        outputs: str | int = "each",
        tolerance: int | float | None = None,
    ) -> None:
        if not (len(task) and len(control)):
            raise InputError(
                f"task, control: {len(task)} and {len(control)} samples; give both some"
            )
        if task.shape[1:] != control.shape[1:]:
            raise InputError(
                f"control: samples of shape {tuple(control.shape[1:])}, but those of the task have "
                f"{tuple(task.shape[1:])}"
            )
        if outputs not in ("each", "sum") and not isinstance(outputs, int):
            raise InputError(f"outputs: {outputs!r}; choose 'each', 'sum' or one output")
        if tolerance is not None and not tolerance >= 0:
            raise InputError(f"tolerance: {tolerance}; give a share of the largest, 0 or more")
        self.task = task
        self.both = torch.cat([task, control])
        self.outputs = outputs
        self.tolerance = tolerance

    def measure(self, moment: Moment) -> dict[str, Any]:
        """`{"task": mean, "control": mean, "baseline": .., "spread": .., "rank": ..}`.

        Each is a number, or for "each" a list with one number for each output. The baseline is what
        a random subspace of the same rank has on average, the spread the standard deviation of its
        mean over the task.
        """
        kernel = tangent_kernel(
            moment.model, self.task, self.both, outputs=self.outputs, progress=False
        )
        found = local_energy(kernel, self.tolerance)
        return {
            "task": found.on_task.tolist(),
            "control": found.on_control.tolist(),
            "baseline": found.baseline.tolist(),
            "spread": found.spread.tolist(),
            "rank": found.rank.tolist(),
        }
