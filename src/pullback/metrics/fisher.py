"""The entry point: which function, which output metric, which representation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as distributed
from torch import nn

from pullback.batches import Batches
from pullback.cotangents import Source
from pullback.errors import InputError
from pullback.likelihoods import DistributionOf, Likelihood, likelihood_of
from pullback.metrics.build import LAYERWISE, WHOLE, Rule, build, check_groupable
from pullback.metrics.groups import Groups
from pullback.metrics.implicit import Implicit
from pullback.metrics.metric import BlockMetric, Metric
from pullback.network import Network
from pullback.tape.sweep import Sweep


def fisher(
    model: nn.Module | Network,
    data: object,
    likelihood: str | Likelihood | DistributionOf = "categorical",
    representation: Rule = "ekfac",
    estimator: str | None = None,
    samples: int = 1,
    seed: int = 0,
    memory: int | None = None,
    progress: bool | None = None,
    basis: BlockMetric | None = None,
    group: distributed.ProcessGroup | None = None,
    checkpoint: str | Path | None = None,
    groups: Groups | None = None,
) -> Metric:
    """The Fisher information matrix, `1/n sum_i J_i^T M(x_i) J_i`, in any representation.

    With `likelihood="euclidean"`, M = I, it is the L2 metric on functions.

    Args:
        model: a module, or a `Network` that selects parameters or outputs. Its outputs (n, c) are
            the natural parameters of the likelihood (logits, means).
        data: a tensor, a pair (inputs, targets) or an iterable of batches; n samples in all.
        likelihood: "categorical", "bernoulli", "gaussian", "poisson" or "euclidean"; a `Likelihood`
            (`likelihoods.Categorical(positions=T)` for a class at each of T positions,
            `likelihoods.Loss(f)` for the generalised Gauss-Newton matrix of any loss); or a
            function from outputs to a `torch.distributions.Distribution` of batch shape (n,), such
            as `lambda out: Normal(out[:, 0], out[:, 1].exp())`.
        representation: of all parameters together "dense" (d^2 numbers), "lowrank" (n times the
            rank of M gradients) or "implicit" (nothing); layer by layer "block", "diagonal",
            "quasidiagonal", "kfac" or "ekfac"; a mapping from module types to these (the first type
            that a module is of counts: `{nn.Embedding: "diagonal", nn.Module: "kfac"}` for a
            language model, whose full block of the embedding would not fit), or a function of a
            module's name and the module. KFAC takes "-reduce" (positions averaged first),
            "-uncorrelated" (SUA) or "-nearest" (optimal factors). What it is not defined for gets
            full blocks, and `metric.blocks` shows it.
        estimator: "exact" (as many backward passes as the output metric has rank), "sketched" (a
            square root of the output metric times random signs), "sampled" (labels drawn from the
            model), "empirical" (true labels; the second moment of loss gradients, which is no
            Fisher matrix) or "centred" (their covariance). None is exact up to rank 128 and for
            "implicit", else sketched; `metric.origin` says which. A distribution can be exact or
            sketched where its information is registered, `likelihoods.register_information`.
        samples: for "sketched" and "sampled", vectors of signs or labels for each sample, hence
            backward passes. How far these are from the exact matrix, the same call with
            "implicit" tells: there `trace()` and `quadratic(v)`, of the very same draws, are an
            `Estimate` with its standard error (with one draw for each sample, an upper bound).
        seed: of these draws; the draws do not depend on the batch size.
        memory: bytes for intermediate results; None for a default.
        progress: whether to show a progress bar; None shows one on a terminal.
        basis: an earlier KFAC or EKFAC metric; EKFAC keeps its eigenvectors, and measures only the
            second moments along them.
        group: processes (of `torch.distributed`) that each give a shard of the data and all get
            the metric of the whole; with contiguous shards in the order of the ranks, the very
            draws of a single process. Not for "implicit".
        checkpoint: a folder that keeps what an interrupted computation has done: the same call goes
            on from there, on data in the same order. It is removed in the end. Not for "implicit",
            nor with a group.
        groups: which parameters share a block, instead of those of a layer: a mapping from a name
            for the block to patterns on parameters' names or types of modules, or a function from
            a parameter's name to that of its block (None leaves it to its layer). "block",
            "diagonal" and "lowrank" take any group, such as several layers or one tensor
            (`lambda name: name`); the other kinds those that are one layer's weight and bias.

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
    if isinstance(representation, str) and representation not in (*LAYERWISE, *WHOLE, "implicit"):
        raise InputError(
            f"representation: no {representation!r}; there are "
            f"{', '.join(dict.fromkeys((*WHOLE, *LAYERWISE, 'implicit')))}"
        )
    if groups is not None:
        check_groupable(representation)
    network = Network.of(model)
    chosen = likelihood_of(likelihood)
    source = Source(chosen, "exact" if estimator is None else estimator, samples, seed)
    batches = Batches(data, network.device)
    if checkpoint is not None and (representation == "implicit" or group is not None):
        raise InputError(
            "checkpoint: 'implicit' keeps no sums, and processes of a group finish together; take "
            "another representation, or average what each process saves (`pullback.average`)"
        )
    if group is not None:
        if representation == "implicit":
            raise InputError("group: 'implicit' reads the data of one process; choose another")
        source = replace(source, first=_samples_before(batches, group))
    sweep = Sweep(network, batches, source, memory, progress)
    if estimator is None and representation != "implicit":  # whose products are exact anyway
        sweep.source = source.affordable(sweep.plan.outputs)
    if representation == "implicit":
        return sweep.settled(lambda: Implicit(sweep))
    return sweep.settled(lambda: build(sweep, representation, basis, group, checkpoint, groups))


def _samples_before(batches: Batches, group: distributed.ProcessGroup) -> int:
    """How many samples the processes of lower rank have."""
    rank = distributed.get_rank(group)
    counts = torch.zeros(distributed.get_world_size(group), dtype=torch.int64)
    counts[rank] = sum(len(batch) for batch in batches)
    distributed.all_reduce(counts, group=group)
    return int(counts[:rank].sum())
