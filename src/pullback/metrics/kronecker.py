"""Kronecker-factored representations: KFAC and EKFAC.

The gradient of an affine layer is `g a~^T`, summed over positions. KFAC replaces the second moment
of that product by the product of second moments, `B (x) A`; EKFAC keeps KFAC's eigenvectors and
puts the true second moments along them in place of KFAC's eigenvalues, which is never further from
the block in Frobenius norm and has its exact trace (George et al. 2018). Positions that share the
weight, convolutions included, are expanded: A is the mean over samples and positions, B the mean
over samples of the sum over positions. Parameters of other uses get dense blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.linalg import mirror_
from pullback.metrics.dense import DenseSum, Members
from pullback.metrics.metric import Block, BlockMetric, origin_of
from pullback.parameters import ParameterSpace, by_owner, owner_of
from pullback.tape.affine import AffineLayout, AffineUse
from pullback.tape.sweep import Part, Sweep
from pullback.tape.use import flat_rows


class EKFAC(Block):
    """A block `(U_B (x) U_A) diag(scales) (U_B (x) U_A)^T` for each group of channels.

    Args:
        layout: how the parameters form matrices (G, o, i).
        left: the eigenvectors U_B in columns, (G, o, o).
        right: the eigenvectors U_A in columns, (G, i, i).
        scales: the second moments along them, (G, o, i).
    """

    def __init__(
        self,
        layout: AffineLayout,
        left: Float[Tensor, "g o o"],
        right: Float[Tensor, "g i i"],
        scales: Float[Tensor, "g o i"],
    ) -> None:
        self.layout, self.left, self.right, self.scales = layout, left, right, scales

    def _scaled(self, flat: Tensor, scales: Tensor) -> Tensor:
        rotated = self.left.mT @ self.layout.matrix(flat) @ self.right
        return self.layout.flat(self.left @ (rotated * scales) @ self.right.mT)

    def product(self, flat: Tensor) -> Tensor:
        return self._scaled(flat, self.scales)

    def solve(self, flat: Tensor, damping: int | float) -> Tensor:
        return self._scaled(flat, 1 / (self.scales + damping))

    def trace(self) -> float:
        return float(self.scales.sum())

    def norm(self) -> float:
        return float(torch.linalg.vector_norm(self.scales))

    def diagonal(self) -> Tensor:
        return self.layout.flat(self.left.square() @ self.scales @ self.right.square().mT)

    def eigenvalues(self) -> Tensor:
        return self.scales.flatten().sort(descending=True).values

    def to_dense(self) -> Tensor:
        size = self.scales.numel()
        return self.product(torch.eye(size, dtype=self.scales.dtype, device=self.scales.device))


class KFAC(Block):
    """A block `B (x) A` for each group of channels.

    Args:
        layout: how the parameters form matrices (G, o, i).
        outputs: the second moment B of the gradients by the outputs, (G, o, o).
        inputs: the second moment A of the inputs, (G, i, i), the bias coordinate last.
    """

    def __init__(
        self,
        layout: AffineLayout,
        outputs: Float[Tensor, "g o o"],
        inputs: Float[Tensor, "g i i"],
    ) -> None:
        self.layout, self.outputs, self.inputs = layout, outputs, inputs

    @cached_property
    def eigenbasis(self) -> EKFAC:
        """The same block by eigenvalues and eigenvectors."""
        over_outputs, left = torch.linalg.eigh(self.outputs)
        over_inputs, right = torch.linalg.eigh(self.inputs)
        # Rounding leaves tiny negative eigenvalues, which a solve must not meet.
        scales = over_outputs.clamp(min=0).unsqueeze(2) * over_inputs.clamp(min=0).unsqueeze(1)
        return EKFAC(self.layout, left, right, scales)

    def product(self, flat: Tensor) -> Tensor:
        return self.layout.flat(self.outputs @ self.layout.matrix(flat) @ self.inputs)

    def solve(self, flat: Tensor, damping: int | float) -> Tensor:
        return self.eigenbasis.solve(flat, damping)

    def trace(self) -> float:
        traces = [f.diagonal(dim1=1, dim2=2).sum(1) for f in (self.outputs, self.inputs)]
        return float(traces[0] @ traces[1])

    def norm(self) -> float:
        norms = [torch.linalg.matrix_norm(f) for f in (self.outputs, self.inputs)]
        return float(torch.linalg.vector_norm(norms[0] * norms[1]))

    def diagonal(self) -> Tensor:
        rows, columns = (f.diagonal(dim1=1, dim2=2) for f in (self.outputs, self.inputs))
        return self.layout.flat(rows.unsqueeze(2) * columns.unsqueeze(1))

    def eigenvalues(self) -> Tensor:
        return self.eigenbasis.eigenvalues()

    def to_dense(self) -> Tensor:
        size = self.outputs.shape[:2].numel() * self.inputs.shape[1]
        return self.product(torch.eye(size, dtype=self.inputs.dtype, device=self.inputs.device))


class Factors:
    """The Kronecker factors of one weight and its bias, while they are summed.

    Args:
        layout: how the parameters form matrices.
        space: gives precision and device.
    """

    def __init__(self, layout: AffineLayout, space: ParameterSpace) -> None:
        self.layout = layout
        self.inputs = torch.zeros(
            layout.groups, layout.columns, layout.columns, dtype=space.dtype, device=space.device
        )
        self.outputs = torch.zeros(
            layout.groups, layout.outputs, layout.outputs, dtype=space.dtype, device=space.device
        )
        self.positions = 0

    def add(self, part: Part, fresh: bool) -> None:
        """Add what a part contributes; its inputs only if they are new."""
        for use, g in zip(part.uses, part.gradients, strict=True):
            assert isinstance(use, AffineUse)
            if fresh:
                self.positions += use.add_input_gram_(self.inputs)
            use.add_gradient_gram_(self.outputs, g)

    def block(self, samples: int) -> KFAC:
        """The block of mean factors."""
        outputs, inputs = mirror_(self.outputs) / samples, mirror_(self.inputs) / self.positions
        return KFAC(self.layout, outputs, inputs)


def _factors(sweep: Sweep) -> tuple[dict[Members, Factors], DenseSum]:
    """One pass: Kronecker factors where they are defined, dense blocks elsewhere."""
    space = sweep.network.space
    factors = {names: Factors(layout, space) for names, layout in sweep.plan.affine.items()}
    covered = {name for names in factors for name in names}
    rest = DenseSum(space, by_owner(name for name in space.names if name not in covered))
    for step in sweep.steps("Kronecker factors", rows=rest.rows):
        per_sample: dict[str, Tensor] = {}
        for part in step.parts():
            if part.names in factors:
                factors[part.names].add(part, step.fresh)
            else:
                per_sample.update(part.per_sample())
        rest.add(per_sample)
    return factors, rest


def _metric(
    sweep: Sweep, representation: str, kronecker: Mapping[Members, Block], rest: DenseSum
) -> BlockMetric:
    """Kronecker blocks and the dense rest as one metric, in the order of the parameters."""
    blocks: dict[Members, Block] = dict(kronecker)
    for name, block in rest.blocks(sweep.samples).items():
        blocks[rest.members[name]] = block
    order = {name: place for place, name in enumerate(sweep.network.space.names)}
    members = sorted(blocks, key=lambda names: order[names[0]])
    names = block_names(members)
    return BlockMetric(
        sweep.network.space,
        origin_of(sweep),
        representation,
        {name: blocks[m] for name, m in zip(names, members, strict=True)},
        dict(zip(names, members, strict=True)),
    )


def build_kfac(sweep: Sweep) -> BlockMetric:
    """The Kronecker factors of a sweep's gradients."""
    factors, rest = _factors(sweep)
    blocks = {names: f.block(sweep.samples) for names, f in factors.items()}
    return _metric(sweep, "kfac", blocks, rest)


def build_ekfac(sweep: Sweep) -> BlockMetric:
    """The Kronecker eigenbasis, and in a second pass the second moments along it."""
    factors, rest = _factors(sweep)
    bases = {names: f.block(sweep.samples).eigenbasis for names, f in factors.items()}
    factors.clear()
    totals = {names: torch.zeros_like(basis.scales) for names, basis in bases.items()}
    for step in sweep.steps("EKFAC scales"):
        for part in step.parts():
            if part.names in bases:
                totals[part.names] += _projected_squares(part, bases[part.names])
    for names, basis in bases.items():
        basis.scales = totals[names] / sweep.samples
    return _metric(sweep, "ekfac", bases, rest)


def _projected_squares(part: Part, basis: EKFAC) -> Float[Tensor, "g o i"]:
    """The squares of a part's gradients along the eigenvectors, summed over samples."""
    if len(part.uses) == 1:
        use = part.uses[0]
        assert isinstance(use, AffineUse)
        return use.projected_squares(part.gradients[0], basis.left, basis.right)
    gradients = part.per_sample()
    flat = torch.cat([flat_rows(gradients[name]) for name in part.names], dim=2)
    rotated = basis.left.mT @ basis.layout.matrix(flat) @ basis.right
    return rotated.square().sum((0, 1))


def block_names(members: Sequence[Members]) -> list[str]:
    """A name for each block: its module's, or its first parameter's where a module has several."""
    owners = [owner_of(names[0]) for names in members]
    return [
        owner if owners.count(owner) == 1 else names[0]
        for owner, names in zip(owners, members, strict=True)
    ]
