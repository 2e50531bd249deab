"""What was measured and how: the numbers and words that need no measuring."""

from __future__ import annotations

import hashlib
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import nn

from pullback.report.measure import thumbnails
from pullback.report.models import describe_layers
from pullback.report.numbers import DataNumbers, NetworkNumbers, TrainingNumbers
from pullback.report.settings import Settings
from pullback.report.subject import Subject
from pullback.report.training import MOMENTUM

BUILT_IN_NAMES = {
    "conv": "small convolutional network",
    "mlp": "multilayer perceptron, two hidden layers of 32",
}


def about() -> dict[str, str]:
    """Versions, machine and date."""
    try:
        own = version("pullback")
    except PackageNotFoundError:
        own = "not installed"
    threads = torch.get_num_threads()
    return {
        "pullback": own,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, "
        f"{threads} thread{'s' if threads > 1 else ''}",
        "date": date.today().isoformat(),
    }


def identity(subject: Subject) -> dict[str, Any]:
    """What two runs must have in common for one to go on with the other's parts."""
    return {
        **subject.settings.as_dict(),
        "starting weights": fingerprint(subject.model),
        "training samples of each class": subject.samples.counts,
    }


def fingerprint(model: nn.Module) -> str:
    """A short name for the exact values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def size(model: nn.Module) -> int:
    """Number of parameters that require a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def model_name(settings: Settings, model: nn.Module) -> str:
    """What to call the network on the page."""
    return BUILT_IN_NAMES.get(settings.model, f"{type(model).__name__} from {settings.model}")


def network(model: nn.Module, subject: Subject, companion: bool = False) -> NetworkNumbers:
    """A network's name, size and layers."""
    name = "small companion network" if companion else model_name(subject.settings, model)
    checkpoint = None if companion else subject.settings.checkpoint
    return NetworkNumbers(
        name=name,
        parameters=size(model),
        outputs=subject.outputs,
        layers=describe_layers(model),
        checkpoint=str(checkpoint) if checkpoint else None,
    )


def data(subject: Subject) -> DataNumbers:
    """The data, and the probe set with its images."""
    inputs, labels = subject.probe
    found = subject.samples
    return DataNumbers(
        name=subject.settings.data,
        shape=list(found.shape),
        classes=list(subject.classes),
        sizes=found.sizes,
        counts=found.counts,
        evaluated={split: len(labels) for split, (_, labels) in found.evaluated.items()},
        probe_split=found.held_out,
        probe_asked=subject.settings.samples,
        probe_labels=labels.tolist(),
        images=thumbnails(inputs),
    )


def training(subject: Subject) -> TrainingNumbers | None:
    """How the network was trained, if it was."""
    if not subject.settings.train:
        return None
    plan = subject.plan
    return TrainingNumbers(
        epochs=plan.steps // plan.steps_per_epoch,
        steps=plan.steps,
        batch=subject.samples.sizes["train"] / plan.steps_per_epoch,
        learning_rate=plan.learning_rate,
        momentum=MOMENTUM,
    )


def notes(subject: Subject, interrupted: bool) -> list[str]:
    """What a reader should know about this run in particular."""
    said = []
    taken, asked = len(subject.probe[1]), subject.settings.samples
    if taken < asked:
        said.append(
            f"The kernel is taken on {taken} samples instead of {asked}: the same number of each "
            "class, as far as the data have them and the matrix stays small."
        )
    if interrupted:
        said.append(
            "The run was interrupted and continued; the cost of the training is that of its last "
            "piece."
        )
    return said
