"""The algebra of metrics on parameter space, which every representation answers.

A `Metric` is a symmetric positive semi-definite operator on R^d. Most representations are block
diagonal: a `BlockMetric` holds named `Block`s, each an operator on some of the parameters, and its
algebra is theirs put together. What a representation has to supply is one kind of block.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.batches import check_fits
from pullback.cotangents import Source
from pullback.errors import InputError
from pullback.parameters import ParameterSpace, ParameterVector
from pullback.tape.sweep import Sweep


@dataclass(frozen=True)
class Origin:
    """How a metric was made.

    Attributes:
        source: output metric, estimator, draws and seed.
        samples: how many samples n it averages over; None where they are yet to be seen.
        ways: for each parameter, how its gradients were computed.
        reasons: for parameters that took the generic way, the operation that has no rule.
    """

    source: Source
    samples: int | None
    ways: dict[str, str]
    reasons: dict[str, str]


def origin_of(sweep: Sweep) -> Origin:
    """The origin of a metric that a sweep has just filled."""
    assert isinstance(sweep.source, Source)  # metrics come from `fisher`, which makes one
    return Origin(sweep.source, sweep.samples or None, sweep.plan.ways, sweep.plan.reasons)


def check_damping(damping: int | float) -> None:
    """Raise InputError for a negative or undefined damping.

    Raises:
        InputError: as said.
    """
    if not (damping >= 0 and math.isfinite(damping)):
        raise InputError(f"damping: {damping}; give a finite number >= 0")


class Metric(ABC):
    """A symmetric positive semi-definite operator on parameter space, a mean over samples.

    Operations read like the mathematics, whatever the representation: `F @ v`, `v @ F @ v`,
    `F.solve(v, damping)`, `F.trace()`, `F.norm()`, `F.diagonal()`, `F.to_dense()`.

    Attributes:
        space: the parameter space.
        origin: how it was made.
    """

    representation: str

    def __init__(self, space: ParameterSpace, origin: Origin) -> None:
        self.space = space
        self.origin = origin

    @property
    def ways(self) -> dict[str, str]:
        """For each parameter, how its gradients were computed."""
        return self.origin.ways

    def __matmul__(self, vector: ParameterVector) -> ParameterVector:
        """The product with a vector, or with each of a batch of them."""
        if not isinstance(vector, ParameterVector):
            return NotImplemented
        return ParameterVector(self.space, self._product(vector.in_space(self.space)))

    def __rmatmul__(self, vector: ParameterVector) -> ParameterVector:
        return self @ vector  # symmetric

    def solve(self, vector: ParameterVector, damping: int | float = 1e-3) -> ParameterVector:
        """The solution x of `(F + damping I) x = vector`, for one vector or a batch.

        Raises:
            InputError: the damping is negative, or too small for the matrix to be inverted, or the
                vector belongs to another space.
        """
        check_damping(damping)
        flat = self._solution(vector.in_space(self.space), damping)
        if not bool(flat.isfinite().all()):
            raise InputError(f"damping: {damping} is too small, the matrix is singular; raise it")
        return ParameterVector(self.space, flat)

    @abstractmethod
    def _product(self, flat: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The product on flat vectors."""

    @abstractmethod
    def _solution(self, flat: Float[Tensor, "*b d"], damping: int | float) -> Float[Tensor, "*b d"]:
        """The damped solve on flat vectors."""

    @abstractmethod
    def trace(self) -> float:
        """The trace."""

    @abstractmethod
    def norm(self) -> float:
        """The Frobenius norm."""

    @abstractmethod
    def diagonal(self) -> ParameterVector:
        """The diagonal, as a vector of the parameter space."""

    @abstractmethod
    def to_dense(self) -> Float[Tensor, "d d"]:
        """The whole matrix.

        Raises:
            InputError: it cannot fit into memory.
        """

    @abstractmethod
    def eigenvalues(self) -> Float[Tensor, " d"]:
        """All eigenvalues, largest first."""

    def __repr__(self) -> str:
        source, samples = self.origin.source, self.origin.samples
        over = "" if samples is None else f", mean over {samples:,} samples"
        return (
            f"{self.representation} metric on {self.space.size:,} parameters "
            f"({source.estimator} {source.likelihood.name}{over})"
        )


class Block(ABC):
    """A symmetric positive semi-definite operator on the parameters of one block."""

    @abstractmethod
    def product(self, flat: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The product with vectors (..., d)."""

    @abstractmethod
    def solve(self, flat: Float[Tensor, "*b d"], damping: int | float) -> Float[Tensor, "*b d"]:
        """The solutions x of `(F + damping I) x = flat`; not finite where it is singular."""

    @abstractmethod
    def trace(self) -> float:
        """The trace."""

    @abstractmethod
    def norm(self) -> float:
        """The Frobenius norm."""

    @abstractmethod
    def diagonal(self) -> Float[Tensor, " d"]:
        """The diagonal."""

    @abstractmethod
    def eigenvalues(self) -> Float[Tensor, " d"]:
        """All eigenvalues, largest first."""

    @abstractmethod
    def to_dense(self) -> Float[Tensor, "d d"]:
        """The block as a matrix."""


class BlockMetric(Metric):
    """A block-diagonal metric.

    Attributes:
        blocks: the blocks by name: the layer's, where a block is a layer.
        members: the parameters of each block, in its order.
    """

    def __init__(
        self,
        space: ParameterSpace,
        origin: Origin,
        representation: str,
        blocks: Mapping[str, Block],
        members: Mapping[str, tuple[str, ...]],
    ) -> None:
        super().__init__(space, origin)
        self.representation = representation
        self.blocks = dict(blocks)
        self.members = dict(members)
        for name, block in self.blocks.items():
            if not math.isfinite(block.trace()):
                raise InputError(
                    f"gradients: not finite in {self.members[name]}; the network's derivative is "
                    "NaN or infinite on this data"
                )

    def _placed(self) -> Iterator[tuple[Block, slice | Tensor]]:
        """Each block with the positions of its entries in a flat vector, a slice if they adjoin."""
        for name, block in self.blocks.items():
            slices = [self.space.slices[member] for member in self.members[name]]
            if all(one.stop == next_.start for one, next_ in pairwise(slices)):
                yield block, slice(slices[0].start, slices[-1].stop)
            else:
                device = self.space.device
                places = [torch.arange(s.start, s.stop, device=device) for s in slices]
                yield block, torch.cat(places)

    def _product(self, flat: Tensor) -> Tensor:
        out = torch.zeros_like(flat)
        for block, places in self._placed():
            out[..., places] = block.product(flat[..., places])
        return out

    def _solution(self, flat: Tensor, damping: int | float) -> Tensor:
        out = torch.empty_like(flat)
        for block, places in self._placed():
            out[..., places] = block.solve(flat[..., places], damping)
        return out

    def trace(self) -> float:
        return sum(block.trace() for block in self.blocks.values())

    def norm(self) -> float:
        return math.hypot(*(block.norm() for block in self.blocks.values()))

    def diagonal(self) -> ParameterVector:
        out = self.space.zeros()
        for block, places in self._placed():
            out.flat[places] = block.diagonal()
        return out

    def eigenvalues(self) -> Tensor:
        values = torch.cat([block.eigenvalues() for block in self.blocks.values()])
        return values.sort(descending=True).values

    def to_dense(self) -> Tensor:
        check_dense_fits(self.space, "to_dense")
        out = self.space.zeros((self.space.size,)).flat
        for block, places in self._placed():
            rows = places if isinstance(places, slice) else places.unsqueeze(1)
            out[rows, places] = block.to_dense()
        return out


def check_dense_fits(space: ParameterSpace, what: str) -> None:
    """Raise InputError when a d x d matrix cannot fit.

    Raises:
        InputError: as said, with the memory that it needs.
    """
    needed = space.size**2 * space.dtype.itemsize
    remedy = "use 'kfac', 'ekfac', 'diagonal' or 'implicit', or select fewer parameters"
    check_fits(f"{what}: a {space.size:,} x {space.size:,} matrix", needed, space.device, remedy)
