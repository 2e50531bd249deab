"""curvlinops 3.0.1."""

from __future__ import annotations

import curvlinops as cl
import torch
from curvlinops.examples import IdentityLinearOperator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..cases import OUTPUTS, Case
from ..program import (
    CG_RESIDUAL,
    CG_TOLERANCE,
    DAMPING,
    SAMPLED_TOLERANCE,
    NotOfferedError,
    Program,
    relative_error,
)

KERNEL_COLUMNS = 100
"""Columns of the tangent kernel that are computed: all of them take minutes."""
TRACE_PRODUCTS = 21
COLUMNS = 200
"""Columns of a dense matrix that are computed at a time: all of them take gigabytes."""


def program(operation: str, case: Case) -> Program:
    data, loss = case.batches(), nn.CrossEntropyLoss()
    options = {"num_data": case.samples, "check_deterministic": False}
    parameters = list(case.model.parameters())

    def ggn(own: list[nn.Parameter] = parameters) -> cl.GGNLinearOperator:
        return cl.GGNLinearOperator(case.model, loss, own, data, **options)

    def dense(operator: cl.GGNLinearOperator) -> Tensor:
        columns = torch.eye(operator.shape[0]).split(COLUMNS, dim=1)
        return torch.cat([operator @ c for c in columns], 1).detach()

    def blocks() -> Tensor:
        modules = [list(m.parameters(recurse=False)) for m in case.model.modules()]
        return torch.cat([dense(ggn(own)).flatten() for own in modules if own])

    def solve_cg() -> Tensor:
        matrix = ggn()
        shapes = [tuple(p.shape) for p in parameters]
        like = parameters[0]
        damped = matrix + DAMPING * IdentityLinearOperator(shapes, like.device, like.dtype)
        inverse = cl.CGInverseLinearOperator(damped, tolerance=CG_RESIDUAL)
        return (inverse @ case.direction()).detach()

    def built(kind: type) -> cl.KFACLinearOperator:
        """With its factors computed, which it does at the first product."""
        matrix = kronecker(kind, cl.FisherType.TYPE2)
        matrix @ case.direction(kronecker=True)
        return matrix

    def solve(matrix: cl.KFACLinearOperator) -> Tensor:
        inverse = cl.KFACInverseLinearOperator(
            matrix, damping=DAMPING, use_exact_damping=True, cache=False
        )
        return (inverse @ case.direction(kronecker=True)).detach()

    def kronecker(kind: type, fisher_type: str) -> cl.KFACLinearOperator:
        names = set(case.kronecker_parameters())
        covered = [p for n, p in case.model.named_parameters() if n in names]
        return kind(
            case.model, loss, covered, data, fisher_type=fisher_type,
            separate_weight_and_bias=False, num_per_example_loss_terms=1, **options,
        )  # fmt: skip

    def summary(kind: type, fisher_type: str) -> Tensor:
        matrix = kronecker(kind, fisher_type)
        v = case.direction(kronecker=True)
        trace = matrix.trace() if callable(matrix.trace) else matrix.trace
        return torch.stack([v @ (matrix @ v), trace]).detach()

    def kernel_columns() -> Tensor:
        n = case.kernel_samples
        batch = [(case.kernel_inputs, case.targets[:n])]
        own = {"num_data": n, "check_deterministic": False}
        jacobian = cl.JacobianLinearOperator(case.model, parameters, batch, **own)
        transposed = cl.TransposedJacobianLinearOperator(case.model, parameters, batch, **own)
        columns = torch.eye(n * OUTPUTS)[:, :KERNEL_COLUMNS].split(50, dim=1)
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention has no forward mode
            return torch.cat([jacobian @ (transposed @ c) for c in columns], 1).detach()

    def kernel_error(value: Tensor, reference: Tensor) -> float:
        size = case.kernel_samples * OUTPUTS
        return relative_error(value, reference.reshape(size, size)[:, :KERNEL_COLUMNS])

    if operation == "dense":
        return Program(lambda: dense(ggn()))
    if operation == "block":
        return Program(blocks)
    if operation == "solve_cg":
        return Program(solve_cg, tolerance=CG_TOLERANCE)
    if operation == "solve_kfac":
        return Program(solve, setup=lambda: built(cl.KFACLinearOperator))
    if operation == "solve_ekfac":
        return Program(solve, setup=lambda: built(cl.EKFACLinearOperator))
    if operation == "kfac":
        return Program(lambda: summary(cl.KFACLinearOperator, cl.FisherType.TYPE2))
    if operation == "kfac_mc":
        return Program(
            lambda: summary(cl.KFACLinearOperator, cl.FisherType.MC), tolerance=SAMPLED_TOLERANCE
        )
    if operation == "ekfac":
        return Program(lambda: summary(cl.EKFACLinearOperator, cl.FisherType.TYPE2))
    if operation == "fvp":
        return Program(lambda: (ggn() @ case.direction()).detach())
    if operation == "trace":
        return Program(
            lambda: cl.hutchpp_trace(ggn(), TRACE_PRODUCTS).detach().reshape(1),
            note=f"an estimate: Hutch++ with {TRACE_PRODUCTS} products",
            tolerance=SAMPLED_TOLERANCE,
            estimate=True,
        )
    if operation == "ntk_all":
        size = case.kernel_samples * OUTPUTS
        return Program(
            kernel_columns,
            note=f"extrapolated from {KERNEL_COLUMNS} of {size} columns, and its peak is theirs",
            share=KERNEL_COLUMNS / size,
            estimate=True,
            error=kernel_error,
        )
    raise NotOfferedError
