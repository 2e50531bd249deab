"""From one kind of block to another, without the data."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.errors import InputError
from pullback.linalg import eigh
from pullback.metrics.block import Block
from pullback.metrics.dense import Dense
from pullback.metrics.diagonal import Diagonal
from pullback.metrics.kronecker import KFAC, nearest_kronecker
from pullback.metrics.origin import Members
from pullback.metrics.quasidiagonal import QuasiDiagonal
from pullback.parameters import ParameterSpace, by_owner
from pullback.tape.affine import AffineLayout

TARGETS = ("dense", "lowrank", "block", "diagonal", "quasidiagonal", "kfac-nearest", "ekfac")


def converted(block: Block, representation: str, layout: AffineLayout | None) -> Block:
    """A layer's block as it is in a layerwise representation.

    Args:
        block: what to convert.
        representation: one of `TARGETS`.
        layout: how the layer's parameters form a matrix with a bias, if they do.

    Raises:
        InputError: there is no such conversion.
    """
    if representation not in TARGETS:
        raise InputError(
            f"representation: cannot convert to {representation!r} without the data; there are "
            f"{', '.join(TARGETS)}"
        )
    if representation == "ekfac":
        return block.eigenbasis if isinstance(block, KFAC) else block
    arrow = representation == "quasidiagonal" and layout is not None and layout.bias
    if representation == "diagonal" or (representation == "quasidiagonal" and not arrow):
        return Diagonal(block.diagonal())
    matrix = block.to_dense()
    if arrow:
        assert layout is not None
        places = layout.matrix(torch.arange(len(matrix), device=matrix.device))
        weights, biases = places[..., :-1], places[..., -1]
        values, cross = matrix.diagonal(), matrix[weights, biases.unsqueeze(-1)]
        return QuasiDiagonal(layout, values[weights], values[biases], cross)
    if representation == "kfac-nearest" and layout is not None and layout.inputs > 1:
        return nearest_kronecker(matrix, layout)
    return Dense(matrix)


def by_layer(
    space: ParameterSpace, layouts: Mapping[Members, AffineLayout], matrix: Float[Tensor, "d d"]
) -> dict[Members, Block]:
    """The blocks of a full matrix that belong to layers."""
    grouped = {name for members in layouts for name in members}
    rest = by_owner(name for name in space.names if name not in grouped)
    order = {name: place for place, name in enumerate(space.names)}
    found: dict[Members, Block] = {}
    for members in sorted([*layouts, *rest.values()], key=lambda members: order[members[0]]):
        slices = [space.slices[name] for name in members]
        places = torch.cat([torch.arange(s.start, s.stop) for s in slices]).to(matrix.device)
        found[members] = Dense(matrix[places.unsqueeze(1), places])
    return found


def square_root(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "r d"]:
    """Rows R with `R^T R` the matrix, as many as its rank.

    Raises:
        InputError: the matrix is not positive.
    """
    values, vectors = eigh(matrix)
    if bool((values < 0).any()):
        raise InputError(
            "representation: 'lowrank' is a square, and this metric is not positive; use 'dense'"
        )
    kept = values > 0
    return (vectors[:, kept] * values[kept].sqrt()).T
