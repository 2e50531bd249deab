"""The algebra of metrics on parameter space, which every representation answers.

    F @ v, v @ F @ v               products                F.solve(v, damping)
    F.trace(), F.norm()            sums over the spectrum  F.inverse(damping), F.power(0.5)
    F.eigenvalues(), F.eigh(k)     the spectrum            F.sample(), F.sample_inverse(damping)
    F + G, F - G, 0.1 * F, F @ G   arithmetic              F["layer"], F.to("diagonal"),
                                                           F.regrouped(groups)

A `BlockMetric` is block diagonal: its algebra is that of its blocks put together.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import overload

import torch
from jaxtyping import Float
from linear_operator import LinearOperator as StructuredOperator
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from pullback.batches import all_finite, check_fits
from pullback.errors import InputError
from pullback.estimates import Estimate
from pullback.linalg import not_negative
from pullback.metrics.block import Block
from pullback.metrics.convert import by_layer, converted, square_root
from pullback.metrics.dense import Dense
from pullback.metrics.diagonal import Diagonal
from pullback.metrics.groups import Groups, check_titles, groups_of
from pullback.metrics.kronecker import EKFAC, KFAC
from pullback.metrics.lowrank import LowRank
from pullback.metrics.origin import Members, Origin, block_names
from pullback.metrics.products import Products
from pullback.metrics.storage import read, write
from pullback.network import Network
from pullback.parameters import ParameterSpace, ParameterVector

SPLITS = ("none", "equal", "trace")


def check_damping(damping: int | float) -> None:
    """Raise InputError for a negative or undefined damping.

    Raises:
        InputError: as said.
    """
    if not (damping >= 0 and math.isfinite(damping)):
        raise InputError(f"damping: {damping}; give a finite number >= 0")


class Metric(ABC):
    """A symmetric operator on parameter space, a mean over samples.

    Operations read like the mathematics, whatever the representation. Where an operation is not
    closed in a representation, the error names the one that is.

    Attributes:
        space: the parameter space.
        origin: how it was made.
        representation: how it is stored.
    """

    representation: str

    def __init__(self, space: ParameterSpace, origin: Origin) -> None:
        self.space = space
        self.origin = origin

    @property
    def ways(self) -> dict[str, str]:
        """For each parameter, how its gradients were computed."""
        return self.origin.ways

    @overload
    def __matmul__(self, other: ParameterVector) -> ParameterVector: ...
    @overload
    def __matmul__(self, other: Metric) -> Product: ...
    def __matmul__(self, other: ParameterVector | Metric) -> ParameterVector | Product:
        """The product with a vector, with each of a batch of them, or with another metric.

        Autograd goes through it: with `v = space.vector(dict(model.named_parameters())) - anchor`,
        `v @ F @ v` is a penalty that trains (elastic weight consolidation).
        """
        if isinstance(other, Metric):
            return Product(self, other)
        if not isinstance(other, ParameterVector):
            return NotImplemented
        return ParameterVector(self.space, self._product(other.in_space(self.space)))

    def __rmatmul__(self, vector: ParameterVector) -> ParameterVector:
        if not isinstance(vector, ParameterVector):
            return NotImplemented
        return ParameterVector(self.space, self._product(vector.in_space(self.space)))  # symmetric

    def quadratic(self, vector: ParameterVector) -> float | Estimate:
        """The quadratic form `v F v` of one vector, the squared length of a small move.

        Of a sketched or sampled "implicit" metric it carries its standard error.

        Raises:
            InputError: the vector belongs to another space, or is a batch of vectors.
        """
        flat = self._single(vector)
        return float(flat @ self._product(flat))

    def _single(self, vector: ParameterVector) -> Float[Tensor, " d"]:
        flat = vector.in_space(self.space)
        if flat.ndim > 1:
            raise InputError(
                f"vector: a batch of shape {tuple(flat.shape[:-1])}, of which there is no one "
                "quadratic form; give one vector, or take v @ (F @ v)"
            )
        return flat

    def solve(
        self, vector: ParameterVector, damping: int | float = 1e-3, split: str = "none"
    ) -> ParameterVector:
        """The solution x of `(F + damping I) x = vector`, for one vector or a batch.

        Args:
            vector: the right-hand side.
            damping: lambda >= 0.
            split: for Kronecker blocks, "equal" damps each factor by the square root of lambda,
                `(B + sqrt(lambda) I) (x) (A + sqrt(lambda) I)`, "trace" in the proportion pi of
                their mean eigenvalues (Martens and Grosse 2015); "none" solves what is written.

        Raises:
            InputError: the damping is negative, or too small for the matrix to be inverted; the
                vector belongs to another space; or a split is asked of no Kronecker block.
        """
        check_damping(damping)
        if split not in SPLITS:
            raise InputError(f"split: {split!r}; choose one of {SPLITS}")
        flat = self._solution(vector.in_space(self.space), damping, split)
        if not all_finite(flat):
            raise InputError(f"damping: {damping} is too small, the matrix is singular; raise it")
        return ParameterVector(self.space, flat)

    def sample(self, seed: int = 0, batch: Sequence[int] = ()) -> ParameterVector:
        """Samples of the normal distribution N(0, F), with leading dimensions `batch`.

        Raises:
            InputError: the metric is not positive.
        """
        flat = self._sample(self.space.randn(seed, batch).flat)
        if not all_finite(flat):
            raise InputError(
                f"metric: {self.representation!r} is not positive here, so it is no covariance; "
                "use another representation"
            )
        return ParameterVector(self.space, flat)

    def sample_inverse(
        self, damping: int | float = 1e-3, seed: int = 0, batch: Sequence[int] = ()
    ) -> ParameterVector:
        """Samples of N(0, (F + damping I)^-1).

        F is a mean over samples. A Laplace posterior adds n samples to a prior of precision delta,
        `N(w, (n F + delta I)^-1)`: take `sample_inverse(delta / n) / n**0.5`.

        Raises:
            InputError: the damping is negative or too small.
        """
        check_damping(damping)
        noise = self.space.randn(seed, batch)
        flat = self._sample_inverse(noise.flat, damping)
        if not all_finite(flat):
            raise InputError(f"damping: {damping} is too small, the matrix is singular; raise it")
        return ParameterVector(self.space, flat)

    @staticmethod
    def load(
        path: str | Path,
        model: nn.Module | Network | None = None,
        device: str | torch.device = "cpu",
    ) -> BlockMetric:
        """A metric from a file that `save` wrote, without the model or the data.

        Args:
            path: the file.
            model: if given, the metric has to be of this model's parameters.
            device: where the numbers go.

        Raises:
            InputError: the file cannot be read, is no metric, or is one of another model; the
                message names the first parameters that differ.

        Example:
            >>> import tempfile, torch, pullback as pb
            >>> model = torch.nn.Linear(3, 2)
            >>> metric = pb.fisher(model, torch.eye(3), representation="kfac")
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     metric.save(folder + "/fisher.safetensors")
            ...     again = pb.Metric.load(folder + "/fisher.safetensors", model)
            >>> again.trace() == metric.trace()
            True
        """
        space = None if model is None else Network.of(model).space
        representation, saved, origin, blocks, members = read(path, torch.device(device), space)
        return BlockMetric(saved, origin, representation, blocks, members)

    def to_scipy(self) -> LinearOperator:
        """The metric as a `scipy.sparse.linalg.LinearOperator` in double precision."""
        size = self.space.size

        def product(matrix: object) -> object:
            columns = torch.as_tensor(matrix, dtype=self.space.dtype, device=self.space.device)
            rows = columns.reshape(size, -1).T
            return self._product(rows).T.double().cpu().numpy()

        return LinearOperator(
            (size, size), matvec=product, matmat=product, rmatvec=product, dtype="float64"
        )

    def to_linear_operator(self) -> StructuredOperator:
        """The metric as an operator of the library `linear_operator`, of shape (d, d).

        It is of the class of its structure (`DiagLinearOperator`, `DenseLinearOperator`,
        `LowRankRootLinearOperator`, `KroneckerProductLinearOperator`) for diagonals and for metrics
        of one block whose parameters come in that order, such as `metric["layer"]`. Otherwise it
        has the metric's products, from which that library makes a matrix up to 800 x 800; beyond,
        it iterates to the tolerance of its settings, where `metric.solve` may be exact.

        Example:
            >>> import torch, pullback as pb
            >>> metric = pb.fisher(torch.nn.Linear(3, 2), torch.eye(3), representation="lowrank")
            >>> damped = metric.to_linear_operator().add_diagonal(torch.tensor(0.1))
            >>> v = metric.space.randn()
            >>> bool((damped.solve(v.flat) - metric.solve(v, damping=0.1).flat).norm() < 1e-4)
            True
        """
        like = self.space.zeros((0,)).flat
        return Products(like, self._product, lambda: self.diagonal().flat)

    @abstractmethod
    def _product(self, flat: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The product on flat vectors."""

    @abstractmethod
    def _solution(
        self, flat: Float[Tensor, "*b d"], damping: int | float, split: str
    ) -> Float[Tensor, "*b d"]:
        """The damped solve on flat vectors."""

    @abstractmethod
    def _sample(self, noise: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """A root of the metric times noise."""

    @abstractmethod
    def _sample_inverse(
        self, noise: Float[Tensor, "*b d"], damping: int | float
    ) -> Float[Tensor, "*b d"]:
        """A root of the damped inverse times noise."""

    @abstractmethod
    def trace(self) -> float | Estimate:
        """The trace; of a sketched or sampled "implicit" metric with its standard error."""

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
    def to(self, representation: str) -> BlockMetric:
        """The metric in another representation."""

    @abstractmethod
    def eigenvalues(self) -> Float[Tensor, " d"]:
        """All eigenvalues, largest first."""

    @abstractmethod
    def eigh(self, k: int) -> tuple[Float[Tensor, " k"], ParameterVector]:
        """The k largest eigenvalues and their eigenvectors, a batch (k,) of unit vectors.

        Raises:
            InputError: k is not between 1 and d, or the eigenvectors cannot fit into memory.
        """

    def _check_count(self, k: int) -> None:
        if not 1 <= k <= self.space.size:
            raise InputError(f"k: {k}; there are 1 to {self.space.size:,} eigenvectors")
        check_fits(
            f"eigh: {k:,} eigenvectors of {self.space.size:,} numbers",
            k * self.space.size * self.space.dtype.itemsize,
            self.space.device,
            "ask for fewer",
        )

    def __repr__(self) -> str:
        origin = self.origin
        over = "" if origin.samples is None else f", mean over {origin.samples:,} samples"
        return (
            f"{self.representation} metric on {self.space.size:,} parameters "
            f"({origin.estimator} {origin.likelihood}{over})"
        )


@dataclass(frozen=True)
class Product:
    """The product of two metrics, `F G`: a linear map, which need not be symmetric.

    Attributes:
        left, right: its factors.

    Raises:
        InputError: they belong to different spaces.
    """

    left: Metric
    right: Metric

    def __post_init__(self) -> None:
        check_same_space(self.left, self.right)

    def __matmul__(self, vector: ParameterVector) -> ParameterVector:
        """The product with a vector or with each of a batch of them."""
        return self.left @ (self.right @ vector)

    @property
    def T(self) -> Product:
        """The transpose, `G F`."""
        return Product(self.right, self.left)

    def to_dense(self) -> Float[Tensor, "d d"]:
        """The whole matrix."""
        return self.left.to_dense() @ self.right.to_dense()


def check_same_space(one: Metric, other: Metric) -> None:
    """Raise InputError for metrics of different parameter spaces.

    Raises:
        InputError: as said.
    """
    if one.space != other.space:
        raise InputError(
            f"metrics: one has {one.space.size:,} parameters, {list(one.space.names[:3])} ..., the "
            f"other {other.space.size:,}, {list(other.space.names[:3])} ...; give two of one space"
        )


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

    def check_finite(self) -> BlockMetric:
        """The metric itself, once it is sure that all of it is finite.

        Raises:
            InputError: a block is not, naming its parameters.
        """
        for name, block in self.blocks.items():
            if not math.isfinite(block.trace()):
                raise InputError(
                    f"gradients: not finite in {self.members[name]}; the network's derivative is "
                    "NaN or infinite on this data"
                )
        return self

    def _placed(self) -> Iterator[tuple[Block, slice | Tensor]]:
        """Each block with the positions of its entries in a flat vector, a slice if they adjoin."""
        for name, block in self.blocks.items():
            yield block, places_of(self.space, self.members[name])

    def _filled(
        self, flat: Tensor, of_block: Callable[[Block, Tensor], Tensor]
    ) -> Float[Tensor, "*b d"]:
        out = torch.empty_like(flat)
        for block, places in self._placed():
            out[..., places] = of_block(block, flat[..., places])
        return out

    def _with(self, blocks: Mapping[str, Block], representation: str | None = None) -> BlockMetric:
        return BlockMetric(
            self.space, self.origin, representation or kinds_of(blocks), blocks, self.members
        )

    def _product(self, flat: Tensor) -> Tensor:
        return self._filled(flat, lambda block, part: block.product(part))

    def quadratic(self, vector: ParameterVector) -> float:
        flat = self._single(vector)
        return sum(block.quadratic(flat[places]) for block, places in self._placed())

    def to_linear_operator(self) -> StructuredOperator:
        if all(isinstance(block, Diagonal) for block in self.blocks.values()):
            return Diagonal(self.diagonal().flat).to_linear_operator()
        if list(self.members.values()) == [self.space.names]:
            return next(iter(self.blocks.values())).to_linear_operator()
        return super().to_linear_operator()

    def _solution(self, flat: Tensor, damping: int | float, split: str) -> Tensor:
        if split == "none":
            return self._filled(flat, lambda block, part: block.solve(part, damping))
        if not any(isinstance(block, KFAC) for block in self.blocks.values()):
            raise InputError(f"split: {self.representation!r} has no Kronecker factors to damp")

        def solved(block: Block, part: Tensor) -> Tensor:
            if isinstance(block, KFAC):
                return block.solve_split(part, damping, by_trace=split == "trace")
            return block.solve(part, damping)

        return self._filled(flat, solved)

    def _sample(self, noise: Tensor) -> Tensor:
        return self._filled(noise, lambda block, part: block.sample(part))

    def _sample_inverse(self, noise: Tensor, damping: int | float) -> Tensor:
        return self._filled(noise, lambda block, part: block.sample_inverse(part, damping))

    def trace(self) -> float:
        return sum(block.trace() for block in self.blocks.values())

    def norm(self) -> float:
        """The Frobenius norm."""
        return math.hypot(*(block.norm() for block in self.blocks.values()))

    def spectral_norm(self) -> float:
        """The largest absolute eigenvalue."""
        return float(self.eigenvalues().abs().max())

    def logdet(self, damping: int | float = 1e-3) -> float:
        """The logarithm of the determinant of `F + damping I`.

        Raises:
            InputError: the damping is negative, or too small for the matrix to be positive.
        """
        check_damping(damping)
        total = sum(block.logdet(damping) for block in self.blocks.values())
        if not math.isfinite(total):
            raise InputError(
                f"damping: {damping} is too small for the matrix to be positive; raise it"
            )
        return total

    def diagonal(self) -> ParameterVector:
        out = self.space.zeros()
        for block, places in self._placed():
            out.flat[places] = block.diagonal()
        return out

    def eigenvalues(self) -> Tensor:
        values = torch.cat([block.eigenvalues() for block in self.blocks.values()])
        return values.sort(descending=True).values

    def eigh(self, k: int) -> tuple[Tensor, ParameterVector]:
        self._check_count(k)
        if k > self.space.size - min(block.size for block in self.blocks.values()):
            # Every block has one of them: asked for eigenvectors first, it decomposes once.
            for block in self.blocks.values():
                block.eigenvectors(torch.empty(0, dtype=torch.int64, device=self.space.device))
        values = [block.eigenvalues() for block in self.blocks.values()]
        top = torch.cat(values).topk(k)
        vectors = self.space.zeros((k,))
        start = 0
        for (block, places), own in zip(self._placed(), values, strict=True):
            mine = (top.indices >= start) & (top.indices < start + len(own))
            if mine.any():
                found = vectors.flat.new_zeros(int(mine.sum()), self.space.size)
                found[:, places] = block.eigenvectors(top.indices[mine] - start)
                vectors.flat[mine] = found
            start += len(own)
        return top.values, vectors

    def power(self, exponent: int | float, damping: int | float = 0.0) -> BlockMetric:
        """`(F + damping I)^exponent`: any real power, -1 for the inverse, 0.5 for the root.

        Raises:
            InputError: the representation is not closed under powers; the matrix is singular and
                the exponent negative; or it is not positive and the exponent no integer.
        """
        check_damping(damping)

        def function(values: Tensor) -> Tensor:
            damped = values + damping
            if exponent != int(exponent):
                damped = not_negative(damped)
            return damped.pow(exponent)

        found = self._with({name: block.apply(function) for name, block in self.blocks.items()})
        if not math.isfinite(found.trace()):
            raise InputError(
                f"damping: {damping} is too small, the matrix is singular or, for a broken "
                "exponent, not positive; raise it"
            )
        return found

    def inverse(self, damping: int | float = 1e-3) -> BlockMetric:
        """`(F + damping I)^-1`, as a metric.

        Raises:
            InputError: as for `power`.
        """
        return self.power(-1, damping)

    def __mul__(self, factor: int | float) -> BlockMetric:
        scaled = {name: block.scaled(factor) for name, block in self.blocks.items()}
        return self._with(scaled)

    __rmul__ = __mul__

    def __truediv__(self, divisor: int | float) -> BlockMetric:
        return self * (1 / divisor)

    def __neg__(self) -> BlockMetric:
        return self * -1

    def __add__(self, other: BlockMetric) -> BlockMetric:
        if not isinstance(other, BlockMetric):
            return NotImplemented
        check_same_space(self, other)
        if self.members != other.members:
            raise InputError(
                f"metrics: the blocks of {self.representation!r} and {other.representation!r} "
                "cover other parameters; bring both to one representation with metric.to(...)"
            )
        sums = {name: block.plus(other.blocks[name]) for name, block in self.blocks.items()}
        return self._with(sums)

    def __sub__(self, other: BlockMetric) -> BlockMetric:
        if not isinstance(other, BlockMetric):
            return NotImplemented
        return self + other * -1

    def __getitem__(self, name: str) -> BlockMetric:
        """One block, as a metric on the space of its own parameters.

        Raises:
            InputError: there is no block of that name.
        """
        if name not in self.blocks:
            raise InputError(f"name: no block {name!r}; there are {sorted(self.blocks)[:20]}")
        block, members = self.blocks[name], self.members[name]
        origin = replace(
            self.origin,
            ways={key: way for key, way in self.origin.ways.items() if key in members},
            reasons={key: why for key, why in self.origin.reasons.items() if key in members},
            layouts={k: own for k, own in self.origin.layouts.items() if set(k) <= set(members)},
        )
        space = self.space.part(members)
        return BlockMetric(space, origin, block.kind, {name: block}, {name: members})

    def to(self, representation: str) -> BlockMetric:
        """The metric in another representation, without the data.

        Towards less (a diagonal from a matrix) this drops entries, towards more it writes zeros.
        Kronecker factors are the nearest ones, since second moments are not kept.

        Args:
            representation: "dense", "lowrank", "block", "diagonal", "quasidiagonal",
                "kfac-nearest", or "ekfac" (of a "kfac" metric, its eigenvectors and eigenvalues).

        Raises:
            InputError: there is no such conversion, or the result cannot fit.
        """
        if representation in ("dense", "lowrank"):
            matrix = self.to_dense()
            whole = Dense(matrix) if representation == "dense" else LowRank(square_root(matrix))
            return self._of({self.space.names: whole}, ["all"], representation)
        layouts = self.origin.layouts
        layers = {self.members[name]: block for name, block in self.blocks.items()}
        titles = list(self.blocks)
        if titles == ["all"]:
            layers = by_layer(self.space, layouts, self.to_dense())
            titles = block_names(list(layers))
        found = {
            members: converted(block, representation, layouts.get(members))
            for members, block in layers.items()
        }
        if representation == "ekfac" and not any(isinstance(b, EKFAC) for b in found.values()):
            raise InputError(
                f"representation: {self.representation!r} has no Kronecker factors; convert a "
                "'kfac' metric, or compute 'ekfac' from the data"
            )
        return self._of(found, titles, representation)

    def regrouped(self, groups: Groups) -> BlockMetric:
        """The metric with its blocks joined or cut, without the data.

        What a group takes from several blocks has zeros between them, since their product was not
        measured (`fisher(..., groups=...)` measures it); what is cut loses the entries between its
        parts. A group of diagonal blocks is diagonal, a group that is a block stays as it is, and
        any other is a full matrix.

        Args:
            groups: a mapping from a name for the block to patterns on parameters' names, or a
                function from a parameter's name to that of its block. What no group takes stays in
                its block (None as the function's answer).

        Raises:
            InputError: a pattern selects nothing, a parameter is in two groups, or a matrix cannot
                fit.

        Example:
            >>> import torch, pullback as pb
            >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
            >>> kfac = pb.fisher(model, torch.eye(3), representation="kfac")
            >>> kfac.regrouped({"both": "*"})
            dense metric on 14 parameters (exact categorical, mean over 3 samples)
            >>> list(kfac.regrouped(lambda name: name).blocks)
            ['0.weight', '0.bias', '1.weight', '1.bias']
        """
        named = groups_of(groups, self.space.names)
        taken = {name for members in named.values() for name in members}
        rest = {
            title: tuple(name for name in members if name not in taken)
            for title, members in self.members.items()
            if not taken.issuperset(members)
        }
        check_titles(named, rest)
        order = {name: place for place, name in enumerate(self.space.names)}
        pairs = sorted({**named, **rest}.items(), key=lambda pair: order[pair[1][0]])
        found = {self._own_order(members): self._block_of(members) for _, members in pairs}
        titles = [title for title, _ in pairs]
        return self._of(found, titles, kinds_of(dict(zip(titles, found.values(), strict=True))))

    def _own_order(self, members: Members) -> Members:
        """The order that a block has its parameters in, if these are all of a block's."""
        same = (own for own in self.members.values() if set(own) == set(members))
        return next(same, members)

    def _block_of(self, members: Members) -> Block:
        """A block of the given parameters, put together from the parts of blocks they are in."""
        space = self.space.part(members)
        parts = []
        for title, own in self.members.items():
            if set(own) == set(members):
                return self.blocks[title]
            here = tuple(name for name in own if name in members)
            if here:
                inside = places_of(self.space.part(own), here)
                parts.append((self.blocks[title], inside, places_of(space, here)))
        if all(isinstance(block, Diagonal) for block, _, _ in parts):
            values = space.zeros().flat
            for block, inside, places in parts:
                values[places] = block.diagonal()[inside]
            return Diagonal(values)
        check_dense_fits(space, "groups")
        matrix = space.zeros((space.size,)).flat
        for block, inside, places in parts:
            rows = places if isinstance(places, slice) else places.unsqueeze(1)
            matrix[rows, places] = _submatrix(block, inside)
        return Dense(matrix)

    def _of(
        self, blocks: Mapping[Members, Block], names: Sequence[str], representation: str
    ) -> BlockMetric:
        by_name = dict(zip(names, blocks.values(), strict=True))
        members = dict(zip(names, blocks, strict=True))
        return BlockMetric(self.space, self.origin, representation, by_name, members)

    def save(self, path: str | Path) -> None:
        """Write the metric to a safetensors file; `Metric.load` reads it.

        Raises:
            InputError: the file cannot be written.
        """
        write(path, self.representation, self.space, self.origin, self.blocks, self.members)

    def to_dense(self) -> Tensor:
        check_dense_fits(self.space, "to_dense")
        out = self.space.zeros((self.space.size,)).flat
        for block, places in self._placed():
            rows = places if isinstance(places, slice) else places.unsqueeze(1)
            out[rows, places] = block.to_dense()
        return out


def _submatrix(block: Block, places: slice | Tensor) -> Float[Tensor, "m m"]:
    """The rows and columns of a block at some places."""
    like = block.diagonal()
    wanted = torch.arange(block.size, device=like.device)[places]
    units = like.new_zeros(len(wanted), block.size)
    units[torch.arange(len(wanted), device=like.device), wanted] = 1
    return block.product(units)[:, places]


def kinds_of(blocks: Mapping[str, Block]) -> str:
    """The representation that blocks of these kinds make."""
    kinds = sorted({block.kind for block in blocks.values()})
    if kinds == ["dense"]:
        return "dense" if len(blocks) == 1 else "block"
    return " and ".join(kinds)


def places_of(space: ParameterSpace, names: Sequence[str]) -> slice | Tensor:
    """Where the entries of parameters stand in a flat vector; a slice if they adjoin."""
    slices = [space.slices[name] for name in names]
    if all(one.stop == next_.start for one, next_ in pairwise(slices)):
        return slice(slices[0].start, slices[-1].stop)
    return torch.cat([torch.arange(s.start, s.stop, device=space.device) for s in slices])


def check_dense_fits(space: ParameterSpace, what: str) -> None:
    """Raise InputError when a d x d matrix cannot fit.

    Raises:
        InputError: as said, with the memory that it needs.
    """
    needed = space.size**2 * space.dtype.itemsize
    remedy = "use 'kfac', 'ekfac', 'diagonal' or 'implicit', or select fewer parameters"
    check_fits(f"{what}: a {space.size:,} x {space.size:,} matrix", needed, space.device, remedy)
