"""Infinitely wide networks against quadrature, loops, the literature and finite networks."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, special
from torch import Tensor, nn

import pullback as pb
from pullback.kernels.infinite import (
    Activation,
    AveragePool,
    Convolution,
    Dense,
    Erf,
    Identity,
    InfiniteNetwork,
    Layer,
    Linear,
    Relu,
)
from tests.checks import REFUSED, SINGLE, assert_agree

ROOT = 2**0.5
Expectations = Callable[[Activation, float, float, float], tuple[float, float]]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


# The slow twins: Gaussian expectations by quadrature, and the recursion in loops.


def by_quadrature(
    activation: Activation, first: float, second: float, covariance: float
) -> tuple[float, float]:
    """E f(u) f(v) and E f'(u) f'(v) for Gaussian u, v of these variances."""
    noise = math.sqrt(max(second - covariance**2 / first, 0.0))
    if isinstance(activation, Relu):
        return _rectified(first, covariance / first, noise)
    nodes = np.linspace(-9, 9, 400)  # for an entire function the error falls exponentially
    weights = np.exp(-(nodes**2) / 2)
    weights /= weights.sum()
    u = math.sqrt(first) * nodes[:, None]
    v = covariance / first * u + noise * nodes
    mass = weights[:, None] * weights
    slopes = 4 / math.pi * np.exp(-(u**2) - v**2)
    return float((mass * special.erf(u) * special.erf(v)).sum()), float((mass * slopes).sum())


def _rectified(variance: float, ratio: float, noise: float) -> tuple[float, float]:
    """Over u by quadrature; over v = ratio u + noise N(0, 1) it is that of a truncated Gaussian."""
    noise = max(noise, 1e-300)
    scale = math.sqrt(variance)

    def density(u: float) -> float:
        return math.exp(-(u**2) / 2 / variance) / math.sqrt(2 * math.pi * variance)

    def value(u: float) -> float:
        z = max(-40.0, min(40.0, ratio * u / noise))
        bell = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        return density(u) * u * (ratio * u * special.ndtr(z) + noise * bell)

    def slope(u: float) -> float:
        return density(u) * special.ndtr(ratio * u / noise)

    edges = [0, *(scale * edge for edge in (0.05, 0.3, 1, 3, 6, 12))]
    return tuple(
        sum(
            integrate.quad(f, a, b, epsabs=1e-15, epsrel=1e-13)[0]
            for a, b in itertools.pairwise(edges)
        )
        for f in (value, slope)
    )


def by_cosine(
    activation: Activation, first: float, second: float, covariance: float
) -> tuple[float, float]:
    """The same as the literature prints it (Cho and Saul 2009, Williams 1997)."""
    if isinstance(activation, Identity):
        return covariance, 1.0
    if isinstance(activation, Erf):
        total = (1 + 2 * first) * (1 + 2 * second)
        value = 2 / math.pi * math.asin(2 * covariance / math.sqrt(total))
        return value, 4 / math.pi / math.sqrt(total - 4 * covariance**2)
    length = math.sqrt(first * second)
    cosine = max(-1.0, min(1.0, covariance / length))
    angle = math.acos(cosine)
    value = length * (math.sin(angle) + (math.pi - angle) * cosine) / 2 / math.pi
    return value, (math.pi - angle) / 2 / math.pi


def read_by(layer: Layer, size: int, axis: int) -> list[list[int | None]]:
    """The positions that each output reads along an axis, None outside."""
    if isinstance(layer, Dense):
        return [list(range(size))]
    if isinstance(layer, AveragePool):
        window = size if layer.window is None else along(layer.window, axis)
        stride = window if layer.stride is None else along(layer.stride, axis)
        starts, padding = range(0, size - window + 1, stride), "valid"
    else:
        assert isinstance(layer, Convolution)
        window, stride, padding = (
            along(layer.kernel, axis),
            along(layer.stride, axis),
            layer.padding,
        )
        if padding == "valid":
            starts = range(0, size - window + 1, stride)
        else:
            shift = (window - 1) // 2
            starts = range(-shift, size - shift, stride)
    reads: list[list[int | None]] = []
    for start in starts:
        row: list[int | None] = []
        for position in range(start, start + window):
            inside = 0 <= position < size
            wrapped = position % size if padding == "circular" else None
            row.append(position if inside else wrapped)
        reads.append(row)
    return reads


def along(size: int | tuple[int, ...], axis: int) -> int:
    return size if isinstance(size, int) else size[axis]


def in_loops(
    layers: Sequence[Layer], x: Tensor, y: Tensor, expectations: Expectations = by_cosine
) -> tuple[float, float]:
    """NNGP and tangent kernel of two samples (channels, positions...), position by position."""
    sizes = list(x.shape[1:])
    everywhere = list(itertools.product(*map(range, sizes)))
    kernels = {}
    for name, one, other in (("xx", x, x), ("xy", x, y), ("yy", y, y)):
        kernels[name] = {
            (p, q): float((one[(slice(None), *p)] * other[(slice(None), *q)]).mean())
            for p in everywhere
            for q in everywhere
        }
    tangent = dict.fromkeys(kernels["xy"], 0.0)
    for layer in layers:
        if isinstance(layer, Activation):
            found = {}
            for name, kernel in kernels.items():
                first, second = kernels[name[0] * 2], kernels[name[1] * 2]
                found[name] = {
                    (p, q): expectations(layer, first[p, p], second[q, q], value)
                    for (p, q), value in kernel.items()
                }
            tangent = {pair: value * found["xy"][pair][1] for pair, value in tangent.items()}
            kernels = {
                name: {pair: value for pair, (value, _) in kernel.items()}
                for name, kernel in found.items()
            }
            continue
        reads = [read_by(layer, size, axis) for axis, size in enumerate(sizes)]
        sizes = [len(rows) for rows in reads]
        means = {name: averaged(layer, kernel, reads) for name, kernel in kernels.items()}
        tangent = averaged(layer, tangent, reads)
        if isinstance(layer, AveragePool):
            kernels = means
            continue
        assert isinstance(layer, Dense | Convolution)
        kernels = {
            name: {pair: layer.weight**2 * v + layer.bias**2 for pair, v in mean.items()}
            for name, mean in means.items()
        }
        for pair in tangent:
            tangent[pair] = layer.weight**2 * tangent[pair] + kernels["xy"][pair]
    (nngp,), (ntk,) = kernels["xy"].values(), tangent.values()
    return nngp, ntk


Pairs = dict[tuple[tuple[int, ...], tuple[int, ...]], float]


def averaged(layer: Layer, kernel: Pairs, reads: Sequence[list[list[int | None]]]) -> Pairs:
    means = {}
    outputs = list(itertools.product(*(range(len(rows)) for rows in reads)))
    for p, q in itertools.product(outputs, outputs):
        ps = list(itertools.product(*(rows[i] for rows, i in zip(reads, p, strict=True))))
        qs = list(itertools.product(*(rows[i] for rows, i in zip(reads, q, strict=True))))
        pooled = isinstance(layer, AveragePool)
        pairs = list(itertools.product(ps, qs) if pooled else zip(ps, qs, strict=True))
        # A pair with a position outside is not in the kernel.
        means[p, q] = sum(kernel.get(pair, 0.0) for pair in pairs) / len(pairs)
    return means


def matrices(
    layers: Sequence[Layer], x: Tensor, y: Tensor, expectations: Expectations = by_cosine
) -> Iterator[Tensor]:
    """Both kernels of two sets."""
    rows = [[in_loops(layers, a, b, expectations) for b in y] for a in x]
    yield from torch.tensor(rows, dtype=torch.float64).unbind(-1)


# Every architecture that reads positions in a way of its own.
IMAGE, SIGNAL = (2, 4, 3), (3, 6)
CONV = Convolution(3, ROOT, 0.1)
NETWORKS: dict[str, tuple[tuple[int, ...], list[Linear | Activation]]] = {
    "dense": ((5,), [Dense(1.2, 0.3), Relu(), Dense(1.1, 0.2)]),
    "dense on images": (IMAGE, [Dense(1.2, 0.3), Erf(), Dense(1.1, 0.2)]),
    "flattened": (IMAGE, [CONV, Relu(), Dense(ROOT, 0.2)]),
    "deep, flattened": (IMAGE, [CONV, Relu(), Convolution(3, 1.3), Erf(), Dense()]),
    "dense at the end": (SIGNAL, [CONV, Relu(), Dense(ROOT, 0.1), Erf(), Dense(1.0, 0.2)]),
    "global pooling": (IMAGE, [CONV, Relu(), AveragePool(), Dense(1.4, 0.1)]),
    "deep, global pooling": (IMAGE, [CONV, Relu(), CONV, Relu(), AveragePool(), Dense()]),
    "convolution of pools": (
        IMAGE,
        [CONV, Relu(), AveragePool((2, 1)), Convolution(2, 1.1, 0.1), Erf(), Dense()],
    ),
    "pooled twice": (
        (1, 6, 4),
        [CONV, Relu(), AveragePool(2), CONV, Relu(), AveragePool((1, 2)), Dense()],
    ),
    "overlapping pools": (SIGNAL, [Convolution(2), Erf(), AveragePool(3, 2), Dense(1.0, 0.5)]),
    "pooled inputs": (SIGNAL, [AveragePool(2), CONV, Relu(), Dense()]),
    "pooled pre-activations": (SIGNAL, [CONV, AveragePool(2), Relu(), Dense()]),
    "a size for each axis": (IMAGE, [Convolution((3, 1), ROOT, 0.1), Relu(), Dense()]),
    "even": (IMAGE, [Convolution((4, 2), ROOT, 0.1), Relu(), AveragePool(), Dense()]),
    "larger than the image": (SIGNAL, [Convolution(9, ROOT, 0.1), Relu(), Dense()]),
    "strided": (SIGNAL, [Convolution(3, ROOT, 0.1, stride=2), Relu(), AveragePool(), Dense()]),
    "a stride for each axis": (
        IMAGE,
        [Convolution(2, ROOT, stride=(2, 1)), Relu(), CONV, Relu(), Dense(0.9, 0.1)],
    ),
    "circular": (
        SIGNAL,
        [Convolution(3, ROOT, padding="circular"), Relu(), AveragePool(), Dense()],
    ),
    "circular, strided": (
        SIGNAL,
        [Convolution(4, ROOT, 0.2, 2, "circular"), Relu(), Convolution(3), Erf(), Dense()],
    ),
    "valid": (
        IMAGE,
        [Convolution((3, 2), ROOT, 0.1, padding="valid"), Relu(), AveragePool(), Dense()],
    ),
    "valid, strided": (
        (1, 7),
        [Convolution(3, ROOT, 0.1, 2, "valid"), Relu(), CONV, Relu(), Dense()],
    ),
    "linear": (SIGNAL, [CONV, Identity(), CONV, Identity(), AveragePool(), Dense()]),
    "three axes": ((1, 2, 2, 2), [Convolution(2, ROOT, 0.1), Relu(), AveragePool(), Dense()]),
}


VARIANCES = [(1.0, 1.0), (0.3, 2.0), (1e-3, 5.0), (4.0, 4.0)]
COSINES = [-1.0, -0.99, -0.3, 0.0, 0.5, 0.9, 0.9999, 1.0]


@pytest.mark.parametrize("activation", [Relu(), Erf()], ids=str)
class TestExpectations:
    @pytest.mark.parametrize("cosine", COSINES)
    @pytest.mark.parametrize("variances", VARIANCES, ids=str)
    def test_they_are_those_of_quadrature(
        self, activation: Activation, variances: tuple[float, float], cosine: float
    ) -> None:
        numbers = (*variances, cosine * math.sqrt(math.prod(variances)))
        found = activation.dual(*torch.tensor(numbers, dtype=torch.float64))
        assert_agree(
            torch.stack(found),
            torch.tensor(by_quadrature(activation, *numbers), dtype=torch.float64),
        )

    def test_they_are_finite_where_a_variance_is_zero(self, activation: Activation) -> None:
        zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        value, slope = activation.dual(zero, one, zero)
        assert value == 0.0
        assert 0.0 < slope < 2.0

    @pytest.mark.parametrize("variance", [1.0, 1e12])
    def test_rounding_beyond_parallel_is_parallel(
        self, activation: Activation, variance: float
    ) -> None:
        v = torch.tensor([variance], dtype=torch.float64)
        parallel = torch.stack(activation.dual(v, v, v))
        for rounded in (v * (1 + 4e-16), v * (1 - 4e-16)):
            assert_agree(torch.stack(activation.dual(v, v, rounded)), parallel, 1e-15)

    def test_the_function_belongs_to_them(self, activation: Activation) -> None:
        """Its mean square over N(0, 1) draws is the expectation, within four standard errors."""
        draws = activation.apply(drawn(100_000)) ** 2
        one = torch.ones((), dtype=torch.float64)
        error = draws.mean() - activation.dual(one, one, one)[0]
        assert abs(error) < 4 * draws.std() / math.sqrt(len(draws))


class TestRelu:
    @pytest.mark.parametrize("exponent", [-6, -4, -2])
    def test_small_angles_are_not_lost(self, exponent: int) -> None:
        """The expectation of the slopes is (pi - angle) / 2 pi."""
        angle = 10.0**exponent
        one = torch.ones((), dtype=torch.float64)
        _, slope = Relu().dual(one, one, one - 2 * math.sin(angle / 2) ** 2)
        assert float(0.5 - slope) * 2 * math.pi == pytest.approx(angle, rel=1e-4)

    @pytest.mark.parametrize("scale", [1e-120, 1e120])
    def test_expectations_scale_with_the_variances(self, scale: float) -> None:
        numbers = torch.tensor([2.0, 0.5, 0.4], dtype=torch.float64)
        value, slope = Relu().dual(*(scale**2 * numbers))
        expected, same = Relu().dual(*numbers)
        assert_agree(value / scale**2, expected, 1e-14)
        assert_agree(slope, same, 1e-14)


class TestFullyConnected:
    x, y = drawn(3, 5), drawn(2, 5, seed=1)

    @pytest.mark.parametrize("bias", [0.0, 0.4])
    @pytest.mark.parametrize("depth", [1, 3])
    @pytest.mark.parametrize("activation", [Relu(), Erf()], ids=str)
    def test_the_recursion_with_expectations_by_quadrature(
        self, activation: Activation, depth: int, bias: float
    ) -> None:
        layers = [Dense(1.3, bias), activation] * depth + [Dense(0.8, bias)]
        wide = InfiniteNetwork(layers)
        nngp, ntk = matrices(layers, self.x, self.y, by_quadrature)
        assert_agree(wide.nngp_kernel(self.x, self.y).matrix, nngp)
        assert_agree(wide.tangent_kernel(self.x, self.y).matrix, ntk)

    def test_one_hidden_layer_of_rectifiers_on_the_sphere(self) -> None:
        """Bietti and Mairal 2019, eq. 6: u k0(u) + k1(u)."""
        x = F.normalize(drawn(6, 4))
        u = (x @ x.T).clamp(-1, 1)
        k0 = (math.pi - u.acos()) / math.pi
        k1 = (u * (math.pi - u.acos()) + (1 - u**2).clamp(min=0).sqrt()) / math.pi
        wide = InfiniteNetwork([Dense(), Relu(), Dense(ROOT)])
        assert_agree(wide.tangent_kernel(x * 2).matrix, u * k0 + k1, 1e-7)  # acos near 1
        off = ~torch.eye(6, dtype=torch.bool)
        assert_agree(wide.tangent_kernel(x * 2).matrix[off], (u * k0 + k1)[off])

    def test_one_hidden_layer_of_error_functions(self) -> None:
        """Williams 1997, eq. 11, with inputs extended by a one for the bias."""
        extended = torch.cat([torch.ones(5, 1, dtype=torch.float64), drawn(5, 3)], 1)
        scales = torch.diag(torch.tensor([0.7**2, *[1.1**2 / 3] * 3], dtype=torch.float64))
        inner = 2 * extended @ scales @ extended.T
        lengths = (1 + inner.diagonal()).sqrt()
        expected = 2 / math.pi * (inner / lengths / lengths[:, None]).asin()
        wide = InfiniteNetwork([Dense(1.1, 0.7), Erf(), Dense()])
        assert_agree(wide.nngp_kernel(extended[:, 1:]).matrix, expected)

    @pytest.mark.parametrize("depth", [1, 2, 10, 50])
    def test_on_a_sample_itself_each_layer_of_rectifiers_adds_as_much(self, depth: int) -> None:
        layers = [Dense(ROOT), Relu()] * depth + [Dense(ROOT)]
        found = InfiniteNetwork(layers).tangent_kernel(self.x).matrix.diagonal()
        assert_agree(found, (depth + 1) * 2 * (self.x**2).mean(1))

    @pytest.mark.parametrize("depth", [0, 1, 4])
    def test_deep_linear_networks(self, depth: int) -> None:
        layers = [Dense(), Identity()] * depth + [Dense()]
        found = InfiniteNetwork(layers).tangent_kernel(self.x, self.y).matrix
        assert_agree(found, (depth + 1) * self.x @ self.y.T / 5)

    def test_parallel_samples_without_bias_are_multiples(self) -> None:
        wide = InfiniteNetwork([Dense(), Relu(), Dense(), Relu(), Dense()])
        found = wide.tangent_kernel(self.x, torch.cat([self.x[:1], 3 * self.x[:1]])).matrix
        assert_agree(found[:, 1], 3 * found[:, 0], 1e-13)

    def test_a_sample_of_zeros_without_bias(self) -> None:
        wide = InfiniteNetwork([Dense(), Relu(), Dense(), Relu(), Dense()])
        found = wide.tangent_kernel(torch.cat([torch.zeros_like(self.x[:1]), self.x])).matrix
        assert float(found[0].abs().max()) == 0.0


@pytest.mark.parametrize("name", NETWORKS)
class TestArchitectures:
    def test_the_recursion_in_loops(self, name: str) -> None:
        shape, layers = NETWORKS[name]
        x, y = drawn(2, *shape), drawn(1, *shape, seed=1)
        wide = InfiniteNetwork(layers)
        nngp, ntk = matrices(layers, x, y)
        assert_agree(wide.nngp_kernel(x, y).matrix, nngp)
        assert_agree(wide.tangent_kernel(x, y).matrix, ntk)

    def test_two_sets_are_a_part_of_one(self, name: str) -> None:
        shape, layers = NETWORKS[name]
        wide, x = InfiniteNetwork(layers), drawn(4, *shape)
        whole = wide.tangent_kernel(x)
        part = wide.tangent_kernel(x[:3], x[1:])
        assert (whole.symmetric, part.symmetric) == (True, False)
        assert_agree(part.matrix, whole.matrix[:3, 1:])

    @pytest.mark.parametrize("method", ["tangent_kernel", "nngp_kernel"])
    def test_it_is_symmetric_and_positive_semidefinite(self, name: str, method: str) -> None:
        shape, layers = NETWORKS[name]
        kernel = getattr(InfiniteNetwork(layers), method)(drawn(6, *shape))
        assert torch.equal(kernel.matrix, kernel.matrix.T)
        values = kernel.eigvalsh()
        assert values[-1] > -1e-12 * values[0]

    @pytest.mark.parametrize("sets", [1, 2])
    def test_the_least_memory_gives_the_same(self, name: str, sets: int) -> None:
        shape, layers = NETWORKS[name]
        wide = InfiniteNetwork(layers)
        data = [drawn(3 - seed, *shape, seed=seed) for seed in range(sets)]
        least = wide.tangent_kernel(*data, memory=1).matrix
        assert_agree(least, wide.tangent_kernel(*data).matrix)

    def test_every_parameter_of_its_finite_network_has_a_rule(self, name: str) -> None:
        shape, layers = NETWORKS[name]
        module = InfiniteNetwork(layers).finite(shape, width=3).double()
        ways = pb.jacobian(module, drawn(4, *shape)).ways
        assert set(ways.values()) <= {"linear", "convolution"}

    def test_finite_networks_have_it_on_average(self, name: str) -> None:
        """Up to an error of one over the width, far below the standard error of these draws."""
        shape, layers = NETWORKS[name]
        wide, x = InfiniteNetwork(layers), drawn(2, *shape)
        kernels = torch.stack([finite_kernel(wide, x, 100, seed) for seed in range(20)])
        assert_within_errors(kernels, wide.tangent_kernel(x).matrix)


def finite_kernel(wide: InfiniteNetwork, x: Tensor, width: int, seed: int) -> Tensor:
    """The tangent kernel of a finite network, in float64."""
    module = wide.finite(tuple(x.shape[1:]), width, seed=seed).double()
    return pb.tangent_kernel(module, x, outputs=0).matrix


def assert_within_errors(draws: Tensor, expected: Tensor) -> None:
    """The mean over draws is that expected, within four standard errors of each entry."""
    stderr = draws.std(0) / math.sqrt(len(draws))
    assert float(((draws.mean(0) - expected) / stderr).abs().max()) < 4


class TestConvergence:
    """The error of a finite network's kernel falls as one over the root of the width."""

    WIDTHS = (64, 128, 256, 512, 1024)

    def slope(self, wide: InfiniteNetwork, x: Tensor, widths: Sequence[int], seeds: int) -> float:
        """Of the logarithm of the root mean square error, over that of the width."""
        exact = wide.tangent_kernel(x).matrix
        errors = []
        for width in widths:
            kernels = torch.stack([finite_kernel(wide, x, width, seed) for seed in range(seeds)])
            errors.append(float((kernels - exact).square().mean().sqrt()))
        return float(np.polyfit(np.log(widths), np.log(errors), 1)[0])

    @pytest.mark.parametrize("activation", [Relu(), Erf()], ids=str)
    def test_of_two_hidden_layers(self, activation: Activation) -> None:
        layers = [Dense(ROOT, 0.1), activation, Dense(ROOT, 0.1), activation, Dense(ROOT, 0.1)]
        slope = self.slope(InfiniteNetwork(layers), drawn(4, 6), self.WIDTHS, 16)
        assert -0.6 < slope < -0.4

    def test_of_two_convolutions(self) -> None:
        shape, layers = NETWORKS["deep, flattened"]
        slope = self.slope(InfiniteNetwork(layers), drawn(3, *shape), (16, 32, 64, 128, 256), 12)
        assert -0.65 < slope < -0.35

    def test_of_the_last_layer_to_the_nngp_kernel(self) -> None:
        wide = InfiniteNetwork([Dense(ROOT, 0.1), Relu(), Dense(1.2), Relu(), Dense(1.5, 0.3)])
        x = drawn(3, 6)
        module = wide.finite((6,), 4000).double()
        found = pb.tangent_kernel(pb.Network(module, parameters="4.*"), x, outputs=0).matrix
        assert_agree(found, wide.nngp_kernel(x).matrix, 0.1)

    def test_outputs_have_the_nngp_kernel_as_their_covariance(self) -> None:
        wide, x = InfiniteNetwork([Dense(ROOT, 0.2), Relu(), Dense(1.5, 0.3)]), drawn(3, 6)
        modules = (wide.finite((6,), 20, seed=seed).double() for seed in range(2000))
        with torch.no_grad():
            outputs = torch.stack([module(x)[:, 0] for module in modules])
        products = outputs.unsqueeze(1) * outputs.unsqueeze(2)
        assert_within_errors(products, wide.nngp_kernel(x).matrix)


class TestFiniteNetwork:
    wide = InfiniteNetwork([Dense(1.5, 0.2), Relu(), Dense(0.7)])

    def test_its_parametrisation(self) -> None:
        module, x = self.wide.finite((5,), width=7, outputs=2).double(), drawn(3, 5)
        first, second = module[0], module[2]
        hidden = torch.relu(1.5 / math.sqrt(5) * x @ first.weight.T + 0.2 * first.bias)
        outputs = 0.7 / math.sqrt(7) * hidden @ second.weight.T
        assert_agree(module(x).detach(), outputs.detach(), 1e-14)

    def test_it_has_so_many_outputs_and_channels(self) -> None:
        module = self.wide.finite((5,), width=7, outputs=2)
        assert [tuple(one.shape) for one in module.parameters()] == [(7, 5), (7,), (2, 7)]

    def test_a_layer_without_bias_has_none(self) -> None:
        names = [name for name, _ in self.wide.finite((5,), width=7).named_parameters()]
        assert names == ["0.weight", "0.bias", "2.weight"]

    @pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
    @pytest.mark.parametrize("kernel", [1, 3, 4, (5, 2)], ids=str)
    @pytest.mark.parametrize("padding", ["same", "valid"])
    def test_its_convolutions_are_those_of_torch(
        self, padding: str, kernel: int | tuple[int, int]
    ) -> None:
        layer = Convolution(kernel, 1.3, 0.4, padding=padding)
        ours = InfiniteNetwork([layer, Dense()]).finite((2, 6, 5), width=3)[0].double()
        theirs = nn.Conv2d(2, 3, kernel, padding=padding).double()
        fan_in = math.prod(ours.weight.shape[1:])
        theirs.weight.data = 1.3 / math.sqrt(fan_in) * ours.weight.data
        theirs.bias.data = 0.4 * ours.bias.data
        x = drawn(4, 2, 6, 5)
        assert_agree(ours(x).detach(), theirs(x).detach(), 1e-14)

    @pytest.mark.parametrize("padding", ["same", "circular"])
    def test_its_strided_convolutions_are_those_of_torch(self, padding: str) -> None:
        layer = Convolution(3, 1.0, 0.5, stride=(2, 1), padding=padding)
        ours = InfiniteNetwork([layer, Dense()]).finite((2, 6, 5), width=3)[0].double()
        mode = "circular" if padding == "circular" else "zeros"
        theirs = nn.Conv2d(2, 3, 3, (2, 1), padding=1, padding_mode=mode).double()
        theirs.weight.data = ours.weight.data / math.sqrt(18)
        theirs.bias.data = 0.5 * ours.bias.data
        x = drawn(4, 2, 6, 5)
        assert_agree(ours(x).detach(), theirs(x).detach(), 1e-14)

    @pytest.mark.parametrize("name", ["weight", "bias"])
    def test_its_parameters_are_standard_normal(self, name: str) -> None:
        values = getattr(self.wide.finite((5,), width=20_000)[0], name).detach().double()
        root = math.sqrt(values.numel())
        assert abs(float(values.mean())) < 4 / root
        assert abs(float(values.std()) - 1) < 4 / root

    def test_the_same_seed_gives_the_same_network(self) -> None:
        first, again = (self.wide.finite((5,), 7, seed=3)[0].weight for _ in range(2))
        other = self.wide.finite((5,), 7, seed=4)[0].weight
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_the_global_random_state_is_left_alone(self) -> None:
        before = torch.get_rng_state()
        self.wide.finite((5,), 7)
        assert torch.equal(torch.get_rng_state(), before)

    def test_it_can_be_saved_and_copied(self, tmp_path: Path) -> None:
        module, x = self.wide.finite((5,), width=7), torch.ones(1, 5)
        torch.save(module, tmp_path / "module.pt")
        loaded = torch.load(tmp_path / "module.pt", weights_only=False)
        assert torch.equal(loaded(x), module(x))
        assert torch.equal(copy.deepcopy(module)(x), module(x))

    def test_it_trains(self) -> None:
        module, x = self.wide.finite((5,), width=7), torch.ones(1, 5)
        module(x).sum().backward()
        assert all(bool(parameter.grad.any()) for parameter in module.parameters())


class Watched(Relu):
    """Notes how many pairs of positions reach it."""

    def __init__(self) -> None:
        object.__setattr__(self, "seen", set())

    def dual(self, first: Tensor, second: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.add(covariance.numel())
        return super().dual(first, second, covariance)


class TestPairsOfPositions:
    """Of one sample with itself, so that every number is one pair."""

    @pytest.mark.parametrize(
        ("after", "pairs"),
        [
            ([Dense()], 8 * 8),
            ([Convolution(3), Relu(), Dense()], 8 * 8),
            ([AveragePool(), Dense()], 8**2 * 8**2),
            ([AveragePool(2), Dense()], 16 * 16),
            ([AveragePool((2, 1)), Dense()], 16 * 8),
            ([AveragePool(2), Convolution(3), Relu(), Dense()], 16 * 16),
        ],
        ids=str,
    )
    def test_only_those_that_later_layers_need_are_kept(
        self, after: list[Linear | Activation], pairs: int
    ) -> None:
        watched = Watched()
        wide = InfiniteNetwork([Convolution(3), watched, *after])
        wide.tangent_kernel(drawn(1, 1, 8, 8))
        assert watched.seen == {pairs}

    def test_large_images_without_pooling_fit_into_memory(self) -> None:
        """All pairs of positions of one such pair of samples would take 34 GB."""
        wide = InfiniteNetwork([Convolution(3), Relu(), Convolution(3), Relu(), Dense()])
        assert wide.tangent_kernel(drawn(2, 1, 256, 256)).matrix.shape == (2, 2)


class TestNumbers:
    wide = InfiniteNetwork([Dense(ROOT, 0.1), Relu(), Dense(ROOT, 0.1), Relu(), Dense()])

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_the_precision_is_that_of_the_samples(self, dtype: torch.dtype) -> None:
        assert self.wide.tangent_kernel(drawn(2, 5).to(dtype)).matrix.dtype == dtype

    def test_half_precision_gives_single(self) -> None:
        assert self.wide.nngp_kernel(drawn(2, 5).bfloat16()).matrix.dtype == torch.float32

    def test_single_precision_loses_nothing_at_small_angles(self) -> None:
        x = drawn(3, 5).float()
        x = torch.cat([x, x + 1e-3 * drawn(3, 5, seed=1).float()])
        exact = self.wide.tangent_kernel(x.double()).matrix
        assert_agree(self.wide.tangent_kernel(x).matrix, exact.float(), SINGLE / 100)

    @pytest.mark.parametrize("channels", [1, 1000, 100_000])
    def test_a_copy_of_a_sample_is_that_sample(self, channels: int) -> None:
        x = drawn(3, channels)
        kernel = self.wide.tangent_kernel(x, x[torch.tensor([2, 0])]).matrix
        assert_agree(kernel, self.wide.tangent_kernel(x).matrix[:, [2, 0]], 1e-12)

    def test_many_samples_in_blocks(self) -> None:
        x = drawn(60, 5)
        kernel = self.wide.tangent_kernel(x, memory=10_000).matrix
        assert torch.equal(kernel, kernel.T)
        assert_agree(kernel, self.wide.tangent_kernel(x).matrix)

    def test_samples_keep_their_values_and_pass_no_gradient(self) -> None:
        x = drawn(2, 5).requires_grad_()
        before = x.detach().clone()
        assert not self.wide.tangent_kernel(x).matrix.requires_grad
        assert torch.equal(x.detach(), before)

    def test_a_kernel_has_the_algebra_of_one(self) -> None:
        x = drawn(8, 5)
        limit = self.wide.tangent_kernel(x)
        finite = pb.tangent_kernel(self.wide.finite((5,), 2000).double(), x, outputs=0)
        assert finite.alignment(limit) > 0.98
        assert limit.trace() == pytest.approx(float(limit.matrix.trace()))


class Sine(Activation):
    """An activation that the library does not know."""

    def apply(self, x: Tensor) -> Tensor:
        return torch.sin(x)

    def dual(self, first: Tensor, second: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.exp(-(first + second) / 2)
        return scale * torch.sinh(covariance), scale * torch.cosh(covariance)


def test_another_activation_is_a_function_and_its_expectations() -> None:
    wide = InfiniteNetwork([Convolution(3, 1.5), Sine(), AveragePool(2), Dense(ROOT)])
    x = drawn(2, 2, 5)
    kernels = torch.stack([finite_kernel(wide, x, 100, seed) for seed in range(20)])
    assert_within_errors(kernels, wide.tangent_kernel(x).matrix)


class TestRefusals:
    wide = InfiniteNetwork([CONV, Relu(), Dense()])

    @pytest.mark.parametrize(
        ("layers", "words"),
        [
            ([], "layers.*Dense"),
            ([Dense(), Relu()], "layers.*Relu.*Dense"),
            ([CONV], "layers.*Convolution.*Dense"),
            ([Relu(), Dense()], "layers.*Relu.*the inputs.*Gaussian"),
            ([AveragePool(), Relu(), Dense()], "layers.*Relu.*AveragePool.*Gaussian"),
            ([Dense(), Relu(), Erf(), Dense()], "layers.*Erf.*Relu.*Gaussian"),
            ([CONV, Relu(), AveragePool(), Relu(), Dense()], "layers.*Relu.*AveragePool.*Gaussian"),
        ],
        ids=str,
    )
    def test_layers_that_cannot_follow_each_other(
        self, layers: list[Linear | Activation], words: str
    ) -> None:
        with pytest.raises(pb.InputError, match=words):
            InfiniteNetwork(layers)

    def test_modules_as_layers(self) -> None:
        with pytest.raises(REFUSED, match="layers"):
            InfiniteNetwork([nn.Linear(2, 2), Dense()])  # type: ignore[list-item]

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda: Dense(weight=0.0), "weight.*0.0"),
            (lambda: Dense(weight=math.inf), "weight.*inf"),
            (lambda: Dense(bias=-1.0), "bias.*-1.0"),
            (lambda: Convolution(3, bias=math.nan), "bias.*nan"),
            (lambda: Convolution(0), "kernel.*0"),
            (lambda: Convolution((3, -1)), "kernel.*-1"),
            (lambda: Convolution(()), "kernel"),
            (lambda: Convolution(3, stride=0), "stride.*0"),
            (lambda: Convolution(3, padding="reflect"), "padding.*reflect.*circular"),
            (lambda: AveragePool(0), "window.*0"),
            (lambda: AveragePool(2, stride=0), "stride.*0"),
        ],
    )
    def test_settings_out_of_range(self, make: Callable[[], Layer], words: str) -> None:
        with pytest.raises(pb.InputError, match=words):
            make()

    @pytest.mark.parametrize(
        ("layers", "shape", "words"),
        [
            ([CONV, Dense()], (5,), "Convolution.*positions"),
            ([AveragePool(), Dense()], (5,), "AveragePool.*positions"),
            ([Dense(), Relu(), CONV, Relu(), Dense()], (2, 6), "Convolution.*after Dense"),
            ([Convolution((3, 3)), Dense()], (2, 6), "Convolution.*axes"),
            ([Convolution(3, stride=(1, 1)), Dense()], (2, 6), "Convolution.*axes"),
            ([AveragePool((2, 2, 2)), Dense()], (2, 6, 6), "AveragePool.*axes"),
            ([Convolution(7, padding="valid"), Dense()], (2, 6), "Convolution.*fit.*6"),
            ([Convolution(7, padding="circular"), Dense()], (2, 6), "Convolution.*fit.*6"),
            ([CONV, AveragePool((2, 5)), Dense()], (2, 6, 4), "AveragePool.*fit.*6 x 4"),
            ([Dense()], (2, 3, 3, 3, 3), "shape.*three axes"),
        ],
    )
    def test_samples_that_the_layers_cannot_take(
        self, layers: list[Linear | Activation], shape: tuple[int, ...], words: str
    ) -> None:
        wide = InfiniteNetwork(layers)
        with pytest.raises(pb.InputError, match=words):
            wide.tangent_kernel(drawn(2, *shape))
        with pytest.raises(pb.InputError, match=words):
            wide.finite(shape, width=2)

    @pytest.mark.parametrize("shape", [(), (0,), (2, 0)])
    def test_an_empty_sample(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(pb.InputError, match="shape"):
            self.wide.finite(shape, width=2)

    @pytest.mark.parametrize("name", ["width", "outputs"])
    def test_no_channels(self, name: str) -> None:
        with pytest.raises(pb.InputError, match=f"{name}.*0"):
            self.wide.finite((2, 6), **{"width": 3, name: 0})

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("name", ["x", "y"])
    def test_samples_that_are_not_finite(self, name: str, value: float) -> None:
        sets = {"x": drawn(2, 2, 6), "y": drawn(2, 2, 6)}
        sets[name][1, 0, 3] = value
        with pytest.raises(pb.InputError, match=f"{name}: .*NaN"):
            self.wide.tangent_kernel(**sets)

    def test_no_samples(self) -> None:
        with pytest.raises(pb.InputError, match="x: shape.*0, 2, 6"):
            self.wide.tangent_kernel(drawn(0, 2, 6))

    def test_a_vector(self) -> None:
        with pytest.raises(REFUSED):
            self.wide.tangent_kernel(drawn(6))

    def test_integers(self) -> None:
        with pytest.raises(REFUSED):
            self.wide.tangent_kernel(torch.ones(2, 2, 6, dtype=torch.long))

    def test_sets_of_other_shapes(self) -> None:
        with pytest.raises(REFUSED, match="y"):
            self.wide.tangent_kernel(drawn(2, 2, 6), drawn(2, 2, 7))

    def test_sets_of_other_precision(self) -> None:
        with pytest.raises(pb.InputError, match="y: .*float32.*float64"):
            self.wide.tangent_kernel(drawn(2, 2, 6), drawn(2, 2, 6).float())

    def test_samples_so_large_that_the_kernel_overflows(self) -> None:
        with pytest.raises(pb.InputError, match="x: .*not finite"):
            self.wide.tangent_kernel(1e200 * drawn(2, 2, 6))

    def test_no_memory(self) -> None:
        with pytest.raises(pb.InputError, match="memory"):
            self.wide.tangent_kernel(drawn(2, 2, 6), memory=0)

    def test_images_whose_pairs_of_positions_cannot_fit_say_how_much_they_need(self) -> None:
        wide = InfiniteNetwork([CONV, Relu(), AveragePool(), Dense()])
        with pytest.raises(pb.InputError, match=r"kernel.*pairs of positions.*GB.*AveragePool"):
            wide.tangent_kernel(torch.zeros(1, 1, 512, 512))
