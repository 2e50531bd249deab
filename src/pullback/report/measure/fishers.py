"""The Fisher information matrix at one state, layer by layer."""

from __future__ import annotations

from torch import nn

from pullback.metrics.fisher import fisher
from pullback.metrics.metric import BlockMetric
from pullback.probes import undisturbed
from pullback.report.numbers import FisherLayer, FisherNumbers, spectrum
from pullback.report.samples import Subset


def fisher_numbers(model: nn.Module, samples: Subset, state: str) -> FisherNumbers:
    """Trace and spectrum of each layer's EKFAC block; the expectation over labels is exact.

    Args:
        model: a classifier that returns logits.
        samples: inputs and labels, over which the matrix is a mean.
        state: what to call the state of the network.
    """
    inputs, _ = samples
    with undisturbed(model):
        metric = fisher(model, inputs, representation="ekfac", progress=False)
    assert isinstance(metric, BlockMetric)
    layers = []
    for name, block in metric.blocks.items():
        eigenvalues = block.eigenvalues().sort(descending=True).values
        layers.append(
            FisherLayer(
                name=name,
                parameters=len(eigenvalues),
                trace=float(block.trace()),
                spectrum=spectrum(eigenvalues),
            )
        )
    return FisherNumbers(
        state=state,
        samples=len(inputs),
        trace=float(metric.trace()),
        layers=layers,
        ways=dict(metric.ways),
    )
