"""What pooling and random weights do to directions, where it can be written down.

A linear pooling layer is a filter and a choice of every S-th number. In frequencies, with unitary
transforms of the signals, `z = A (m * x)`: the filter's response m, and `A = [I ... I] / sqrt(S)`,
which adds up S frequencies (aliasing). The model with parameters theta and phi is

    f(x) = theta^T A (m * phi * x)

Formulas are corrected; those that their source prints otherwise have that with `printed=True`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.errors import InputError

SIGNALS = ("real", "complex")


def aliasing(size: int, factor: int) -> Float[Tensor, "M D"]:
    """A, which adds up the frequencies that subsampling cannot tell apart.

    Args:
        size: D, of the signals.
        factor: S, a divisor of D.

    Raises:
        InputError: it is none.

    Source:
        Ortiz-Jimenez et al. 2020, eq. 1.

    Example:
        >>> from pullback.anisotropy.closed_forms import aliasing
        >>> aliasing(4, 2) * 2**0.5
        tensor([[1., 0., 1., 0.],
                [0., 1., 0., 1.]])
    """
    _check_factor(size, factor)
    return torch.eye(size // factor).repeat(1, factor) / math.sqrt(factor)


def average_response(size: int, length: int) -> Tensor:
    """The frequency response of a moving average, shape (D,), complex.

    It is the transform, not made unitary, of `length` taps of `1 / length`.

    Raises:
        InputError: the average is longer than the signal.

    Example:
        >>> from pullback.anisotropy.closed_forms import average_response
        >>> average_response(4, 2).abs()
        tensor([1.0000, 0.7071, 0.0000, 0.7071])
    """
    if not 1 <= length <= size:
        raise InputError(f"length: {length}; give 1 to {size}")
    taps = torch.zeros(size)
    taps[:length] = 1 / length
    return torch.fft.fft(taps)


def pooled_accuracy(
    response: Tensor,
    factor: int,
    epsilon: int | float = 1.0,
    sigma: int | float = 1.0,
    signals: str = "real",
    printed: bool = False,
) -> Float[Tensor, " D"]:
    """The best accuracy that is left after pooling, for samples of each Fourier direction.

    The samples are those of `separable`. For real signals it holds for the direction of the real
    part of a frequency whose aliases do not meet their own mirrors; `layer_accuracy` knows no
    exceptions.

    Args:
        response: m, of the pooling filter, shape (D,).
        factor: S.
        epsilon: see `separable`.
        sigma: see there.
        signals: "real", or "complex" for circular noise.
        printed: the source's formula, which is right for complex signals at S = 4 and for real ones
            at S = 2, and nowhere else.

    Raises:
        InputError: a number is out of range, or no such signals.

    Source:
        Ortiz-Jimenez et al. 2020, theorem 1.

    Example:
        >>> from pullback.anisotropy.closed_forms import average_response, pooled_accuracy
        >>> pooled_accuracy(average_response(128, 4), factor=4)[10]
        tensor(0.9507)
    """
    size = len(response)
    _check_factor(size, factor)
    if signals not in SIGNALS or not (epsilon > 0 and sigma > 0):
        raise InputError(
            f"signals, epsilon, sigma: {signals!r}, {epsilon}, {sigma}; signals are one of "
            f"{SIGNALS}, and both numbers positive"
        )
    power = response.abs().square().double()
    aliases = power.view(factor, -1).sum(0).repeat(factor) - power
    # What is left of zeros by rounding is no noise.
    aliases = torch.where(aliases > 1e-12 * power.max(), aliases, 0.0)
    signal = torch.where(power > 1e-12 * power.max(), power, 0.0)
    ratio = torch.where(signal > 0, (signal / aliases).sqrt(), 0.0) * epsilon / sigma
    if printed:
        ratio = ratio * math.sqrt(2 * factor) / 2
    elif signals == "complex":
        ratio = ratio * math.sqrt(2)
    return torch.special.ndtr(ratio).to(response.abs().dtype)


def layer_accuracy(
    layer: Float[Tensor, "M D"],
    direction: Float[Tensor, " D"],
    epsilon: int | float = 1.0,
    sigma: int | float = 1.0,
) -> float:
    """The best accuracy that is left of `separable` samples after any linear layer.

    1 where the direction has a part that no noise reaches.

    Args:
        layer: P.
        direction: v, of any length.
        epsilon: see `separable`.
        sigma: see there.

    Raises:
        InputError: the shapes do not fit, or a number is not positive.

    Example:
        >>> import torch
        >>> from pullback.anisotropy.closed_forms import layer_accuracy
        >>> layer = torch.tensor([[1.0, 1.0]])  # adds up both numbers, noise and all
        >>> round(layer_accuracy(layer, torch.tensor([1.0, 0.0])), 4)
        0.8413
    """
    if layer.shape[1] != len(direction) or not (epsilon > 0 and sigma > 0):
        raise InputError(
            f"layer, direction, epsilon, sigma: shapes {tuple(layer.shape)} and "
            f"{tuple(direction.shape)}, {epsilon}, {sigma}; they have to fit and be positive"
        )
    p, v = layer.double(), direction.double() / direction.double().norm()
    seen = p @ v
    across = p - seen.outer(v)
    values, vectors = torch.linalg.eigh(across @ across.T)
    noisy = values > len(values) * 1e-13 * max(float(values.max()), float(seen.square().sum()))
    parts = (vectors.T @ seen).square()
    if float(parts[~noisy].sum()) > 1e-12 * float(parts.sum()) > 0:
        return 1.0
    ratio = epsilon / sigma * float((parts[noisy] / values[noisy]).sum()) ** 0.5
    return float(torch.special.ndtr(torch.tensor(ratio, dtype=torch.float64)))


@dataclass(frozen=True, eq=False)
class PooledHessian:
    """The mean second derivative of the squared loss of the pooled linear model.

    Attributes:
        theta: by theta, diagonal, shape (M,).
        phi: by phi, diagonal, shape (D,).
        cross: by theta and phi, shape (M, D).
    """

    theta: Float[Tensor, " M"]
    phi: Float[Tensor, " D"]
    cross: Float[Tensor, "M D"]


def pooled_hessian(
    response: Float[Tensor, " D"],
    factor: int,
    place: int,
    epsilon: int | float = 1.0,
    sigma: int | float = 1.0,
    theta: int | float = 1.0,
    phi: int | float = 1.0,
    printed: bool = False,
) -> PooledHessian:
    """The mean Hessian of `(y - f)^2` over random weights and samples `epsilon y e_l + w`.

    Here w is normal with variance sigma^2 in all directions.

    Args:
        response: m, real.
        factor: S.
        place: l, where the signal is.
        epsilon: its size.
        sigma: of the noise.
        theta: standard deviation of the weights theta.
        phi: of phi.
        printed: the source's formula, without the factor 1/S and with no cross terms.

    Raises:
        InputError: a number is out of range.

    Source:
        Ortiz-Jimenez et al. 2020, lemma 1 and appendix B.2.

    Example:
        >>> import torch
        >>> from pullback.anisotropy.closed_forms import pooled_hessian
        >>> pooled_hessian(torch.tensor([1.0, 0.5, 0.2, 0.1]), factor=2, place=1).theta
        tensor([1.0400, 0.5100])
    """
    size = len(response)
    _check_factor(size, factor)
    if not 0 <= place < size:
        raise InputError(f"place: {place}; give 0 to {size - 1}")
    rows = size // factor
    power = response.square()
    signal = torch.zeros_like(power)
    signal[place] = epsilon**2 * power[place]
    both = signal + sigma**2 * power
    cross = response.new_zeros(rows, size)
    if printed:
        folded = signal.view(factor, rows).sum(0)
        folded = folded + sigma**2 * power.view(factor, rows).sum(0) / factor
        return PooledHessian(2 * phi**2 * folded, 2 * theta**2 * both, cross)
    cross[place % rows, place] = -2 * epsilon * response[place] / math.sqrt(factor)
    folded = both.view(factor, rows).sum(0)
    return PooledHessian(2 * phi**2 * folded / factor, 2 * theta**2 * both / factor, cross)


def convergence_ratio(
    response: Float[Tensor, " D"], epsilon: int | float = 1.0, sigma: int | float = 1.0
) -> Float[Tensor, " D"]:
    """`epsilon^2 m^2 / (sigma^2 max m^2)`: large where a signal is learned fast.

    Source:
        Ortiz-Jimenez et al. 2020, section 2.2.

    Example:
        >>> import torch
        >>> from pullback.anisotropy.closed_forms import convergence_ratio
        >>> convergence_ratio(torch.tensor([1.0, 0.5]), epsilon=2.0)
        tensor([4., 1.])
    """
    power = response.square()
    return epsilon**2 * power / (sigma**2 * power.max())


def pooled_covariance(
    response: Float[Tensor, " D"],
    factor: int,
    theta: int | float = 1.0,
    phi: int | float = 1.0,
    printed: bool = False,
) -> Float[Tensor, " D"]:
    """The diagonal of the gradient covariance of the pooled linear model; the rest is zero.

    Source:
        Ortiz-Jimenez et al. 2020, eq. 4, which has no 1/S.

    Example:
        >>> import torch
        >>> from pullback.anisotropy.closed_forms import pooled_covariance
        >>> pooled_covariance(torch.tensor([1.0, 0.5]), factor=2)
        tensor([0.5000, 0.1250])
    """
    _check_factor(len(response), factor)
    return theta**2 * phi**2 * response.square() / (1 if printed else factor)


def pooled_mixed(
    response: Float[Tensor, " D"],
    factor: int,
    theta: int | float = 1.0,
    phi: int | float = 1.0,
    printed: bool = False,
) -> Float[Tensor, " D"]:
    """The diagonal of the mean of `M^T M` of the pooled linear model; the rest is zero.

    Source:
        Ortiz-Jimenez et al. 2020, eq. 5, which has 1/S for phi alone.

    Example:
        >>> import torch
        >>> from pullback.anisotropy.closed_forms import pooled_mixed
        >>> pooled_mixed(torch.tensor([1.0, 0.5]), factor=2)
        tensor([1.0000, 0.2500])
    """
    _check_factor(len(response), factor)
    scale = theta**2 + phi**2 / factor if printed else (theta**2 + phi**2) / factor
    return scale * response.square()


def hidden_layer_variance(
    hidden: int,
    inputs: int,
    theta: int | float = 1.0,
    phi: int | float = 1.0,
    printed: bool = False,
) -> float:
    """What the gradient covariance of `theta^T relu(Phi^T x)` is of the identity, for x not 0.

    Args:
        hidden: units.
        inputs: D, which the printed formula has in place of the units.
        theta: standard deviation of the weights of the last layer.
        phi: of those of the first.
        printed: see above.

    Source:
        Ortiz-Jimenez et al. 2020, appendix C.2, example 3.

    Example:
        >>> from pullback.anisotropy.closed_forms import hidden_layer_variance
        >>> hidden_layer_variance(hidden=10, inputs=6)
        5.0
    """
    return (inputs if printed else hidden) / 2 * theta**2 * phi**2


def rectified_pooled_covariance(
    response: Float[Tensor, " D"],
    factor: int,
    at: Float[Tensor, " D"],
    theta: int | float = 1.0,
    phi: int | float = 1.0,
    printed: bool = False,
) -> Float[Tensor, "D D"]:
    """The gradient covariance of `theta^T A (m * relu(phi * x))` at x.

    Args:
        response: m, real.
        factor: S.
        at: x.
        theta: standard deviation of the weights theta.
        phi: of phi.
        printed: with the source's second moment of a rectified weight, `(1 - 2 / pi) phi^2 / 2`
            where x is not zero.

    Source:
        Ortiz-Jimenez et al. 2020, appendix C.2, example 4.

    Example:
        >>> import torch
        >>> from pullback.anisotropy.closed_forms import rectified_pooled_covariance
        >>> response = torch.tensor([1.0, 0.5])
        >>> rectified_pooled_covariance(response, factor=2, at=torch.tensor([1.0, -1.0]))
        tensor([[ 0.2500, -0.0398],
                [-0.0398,  0.0625]])
    """
    size = len(response)
    _check_factor(size, factor)
    signs = at.sign()
    moments = phi**2 / (2 * math.pi) * signs.outer(signs)
    moments.diagonal().copy_(
        torch.where(at == 0, phi**2, phi**2 / 2 * ((1 - 2 / math.pi) if printed else 1))
    )
    places = torch.arange(size) % (size // factor)
    together = places[:, None] == places
    found: Tensor = theta**2 / factor * together * response.outer(response) * moments
    return found


def marchenko_pastur(size: int, samples: int) -> tuple[float, float]:
    """Where the eigenvalues of a sample covariance lie whose true one is the identity.

    In the limit of many dimensions: from `(1 - sqrt(D/T))^2` to `(1 + sqrt(D/T))^2`.

    Raises:
        InputError: fewer samples than dimensions.

    Example:
        >>> from pullback.anisotropy.closed_forms import marchenko_pastur
        >>> marchenko_pastur(size=100, samples=400)
        (0.25, 2.25)
    """
    if not 0 < size <= samples:
        raise InputError(f"size, samples: {size}, {samples}; give at least as many samples")
    root = math.sqrt(size / samples)
    return (1 - root) ** 2, (1 + root) ** 2


def _check_factor(size: int, factor: int) -> None:
    if factor < 1 or size % factor:
        raise InputError(f"factor: {factor} does not divide the size {size}")
