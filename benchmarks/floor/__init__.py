"""The floor: for each operation the fastest plain-torch program we could write by hand.

Nothing here uses the library or a peer. A program knows the networks of the cases (linear layers,
convolutions, batch norm in eval mode, ReLU, max pooling) and nothing else, so it is a lower mark
for a general library, not a rival.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..cases import Case
from ..program import SAMPLED_TOLERANCE, TOLERANCE, Program
from . import dense, kernels, kronecker, metrics, product

PROGRAMS: dict[str, Callable[[Case], Tensor]] = {
    "diag": metrics.diag,
    "trace": metrics.trace,
    "kfac": kronecker.kfac,
    "kfac_mc": kronecker.kfac_mc,
    "ekfac": kronecker.ekfac,
    "dense": dense.dense,
    "fvp": product.fvp,
    "ntk_all": kernels.ntk_all,
    "ntk_sum": kernels.ntk_sum,
}


def program(operation: str, case: Case) -> Program:
    run = PROGRAMS[operation]
    tolerance = SAMPLED_TOLERANCE if operation == "kfac_mc" else TOLERANCE
    return Program(lambda: run(case), tolerance=tolerance)
