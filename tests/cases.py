"""The grid: small seeded models with inputs, on which the library is compared with its slow twin.

A case is a function that returns a module in evaluation mode and its inputs; it is registered with
`@case("what is special about it")`. Adding one is adding one function.

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_...(case): ...

Models are tiny (fewer than 600 parameters), outputs are few, everything is float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests import reference
from tests.reference import Inputs, ReadOut

LIKELIHOODS = ("categorical", "bernoulli", "gaussian", "euclidean")
WITH_TARGETS = ("categorical", "bernoulli", "gaussian")
N = 5  # samples in most cases; the treacherous ones use it as another dimension too


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and what is needed to read its outputs.

    Attributes:
        name: what is special about it; the pytest id.
        build: makes the module and the inputs; called under a fixed seed.
        readout: turns what the module returns into (n, c).
        indirect: layers whose weight does not reach a linear operation as it is, with the samples
            in their order and its own bias; they have no Kronecker form, their blocks are dense.
        free: owners of parameters for which no form is prescribed, dense or Kronecker.
        repeated: whether Kronecker factors have repeated eigenvalues, so that EKFAC is not unique.
    """

    name: str
    build: Callable[[], tuple[nn.Module, Inputs]]
    readout: ReadOut | None = None
    indirect: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    repeated: bool = False

    def __str__(self) -> str:
        return self.name.replace(" ", "-")

    def fresh(self, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Inputs]:
        """A new copy of the module and its inputs."""
        with torch.random.fork_rng():
            torch.manual_seed(sum(map(ord, self.name)))
            module, inputs = self.build()
        return module.to(dtype).eval(), cast(inputs, dtype)

    @cached_property
    def pair(self) -> tuple[nn.Module, Inputs]:
        """The module and its inputs in float64, made once."""
        return self.fresh()

    @property
    def module(self) -> nn.Module:
        """The module in float64, shared by the tests: not to be changed."""
        return self.pair[0]

    @property
    def inputs(self) -> Inputs:
        """The inputs in float64."""
        return self.pair[1]

    @property
    def n(self) -> int:
        """Number of samples."""
        return reference.count(self.inputs)

    @cached_property
    def rows(self) -> Tensor:
        """The twin's Jacobian, (n, c, d)."""
        return reference.jacobian(self.module, self.inputs, readout=self.readout)

    @cached_property
    def outputs(self) -> Tensor:
        """The twin's outputs, (n, c)."""
        return reference.one_by_one(self.module, self.inputs, self.readout)

    @property
    def c(self) -> int:
        """Number of outputs."""
        return self.outputs.shape[1]

    @property
    def d(self) -> int:
        """Number of parameters that require a gradient."""
        return self.rows.shape[2]

    @property
    def likelihoods(self) -> tuple[str, ...]:
        """The likelihoods that fit its number of outputs."""
        return LIKELIHOODS if self.c > 1 else LIKELIHOODS[1:]

    @property
    def likelihood(self) -> str:
        """One likelihood that fits and whose metric depends on the outputs."""
        return self.likelihoods[0]

    def targets(self, likelihood: str, dtype: torch.dtype = torch.float64) -> Tensor:
        """Seeded targets of the right kind: (n,) classes, or (n, c) numbers."""
        generator = torch.Generator().manual_seed(len(self.name))
        if likelihood == "categorical":
            return torch.randint(self.c, (self.n,), generator=generator)
        if likelihood == "bernoulli":
            return torch.randint(2, (self.n, self.c), generator=generator).to(dtype)
        return torch.randn(self.n, self.c, generator=generator, dtype=torch.float64).to(dtype)

    def output_metric(self, likelihood: str) -> Tensor:
        """The twin's output metric, (n, c, c)."""
        return reference.output_metric(likelihood, self.outputs)

    def fisher(self, likelihood: str) -> Tensor:
        """The twin's exact Fisher matrix, (d, d)."""
        return reference.fisher(self.rows, self.output_metric(likelihood))

    def score(self, likelihood: str) -> Tensor:
        """The twin's d log p / df at the case's targets, (n, c)."""
        return reference.score(likelihood, self.outputs, self.targets(likelihood))

    def empirical_fisher(self, likelihood: str) -> Tensor:
        """The twin's empirical Fisher matrix at the case's targets, (d, d)."""
        return reference.empirical_fisher(self.rows, self.score(likelihood))

    @cached_property
    def kronecker_layers(self) -> list[str]:
        """Layers that have Kronecker factors."""
        slices = reference.flat_slices(self.module)
        return [
            name
            for name, part in self.module.named_modules()
            if isinstance(part, KRONECKER)
            and name not in (*self.indirect, *self.free)
            and parameter_of(name, "weight") in slices
        ]

    def factors(self, layer: str, metric: Tensor) -> reference.Factors:
        """The twin's Kronecker factors of a layer for the given output metric (n, c, c)."""
        return reference.kfac_factors(self.module, layer, self.inputs, metric, readout=self.readout)

    @cached_property
    def dense_blocks(self) -> list[list[int]]:
        """Flat positions of the blocks that have no Kronecker form, one block for each owner."""
        structured = {
            parameter_of(layer, kind)
            for layer in self.kronecker_layers
            for kind in ("weight", "bias")
        }
        owned: dict[str, list[int]] = {}
        for name, where in reference.flat_slices(self.module).items():
            owner = name.rpartition(".")[0]
            if name not in structured and owner not in self.free:
                owned.setdefault(owner, []).extend(range(where.start, where.stop))
        return list(owned.values())

    @cached_property
    def prescribed(self) -> Tensor:
        """Which flat positions belong to blocks of a prescribed form, (d,)."""
        mask = torch.ones(self.d, dtype=torch.bool)
        for name, where in reference.flat_slices(self.module).items():
            mask[where] = name.rpartition(".")[0] not in self.free
        return mask

    def factored(self, metric: Tensor, *, corrected: bool) -> Tensor:
        """The twin's KFAC, or EKFAC if corrected, with dense blocks elsewhere, (d, d)."""
        exact = reference.fisher(self.rows, metric)
        total = torch.zeros_like(exact)
        for layer in self.kronecker_layers:
            factors = self.factors(layer, metric)
            if corrected:
                total += reference.ekfac_dense(factors, exact)
            else:
                total += reference.kronecker_dense(factors, self.d)
        for block in self.dense_blocks:
            where = torch.tensor(block)
            total[where[:, None], where] = exact[where[:, None], where]
        return total


KRONECKER = (nn.Linear, *reference.Convolution.__args__, *reference.Transposed.__args__)


def parameter_of(module: str, kind: str) -> str:
    """The name of a module's parameter."""
    return f"{module}.{kind}" if module else kind


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """Floating point inputs in another precision; integers stay."""
    if isinstance(inputs, dict):
        return {name: cast(value, dtype) for name, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(cast(value, dtype) for value in inputs)
    return inputs.to(dtype) if inputs.is_floating_point() else inputs


CASES: list[Case] = []


def case(
    name: str,
    *,
    readout: ReadOut | None = None,
    indirect: tuple[str, ...] = (),
    free: tuple[str, ...] = (),
    repeated: bool = False,
) -> Callable[[Callable[[], tuple[nn.Module, Inputs]]], Callable[[], tuple[nn.Module, Inputs]]]:
    """Register a function that makes a module and inputs as a case of the grid."""

    def register(
        build: Callable[[], tuple[nn.Module, Inputs]],
    ) -> Callable[[], tuple[nn.Module, Inputs]]:
        CASES.append(Case(name, build, readout, indirect, free, repeated))
        return build

    return register


def named(name: str) -> Case:
    """The case of that name."""
    return next(case for case in CASES if case.name == name)


def images(*shape: int) -> Tensor:
    """Inputs of shape (N, *shape)."""
    return torch.randn(N, *shape)


class Apply(nn.Module):
    """A module from named parts and a function of (parts, *inputs)."""

    def __init__(self, function: Callable[..., object], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part if isinstance(part, nn.Module) else nn.Parameter(part))

    def forward(self, *args: Tensor, **kwargs: Tensor) -> object:
        return self.function(self, *args, **kwargs)


def randomised(module: nn.Module) -> nn.Module:
    """Non-trivial values for what is initialised to constants: norms, biases, statistics."""
    for parameter in module.parameters():
        if parameter.ndim < 2:
            parameter.data = parameter.data + 0.3 * torch.randn_like(parameter)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.5 * torch.randn_like(buffer))
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand_like(buffer))
    return module


# --- linear layers ------------------------------------------------------------------------------


@case("mlp")
def _() -> tuple[nn.Module, Inputs]:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    return module, torch.randn(7, 4)


@case("mlp without bias")
def _() -> tuple[nn.Module, Inputs]:
    parts = [nn.Linear(4, 6, bias=False), nn.GELU(), nn.Linear(6, 3, bias=False)]
    return nn.Sequential(*parts), torch.randn(6, 4)


@case("one output")
def _() -> tuple[nn.Module, Inputs]:
    return nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 1)), torch.randn(6, 3)


@case("one sample")
def _() -> tuple[nn.Module, Inputs]:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(1, 3)


@case("mlp with more parameters than fit one block")
def _() -> tuple[nn.Module, Inputs]:
    parts = [nn.Linear(12, 17), nn.Tanh(), nn.Linear(17, 3)]  # d = 275, sums are cut from 192 on
    return nn.Sequential(*parts), torch.randn(N, 12)


@case("linear layer with many inputs")
def _() -> tuple[nn.Module, Inputs]:
    return nn.Sequential(nn.Linear(197, 2), nn.Tanh(), nn.Linear(2, 3)), torch.randn(N, 197)


@case("linear on sequences")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"first": nn.Linear(3, 4), "second": nn.Linear(4, 3)}
    return Apply(lambda m, x: m.second(m.first(x).tanh()).mean(1), **parts), torch.randn(N, 4, 3)


@case("linear on grids of vectors")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"first": nn.Linear(3, 4), "second": nn.Linear(4, 3)}
    function = lambda m, x: m.second(m.first(x).tanh().mean(2)).sum(1)  # noqa: E731
    return Apply(function, **parts), torch.randn(N, 2, 3, 3)


@case("in-place activations")
def _() -> tuple[nn.Module, Inputs]:
    parts = [nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 5), nn.ELU(inplace=True)]
    return nn.Sequential(*parts, nn.Linear(5, 3)), torch.randn(6, 4)


@case("in-place arithmetic")
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        hidden = m.first(x)
        hidden *= 2
        hidden += 1
        return m.second(hidden.sigmoid_())

    return Apply(function, first=nn.Linear(4, 5), second=nn.Linear(5, 3)), torch.randn(6, 4)


@case("residual connection")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"first": nn.Linear(4, 4), "second": nn.Linear(4, 4), "head": nn.Linear(4, 3)}
    function = lambda m, x: m.head(x + m.second(m.first(x).tanh()))  # noqa: E731
    return Apply(function, **parts), torch.randn(6, 4)


@case("dropout and identity in evaluation mode")
def _() -> tuple[nn.Module, Inputs]:
    parts = [nn.Linear(4, 5), nn.Dropout(0.5), nn.Identity(), nn.SiLU(), nn.Linear(5, 3)]
    return nn.Sequential(*parts), torch.randn(6, 4)


class Doubled(nn.Linear):
    """A linear layer that changes what its parent returns."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Positive(nn.Linear):
    """A linear layer whose operation sees a function of its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.exp(), self.bias)


@case("linear subclass", free=("0",))
def _() -> tuple[nn.Module, Inputs]:
    return nn.Sequential(Doubled(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(6, 4)


@case("linear subclass with another weight", indirect=("0",))
def _() -> tuple[nn.Module, Inputs]:
    return nn.Sequential(Positive(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(6, 4)


@case("slices of one weight", indirect=("whole",))
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        first = F.linear(x, m.whole.weight[:4], m.whole.bias[:4])
        return m.head(first.tanh() * F.linear(x, m.whole.weight[4:], m.whole.bias[4:]))

    return Apply(function, whole=nn.Linear(4, 8), head=nn.Linear(4, 3)), torch.randn(6, 4)


@case("masked weight", indirect=("0",))
def _() -> tuple[nn.Module, Inputs]:
    class Masked(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight * torch.ones_like(self.weight).tril(), self.bias)

    return nn.Sequential(Masked(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(6, 4)


@case("matrix products with raw weights")
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        hidden = torch.addmm(m.shift, x, m.first).tanh()
        return torch.einsum("nd,dk->nk", hidden, m.second) + hidden @ m.third.T

    parts = {"shift": torch.randn(5), "first": torch.randn(4, 5)}
    parts |= {"second": torch.randn(5, 3), "third": torch.randn(3, 5)}
    return Apply(function, **parts), torch.randn(6, 4)


@case("functional linear with swapped bias", free=("first", "second"))
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        hidden = F.linear(x, m.first.weight, m.second.bias).tanh()
        return m.head(F.linear(input=hidden, weight=m.second.weight, bias=m.first.bias))

    parts = {"first": nn.Linear(4, 4), "second": nn.Linear(4, 4), "head": nn.Linear(4, 3)}
    return Apply(function, **parts), torch.randn(6, 4)


@case("bilinear")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"first": nn.Linear(4, 3), "pair": nn.Bilinear(3, 4, 3)}
    return Apply(lambda m, x: m.pair(m.first(x).tanh(), x), **parts), torch.randn(6, 4)


# --- which dimension is the sample --------------------------------------------------------------


@case("samples folded into positions")
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        hidden = m.first(x.reshape(-1, x.shape[-1])).tanh()
        return m.second(hidden.reshape(*x.shape[:2], -1).sum(1))

    return Apply(function, first=nn.Linear(3, 4), second=nn.Linear(4, 3)), torch.randn(N, 4, 3)


@case("samples folded behind positions")
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        steps = x.transpose(0, 1)
        hidden = m.first(steps.reshape(-1, x.shape[-1])).tanh()
        return m.second((hidden.reshape(*steps.shape[:2], -1) ** 2).sum(0))

    return Apply(function, first=nn.Linear(3, 4), second=nn.Linear(4, 3)), torch.randn(N, 4, 3)


def time_first(m: nn.Module, x: Tensor) -> Tensor:
    """Linear layers on (time, samples, features)."""
    return m.second(m.first(x.transpose(0, 1)).tanh().cumsum(0)).square().mean(0)


@case("time before samples")
def _() -> tuple[nn.Module, Inputs]:
    return Apply(time_first, first=nn.Linear(3, 4), second=nn.Linear(4, 3)), torch.randn(N, 4, 3)


@case("time before samples and as many steps as samples")
def _() -> tuple[nn.Module, Inputs]:
    return Apply(time_first, first=nn.Linear(3, 4), second=nn.Linear(4, 3)), torch.randn(N, N, 3)


@case("linear on sequences as long as the batch")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"first": nn.Linear(3, 4), "second": nn.Linear(4, 3)}
    return Apply(lambda m, x: m.second(m.first(x).tanh()).mean(1), **parts), torch.randn(N, N, 3)


@case("linear layer over the time dimension")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"mix": nn.Linear(N, N), "head": nn.Linear(3, 3)}
    function = lambda m, x: m.head(m.mix(x.transpose(1, 2)).tanh().sum(2))  # noqa: E731
    return Apply(function, **parts), torch.randn(N, N, 3)


@case("convolution over samples moved to the channels", indirect=("mix",))
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        # every sample is a row of one image: the kernel has height 1, so rows do not mix
        hidden = m.mix(x[None, None]).tanh()
        return m.head(hidden[0].permute(1, 0, 2).flatten(1))

    return Apply(function, mix=nn.Conv2d(1, 2, (1, 3)), head=nn.Linear(8, 3)), torch.randn(N, 6)


@case("linear fed with a parameter", indirect=("hyper",))
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        return m.head((x * m.hyper(m.code).sum(0)).tanh())

    parts = {"code": torch.randn(N, 2), "hyper": nn.Linear(2, 4), "head": nn.Linear(4, 3)}
    return Apply(function, **parts), torch.randn(N, 4)


@case("linear fed with a constant as long as the batch", indirect=("hyper",))
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        code = torch.linspace(-1, 1, 2 * N, dtype=x.dtype).reshape(N, 2)
        return m.head((x @ m.hyper(code)).tanh())

    return Apply(function, hyper=nn.Linear(2, 4), head=nn.Linear(4, 3)), torch.randn(N, N)


@case("hyper-network that makes a weight", indirect=("hyper",))
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        return m.head(F.linear(x, m.hyper(m.code).reshape(4, 4)).tanh())

    parts = {"code": torch.randn(3), "hyper": nn.Linear(3, 16), "head": nn.Linear(4, 3)}
    return Apply(function, **parts), torch.randn(N, 4)


@case("samples in reverse order inside", indirect=("first",))
def _() -> tuple[nn.Module, Inputs]:
    parts = {"first": nn.Linear(4, 5), "head": nn.Linear(5, 3)}
    return Apply(lambda m, x: m.head(m.first(x.flip(0)).tanh().flip(0)), **parts), images(4)


@case("linear fed with one token made from a parameter", indirect=("first",))
def _() -> tuple[nn.Module, Inputs]:
    parts = {"token": torch.randn(1, 4), "first": nn.Linear(4, 4), "head": nn.Linear(4, 3)}
    function = lambda m, x: m.head((x * m.first(m.token.exp())).tanh())  # noqa: E731
    return Apply(function, **parts), images(4)


@case("time before samples and three steps")
def _() -> tuple[nn.Module, Inputs]:
    return Apply(time_first, first=nn.Linear(3, 4), second=nn.Linear(4, 3)), torch.randn(N, 3, 3)


@case("samples routed to experts", indirect=("one", "two"))
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        first = x[:, 0] > 0
        hidden = torch.zeros(len(x), 4, dtype=x.dtype)
        hidden = hidden.index_put((first.nonzero()[:, 0],), m.one(x[first]))
        hidden = hidden.index_put(((~first).nonzero()[:, 0],), m.two(x[~first]))
        return m.head(hidden.tanh())

    parts = {"one": nn.Linear(3, 4), "two": nn.Linear(3, 4), "head": nn.Linear(4, 3)}
    return Apply(function, **parts), torch.randn(7, 3)


@case("samples sorted inside", indirect=("first",))
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        return m.head(m.first(x[order]).tanh()[order.argsort()])

    return Apply(function, first=nn.Linear(4, 5), head=nn.Linear(5, 3)), images(4)


@case("batch repeated inside")
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        both = m.first(torch.cat([x, x.sin()])).tanh()
        return m.head(both[: len(x)] - both[len(x) :].exp())

    return Apply(function, first=nn.Linear(4, 5), head=nn.Linear(5, 3)), images(4)


@case("batch interleaved inside")
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        scales = torch.tensor([1.0, -2.0]).repeat(len(x))[:, None]
        both = m.first(x.repeat_interleave(2, 0) * scales)
        return m.head(both.tanh().reshape(len(x), 2, -1).prod(1))

    return Apply(function, first=nn.Linear(4, 5), head=nn.Linear(5, 3)), images(4)


# --- convolutions -------------------------------------------------------------------------------


def convolutional(layer: nn.Module, *shape: int) -> tuple[nn.Module, Inputs]:
    """A layer, an activation, a mean over positions with a curved weighting, and a head."""

    def function(m: nn.Module, x: Tensor) -> Tensor:
        hidden = m.layer(x).tanh().flatten(2)
        weight = torch.linspace(-1.0, 2.0, hidden.shape[2], dtype=x.dtype)
        return m.head((hidden * weight).mean(2).exp() + hidden.mean(2))

    return Apply(function, layer=layer, head=nn.Linear(layer.out_channels, 3)), images(*shape)


@case("conv1d")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv1d(2, 4, 3), 2, 7)


@case("conv1d with stride, dilation and padding")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv1d(2, 3, 3, stride=2, dilation=2, padding=3), 2, 9)


@case("conv1d causal with groups")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv1d(4, 4, 2, groups=2, padding=1, bias=False), 4, 5)


@case("conv1d same padding with an even kernel")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv1d(2, 3, 4, padding="same", dilation=1), 2, 6)


@case("conv1d with kernel 1 as long as the batch")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv1d(3, 4, 1), 3, N)


@case("conv2d")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv2d(2, 4, 3), 2, 5, 5)


@case("conv2d without bias")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv2d(2, 4, (2, 3), bias=False), 2, 4, 5)


@case("conv2d with stride")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv2d(2, 3, 3, stride=2, padding=1), 2, 6, 5)


@case("conv2d with uneven stride, dilation and padding")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), dilation=(1, 2), padding=(2, 1)), 2, 5, 6
    )


@case("conv2d whose stride leaves a rest")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv2d(2, 3, 2, stride=3), 2, 7, 7)


@case("conv2d with groups")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv2d(4, 6, 2, groups=2, padding=1), 4, 3, 4)


@case("conv2d depthwise")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv2d(3, 6, 3, groups=3, padding=1), 3, 4, 4)


@case("conv2d valid padding")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv2d(2, 3, 2, padding="valid"), 2, 4, 4)


@case("conv2d same padding")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv2d(2, 3, (3, 2), padding="same", dilation=(1, 2)), 2, 4, 5)


@case("conv2d reflect padding")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="reflect"), 2, 4, 5)


@case("conv2d circular padding")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", stride=2), 2, 4, 5)


@case("conv2d replicate padding")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv2d(2, 3, 3, padding="same", padding_mode="replicate"), 2, 4, 4)


@case("conv2d with frozen weight")
def _() -> tuple[nn.Module, Inputs]:
    module, inputs = convolutional(nn.Conv2d(2, 4, 2), 2, 3, 4)
    module.layer.weight.requires_grad_(False)
    return module, inputs


@case("conv3d")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.Conv3d(2, 3, 2, padding=1, stride=(1, 2, 1)), 2, 3, 3, 2)


@case("conv3d with groups and circular padding", repeated=True)
def _() -> tuple[nn.Module, Inputs]:
    layer = nn.Conv3d(2, 4, (2, 1, 2), groups=2, padding=1, padding_mode="circular")
    return convolutional(layer, 2, 2, 3, 2)


@case("two convolutions and pooling")
def _() -> tuple[nn.Module, Inputs]:
    parts = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    parts += [nn.Conv2d(3, 4, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(*parts), images(1, 6, 6)


@case("transposed conv1d")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1), 2, 4)


@case("transposed conv1d with dilation and groups")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.ConvTranspose1d(4, 6, 2, dilation=2, groups=2), 4, 4)


@case("transposed conv2d")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.ConvTranspose2d(2, 3, (2, 3)), 2, 3, 2)


@case("transposed conv2d with everything")
def _() -> tuple[nn.Module, Inputs]:
    layer = nn.ConvTranspose2d(
        4, 6, (3, 2), stride=(2, 3), padding=(1, 2), output_padding=(1, 2), dilation=2, groups=2
    )
    return convolutional(layer, 4, 3, 3)


@case("transposed conv2d without bias")
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.ConvTranspose2d(2, 3, 2, bias=False), 2, 2, 3)


@case("transposed conv2d that tiles its output", repeated=True)
def _() -> tuple[nn.Module, Inputs]:
    return convolutional(nn.ConvTranspose2d(2, 3, 2, stride=2, bias=False), 2, 2, 3)


@case("transposed conv3d")
def _() -> tuple[nn.Module, Inputs]:
    layer = nn.ConvTranspose3d(2, 4, 2, stride=(1, 2, 1), padding=1, groups=2)
    return convolutional(layer, 2, 2, 3, 2)


# --- normalisation ------------------------------------------------------------------------------


@case("batch norm 1d")
def _() -> tuple[nn.Module, Inputs]:
    parts = [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)]
    return randomised(nn.Sequential(*parts)), torch.randn(6, 4)


@case("batch norm 1d on sequences")
def _() -> tuple[nn.Module, Inputs]:
    parts = [nn.Conv1d(2, 4, 2), nn.BatchNorm1d(4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)]
    return randomised(nn.Sequential(*parts)), images(2, 5)


@case("batch norm 2d")
def _() -> tuple[nn.Module, Inputs]:
    parts = [nn.Conv2d(2, 4, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
    return randomised(nn.Sequential(*parts, nn.Flatten(), nn.Linear(16, 3))), images(2, 3, 3)


@case("batch norm 3d without affine parameters")
def _() -> tuple[nn.Module, Inputs]:
    parts = [nn.Conv3d(1, 3, 2), nn.BatchNorm3d(3, affine=False), nn.Tanh(), nn.Flatten()]
    return randomised(nn.Sequential(*parts, nn.Linear(12, 3))), images(1, 2, 3, 3)


@case("instance norm")
def _() -> tuple[nn.Module, Inputs]:
    parts = [nn.Conv2d(2, 4, 2), nn.InstanceNorm2d(4, affine=True), nn.Tanh(), nn.Flatten()]
    return randomised(nn.Sequential(*parts, nn.Linear(16, 3))), images(2, 3, 3)


@case("instance norm with running statistics")
def _() -> tuple[nn.Module, Inputs]:
    norm = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
    parts = [nn.Conv1d(2, 4, 2), norm, nn.Tanh(), nn.Flatten()]
    return randomised(nn.Sequential(*parts, nn.Linear(16, 3))), images(2, 5)


@case("group norm")
def _() -> tuple[nn.Module, Inputs]:
    parts = [nn.Conv2d(2, 6, 2), nn.GroupNorm(3, 6), nn.ReLU(inplace=True), nn.Flatten()]
    return randomised(nn.Sequential(*parts, nn.Linear(24, 3))), images(2, 3, 3)


@case("group norm on vectors")
def _() -> tuple[nn.Module, Inputs]:
    parts = [nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.Tanh(), nn.Linear(6, 3)]
    return randomised(nn.Sequential(*parts)), torch.randn(6, 4)


@case("layer norm")
def _() -> tuple[nn.Module, Inputs]:
    parts = [nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)]
    return randomised(nn.Sequential(*parts)), torch.randn(6, 4)


@case("layer norm over two dimensions on sequences as long as the batch")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"first": nn.Linear(3, 4), "norm": nn.LayerNorm((N, 4)), "head": nn.Linear(4, 3)}
    function = lambda m, x: m.head(m.norm(m.first(x)).tanh().sum(1))  # noqa: E731
    return randomised(Apply(function, **parts)), torch.randn(N, N, 3)


@case("layer norm without bias on sequences")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"norm": nn.LayerNorm(3, bias=False), "head": nn.Linear(3, 3)}
    function = lambda m, x: m.head(m.norm(x).sin().mean(1))  # noqa: E731
    return randomised(Apply(function, **parts)), torch.randn(N, 4, 3)


@case("rms norm")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"first": nn.Linear(3, 6), "norm": nn.RMSNorm(6), "head": nn.Linear(6, 3)}
    function = lambda m, x: m.head(m.norm(m.first(x)).tanh().mean(1))  # noqa: E731
    return randomised(Apply(function, **parts)), torch.randn(N, 4, 3)


@case("norm called twice")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"norm": nn.LayerNorm(4), "head": nn.Linear(4, 3)}
    function = lambda m, x: m.head(m.norm(m.norm(x).sin() + x))  # noqa: E731
    return randomised(Apply(function, **parts)), torch.randn(N, 4)


# --- embeddings, attention, recurrence ----------------------------------------------------------


@case("embedding")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"embed": nn.Embedding(7, 4), "head": nn.Linear(4, 3)}
    function = lambda m, x: m.head(m.embed(x).tanh().sum(1))  # noqa: E731
    return Apply(function, **parts), torch.randint(7, (N, 4))


@case("embedding with padding index")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"embed": nn.Embedding(5, 4, padding_idx=1), "head": nn.Linear(4, 3)}
    function = lambda m, x: m.head(m.embed(x).tanh().sum(1))  # noqa: E731
    return Apply(function, **parts), torch.randint(5, (N, 6))


@case("embedding of one token")
def _() -> tuple[nn.Module, Inputs]:
    return nn.Sequential(nn.Embedding(6, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randint(6, (N,))


@case("embedding tied to the head")
def _() -> tuple[nn.Module, Inputs]:
    embed, head = nn.Embedding(6, 4), nn.Linear(4, 6)
    head.weight = embed.weight
    function = lambda m, x: m.head(m.embed(x).sum(1).tanh())[:, :3]  # noqa: E731
    return Apply(function, embed=embed, head=head), torch.randint(6, (N, 3))


@case("embedding bag")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"bag": nn.EmbeddingBag(6, 4, mode="mean"), "head": nn.Linear(4, 3)}
    return Apply(lambda m, x: m.head(m.bag(x).tanh()), **parts), torch.randint(6, (N, 3))


def positional(length: int) -> tuple[nn.Module, Inputs]:
    """Token embeddings plus embeddings of their positions."""

    def function(m: nn.Module, x: Tensor) -> Tensor:
        places = m.places(torch.arange(x.shape[1]))
        return m.head((m.tokens(x) + places).tanh().sum(1))

    parts = {"tokens": nn.Embedding(6, 4), "places": nn.Embedding(length + 1, 4)}
    return Apply(function, **parts, head=nn.Linear(4, 3)), torch.randint(6, (N, length))


@case("positional embedding")
def _() -> tuple[nn.Module, Inputs]:
    return positional(3)


@case("positional embedding with as many positions as samples")
def _() -> tuple[nn.Module, Inputs]:
    return positional(N)


@case("raw positional embedding and class token")
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        tokens = torch.cat([m.token.expand(len(x), -1, -1), m.first(x)], dim=1) + m.places
        return m.head((tokens.tanh() * tokens.softmax(1)).sum(1))

    parts = {"token": torch.randn(1, 1, 4), "places": torch.randn(1, 4, 4)}
    return Apply(function, **parts, first=nn.Linear(2, 4), head=nn.Linear(4, 3)), images(3, 2)


ATTENTION = ("attend", "attend.out_proj")


def attending(m: nn.Module, x: Tensor) -> Tensor:
    """Self-attention over the second dimension, then a head."""
    if not m.attend.batch_first:
        x = x.transpose(0, 1)
    mixed = m.attend(x, x, x, need_weights=False)[0] + x
    return m.head(mixed.tanh().sum(1 if m.attend.batch_first else 0))


@case("attention, batch first", free=ATTENTION)
def _() -> tuple[nn.Module, Inputs]:
    attend = nn.MultiheadAttention(4, 2, batch_first=True)
    return randomised(Apply(attending, attend=attend, head=nn.Linear(4, 3))), images(3, 4)


@case("attention, time first", free=ATTENTION)
def _() -> tuple[nn.Module, Inputs]:
    attend = nn.MultiheadAttention(4, 2)
    return randomised(Apply(attending, attend=attend, head=nn.Linear(4, 3))), images(3, 4)


@case("attention, time first, as many steps as samples", free=ATTENTION)
def _() -> tuple[nn.Module, Inputs]:
    attend = nn.MultiheadAttention(4, 2)
    return randomised(Apply(attending, attend=attend, head=nn.Linear(4, 3))), images(N, 4)


@case("cross attention with weights, masks and other widths", free=ATTENTION)
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, query: Tensor, memory: Tensor, padding: Tensor) -> Tensor:
        mixed, weights = m.attend(query, memory, memory, key_padding_mask=padding)
        return m.head(mixed.tanh().sum(1)) + weights.square().sum((1, 2))[:, None]

    attend = nn.MultiheadAttention(4, 2, kdim=3, vdim=3, batch_first=True, add_bias_kv=True)
    padding = torch.zeros(N, 4, dtype=torch.bool)
    padding[1:3, 3:] = True
    inputs = {"query": images(2, 4), "memory": images(4, 3), "padding": padding}
    return randomised(Apply(function, attend=attend, head=nn.Linear(4, 3))), inputs


@case("scaled dot product attention by hand")
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = m.project(x).reshape(*x.shape[:2], 3, 2, 2).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return m.head(m.out(mixed.transpose(1, 2).flatten(2)).tanh().sum(1))

    parts = {"project": nn.Linear(4, 12), "out": nn.Linear(4, 4), "head": nn.Linear(4, 3)}
    return Apply(function, **parts), images(3, 4)


ENCODED = ("self_attn", "self_attn.out_proj")


@case("transformer encoder layer", free=tuple(f"layer.{part}" for part in ENCODED))
def _() -> tuple[nn.Module, Inputs]:
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=5, batch_first=True)
    function = lambda m, x: m.head(m.layer(x).tanh().sum(1))  # noqa: E731
    return randomised(Apply(function, layer=layer, head=nn.Linear(4, 3))), images(3, 4)


@case(
    "transformer encoder, norm first, time first",
    free=tuple(f"encoder.layers.0.{part}" for part in ENCODED),
)
def _() -> tuple[nn.Module, Inputs]:
    layer = nn.TransformerEncoderLayer(4, 2, 5, norm_first=True, activation="gelu")
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    function = lambda m, x: m.head(m.encoder(x.transpose(0, 1)).tanh().sum(0))  # noqa: E731
    return randomised(Apply(function, encoder=encoder, head=nn.Linear(4, 3))), images(N, 4)


@case("text encoder with tokens, positions, a mask and a pooled head")
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
        n, length = tokens.shape
        x = m.norm(m.words(tokens) + m.places(torch.arange(length).expand(n, length)))
        heads = [part(x).unflatten(2, (2, 2)).transpose(1, 2) for part in (m.query, m.key, m.value)]
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=mask[:, None, None, :] > 0)
        x = m.norm_attention(x + m.out(mixed.transpose(1, 2).flatten(2)))
        x = m.norm_output(x + m.down(F.gelu(m.up(x))))
        seen = mask.unsqueeze(2).to(x.dtype)
        return m.head((x * seen).sum(1) / seen.sum(1))

    parts: dict[str, nn.Module] = {"words": nn.Embedding(7, 4), "places": nn.Embedding(5, 4)}
    parts |= {name: nn.Linear(4, 4) for name in ("query", "key", "value", "out")}
    parts |= {name: nn.LayerNorm(4) for name in ("norm", "norm_attention", "norm_output")}
    parts |= {"up": nn.Linear(4, 8), "down": nn.Linear(8, 4), "head": nn.Linear(4, 3)}
    mask = torch.ones(N, 5, dtype=torch.int64)
    mask[1:3, 3:] = 0
    mask[4, 1:] = 0
    inputs = {"tokens": torch.randint(7, (N, 5)), "mask": mask}
    return randomised(Apply(function, **parts)), inputs


def recurrent(m: nn.Module, x: Tensor) -> Tensor:
    """A recurrent network over the second dimension, then a head on its last output."""
    if m.cell.batch_first:
        return m.head(m.cell(x)[0][:, -1])
    return m.head(m.cell(x.transpose(0, 1))[0][-1])


@case("lstm")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"cell": nn.LSTM(3, 4, batch_first=True), "head": nn.Linear(4, 3)}
    return Apply(recurrent, **parts), images(3, 3)


@case("lstm, two directions, time first")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"cell": nn.LSTM(2, 3, bidirectional=True), "head": nn.Linear(6, 3)}
    return Apply(recurrent, **parts), images(N, 2)


@case("gru")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"cell": nn.GRU(3, 4, batch_first=True), "head": nn.Linear(4, 3)}
    return Apply(recurrent, **parts), images(3, 3)


@case("rnn")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"cell": nn.RNN(3, 4, batch_first=True, num_layers=2), "head": nn.Linear(4, 3)}
    return Apply(recurrent, **parts), images(3, 3)


@case("lstm cell unrolled by hand")
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = m.cell(step, state)
        return m.head(state[0])

    return Apply(function, cell=nn.LSTMCell(2, 3), head=nn.Linear(3, 3)), images(3, 2)


# --- sharing, reparametrisation, raw parameters -------------------------------------------------


@case("module called twice")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"inner": nn.Linear(4, 4), "head": nn.Linear(4, 3)}
    return Apply(lambda m, x: m.head(m.inner(m.inner(x).tanh()).sin()), **parts), torch.randn(6, 4)


@case("convolution called twice")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"inner": nn.Conv1d(2, 2, 3, padding=1), "head": nn.Linear(2, 3)}
    function = lambda m, x: m.head(m.inner(m.inner(x).tanh()).sin().sum(2))  # noqa: E731
    return Apply(function, **parts), images(2, 5)


@case("module called twice on different lengths")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"inner": nn.Linear(3, 3), "head": nn.Linear(3, 3)}
    function = lambda m, x: m.head(m.inner(m.inner(x).tanh().mean(1)).sin())  # noqa: E731
    return Apply(function, **parts), images(4, 3)


@case("tied weights", indirect=("first", "second"))
def _() -> tuple[nn.Module, Inputs]:
    parts = {"first": nn.Linear(4, 4), "second": nn.Linear(4, 4), "head": nn.Linear(4, 3)}
    parts["second"].weight = parts["first"].weight
    function = lambda m, x: m.head(m.second(m.first(x).tanh()).sin())  # noqa: E731
    return Apply(function, **parts), torch.randn(6, 4)


@case("weight tied to its transpose", indirect=("first",))
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        return m.head(F.linear(m.first(x).tanh(), m.first.weight.T))

    return Apply(function, first=nn.Linear(4, 5), head=nn.Linear(4, 3)), torch.randn(6, 4)


@case("raw parameter added")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"shift": torch.randn(4), "first": nn.Linear(4, 4), "head": nn.Linear(4, 3)}
    return Apply(lambda m, x: m.head((m.first(x) + m.shift).tanh()), **parts), torch.randn(6, 4)


@case("raw parameters added in other shapes")
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.add((m.constant + x + m.positions).tanh(), m.feature).sin()
        return m.head((m.column + x).tanh().sum(1))

    shapes = {"constant": (), "positions": (1, N, 4), "feature": (4,), "column": (1, N, 1)}
    parts = {name: torch.randn(shape) for name, shape in shapes.items()}
    return Apply(function, **parts, head=nn.Linear(4, 3, bias=False)), images(N, 4)


@case("raw parameter added after a factor")
def _() -> tuple[nn.Module, Inputs]:
    function = lambda m, x: m.head(torch.add(x, m.shift, alpha=2).sin())  # noqa: E731
    return Apply(function, shift=torch.randn(4), head=nn.Linear(4, 3)), torch.randn(N, 4)


@case("raw parameter multiplied")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"scale": torch.randn(N), "temperature": torch.randn(())}
    function = lambda m, x: m.head((m.scale * x).sin()) * m.temperature.exp()  # noqa: E731
    return Apply(function, **parts, head=nn.Linear(N, 3)), torch.randn(N, N)


@case("a parameter is the output")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"shift": torch.randn(3), "head": nn.Linear(4, 3)}
    return Apply(lambda m, x: m.head(x) * 0.5 + m.shift.expand(len(x), 3), **parts), images(4)


@case("no structured layer at all")
def _() -> tuple[nn.Module, Inputs]:
    function = lambda m, x: (x[:, :, None] * m.weight).sin().sum(1) + m.bias**2  # noqa: E731
    return Apply(function, weight=torch.randn(4, 3), bias=torch.randn(3)), images(4)


@case("prelu")
def _() -> tuple[nn.Module, Inputs]:
    return nn.Sequential(nn.Linear(4, 5), nn.PReLU(5), nn.Linear(5, 3)), torch.randn(6, 4)


@case("prelu with as many samples as outputs")
def _() -> tuple[nn.Module, Inputs]:
    return nn.Sequential(nn.Linear(4, 5), nn.PReLU(5), nn.Linear(5, 3)), torch.randn(3, 4)


@case("weight norm", indirect=("0",))
def _() -> tuple[nn.Module, Inputs]:
    parts = [parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)]
    return nn.Sequential(*parts), torch.randn(6, 4)


@case("weight norm on a convolution", indirect=("0",))
def _() -> tuple[nn.Module, Inputs]:
    parts = [parametrizations.weight_norm(nn.Conv1d(2, 3, 2)), nn.Tanh(), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(12, 3)), images(2, 5)


@case("spectral norm", indirect=("0",))
def _() -> tuple[nn.Module, Inputs]:
    parts = [parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)]
    return nn.Sequential(*parts), torch.randn(6, 4)


@case("orthogonal parametrization", indirect=("0",))
def _() -> tuple[nn.Module, Inputs]:
    parts = [parametrizations.orthogonal(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 3)]
    return nn.Sequential(*parts), torch.randn(6, 4)


@case("frozen layers")
def _() -> tuple[nn.Module, Inputs]:
    parts = [nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)]
    module = nn.Sequential(*parts)
    module[0].requires_grad_(False)
    module[2].bias.requires_grad_(False)
    return module, torch.randn(6, 4)


@case("only biases")
def _() -> tuple[nn.Module, Inputs]:
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    return module, torch.randn(6, 4)


@case("low rank adapter")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"base": nn.Linear(4, 5), "down": nn.Linear(4, 2, bias=False)}
    parts |= {"up": nn.Linear(2, 5, bias=False), "head": nn.Linear(5, 3)}
    parts["base"].requires_grad_(False)
    parts["head"].requires_grad_(False)
    function = lambda m, x: m.head((m.base(x) + m.up(m.down(x))).tanh())  # noqa: E731
    return Apply(function, **parts), torch.randn(6, 4)


@case("unused layer", indirect=("idle",))
def _() -> tuple[nn.Module, Inputs]:
    parts = {"first": nn.Linear(4, 5), "idle": nn.Linear(3, 2), "head": nn.Linear(5, 3)}
    return Apply(lambda m, x: m.head(m.first(x).tanh()), **parts), torch.randn(6, 4)


@case("trunk under no_grad", indirect=("trunk",))
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = m.trunk(x).tanh()
        return m.head(hidden)

    return Apply(function, trunk=nn.Linear(4, 5), head=nn.Linear(5, 3)), torch.randn(6, 4)


@case("one branch detached", indirect=("second",))
def _() -> tuple[nn.Module, Inputs]:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        return m.head(m.first(x).tanh() * m.second(x).detach())

    parts = {"first": nn.Linear(4, 5), "second": nn.Linear(4, 5), "head": nn.Linear(5, 3)}
    return Apply(function, **parts), torch.randn(6, 4)


# --- inputs and outputs -------------------------------------------------------------------------


@case("dict inputs")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"first": nn.Linear(3, 4), "embed": nn.Embedding(5, 4), "head": nn.Linear(4, 3)}

    def function(m: nn.Module, features: Tensor, token: Tensor) -> Tensor:
        return m.head(m.first(features).tanh() * m.embed(token))

    inputs = {"features": torch.randn(N, 3), "token": torch.randint(5, (N,))}
    return Apply(function, **parts), inputs


@case("several inputs")
def _() -> tuple[nn.Module, Inputs]:
    parts = {"first": nn.Linear(3, 4), "second": nn.Linear(2, 4), "head": nn.Linear(4, 3)}
    function = lambda m, x, z: m.head(m.first(x).tanh() * m.second(z))  # noqa: E731
    return Apply(function, **parts), (torch.randn(N, 3), torch.randn(N, 2))


@case("outputs inside a dictionary", readout=lambda result: result["logits"])
def _() -> tuple[nn.Module, Inputs]:
    parts = {"first": nn.Linear(4, 5), "head": nn.Linear(5, 3)}
    function = lambda m, x: {"hidden": x, "logits": m.head(m.first(x).tanh())}  # noqa: E731
    return Apply(function, **parts), torch.randn(6, 4)


@case("difference of two outputs", readout=lambda logits: logits[:, 1:2] - logits[:, :1])
def _() -> tuple[nn.Module, Inputs]:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(6, 4)


# --- printed digits -----------------------------------------------------------------------------


def golden_module() -> tuple[nn.Module, Tensor]:
    """003 G1: a softmax layer on (1, 0) and (1, 2) with W = I and b = (0, 0.5)."""
    module = nn.Linear(2, 2).double()
    with torch.no_grad():
        module.weight.copy_(torch.eye(2))
        module.bias.copy_(torch.tensor([0.0, 0.5]))
    return module, torch.tensor([[1.0, 0.0], [1.0, 2.0]], dtype=torch.float64)


def golden_numbers() -> dict[object, Any]:
    """003 G1 as printed; vectors and matrices in flat order (w11, w12, w21, w22, b1, b2).

    The document orders the parameters row by row of [W | b]: (w11, w12, b1, w21, w22, b2).
    """
    flat = torch.tensor([0, 1, 3, 4, 2, 5])
    numbers = lambda *values: torch.tensor(values, dtype=torch.float64)[flat]  # noqa: E731
    corner = torch.tensor(
        [
            [0.19207508, 0.14914645, 0.19207508],
            [0.14914645, 0.29829290, 0.14914645],
            [0.19207508, 0.14914645, 0.19207508],
        ],
        dtype=torch.float64,
    )
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    return {
        "fisher": torch.kron(signs, corner)[flat[:, None], flat],
        "vector": numbers(0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
        ("dense", "trace"): 1.3648861368,
        ("ekfac", "trace"): 1.3648861368,
        ("diagonal", "trace"): 1.3648861368,
        ("kfac", "trace"): 1.5366006571,
        ("dense", "norm"): 1.1411023828,
        ("kfac", "norm"): 1.3307352045,
        ("kfac", "error"): 0.2128126337,
        ("ekfac", "error"): 0.1064063168,
        ("diagonal", "error"): 0.8660254038,
        ("dense", "quadratic"): 0.1496861137,
        ("kfac", "quadratic"): 0.1728675739,
        ("ekfac", "quadratic"): 0.1458225370,
        ("diagonal", "quadratic"): 0.2055914931,
        ("dense", "solve"): numbers(
            2.36004787, 3.40452498, 4.36004787, 2.63995213, 3.59547502, 4.63995213
        ),
        ("kfac", "solve"): numbers(
            2.34171297, 3.46730621, 4.34171297, 2.65828703, 3.53269379, 4.65828703
        ),
        ("ekfac", "solve"): numbers(
            2.33276712, 3.43580206, 4.33276712, 2.66723288, 3.56419794, 4.66723288
        ),
    }
