"""The slow twin: every quantity the obvious way, in plain autograd, sample by sample.

Nothing here imports the library, and nothing here is clever: a sample is run alone, an output is
differentiated alone, a matrix is formed whole. What the library computes fast is compared with it.

    rows = jacobian(model, inputs)                      # (n, c, d)
    metric = output_metric("categorical", outputs)      # (n, c, c)
    fisher(rows, metric)                                # (d, d), a mean over samples

Curvature in Kronecker form needs what entered a layer and the gradient that came back out of it;
`recorded` takes them with forward hooks, one sample and one output at a time.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
ReadOut = Callable[[object], Tensor]
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


# --- the function -------------------------------------------------------------------------------


def count(inputs: Inputs) -> int:
    """Number of samples."""
    if isinstance(inputs, Tensor):
        return len(inputs)
    return len(next(iter(inputs.values() if isinstance(inputs, dict) else inputs)))


def rows_of(inputs: Inputs, index: slice | Tensor) -> Inputs:
    """The chosen samples."""
    if isinstance(inputs, dict):
        return {name: value[index] for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(value[index] for value in inputs)
    return inputs[index]


def evaluate(module: nn.Module, inputs: Inputs, readout: ReadOut | None = None) -> Tensor:
    """f(x), shape (n, c)."""
    if isinstance(inputs, dict):
        result = module(**inputs)
    elif isinstance(inputs, tuple):
        result = module(*inputs)
    else:
        result = module(inputs)
    return result if readout is None else readout(result)


def one_by_one(module: nn.Module, inputs: Inputs, readout: ReadOut | None = None) -> Tensor:
    """f(x) with every sample run alone, shape (n, c)."""
    with torch.no_grad():
        return torch.cat(
            [
                evaluate(module, rows_of(inputs, slice(i, i + 1)), readout)
                for i in range(count(inputs))
            ]
        )


def trainable(module: nn.Module) -> list[str]:
    """Names of the parameters that require a gradient, in their own order."""
    return [name for name, p in module.named_parameters() if p.requires_grad]


def flat_slices(module: nn.Module, names: Sequence[str] | None = None) -> dict[str, slice]:
    """Where each parameter stands in the flat vector."""
    slices, start = {}, 0
    parameters = dict(module.named_parameters())
    for name in trainable(module) if names is None else names:
        stop = start + parameters[name].numel()
        slices[name] = slice(start, stop)
        start = stop
    return slices


def jacobian(
    module: nn.Module,
    inputs: Inputs,
    names: Sequence[str] | None = None,
    readout: ReadOut | None = None,
) -> Float[Tensor, "n c d"]:
    """df(x)_c / dw for every sample and output, one call of autograd each."""
    module = copy.deepcopy(module)
    parameters = dict(module.named_parameters())
    chosen = [parameters[name] for name in (trainable(module) if names is None else names)]
    for parameter in chosen:
        parameter.requires_grad_()
    samples = []
    for i in range(count(inputs)):
        output = evaluate(module, rows_of(inputs, slice(i, i + 1)), readout)[0]
        rows = []
        for value in output:
            gradients = torch.autograd.grad(value, chosen, retain_graph=True, allow_unused=True)
            pieces = [
                torch.zeros_like(p) if g is None else g
                for p, g in zip(chosen, gradients, strict=True)
            ]
            rows.append(torch.cat([piece.reshape(-1) for piece in pieces]))
        samples.append(torch.stack(rows))
    return torch.stack(samples)


# --- output metrics -----------------------------------------------------------------------------


def output_metric(
    likelihood: str, outputs: Float[Tensor, "n c"], variance: float = 1.0
) -> Float[Tensor, "n c c"]:
    """The Fisher information of p(y | f) in the coordinates f, in closed form."""
    identity = torch.eye(outputs.shape[1], dtype=outputs.dtype).expand(len(outputs), -1, -1)
    if likelihood == "categorical":
        p = outputs.softmax(1)
        off_diagonal = p[:, :, None] * p[:, None, :] * (1 - identity)
        return torch.diag_embed(off_diagonal.sum(2)) - off_diagonal  # p (1 - p) without cancelling
    if likelihood == "bernoulli":
        return torch.diag_embed(outputs.sigmoid() * (-outputs).sigmoid())
    if likelihood == "gaussian":
        return identity / variance
    if likelihood == "euclidean":
        return identity
    raise ValueError(likelihood)


def score(
    likelihood: str, outputs: Float[Tensor, "n c"], targets: Tensor, variance: float = 1.0
) -> Float[Tensor, "n c"]:
    """The derivative of log p(y | f) by f at given targets, in closed form."""
    if likelihood == "categorical":
        one_hot = nn.functional.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
        return one_hot - outputs.softmax(1)
    if likelihood == "bernoulli":
        return targets - outputs.sigmoid()
    if likelihood == "gaussian":
        return (targets - outputs) / variance
    raise ValueError(likelihood)


def negative_log_likelihood(
    likelihood: str, outputs: Float[Tensor, "n c"], targets: Tensor, variance: float = 1.0
) -> Tensor:
    """-log p(y | f) summed over outputs, a mean over samples, in nats, with its constants."""
    if likelihood == "categorical":
        log_p = outputs - outputs.exp().sum(1, keepdim=True).log()
        return -log_p[torch.arange(len(targets)), targets].mean()
    if likelihood == "bernoulli":
        p = 1 / (1 + (-outputs).exp())
        return -(targets * p.log() + (1 - targets) * (1 - p).log()).sum(1).mean()
    if likelihood == "gaussian":
        constant = math.log(2 * math.pi * variance)
        return 0.5 * ((outputs - targets) ** 2 / variance + constant).sum(1).mean()
    raise ValueError(likelihood)


def outer(vectors: Float[Tensor, "n c"]) -> Float[Tensor, "n c c"]:
    """The product u u^T for each sample."""
    return vectors[:, :, None] * vectors[:, None, :]


# --- metrics on parameter space -----------------------------------------------------------------


def fisher(rows: Float[Tensor, "n c d"], metric: Float[Tensor, "n c c"]) -> Float[Tensor, "d d"]:
    """(1/n) sum_i J_i^T M_i J_i."""
    total = torch.zeros(rows.shape[2], rows.shape[2], dtype=rows.dtype)
    for row, m in zip(rows, metric, strict=True):
        total += row.T @ m @ row
    return total / len(rows)


def empirical_fisher(
    rows: Float[Tensor, "n c d"], scores: Float[Tensor, "n c"]
) -> Float[Tensor, "d d"]:
    """(1/n) sum_i g_i g_i^T, with g_i the gradient of log p of the given targets."""
    gradients = [row.T @ u for row, u in zip(rows, scores, strict=True)]
    return sum(torch.outer(g, g) for g in gradients) / len(rows)


def sampled_fisher(
    rows: Float[Tensor, "n c d"], scores: Float[Tensor, "t n c"]
) -> Float[Tensor, "d d"]:
    """The mean of the empirical Fisher matrices of t draws of the targets."""
    return sum(empirical_fisher(rows, drawn) for drawn in scores) / len(scores)


# --- Kronecker factors --------------------------------------------------------------------------


@dataclass(frozen=True)
class Factors:
    """B (x) A of one layer, and where its entries stand in the flat parameter vector.

    A layer is a matrix W of outputs x inputs (with the bias as last column); grouped convolutions
    are several such matrices side by side. `index[group, row, column]` is the flat position of the
    entry of W.
    """

    a: Float[Tensor, "groups i i"]
    b: Float[Tensor, "groups o o"]
    index: Int[Tensor, "groups o i"]


def recorded(
    module: nn.Module, layer: str, inputs: Inputs, readout: ReadOut | None = None
) -> tuple[list[list[Tensor]], list[list[list[Tensor]]]]:
    """What entered each call of a layer, and df_c/ds at each of its outputs s.

    Returns:
        inputs by [sample][call], and gradients by [sample][output c][call].
    """
    module = copy.deepcopy(module)
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        calls.append((args[0].detach().clone(), output))
        return output.clone()  # what follows may write into it

    module.get_submodule(layer).register_forward_hook(keep)
    entered, returned = [], []
    for i in range(count(inputs)):
        calls.clear()
        output = evaluate(module, rows_of(inputs, slice(i, i + 1)), readout)[0]
        entered.append([given for given, _ in calls])
        kept = [made for _, made in calls]
        gradients = []
        for value in output:
            grads = torch.autograd.grad(value, kept, retain_graph=True, allow_unused=True)
            gradients.append(
                [torch.zeros_like(k) if g is None else g for k, g in zip(kept, grads, strict=True)]
            )
        returned.append(gradients)
    return entered, returned


def patches(layer: nn.Module, given: Tensor) -> Float[Tensor, "groups positions i"]:
    """The vector that meets the weight at each output position.

    A convolution's patches are what it returns for kernels that pick one entry each.
    """
    if isinstance(layer, nn.Linear):
        return given.reshape(1, -1, layer.in_features)
    weight, groups = layer.weight, layer.groups
    taps = math.prod(layer.kernel_size)
    per_group = layer.in_channels // groups
    pick = torch.eye(per_group * taps, dtype=weight.dtype)
    pick = pick.reshape(per_group * taps, per_group, *layer.kernel_size)
    if isinstance(layer, Convolution):
        kernels = pick.repeat(groups, *[1] * (weight.ndim - 1))
        result = layer._conv_forward(given, kernels, None)
    else:
        kernels = pick.transpose(0, 1).repeat(groups, *[1] * (weight.ndim - 1))
        functional = getattr(nn.functional, f"conv_transpose{weight.ndim - 2}d")
        result = functional(
            given,
            kernels,
            None,
            layer.stride,
            layer.padding,
            layer.output_padding,
            groups,
            layer.dilation,
        )
    return result[0].reshape(groups, per_group * taps, -1).transpose(1, 2)


def position_gradients(layer: nn.Module, gradient: Tensor) -> Float[Tensor, "groups positions o"]:
    """The gradient at each output position."""
    if isinstance(layer, nn.Linear):
        return gradient.reshape(1, -1, layer.out_features)
    per_group = layer.out_channels // layer.groups
    return gradient[0].reshape(layer.groups, per_group, -1).transpose(1, 2)


def flat_index(
    layer: nn.Module, weight: slice | None, bias: slice | None
) -> Int[Tensor, "groups o i"]:
    """The flat position of each entry of the layer's matrix [W | b]."""
    groups = getattr(layer, "groups", 1)
    columns = []
    if weight is not None:
        index = torch.arange(weight.start, weight.stop).reshape(layer.weight.shape)
        if isinstance(layer, Transposed):  # (inputs, outputs per group, *kernel)
            index = index.reshape(groups, -1, *index.shape[1:]).transpose(1, 2)
        outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        columns.append(index.reshape(groups, outputs // groups, -1))
    if bias is not None:
        columns.append(torch.arange(bias.start, bias.stop).reshape(groups, -1, 1))
    return torch.cat(columns, dim=2)


def kfac_factors(
    module: nn.Module,
    layer: str,
    inputs: Inputs,
    metric: Float[Tensor, "n c c"],
    names: Sequence[str] | None = None,
    readout: ReadOut | None = None,
) -> Factors:
    """A and B of one linear, convolution or transposed convolution layer (003, 2.1.7).

    A = the mean over samples and positions of a a^T, with the bias as coordinate 1 of a.
    B = the mean over samples of the sum over positions of sum_cc' M_cc' g_c g_c'^T.
    """
    part = module.get_submodule(layer)
    slices = flat_slices(module, names)
    prefix = f"{layer}." if layer else ""
    weight, bias = slices.get(f"{prefix}weight"), slices.get(f"{prefix}bias")
    entered, returned = recorded(module, layer, inputs, readout)
    a_total, b_total, positions = 0.0, 0.0, 0
    for i in range(count(inputs)):
        for call, given in enumerate(entered[i]):
            a = patches(part, given)
            pieces = [a] if weight is not None else []
            pieces += [torch.ones_like(a[..., :1])] if bias is not None else []
            a = torch.cat(pieces, dim=-1)
            a_total = a_total + a.transpose(1, 2) @ a
            positions += a.shape[1]
            g = torch.stack(
                [position_gradients(part, by_output[call]) for by_output in returned[i]]
            )
            b_total = b_total + torch.einsum("cgto,cd,dgtp->gop", g, metric[i], g)
    return Factors(a_total / positions, b_total / count(inputs), flat_index(part, weight, bias))


def kronecker(left: Float[Tensor, "o o"], right: Float[Tensor, "i i"]) -> Float[Tensor, "d d"]:
    """The entries left[r, r'] right[c, c'] at row (r, c) and column (r', c')."""
    size = len(left) * len(right)
    return torch.einsum("ab,cd->acbd", left, right).reshape(size, size)


def kronecker_dense(factors: Factors, size: int) -> Float[Tensor, "d d"]:
    """B (x) A scattered into the full matrix."""
    dense = torch.zeros(size, size, dtype=factors.a.dtype)
    for a, b, index in zip(factors.a, factors.b, factors.index, strict=True):
        where = index.reshape(-1)
        dense[where[:, None], where] = kronecker(b, a)
    return dense


def ekfac_dense(factors: Factors, exact: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Q diag(Q^T F Q) Q^T with Q the eigenvectors of B (x) A, scattered into the full matrix."""
    dense = torch.zeros_like(exact)
    for a, b, index in zip(factors.a, factors.b, factors.index, strict=True):
        where = index.reshape(-1)
        q = kronecker(torch.linalg.eigh(b)[1], torch.linalg.eigh(a)[1])
        block = exact[where[:, None], where]
        dense[where[:, None], where] = q @ torch.diag((q.T @ block @ q).diagonal()) @ q.T
    return dense


# --- tangent kernels ----------------------------------------------------------------------------


def tangent_kernel(
    rows: Float[Tensor, "n c d"],
    others: Float[Tensor, "m c d"] | None = None,
    outputs: str | int | tuple[int, int] = "all",
) -> Tensor:
    """J(x) J(x')^T: (n, c, m, c) for "all", (c, n, m) for "each", else (n, m)."""
    others = rows if others is None else others
    c = rows.shape[1]
    if outputs == "all":
        return torch.einsum("icd,jed->icje", rows, others)
    if outputs == "each":
        return torch.stack([rows[:, k] @ others[:, k].T for k in range(c)])
    if outputs == "sum":
        return sum(rows[:, k] @ others[:, k].T for k in range(c))
    if isinstance(outputs, int):
        return rows[:, outputs] @ others[:, outputs].T
    first, second = outputs
    return (rows[:, second] - rows[:, first]) @ (others[:, second] - others[:, first]).T


def effective_rank(eigenvalues: Float[Tensor, " k"]) -> float:
    """exp(-sum mu log mu), mu the eigenvalues over their sum, 0 log 0 = 0, negatives are 0."""
    values = [max(float(v), 0.0) for v in eigenvalues]
    shares = [v / sum(values) for v in values]
    return math.exp(-sum(s * math.log(s) for s in shares if s > 0))


def trace_ratios(eigenvalues: Float[Tensor, " k"], ks: Sequence[int]) -> list[float]:
    """Share of the trace in the k largest eigenvalues."""
    values = sorted((float(v) for v in eigenvalues), reverse=True)
    return [sum(values[:k]) / sum(values) for k in ks]


def centring(
    samples: int, outputs: int, mode: str | None, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "r r"]:
    """The projection C of C K C for kernels of shape (samples * outputs) squared.

    "all" takes the mean over all rows, "samples" over the samples of each output.
    """
    size = samples * outputs
    identity = torch.eye(size, dtype=dtype)
    if mode is None:
        return identity
    if mode == "all":
        return identity - torch.ones(size, size, dtype=dtype) / size
    mean = torch.ones(samples, samples, dtype=dtype) / samples
    return identity - torch.kron(mean, torch.eye(outputs, dtype=dtype))


def alignment(
    first: Float[Tensor, "r r"], second: Float[Tensor, "r r"], projection: Float[Tensor, "r r"]
) -> float:
    """tr(C K C C K' C) / (|C K C| |C K' C|)."""
    one, two = projection @ first @ projection, projection @ second @ projection
    return float((one @ two).trace() / (one.norm() * two.norm()))


def label_kernel(
    labels: Int[Tensor, " n"], outputs: int, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "r r"]:
    """Y Y^T of rank one, Y the one-hot rows one after the other, shape (n c)."""
    y = nn.functional.one_hot(labels, outputs).to(dtype).reshape(-1)
    return torch.outer(y, y)
