"""How a case of the grid is handed to the library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import pullback as pb
from tests import reference
from tests.cases import Case
from tests.reference import Inputs

REPRESENTATIONS = ("dense", "diagonal", "kfac", "ekfac", "implicit")
FACTORED = ("kfac", "ekfac")


def network_of(case: Case, dtype: torch.dtype = torch.float64) -> pb.Network:
    """The case's module with its read-out."""
    module = case.module if dtype == torch.float64 else case.fresh(dtype)[0]
    return pb.Network(module, outputs=case.readout)


def space_of(module: nn.Module) -> pb.ParameterSpace:
    """The space of the parameters that require a gradient."""
    return pb.Network(module).space


def batch_of(inputs: Inputs, targets: Tensor | None = None) -> Any:
    """Samples in the form of one batch of a loader."""
    if isinstance(inputs, dict):
        return inputs if targets is None else {**inputs, "labels": targets}
    if isinstance(inputs, tuple) or targets is not None:
        return (inputs, targets) if targets is not None else (inputs,)
    return inputs


def data_of(case: Case, likelihood: str | None = None, dtype: torch.dtype = torch.float64) -> Any:
    """All samples of a case as the library's `data`, with targets for a likelihood."""
    targets = None if likelihood is None else case.targets(likelihood, dtype)
    inputs = case.inputs if dtype == torch.float64 else case.fresh(dtype)[1]
    batch = batch_of(inputs, targets)
    # A tuple of tensors alone would be read as (inputs, targets): it has to be a batch of a list.
    return [batch] if isinstance(inputs, tuple) and targets is None else batch


def batches_of(case: Case, sizes: list[int], likelihood: str | None = None) -> list[Any]:
    """The samples of a case in batches of the given sizes."""
    assert sum(sizes) == case.n
    targets = None if likelihood is None else case.targets(likelihood)
    batches, start = [], 0
    for size in sizes:
        rows = slice(start, start + size)
        part = None if targets is None else targets[rows]
        batches.append(batch_of(reference.rows_of(case.inputs, rows), part))
        start += size
    return batches


def measured(
    case: Case,
    representation: str,
    likelihood: str | None = None,
    estimator: str = "exact",
    **options: Any,
) -> pb.Metric:
    """The library's metric of a case, by default for a likelihood that fits it."""
    likelihood = likelihood or case.likelihood
    data = data_of(case, likelihood if estimator in ("empirical", "centred") else None)
    return pb.fisher(
        network_of(case),
        data,
        likelihood=likelihood,
        representation=representation,
        estimator=estimator,
        **options,
    )
