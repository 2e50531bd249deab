"""Metrics in files, to be used without the model or the data.

One safetensors file holds the numbers; its header says what they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pullback.errors import InputError
from pullback.metrics.block import Block
from pullback.metrics.dense import Dense
from pullback.metrics.diagonal import Diagonal
from pullback.metrics.kronecker import EKFAC, KFAC
from pullback.metrics.lowrank import LowRank, Spectrum
from pullback.metrics.origin import Members, Origin
from pullback.metrics.quasidiagonal import QuasiDiagonal
from pullback.parameters import ParameterSpace
from pullback.tape.affine import AffineLayout

KINDS: dict[str, type[Block]] = {
    kind.kind: kind for kind in (Dense, Diagonal, QuasiDiagonal, KFAC, EKFAC, LowRank, Spectrum)
}
FORMAT = "pullback metric 1"


def write(
    path: str | Path,
    representation: str,
    space: ParameterSpace,
    origin: Origin,
    blocks: Mapping[str, Block],
    members: Mapping[str, Members],
) -> None:
    """Write a metric to a file; one that is there is replaced at the very end.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    tensors = {
        f"{place}.{part}": value.contiguous().clone()
        for place, block in enumerate(blocks.values())
        for part, value in block.tensors().items()
    }
    header = {
        "format": FORMAT,
        "representation": representation,
        "space": {
            "names": space.names,
            "shapes": [list(shape) for shape in space.shapes],
            "dtype": str(space.dtype).removeprefix("torch."),
        },
        "origin": _origin_out(origin),
        "blocks": [_block_out(name, block, members[name]) for name, block in blocks.items()],
    }
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, metadata={"pullback": json.dumps(header)})
        partial.replace(path)
    except (OSError, SafetensorError) as problem:
        raise InputError(f"path: cannot write {path}: {problem}") from None


def read(
    path: str | Path, device: torch.device, expected: ParameterSpace | None
) -> tuple[str, ParameterSpace, Origin, dict[str, Block], dict[str, Members]]:
    """What `write` wrote.

    Args:
        path: the file.
        device: where the numbers go.
        expected: the parameter space that the metric has to be of, if any.

    Raises:
        InputError: the file cannot be read, is no metric, or is one of another space.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"path: there is no file {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = json.loads((file.metadata() or {}).get("pullback", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no dict
    except SafetensorError as problem:
        raise InputError(f"path: {path} is no safetensors file: {problem}") from None
    if header.get("format") != FORMAT:
        raise InputError(f"path: {path} holds tensors, but not a {FORMAT!r}")
    space = ParameterSpace(
        tuple(header["space"]["names"]),
        tuple(torch.Size(shape) for shape in header["space"]["shapes"]),
        getattr(torch, header["space"]["dtype"]),
        device,
    )
    if expected is not None:
        _check_model(space, expected)
    blocks, members = {}, {}
    for place, described in enumerate(header["blocks"]):
        parts: dict[str, Any] = {
            key.partition(".")[2]: value
            for key, value in tensors.items()
            if key.partition(".")[0] == str(place)
        }
        if described["layout"] is not None:
            parts["layout"] = _layout_in(described["layout"])
        blocks[described["name"]] = KINDS[described["kind"]](**parts)
        members[described["name"]] = tuple(described["members"])
    return header["representation"], space, _origin_in(header["origin"]), blocks, members


def _check_model(saved: ParameterSpace, here: ParameterSpace) -> None:
    if saved == here:
        return
    missing = [name for name in saved.names if name not in here.shape_of]
    new = [name for name in here.names if name not in saved.shape_of]
    other = [
        f"{name} {tuple(saved.shape_of[name])} against {tuple(here.shape_of[name])}"
        for name in saved.names
        if name in here.shape_of and saved.shape_of[name] != here.shape_of[name]
    ]
    reasons = [
        f"{what}: {', '.join(found[:3])}"
        for what, found in (
            ("parameters that the model lacks", missing),
            ("parameters that the file lacks", new),
            ("other shapes (file, model)", other),
        )
        if found
    ]
    if saved.dtype != here.dtype:
        reasons.append(f"precision: {saved.dtype} in the file, {here.dtype} in the model")
    raise InputError(
        f"model: the file holds a metric of another model; {'; '.join(reasons) or 'another order'}"
    )


def _block_out(name: str, block: Block, members: Members) -> dict[str, Any]:
    layout = getattr(block, "layout", None)
    return {
        "name": name,
        "kind": block.kind,
        "members": members,
        "layout": None if layout is None else _layout_out(layout),
    }


def _layout_out(layout: AffineLayout) -> dict[str, Any]:
    return {**asdict(layout), "weight": list(layout.weight)}


def _layout_in(found: dict[str, Any]) -> AffineLayout:
    return AffineLayout(**{**found, "weight": torch.Size(found["weight"])})


def _origin_out(origin: Origin) -> dict[str, Any]:
    layouts = [[list(names), _layout_out(one)] for names, one in origin.layouts.items()]
    return {**vars(origin), "layouts": layouts}


def _origin_in(found: dict[str, Any]) -> Origin:
    layouts = {tuple(names): _layout_in(one) for names, one in found["layouts"]}
    return Origin(**{**found, "layouts": layouts})
