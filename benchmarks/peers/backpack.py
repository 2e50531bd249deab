"""BackPACK 1.7.1."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from backpack import backpack, extend, extensions
from backpack.hessianfree.ggnvp import ggn_vector_product
from torch import Tensor, nn

from ..cases import OUTPUTS, Case
from ..program import SAMPLED_TOLERANCE, NotOfferedError, Program, leading_part, relative_error


def program(operation: str, case: Case) -> Program:
    # The converter rewrites the residual sum, which BackPACK cannot follow otherwise.
    model = extend(copy.deepcopy(case.model), use_converter=case.name == "resnet").eval()
    loss = extend(nn.CrossEntropyLoss())
    parameters = list(model.parameters())

    def passes(extension: object) -> Iterator[float]:
        """One extended backward per batch; yields the batch's weight in the mean."""
        for x, y in case.batches():
            model.zero_grad(set_to_none=True)
            with backpack(extension):
                loss(model(x), y).backward()
            yield len(x) / case.samples

    def diag() -> Tensor:
        total: Tensor | float = 0.0
        for weight in passes(extensions.DiagGGNExact()):
            total = total + weight * torch.cat([p.diag_ggn_exact.flatten() for p in parameters])
        return total

    def kronecker(extension: object, attribute: str) -> Tensor:
        factors: list[list[Tensor]] = []
        for weight in passes(extension):
            new = [[weight * f for f in getattr(p, attribute)] for p in parameters]
            if factors:
                pairs = zip(factors, new, strict=True)
                new = [[a + b for a, b in zip(*pair, strict=True)] for pair in pairs]
            factors = new
        product, trace = torch.zeros(()), torch.zeros(())
        pieces = case.direction().split([p.numel() for p in parameters])
        for v, block in zip(pieces, factors, strict=True):
            if len(block) == 2:
                g, a = block
                matrix = v.view(len(g), len(a))
                product += ((g @ matrix @ a) * matrix).sum()
                trace += g.trace() * a.trace()
            else:
                product += v @ (block[0] @ v)
                trace += block[0].trace()
        return torch.stack([product, trace])

    def roots() -> Iterator[tuple[float, Tensor]]:
        """Each batch's weight in the mean and its rows R (c n, d), a square root of its matrix."""
        for weight in passes(extensions.SqrtGGNExact()):
            rows = [p.sqrt_ggn_exact.flatten(0, 1).flatten(1) for p in parameters]
            yield weight, torch.cat(rows, 1)

    def dense() -> Tensor:
        total: Tensor | float = 0.0
        for weight, root in roots():
            total = total + weight * (root.T @ root)
        return total

    def block() -> Tensor:
        modules = [list(m.parameters(recurse=False)) for m in model.modules()]
        sizes = [sum(p.numel() for p in own) for own in modules if own]
        totals: list[Tensor] = [torch.zeros(size, size) for size in sizes]
        for weight, root in roots():
            for total, own in zip(totals, root.split(sizes, 1), strict=True):
                total += weight * (own.T @ own)
        return torch.cat([total.flatten() for total in totals])

    def lowrank() -> Tensor:
        rows = torch.cat([weight**0.5 * root for weight, root in roots()])
        along = rows @ case.direction()
        return torch.stack([along @ along, rows.square().sum()])

    def fvp() -> Tensor:
        pieces = case.direction().split([p.numel() for p in parameters])
        v = [t.view_as(p) for t, p in zip(pieces, parameters, strict=True)]
        total: Tensor | float = 0.0
        for x, y in case.batches():
            outputs = model(x)
            product = ggn_vector_product(loss(outputs, y), outputs, model, v)
            flat = torch.cat([t.flatten() for t in product]).detach()
            total = total + len(x) / case.samples * flat
        return total

    def rows(c: int) -> Tensor:
        """Per-sample gradients of output c, (n, d)."""
        model.zero_grad(set_to_none=True)
        with backpack(extensions.BatchGrad()):
            model(case.kernel_inputs)[:, c].sum().backward()
        return torch.cat([p.grad_batch.flatten(1) for p in parameters], 1)

    def ntk_all() -> Tensor:
        n = case.kernel_samples
        jacobian = torch.stack([rows(c) for c in range(OUTPUTS)], 1).flatten(0, 1)
        return (jacobian @ jacobian.T).view(n, OUTPUTS, n, OUTPUTS)

    def ntk_sum() -> Tensor:
        total: Tensor | float = 0.0
        for c in range(OUTPUTS):
            jacobian = rows(c)
            total = total + jacobian @ jacobian.T
        return total

    def trace_error(value: Tensor, reference: Tensor) -> float:
        return relative_error(value[1], reference[1])

    if operation in ("kfac", "kfac_mc"):
        exact = operation == "kfac"
        note = "weight and bias apart: only the trace is compared"
        if case.name == "conv":
            note = "another scaling of convolutions: not the same quantity"
        extension = extensions.KFLR() if exact else extensions.KFAC(mc_samples=1)
        return Program(
            lambda: kronecker(extension, "kflr" if exact else "kfac"),
            note=note,
            error=trace_error,
            **({} if exact else {"tolerance": SAMPLED_TOLERANCE}),
        )
    runs = {
        "diag": diag,
        "trace": lambda: diag().sum().reshape(1),
        "dense": dense,
        "block": block,
        "lowrank": lowrank,
        "fvp": fvp,
        "ntk_all": ntk_all,
        "ntk_sum": ntk_sum,
        "ntk_eigh": lambda: leading_part(ntk_sum()),
    }
    if operation not in runs:
        raise NotOfferedError
    return Program(runs[operation])
