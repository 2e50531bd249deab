"""The parameter space: which tensors, in which order, and the vectors that live there.

A network's parameters are a dictionary of tensors to PyTorch and one point of R^d to the
mathematics. `ParameterSpace` fixes the order, `ParameterVector` is a flat tensor that remembers it:

    w = ParameterVector.from_model(model)      # R^d
    step = -0.1 * gradient + noise             # algebra, as on paper
    step["conv1.weight"]                       # the same memory, in the parameter's own shape
    length = (w @ w).sqrt()
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pullback.errors import InputError


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision in which sums over samples are kept: at least float32."""
    return torch.promote_types(dtype, torch.float32)


# What the module at the top is called where modules are named.
ROOT = "(root)"


def owner_of(name: str) -> str:
    """The module that a parameter belongs to, by its name; "(root)" for the model itself."""
    return name.rpartition(".")[0] or ROOT


def by_owner(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Parameters by the module that they belong to."""
    out: dict[str, tuple[str, ...]] = {}
    for name in names:
        owner = owner_of(name)
        out[owner] = (*out.get(owner, ()), name)
    return out


def matching(patterns: str | Sequence[str], names: Sequence[str], argument: str) -> set[str]:
    """The names that one or several glob patterns match.

    Raises:
        InputError: a pattern matches none; `argument` is what the message calls the patterns.
    """
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            raise InputError(f"{argument}: the pattern {pattern!r} selects nothing")
        found |= matched
    return found


@dataclass(frozen=True)
class ParameterSpace:
    """An ordered set of named parameter tensors, seen as one space R^d.

    Attributes:
        names: parameter names, in the order of `named_parameters()`.
        shapes: one shape for each name.
        dtype: precision of the vectors (float32 for bfloat16 and float16 parameters).
        device: where the vectors live; not part of equality.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtype: torch.dtype
    device: torch.device = field(compare=False)

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> ParameterSpace:
        """The space that the given named tensors span."""
        if not tensors:
            raise InputError("parameters: none selected; a parameter space needs at least one")
        dtype = torch.float32
        for tensor in tensors.values():
            dtype = torch.promote_types(dtype, tensor.dtype)
        return cls(
            names=tuple(tensors),
            shapes=tuple(tensor.shape for tensor in tensors.values()),
            dtype=dtype,
            device=next(iter(tensors.values())).device,
        )

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each parameter."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def size(self) -> int:
        """The dimension d of the space."""
        return sum(self.sizes)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each parameter stands in a flat vector."""
        stops = torch.tensor(self.sizes).cumsum(0).tolist()
        pairs = zip(self.names, stops, self.sizes, strict=True)
        return {name: slice(stop - size, stop) for name, stop, size in pairs}

    @cached_property
    def shape_of(self) -> dict[str, torch.Size]:
        """The shape of each parameter by name."""
        return dict(zip(self.names, self.shapes, strict=True))

    def floats(self, names: Iterable[str]) -> int:
        """How many entries the named parameters have together."""
        return sum(math.prod(self.shape_of[name]) for name in names)

    def part(self, names: Iterable[str]) -> ParameterSpace:
        """The space of some of the parameters, in the order given.

        Raises:
            InputError: a name is not among this space's.
        """
        names = tuple(names)
        for name in names:
            if name not in self.shape_of:
                raise InputError(f"names: the parameter space has no {name!r}")
        shapes = tuple(self.shape_of[name] for name in names)
        return ParameterSpace(names, shapes, self.dtype, self.device)

    def vector(self, values: Tensor | Mapping[str, Tensor]) -> ParameterVector:
        """A vector of this space.

        Args:
            values: a flat tensor of shape (..., d), or one tensor of shape (..., *shape) a name.

        Raises:
            InputError: a name or a shape that is not this space's.
        """
        if isinstance(values, Tensor):
            return ParameterVector(self, values)
        if set(values) != set(self.names):
            odd = sorted(set(values) ^ set(self.names))
            raise InputError(f"values: names differ from the parameter space's: {odd[:5]}")
        pieces = []
        for name, shape in self.shape_of.items():
            value = values[name]
            if value.shape[value.ndim - len(shape) :] != shape:
                raise InputError(
                    f"values[{name!r}]: shape {tuple(value.shape)} does not end in {tuple(shape)}"
                )
            piece = value.reshape(*value.shape[: value.ndim - len(shape)], math.prod(shape))
            pieces.append(piece.to(self.dtype))
        return ParameterVector(self, torch.cat(pieces, dim=-1))

    def zeros(self, batch: Sequence[int] = ()) -> ParameterVector:
        """The zero vector; `batch` gives leading dimensions."""
        flat = torch.zeros(*batch, self.size, dtype=self.dtype, device=self.device)
        return ParameterVector(self, flat)

    def randn(self, seed: int = 0, batch: Sequence[int] = ()) -> ParameterVector:
        """Independent N(0, 1) entries, the same for the same seed on every device."""
        generator = torch.Generator().manual_seed(seed)
        flat = torch.randn(*batch, self.size, dtype=self.dtype, generator=generator)
        return ParameterVector(self, flat.to(self.device))


@dataclass(frozen=True, eq=False)
class ParameterVector:
    """A vector of a parameter space, or a batch of them, with the algebra of vectors.

    Sums, differences and scalar multiples return new vectors; `v @ w` is the inner product;
    `v["conv1.weight"]` is a view in the parameter's own shape.

    Attributes:
        space: the space it belongs to.
        flat: the entries, shape (..., d).

    Example:
        >>> import torch, pullback as pb
        >>> w = pb.ParameterVector.from_model(torch.nn.Linear(3, 2))
        >>> w["weight"].shape, (w - w).norm().item()
        (torch.Size([2, 3]), 0.0)
    """

    space: ParameterSpace
    flat: Float[Tensor, "*batch d"]

    def __post_init__(self) -> None:
        if self.flat.shape[-1:] != (self.space.size,):
            raise InputError(
                f"flat: shape {tuple(self.flat.shape)} does not end in the dimension "
                f"{self.space.size} of the parameter space"
            )

    @classmethod
    def from_model(cls, model: nn.Module) -> ParameterVector:
        """The current values of the parameters that require a gradient."""
        tensors = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
        return ParameterSpace.of_tensors(tensors).vector(tensors)

    @classmethod
    def from_gradients(cls, model: nn.Module) -> ParameterVector:
        """The `.grad` of the parameters that require a gradient.

        Raises:
            InputError: a parameter has no gradient yet.
        """
        tensors = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                raise InputError(f"model: {name!r} has no gradient; call backward() first")
            tensors[name] = parameter.grad.detach()
        return ParameterSpace.of_tensors(tensors).vector(tensors)

    def copy_to(self, model: nn.Module) -> None:
        """Write the entries into the model's parameters of the same names.

        Raises:
            InputError: it is a batch of vectors, or the model lacks one of the parameters.
        """
        if self.flat.ndim != 1:
            raise InputError(
                f"vector: a batch of shape {tuple(self.flat.shape)}; write one of them"
            )
        parameters = dict(model.named_parameters())
        missing = [name for name in self.space.names if name not in parameters]
        if missing:
            raise InputError(f"model: has no parameter {missing[0]!r}")
        with torch.no_grad():
            for name, value in self.as_dict().items():
                parameters[name].copy_(value)

    def __getitem__(self, name: str) -> Tensor:
        shape = self.space.shape_of[name]
        return self.flat[..., self.space.slices[name]].reshape(self.flat.shape[:-1] + shape)

    def as_dict(self) -> dict[str, Tensor]:
        """The entries by parameter name, each of shape (..., *shape)."""
        return {name: self[name] for name in self.space.names}

    def norm(self, order: int | float = 2) -> Float[Tensor, "*batch"]:
        """The vector norm of the given order, shape (...)."""
        return torch.linalg.vector_norm(self.flat, order, dim=-1)

    def in_space(self, space: ParameterSpace) -> Float[Tensor, "*batch d"]:
        """The flat entries, checked to belong to `space`.

        Raises:
            InputError: the vector belongs to another parameter space.
        """
        if self.space != space:
            raise InputError(
                f"vector: belongs to another parameter space (d = {self.space.size}, first names "
                f"{list(self.space.names[:3])}; expected d = {space.size}, {list(space.names[:3])})"
            )
        return self.flat.to(space.dtype)

    def __add__(self, other: ParameterVector) -> ParameterVector:
        return ParameterVector(self.space, self.flat + other.in_space(self.space))

    def __sub__(self, other: ParameterVector) -> ParameterVector:
        return ParameterVector(self.space, self.flat - other.in_space(self.space))

    def __neg__(self) -> ParameterVector:
        return ParameterVector(self.space, -self.flat)

    def __mul__(self, scalar: int | float | Tensor) -> ParameterVector:
        return ParameterVector(self.space, self.flat * scalar)

    __rmul__ = __mul__

    def __truediv__(self, scalar: int | float | Tensor) -> ParameterVector:
        return ParameterVector(self.space, self.flat / scalar)

    def __matmul__(self, other: ParameterVector) -> Float[Tensor, "*batch"]:
        if not isinstance(other, ParameterVector):
            return NotImplemented  # a metric answers `v @ F` itself
        return torch.linalg.vecdot(self.flat, other.in_space(self.space))
