"""What to watch while a network trains, without the training noticing."""

from __future__ import annotations

from pullback.probes.activations import RepresentationAlignment, SignSimilarity
from pullback.probes.alignment import (
    ClassAlignment,
    GroupAlignment,
    LabelAlignment,
    TargetAlignment,
)
from pullback.probes.distance import ParameterDistance
from pullback.probes.drift import KernelDrift, KernelRotation, SubspaceOverlap
from pullback.probes.eigenfunctions import (
    EigenfunctionLocalisation,
    LabelConcentration,
    LabelNorm,
)
from pullback.probes.kernel import (
    EffectiveRank,
    KernelSample,
    NumericalRank,
    Spectrum,
    TraceRatios,
)
from pullback.probes.loss import Loss
from pullback.probes.prediction import KernelPrediction, LearningTimes, SpectralBias
from pullback.probes.quiet import undisturbed
from pullback.probes.recorder import Moment, Probe, Record, Recorder, series
from pullback.probes.schedule import log_spaced

__all__ = [
    "ClassAlignment",
    "EffectiveRank",
    "EigenfunctionLocalisation",
    "GroupAlignment",
    "KernelDrift",
    "KernelPrediction",
    "KernelRotation",
    "KernelSample",
    "LabelAlignment",
    "LabelConcentration",
    "LabelNorm",
    "LearningTimes",
    "Loss",
    "Moment",
    "NumericalRank",
    "ParameterDistance",
    "Probe",
    "Record",
    "Recorder",
    "RepresentationAlignment",
    "SignSimilarity",
    "SpectralBias",
    "Spectrum",
    "SubspaceOverlap",
    "TargetAlignment",
    "TraceRatios",
    "log_spaced",
    "series",
    "undisturbed",
]
