"""The library's rows: its public interface, called as a user would."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import pullback as pb

from .cases import Case
from .program import (
    CG_RESIDUAL,
    CG_TOLERANCE,
    DAMPING,
    DRAWS,
    EIGENPAIRS,
    SAMPLED_TOLERANCE,
    TOLERANCE,
    Program,
)
from .samples import checked

TOLERANCES = {"kfac_mc": SAMPLED_TOLERANCE, "solve_cg": CG_TOLERANCE}


def program(operation: str, case: Case) -> Program:
    model, batches = case.model, case.batches()
    covered = pb.Network(model, parameters=case.kronecker_parameters())

    def fisher(representation: str) -> pb.Metric:
        return pb.fisher(model, batches, "categorical", representation=representation)

    def kronecker(representation: str, estimator: str = "exact") -> pb.BlockMetric:
        return pb.fisher(
            covered, batches, "categorical", representation=representation, estimator=estimator
        )

    def direction(metric: pb.Metric) -> pb.ParameterVector:
        return pb.ParameterVector(metric.space, case.direction(metric.space == covered.space))

    def summary(metric: pb.Metric) -> Tensor:
        return torch.tensor([float(metric.quadratic(direction(metric))), float(metric.trace())])

    def product(metric: pb.Metric) -> Tensor:
        return (metric @ direction(metric)).flat

    def blocks() -> Tensor:
        metric = fisher("block")
        return torch.cat([metric[name].to_dense().flatten() for name in metric.blocks])

    def solve_cg() -> Tensor:
        metric = fisher("implicit")
        metric.tolerance = CG_RESIDUAL
        return metric.solve(direction(metric), DAMPING).flat

    def eigh(metric: pb.BlockMetric) -> Tensor:
        values, vectors = metric.eigh(metric.space.size)
        along = vectors @ direction(metric)
        return torch.cat([values, (values * along) @ vectors.flat])

    def kernel(outputs: str) -> Tensor:
        return pb.tangent_kernel(model, case.kernel_inputs, outputs=outputs).matrix

    def two_sets() -> Tensor:
        return pb.tangent_kernel(model, *case.kernel_halves).matrix

    def eigenpairs() -> Tensor:
        values, functions = pb.tangent_kernel(model, case.kernel_inputs, outputs="sum").eigh(
            EIGENPAIRS
        )
        return torch.cat([values, ((functions.T * values) @ functions).flatten()])

    # Of a metric that was built before.
    algebra: dict[str, Callable[[pb.BlockMetric], Tensor]] = {
        "eigh": eigh,
        "solve_kfac": lambda metric: metric.solve(direction(metric), DAMPING).flat,
        "solve_ekfac": lambda metric: metric.solve(direction(metric), DAMPING).flat,
        "eigvals_kfac": lambda metric: metric.eigenvalues(),
        "logdet_kfac": lambda metric: torch.as_tensor(metric.logdet(DAMPING)).reshape(1),
        "sample_kfac": lambda metric: metric.sample_inverse(DAMPING, batch=(DRAWS,)).flat,
    }
    if operation in algebra:
        kind = operation.rpartition("_")[2]
        judged = checked(case) if operation == "sample_kfac" else {}
        return Program(
            # A metric keeps the eigenvectors that it has found, so each repetition has another one.
            lambda metric: algebra[operation](metric if kind == "ekfac" else metric * 1.0),
            setup=lambda: fisher("dense") if kind == "eigh" else kronecker(kind),
            **judged,
        )
    run = {
        "diag": lambda: fisher("diagonal").diagonal().flat,
        "kfac": lambda: summary(kronecker("kfac")),
        "kfac_mc": lambda: summary(kronecker("kfac", "sampled")),
        "ekfac": lambda: summary(kronecker("ekfac")),
        "quasi": lambda: product(fisher("quasidiagonal")),
        "dense": lambda: fisher("dense").to_dense(),
        "block": blocks,
        "lowrank": lambda: summary(fisher("lowrank")),
        "fvp": lambda: product(fisher("implicit")),
        "solve_cg": solve_cg,
        "trace": lambda: torch.as_tensor(fisher("implicit").trace()).reshape(1),
        "ntk_all": lambda: kernel("all"),
        "ntk_sum": lambda: kernel("sum"),
        "ntk_two": two_sets,
        "ntk_eigh": eigenpairs,
    }[operation]
    return Program(run, tolerance=TOLERANCES.get(operation, TOLERANCE))
