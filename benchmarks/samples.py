"""How samples of N(0, (K + damping I)^-1) are checked: by their statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from .cases import Case
from .program import DAMPING, DRAWS, DRAWS_TOLERANCE


def checked(case: Case) -> dict[str, object]:
    """How a program of `sample_kfac` is judged."""
    return {"tolerance": DRAWS_TOLERANCE, "error": lambda value, packed: error(case, value, packed)}


def error(case: Case, samples: Tensor, packed: Tensor) -> float:
    """The larger relative error of two means over the samples x.

    `x^T (K + damping I) x` has the mean d, and `|x|^2` the trace of (K + damping I)^-1. `packed`
    holds K's factors, A and G of each module one after another.
    """
    if samples.shape != (DRAWS, case.direction(kronecker=True).numel()):
        raise ValueError(f"the samples have shape {tuple(samples.shape)}")
    found, expected = torch.zeros(2).double(), torch.zeros(2).double()
    start = place = 0
    for module in case.kronecker_modules().values():
        o, i, has_bias = len(module.weight), module.weight[0].numel(), module.bias is not None
        w = i + has_bias
        a = packed[start : start + w * w].view(w, w)
        g = packed[start + w * w : start + w * w + o * o].view(o, o)
        start += w * w + o * o
        x = samples[:, place : place + o * i].double().view(DRAWS, o, i)
        if has_bias:
            bias = samples[:, place + o * i : place + o * w].double()
            x = torch.cat([x, bias.unsqueeze(2)], 2)
        place += o * w
        values = torch.outer(torch.linalg.eigvalsh(g), torch.linalg.eigvalsh(a))
        product = g @ x @ a + DAMPING * x
        found += torch.stack([(x * product).sum(), x.square().sum()]) / DRAWS
        expected += torch.stack([torch.tensor(o * w), (1 / (values + DAMPING)).sum()])
    return float((found / expected - 1).abs().max())
