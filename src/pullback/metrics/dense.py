"""The dense representation: the full matrix, for one block of parameters or for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.batches import check_fits, working_memory
from pullback.linalg import add_gram_, mirror_
from pullback.metrics.metric import Block, BlockMetric, origin_of
from pullback.parameters import ParameterSpace
from pullback.tape.affine import AffineLayout, AffineUse
from pullback.tape.sweep import Part, Sweep
from pullback.tape.use import flat_rows

Members = tuple[str, ...]


class Dense(Block):
    """A block as a full matrix.

    Args:
        matrix: symmetric, shape (d, d).
    """

    def __init__(self, matrix: Float[Tensor, "d d"]) -> None:
        self.matrix = matrix

    def product(self, flat: Tensor) -> Tensor:
        return flat @ self.matrix

    def solve(self, flat: Tensor, damping: int | float) -> Tensor:
        damped = self.matrix.clone()
        damped.diagonal().add_(damping)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if int(failed):
            return torch.full_like(flat, torch.nan)
        columns = flat.reshape(-1, flat.shape[-1]).T
        return torch.cholesky_solve(columns, factor).T.reshape(flat.shape)

    def trace(self) -> float:
        return float(self.matrix.trace())

    def norm(self) -> float:
        return float(torch.linalg.matrix_norm(self.matrix))

    def diagonal(self) -> Tensor:
        return self.matrix.diagonal().clone()

    def eigenvalues(self) -> Tensor:
        return torch.linalg.eigvalsh(self.matrix).flip(0)

    def to_dense(self) -> Tensor:
        return self.matrix.clone()


class DenseSum:
    """Accumulates the matrices of some parameters' gradients, block by block.

    Args:
        space: the parameter space.
        members: the parameters of each block.

    Raises:
        InputError: a block's matrix cannot fit into memory.
    """

    def __init__(self, space: ParameterSpace, members: Mapping[str, tuple[str, ...]]) -> None:
        self.members = dict(members)
        self.space = space
        self.totals = {}
        for block, names in self.members.items():
            size = space.floats(names)
            check_fits(
                f"representation: the {size:,} x {size:,} matrix of {block!r}",
                size**2 * space.dtype.itemsize,
                space.device,
                "use 'kfac', 'ekfac', 'diagonal' or 'implicit', or select fewer parameters",
            )
            self.totals[block] = torch.zeros(size, size, dtype=space.dtype, device=space.device)

    @property
    def rows(self) -> int:
        """Numbers that are needed for each sample and cotangent."""
        return sum(len(total) for total in self.totals.values())

    def add(self, per_sample: Mapping[str, Float[Tensor, "k n *shape"]]) -> None:
        """Add the outer products of gradients given sample by sample; missing ones are zero."""
        if not per_sample:
            return
        lead = next(iter(per_sample.values())).shape[:2]
        for block, names in self.members.items():
            pieces = [
                flat_rows(per_sample[name])
                if name in per_sample
                else self.totals[block].new_zeros(*lead, math.prod(self.space.shape_of[name]))
                for name in names
            ]
            add_gram_(self.totals[block], torch.cat(pieces, dim=2).flatten(0, 1).T)

    def blocks(self, samples: int) -> dict[str, Dense]:
        """The mean matrices."""
        return {name: Dense(mirror_(total) / samples) for name, total in self.totals.items()}


class ProductSum:
    """Accumulates the full matrix of affine layers at one position, where gradients factorise.

    The block of two layers is `sum_n (sum_k g g'^T) (x) (a a'^T)`: with the cotangents summed first
    it takes k times fewer operations than the outer products of whole gradients.

    Args:
        space: the parameter space.
        memory: bytes that the factors of some samples may take.
    """

    def __init__(self, space: ParameterSpace, memory: int) -> None:
        self.space, self.memory = space, memory
        self.totals: dict[tuple[Members, Members], Tensor] = {}
        self.layouts: dict[Members, AffineLayout] = {}

    def add(self, parts: Sequence[Part]) -> None:
        """Add the products of some samples; every part is `at_one_position`."""
        factors = [(part.names, *self._factors(part)) for part in parts]
        for place, (names, a, g) in enumerate(factors):
            for others, b, h in factors[: place + 1]:
                shape = (g.shape[1] * h.shape[1], a.shape[1] * b.shape[1])
                total = self.totals.setdefault((names, others), a.new_zeros(shape))
                step = max(1, self.memory // (sum(shape) * a.element_size()))
                for start in range(0, len(a), step):
                    some = slice(start, start + step)
                    inputs = a[some].unsqueeze(2) * b[some].unsqueeze(1)
                    total.addmm_((g[some] @ h[some].mT).flatten(1).T, inputs.flatten(1))

    def _factors(self, part: Part) -> tuple[Float[Tensor, "n i"], Float[Tensor, "n o k"]]:
        use = part.uses[0]
        assert isinstance(use, AffineUse)
        self.layouts[part.names] = use.layout
        gradients = torch.stack([g[0, ..., 0] for g in part.gradients[0]], dim=2)  # (o, n, k)
        return use.homogeneous()[0, ..., 0].T, gradients.transpose(0, 1)

    def add_to(self, matrix: Float[Tensor, "d d"]) -> None:
        """Add the sums to a matrix over the whole space."""
        for (names, others), total in self.totals.items():
            one, other = self.layouts[names], self.layouts[others]
            block = total.view(one.outputs, other.outputs, one.columns, other.columns)
            block = block.transpose(1, 2).reshape(one.outputs * one.columns, -1)
            rows, columns = self._places(names), self._places(others)
            matrix[rows.unsqueeze(1), columns] += block
            if names != others:
                matrix[columns.unsqueeze(1), rows] += block.T

    def _places(self, names: Members) -> Tensor:
        """Where the entries of a layer's matrix [W | b], row by row, stand in a flat vector."""
        layout = self.layouts[names]
        slices = [self.space.slices[name] for name in names]
        flat = torch.cat([torch.arange(s.start, s.stop) for s in slices])
        return layout.matrix(flat).flatten().to(self.space.device)


def at_one_position(part: Part) -> bool:
    """Whether a part is one affine use at one position, of one group."""
    use, g = part.uses[0], part.gradients[0]
    return (
        len(part.uses) == 1
        and isinstance(use, AffineUse)
        and use.weight is not None
        and use.layout.groups == 1
        and g[0].shape[-1] == 1
    )


def build(sweep: Sweep) -> BlockMetric:
    """The full matrix of a sweep's gradients, one block."""
    space = sweep.network.space
    rows = DenseSum(space, {"all": space.names})
    products = ProductSum(space, working_memory(sweep.memory, space.device))
    for step in sweep.steps("dense metric", rows=rows.rows):
        parts = list(step.parts())
        if all(at_one_position(part) for part in parts):
            products.add(parts)
        else:
            rows.add({k: v for part in parts for k, v in part.per_sample().items()})
    matrix = mirror_(rows.totals["all"])
    products.add_to(matrix)
    blocks = {"all": Dense(matrix.div_(sweep.samples))}
    return BlockMetric(space, origin_of(sweep), "dense", blocks, rows.members)
