"""Tasks that single out directions: linearly separable samples, carriers, flips, two features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pullback.anisotropy.bases import check_basis
from pullback.errors import InputError

Samples = tuple[Tensor, Tensor]
"""Inputs (n, *shape) and labels (n,) of 1 and -1."""


def separable(
    direction: Float[Tensor, "*shape"],
    n: int,
    epsilon: int | float = 1.0,
    sigma: int | float = 1.0,
    seed: int = 0,
    half: bool = False,
) -> tuple[Float[Tensor, "n *shape"], Float[Tensor, " n"]]:
    """Samples that only one direction tells apart: `x = epsilon y v + w`, with w orthogonal to v.

    y is 1 or -1 with equal chances, and w normal with variance sigma^2 in the space orthogonal to
    v; so `sign(v^T x)` is right for each sample, whatever the noise.

    Args:
        direction: v, in the shape of an input; of any length, it is normalised.
        n: samples.
        epsilon: how far each class is from 0 along v.
        sigma: standard deviation of the noise.
        seed: of labels and noise.
        half: as in published code, which puts the classes at `epsilon / 2`.

    Raises:
        InputError: the direction is zero, or a number is out of range.

    Source:
        Ortiz-Jimenez et al. 2020, section 2 and appendix A.1: D(v).

    Example:
        >>> import torch
        >>> from pullback.anisotropy import separable
        >>> x, y = separable(torch.tensor([0.0, 2.0]), n=3, sigma=0.0)
        >>> torch.equal(x[:, 1], y)
        True
    """
    length = direction.norm()
    if not 0 < float(length) < float("inf"):
        raise InputError(f"direction: of length {float(length)}; give one that is not zero")
    if n < 1 or not epsilon > 0 or not sigma >= 0:
        raise InputError(
            f"n, epsilon, sigma: {n}, {epsilon}, {sigma}; give at least one sample, a positive "
            "distance and noise that is not negative"
        )
    v = (direction / length).flatten()
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=generator).to(v) * 2 - 1
    noise = torch.randn(n, len(v), generator=generator, dtype=v.dtype)
    noise = sigma * (noise - (noise @ v)[:, None] * v)
    signal = (epsilon / 2 if half else epsilon) * labels
    x = noise + (signal - noise @ v)[:, None] * v
    return x.view(n, *direction.shape), labels


@dataclass(frozen=True, eq=False)
class Carriers:
    """For each class a direction and a sign of its own. Made by `carriers`.

    Attributes:
        vectors: the directions, orthonormal, shape (m, D).
        which: of each class, its direction, shape (classes,).
        signs: of each class, 1 or -1, shape (classes,).
    """

    vectors: Float[Tensor, "m D"]
    which: Int[Tensor, " l"]
    signs: Float[Tensor, " l"]

    def poison(
        self,
        inputs: Float[Tensor, "n ..."],
        labels: Int[Tensor, " n"],
        epsilon: int | float,
        isolate: bool = False,
    ) -> Float[Tensor, "n ..."]:
        """The inputs with `epsilon` times its sign along the direction of each sample's class.

        Nothing else is changed, so that another class's direction keeps what it had; only with
        `isolate` are the carriers by themselves sure to separate the classes.

        Args:
            inputs: of D numbers each.
            labels: classes from 0.
            epsilon: how much is put there.
            isolate: whether the directions of the other classes get 0.

        Raises:
            InputError: a class has no carrier, or the inputs are of another size.
        """
        flat = inputs.flatten(1)
        if flat.shape[1] != self.vectors.shape[1] or len(labels) != len(inputs):
            raise InputError(
                f"inputs, labels: {tuple(inputs.shape)} and {len(labels)}; give inputs of "
                f"{self.vectors.shape[1]} numbers, and a label for each"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.which):
            raise InputError(
                f"labels: {int(labels.min())} to {int(labels.max())}; there are carriers for "
                f"classes 0 to {len(self.which) - 1}"
            )
        vectors = self.vectors.to(flat)
        along = flat @ vectors.T
        wanted = torch.zeros_like(along) if isolate else along.clone()
        rows = torch.arange(len(flat))
        wanted[rows, self.which[labels]] = epsilon * self.signs.to(flat)[labels]
        return (flat + (wanted - along) @ vectors).view(inputs.shape)


def carriers(
    basis: Float[Tensor, "k D"], classes: int, first: int = 0, channels: int = 1
) -> Carriers:
    """Directions that carry the labels: from one place of a basis on, two classes on each.

    Class 2d and class 2d + 1 share the direction d, with the signs -1 and 1. With several channels
    the direction d is the basis vector `first + d // channels` in channel `d % channels` alone.

    Args:
        basis: orthonormal vectors of one channel, one a row, in order.
        classes: how many there are.
        first: the place in the basis where the carriers begin.
        channels: of the inputs.

    Raises:
        InputError: the basis is not orthonormal, or has too few vectors from there on.

    Source:
        Ortiz-Jimenez et al. 2020, section 4.2 and appendix E; the printed index of the channel goes
        beyond their number, and the next vector is taken there.

    Example:
        >>> import torch
        >>> from pullback.anisotropy import carriers
        >>> found = carriers(torch.eye(4), classes=3, first=2)
        >>> found.which, found.signs
        (tensor([0, 0, 1]), tensor([-1.,  1., -1.]))
        >>> found.poison(torch.ones(1, 4), torch.tensor([2]), epsilon=0.5)
        tensor([[ 1.0000,  1.0000,  1.0000, -0.5000]])
    """
    if classes < 2 or channels < 1 or first < 0:
        raise InputError(
            f"classes, channels, first: {classes}, {channels}, {first}; give at least two classes, "
            "one channel and a place from 0"
        )
    check_basis(basis, basis.shape[-1])
    needed = -(-classes // 2)
    vectors = -(-needed // channels)
    if first + vectors > len(basis):
        raise InputError(
            f"basis: {classes} classes in {channels} channels need {vectors} vectors from place "
            f"{first} on, but there are {max(len(basis) - first, 0)}"
        )
    size = basis.shape[1]
    found = basis.new_zeros(needed, channels, size)
    for place in range(needed):
        found[place, place % channels] = basis[first + place // channels]
    numbers = torch.arange(classes)
    return Carriers(found.flatten(1), numbers // 2, (numbers % 2 * 2 - 1).to(basis))


def flipped(
    inputs: Float[Tensor, "n ..."], basis: Float[Tensor, "D D"], channels: int = 1
) -> Float[Tensor, "n ..."]:
    """The inputs with their coefficients in a basis in the opposite order, in each channel.

    Lengths and products stay, and flipping twice gives the inputs back. It is linear, and goes
    along with a mean that is subtracted only if that is flipped too: subtract first.

    Args:
        inputs: `channels` times D numbers each.
        basis: all orthonormal vectors of one channel, one a row.
        channels: of the inputs.

    Raises:
        InputError: the basis is not orthonormal or not whole, or the inputs are of another size.

    Source:
        Ortiz-Jimenez et al. 2020, section 4.2.

    Example:
        >>> import torch
        >>> from pullback.anisotropy import flipped
        >>> flipped(torch.tensor([[1.0, 2.0, 3.0]]), torch.eye(3))
        tensor([[3., 2., 1.]])
    """
    check_basis(basis, len(basis))
    size = len(basis)
    if inputs[:1].numel() != channels * size:
        raise InputError(
            f"inputs: {tuple(inputs.shape)} has not {channels} channels of {size} numbers"
        )
    rows = inputs.reshape(-1, size)
    vectors = basis.to(rows)
    return ((rows @ vectors.T).flip(1) @ vectors).view(inputs.shape)


@dataclass(frozen=True, eq=False)
class TwoFeatures:
    """Images with one more channel that says the label too. Made by `two_features`.

    Attributes:
        train: images and channel agree.
        test: the same, other samples.
        images_alone: the test images with nothing in the channel.
        channel_alone: the channel of the test samples with no images.
    """

    train: Samples
    test: Samples
    images_alone: Samples
    channel_alone: Samples


def two_features(
    train: Samples,
    test: Samples,
    direction: Float[Tensor, "h w"],
    epsilon: int | float = 1.0,
    sigma: int | float = 1.0,
    seed: int = 0,
) -> TwoFeatures:
    """Join images of two classes with a channel of linearly separable samples of the same labels.

    Which of the two a network uses is seen where the other one is taken away.

    Args:
        train: images (n, c, h, w) and labels of 1 and -1.
        test: the same, of other images.
        direction: v of the samples in the channel; see `separable`.
        epsilon: see there.
        sigma: see there.
        seed: of the channel.

    Raises:
        InputError: labels that are not 1 and -1, or a direction of another shape.

    Source:
        Ortiz-Jimenez 2023, section 3.4.3.

    Example:
        >>> import torch
        >>> from pullback.anisotropy import fourier_basis, two_features
        >>> images, labels = torch.randn(50, 3, 8, 8), torch.ones(50)
        >>> direction = fourier_basis((8, 8)).vectors[3].view(8, 8)
        >>> samples = two_features((images, labels), (images, labels), direction)
        >>> samples.train[0].shape, float(samples.channel_alone[0][:, :3].abs().max())
        (torch.Size([50, 4, 8, 8]), 0.0)
    """
    joined = []
    for place, (images, labels) in enumerate((train, test)):
        if images.ndim != 4 or images.shape[2:] != direction.shape:
            raise InputError(
                f"direction: shape {tuple(direction.shape)} for images {tuple(images.shape)}; give "
                "(h, w) and (n, c, h, w)"
            )
        if not bool((labels.abs() == 1).all()):
            raise InputError("train, test: labels have to be 1 and -1")
        channel, drawn = separable(direction, len(images), epsilon, sigma, 2 * seed + place)
        # The noise is symmetric: turned round, a sample is one of the other class.
        channel = channel * (labels.to(channel) * drawn)[:, None, None]
        joined.append(torch.cat([images, channel.unsqueeze(1).to(images)], 1))
    alone = []
    for kept in (slice(None, -1), slice(-1, None)):
        one = torch.zeros_like(joined[1])
        one[:, kept] = joined[1][:, kept]
        alone.append((one, test[1]))
    return TwoFeatures((joined[0], train[1]), (joined[1], test[1]), *alone)
