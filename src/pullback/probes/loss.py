"""Probe: loss and accuracy on fixed subsets."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from pullback.probes.recorder import Moment


class Loss:
    """Cross-entropy (nats, mean over samples) and accuracy (share in [0, 1]) of a classifier.

    Args:
        subsets: inputs (n, ...) and labels (n,) by name, for example "train" and "test".
        batch_size: how many samples go through the network at once.

    Example:
        >>> import torch
        >>> from pullback.probes import Loss, Moment
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> Loss({"train": (x, y)}).measure(Moment(torch.nn.Identity(), step=0))
        {'train': {'loss': 0.31326, 'accuracy': 1.0}}
    """

    name = "loss"

    def __init__(self, subsets: Mapping[str, tuple[Tensor, Tensor]], batch_size: int = 500) -> None:
        self.subsets = dict(subsets)
        self.batch_size = batch_size

    def measure(self, moment: Moment) -> dict[str, dict[str, float]]:
        """`{subset: {"loss": nats, "accuracy": share}}`."""
        answers = {}
        for name, (inputs, labels) in self.subsets.items():
            with torch.no_grad():
                parts = [moment.model(part) for part in inputs.split(self.batch_size)]
            outputs = torch.cat(parts)
            answers[name] = {
                "loss": functional.cross_entropy(outputs, labels).item(),
                "accuracy": (outputs.argmax(dim=1) == labels).double().mean().item(),
            }
        return answers
