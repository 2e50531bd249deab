"""The floor: for each operation what the network costs as it is given, and no more by hand.

The exact Fisher matrix with c cotangents takes one forward and c backwards down to the first
layer's output, a sampled one takes one backward; autograd runs them on the module that the case
gives. The contractions of what they yield are by hand, as fast as plain torch allows. Nothing here
uses the library or a peer, and of modules with parameters it knows linear layers, convolutions and
batch norm in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..cases import Case
from ..program import SAMPLED_TOLERANCE, TOLERANCE, Program
from . import fisher, kernels, kronecker

PROGRAMS: dict[str, Callable[[Case], Tensor]] = {
    "diag": fisher.diag,
    "trace": fisher.trace,
    "kfac": kronecker.kfac,
    "kfac_mc": kronecker.kfac_mc,
    "ekfac": kronecker.ekfac,
    "dense": fisher.dense,
    "fvp": fisher.fvp,
    "ntk_all": kernels.ntk_all,
    "ntk_sum": kernels.ntk_sum,
}


def program(operation: str, case: Case) -> Program:
    run = PROGRAMS[operation]
    tolerance = SAMPLED_TOLERANCE if operation == "kfac_mc" else TOLERANCE
    return Program(lambda: run(case), tolerance=tolerance)
