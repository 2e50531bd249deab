"""The parts of a report that take time; each is kept when it is finished."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from torch import nn

from pullback.probes import (
    EffectiveRank,
    KernelDrift,
    KernelSample,
    LabelAlignment,
    Loss,
    Moment,
    ParameterDistance,
    Probe,
    Record,
    Recorder,
    Spectrum,
    TraceRatios,
    log_spaced,
)
from pullback.report import describe, models
from pullback.report.measure import (
    DENSE_LIMIT,
    REPRESENTATIONS,
    approximation_numbers,
    fisher_numbers,
    kernel_numbers,
)
from pullback.report.numbers import ApproximationNumbers, FisherNumbers, KernelNumbers
from pullback.report.parts import Parts
from pullback.report.progress import Advance
from pullback.report.randomness import seed_everything
from pullback.report.subject import Subject
from pullback.report.training import MEASURE_UNITS, train

T = TypeVar("T")
States = list[tuple[str, int, nn.Module]]
"""What the network is called at some point, its updates so far, and the network there."""

POINTS = 25
RATIOS = (1, 10, 40, 160)
COMPANION_UPDATES = 500


def training_part(subject: Subject, parts: Parts) -> list[Record]:
    """Train with probes, or only measure; leaves the subject's model as it is afterwards."""
    settings, model = subject.settings, subject.model
    steps = subject.plan.steps if settings.train else 0
    at = log_spaced(steps, POINTS)

    def compute(advance: Advance) -> list[Record]:
        recorder = Recorder(model, _probes(subject), at)
        if settings.train:
            train(model, subject.source.train, subject.plan, recorder, parts.workspace, advance)
        else:
            recorder(0)
        parts.workspace.write_tensors("trained", model.state_dict())
        return recorder.records

    title = "training, with probes" if settings.train else "probes"
    total = steps + MEASURE_UNITS * len(at)
    records: list[Record] = parts.measure("records", title, total, compute)
    model.load_state_dict(parts.workspace.read_tensors("trained") or {})
    return records


def _probes(subject: Subject) -> list[Probe]:
    """What is followed while the network trains."""
    sample = KernelSample(*subject.probe)
    rows = len(subject.probe[1]) * len(subject.classes)
    return [
        Loss(subject.samples.evaluated),
        ParameterDistance(subject.model),
        Spectrum(sample),
        EffectiveRank(sample),
        TraceRatios(sample, [k for k in RATIOS if k < rows]),
        LabelAlignment(sample),
        KernelDrift(sample, subject.model),
    ]


def kernel_part(subject: Subject, states: States, parts: Parts) -> list[KernelNumbers]:
    """The tangent kernel between samples at each state."""

    def measure(state: str, step: int, model: nn.Module) -> KernelNumbers:
        return kernel_numbers(model, subject.probe, len(subject.classes), state, step)

    return _at_each(states, parts, "kernels", "tangent kernel", measure)


def fisher_part(subject: Subject, states: States, parts: Parts) -> list[FisherNumbers]:
    """The Fisher matrix by layer at each state."""

    def measure(state: str, step: int, model: nn.Module) -> FisherNumbers:
        return fisher_numbers(model, subject.samples.evaluated["train"], state)

    return _at_each(states, parts, "fishers", "Fisher matrix by layer", measure)


def _at_each(
    states: States,
    parts: Parts,
    name: str,
    title: str,
    measure: Callable[[str, int, nn.Module], T],
) -> list[T]:
    def compute(advance: Advance) -> list[T]:
        found = []
        for state in states:
            found.append(measure(*state))
            advance(1)
        return found

    measured: list[T] = parts.measure(name, title, len(states), compute)
    return measured


def approximation_part(
    subject: Subject, states: States, parts: Parts
) -> ApproximationNumbers | None:
    """The representations against the dense Fisher matrix, on a network that is small enough."""
    samples = subject.samples.evaluated
    companion = describe.size(subject.model) > DENSE_LIMIT

    def compute(advance: Advance) -> ApproximationNumbers | None:
        compared = _companion_states(subject) if companion else states
        _, steps, last = compared[-1]
        if describe.size(last) > DENSE_LIMIT:
            return None
        losses = Loss(samples).measure(Moment(last.eval(), steps))
        return ApproximationNumbers(
            network=describe.network(last, subject, companion),
            companion=companion,
            steps=steps,
            accuracy={split: loss["accuracy"] for split, loss in losses.items()},
            samples=len(samples["train"][1]),
            states=[
                approximation_numbers(
                    model, samples["train"], state, subject.settings.seed, lambda: advance(1)
                )
                for state, _, model in compared
            ],
        )

    total = len(REPRESENTATIONS) * (2 if companion else len(states))
    comparison: ApproximationNumbers | None = parts.measure(
        "approximations", "approximations of the Fisher", total, compute
    )
    return comparison


def _companion_states(subject: Subject) -> States:
    """A small network on the same data, before and after a short training."""
    seed_everything(subject.settings.seed)
    model = models.companion(subject.samples.shape, len(subject.classes))
    if describe.size(model) > DENSE_LIMIT:
        return [("before training", 0, model)]
    start = copy.deepcopy(model)
    plan = replace(subject.plan, steps=min(subject.plan.steps, COMPANION_UPDATES))
    train(model, subject.source.train, plan, Recorder(model, [], ()), None, lambda _: None)
    return [("before training", 0, start), ("after training", plan.steps, model)]
