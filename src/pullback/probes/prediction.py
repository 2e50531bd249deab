"""Probes: what the kernel predicts, which functions it learns soon, and where a step goes.

Each takes the kernel of a moment for fixed, as if the network were linearised there.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pullback.batches import Batches
from pullback.errors import InputError
from pullback.kernels.dynamics import gradient_descent, step_modes
from pullback.kernels.regression import kernel_regression
from pullback.kernels.tangent import tangent_kernel
from pullback.network import Network
from pullback.probes.kernel import KernelSample
from pullback.probes.recorder import Moment

BATCH = 500  # samples that go through the network at once


class KernelPrediction:
    """How well ridge regression on the kernel classifies: samples left out, and held-out ones.

    The labels are regressed from zero, not from the network's outputs: this is what the kernel
    knows, not the network. Leaving out one sample after the other is a closed form; to predict
    held-out samples takes no kernel between these and the sample.

    Args:
        sample: what the kernel is fitted to.
        held_out: inputs (m, ...) and labels (m,) of other samples; None for none.
        ridge: in units of the kernel's mean eigenvalue, above 0.

    Raises:
        InputError: the ridge is not positive; all samples are of one class; the held-out inputs and
            labels differ in number, or have a class that the sample does not.

    Source:
        Ortiz-Jimenez et al. 2021, eq. 2; Rasmussen and Williams 2006, eq. 5.12; George 2023,
        example 2 (eq. 2.2.10).

    Example:
        >>> import torch
        >>> from pullback.probes import KernelPrediction, KernelSample, Moment
        >>> x, y = torch.tensor([[1.0], [2.0], [-1.0], [-2.0]]), torch.tensor([1, 1, 0, 0])
        >>> held_out = torch.tensor([[3.0], [-0.5], [0.5]]), torch.tensor([1, 0, 0])
        >>> probe = KernelPrediction(KernelSample(x, y), held_out)
        >>> found = probe.measure(Moment(torch.nn.Linear(1, 2, bias=False), step=0))
        >>> found["leave_one_out"]["accuracy"], found["held_out"]["accuracy"]
        (1.0, 0.6666...)
    """

    name = "prediction"

    def __init__(
        self,
        sample: KernelSample,
        held_out: tuple[Tensor, Tensor] | None = None,
        ridge: int | float = 0.01,
    ) -> None:
        if not 0 < ridge < math.inf:
            raise InputError(f"ridge: {ridge}; give a share of the mean eigenvalue, above 0")
        sample.check_classes()
        self.sample = sample
        self.held_out = held_out
        self.ridge = ridge
        if held_out is not None:
            _check_held_out(sample, *held_out)

    def measure(self, moment: Moment) -> dict[str, dict[str, float]]:
        """`{"leave_one_out": {"accuracy": share, "error": ..}, "held_out": {...}}`.

        The error is squared, summed over outputs, a mean over samples. Targets are 1 - 1/c for the
        class of a sample and -1/c for others, or -1 and 1 for one output, so that to predict zero
        has the error 1 - 1/c, or 1.
        """
        kernel = self.sample.kernel(moment)
        # In single precision a small ridge is lost beside eigenvalues nc times the mean.
        exact = replace(kernel, matrix=kernel.matrix.double(), layers={})
        targets = self._coded(None, kernel.outputs)
        ridge = self.ridge * exact.trace() / targets.numel()
        fit = kernel_regression(exact, targets, ridge)
        residuals = fit.leave_one_out()
        found = {"leave_one_out": _scores(fit.problem.targets - residuals, fit.problem.targets)}
        if self.held_out is not None:
            inputs, labels = self.held_out
            cross = tangent_kernel(
                moment.model,
                list(inputs.split(BATCH)),
                list(self.sample.inputs.split(BATCH)),
                representation="implicit",
                progress=False,
            )
            found["held_out"] = _scores(fit.predict(cross), self._coded(labels, kernel.outputs))
        return found

    def _coded(self, labels: Tensor | None, outputs: int) -> Float[Tensor, "m c"]:
        """Labels as targets that add up to zero over several outputs."""
        rows = self.sample.targets(outputs, labels)
        return rows if outputs == 1 else rows - 1 / outputs


def _check_held_out(sample: KernelSample, inputs: Tensor, labels: Tensor) -> None:
    if len(labels) != len(inputs) or not len(labels):
        raise InputError(
            f"held_out: {len(inputs)} inputs and {len(labels)} labels; give one for each"
        )
    unknown = set(labels.tolist()) - set(sample.labels.tolist())
    if unknown:
        raise InputError(
            f"held_out: class {min(unknown)} has no samples that the kernel is fitted to"
        )


def _scores(predicted: Float[Tensor, "m c"], targets: Float[Tensor, "m c"]) -> dict[str, float]:
    wanted = targets.to(predicted)
    if targets.shape[1] == 1:
        right = (predicted > 0) == (wanted > 0)
    else:
        right = predicted.argmax(1) == wanted.argmax(1)
    return {
        "accuracy": float(right.double().mean()),
        "error": float((wanted - predicted).double().square().sum(1).mean()),
    }


class LearningTimes:
    """How soon gradient descent on the kernel learns its leading modes, and what the labels need.

    Times are counted in steps of the squared error at the rate that learns the first mode in one,
    after which 1/e of a mode's error is left: `-1 / log(1 - lambda_j / lambda_1)`, 0 for the first.

    Args:
        sample: where the kernel, which is not centred, is taken.
        k: how many modes, from the largest eigenvalue on.

    Raises:
        InputError: the number is not positive, or all samples are of one class.

    Source:
        George 2023, after eq. B.1.33, printed there without the inverse.

    Example:
        >>> import torch
        >>> from pullback.probes import KernelSample, LearningTimes, Moment
        >>> sample = KernelSample(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> LearningTimes(sample).measure(Moment(torch.nn.Linear(2, 1, bias=False), step=0))
        {'steps': [0.0, 3.4760...], 'energy': [0.5, 0.5]}
    """

    name = "learning_times"

    def __init__(self, sample: KernelSample, k: int = 20) -> None:
        if k < 1:
            raise InputError(f"k: {k}; give a number of modes, 1 or more")
        sample.check_classes()
        self.sample = sample
        self.k = k

    def measure(self, moment: Moment) -> dict[str, list[float | None]]:
        """`{"steps": [..], "energy": [..]}` for the k leading modes, or all if there are fewer.

        The energy is the share that a mode has of the squared length of the labels, taken without
        their mean over samples. A mode whose eigenvalue is only rounding is never learned: null.
        """
        kernel = self.sample.kernel(moment)
        path = gradient_descent(kernel, self.sample.centred_targets(kernel.outputs))
        times = path.learning_times()[: self.k].tolist()
        squares = path.errors().double().square()
        shares = squares / path.problem.displacement.double().square().sum()
        return {
            "steps": [time if math.isfinite(time) else None for time in times],
            "energy": shares[: self.k].tolist(),
        }


class SpectralBias:
    """Into which modes of the kernel a step of gradient descent on the cross-entropy goes.

    To first order a step changes the outputs by `-rate lambda_j (u_j^T grad)` along each
    eigenfunction: the gradient's share of a mode, tilted by the eigenvalue squared. The step is one
    on all samples at once.

    Args:
        sample: where the kernel, which is not centred, and the loss are taken.
        k: how many modes, from the largest eigenvalue on.

    Raises:
        InputError: the number is not positive.

    Source:
        George 2023, lemma 6.2.1 and propositions B.1.2 and B.1.3.

    Example:
        >>> import torch
        >>> from pullback.probes import KernelSample, Moment, SpectralBias
        >>> sample = KernelSample(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> torch.nn.init.zeros_(model.weight).shape
        torch.Size([1, 2])
        >>> SpectralBias(sample).measure(Moment(model, step=0))
        {'step': [0.9411..., 0.0588...], 'gradient': [0.5, 0.5]}
    """

    name = "spectral_bias"

    def __init__(self, sample: KernelSample, k: int = 20) -> None:
        if k < 1:
            raise InputError(f"k: {k}; give a number of modes, 1 or more")
        self.sample = sample
        self.k = k

    def measure(self, moment: Moment) -> dict[str, Any]:
        """`{"step": [share, ...], "gradient": [share, ...]}`, of squared lengths, in [0, 1].

        For the k leading modes, or all if there are fewer; 0 where the whole is zero.
        """
        kernel = self.sample.kernel(moment)
        found = step_modes(kernel, self._gradient(moment.model), rate=1.0)
        return {
            "step": _shares(found.amounts)[: self.k].tolist(),
            "gradient": _shares(found.pulls.squeeze(1))[: self.k].tolist(),
        }

    def _gradient(self, model: nn.Module) -> Float[Tensor, "n c"]:
        """Of the mean cross-entropy by the outputs; for one output, of the logistic loss."""
        network = Network.of(model)
        data = Batches(list(self.sample.inputs.split(BATCH)), network.device)
        outputs = torch.cat([network(batch) for batch in data])
        targets = self.sample.targets(outputs.shape[1]).to(outputs)
        if outputs.shape[1] == 1:
            return (outputs.sigmoid() - (targets + 1) / 2) / len(outputs)
        return (outputs.softmax(1) - targets) / len(outputs)


def _shares(amounts: Float[Tensor, " r"]) -> Float[Tensor, " r"]:
    squares = amounts.double().square()
    total = squares.sum()
    return squares / total if total > 0 else squares
