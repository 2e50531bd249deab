"""What the blocks of a metric need from the data, added up part by part.

A `Sum` belongs to some parameters. It sees, for every step of a sweep, the parts that concern them;
a `BlockSum` makes a block of a metric in the end. Adding a representation means writing one
kind of sum and one kind of block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.distributed as distributed
from jaxtyping import Float
from torch import Tensor

from pullback.batches import check_fits, working_memory
from pullback.linalg import add_gram_, mirror_
from pullback.metrics.block import Block
from pullback.metrics.dense import Dense
from pullback.metrics.diagonal import Diagonal
from pullback.metrics.kronecker import EKFAC, KFAC
from pullback.metrics.lowrank import LowRank
from pullback.metrics.quasidiagonal import QuasiDiagonal
from pullback.parameters import ParameterSpace
from pullback.tape.affine import AffineLayout, AffineUse
from pullback.tape.sweep import Part

REMEDY = "use 'kfac', 'ekfac', 'diagonal' or 'implicit', or select fewer parameters"


class Sum(ABC):
    """Sums over samples and cotangents for some parameters.

    Args:
        space: the space of these alone.

    Attributes:
        kept: numbers that are needed for each sample and cotangent of a step.
        squares_only: whether it takes no more than the squares of the gradients.
        inputs_once: whether it looks at the inputs with the first cotangents alone.
    """

    kept = 0
    squares_only = False
    inputs_once = False

    def __init__(self, space: ParameterSpace) -> None:
        self.space = space

    @abstractmethod
    def add(self, parts: Sequence[Part], fresh: bool) -> None:
        """Add what some samples contribute; what depends on inputs alone only if they are new."""

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """The sums themselves, which add up over shards of the data."""

    def state(self) -> list[Tensor]:
        """All that another object of this kind needs to go on from here."""
        return self.tensors()

    def restore(self, state: list[Tensor]) -> None:
        """Go on from that state."""
        for own, saved in zip(self.tensors(), state, strict=True):
            own.copy_(saved)

    def reduce(self, group: distributed.ProcessGroup) -> None:
        """Add the sums of all processes of a group, in all of them."""
        for tensor in self.tensors():
            distributed.all_reduce(tensor, group=group)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.space.dtype, device=self.space.device)

    def _rows(self, parts: Sequence[Part]) -> Float[Tensor, "k n d"]:
        """The gradients of the block's parameters, sample by sample."""
        out = self.space.zeros((0,)).flat.new_empty(*parts[0].shape, self.space.size)
        self._write_rows(parts, out)
        return out

    def _write_rows(self, parts: Sequence[Part], out: Float[Tensor, "k n d"]) -> None:
        if not {name for part in parts for name in part.names} >= set(self.space.names):
            out.zero_()  # the batch does not use all of them
        for part in parts:
            part.write_rows(out, self.space.slices)


class GradientSum(Sum):
    """The gradients themselves, whose mean a covariance needs."""

    def __init__(self, space: ParameterSpace) -> None:
        super().__init__(space)
        self.total = space.zeros()

    def add(self, parts: Sequence[Part], fresh: bool) -> None:
        for part in parts:
            for name, value in part.total().items():
                if name in self.space.shape_of:
                    self.total[name].add_(value)

    def tensors(self) -> list[Tensor]:
        return [self.total.flat]


class BlockSum(Sum):
    """Sums that make a block of a metric."""

    @abstractmethod
    def block(self, samples: int) -> Block:
        """The block of means over that many samples."""


class DiagonalSum(BlockSum):
    """The squares of the gradients."""

    squares_only = True

    def __init__(self, space: ParameterSpace) -> None:
        super().__init__(space)
        self.total = space.zeros()

    def add(self, parts: Sequence[Part], fresh: bool) -> None:
        for part in parts:
            for name, squares in part.diagonal.items():
                if name in self.space.shape_of:
                    self.total[name].add_(squares)

    def tensors(self) -> list[Tensor]:
        return [self.total.flat]

    def block(self, samples: int) -> Diagonal:
        return Diagonal(self.total.flat / samples)


class QuasiDiagonalSum(BlockSum):
    """The squares of the gradients of weights and biases, and their products.

    Args:
        space: that of a weight and its bias.
        layout: how the two form matrices.
    """

    def __init__(self, space: ParameterSpace, layout: AffineLayout) -> None:
        super().__init__(space)
        self.layout = layout
        self.squares = self._zeros(layout.groups, layout.outputs, layout.columns)
        self.cross = self._zeros(layout.groups, layout.outputs, layout.columns)

    def add(self, parts: Sequence[Part], fresh: bool) -> None:
        for part in parts:
            use = part.uses[0]
            if len(part.uses) == 1 and isinstance(use, AffineUse):
                squares, cross = use.squares_and_cross(part.gradients[0])
            else:
                rows = self.layout.matrix(self._rows([part]))
                squares = rows.square().sum((0, 1))
                cross = (rows * rows[..., -1:]).sum((0, 1))
            self.squares += squares
            self.cross += cross

    def tensors(self) -> list[Tensor]:
        return [self.squares, self.cross]

    def block(self, samples: int) -> QuasiDiagonal:
        squares, cross = self.squares / samples, self.cross / samples
        return QuasiDiagonal(self.layout, squares[..., :-1], squares[..., -1], cross[..., :-1])


class DenseSum(BlockSum):
    """The outer products of the gradients.

    Where all the parameters are those of affine uses at one position, the block of two layers is
    `sum_n (sum_k g g'^T) (x) (a a'^T)`: with the cotangents summed first it takes k times fewer
    operations than the outer products of whole gradients.

    Args:
        space: that of the block.
        memory: bytes that intermediate results may take.
        remedy: what to do if the matrix is too large.

    Raises:
        InputError: the matrix cannot fit into memory.
    """

    def __init__(
        self, space: ParameterSpace, memory: int | None = None, remedy: str = REMEDY
    ) -> None:
        super().__init__(space)
        check_fits(
            f"representation: a {space.size:,} x {space.size:,} matrix "
            f"({space.names[0]} and {len(space.names) - 1} more)",
            space.size**2 * space.dtype.itemsize,
            space.device,
            remedy,
        )
        self.kept = space.size
        self.memory = working_memory(memory, space.device)
        self.total = self._zeros(space.size, space.size)
        self.layouts: dict[tuple[str, ...], AffineLayout] = {}
        self.products: dict[tuple[tuple[str, ...], tuple[str, ...]], Tensor] = {}

    def add(self, parts: Sequence[Part], fresh: bool) -> None:
        inside = {name for part in parts for name in part.names} <= set(self.space.names)
        if inside and all(_at_one_position(part) for part in parts):
            self._add_products(parts)
        else:
            add_gram_(self.total, self._rows(parts).flatten(0, 1).T)

    def _add_products(self, parts: Sequence[Part]) -> None:
        factors = [(part.names, *self._factors(part)) for part in parts]
        for place, (names, a, g) in enumerate(factors):
            for others, b, h in factors[: place + 1]:
                shape = (g.shape[1] * h.shape[1], a.shape[1] * b.shape[1])
                if (names, others) not in self.products:
                    self.products[names, others] = self._zeros(*shape)
                total = self.products[names, others]
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

    def tensors(self) -> list[Tensor]:
        self._settle()
        return [self.total]

    def block(self, samples: int) -> Dense:
        self._settle()
        return Dense(mirror_(self.total).div_(samples))

    def _settle(self) -> None:
        """Write the products into the matrix."""
        for (names, others), total in self.products.items():
            one, other = self.layouts[names], self.layouts[others]
            block = total.view(one.outputs, other.outputs, one.columns, other.columns)
            block = block.transpose(1, 2).reshape(one.outputs * one.columns, -1)
            rows, columns = self._places(names), self._places(others)
            self.total[rows.unsqueeze(1), columns] += block
            if names != others:
                self.total[columns.unsqueeze(1), rows] += block.T
        self.products.clear()

    def _places(self, names: tuple[str, ...]) -> Tensor:
        """Where the entries of a layer's matrix [W | b], row by row, stand in a flat vector."""
        layout = self.layouts[names]
        slices = [self.space.slices[name] for name in names]
        flat = torch.cat([torch.arange(s.start, s.stop) for s in slices])
        return layout.matrix(flat).flatten().to(self.space.device)


class LowRankSum(BlockSum):
    """The gradients themselves.

    Args:
        space: that of the block.
        expected: how many there will probably be, for which room is made at once.
    """

    def __init__(self, space: ParameterSpace, expected: int) -> None:
        super().__init__(space)
        self.kept = space.size
        self.expected, self.count = expected, 0
        self.room = self._zeros(0, space.size)

    def add(self, parts: Sequence[Part], fresh: bool) -> None:
        k, n = parts[0].shape
        self._make_room(self.count + k * n)
        self._write_rows(parts, self.room[self.count : self.count + k * n].unflatten(0, (k, n)))
        self.count += k * n

    def _make_room(self, count: int) -> None:
        if count <= len(self.room):
            return
        count = self.expected if count <= self.expected else 2 * count
        check_fits(
            f"representation: 'lowrank', {count:,} gradients of {self.space.size:,} numbers",
            count * self.space.size * self.room.element_size(),
            self.space.device,
            "use fewer samples, estimator='sampled', or another representation",
        )
        room = self.room.new_empty(count, self.space.size)
        room[: self.count] = self.rows
        self.room = room

    @property
    def rows(self) -> Float[Tensor, "m d"]:
        """Those that there are."""
        return self.room[: self.count]

    def reduce(self, group: distributed.ProcessGroup) -> None:
        shards: list[list[Tensor] | None] = [None] * distributed.get_world_size(group)
        distributed.all_gather_object(shards, self.state(), group=group)
        every = [rows.to(self.space.device) for shard in shards for rows in shard or ()]
        self.restore([torch.cat(every)])

    def tensors(self) -> list[Tensor]:
        return [self.rows]

    def state(self) -> list[Tensor]:
        return [self.rows.clone()]  # without the room that is left

    def restore(self, state: list[Tensor]) -> None:
        (self.room,) = state
        self.count = len(self.room)

    def block(self, samples: int) -> LowRank:
        return LowRank(self.rows.div_(samples**0.5))


class KroneckerSum(BlockSum):
    """The Kronecker factors of one weight and its bias.

    Args:
        space: theirs.
        layout: how they form matrices.
        sharing: what is done with positions that share the weight: "expand" treats them as
            samples, "reduce" averages inputs and sums gradients over them first (Eschenhagen et al.
            2023), "uncorrelated" expands and takes the points under a convolution's kernel as
            uncorrelated (the SUA approximation of Grosse and Martens 2016).
    """

    inputs_once = True

    def __init__(self, space: ParameterSpace, layout: AffineLayout, sharing: str) -> None:
        super().__init__(space)
        self.layout, self.sharing = layout, sharing
        self.inputs = self._zeros(layout.groups, layout.columns, layout.columns)
        self.outputs = self._zeros(layout.groups, layout.outputs, layout.outputs)
        self.positions = self._zeros(1)

    def add(self, parts: Sequence[Part], fresh: bool) -> None:
        for part in parts:
            for use, g in zip(part.uses, part.gradients, strict=True):
                assert isinstance(use, AffineUse)
                reduce = self.sharing == "reduce"
                if fresh:
                    seen = use.reduced() if reduce else use
                    self.positions += seen.add_input_gram_(self.inputs)
                    use.release()
                if reduce:
                    g = [one.sum(-1, keepdim=True) for one in g]
                use.add_gradient_gram_(self.outputs, g)

    def tensors(self) -> list[Tensor]:
        return [self.inputs, self.outputs, self.positions]

    def block(self, samples: int) -> KFAC:
        inputs = mirror_(self.inputs) / self.positions
        if self.sharing == "uncorrelated":
            inputs = self.layout.uncorrelated(inputs)
        return KFAC(self.layout, mirror_(self.outputs) / samples, inputs)


class EigenbasisSum(BlockSum):
    """The squares of the gradients along the eigenvectors of a Kronecker-factored block.

    Args:
        space: that of the block.
        basis: the block whose eigenvectors are used.
    """

    def __init__(self, space: ParameterSpace, basis: EKFAC) -> None:
        super().__init__(space)
        self.basis = basis
        self.total = torch.zeros_like(basis.scales)

    def add(self, parts: Sequence[Part], fresh: bool) -> None:
        basis = self.basis
        for part in parts:
            use = part.uses[0]
            if len(part.uses) == 1 and isinstance(use, AffineUse):
                g = part.gradients[0]
                self.total += use.projected_squares(g, basis.left, basis.right)
            else:
                rows = basis.layout.matrix(self._rows([part]))
                self.total += (basis.left.mT @ rows @ basis.right).square().sum((0, 1))

    def tensors(self) -> list[Tensor]:
        return [self.total]

    def state(self) -> list[Tensor]:
        return [self.total, self.basis.left, self.basis.right]

    def restore(self, state: list[Tensor]) -> None:
        self.total, left, right = state
        self.basis = EKFAC(self.basis.layout, left, right, self.basis.scales)

    def block(self, samples: int) -> EKFAC:
        basis = self.basis
        return EKFAC(basis.layout, basis.left, basis.right, self.total / samples)


def _at_one_position(part: Part) -> bool:
    """Whether a part is one affine use at one position, of one group."""
    use, g = part.uses[0], part.gradients[0]
    return (
        len(part.uses) == 1
        and isinstance(use, AffineUse)
        and use.weight is not None
        and use.layout.groups == 1
        and g[0].shape[-1] == 1
    )
