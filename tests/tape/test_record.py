"""The tape: which way each parameter takes, and contractions that agree with its own rows."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from pullback.batches import Batches
from pullback.cotangents import Source
from pullback.likelihoods import Euclidean
from pullback.tape.generic import LOOPED, VMAPPED
from pullback.tape.sweep import Part, Sweep
from pullback.tape.use import Use
from tests.cases import CASES, Case, named
from tests.checks import assert_agree
from tests.entries import data_of, network_of

GENERIC = (VMAPPED, LOOPED)


def swept(case: Case) -> tuple[Sweep, list[Part]]:
    """A sweep over all samples with one cotangent for each output, and its parts."""
    network = network_of(case)
    sweep = Sweep(network, Batches(data_of(case), network.device), Source(Euclidean()))

    def parts() -> list[Part]:
        return [part for step in sweep.steps("test") for part in step.parts()]

    return sweep, sweep.settled(parts)


WAYS = {
    "mlp": {"*": "linear"},
    "linear on sequences": {"*": "linear"},
    "in-place activations": {"*": "linear"},
    "linear subclass": {"*": "linear"},
    "linear subclass with another weight": {"0.weight": GENERIC, "0.bias": "linear"},
    "slices of one weight": {"whole.weight": GENERIC, "head.weight": "linear"},
    "samples folded into positions": {"*": "linear"},
    "time before samples": {"*": "linear"},
    "time before samples and as many steps as samples": {"*": "linear"},
    "time before samples and three steps": {"*": "linear"},
    "attention, batch first": {"*": "linear"},
    "attention, time first": {"*": "linear"},
    "attention, time first, as many steps as samples": {"*": "linear"},
    "samples sorted inside": {"first.weight": GENERIC, "head.weight": "linear"},
    "linear fed with a parameter": {"code": GENERIC, "hyper.weight": GENERIC},
    "linear fed with a constant as long as the batch": {"hyper.weight": GENERIC},
    "conv1d": {"layer.weight": "convolution", "layer.bias": "convolution"},
    "conv2d circular padding": {"layer.weight": "convolution"},
    "conv2d same padding": {"layer.weight": "convolution"},
    "conv3d": {"layer.weight": "convolution"},
    "transposed conv2d with everything": {"layer.weight": "convolution"},
    "convolution over samples moved to the channels": {"mix.weight": GENERIC},
    "batch norm 2d": {"1.weight": "normalisation", "1.bias": "normalisation"},
    "instance norm": {"1.weight": "normalisation"},
    "group norm": {"1.weight": "normalisation"},
    "layer norm": {"1.weight": "normalisation"},
    "rms norm": {"norm.weight": "normalisation"},
    "embedding": {"embed.weight": "embedding"},
    "positional embedding": {"tokens.weight": "embedding", "places.weight": GENERIC},
    "positional embedding with as many positions as samples": {"places.weight": GENERIC},
    "text encoder with tokens, positions, a mask and a pooled head": {
        **{f"{name}.weight": "embedding" for name in ("words", "places")},
        **{f"{name}.weight": "linear" for name in ("query", "key", "value", "out", "up", "down")},
        **{f"{name}.bias": "normalisation" for name in ("norm", "norm_attention", "norm_output")},
        "head.weight": "linear",
    },
    "lstm": {"cell.weight_ih_l0": GENERIC, "head.weight": "linear"},
    "gru": {"cell.weight_ih_l0": LOOPED, "head.weight": "linear"},
    "module called twice": {"inner.weight": "linear"},
    "tied weights": {"first.weight": "linear"},
    "raw parameter added": {"shift": "addition", "first.weight": "linear"},
    "raw parameters added in other shapes": {"*": "addition", "head.weight": "linear"},
    "raw positional embedding and class token": {"token": GENERIC, "places": "addition"},
    "raw parameter added after a factor": {"shift": GENERIC},
    "weight norm": {"0.parametrizations.weight.original0": GENERIC, "0.bias": "linear"},
    "frozen layers": {"2.weight": "linear"},
    "unused layer": {"idle.weight": "unused", "first.weight": "linear"},
    "trunk under no_grad": {"trunk.weight": "unused", "head.weight": "linear"},
}


@pytest.mark.parametrize("name", WAYS)
def test_each_parameter_takes_the_expected_way(name: str) -> None:
    found = swept(named(name))[0].plan.ways
    expected = WAYS[name]
    if "*" in expected:
        expected = {**dict.fromkeys(found, expected["*"]), **expected}
        del expected["*"]
    wrong = {
        key: found[key]
        for key, way in expected.items()
        if found[key] not in (way if isinstance(way, tuple) else (way,))
    }
    assert wrong == {}


@pytest.mark.parametrize("case", CASES, ids=str)
class TestOnTheGrid:
    def test_every_parameter_has_a_way(self, case: Case) -> None:
        sweep, _ = swept(case)
        assert tuple(sweep.plan.ways) == sweep.network.space.names

    def test_every_parameter_on_the_generic_way_has_a_reason(self, case: Case) -> None:
        plan = swept(case)[0].plan
        assert [name for name in plan.generic if not plan.reasons.get(name)] == []

    def test_per_sample_gradients(self, case: Case) -> None:
        sweep, parts = swept(case)
        rows = torch.zeros(case.c, case.n, case.d, dtype=torch.float64)
        for part in parts:
            for name, gradients in part.per_sample.items():
                where = sweep.network.space.slices[name]
                rows[..., where] += gradients.reshape(case.c, case.n, -1)
        assert_agree(rows, case.rows.transpose(0, 1))

    def test_squared_norms(self, case: Case) -> None:
        total = sum(part.squared_norm() for part in swept(case)[1])
        assert_agree(total, case.rows.square().sum((1, 2)))

    def test_squares_of_the_gradients(self, case: Case) -> None:
        sweep, parts = swept(case)
        total = torch.zeros(case.d, dtype=torch.float64)
        for part in parts:
            for name, squares in part.diagonal.items():
                total[sweep.network.space.slices[name]] += squares.reshape(-1)
        assert_agree(total, case.rows.square().sum((0, 1)))


def in_graph(thing: object) -> bool:
    return isinstance(thing, Tensor) and thing.grad_fn is not None


@pytest.mark.parametrize(
    "name", ["mlp", "linear on sequences", "attention, batch first", "conv2d", "layer norm", "lstm"]
)
def test_nothing_of_a_pass_waits_for_the_garbage_collector(name: str) -> None:
    """A cycle of references would keep the graphs of many pieces in memory."""
    sweep = swept(named(name))[0]
    gc.collect()
    gc.disable()
    try:
        sweep.settled(lambda: [None for _ in sweep.steps("test")])
        left = [thing for thing in gc.get_objects() if isinstance(thing, Use) or in_graph(thing)]
    finally:
        gc.enable()
    assert left == []


class TestOverwrittenInputs:
    """A layer's input that is overwritten after its use is noticed, never silently wrong."""

    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            result = self.second(hidden)
            hidden.zero_()
            return result

    def test_it_is_refused_or_right(self) -> None:
        module = self.Overwriting().double()
        x = torch.randn(4, 3, dtype=torch.float64)
        try:
            trace = pb.fisher(module, x, "euclidean", representation="diagonal").trace()
        except pb.InputError as error:
            assert "in-place" in str(error)
        else:
            hidden = module.first(x).detach()
            weight = module.second.weight.detach()
            second = 3 * (hidden.square().sum(1).mean() + 1)
            first = weight.square().sum() * (x.square().sum(1).mean() + 1)
            assert_agree(trace, float(first + second))


class TestModulesThatComputeDifferentlyFromBatchToBatch:
    class Switching(nn.Module):
        """Uses its weight in a way that depends on the first number of the batch."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            if bool(x[0, 0] > 0):
                return self.first(x)
            return x @ self.first.weight.T + self.first.bias

    def test_they_are_refused_or_right(self) -> None:
        module = self.Switching().double()
        x = torch.randn(6, 3, dtype=torch.float64)
        x[:3, 0], x[3:, 0] = 1.0, -1.0
        try:
            trace = pb.fisher(
                module, [x[:3], x[3:]], "euclidean", representation="diagonal"
            ).trace()
        except pb.InputError as error:
            assert "model" in str(error)
        else:
            assert_agree(trace, float(3 * (x.square().sum(1).mean() + 1)))
