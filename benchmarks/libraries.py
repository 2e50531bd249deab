"""The measured libraries, by name."""

from __future__ import annotations

from importlib import import_module

from .cases import Case
from .program import OPERATIONS, Program

PEERS = ("nngeometry", "curvlinops", "backpack", "torch.func")
"""Those that set the bar."""
LIBRARIES = ("pullback", "floor", *PEERS, "neural-tangents")
_MODULES = {
    "pullback": "ours",
    "floor": "floor",
    "nngeometry": "peers.nngeometry",
    "curvlinops": "peers.curvlinops",
    "backpack": "peers.backpack",
    "torch.func": "peers.torch_func",
    "neural-tangents": "peers.neural_tangents",
}


def program_of(library: str, operation: str, case: Case) -> Program:
    """The library's program; raises `NotOfferedError` where it has none."""
    return import_module(f"{__package__}.{_MODULES[library]}").program(operation, case)


def offered(operation: str, case: str) -> bool:
    """Whether the operation is measured on the case."""
    return case in OPERATIONS[operation].cases
