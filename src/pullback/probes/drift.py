"""Probes: how far the kernel has moved from the one at a reference point, and which way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pullback.errors import InputError
from pullback.kernels.mercer import eigenfunctions
from pullback.kernels.tangent import tangent_kernel
from pullback.kernels.targets import energy_concentration, rotation, target_alignment
from pullback.probes.alignment import aligned
from pullback.probes.kernel import KernelSample, parts
from pullback.probes.quiet import undisturbed
from pullback.probes.recorder import Moment


class KernelDrift:
    """Alignment of the kernel with the kernel at the reference point, by layer.

    1 means that the network still learns in the features it had there; the further below, the more
    the features have turned. A layer whose kernel does not vary with the sample has 0.

    Args:
        sample: where the kernel is taken.
        start: the model at the reference point; its kernel is computed now.
        centring: "samples" or "all" for centred alignment, None for the uncentred one.

    Source:
        Cortes et al. 2012; George 2023, eq. 6.3.3, with another kernel in the place of the labels';
        section 5.2 (tangent kernel alignment, not centred).

    Example:
        >>> import torch
        >>> from pullback.probes import KernelDrift, KernelSample, Moment
        >>> model = torch.nn.Linear(2, 2)  # its kernel is the same at all weights
        >>> probe = KernelDrift(KernelSample(torch.eye(2), torch.tensor([0, 1])), model)
        >>> torch.nn.init.zeros_(model.weight).shape, probe.measure(Moment(model, step=1))
        (torch.Size([2, 2]), {'all': 1.0, '(root)': 1.0})
    """

    name = "drift"

    def __init__(
        self, sample: KernelSample, start: nn.Module, centring: str | None = "samples"
    ) -> None:
        if centring not in ("samples", "all", None):
            raise InputError(f"centring: {centring!r}; choose 'samples', 'all' or None")
        self.sample = sample
        self.centring = centring
        with undisturbed(start) as model:
            self.start = sample.of(model)

    def measure(self, moment: Moment) -> dict[str, float]:
        """`{"all": alignment, layer: alignment}`, in [0, 1]."""
        now, then = parts(self.sample.kernel(moment)), parts(self.start)
        return {layer: aligned(now[layer], then[layer], self.centring) for layer in now}


class SubspaceOverlap:
    """How much of the leading eigenfunctions at the reference point the leading ones now span.

    The overlap is the mean share of the lengths squared, `|Q_t^T Q_0|^2 / k` with the k leading
    eigenfunctions of each moment in the columns: 1 for the same subspace, k / nc on average for a
    random one. Where the k-th eigenvalue is close to the next, a small move turns the subspace.

    Args:
        sample: where the kernel, which is not centred, is taken.
        start: the model at the reference point; its kernel is computed now.
        ks: numbers of eigenfunctions.

    Raises:
        InputError: a number is not positive, or there are fewer eigenvalues above rounding at the
            reference point.

    Source:
        Ortiz-Jimenez et al. 2021, section 4.2, with the eigenfunctions at the start as targets.

    Example:
        >>> import torch
        >>> from pullback.probes import KernelSample, Moment, SubspaceOverlap
        >>> model = torch.nn.Linear(2, 2)
        >>> sample = KernelSample(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
        >>> SubspaceOverlap(sample, model, ks=[2]).measure(Moment(model, step=0))
        {'2': {'overlap': 1.0, 'random': 0.5}}
    """

    name = "subspace_overlap"

    def __init__(self, sample: KernelSample, start: nn.Module, ks: Sequence[int] = (10,)) -> None:
        if not ks or any(k < 1 for k in ks):
            raise InputError(f"ks: {tuple(ks)}; give numbers of eigenfunctions, 1 or more")
        self.sample = sample
        self.ks = tuple(ks)
        with undisturbed(start) as model:
            self.functions = _leading(sample, model, max(ks), "ks")

    def measure(self, moment: Moment) -> dict[str, dict[str, float]]:
        """`{"10": {"overlap": share in [0, 1], "random": that of random subspaces}, ...}`."""
        pairs = self.sample.eigenfunctions(moment)
        found = {}
        for k in self.ks:
            shares = energy_concentration(pairs, self.functions[:k], k)
            found[str(k)] = {
                "overlap": float(shares.energy.mean()),
                "random": shares.random_energy,
            }
        return found


class KernelRotation:
    """How much more the alignment of the labels grows than that of the kernel's own functions.

    The functions are the leading eigenfunctions of the kernel at the reference point, not centred;
    the labels are taken without their mean over samples. No kernel is formed later.

    Args:
        sample: where the functions are taken.
        start: the model at the reference point.
        k: how many eigenfunctions.

    Raises:
        InputError: there are fewer eigenvalues above rounding at the reference point; all samples
            are of one class.

    Source:
        Ortiz-Jimenez et al. 2021, section 4.2 and figure 7; Ortiz-Jimenez 2023, section 4.4.2.

    Example:
        >>> import torch
        >>> from pullback.probes import KernelRotation, KernelSample, Moment
        >>> model = torch.nn.Linear(2, 2)  # its kernel is the same at all weights
        >>> sample = KernelSample(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
        >>> KernelRotation(sample, model, k=2).measure(Moment(model, step=0))
        {'labels': 1.0, 'functions': [1.0, 1.0], 'ratio': 1.0}
    """

    name = "rotation"

    def __init__(self, sample: KernelSample, start: nn.Module, k: int = 20) -> None:
        sample.check_classes()
        self.sample = sample
        with undisturbed(start) as model:
            leading = _leading(sample, model, k, "k")
            labels = sample.centred_targets(leading.shape[-1]).to(leading)
            self.functions = torch.cat([labels.unsqueeze(0), leading])
            self.before = self._alignments(model)

    def _alignments(self, model: nn.Module) -> Float[Tensor, " t"]:
        return target_alignment(model, self.sample.inputs, self.functions, progress=False)

    def measure(self, moment: Moment) -> dict[str, Any]:
        """`{"labels": growth, "functions": [growth, ...], "ratio": of the first to the median}`."""
        found = rotation(self.before, self._alignments(moment.model), target=0)
        growth = found.growth.tolist()
        return {"labels": growth[0], "functions": growth[1:], "ratio": found.ratio}


def _leading(sample: KernelSample, model: nn.Module, k: int, name: str) -> Float[Tensor, "k n c"]:
    """The leading eigenfunctions of the kernel at the reference point.

    Raises:
        InputError: there are fewer.
    """
    found = eigenfunctions(tangent_kernel(model, sample.inputs, progress=False))
    if not 1 <= k <= found.rank:
        raise InputError(
            f"{name}: {k} eigenfunctions, but the kernel has {found.rank} eigenvalues above "
            f"rounding there; give 1 to {found.rank}"
        )
    return found.functions[:k]
