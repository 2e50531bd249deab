"""What the members share: samples, networks, training, statistics, and charts over seeds."""

from __future__ import annotations

from pullback.studies.parts.networks import (
    NETWORKS,
    Network,
    fan_in_start,
    lenet,
    perceptron,
    resnet,
    started,
)
from pullback.studies.parts.panels import Curve, curves_panel
from pullback.studies.parts.samples import drawn
from pullback.studies.parts.statistics import rank_correlation
from pullback.studies.parts.training import (
    Descent,
    Loss,
    logistic,
    right,
    trained,
    trained_together,
)

__all__ = [
    "NETWORKS",
    "Curve",
    "Descent",
    "Loss",
    "Network",
    "curves_panel",
    "drawn",
    "fan_in_start",
    "lenet",
    "logistic",
    "perceptron",
    "rank_correlation",
    "resnet",
    "right",
    "started",
    "trained",
    "trained_together",
]
