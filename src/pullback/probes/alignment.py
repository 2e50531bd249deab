"""Probes: how well the kernel fits the labels, by layer, class and group, and chosen functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.batches import all_finite
from pullback.errors import InputError
from pullback.kernels.alignment import class_alignment, group_alignment, members_of, vanishes
from pullback.kernels.dense import TangentKernel
from pullback.kernels.targets import NORMALISATIONS, target_alignment
from pullback.probes.kernel import KernelSample, parts
from pullback.probes.recorder import Moment

CENTRINGS = {"entries": "all", "samples": "samples"}
"""What the two centrings are called in the records, and by `TangentKernel.alignment`."""


def aligned(kernel: TangentKernel, other: Tensor | TangentKernel, centring: str | None) -> float:
    """The alignment; 0 where centring leaves nothing to align.

    Args:
        kernel: of one data set with itself.
        other: labels that differ, or another kernel.
        centring: "all" or "samples", None for none.
    """
    kernels = [kernel, other] if isinstance(other, TangentKernel) else [kernel]
    if any(vanishes(one, centring) for one in kernels):
        return 0.0
    return kernel.alignment(other, centring)


class LabelAlignment:
    """Centred alignment of the kernel with the labels' kernel y y^T, y the one-hot rows, by layer.

    Two centrings are in use and both are recorded: over all nc entries, and over the samples for
    each output. A layer whose centred kernel is zero has 0.

    Args:
        sample: where the kernel is taken.

    Raises:
        InputError: all samples are of one class.

    Source:
        George 2023, section 6.3.3 (eq. 6.3.3); Baratin 2021, chapter 4, section 3.3.

    Example:
        >>> import torch
        >>> from pullback.probes import KernelSample, LabelAlignment, Moment
        >>> sample = KernelSample(torch.eye(2), torch.tensor([0, 1]))
        >>> LabelAlignment(sample).measure(Moment(torch.nn.Linear(2, 2, bias=False), step=0))
        {'entries': {'all': 0.5773..., '(root)': 0.5773...},
            'samples': {'all': 0.7071..., '(root)': 0.7071...}}
    """

    name = "alignment"

    def __init__(self, sample: KernelSample) -> None:
        sample.check_classes()
        self.sample = sample

    def measure(self, moment: Moment) -> dict[str, dict[str, float]]:
        """`{"entries": {"all": .., layer: ..}, "samples": {"all": .., layer: ..}}`, in [0, 1]."""
        kernel = self.sample.kernel(moment)
        targets = self.sample.targets(kernel.outputs)
        return {
            name: {layer: aligned(part, targets, how) for layer, part in parts(kernel).items()}
            for name, how in CENTRINGS.items()
        }


class ClassAlignment:
    """Centred alignment of the kernel with each class against the rest.

    A class is a function that is 1 on its samples and -1 on others, and meets the kernel of its own
    output, (n, n). Where this does not vary with the sample, it has 0.

    Args:
        sample: where the kernel is taken.

    Raises:
        InputError: all samples are of one class.

    Source:
        Cortes et al. 2012; George 2023, eq. 6.3.3, for one class at a time.

    Example:
        >>> import torch
        >>> from pullback.probes import ClassAlignment, KernelSample, Moment
        >>> sample = KernelSample(torch.eye(4), torch.tensor([0, 0, 1, 1]))
        >>> ClassAlignment(sample).measure(Moment(torch.nn.Linear(4, 2), step=0))
        {'0': 0.5773..., '1': 0.5773...}
    """

    name = "class_alignment"

    def __init__(self, sample: KernelSample) -> None:
        sample.check_classes()
        self.sample = sample

    def measure(self, moment: Moment) -> dict[str, float]:
        """`{"0": alignment, "1": alignment, ...}`, in [0, 1], for the classes that have samples."""
        found = class_alignment(self.sample.kernel(moment), self.sample.labels)
        return {str(label): value for label, value in found.items()}


class GroupAlignment:
    """Centred alignment of the kernel with the labels within groups of samples.

    The kernel and the labels are those of the group's samples, and so are the means. Deep networks
    align with easy samples first; the hierarchy ratio, easy over difficult, says how much.

    Args:
        sample: where the kernel is taken.
        groups: for each name, the numbers of its samples, or a mask (n,). Small kernels align more,
            so take groups of equal size.
        hierarchy: the names of two groups of equal size, whose ratio is wanted too.

    Raises:
        InputError: a group is empty, has a sample twice or one that there is not, or samples of one
            class alone; the hierarchy is not of two groups of equal size.

    Source:
        George 2023, section 6.3.4; Baratin 2021, chapter 4, section 3.4.

    Example:
        >>> import torch
        >>> from pullback.probes import GroupAlignment, KernelSample, Moment
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0], [1.0, 1.0]])
        >>> sample = KernelSample(x, torch.tensor([0, 1, 0, 1]))
        >>> groups = {"easy": torch.tensor([0, 1]), "difficult": torch.tensor([2, 3])}
        >>> probe = GroupAlignment(sample, groups, hierarchy=("easy", "difficult"))
        >>> found = probe.measure(Moment(torch.nn.Linear(2, 2, bias=False), step=0))
        >>> found["samples"], found["ratio"]["samples"]
        ({'easy': 0.7071..., 'difficult': 0.0}, None)
    """

    name = "group_alignment"

    def __init__(
        self,
        sample: KernelSample,
        groups: Mapping[str, Tensor],
        hierarchy: tuple[str, str] | None = None,
    ) -> None:
        self.sample = sample
        self.groups = {
            name: members_of(f"groups[{name!r}]", members, len(sample.labels))
            for name, members in groups.items()
        }
        self.hierarchy = hierarchy
        self._check()

    def _check(self) -> None:
        labels = self.sample.labels
        for name, members in self.groups.items():
            if len(labels[members.to(labels.device)].unique()) < 2:
                raise InputError(
                    f"groups[{name!r}]: all labels are the same; give samples of two classes"
                )
        missing = [name for name in self.hierarchy or () if name not in self.groups]
        if missing:
            raise InputError(f"hierarchy: {missing[0]!r} is none of the groups {[*self.groups]}")
        sizes = [len(self.groups[name]) for name in self.hierarchy or ()]
        if len(set(sizes)) > 1:
            raise InputError(
                f"hierarchy: groups of {sizes[0]} and {sizes[1]} samples; give groups of equal "
                "size, since small kernels align more"
            )

    def measure(self, moment: Moment) -> dict[str, dict[str, float | None]]:
        """`{"entries": {group: ..}, "samples": {group: ..}, "ratio": {"entries": .., ..}}`.

        Alignments are in [0, 1]. The ratio is there where a hierarchy is wanted, and null where its
        second group has nothing to align.
        """
        kernel = self.sample.kernel(moment)
        targets = self.sample.targets(kernel.outputs)
        found: dict[str, dict[str, float | None]] = {
            name: {**group_alignment(kernel, targets, self.groups, centring)}
            for name, centring in CENTRINGS.items()
        }
        if self.hierarchy is not None:
            easy, difficult = self.hierarchy
            found["ratio"] = {
                name: _ratio(found[name][easy], found[name][difficult]) for name in CENTRINGS
            }
        return found


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


class TargetAlignment:
    """Alignment of chosen functions with the kernel, `|E_x[J(x)^T f(x)]|^2`; no kernel is formed.

    All functions share the passes over the samples, and their cost is linear in these.

    Args:
        sample: where the functions are given.
        functions: for each name, one function (n, c) or a batch of them (b, n, c).
        normalise: None for the alignment itself; "rayleigh" for the quotient `f K f / f f`; "trace"
            for this over the trace of K, which compares moments at which the kernel has another
            size.

    Raises:
        InputError: there is no such normalisation; a function has another number of samples or of
            outputs than the first, is not finite, or is zero and to be normalised.

    Source:
        Ortiz-Jimenez et al. 2021, Lemma 1 and appendix B; Ortiz-Jimenez 2023, eqs. 4.4 and 4.6.

    Example:
        >>> import torch
        >>> from pullback.probes import KernelSample, Moment, TargetAlignment
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> functions = {"first": torch.tensor([[1.0], [0.0]]), "both": torch.ones(2, 2, 1)}
        >>> probe = TargetAlignment(KernelSample(x, torch.tensor([0, 1])), functions)
        >>> probe.measure(Moment(torch.nn.Linear(2, 1, bias=False), step=0))
        {'first': 0.25, 'both': [1.25, 1.25]}
    """

    name = "target_alignment"

    def __init__(
        self,
        sample: KernelSample,
        functions: Mapping[str, Tensor],
        normalise: str | None = None,
    ) -> None:
        if normalise not in NORMALISATIONS:
            raise InputError(f"normalise: {normalise!r}; choose one of {NORMALISATIONS}")
        if not functions:
            raise InputError("functions: none; give one at least")
        self.sample = sample
        self.normalise = normalise
        self.batches = {name: tuple(some.shape[:-2]) for name, some in functions.items()}
        outputs = next(iter(functions.values())).shape[-1]
        self.functions = torch.cat(
            [self._checked(name, some, outputs) for name, some in functions.items()]
        )

    def _checked(self, name: str, some: Tensor, outputs: int) -> Float[Tensor, "b n c"]:
        """Functions as one batch."""
        shape = (len(self.sample.inputs), outputs)
        if some.ndim not in (2, 3) or tuple(some.shape[-2:]) != shape:
            raise InputError(
                f"functions[{name!r}]: shape {tuple(some.shape)}; give {shape} for one function on "
                f"the samples, or (b, {shape[0]}, {shape[1]}) for several"
            )
        if not all_finite(some):
            raise InputError(f"functions[{name!r}]: some values are NaN or infinite")
        batch = some.reshape(-1, *shape)
        if self.normalise is not None and not bool(batch.flatten(1).any(1).all()):
            raise InputError(f"functions[{name!r}]: zero everywhere, which has no direction")
        return batch

    def measure(self, moment: Moment) -> dict[str, Any]:
        """`{name: alignment}`, a list of them for a batch; never negative."""
        found = target_alignment(
            moment.model, self.sample.inputs, self.functions, self.normalise, progress=False
        )
        sizes = [batch[0] if batch else 1 for batch in self.batches.values()]
        return {
            name: some.reshape(batch).tolist()
            for (name, batch), some in zip(self.batches.items(), found.split(sizes), strict=True)
        }
