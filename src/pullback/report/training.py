"""A plain training loop that can be watched, interrupted and continued."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pullback.errors import InputError
from pullback.probes import Recorder
from pullback.report import randomness
from pullback.report.samples import Loader, labelled
from pullback.report.workspace import Workspace

MOMENTUM = 0.9
SAVE_EVERY = 10.0
PART = "training"
MEASURE_UNITS = 20
"""How many updates one measurement counts for on the progress bar."""


@dataclass(frozen=True)
class Plan:
    """How to train: stochastic gradient descent with momentum 0.9 on the cross-entropy.

    Attributes:
        steps: parameter updates in all.
        steps_per_epoch: batches in one pass over the data.
        learning_rate: constant.
        seed: epoch e shuffles, drops out and augments from seed + e.
    """

    steps: int
    steps_per_epoch: int
    learning_rate: float
    seed: int


def train(
    model: nn.Module,
    loader: Loader,
    plan: Plan,
    recorder: Recorder,
    workspace: Workspace | None,
    advance: Callable[[int], None],
) -> None:
    """Train the model in place, asking the recorder's probes on the way.

    The state is kept in the workspace at each measurement and every ten seconds, and taken up from
    there; an interrupted and continued run ends with the same weights as an uninterrupted one.

    Args:
        model: what to train.
        loader: batches (inputs, labels).
        plan: how to train.
        recorder: measures at its steps.
        workspace: where the state is kept, or None to keep none.
        advance: told how much was done: 1 for an update, `MEASURE_UNITS` for a measurement.

    Raises:
        InputError: the loss is not finite, or the loader changes its length.
    """
    optimiser = torch.optim.SGD(model.parameters(), lr=plan.learning_rate, momentum=MOMENTUM)
    step, random_state = _restore(model, optimiser, recorder, workspace)
    advance(step + MEASURE_UNITS * len(recorder.records))
    model.train()
    saved_at = time.monotonic()
    if recorder(step):
        advance(MEASURE_UNITS)
        _save(step, model, optimiser, recorder, workspace)
    while step < plan.steps:
        epoch, skip = divmod(step, plan.steps_per_epoch)
        randomness.seed_everything(plan.seed + epoch)
        for position, item in enumerate(loader):
            if position < skip:
                continue
            if position == skip and random_state is not None and skip > 0:
                randomness.restore(random_state)
            _update(model, optimiser, item, step)
            step += 1
            measured = recorder(step)
            advance(1 + MEASURE_UNITS * measured)
            if measured or time.monotonic() - saved_at > SAVE_EVERY:
                _save(step, model, optimiser, recorder, workspace)
                saved_at = time.monotonic()
            if step % plan.steps_per_epoch == 0 or step == plan.steps:
                break
        random_state = None
        if step % plan.steps_per_epoch and step < plan.steps:
            raise InputError(
                f"data: the training loader gave {plan.steps_per_epoch} batches when it was first "
                f"read and {position + 1} in epoch {epoch + 1}; it has to keep its length"
            )


def _update(model: nn.Module, optimiser: torch.optim.Optimizer, item: object, step: int) -> None:
    inputs, labels = labelled(item, f"training batch {step}")
    loss = _cross_entropy(model(inputs), labels)
    if not bool(loss.isfinite()):
        raise InputError(
            f"learning_rate: the loss is {loss.item()} after {step} updates, the training has "
            "diverged; lower the learning rate"
        )
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Of one logit for each class, or of a single one for two classes."""
    if logits.shape[1] > 1:
        return functional.cross_entropy(logits, labels)
    return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits))


def _save(
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    recorder: Recorder,
    workspace: Workspace | None,
) -> None:
    if workspace is None:
        return
    workspace.write_tensors(
        PART,
        {
            "step": step,
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "random": randomness.state(),
            "records": recorder.records,
        },
    )


def _restore(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    recorder: Recorder,
    workspace: Workspace | None,
) -> tuple[int, dict[str, Any] | None]:
    saved = workspace.read_tensors(PART) if workspace else None
    if saved is None:
        return 0, None
    model.load_state_dict(saved["model"])
    optimiser.load_state_dict(saved["optimiser"])
    recorder.records = saved["records"]
    return saved["step"], saved["random"]
