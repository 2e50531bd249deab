"""The tangent kernel of a network, `K(x, x') = J(x) J(x')^T`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, overload

import torch
import torch.distributed as distributed
from torch import nn

from pullback.batches import Batches, working_memory
from pullback.cotangents import ReadOut
from pullback.errors import InputError
from pullback.kernels.arrangement import Arrangement, Single
from pullback.kernels.dense import TangentKernel
from pullback.kernels.features import METHODS
from pullback.kernels.gram import Outputs, collected, matrices, read_out
from pullback.kernels.implicit import ImplicitKernel
from pullback.kernels.stored import StoredKernel, fill
from pullback.network import Network
from pullback.tape.sweep import Sweep


@overload
def tangent_kernel(
    model: nn.Module | Network,
    x: object,
    y: object | None = None,
    outputs: Outputs = "all",
    by_layer: bool = False,
    method: str | None = None,
    representation: Literal["dense"] = "dense",
    store: None = None,
    group: None = None,
    memory: int | None = None,
    progress: bool | None = None,
) -> TangentKernel: ...
@overload
def tangent_kernel(
    model: nn.Module | Network,
    x: object,
    y: object | None = None,
    outputs: Outputs = "all",
    *,
    representation: Literal["implicit"],
    memory: int | None = None,
    progress: bool | None = None,
) -> ImplicitKernel: ...
@overload
def tangent_kernel(
    model: nn.Module | Network,
    x: object,
    y: object | None = None,
    outputs: Outputs = "all",
    *,
    method: str | None = None,
    store: str | Path,
    group: distributed.ProcessGroup | None = None,
    memory: int | None = None,
    progress: bool | None = None,
) -> StoredKernel: ...
def tangent_kernel(
    model: nn.Module | Network,
    x: object,
    y: object | None = None,
    outputs: Outputs = "all",
    by_layer: bool = False,
    method: str | None = None,
    representation: str = "dense",
    store: str | Path | None = None,
    group: distributed.ProcessGroup | None = None,
    memory: int | None = None,
    progress: bool | None = None,
) -> TangentKernel | StoredKernel | ImplicitKernel:
    """The tangent kernel between two data sets, or of one with itself; not divided by anything.

    Args:
        model: a module, or a `Network` that selects parameters or outputs.
        x: n samples: a tensor, a pair (inputs, targets) or an iterable of batches.
        y: n' samples, or None for x again.
        outputs: "all" for every pair of outputs, (n, c, n', c); "sum" for the sum of the outputs'
            own kernels, (n, n'); "each" for these apart, (c, n, n'); a number for one of them,
            (n, n'); a pair (c1, c2) for the kernel of the difference f_c2 - f_c1, (n, n'); weights
            (c,) for that of a combination of outputs, (n, n'), or (r, c) for every pair of several,
            (n, r, n', r).
        by_layer: whether to keep the kernel of each layer too (their sum is the kernel).
        method: how a layer's entries are formed: "gradients" contracts the gradients of samples,
            "structured" multiplies products of inputs with products of gradients, over pairs of
            positions, "products" multiplies with one function at a time. None takes, layer by
            layer, the one of the first two that takes fewer operations.
        representation: "dense" is a matrix in memory; "implicit" is none at all, but has products,
            eigenfunctions and a trace.
        store: a folder for a kernel that is larger than memory. It is written tile by tile; the
            same call goes on with a store that was interrupted, and opens one that is complete.
        group: processes (of `torch.distributed`) that share the work on a store: each makes the
            same call.
        memory: bytes for intermediate results; None for a default.
        progress: whether to show a progress bar; None shows one on a terminal.

    Raises:
        InputError: an argument cannot be used, or the kernel cannot fit into memory.

    Source:
        George 2023, sections 2.1.7 and 3.6.1; Jacot et al. 2018.

    Example:
        >>> import torch, pullback as pb
        >>> model, x = torch.nn.Linear(2, 3), torch.tensor([[1.0, 0.0], [1.0, 2.0]])
        >>> pb.tangent_kernel(model, x, outputs=0).matrix
        tensor([[2., 2.],
                [2., 6.]])
        >>> pb.tangent_kernel(model, x).matrix.shape
        torch.Size([2, 3, 2, 3])
    """
    _check_choices(by_layer, method, representation, store, group)
    network = Network.of(model)
    source, arrangement = read_out(outputs)
    # Half, because features of all samples are kept besides.
    half = max(1, working_memory(memory, network.device) // 2)
    sweep = Sweep(network, Batches(x, network.device), source, half, progress)
    others = None if y is None else Batches(y, network.device)
    if representation == "implicit":
        return _implicit(sweep, others, source, arrangement)
    if store is not None:
        return sweep.settled(
            lambda: fill(store, sweep, others, source, arrangement, method, memory, group)
        )
    if method == "products":
        return _by_products(sweep, others, source, arrangement)
    return sweep.settled(lambda: _dense(sweep, others, arrangement, method, by_layer))


def _check_choices(
    by_layer: bool,
    method: str | None,
    representation: str,
    store: str | Path | None,
    group: distributed.ProcessGroup | None,
) -> None:
    if method not in (None, *METHODS, "products"):
        raise InputError(f"method: {method!r}; choose one of {(*METHODS, 'products')}, or None")
    if representation not in ("dense", "implicit"):
        raise InputError(f"representation: {representation!r}; choose 'dense' or 'implicit'")
    whole = representation == "implicit" or store is not None or method == "products"
    if by_layer and whole:
        raise InputError(
            "by_layer: only a dense kernel keeps those of its layers; for others give a Network of "
            "the layer's parameters"
        )
    if representation == "implicit" and (store is not None or method is not None):
        raise InputError("representation: 'implicit' has no entries to store or to form")
    if method == "products" and store is not None:
        raise InputError("method: 'products' forms whole columns; a store takes the other methods")
    if group is not None and store is None:
        raise InputError("group: processes share the work on a store; give its folder")


def _second(sweep: Sweep, others: Batches | None) -> Sweep | None:
    """The same sweep over the second data set, if there is one."""
    if others is None:
        return None
    second = replace(sweep, batches=others)
    second.plan = sweep.plan
    return second


def _dense(
    sweep: Sweep,
    others: Batches | None,
    arrangement: Arrangement,
    method: str | None,
    by_layer: bool,
) -> TangentKernel:
    second = _second(sweep, others)
    left = collected(sweep, arrangement, method)
    right = None if second is None else collected(second, arrangement, method)
    found = matrices(sweep, left, right, arrangement, by_layer)
    kernels = {
        layer: TangentKernel(matrix, left.outputs, right is None) for layer, matrix in found.items()
    }
    if not by_layer:
        return kernels[""]
    matrix = torch.stack([kernel.matrix for kernel in kernels.values()]).sum(0)
    return TangentKernel(matrix, left.outputs, right is None, kernels)


def _implicit(
    sweep: Sweep, others: Batches | None, source: ReadOut, arrangement: Arrangement
) -> ImplicitKernel:
    if not arrangement.one:
        raise InputError("outputs: 'each' is one kernel for each output; take them one by one")
    return ImplicitKernel(sweep, _second(sweep, others), source, arrangement)


def _by_products(
    sweep: Sweep, others: Batches | None, source: ReadOut, arrangement: Arrangement
) -> TangentKernel:
    if arrangement.one:
        matrix = _implicit(sweep, others, source, arrangement).dense()
    else:
        rows = [ReadOut(output) for output in range(sweep.plan.outputs)]
        matrix = torch.stack([_implicit(sweep, others, row, Single()).dense() for row in rows])
    return TangentKernel(matrix, sweep.plan.outputs, others is None)
