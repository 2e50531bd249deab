"""What a library offers for one operation on one case, and how its answer is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .cases import KERNELS, LARGE, SMALL
from .measure import Timing, timed


@dataclass(frozen=True)
class Operation:
    """What is computed, and on which cases it is measured."""

    meaning: str
    cases: tuple[str, ...] = LARGE


OPERATIONS = {
    "diag": Operation("diagonal of the Fisher matrix, exact"),
    "kfac": Operation("KFAC factors, exact; then v^T K v and the trace"),
    "kfac_mc": Operation("KFAC factors, one sampled label; then v^T K v and the trace"),
    "ekfac": Operation("EKFAC: factors, eigenvectors, exact scales; then v^T K v and the trace"),
    "quasi": Operation(
        "quasi-diagonal of the Fisher matrix, exact; then its product with v", ("mlp", "conv")
    ),
    "dense": Operation("dense Fisher matrix, exact", SMALL),
    "block": Operation("its diagonal blocks, one for each layer, exact", SMALL),
    "lowrank": Operation("the factor R of F = R^T R, exact; then v^T F v and the trace", SMALL),
    "eigh": Operation("all eigenvalues and eigenvectors of the dense matrix; then F v", SMALL),
    "fvp": Operation("Fisher matrix times one vector"),
    "solve_cg": Operation("(F + 0.1 I) x = v, conjugate gradients to a residual of 1e-4"),
    "trace": Operation("trace of the Fisher matrix, exact"),
    "solve_kfac": Operation("(K + 0.1 I) x = v from the factors of KFAC"),
    "solve_ekfac": Operation("(K + 0.1 I) x = v from the eigenvectors and scales of EKFAC"),
    "eigvals_kfac": Operation("all eigenvalues of KFAC, largest first, from the factors"),
    "logdet_kfac": Operation("log det(K + 0.1 I) from the factors of KFAC"),
    "sample_kfac": Operation("ten samples of N(0, (K + 0.1 I)^-1) from the factors of KFAC"),
    "ntk_all": Operation("tangent kernel, all outputs (n, c, n, c)", KERNELS),
    "ntk_sum": Operation("tangent kernel summed over outputs (n, n)", KERNELS),
    "ntk_two": Operation(
        "tangent kernel of half of the samples with the others, all outputs", KERNELS
    ),
    "ntk_eigh": Operation(
        "the ten largest eigenpairs of the summed kernel, and their part of it", KERNELS
    ),
}
DAMPING = 0.1
CG_RESIDUAL = 1e-4
"""Relative, at which conjugate gradients stop."""
EIGENPAIRS = 10
"""Of the tangent kernel, the largest."""
DRAWS = 10
"""Samples of the normal distribution that are asked for."""
TOLERANCE = 1e-4
"""Relative error above which a row is invalid: float32 against float64."""
SAMPLED_TOLERANCE = 0.3
"""The same for estimates, which are compared with the exact value."""
CG_TOLERANCE = 1e-3
"""The same for conjugate gradients, which stop at `CG_RESIDUAL`."""
DRAWS_TOLERANCE = 0.02
"""The same for the statistics of the samples: ten of 78,000 numbers scatter by 0.2 %."""


class NotOfferedError(Exception):
    """The library does not offer this operation."""


def relative_error(value: Tensor, reference: Tensor) -> float:
    """The l2 error relative to the reference; both are flattened by the same order."""
    if value.shape != reference.shape:
        raise ValueError(f"the result has shape {tuple(value.shape)}, not {tuple(reference.shape)}")
    return float((value.double() - reference).norm() / reference.norm())


def leading_part(kernel: Tensor) -> Tensor:
    """The largest eigenvalues, and what they make of a kernel (n, n)."""
    values, vectors = torch.linalg.eigh(kernel)
    values, vectors = values[-EIGENPAIRS:].flip(0), vectors[:, -EIGENPAIRS:].flip(1)
    return torch.cat([values, ((vectors * values) @ vectors.T).flatten()])


@dataclass(frozen=True)
class Program:
    """One way of computing an operation.

    `run` does all the work anew at each call. What `setup` returns is made before the clock starts
    and handed to every call, which must leave it as it found it. `share` is the part of the
    operation that a call does, for peers that would take minutes: seconds are divided by it. An
    estimate is listed, but sets no bar.
    """

    run: Callable[..., Tensor]
    setup: Callable[[], object] | None = None
    note: str = ""
    share: float = 1.0
    tolerance: float = TOLERANCE
    estimate: bool = False
    error: Callable[[Tensor, Tensor], float] = relative_error

    def prepared(self) -> Callable[[], Tensor]:
        """What the clock measures, its setup done."""
        return partial(self.run, self.setup()) if self.setup else self.run

    def measured(self, repetitions: int, budget: float) -> tuple[Timing, Tensor]:
        """What it took, and the last value."""
        return timed(self.prepared(), repetitions, budget)
