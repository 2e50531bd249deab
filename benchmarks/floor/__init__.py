"""The floor: for each operation what the network costs as it is given, and no more by hand.

The exact Fisher matrix with c cotangents takes one forward and c backwards down to the first
layer's output, a sampled one takes one backward; autograd runs them on the module that the case
gives. The contractions of what they yield are by hand, as fast as plain torch allows. Nothing here
uses the library or a peer, and of modules with parameters it knows linear layers, convolutions,
batch norm in eval mode and, for the tangent kernels, layer norm and learned positions.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..cases import Case
from ..program import CG_TOLERANCE, SAMPLED_TOLERANCE, TOLERANCE, Program
from ..samples import checked
from . import algebra, fisher, kernels, kronecker, matrix

PROGRAMS: dict[str, Callable[[Case], Tensor]] = {
    "diag": fisher.diag,
    "trace": fisher.trace,
    "kfac": kronecker.kfac,
    "kfac_mc": kronecker.kfac_mc,
    "ekfac": kronecker.ekfac,
    "quasi": matrix.quasi,
    "dense": matrix.dense,
    "block": matrix.block,
    "lowrank": matrix.lowrank,
    "fvp": fisher.fvp,
    "solve_cg": fisher.solve_cg,
    "ntk_all": kernels.ntk_all,
    "ntk_sum": kernels.ntk_sum,
    "ntk_two": kernels.ntk_two,
    "ntk_eigh": kernels.ntk_eigh,
}
ALGEBRA: dict[str, Callable[[list[algebra.Factored]], Tensor]] = {
    "solve_kfac": algebra.solve_kfac,
    "eigvals_kfac": algebra.eigvals_kfac,
    "logdet_kfac": algebra.logdet_kfac,
    "sample_kfac": algebra.sample_kfac,
}
TOLERANCES = {"kfac_mc": SAMPLED_TOLERANCE, "solve_cg": CG_TOLERANCE}


def program(operation: str, case: Case) -> Program:
    if operation in ALGEBRA:
        judged = checked(case) if operation == "sample_kfac" else {}
        return Program(ALGEBRA[operation], setup=lambda: algebra.factors(case), **judged)
    if operation == "solve_ekfac":
        return Program(algebra.solve_ekfac, setup=lambda: algebra.scaled(case))
    if operation == "eigh":
        return Program(lambda found: matrix.eigh(case, found), setup=lambda: matrix.dense(case))
    run = PROGRAMS[operation]
    return Program(lambda: run(case), tolerance=TOLERANCES.get(operation, TOLERANCE))
