"""The recorder: what it keeps, and that the training does not notice it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from pullback import InputError
from pullback.probes import (
    ClassAlignment,
    EffectiveRank,
    EigenfunctionLocalisation,
    GroupAlignment,
    KernelDrift,
    KernelPrediction,
    KernelRotation,
    KernelSample,
    LabelAlignment,
    LabelConcentration,
    LabelNorm,
    LearningTimes,
    Loss,
    Moment,
    NumericalRank,
    ParameterDistance,
    Record,
    Recorder,
    SpectralBias,
    Spectrum,
    SubspaceOverlap,
    TargetAlignment,
    TraceRatios,
    log_spaced,
)
from tests.checks import differences, snapshot

INPUTS = torch.randn(24, 1, 6, 6, generator=torch.Generator().manual_seed(5))
LABELS = torch.arange(24) % 3


class Drawing:
    """A probe that uses every global source of randomness."""

    name = "drawing"

    def measure(self, moment: Moment) -> dict[str, float]:
        return {"sum": random.random() + float(numpy.random.rand()) + torch.rand(()).item()}


class Constant:
    """A probe that answers what it is told to."""

    def __init__(self, name: str, value: float) -> None:
        self.name, self.value = name, value

    def measure(self, moment: Moment) -> dict[str, float]:
        return {"value": self.value}


def network() -> nn.Module:
    """Batch norm and dropout, and a part that stays frozen in evaluation mode."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.BatchNorm2d(4).eval(),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def all_probes(model: nn.Module) -> list[Any]:
    sample = KernelSample(INPUTS[:6], LABELS[:6])
    groups = {"easy": torch.arange(3), "difficult": torch.arange(3, 6)}
    return [
        Loss({"train": (INPUTS, LABELS)}),
        ParameterDistance(model),
        Spectrum(sample),
        EffectiveRank(sample),
        TraceRatios(sample, (1, 3)),
        LabelAlignment(sample),
        KernelDrift(sample, model),
        LabelConcentration(sample, (1, 3)),
        KernelRotation(sample, model, k=3),
        NumericalRank(sample),
        ClassAlignment(sample),
        GroupAlignment(sample, groups, ("easy", "difficult")),
        TargetAlignment(sample, {"several": torch.eye(18).view(18, 6, 3)}, "trace"),
        LabelNorm(sample),
        SubspaceOverlap(sample, model, (3,)),
        EigenfunctionLocalisation(INPUTS[:6], INPUTS[6:9]),
        KernelPrediction(sample, (INPUTS[6:], LABELS[6:])),
        LearningTimes(sample),
        SpectralBias(sample),
        Drawing(),
    ]


def trained(watched: bool, steps: int = 8) -> tuple[nn.Module, list[float], list[Record]]:
    """The network after some steps, the random numbers that its loop drew, and the records.

    The loop draws from torch (order, dropout) and from numpy. Python's own generator is left out:
    the type checks of a test run draw from it.
    """
    model = network()
    torch.manual_seed(2)
    recorder = Recorder(model, all_probes(model), log_spaced(steps, 6)) if watched else None
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    frozen, drawn = model[4], []
    model.train()
    frozen.eval()
    if recorder:
        recorder(0)
    for step in range(1, steps + 1):
        chosen = torch.randint(24, (8,))
        loss = nn.functional.cross_entropy(model(INPUTS[chosen]), LABELS[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        drawn.append(float(numpy.random.rand()))
        if recorder:
            recorder(step)
    return model, drawn, recorder.records if recorder else []


def same(one: Iterable[Tensor], other: Iterable[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_training_with_probes_ends_with_the_same_bits_as_without() -> None:
    numpy.random.seed(7)
    alone, drawn_alone, _ = trained(watched=False)
    numpy.random.seed(7)
    watched, drawn_watched, records = trained(watched=True)
    assert len(records) == 6
    assert same(alone.state_dict().values(), watched.state_dict().values())
    assert drawn_alone == drawn_watched


def test_one_measurement_leaves_everything_as_it_was() -> None:
    model = network().train()
    model[4].eval()
    nn.functional.cross_entropy(model(INPUTS), LABELS).backward()
    before = snapshot(model)
    Recorder(model, all_probes(model), [0])(0)
    assert [d for d in differences(before, snapshot(model)) if "version of" not in d] == []


def test_everything_is_restored_when_a_probe_fails() -> None:
    class Failing:
        name = "failing"

        def measure(self, moment: Moment) -> dict[str, float]:
            torch.rand(3)
            raise KeyboardInterrupt

    model = network().train()
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        Recorder(model, [Failing()], [0])(0)
    assert differences(before, snapshot(model)) == []


def test_only_the_chosen_steps_are_measured_and_each_once() -> None:
    recorder = Recorder(nn.Linear(1, 1), [Constant("one", 1.0)], at=[0, 2])
    assert [recorder(step) for step in (0, 1, 2, 2)] == [True, False, True, False]
    assert recorder.series("one", "value") == ([0, 2], [1.0, 1.0])


def test_the_records_are_plain_data() -> None:
    _, _, records = trained(watched=True, steps=2)
    assert json.loads(json.dumps(records, allow_nan=False)) == records


def test_the_records_of_an_interrupted_run_are_continued() -> None:
    first = Recorder(nn.Linear(1, 1), [Constant("one", 1.0)], at=[0, 1, 2])
    first(0)
    second = Recorder(nn.Linear(1, 1), [Constant("one", 2.0)], at=[0, 1, 2], records=first.records)
    assert [second(step) for step in range(3)] == [False, True, True]
    assert second.series("one", "value")[1] == [1.0, 2.0, 2.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_reported_where_it_arises(value: float) -> None:
    recorder = Recorder(nn.Linear(1, 1), [Constant("bad", value)], at=[3])
    with pytest.raises(InputError, match=r"'bad.value' measured (nan|inf) at step 3"):
        recorder(3)
    assert recorder.records == []


def test_a_probes_complaint_says_which_probe_and_when() -> None:
    class Complaining:
        name = "grumpy"

        def measure(self, moment: Moment) -> dict[str, float]:
            raise InputError("data: too cold")

    recorder = Recorder(nn.Linear(1, 1), [Complaining()], at=[0, 7])
    with pytest.raises(InputError, match=r"^probe 'grumpy' at step 0: data: too cold$"):
        recorder(0)
    with pytest.raises(InputError, match=r"at step 7: .*; if the training has diverged"):
        recorder(7)


def test_two_probes_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="same name"):
        Recorder(nn.Linear(1, 1), [Constant("a", 0.0), Constant("a", 1.0)], at=[0])


def test_probes_share_what_they_compute_at_one_moment() -> None:
    moment, calls = Moment(nn.Linear(1, 1), step=0), []
    values = [moment.once("key", lambda: calls.append(None) or len(calls)) for _ in range(3)]
    assert values == [1, 1, 1]


def test_a_writer_gets_every_number_as_it_is_measured() -> None:
    class Writer:
        def __init__(self) -> None:
            self.seen: list[tuple[str, float, int]] = []

        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            self.seen.append((tag, scalar_value, global_step))

    class Words:
        name = "words"

        def measure(self, moment: Moment) -> dict[str, object]:
            return {"step": moment.step, "by": {"layer": [0.5, 1]}, "said": "nothing", "none": None}

    writer = Writer()
    recorder = Recorder(nn.Linear(2, 1), [Words()], at=[0, 3], writer=writer)
    for step in range(4):
        recorder(step)
    names = {"words/step": None, "words/by/layer[0]": 0.5, "words/by/layer[1]": 1}
    assert writer.seen == [
        (tag, step if value is None else value, step)
        for step in (0, 3)
        for tag, value in names.items()
    ]
