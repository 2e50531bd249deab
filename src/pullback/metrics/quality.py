"""How far a representation is from another one of the same metric, without either as a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pullback.errors import InputError
from pullback.estimates import Estimate
from pullback.metrics.metric import Metric, check_same_space

DAMPINGS = tuple(10.0**exponent for exponent in range(-6, 2))


@dataclass(frozen=True)
class SolveQuality:
    """A damped solve: `v' = (A + damping I)^-1 (F + damping I) v` against unit vectors v.

    Attributes:
        damping: lambda.
        cosine: of the angle between the two.
        residual: `|v - v'| / |v'|`.
    """

    damping: float
    cosine: Estimate
    residual: Estimate


@dataclass(frozen=True)
class Quality:
    """How far a metric A is from the reference F; means over random unit vectors v.

    `pullback.report.figures.quality_figure` draws several.

    Attributes:
        trace: `tr A / tr F - 1`.
        quadratic: `(v A v - v F v) / v F v`, its absolute value.
        cosine: of the angle between `A v` and `F v`.
        residual: `|A v - F v| / |F v|`.
        solve: damped solves, one for each damping.
    """

    trace: float
    quadratic: Estimate
    cosine: Estimate
    residual: Estimate
    solve: tuple[SolveQuality, ...]


def quality(
    reference: Metric,
    metric: Metric,
    dampings: Sequence[int | float] = DAMPINGS,
    samples: int = 20,
    seed: int = 0,
) -> Quality:
    """Compare a metric with a reference, "dense" or "implicit", of the same data.

    Args:
        reference: F; only its trace and products are used.
        metric: A, in any representation.
        dampings: those of the solves; the field's figures take several decades.
        samples: random unit vectors, two at least.
        seed: of these.

    Raises:
        InputError: the metrics are of different spaces, or there are too few vectors.

    Source:
        George 2023, section 3.4.1 and figures 3.3 to 3.6.

    Example:
        >>> import torch, pullback as pb
        >>> model, x = torch.nn.Linear(3, 2), torch.randn(10, 3)
        >>> F = pb.fisher(model, x, representation="dense")
        >>> found = pb.quality(F, F, dampings=[0.1])
        >>> found.trace, round(found.cosine.value, 4), round(found.solve[0].cosine.value, 4)
        (0.0, 1.0, 1.0)
    """
    check_same_space(reference, metric)
    if samples < 2:
        raise InputError(f"samples: {samples}; an error needs two random vectors at least")
    draws = reference.space.randn(seed, (samples,))
    v = reference.space.vector(draws.flat / draws.norm().unsqueeze(1))
    truth, found = reference @ v, metric @ v
    lengths = v @ truth
    solved = []
    for damping in dampings:
        recovered = metric.solve(truth + damping * v, damping).flat
        solved.append(
            SolveQuality(damping, _cosine(recovered, v.flat), _residual(v.flat, recovered))
        )
    return Quality(
        trace=float(metric.trace()) / float(reference.trace()) - 1,
        quadratic=Estimate.of(((v @ found) / lengths - 1).abs()),
        cosine=_cosine(found.flat, truth.flat),
        residual=_residual(found.flat, truth.flat),
        solve=tuple(solved),
    )


def _cosine(one: Float[Tensor, "k d"], other: Float[Tensor, "k d"]) -> Estimate:
    return Estimate.of(functional.cosine_similarity(one.double(), other.double(), dim=-1))


def _residual(one: Float[Tensor, "k d"], reference: Float[Tensor, "k d"]) -> Estimate:
    difference = (one - reference).double().norm(dim=-1)
    return Estimate.of(difference / reference.double().norm(dim=-1))
