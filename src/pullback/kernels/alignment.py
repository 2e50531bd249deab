"""Kernel alignment by parts: of layers, of classes, of groups of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from pullback.batches import all_finite
from pullback.errors import InputError
from pullback.kernels.dense import TangentKernel


def layer_alignment(
    kernel: TangentKernel, targets: Tensor | TangentKernel, centring: str | None = "all"
) -> dict[str, float]:
    """The kernel alignment of each layer's kernel with labels, in [0, 1].

    A layer whose centred kernel is zero, because it does not vary with the sample, has 0.

    Args:
        kernel: computed with `by_layer=True`.
        targets: labels or another kernel, as for `TangentKernel.alignment`.
        centring: "all" or "samples" for centred kernel alignment, None for the uncentred one.

    Raises:
        InputError: the kernel has no layers, or the targets do not fit or are constant.

    Source:
        George 2023, section 6.3.3; Baratin 2021, chapter 4, section 3.3.

    Example:
        >>> import torch, pullback as pb
        >>> from pullback.kernels.alignment import layer_alignment
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 3))
        >>> kernel = pb.tangent_kernel(model, torch.randn(5, 2), by_layer=True)
        >>> list(layer_alignment(kernel, torch.tensor([0, 1, 2, 1, 0])))
        ['0', '1']
    """
    if not kernel.layers:
        raise InputError("kernel: has no layers; take tangent_kernel(..., by_layer=True)")
    return {name: _aligned(layer, targets, centring) for name, layer in kernel.layers.items()}


def class_alignment(
    kernel: TangentKernel, labels: Int[Tensor, " n"], centring: str | None = "all"
) -> dict[int, float]:
    """The kernel alignment with each class against the rest, in [0, 1].

    A class is a function that is 1 on its samples and -1 on others. Where the kernel has one for
    each of several outputs, the class meets that of its own output.

    Args:
        kernel: of one data set with itself.
        labels: the class of each sample, shape (n,).
        centring: "all" or "samples" for centred kernel alignment, None for the uncentred one.

    Returns:
        The alignment of each class that has samples.

    Raises:
        InputError: the labels do not fit the kernel, or are all the same.

    Source:
        Cortes et al. 2012; George 2023, eq. 6.3.3, for one class at a time.

    Example:
        >>> import torch
        >>> from pullback import TangentKernel
        >>> from pullback.kernels.alignment import class_alignment
        >>> class_alignment(TangentKernel(torch.eye(4), 1, True), torch.tensor([0, 0, 1, 1]))
        {0: 0.5773..., 1: 0.5773...}
    """
    _check_labels(kernel, labels)
    if labels.ndim != 1 or labels.is_floating_point():
        raise InputError(
            f"labels: shape {tuple(labels.shape)}; give the number of each class, (n,)"
        )
    present = labels.unique().tolist()
    if len(present) < 2:
        raise InputError(f"labels: all are {present[0]}; give samples of two classes at least")
    largest = len(kernel.matrix) if kernel.matrix.ndim == 3 else kernel.matrix.shape[-1]
    if largest == 1:
        kernel = _of_output(kernel, 0)
    if kernel.matrix.ndim > 2 and not 0 <= present[0] <= present[-1] < largest:
        raise InputError(f"labels: {present[0]} to {present[-1]}, for {largest} outputs")
    sign = labels.to(kernel.matrix.device)
    return {
        label: _aligned(_of_output(kernel, label), 2.0 * (sign == label) - 1, centring)
        for label in present
    }


def group_alignment(
    kernel: TangentKernel,
    labels: Tensor,
    groups: Mapping[str, Tensor],
    centring: str | None = "all",
) -> dict[str, float]:
    """The kernel alignment within groups of samples, such as easy and difficult ones, in [0, 1].

    Args:
        kernel: of one data set with itself.
        labels: of its samples, as for `TangentKernel.alignment`.
        groups: for each name, the numbers of its samples or a mask (n,). Alignments of groups of
            other sizes compare badly, since small kernels align more.
        centring: "all" or "samples" for centred kernel alignment, None for the uncentred one;
            means are those of the group.

    Raises:
        InputError: the labels do not fit the kernel; a group is empty, has a sample twice or one
            that there is not, or labels that are all the same.

    Source:
        George 2023, section 6.3.4; Baratin 2021, chapter 4, section 3.4.

    Example:
        >>> import torch
        >>> from pullback import TangentKernel
        >>> from pullback.kernels.alignment import group_alignment
        >>> y = torch.tensor([1.0, 1.0, -1.0, -1.0])
        >>> kernel = TangentKernel(torch.eye(4), 1, True)
        >>> groups = {"all": torch.arange(4), "ends": torch.tensor([True, False, False, True])}
        >>> group_alignment(kernel, y, groups, centring=None)
        {'all': 0.5, 'ends': 0.7071...}
    """
    return {
        name: _group_alignment(kernel, labels, members, centring, f"groups[{name!r}]")
        for name, members in groups.items()
    }


def _group_alignment(
    kernel: TangentKernel, labels: Tensor, members: Tensor, centring: str | None, name: str
) -> float:
    _check_labels(kernel, labels)
    chosen = members_of(name, members, len(labels)).to(kernel.matrix.device)
    own = labels[chosen.to(labels.device)]
    return _aligned(_restricted(kernel, chosen), own, centring, name)


def hierarchy_ratio(
    kernel: TangentKernel,
    labels: Tensor,
    easy: Tensor,
    difficult: Tensor,
    centring: str | None = "all",
) -> float:
    """The kernel alignment of easy samples over that of as many difficult ones.

    Infinite where the kernel of the difficult ones has nothing to align.

    Args:
        kernel: of one data set with itself.
        labels: of its samples, as for `TangentKernel.alignment`.
        easy: the numbers of the easy samples, or a mask (n,).
        difficult: those of the difficult ones, as many.
        centring: as for `group_alignment`.

    Raises:
        InputError: as for `group_alignment`, or the groups differ in size.

    Source:
        George 2023, section 6.3.4; Baratin 2021, chapter 4, section 3.4.

    Example:
        >>> import torch
        >>> from pullback import TangentKernel
        >>> from pullback.kernels.alignment import hierarchy_ratio
        >>> y = torch.tensor([1.0, -1.0, 1.0, -1.0])
        >>> learned = torch.block_diag(torch.outer(y[:2], y[:2]), torch.eye(2))
        >>> kernel = TangentKernel(learned, 1, True)
        >>> hierarchy_ratio(kernel, y, torch.tensor([0, 1]), torch.tensor([2, 3]), centring=None)
        1.4142...
    """
    sizes = [len(members_of("easy", easy, len(labels)))]
    sizes += [len(members_of("difficult", difficult, len(labels)))]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"easy, difficult: {sizes[0]} and {sizes[1]} samples; give groups of equal size, since "
            "small kernels align more"
        )
    above = _group_alignment(kernel, labels, easy, centring, "easy")
    below = _group_alignment(kernel, labels, difficult, centring, "difficult")
    return above / below if below else math.inf


def _check_labels(kernel: TangentKernel, labels: Tensor) -> None:
    n = kernel.matrix.shape[0 if kernel.matrix.ndim != 3 else 1]
    if not kernel.symmetric:
        raise InputError("kernel: of two data sets; take that of one with itself")
    if len(labels) != n:
        raise InputError(f"labels: {len(labels)} of them for a kernel of {n} samples")


def _of_output(kernel: TangentKernel, number: int) -> TangentKernel:
    """The kernel of one output, where the kernel tells them apart."""
    matrix = kernel.matrix
    if matrix.ndim == 2:
        return kernel
    own = matrix[number] if matrix.ndim == 3 else matrix[:, number, :, number]
    return replace(kernel, matrix=own, layers={})


def _restricted(kernel: TangentKernel, samples: Int[Tensor, " s"]) -> TangentKernel:
    """The kernel of some of the samples."""
    by_sample = (0, 2) if kernel.matrix.ndim == 4 else (-2, -1)
    matrix = kernel.matrix
    for axis in by_sample:
        matrix = matrix.index_select(axis, samples)
    return replace(kernel, matrix=matrix, layers={})


def members_of(name: str, members: Tensor, samples: int) -> Int[Tensor, " s"]:
    """The numbers of a group's samples.

    Args:
        name: what the group is called in errors.
        members: numbers of samples, or a mask (n,).
        samples: how many there are, n.

    Raises:
        InputError: there is no such group.
    """
    if members.dtype == torch.bool:
        if members.shape != (samples,):
            raise InputError(
                f"{name}: a mask of shape {tuple(members.shape)} for {samples} samples"
            )
        members = members.nonzero().squeeze(1)
    if members.ndim != 1 or members.is_floating_point():
        raise InputError(f"{name}: give the numbers of samples, (s,), or a mask")
    if not len(members):
        raise InputError(f"{name}: has no samples; leave it out")
    if int(members.min()) < 0 or int(members.max()) >= samples:
        raise InputError(
            f"{name}: samples {int(members.min())} to {int(members.max())}, but there "
            f"are 0 to {samples - 1}"
        )
    if len(members.unique()) < len(members):
        raise InputError(f"{name}: has a sample more than once")
    return members


def _aligned(
    kernel: TangentKernel,
    targets: Tensor | TangentKernel,
    centring: str | None,
    name: str = "labels",
) -> float:
    """The kernel alignment; 0 where centring leaves nothing of the kernel.

    Raises:
        InputError: it leaves nothing of the labels.
    """
    if isinstance(targets, Tensor) and not all_finite(targets):
        raise InputError(f"{name}: some labels are NaN or infinite")
    theirs = targets if isinstance(targets, TangentKernel) else kernel._of_labels(targets)
    if vanishes(theirs, centring):
        raise InputError(f"{name}: all labels are the same; give samples of two classes at least")
    return 0.0 if vanishes(kernel, centring) else kernel.alignment(theirs, centring)


def vanishes(kernel: TangentKernel, centring: str | None) -> bool:
    """Whether centring leaves no more of a kernel than rounding."""
    left = kernel if centring is None else kernel.centred(centring)
    return left.norm() <= 100 * torch.finfo(kernel.matrix.dtype).eps * kernel.norm()
