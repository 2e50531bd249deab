"""Tasks made from labelled data: fewer classes, wrong labels, attributes that mislead, mixtures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pullback.errors import InputError


def two_halves(labels: Int[Tensor, " n"], classes: int) -> Float[Tensor, " n"]:
    """1 for the first half of the classes, -1 for the second: CIFAR2, of CIFAR-10.

    Raises:
        InputError: an odd number of classes, or a label beyond it.

    Source:
        Ortiz-Jimenez et al. 2021, section 4.1.

    Example:
        >>> import torch
        >>> from pullback.data import two_halves
        >>> two_halves(torch.tensor([0, 4, 5, 9]), classes=10)
        tensor([ 1.,  1., -1., -1.])
    """
    if classes < 2 or classes % 2:
        raise InputError(f"classes: {classes}; two halves need an even number of them")
    _check_labels(labels, classes)
    return torch.where(labels < classes // 2, 1.0, -1.0)


def of_two_classes(
    labels: Int[Tensor, " n"], first: int, second: int
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """The samples of two classes, and 1 for the first class and -1 for the second.

    Returns:
        The numbers of the m samples, in their order, and their labels.

    Raises:
        InputError: the classes are the same, or one has no samples.

    Example:
        >>> import torch
        >>> from pullback.data import of_two_classes
        >>> of_two_classes(torch.tensor([3, 5, 1, 5]), first=5, second=3)
        (tensor([0, 1, 3]), tensor([-1.,  1.,  1.]))
    """
    if first == second:
        raise InputError(f"first, second: both are {first}; give two classes")
    for label in (first, second):
        if not bool((labels == label).any()):
            raise InputError(f"labels: none is {label}")
    chosen = ((labels == first) | (labels == second)).nonzero().squeeze(1)
    return chosen, torch.where(labels[chosen] == first, 1.0, -1.0)


@dataclass(frozen=True, eq=False)
class NoisyLabels:
    """Labels, some of them wrong. Made by `noisy_labels`.

    Attributes:
        labels: what to train on.
        noisy: which of them are wrong.
    """

    labels: Int[Tensor, " n"]
    noisy: Bool[Tensor, " n"]


def noisy_labels(
    labels: Int[Tensor, " n"], share: float, classes: int, seed: int = 0
) -> NoisyLabels:
    """Replace a share of the labels by a wrong class each, drawn uniformly.

    Args:
        labels: from 0 to classes - 1.
        share: of the labels, in [0, 1]; exactly so many, rounded, are wrong.
        classes: how many there are.
        seed: of what is drawn.

    Raises:
        InputError: the share is no share, or a label is beyond the classes.

    Source:
        George 2023, section 5.3.3 (15 % of the labels).

    Example:
        >>> import torch
        >>> from pullback.data import noisy_labels
        >>> found = noisy_labels(torch.zeros(20, dtype=torch.long), share=0.15, classes=10)
        >>> int(found.noisy.sum()), bool((found.labels[found.noisy] != 0).all())
        (3, True)
    """
    if not 0 <= share <= 1:
        raise InputError(f"share: {share}; give a number from 0 to 1")
    if classes < 2:
        raise InputError(f"classes: {classes}; a wrong label needs two classes at least")
    _check_labels(labels, classes)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    away = torch.randint(1, classes, (len(chosen),), generator=generator)
    wrong = labels.clone()
    wrong[chosen] = (labels[chosen] + away.to(labels)) % classes
    return NoisyLabels(wrong, wrong != labels)


def _check_labels(labels: Int[Tensor, " n"], classes: int) -> None:
    if not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= classes:
        seen = f"{int(labels.min())} to {int(labels.max())}" if len(labels) else "none"
        raise InputError(f"labels: {seen}; give classes from 0 to {classes - 1}")


def attributes(
    labels: Int[Tensor, " n"], frequency: Mapping[int, float], seed: int = 0
) -> Int[Tensor, " n"]:
    """A second property of each sample, 0 or 1, that goes along with its label more or less.

    Args:
        labels: of the samples.
        frequency: for each label the share of its samples that has the attribute; exactly so
            many, rounded.
        seed: of which they are.

    Raises:
        InputError: a label has no frequency, or one is no share.

    Source:
        George 2023, section 5.3.4: 24 % of the women are blond, and 2 % of the men.

    Example:
        >>> import torch
        >>> from pullback.data import attributes
        >>> labels = torch.tensor([0] * 10 + [1] * 10)
        >>> found = attributes(labels, {0: 0.1, 1: 0.9})
        >>> int(found[:10].sum()), int(found[10:].sum())
        (1, 9)
    """
    present = labels.unique().tolist()
    missing = [label for label in present if label not in frequency]
    if missing or not all(0 <= share <= 1 for share in frequency.values()):
        raise InputError(
            f"frequency: {dict(frequency)}; give a share from 0 to 1 for each of {present}"
        )
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros_like(labels)
    for label in present:
        own = (labels == label).nonzero().squeeze(1)
        shuffled = own[torch.randperm(len(own), generator=generator)]
        found[shuffled[: round(frequency[label] * len(own))]] = 1
    return found


def coloured(
    images: Float[Tensor, "n 1 h w"], attribute: Int[Tensor, " n"]
) -> Float[Tensor, "n 3 h w"]:
    """Grey images in red, where the attribute is 0, or green, where it is 1.

    The darkest value of all images is the black of the other channels.

    Raises:
        InputError: the images are not grey, or not as many as the attributes.

    Example:
        >>> import torch
        >>> from pullback.data import coloured
        >>> coloured(torch.ones(2, 1, 1, 1), torch.tensor([0, 1])).flatten(1)
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
        >>> grey = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
        >>> coloured(grey, torch.tensor([0, 1])).flatten(1)
        tensor([[0., 0., 0.],
                [0., 1., 0.]])
    """
    if images.ndim != 4 or images.shape[1] != 1 or len(images) != len(attribute):
        raise InputError(
            f"images, attribute: shapes {tuple(images.shape)} and {tuple(attribute.shape)}; give "
            "grey images (n, 1, h, w) and (n,)"
        )
    found = images.min().expand(len(images), 3, *images.shape[2:]).clone()
    rows = torch.arange(len(images), device=images.device)
    found[rows, attribute.long()] = images[:, 0]
    return found


def groups_of(
    labels: Int[Tensor, " n"], attribute: Int[Tensor, " n"], each: int | None = None, seed: int = 0
) -> dict[tuple[int, int], Int[Tensor, " m"]]:
    """The samples of each pair of a label and an attribute.

    Args:
        labels: of the samples.
        attribute: of the samples.
        each: as many of each pair, drawn without replacement; None for all.
        seed: of which they are.

    Raises:
        InputError: the lengths differ, or a pair has fewer samples.

    Example:
        >>> import torch
        >>> from pullback.data import groups_of
        >>> groups_of(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
        {(0, 0): tensor([0]), (0, 1): tensor([1]), (1, 1): tensor([2])}
    """
    if labels.shape != attribute.shape:
        raise InputError(f"attribute: {len(attribute)} for {len(labels)} labels")
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for label in labels.unique().tolist():
        for value in attribute.unique().tolist():
            own = ((labels == label) & (attribute == value)).nonzero().squeeze(1)
            if each is not None:
                if len(own) < each:
                    raise InputError(
                        f"each: {each}, but label {label} with attribute {value} has {len(own)} "
                        "samples"
                    )
                own = own[torch.randperm(len(own), generator=generator)[:each]].sort()[0]
            if len(own):
                found[label, value] = own
    return found


@dataclass(frozen=True, eq=False)
class Mixture:
    """Easy and difficult samples together, in a random order. Made by `mixture`.

    Attributes:
        inputs: of all samples.
        labels: of all samples.
        difficult: which of them are.
    """

    inputs: Float[Tensor, "n ..."]
    labels: Int[Tensor, " n"]
    difficult: Bool[Tensor, " n"]


def mixture(
    easy: tuple[Tensor, Tensor], difficult: tuple[Tensor, Tensor], seed: int = 0
) -> Mixture:
    """Easy and difficult samples in a random order, and which is which.

    Args:
        easy: inputs and labels.
        difficult: inputs of the same shape and labels: of another data set that looks alike, or of
            this one with labels that are drawn (`noisy_labels(..., share=1)`).
        seed: of the order.

    Raises:
        InputError: the inputs have other shapes, or a set is empty.

    Source:
        George 2023, section 6.3.4 (10,000 easy and 1,000 difficult).

    Example:
        >>> import torch
        >>> from pullback.data import mixture
        >>> easy = torch.zeros(8, 2), torch.zeros(8, dtype=torch.long)
        >>> difficult = torch.ones(2, 2), torch.ones(2, dtype=torch.long)
        >>> found = mixture(easy, difficult)
        >>> bool((found.inputs[found.difficult] == 1).all()), int(found.difficult.sum())
        (True, 2)
    """
    if easy[0].shape[1:] != difficult[0].shape[1:] or not (len(easy[0]) and len(difficult[0])):
        raise InputError(
            f"easy, difficult: inputs of shapes {tuple(easy[0].shape)} and "
            f"{tuple(difficult[0].shape)}; give some of each, of one shape"
        )
    total = len(easy[0]) + len(difficult[0])
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return Mixture(
        torch.cat([easy[0], difficult[0]])[order],
        torch.cat([easy[1], difficult[1]])[order],
        order >= len(easy[0]),
    )
