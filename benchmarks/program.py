"""What a library offers for one operation on one case, and how its answer is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

OPERATIONS = {
    "diag": "diagonal of the Fisher matrix, exact",
    "kfac": "KFAC factors, exact; then v^T K v and the trace",
    "kfac_mc": "KFAC factors, one sampled label; then v^T K v and the trace",
    "ekfac": "EKFAC: factors, eigenvectors, exact scales; then v^T K v and the trace",
    "dense": "dense Fisher matrix, exact (case tiny only)",
    "fvp": "Fisher matrix times one vector",
    "trace": "trace of the Fisher matrix, exact",
    "ntk_all": "tangent kernel, all outputs (n, c, n, c)",
    "ntk_sum": "tangent kernel summed over outputs (n, n)",
}
TOLERANCE = 1e-4
"""Relative error above which a row is invalid: float32 against float64."""
SAMPLED_TOLERANCE = 0.3
"""The same for estimates, which are compared with the exact value."""


class NotOfferedError(Exception):
    """The library does not offer this operation."""


def relative_error(value: Tensor, reference: Tensor) -> float:
    """The l2 error relative to the reference; both are flattened by the same order."""
    if value.shape != reference.shape:
        raise ValueError(f"the result has shape {tuple(value.shape)}, not {tuple(reference.shape)}")
    return float((value.double() - reference).norm() / reference.norm())


@dataclass(frozen=True)
class Program:
    """One way of computing an operation.

    `run` does all the work anew at each call. `share` is the part of the operation that a call
    does, for peers that would take minutes: seconds are divided by it. An estimate is listed,
    but sets no bar.
    """

    run: Callable[[], Tensor]
    note: str = ""
    share: float = 1.0
    tolerance: float = TOLERANCE
    estimate: bool = False
    error: Callable[[Tensor, Tensor], float] = relative_error
