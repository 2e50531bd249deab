"""curvlinops 3.0.1."""

from __future__ import annotations

import curvlinops as cl
import torch
from torch import Tensor, nn

from ..cases import OUTPUTS, Case
from ..program import SAMPLED_TOLERANCE, NotOfferedError, Program, relative_error

KERNEL_COLUMNS = 100
"""Columns of the tangent kernel that are computed: all of them take minutes."""
TRACE_PRODUCTS = 21


def program(operation: str, case: Case) -> Program:
    data, loss = case.batches(), nn.CrossEntropyLoss()
    options = {"num_data": case.samples, "check_deterministic": False}
    parameters = list(case.model.parameters())

    def ggn() -> cl.GGNLinearOperator:
        return cl.GGNLinearOperator(case.model, loss, parameters, data, **options)

    def kronecker(kind: type, fisher_type: str) -> Tensor:
        names = set(case.kronecker_parameters())
        covered = [p for n, p in case.model.named_parameters() if n in names]
        matrix = kind(
            case.model, loss, covered, data, fisher_type=fisher_type,
            separate_weight_and_bias=False, num_per_example_loss_terms=1, **options,
        )  # fmt: skip
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
        return torch.cat([jacobian @ (transposed @ c) for c in columns], 1).detach()

    def kernel_error(value: Tensor, reference: Tensor) -> float:
        size = case.kernel_samples * OUTPUTS
        return relative_error(value, reference.reshape(size, size)[:, :KERNEL_COLUMNS])

    if operation == "dense":
        size = sum(p.numel() for p in parameters)
        return Program(lambda: (ggn() @ torch.eye(size)).detach())
    if operation == "kfac":
        return Program(lambda: kronecker(cl.KFACLinearOperator, cl.FisherType.TYPE2))
    if operation == "kfac_mc":
        return Program(
            lambda: kronecker(cl.KFACLinearOperator, cl.FisherType.MC), tolerance=SAMPLED_TOLERANCE
        )
    if operation == "ekfac":
        return Program(lambda: kronecker(cl.EKFACLinearOperator, cl.FisherType.TYPE2))
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
