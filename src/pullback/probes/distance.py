"""Probe: how far the parameters have travelled."""

from __future__ import annotations

from torch import nn

from pullback.parameters import ParameterVector
from pullback.probes.recorder import Moment


class ParameterDistance:
    """Euclidean distance of the parameters to where they were when the probe was made.

    Args:
        start: the model at the reference point; its parameters are copied.

    Example:
        >>> import torch
        >>> from pullback.probes import Moment, ParameterDistance
        >>> model = torch.nn.Linear(2, 1)
        >>> ParameterDistance(model).measure(Moment(model, step=0))["l2"]
        0.0
    """

    name = "distance"

    def __init__(self, start: nn.Module) -> None:
        here = ParameterVector.from_model(start)
        self.start = ParameterVector(here.space, here.flat.clone())

    def measure(self, moment: Moment) -> dict[str, float]:
        """`{"l2": |w - w0|, "relative": |w - w0| / |w0|}`."""
        travelled = (ParameterVector.from_model(moment.model) - self.start).norm().item()
        return {"l2": travelled, "relative": travelled / max(self.start.norm().item(), 1e-30)}
