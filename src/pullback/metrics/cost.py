"""What a metric will cost, before it is computed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pullback.batches import Batch, Batches
from pullback.cotangents import Source
from pullback.likelihoods import DistributionOf, Likelihood, likelihood_of
from pullback.metrics.build import Rule, Unit, check_groupable, units_of
from pullback.metrics.groups import Groups
from pullback.network import Network, undisturbed
from pullback.parameters import ParameterSpace
from pullback.tape.affine import AffineUse
from pullback.tape.record import Tape
from pullback.tape.sweep import Sweep

# Of a symmetric eigenvalue problem with vectors, times the cube of its size (Golub and Van Loan).
EIGH_FLOPS = 9


@dataclass(frozen=True)
class Cost:
    """What a metric needs.

    Attributes:
        samples: how many samples n.
        passes: how often the data is read.
        forwards: forward passes of a sample, in all.
        backwards: backward passes of a sample, in all.
        network_flops: floating-point operations of these.
        contraction_flops: those of forming the metric from what the passes leave, eigenvalue
            problems included; an estimate that counts products alone.
        stored_bytes: size of the metric.
    """

    samples: int
    passes: int
    forwards: int
    backwards: int
    network_flops: int
    contraction_flops: int
    stored_bytes: int

    def __str__(self) -> str:
        flops = self.network_flops + self.contraction_flops
        return (
            f"{self.forwards:,} forward and {self.backwards:,} backward passes of a sample, "
            f"{flops:.2g} operations, {self.stored_bytes / 1e9:,.3g} GB to store"
        )


def cost(
    model: nn.Module | Network,
    data: object,
    likelihood: str | Likelihood | DistributionOf = "categorical",
    representation: Rule = "ekfac",
    estimator: str | None = None,
    samples: int = 1,
    groups: Groups | None = None,
) -> Cost:
    """What `fisher` with the same arguments would need; runs the model on three samples.

    Raises:
        InputError: as `fisher`.

    Source:
        George 2023, section 3.4 (a dense matrix of 24 million parameters takes 2.304 PB).

    Example:
        >>> import torch, pullback as pb
        >>> model, x = torch.nn.Linear(100, 10), torch.randn(50, 100)
        >>> print(pb.cost(model, x, representation="dense"))
        50 forward and 450 backward passes of a sample, 9.2e+08 operations, 0.00408 GB to store
    """
    if groups is not None:
        check_groupable(representation)
    network = Network.of(model)
    batches = Batches(data, network.device)
    count = sum(len(batch) for batch in batches)
    source = Source(likelihood_of(likelihood), estimator or "exact", samples)
    sweep = Sweep(network, batches, source, None, False)
    if estimator is None:
        source = source.affordable(sweep.plan.outputs)
    few = next(iter(batches)).take(0, 3)
    cotangents = source.count(sweep.plan.outputs)
    # The product with a vector is the implicit metric's unit: one forward with its tangent, one
    # backward.
    implicit = representation == "implicit"
    units = {} if implicit else units_of(sweep, representation, groups)
    passes = 2 if any(unit.kind.startswith("ekfac") for unit in units.values()) else 1
    forwards = count * passes * (2 if implicit else 1)
    backwards = count * passes * (1 if implicit else cotangents)
    positions = _positions(sweep, few)
    space = network.space
    numbers = [_numbers(unit, space, count * cotangents) for unit in units.values()]
    flops = [
        _flops(unit, space, count, cotangents, positions.get(unit.members[0], 1))
        for unit in units.values()
    ]
    return Cost(
        count,
        passes,
        forwards,
        backwards,
        (forwards + backwards) * _forward_flops(network, few),
        sum(flops),
        sum(numbers) * space.dtype.itemsize,
    )


def _forward_flops(network: Network, few: Batch) -> int:
    with undisturbed(), FlopCounterMode(display=False) as counter:
        network(few)
    return counter.get_total_flops() // len(few)


def _positions(sweep: Sweep, few: Batch) -> dict[str, int]:
    """Positions that share each affine weight, by the parameter's name."""
    with undisturbed():
        tape = Tape(sweep.network, few, sweep.plan)
    found: dict[str, int] = {}
    for use in tape.uses:
        if isinstance(use, AffineUse):
            layout = use.layout
            positions = use.floats[1] // (layout.groups * layout.outputs)
            for name in use.names:
                found[name] = found.get(name, 0) + positions
    return found


def _numbers(unit: Unit, space: ParameterSpace, rows: int) -> int:
    """How many numbers a block stores."""
    size, layout = space.floats(unit.members), unit.layout
    kind = unit.kind.partition("-")[0]
    if kind == "diagonal":
        return size
    if kind == "lowrank":
        return rows * size
    if layout is None or kind in ("dense", "block"):
        return size**2
    units = layout.groups * layout.outputs
    if kind == "quasidiagonal":
        return 2 * size - units
    factors = layout.groups * (layout.columns**2 + layout.outputs**2)
    return factors + (size if kind == "ekfac" else 0)


def _flops(unit: Unit, space: ParameterSpace, n: int, k: int, positions: int) -> int:
    """Operations of forming a block from inputs and gradients."""
    size, layout = space.floats(unit.members), unit.layout
    kind = unit.kind.partition("-")[0]
    per_sample = 2 * positions * size if positions > 1 else 0  # the gradients themselves
    if kind in ("diagonal", "quasidiagonal"):
        return n * (k * (per_sample + 2 * size) if positions > 1 else 2 * size)
    if kind == "lowrank":
        return n * k * max(per_sample, size)
    if layout is None or kind in ("dense", "block") or unit.kind.endswith("-nearest"):
        return n * (k * (per_sample + 2 * size**2))
    a, b = layout.columns, layout.outputs
    moments = 2 * n * positions * layout.groups * (a**2 + k * b**2)
    if kind == "kfac":
        return moments
    turned = 2 * n * positions * layout.groups * (a**2 + k * b**2)
    squares = n * k * (per_sample + 2 * size) if positions > 1 else 2 * n * size
    return moments + turned + squares + EIGH_FLOPS * layout.groups * (a**3 + b**3)
