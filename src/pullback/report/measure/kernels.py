"""The tangent kernel between samples at one state: its picture, components and eigenfunctions."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pullback.kernels.dense import TangentKernel
from pullback.kernels.tangent import tangent_kernel
from pullback.probes import undisturbed
from pullback.report.numbers import Eigenfunction, KernelNumbers, LeadingFunctions, rounded
from pullback.report.samples import Subset

FUNCTIONS = 4
EXTREMES = 5


def kernel_numbers(
    model: nn.Module, probe: Subset, classes: int, state: str, step: int
) -> KernelNumbers:
    """The kernel summed over outputs, centred over the samples, of a network at one state.

    Args:
        model: the network.
        probe: samples in order of class.
        classes: how many classes there are.
        state: what to call the state, for example "before training".
        step: how many updates the network has had.
    """
    inputs, labels = probe
    with undisturbed(model):
        kernel = tangent_kernel(model, inputs, outputs="sum", progress=False).centred("samples")
    cosines = kernel.normalised().matrix
    same = labels[:, None] == labels[None, :]
    others = ~torch.eye(len(labels), dtype=torch.bool)
    return KernelNumbers(
        **leading_functions(kernel, labels, classes, state, step),
        cosines=rounded(cosines, 4),
        same_class=_mean(cosines, same & others),
        other_class=_mean(cosines, ~same),
    )


def leading_functions(
    kernel: TangentKernel,
    labels: Int[Tensor, " n"],
    classes: int,
    state: str,
    step: int,
    count: int = FUNCTIONS,
) -> LeadingFunctions:
    """The leading eigenfunctions of a centred kernel (n, n), and its two leading components.

    Args:
        kernel: centred.
        labels: of the samples, in order of class.
        classes: how many classes there are.
        state: what to call the state.
        step: how many updates the network has had.
        count: how many eigenfunctions.
    """
    values, functions = kernel.eigh(k=min(max(count, 2), len(labels)))
    functions = oriented(functions)
    total = float(kernel.trace())
    return LeadingFunctions(
        state=state,
        step=step,
        coordinates=rounded((functions[:2] * values[:2, None].clamp(min=0).sqrt()).T),
        shares=rounded(values / total),
        eigenfunctions=[
            _eigenfunction(function, value, total, labels, classes)
            for function, value in zip(functions, values.tolist(), strict=True)
        ],
    )


def oriented(functions: Float[Tensor, "k n"]) -> Float[Tensor, "k n"]:
    """Eigenvectors with the sign, which is free, chosen so that the longer tail is positive."""
    skewed = (functions**3).sum(dim=1, keepdim=True)
    return torch.where(skewed < 0, -functions, functions)


def _mean(values: Float[Tensor, "n n"], where: Tensor) -> float:
    return values[where].mean().item() if bool(where.any()) else 0.0


def _eigenfunction(
    function: Float[Tensor, " n"],
    value: float,
    total: float,
    labels: Int[Tensor, " n"],
    classes: int,
) -> Eigenfunction:
    scaled = function * len(function) ** 0.5
    order = scaled.argsort()
    counts = labels.bincount(minlength=classes).clamp(min=1)
    means = torch.zeros(classes, dtype=scaled.dtype).index_add(0, labels, scaled) / counts
    explained = means[labels].square().sum() / scaled.square().sum()
    extremes = min(EXTREMES, len(function) // 2)
    return Eigenfunction(
        value=value,
        share=value / total,
        explained_by_class=explained.item(),
        values=rounded(scaled),
        class_means=rounded(means),
        lowest=order[:extremes].tolist(),
        highest=order[-extremes:].tolist(),
    )


def thumbnails(inputs: Float[Tensor, "n ..."]) -> list[list[Any]] | None:
    """Images (n, c, h, w) as grey (h, w) or colour (h, w, 3) levels from 0 to 255, else None.

    Each image is stretched over the whole range by itself, and shrunk to at most 32 pixels a side.
    """
    if inputs.ndim != 4:
        return None
    images = inputs if inputs.shape[1] == 3 else inputs[:, :1]
    side = max(images.shape[2:])
    if side > 32:
        images = torch.nn.functional.interpolate(images, scale_factor=32 / side, mode="area")
    low = images.amin(dim=(1, 2, 3), keepdim=True)
    spread = (images.amax(dim=(1, 2, 3), keepdim=True) - low).clamp(min=1e-12)
    levels = ((images - low) / spread * 255).round().to(torch.uint8)
    pixels = levels.squeeze(1) if levels.shape[1] == 1 else levels.permute(0, 2, 3, 1)
    listed: list[list[Any]] = pixels.tolist()
    return listed
