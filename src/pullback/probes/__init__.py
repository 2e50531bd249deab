"""What to watch while a network trains, without the training noticing."""

from __future__ import annotations

from pullback.probes.distance import ParameterDistance
from pullback.probes.kernel import (
    EffectiveRank,
    KernelDrift,
    KernelRotation,
    KernelSample,
    LabelAlignment,
    LabelConcentration,
    Spectrum,
    TraceRatios,
)
from pullback.probes.loss import Loss
from pullback.probes.quiet import undisturbed
from pullback.probes.recorder import Moment, Probe, Record, Recorder, series
from pullback.probes.schedule import log_spaced

__all__ = [
    "EffectiveRank",
    "KernelDrift",
    "KernelRotation",
    "KernelSample",
    "LabelAlignment",
    "LabelConcentration",
    "Loss",
    "Moment",
    "ParameterDistance",
    "Probe",
    "Record",
    "Recorder",
    "Spectrum",
    "TraceRatios",
    "log_spaced",
    "series",
    "undisturbed",
]
