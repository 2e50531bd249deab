"""What a report is about: a network and data that fit together, checked before any writing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pullback.errors import InputError
from pullback.probes import undisturbed
from pullback.report import models, samples
from pullback.report.randomness import seed_everything
from pullback.report.samples import Samples, Source, Subset
from pullback.report.settings import Settings
from pullback.report.training import Plan
from pullback.report.user_code import one_line

UPDATES = 1500
KERNEL_ROWS = 2000


@dataclass(frozen=True)
class Subject:
    """A network and data that fit together.

    Attributes:
        settings: the choices.
        source: the loaders.
        samples: what reading them found.
        model: the network, at its starting point; training changes it.
        classes: names of the classes, one for each output, or two for a single one.
        outputs: how many outputs the network has.
        probe: the samples of the kernel, sorted by class.
    """

    settings: Settings
    source: Source
    samples: Samples
    model: nn.Module
    classes: tuple[str, ...]
    outputs: int
    probe: Subset

    @property
    def plan(self) -> Plan:
        """How the network is trained."""
        epochs = self.settings.epochs or -(-UPDATES // self.samples.steps)
        return Plan(
            steps=epochs * self.samples.steps,
            steps_per_epoch=self.samples.steps,
            learning_rate=self.settings.learning_rate,
            seed=self.settings.seed,
        )


def prepare(settings: Settings, tick: Callable[[], None], least_outputs: int = 2) -> Subject:
    """Read the data, build the network, load its weights, and try it on two samples.

    Args:
        settings: the choices.
        tick: called after each batch that was read.
        least_outputs: 2, or 1 to take the single logit of a network for two classes too.

    Raises:
        InputError: anything that a report cannot be made of.
    """
    source = samples.source(settings.data, settings.batch_size)
    found = samples.read(source, settings.samples, settings.seed, tick)
    expected = len(source.classes) if source.classes else found.classes
    seed_everything(settings.seed)
    model = models.make(settings.model, found.shape, expected)
    if settings.checkpoint is not None:
        models.load_checkpoint(model, settings.checkpoint)
    outputs = _try(model, found.evaluated["train"][0][:2], least_outputs)
    classes = max(outputs, 2)
    if found.classes > classes:
        raise InputError(
            f"labels: out of range: label {found.classes - 1} occurs, but the model has "
            f"{outputs} outputs, for the classes 0 to {classes - 1}"
        )
    known = source.classes if source.classes and len(source.classes) == classes else None
    names = known or tuple(map(str, range(classes)))
    taken = max(2, min(settings.samples, KERNEL_ROWS // classes))
    probe = found.balanced(found.held_out, taken, range(classes))
    return Subject(settings, source, found, model, names, outputs, probe)


def _try(model: nn.Module, inputs: Tensor, least: int) -> int:
    """How many outputs the model has.

    Raises:
        InputError: it has nothing to train, does not take the inputs, or gives no logits (n, c).
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("model: has no parameter that requires a gradient")
    try:
        with undisturbed(model), torch.no_grad():
            outputs = model(inputs)
    except Exception as error:
        raise InputError(
            f"model: does not take inputs of shape {tuple(inputs.shape)}: {one_line(error)}"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < least:
        seen = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        single = ", or a single one for two classes, (n, 1)" if least == 1 else ""
        raise InputError(
            f"model: gives {seen} for {len(inputs)} samples; a report needs one logit for each of "
            f"at least two classes, (n, c){single}"
        )
    if not bool(outputs.isfinite().all()):
        raise InputError("model: its outputs are not finite at the starting point")
    return int(outputs.shape[1])
