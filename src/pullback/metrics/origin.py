"""How a metric was made: what a reader of its numbers has to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pullback.cotangents import Source
from pullback.parameters import ParameterSpace, by_owner, owner_of
from pullback.tape.affine import AffineLayout
from pullback.tape.record import Plan
from pullback.tape.sweep import Sweep

Members = tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """How a metric was made.

    Attributes:
        likelihood: the output metric.
        estimator: "exact", "sketched", "sampled", "empirical" or "centred".
        draws: labels drawn for each sample, where it is sampled.
        samples: how many samples n it averages over; None where they are yet to be seen.
        ways: for each parameter, how its gradients were computed.
        reasons: for parameters that took the generic way, the operation that has no rule.
        layouts: how a weight and its bias form matrices, where they do.
    """

    likelihood: str
    estimator: str
    draws: int
    samples: int | None
    ways: dict[str, str]
    reasons: dict[str, str]
    layouts: dict[Members, AffineLayout]


def origin_of(sweep: Sweep) -> Origin:
    """The origin of a metric that a sweep has just filled."""
    source, plan = sweep.source, sweep.plan
    assert isinstance(source, Source)  # metrics come from `fisher`, which makes one
    return Origin(
        source.likelihood.name,
        source.estimator,
        source.samples,
        sweep.samples or None,
        plan.ways,
        plan.reasons,
        layouts_of(plan, sweep.network.space),
    )


def layouts_of(plan: Plan, space: ParameterSpace) -> dict[Members, AffineLayout]:
    """The weights that form matrices with their biases: affine layers, and normalisations.

    The scale of a normalisation counts as a matrix of one column.
    """
    found = dict(plan.affine)
    for names in by_owner(n for n in space.names if plan.ways[n] == "normalisation").values():
        if len(names) == 2 and space.shape_of[names[0]] == space.shape_of[names[1]]:
            one_column = torch.Size([space.shape_of[names[0]].numel(), 1])
            found[names] = AffineLayout(one_column, groups=1, transposed=False, bias=True)
    return found


def block_names(members: Sequence[tuple[str, ...]]) -> list[str]:
    """A name for each block: its module's, or its first parameter's where a module has several."""
    owners = [owner_of(names[0]) for names in members]
    return [
        owner if owners.count(owner) == 1 else names[0]
        for owner, names in zip(owners, members, strict=True)
    ]
