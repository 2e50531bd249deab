"""Numbers that sum up a spectrum or compare two kernels.

All are functions of eigenvalues or of symmetric matrices alone, so they serve metrics, tangent
kernels and any other Gram matrix alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def effective_rank(eigenvalues: Float[Tensor, " r"]) -> float:
    """The exponential of the entropy of the normalised spectrum, between 1 and the rank.

    Args:
        eigenvalues: in any order, shape (r,); negative rounding errors count as zero.

    Source:
        Roy and Vetterli 2007; George 2023, eq. 6.3.1.

    Example:
        >>> import torch, pullback as pb
        >>> round(pb.effective_rank(torch.tensor([3.0, 1.0], dtype=torch.float64)), 10)
        1.7547653506
    """
    positive = eigenvalues.double().clamp(min=0)
    shares = positive / positive.sum()
    return float(torch.special.entr(shares).sum().exp())


def trace_ratios(eigenvalues: Float[Tensor, " r"], counts: Sequence[int]) -> list[float]:
    """The shares of the trace that the largest k eigenvalues hold, for each k in `counts`.

    Args:
        eigenvalues: in any order, shape (r,).
        counts: the numbers k.

    Source:
        George 2023, eq. 6.3.2, with the sum up to and including k.

    Example:
        >>> import torch, pullback as pb
        >>> pb.trace_ratios(torch.tensor([1.0, 3.0]), [1, 2])
        [0.75, 1.0]
    """
    ordered = eigenvalues.double().clamp(min=0).sort(descending=True).values
    shares = ordered.cumsum(0) / ordered.sum()
    return [float(shares[min(k, len(shares)) - 1]) if k > 0 else 0.0 for k in counts]


def centred(kernel: Float[Tensor, "r r"], outputs: int = 1) -> Float[Tensor, "r r"]:
    """The kernel of centred features, `C K C`.

    Args:
        kernel: shape (r, r) with r = n c, samples first.
        outputs: 1 centres over all r indices at once; c centres over samples, for each output
            by itself.

    Example:
        >>> import torch
        >>> from pullback.kernels.spectra import centred
        >>> centred(torch.eye(2))
        tensor([[ 0.5000, -0.5000],
                [-0.5000,  0.5000]])
    """
    size = kernel.shape[0] // outputs
    blocks = kernel.reshape(size, outputs, size, outputs)
    rows = blocks - blocks.mean(0, keepdim=True)
    return (rows - rows.mean(2, keepdim=True)).reshape(kernel.shape)


def alignment(first: Float[Tensor, "r r"], second: Float[Tensor, "r r"]) -> float:
    """The cosine between two kernels, `<K, K'> / (|K| |K'|)`, in [0, 1].

    Of two centred kernels (`centred`) it is the centred kernel alignment, CKA.

    Source:
        Cortes et al. 2012; George 2023, eq. 6.3.3.

    Example:
        >>> import torch, pullback as pb
        >>> y = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
        >>> pb.alignment(torch.eye(4), y @ y.T)
        0.5
    """
    a, b = first.double(), second.double()
    norms = torch.linalg.matrix_norm(a) * torch.linalg.matrix_norm(b)
    return float((a * b).sum() / norms)
