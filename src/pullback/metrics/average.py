"""Averages of metrics: over shards of the data, or over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pullback.errors import InputError
from pullback.metrics.block import Block
from pullback.metrics.kronecker import KFAC
from pullback.metrics.metric import BlockMetric, check_same_space


def average(
    metrics: Sequence[BlockMetric], weights: Sequence[int | float] | None = None
) -> BlockMetric:
    """The weighted mean of metrics, block by block.

    Of Kronecker-factored metrics the factors are averaged: of the metrics of two shards of a data
    set, weighted by their samples, this gives that of the whole, where the product of the factors
    would not. EKFAC metrics have to share their eigenvectors (`fisher(..., basis=...)`).

    Args:
        metrics: of one space and one representation, at least one.
        weights: one number each; None weights by samples. `[0.95, 0.05]` is a step of an
            exponential running average.

    Raises:
        InputError: the metrics do not fit together, or their kind has no mean.

    Example:
        >>> import torch, pullback as pb
        >>> model, x = torch.nn.Linear(3, 2), torch.randn(10, 3)
        >>> shards = [pb.fisher(model, part, representation="kfac") for part in (x[:4], x[4:])]
        >>> whole = pb.fisher(model, x, representation="kfac")
        >>> bool(abs(pb.average(shards).trace() / whole.trace() - 1) < 1e-5)
        True
    """
    if not metrics:
        raise InputError("metrics: none; give at least one")
    first = metrics[0]
    for other in metrics[1:]:
        check_same_space(first, other)
        if _form(other) != _form(first):
            raise InputError(
                f"metrics: one is {first.representation!r}, another {other.representation!r}, or "
                "their blocks differ; give metrics of one representation"
            )
    samples = [metric.origin.samples for metric in metrics]
    if weights is None:
        known = [count for count in samples if count is not None]
        if len(known) < len(samples):
            raise InputError("weights: the metrics do not know their samples; give weights")
        weights = [count / sum(known) for count in known]
    elif len(weights) != len(metrics):
        raise InputError(f"weights: {len(weights)} for {len(metrics)} metrics; give one each")
    total = None if None in samples else sum(count for count in samples if count is not None)
    return BlockMetric(
        first.space,
        replace(first.origin, samples=total),
        first.representation,
        {
            name: _mean([metric.blocks[name] for metric in metrics], weights)
            for name in first.blocks
        },
        first.members,
    )


def _form(metric: BlockMetric) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(name, block.kind, metric.members[name]) for name, block in metric.blocks.items()]


def _mean(blocks: Sequence[Block], weights: Sequence[int | float]) -> Block:
    factored = [block for block in blocks if isinstance(block, KFAC)]
    if len(factored) == len(blocks):
        pairs = list(zip(factored, weights, strict=True))
        outputs = sum(
            (w * block.outputs for block, w in pairs[1:]), weights[0] * pairs[0][0].outputs
        )
        inputs = sum((w * block.inputs for block, w in pairs[1:]), weights[0] * pairs[0][0].inputs)
        return KFAC(factored[0].layout, outputs, inputs)
    total = blocks[0].scaled(weights[0])
    for block, weight in zip(blocks[1:], weights[1:], strict=True):
        total = total.plus(block.scaled(weight))
    return total
