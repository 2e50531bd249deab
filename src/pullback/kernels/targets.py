"""How well a kernel fits target functions: alignment, norms, energy concentration, rotation.

Target alignment asks for one function at a time, and needs no kernel matrix:

    alpha(f) = E_xx'[f(x) K(x, x') f(x')] = |E_x[J(x)^T f(x)]|^2 = sum_j lambda_j E[phi_j f]^2

What the eigenfunctions say of a function (its norm, where its energy lies) follows from its
coefficients in their basis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pullback.batches import Batches, all_finite, working_memory
from pullback.cotangents import ReadOut
from pullback.errors import InputError
from pullback.jacobian import Jacobian
from pullback.kernels.mercer import Eigenfunctions, flat_targets
from pullback.network import Network
from pullback.parameters import ParameterVector
from pullback.tape.affine import AffineUse
from pullback.tape.sweep import Part, Sweep
from pullback.tape.use import Gradients

NORMALISATIONS = (None, "rayleigh", "trace")


def target_alignment(
    model: nn.Module | Network,
    data: object,
    targets: Tensor,
    normalise: str | None = None,
    memory: int | None = None,
    progress: bool | None = None,
) -> Float[Tensor, "*b"]:
    """The alignment of target functions with the tangent kernel, `|E_x[J(x)^T f(x)]|^2`.

    No kernel is formed: its cost is linear in the samples. Few targets are pulled back one by one;
    more than there are outputs share the backward passes of these. Where a kernel of n samples is
    at hand, `(f * (kernel @ f)).sum() / n**2` is the same.

    Args:
        model: a module, or a `Network` that selects parameters or outputs.
        data: n samples: a tensor, a pair (inputs, targets) or an iterable of batches.
        targets: f on the samples in their order, shape (*b, n, c), or (*b, n) where there is one
            output.
        normalise: None for alpha itself; "rayleigh" for the quotient `f K f / f f` of the kernel
            matrix, `n alpha / E[f^2]`; "trace" for this over the trace of K, which is the same for
            every multiple of the kernel and so compares moments of a training run.
        memory: bytes for intermediate results, a gradient for each target among them; None for a
            default.
        progress: whether to show a progress bar; None shows one on a terminal.

    Returns:
        Shape (*b).

    Raises:
        InputError: the targets have another shape, are not finite, or are zero and to be
            normalised; the data or the model cannot be used.

    Source:
        Ortiz-Jimenez et al. 2021, Lemma 1 and appendix B; Ortiz-Jimenez 2023, eqs. 4.4 and 4.6.

    Example:
        >>> import torch, pullback as pb
        >>> from pullback.kernels.targets import target_alignment
        >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> y = torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.0, 1.0]])
        >>> target_alignment(model, x, y)
        tensor([1.2500, 1.2500, 1.0000])
        >>> target_alignment(model, x, y, normalise="rayleigh")
        tensor([2.5000, 2.5000, 4.0000])
    """
    if normalise not in NORMALISATIONS:
        raise InputError(f"normalise: {normalise!r}; choose one of {NORMALISATIONS}")
    network = Network.of(model)
    sweep = Sweep(network, Batches(data, network.device), ReadOut(), memory, progress)
    functions, batch = _functions(targets, sweep)
    samples = functions.shape[1]
    sums = _squared_gradients(sweep, functions)
    if normalise is None:
        return (sums / samples**2).reshape(batch).to(functions)
    quotients = sums / _energies(functions.flatten(1))
    if normalise == "trace":
        quotients /= sweep.settled(partial(_trace, sweep))
    return quotients.reshape(batch).to(functions)


def _functions(targets: Tensor, sweep: Sweep) -> tuple[Float[Tensor, "t n c"], torch.Size]:
    """Targets as functions of all outputs, and their batch dimensions."""
    samples, outputs = Jacobian(sweep).samples, sweep.plan.outputs
    shape: tuple[int, ...] = (samples, outputs)
    if outputs == 1 and tuple(targets.shape[-2:]) != shape:
        shape = (samples,)
    if tuple(targets.shape[-len(shape) :]) != shape:
        raise InputError(
            f"targets: shape {tuple(targets.shape)} for {samples} samples and {outputs} outputs; "
            f"give (..., {samples}, {outputs}), or Network(model, outputs=...) with one output"
        )
    flat = flat_targets(targets, shape, sweep.network.space.zeros((0,)).flat)
    return flat.reshape(-1, samples, outputs), flat.shape[:-1]


def _energies(rows: Float[Tensor, "t r"]) -> Float[Tensor, " t"]:
    """Squared lengths, in double precision.

    Raises:
        InputError: one is zero.
    """
    squares = rows.double().square().sum(1)
    if not bool(squares.all()):
        first = int((squares == 0).nonzero()[0])
        raise InputError(f"targets: number {first} is zero everywhere, and has no direction")
    return squares


def _squared_gradients(sweep: Sweep, functions: Float[Tensor, "t n c"]) -> Float[Tensor, " t"]:
    """`|sum_i J(x_i)^T f(x_i)|^2` for each target, as many at a time as fit the memory."""
    space = sweep.network.space
    row = space.size * space.dtype.itemsize
    room = working_memory(sweep.memory, space.device, touched=len(functions) * row)
    found = []
    for some in functions.split(max(1, room // row)):
        if len(some) <= functions.shape[2]:
            gradients = Jacobian(sweep).pull(some)
        else:
            gradients = sweep.settled(partial(_contracted, sweep, some))
        found.append(gradients.norm().double().square())
    squares = torch.cat(found)
    if not all_finite(squares):
        raise InputError("gradients: not finite; the network's derivative is NaN or infinite")
    return squares


def _trace(sweep: Sweep) -> float:
    """The trace of the kernel of all outputs, from the norms of gradients."""
    return sum(
        float(part.squared_norm().double().sum())
        for step in sweep.steps("trace")
        for part in step.parts()
    )


def _contracted(sweep: Sweep, functions: Float[Tensor, "t n c"]) -> ParameterVector:
    """`sum_i J(x_i)^T f(x_i)` for each target, all from one backward pass for each output."""
    total = sweep.network.space.zeros((len(functions),))
    touched = total.flat.numel() * total.flat.element_size()
    for step in sweep.steps("target alignment", rows=_widest(sweep), touched=touched):
        samples = slice(step.start, step.start + step.samples)
        weights = functions[:, samples, step.cotangents]
        for part in step.parts():
            use = part.uses[0]
            if len(part.uses) == 1 and isinstance(use, AffineUse) and _at_one_position(use):
                _add_products_(total, use, part.gradients[0], weights, sweep)
            else:
                _add_rows_(total, part, weights)
    return total


def _at_one_position(use: AffineUse) -> bool:
    return use.factorises and use.layout.groups == 1


def _add_products_(
    total: ParameterVector,
    use: AffineUse,
    gradients: Gradients,
    weights: Float[Tensor, "t n k"],
    sweep: Sweep,
) -> None:
    """Add the gradients of an affine use, `sum_n (sum_k f_nk g_nk) a_n^T`, without their rows."""
    g = torch.stack([one[0, ..., 0] for one in gradients]).to(weights)
    inputs = use.a[0, ..., 0].T.to(weights)
    room = working_memory(sweep.memory, g.device) // (g[0].numel() * g.element_size())
    for start in range(0, len(weights), max(1, room)):
        some = slice(start, start + max(1, room))
        combined = torch.einsum("tnk,kon->ton", weights[some], g)
        if use.weight is not None:
            products = (combined @ inputs).unsqueeze(1)
            total[use.weight][some].add_(use.layout.weight_of(products))
        if use.bias is not None:
            total[use.bias][some].add_(combined.sum(2))


def _add_rows_(total: ParameterVector, part: Part, weights: Float[Tensor, "t n k"]) -> None:
    """Add the gradients of a part from those of its samples."""
    columns = weights.mT.flatten(1)
    for name, rows in part.per_sample.items():
        target = total[name]
        products = columns @ rows.to(weights).reshape(columns.shape[1], -1)
        target.add_(products.view(target.shape))


def _widest(sweep: Sweep) -> int:
    """How many parameters the largest use has whose gradients of samples are written out."""
    plan, space = sweep.plan, sweep.network.space
    sizes = [0]
    for use in plan.floats:
        layout = plan.affine.get(use.names)
        if layout is None or layout.groups > 1 or use.inputs > layout.inputs:
            sizes.append(space.floats(use.names))
    return max(sizes)


def rkhs_lower_bound(alignments: Float[Tensor, "*b"], targets: Tensor) -> Float[Tensor, "*b"]:
    """Lemma 1's lower bound on the squared norm in the kernel's space, `E[f^2]^2 / alpha(f)`.

    It takes no small eigenvalue, is attained by eigenfunctions, and infinite for a function that
    the tangent space does not meet.

    Args:
        alignments: alpha of each target, not normalised, shape (*b).
        targets: f on the samples, shape (*b, n) or (*b, n, c).

    Raises:
        InputError: the shapes do not fit, a value is not finite, or a target is zero.

    Source:
        Ortiz-Jimenez et al. 2021, Lemma 1; Ortiz-Jimenez 2023, eq. 4.5.

    Example:
        >>> import torch
        >>> from pullback.kernels.targets import rkhs_lower_bound
        >>> rkhs_lower_bound(torch.tensor(0.5), torch.tensor([1.0, -1.0, 1.0, -1.0]))
        tensor(2.)
    """
    lead = alignments.ndim
    if targets.shape[:lead] != alignments.shape or targets.ndim - lead not in (1, 2):
        raise InputError(
            f"targets: shape {tuple(targets.shape)} for alignments of shape "
            f"{tuple(alignments.shape)}; give the functions that these are of"
        )
    if not all_finite(alignments):
        raise InputError("alignments: some are NaN or infinite")
    rows = flat_targets(targets, targets.shape[lead:], alignments).reshape(alignments.numel(), -1)
    squares = _energies(rows).reshape(alignments.shape) / targets.shape[lead]
    return (squares.square() / alignments.double()).to(alignments)


@dataclass(frozen=True, eq=False)
class RKHSNorm:
    """Squared norms of functions in the space of a kernel, from some of its eigenfunctions.

    Attributes:
        squared: `f (K + jitter)^-1 f` of the part of f that they span, shape (*b).
        captured: the share of `|f|^2` that this part has; below 1, f has a larger norm, and an
            infinite one if no eigenvalue was left out but zeros.
        used: how many eigenvalues went in.
        jitter: what was added to these.
    """

    squared: Float[Tensor, "*b"]
    captured: Float[Tensor, "*b"]
    used: int
    jitter: float


def rkhs_norm(
    eigenfunctions: Eigenfunctions, targets: Tensor, jitter: int | float = 0.0
) -> RKHSNorm:
    """The squared norm of functions in the kernel's space, `f K^-1 f`.

    In Mercer's basis it is `sum_j E[phi_j f]^2 / lambda_j`; for a network the squared length of the
    shortest step of its linearisation that makes the change f on the samples. Without jitter,
    eigenvalues that are only rounding are left out (their `tolerance` says which).

    Args:
        eigenfunctions: all of them for the norm itself; the leading ones for a lower bound.
        targets: f on the samples, (*b, n), or (*b, n, c) for all pairs of outputs.
        jitter: added to the eigenvalues of the kernel matrix.

    Raises:
        InputError: the targets do not fit, are not finite or zero; the jitter is negative; there
            is no eigenvalue to divide by.

    Source:
        Ortiz-Jimenez et al. 2021, eq. 3; Ortiz-Jimenez 2023, eq. 4.3.

    Example:
        >>> import torch, pullback as pb
        >>> from pullback.kernels.targets import rkhs_norm
        >>> from pullback.kernels.mercer import eigenfunctions
        >>> model, x = torch.nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [2.0]])
        >>> found = eigenfunctions(pb.tangent_kernel(model, x, outputs=0))
        >>> norm = rkhs_norm(found, torch.tensor([[3.0, 6.0], [2.0, 0.0]]))
        >>> norm.squared, norm.captured, norm.used
        (tensor([9.0000, 0.1600]), tensor([1.0000, 0.2000]), 1)
    """
    if not 0 <= jitter < math.inf:
        raise InputError(f"jitter: {jitter}; give 0 or a positive number")
    used = len(eigenfunctions.values) if jitter else eigenfunctions.rank
    if not used:
        raise InputError("eigenfunctions: no eigenvalue is more than rounding; the kernel is zero")
    squares, total = _energy(eigenfunctions, targets)
    values = eigenfunctions.values[:used].double().clamp(min=0) + jitter
    like = eigenfunctions.values
    return RKHSNorm(
        (squares[..., :used] / values).sum(-1).to(like),
        (squares[..., :used].sum(-1) / total).to(like),
        used,
        float(jitter),
    )


def _energy(
    eigenfunctions: Eigenfunctions, targets: Tensor
) -> tuple[Float[Tensor, "*b k"], Float[Tensor, "*b"]]:
    """The squares of functions' inner products with each q, and of the functions themselves."""
    shape = eigenfunctions.functions.shape[1:]
    flat = flat_targets(targets, shape, eigenfunctions.functions)
    total = _energies(flat.reshape(-1, flat.shape[-1])).reshape(flat.shape[:-1])
    return shape[0] * eigenfunctions.coefficients(targets).double().square(), total


@dataclass(frozen=True, eq=False)
class EnergyConcentration:
    """How much of functions lies in the span of the leading eigenfunctions.

    Attributes:
        ratio: of lengths, `|Phi_K f| / |f|`, shape (*b); what the article defines.
        energy: its square, `|Phi_K f|^2 / |f|^2`; what the thesis does.
        random_ratio: the root of `random_energy`.
        random_energy: the mean energy of a random direction: K over the number of function values.
    """

    ratio: Float[Tensor, "*b"]
    energy: Float[Tensor, "*b"]
    random_ratio: float
    random_energy: float


def energy_concentration(
    eigenfunctions: Eigenfunctions, targets: Tensor, k: int | None = None
) -> EnergyConcentration:
    """How much of target functions lies in the span of the k leading eigenfunctions.

    The eigenfunctions of another moment, as targets, tell how far the leading subspace has turned:
    the mean of their energies is 1 where it has not.

    Args:
        eigenfunctions: at least k of them.
        targets: f on the samples, (*b, n), or (*b, n, c) for all pairs of outputs; not centred.
        k: how many; None for all that there are.

    Raises:
        InputError: the targets do not fit, are not finite or zero; there are fewer eigenfunctions.

    Source:
        Ortiz-Jimenez et al. 2021, section 4.2 and table 1 (the ratio); Ortiz-Jimenez 2023, section
        4.4.2 (its square).

    Example:
        >>> import torch, pullback as pb
        >>> from pullback.kernels.targets import energy_concentration
        >>> from pullback.kernels.mercer import eigenfunctions
        >>> model, x = torch.nn.Linear(1, 1, bias=False), torch.tensor([[3.0], [4.0]])
        >>> found = eigenfunctions(pb.tangent_kernel(model, x, outputs=0))
        >>> energy_concentration(found, torch.tensor([1.0, 0.0]), k=1)
        EnergyConcentration(ratio=tensor(0.6000), energy=tensor(0.3600),
            random_ratio=0.7071..., random_energy=0.5)
    """
    count = len(eigenfunctions.values) if k is None else k
    if not 1 <= count <= len(eigenfunctions.values):
        raise InputError(f"k: {k}; there are {len(eigenfunctions.values)} eigenfunctions")
    squares, total = _energy(eigenfunctions, targets)
    energy = squares[..., :count].sum(-1) / total
    share = count / eigenfunctions.functions[0].numel()
    like = eigenfunctions.values
    return EnergyConcentration(energy.sqrt().to(like), energy.to(like), math.sqrt(share), share)


@dataclass(frozen=True, eq=False)
class Rotation:
    """How a kernel has turned towards one function.

    Attributes:
        growth: the factor by which each function's alignment has grown, shape (t,).
        ratio: the target's growth over the median of the others'; 1 where the kernel was scaled.
    """

    growth: Float[Tensor, " t"]
    ratio: float


def rotation(before: Float[Tensor, " t"], after: Float[Tensor, " t"], target: int) -> Rotation:
    """How much more a target's alignment has grown than that of other functions.

    Args:
        before: `target_alignment` of t functions, such as the eigenfunctions at the start.
        after: of the same functions, later.
        target: which of them was learned, from 0.

    Raises:
        InputError: the two have other lengths or fewer than two functions, are not finite, or not
            positive before; there is no function of that number.

    Source:
        Ortiz-Jimenez et al. 2021, section 4.2 and figure 7; Ortiz-Jimenez 2023, section 4.4.2.

    Example:
        >>> import torch
        >>> from pullback.kernels.targets import rotation
        >>> rotation(torch.tensor([4.0, 2.0, 1.0]), torch.tensor([8.0, 4.0, 20.0]), target=2)
        Rotation(growth=tensor([ 2.,  2., 20.]), ratio=10.0)
    """
    if before.shape != after.shape or len(before) < 2:
        raise InputError(
            f"before, after: {len(before)} and {len(after)} alignments; give those of the same "
            "functions, two at least"
        )
    if not (all_finite(before) and all_finite(after)):
        raise InputError("before, after: some alignments are NaN or infinite")
    if not bool((before > 0).all()):
        first = int((before <= 0).nonzero()[0])
        raise InputError(f"before: function {first} has no alignment to grow; leave it out")
    if not 0 <= target < len(before):
        raise InputError(f"target: {target}; there are functions 0 to {len(before) - 1}")
    growth = after / before
    others = torch.cat([growth[:target], growth[target + 1 :]]).double()
    return Rotation(growth, float(growth[target]) / float(others.quantile(0.5)))
