"""The library's rows: its public interface, called as a user would."""

from __future__ import annotations

import torch
from torch import Tensor

import pullback as pb

from .cases import Case
from .program import SAMPLED_TOLERANCE, TOLERANCE, Program


def program(operation: str, case: Case) -> Program:
    model, batches = case.model, case.batches()
    direction = case.direction(kronecker=operation in ("kfac", "kfac_mc", "ekfac"))
    covered = pb.Network(model, parameters=case.kronecker_parameters())

    def fisher(representation: str) -> pb.Metric:
        return pb.fisher(model, batches, "categorical", representation=representation)

    def kronecker(representation: str, estimator: str = "exact") -> Tensor:
        metric = pb.fisher(
            covered, batches, "categorical", representation=representation, estimator=estimator
        )
        v = pb.ParameterVector(metric.space, direction)
        return torch.stack([v @ (metric @ v), torch.as_tensor(metric.trace())])

    def product() -> Tensor:
        metric = fisher("implicit")
        return (metric @ pb.ParameterVector(metric.space, direction)).flat

    def kernel(outputs: str) -> Tensor:
        return pb.tangent_kernel(model, case.kernel_inputs, outputs=outputs).matrix

    run = {
        "diag": lambda: fisher("diagonal").diagonal().flat,
        "kfac": lambda: kronecker("kfac"),
        "kfac_mc": lambda: kronecker("kfac", "sampled"),
        "ekfac": lambda: kronecker("ekfac"),
        "dense": lambda: fisher("dense").to_dense(),
        "fvp": product,
        "trace": lambda: torch.as_tensor(fisher("implicit").trace()).reshape(1),
        "ntk_all": lambda: kernel("all"),
        "ntk_sum": lambda: kernel("sum"),
    }[operation]
    return Program(run, tolerance=SAMPLED_TOLERANCE if operation == "kfac_mc" else TOLERANCE)
