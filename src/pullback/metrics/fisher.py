"""The entry point: which function, which output metric, which representation."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from pullback.batches import Batches
from pullback.cotangents import Source
from pullback.errors import InputError
from pullback.likelihoods import Likelihood, likelihood_of
from pullback.metrics import dense, diagonal, implicit, kronecker
from pullback.metrics.metric import Metric
from pullback.network import Network
from pullback.tape.sweep import Sweep

REPRESENTATIONS: dict[str, Callable[[Sweep], Metric]] = {
    "dense": dense.build,
    "diagonal": diagonal.build,
    "kfac": kronecker.build_kfac,
    "ekfac": kronecker.build_ekfac,
    "implicit": implicit.build,
}


def fisher(
    model: nn.Module | Network,
    data: object,
    likelihood: str | Likelihood = "categorical",
    representation: str = "ekfac",
    estimator: str = "exact",
    samples: int = 1,
    seed: int = 0,
    memory: int | None = None,
    progress: bool | None = None,
) -> Metric:
    """The Fisher information matrix, `1/n sum_i J_i^T M(x_i) J_i`, in any representation.

    With `likelihood="euclidean"`, M = I, it is the L2 metric on functions.

    Args:
        model: a module, or a `Network` that selects parameters or outputs. Its outputs (n, c) are
            the natural parameters of the likelihood (logits, means).
        data: a tensor, a pair (inputs, targets) or an iterable of batches; n samples in all.
        likelihood: "categorical", "bernoulli", "gaussian", "euclidean" or a `Likelihood`.
        representation: "dense" (d^2 numbers), "diagonal" (d), "kfac", "ekfac" or "implicit" (none).
        estimator: "exact" (as many backward passes as the output metric has rank), "sampled"
            (labels drawn from the model, `samples` of them for each x) or "empirical" (true labels;
            the second moment of loss gradients, which is no Fisher matrix).
        samples: labels drawn for each sample, for "sampled".
        seed: of these draws; the draws do not depend on the batch size.
        memory: bytes for intermediate results; None for a default.
        progress: whether to show a progress bar; None shows one on a terminal.

    Returns:
        The metric, a mean over samples (in nats, for a likelihood).

    Raises:
        InputError: an argument cannot be used; the message says which and what to do.

    Source:
        George 2023, sections 2.4.2 and 3.3; EKFAC: George et al. 2018.

    Example:
        >>> import torch, pullback as pb
        >>> model, x = torch.nn.Linear(3, 2), torch.eye(3)
        >>> F = pb.fisher(model, x, "categorical", representation="dense")
        >>> v = F.space.randn(seed=1)
        >>> bool(v @ F @ v >= 0), F.solve(v, damping=0.1)["weight"].shape
        (True, torch.Size([2, 3]))
    """
    if representation not in REPRESENTATIONS:
        raise InputError(
            f"representation: no {representation!r}; there are {sorted(REPRESENTATIONS)}"
        )
    network = Network.of(model)
    source = Source(likelihood_of(likelihood), estimator, samples, seed)
    sweep = Sweep(network, Batches(data, network.device), source, memory, progress)
    return sweep.settled(lambda: REPRESENTATIONS[representation](sweep))
