"""From a sweep of gradients to a metric: which parameters form a block, and of which kind.

One pass feeds the sums of all blocks; blocks that need a second one (EKFAC's scales, along
eigenvectors that the first pass finds) get it together. A kind applies to a layer, so a mixture is
no special case: "kfac" is the rule that takes KFAC where it is defined and full blocks elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import nn

from pullback.cotangents import Source
from pullback.errors import InputError
from pullback.metrics.block import Block
from pullback.metrics.checkpoint import Checkpoint
from pullback.metrics.dense import Dense
from pullback.metrics.groups import Groups, check_titles, groups_of
from pullback.metrics.kronecker import EKFAC, KFAC, nearest_kronecker
from pullback.metrics.metric import BlockMetric, places_of
from pullback.metrics.origin import Members, block_names, layouts_of, origin_of
from pullback.metrics.sums import (
    REMEDY,
    BlockSum,
    DenseSum,
    DiagonalSum,
    EigenbasisSum,
    GradientSum,
    KroneckerSum,
    LowRankSum,
    QuasiDiagonalSum,
    Sum,
)
from pullback.parameters import ROOT, ParameterVector, by_owner, owner_of
from pullback.tape.affine import AffineLayout
from pullback.tape.sweep import Part, Sweep
from pullback.tape.use import Unforeseen

# What a layer's block can be. The words after the hyphen say how KFAC treats shared positions, or
# that its factors are the nearest ones instead of the second moments.
LAYERWISE = (
    "block",
    "diagonal",
    "quasidiagonal",
    "lowrank",
    *(
        f"{name}{how}"
        for name in ("kfac", "ekfac")
        for how in ("", "-reduce", "-uncorrelated", "-nearest")
    ),
)
WHOLE = ("dense", "lowrank")
KRONECKER = ("kfac", "ekfac")
MEAN = "mean gradient"

Rule = str | Mapping[type[nn.Module], str] | Callable[[str, nn.Module], str]


@dataclass
class Unit:
    """A block that is to be built.

    Attributes:
        members: its parameters.
        kind: what it is to be.
        layout: how a weight and a bias form matrices, if the block is those of an affine layer or
            of a normalisation.
        remedy: what to do where the block is too large.
    """

    members: tuple[str, ...]
    kind: str
    layout: AffineLayout | None
    remedy: str = REMEDY

    def sum(self, sweep: Sweep) -> BlockSum:
        """The empty sums of the first pass."""
        space = sweep.network.space.part(self.members)
        kind, _, how = self.kind.partition("-")
        if kind == "diagonal":
            return DiagonalSum(space)
        if kind == "quasidiagonal" and self.layout is not None:
            return QuasiDiagonalSum(space, self.layout)
        if kind == "lowrank":
            return LowRankSum(space, sweep.expected)
        if kind in ("kfac", "ekfac") and how != "nearest":
            assert self.layout is not None
            return KroneckerSum(space, self.layout, how or "expand")
        return DenseSum(space, sweep.memory, self.remedy)

    def block(self, total: BlockSum, samples: int) -> Block:
        """The block of the first pass."""
        block = total.block(samples)
        if self.kind.endswith("-nearest"):
            assert isinstance(block, Dense) and self.layout is not None
            return nearest_kronecker(block.matrix, self.layout)
        return block


def build(
    sweep: Sweep,
    representation: Rule,
    basis: BlockMetric | None = None,
    group: distributed.ProcessGroup | None = None,
    checkpoint: str | Path | None = None,
    groups: Groups | None = None,
) -> BlockMetric:
    """The metric of a sweep's gradients.

    Args:
        sweep: the network, the data and the cotangents.
        representation: the kind of every layer's block.
        basis: an earlier metric, whose eigenvectors EKFAC takes over instead of finding its own.
        group: processes whose sweeps go over shards of one data set.
        checkpoint: a folder for the sums of an interrupted computation.
        groups: which parameters share a block; the others do with those of their layer.
    """
    units = units_of(sweep, representation, groups)
    if group is not None:
        _check_same(units, group)
    kept = Checkpoint(checkpoint, _identity(sweep, units))
    kept.check(sweep)
    try:
        blocks = _blocks(sweep, units, basis, group, kept)
    except Unforeseen:
        kept.remove()  # what the sums are of is decided anew
        raise
    metric = BlockMetric(
        sweep.network.space,
        origin_of(sweep),
        representation if isinstance(representation, str) else "mixed",
        {name: blocks[name] for name in units},
        {name: unit.members for name, unit in units.items()},
    ).check_finite()
    kept.remove()
    return metric


def _blocks(
    sweep: Sweep,
    units: Mapping[str, Unit],
    basis: BlockMetric | None,
    group: distributed.ProcessGroup | None,
    kept: Checkpoint,
) -> dict[str, Block]:
    """The blocks of the units, after as many passes as they need."""
    space = sweep.network.space
    eigen = [name for name, unit in units.items() if unit.kind.startswith("ekfac")]
    sums = {
        name: unit.sum(sweep) for name, unit in units.items() if basis is None or name not in eigen
    }
    centred = isinstance(sweep.source, Source) and sweep.source.estimator == "centred"
    mean = {MEAN: GradientSum(space)} if centred else {}
    blocks: dict[str, Block] = {}
    if sums or mean:
        _fill(sweep, {**sums, **mean}, "metric", group, kept)
        blocks = {name: units[name].block(total, sweep.samples) for name, total in sums.items()}
        sums.clear()
    if eigen:
        bases = {
            name: _eigenbasis(name, blocks if basis is None else basis.blocks) for name in eigen
        }
        second = {
            name: EigenbasisSum(space.part(units[name].members), bases[name]) for name in eigen
        }
        _fill(sweep, second, "EKFAC scales", group, kept)
        blocks |= {name: total.block(sweep.samples) for name, total in second.items()}
    for total in mean.values():
        flat = (total.total / sweep.samples).flat
        for name, unit in units.items():
            blocks[name] = blocks[name].centred(flat[places_of(space, unit.members)])
    return blocks


def mean_gradient(sweep: Sweep) -> ParameterVector:
    """The mean over samples of `J^T u`, summed over cotangents u."""
    total = GradientSum(sweep.network.space)
    _fill(sweep, {MEAN: total}, "mean gradient", None, Checkpoint(None, {}))
    return total.total / sweep.samples


def _identity(sweep: Sweep, units: Mapping[str, Unit]) -> dict[str, Any]:
    """What makes two computations the same, in plain values."""
    space, source = sweep.network.space, sweep.source
    assert isinstance(source, Source)
    return {
        "model": [(n, tuple(shape)) for n, shape in space.shape_of.items()] + [str(space.dtype)],
        "representation": [(name, unit.members, unit.kind) for name, unit in units.items()],
        "likelihood": source.likelihood.name,
        "estimator": (source.estimator, source.samples, source.seed),
        "parameters": [float(t.double().sum()) for t in sweep.network.tensors.values()],
    }


def _eigenbasis(name: str, blocks: Mapping[str, Block]) -> EKFAC:
    block = blocks.get(name)
    if isinstance(block, KFAC):
        return block.eigenbasis
    if isinstance(block, EKFAC):
        return block
    raise InputError(
        f"basis: its block {name!r} has no Kronecker eigenvectors; give an EKFAC metric"
    )


def _check_same(units: Mapping[str, Unit], group: distributed.ProcessGroup) -> None:
    """Raise InputError where processes would add up different things."""
    own = [(name, unit.members, unit.kind) for name, unit in units.items()]
    everyone: list[object] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(everyone, own, group=group)
    if any(other != own for other in everyone):
        raise InputError(
            "group: the processes found different blocks; give all of them the same model, and "
            "shards in whose first batch every layer is used alike"
        )


def _fill(
    sweep: Sweep,
    sums: Mapping[str, Sum],
    description: str,
    group: distributed.ProcessGroup | None,
    kept: Checkpoint,
) -> None:
    """One pass over the data, and over the shards of all processes."""
    rows = sum(total.kept for total in sums.values())
    concerned: dict[str, list[str]] = {}
    for name, total in sums.items():
        for parameter in total.space.names:
            concerned.setdefault(parameter, []).append(name)
    squares = {p for p, names in concerned.items() if all(sums[n].squares_only for n in names)}
    once = {p for p, names in concerned.items() if all(sums[n].inputs_once for n in names)}
    with kept.of(description, sums, sweep) as accumulation:
        touched = sum(t.nbytes for total in sums.values() for t in total.state())
        steps = sweep.steps(description, rows, squares, once, accumulation.samples, touched)
        for step in steps:
            accumulation.begin()
            parts: dict[str, list[Part]] = {}
            for part in step.parts():
                for name in dict.fromkeys(n for p in part.names for n in concerned.get(p, ())):
                    parts.setdefault(name, []).append(part)
            for name, mine in parts.items():
                sums[name].add(mine, step.fresh)
            if step.last:
                accumulation.end(step.piece)
    if group is not None:
        for total in sums.values():
            total.reduce(group)
        counts = torch.tensor([sweep.samples])
        distributed.all_reduce(counts, group=group)
        sweep.samples = int(counts)


def units_of(sweep: Sweep, representation: Rule, groups: Groups | None = None) -> dict[str, Unit]:
    """The blocks by name, in the order of the parameters."""
    plan, space, module = sweep.plan, sweep.network.space, sweep.network.module
    if groups is None and isinstance(representation, str) and representation in WHOLE:
        return {"all": Unit(space.names, representation, None)}
    modules = dict(module.named_modules())
    kind_of = _rule(representation, modules)
    layouts = layouts_of(plan, space)
    factors = {members: one for members, one in layouts.items() if members in plan.affine}
    named = {
        title: _group(title, members, kind_of, layouts, factors)
        for title, members in groups_of(groups or {}, space.names, module).items()
    }
    units: list[Unit] = []
    taken = {name for unit in named.values() for name in unit.members}
    for members, layout in layouts.items():
        kind = kind_of(owner_of(members[0]))
        factored = kind.startswith(KRONECKER) and members in factors
        if (factored or (kind == "quasidiagonal" and layout.bias)) and not taken & set(members):
            units.append(Unit(members, kind, layout))
    taken |= {name for unit in units for name in unit.members}
    for owner, names in by_owner(n for n in space.names if n not in taken).items():
        kind, remedy = kind_of(owner), REMEDY
        if kind.startswith(KRONECKER):
            remedy = _remedy(kind, modules["" if owner == ROOT else owner])
            kind = "block"
        elif kind == "quasidiagonal":
            kind = "diagonal"
        units.append(Unit(names, kind, None, remedy))
    titles = block_names([unit.members for unit in units])
    check_titles(named, titles)
    every = {**named, **dict(zip(titles, units, strict=True))}
    order = {name: place for place, name in enumerate(space.names)}
    return dict(sorted(every.items(), key=lambda item: order[item[1].members[0]]))


def _remedy(kind: str, module: nn.Module) -> str:
    """What to do where the full block in place of a Kronecker product is too large."""
    name = type(module).__name__
    return (
        f"{kind!r} is not defined for these parameters of a {name}, which get a full block; give "
        f"them another kind, say representation={{nn.{name}: 'diagonal', nn.Module: {kind!r}}}"
    )


def check_groupable(representation: Rule) -> None:
    """Raise InputError for a representation that is one for all parameters.

    Raises:
        InputError: as said.
    """
    if representation in ("dense", "implicit"):
        raise InputError(
            f"groups: {representation!r} takes all parameters together; take 'block', 'diagonal' "
            "or 'lowrank'"
        )


def _group(
    title: str,
    members: Members,
    kind_of: Callable[[str], str],
    layouts: Mapping[Members, AffineLayout],
    factors: Mapping[Members, AffineLayout],
) -> Unit:
    """The block of a group.

    Raises:
        InputError: its layers are to be of several kinds, or its kind is for a single weight.
    """
    kinds = sorted({kind_of(owner_of(name)) for name in members})
    if len(kinds) > 1:
        raise InputError(
            f"groups: the layers of {title!r} are {' and '.join(kinds)}; a block is of one kind"
        )
    kind = kinds[0]
    if kind != "quasidiagonal" and not kind.startswith(KRONECKER):
        return Unit(members, kind, None)
    for own, layout in (layouts if kind == "quasidiagonal" else factors).items():
        if set(own) == set(members):
            return Unit(own, kind, layout)
    raise InputError(
        f"groups: {title!r} is not the weight (and bias) of one layer, which {kind!r} needs; take "
        "'block', 'diagonal' or 'lowrank' for it, or leave it out of the groups"
    )


def _rule(representation: Rule, modules: Mapping[str, nn.Module]) -> Callable[[str], str]:
    """From a module's name to the kind of its block.

    Raises:
        InputError: (when called) the kind does not exist.
    """

    def kind_of(owner: str) -> str:
        module = modules["" if owner == ROOT else owner]
        if isinstance(representation, str):
            kind = representation
        elif isinstance(representation, Mapping):
            kinds = [kind for of, kind in representation.items() if isinstance(module, of)]
            kind = kinds[0] if kinds else "block"
        else:
            kind = representation(owner, module)
        if kind not in LAYERWISE:
            raise InputError(
                f"representation: no {kind!r}; for a layer there are {', '.join(LAYERWISE)}, for "
                f"all parameters together {', '.join(WHOLE)} and implicit"
            )
        return kind

    return kind_of
