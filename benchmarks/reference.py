"""Reference values: the plain programs in float64, computed once and kept in `.references/`."""

from __future__ import annotations

import hashlib
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .cases import load
from .peers.torch_func import program

FOLDER = Path(__file__).parent / ".references"
_REFERENCES = {"kfac_mc": "kfac", "sample_kfac": "factors"}
"""What random results are compared with: their expected value, or what it is computed from."""


def path_of(operation: str, case: str) -> Path:
    """Where the value is kept; a change of the case's model or data makes it stale."""
    operation = _REFERENCES.get(operation, operation)
    return FOLDER / f"{case}-{operation}-{_key(case)}.pt"


@cache
def _key(name: str) -> str:
    case = load(name)
    found = hashlib.sha256()
    for tensor in (case.inputs, *case.model.state_dict().values()):
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()[:12]


def load_reference(operation: str, case: str) -> Tensor:
    return torch.load(path_of(operation, case))


def main(operation: str, case: str) -> None:
    path = path_of(operation, case)
    operation = path.stem.split("-")[1]
    for stale in FOLDER.glob(f"{case}-{operation}-*.pt"):
        stale.unlink()
    FOLDER.mkdir(exist_ok=True)
    value = program(operation, load(case).double()).prepared()()
    part = path.with_suffix(".part")
    torch.save(value.detach(), part)
    part.rename(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
