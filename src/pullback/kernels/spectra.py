"""Numbers that sum up a spectrum or compare two kernels.

All are functions of eigenvalues or of symmetric matrices alone, so they serve metrics, tangent
kernels and any other Gram matrix alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.errors import InputError


def effective_rank(eigenvalues: Float[Tensor, " r"]) -> float:
    """The exponential of the entropy of the normalised spectrum, between 1 and the rank.

    Args:
        eigenvalues: in any order, shape (r,); negative rounding errors count as zero.

    Raises:
        InputError: the spectrum is zero or not finite.

    Source:
        Roy and Vetterli 2007; George 2023, eq. 6.3.1.

    Example:
        >>> import torch, pullback as pb
        >>> round(pb.effective_rank(torch.tensor([3.0, 1.0], dtype=torch.float64)), 10)
        1.7547653506
    """
    shares = _shares(eigenvalues)
    return float(torch.special.entr(shares).sum().exp())


def trace_ratios(eigenvalues: Float[Tensor, " r"], counts: Sequence[int]) -> list[float]:
    """The shares of the trace that the largest k eigenvalues hold, for each k in `counts`.

    Args:
        eigenvalues: in any order, shape (r,).
        counts: the numbers k.

    Raises:
        InputError: the spectrum is zero or not finite.

    Source:
        George 2023, eq. 6.3.2, with the sum up to and including k.

    Example:
        >>> import torch, pullback as pb
        >>> pb.trace_ratios(torch.tensor([1.0, 3.0]), [1, 2])
        [0.75, 1.0]
    """
    shares = _shares(eigenvalues).sort(descending=True).values.cumsum(0)
    return [float(shares[min(k, len(shares)) - 1]) if k > 0 else 0.0 for k in counts]


def _shares(eigenvalues: Float[Tensor, " r"]) -> Float[Tensor, " r"]:
    """The spectrum divided by its sum."""
    positive = eigenvalues.double().clamp(min=0)
    total = float(positive.sum())
    if not (0 < total < float("inf")):
        raise InputError(f"eigenvalues: their sum is {total}; give a spectrum that is not zero")
    return positive / total


def centred(
    kernel: Float[Tensor, "r r"], centring: str = "all", outputs: int = 1
) -> Float[Tensor, "r r"]:
    """The kernel of centred features, `C K C`.

    Args:
        kernel: shape (r, r) with r = n c, samples first.
        centring: "all" takes away the mean over all r indices; "samples" the mean over samples, for
            each output by itself.
        outputs: the number of outputs c.

    Raises:
        InputError: an unknown centring.

    Example:
        >>> import torch
        >>> from pullback.kernels.spectra import centred
        >>> centred(torch.eye(2))
        tensor([[ 0.5000, -0.5000],
                [-0.5000,  0.5000]])
    """
    if centring not in ("all", "samples"):
        raise InputError(f"centring: {centring!r}; choose 'all' or 'samples'")
    apart = outputs if centring == "samples" else 1
    size = kernel.shape[0] // apart
    rows = kernel.reshape(size, apart, size, apart)
    rows = rows - rows.mean(0, keepdim=True)
    return (rows - rows.mean(2, keepdim=True)).reshape(kernel.shape)


def alignment(
    first: Float[Tensor, "r r"],
    second: Float[Tensor, "r r"],
    centring: str | None = "all",
    outputs: int = 1,
) -> float:
    """The cosine between two kernels, `<K, K'> / (|K| |K'|)`, in [0, 1].

    Args:
        first: symmetric, shape (r, r).
        second: likewise.
        centring: "all" or "samples" for the centred kernel alignment, CKA (see `centred`); None for
            the uncentred one.
        outputs: the number of outputs c in r = n c.

    Raises:
        InputError: an unknown centring.

    Source:
        Cortes et al. 2012; George 2023, eq. 6.3.3.

    Example:
        >>> import torch, pullback as pb
        >>> y = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
        >>> pb.alignment(torch.eye(4), y @ y.T, centring=None)
        0.5
    """
    a, b = first.double(), second.double()
    if centring is not None:
        a, b = centred(a, centring, outputs), centred(b, centring, outputs)
    norms = torch.linalg.matrix_norm(a) * torch.linalg.matrix_norm(b)
    return float((a * b).sum() / norms)
