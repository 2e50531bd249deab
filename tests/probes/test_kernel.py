"""The kernel that probes share, and the probes of its spectrum, against the slow twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pullback import InputError
from pullback.probes import (
    ClassAlignment,
    EffectiveRank,
    GroupAlignment,
    KernelDrift,
    KernelPrediction,
    KernelSample,
    LabelAlignment,
    LabelConcentration,
    LabelNorm,
    LearningTimes,
    Moment,
    NumericalRank,
    SpectralBias,
    Spectrum,
    SubspaceOverlap,
    TraceRatios,
    kernel,
)
from tests import reference
from tests.checks import assert_agree
from tests.probes.small import (
    BINARY_LABELS,
    BINARY_SAMPLE,
    LABELS,
    LAYERS,
    ROWS,
    SAMPLE,
    SIGNS,
    Shift,
    centred_labels,
    inputs,
    kernel_of,
    measured,
    network,
    one_hot,
    projection,
    real,
)

CENTRE = projection("samples")
PAIRS = torch.tensor([0, 0, 1, 1, 2, 2])  # each input twice


def test_eigenvalues_are_those_of_the_kernel_centred_over_samples() -> None:
    expected = torch.linalg.eigvalsh(CENTRE @ kernel_of(ROWS) @ CENTRE).flip(0).clamp(min=0)
    assert_agree(real(measured(Spectrum(SAMPLE))["eigenvalues"]), expected)


def test_traces_by_layer_are_those_before_centring() -> None:
    traces = measured(Spectrum(SAMPLE))["trace"]
    assert set(traces) == set(LAYERS)
    for layer, where in LAYERS.items():
        assert_agree(traces[layer], ROWS[..., where].square().sum())


def test_effective_rank_by_layer() -> None:
    answer = measured(EffectiveRank(SAMPLE))
    for layer, where in LAYERS.items():
        values = torch.linalg.eigvalsh(CENTRE @ kernel_of(ROWS[..., where]) @ CENTRE)
        assert answer[layer] == pytest.approx(reference.effective_rank(values), rel=1e-6)


def test_numerical_rank_by_layer_is_that_of_the_centred_features() -> None:
    """Three inputs, each twice: without the mean they span two dimensions for each output."""
    network_and_inputs = network(), inputs()[PAIRS]
    rows = reference.jacobian(*network_and_inputs).flatten(0, 1)
    answer = measured(NumericalRank(KernelSample(network_and_inputs[1], LABELS)))
    for layer, where in LAYERS.items():
        assert answer[layer] == int(torch.linalg.matrix_rank(CENTRE @ rows[:, where])) == 6


def test_numerical_rank_by_a_tolerance_counts_larger_shares_of_the_largest() -> None:
    answer = measured(NumericalRank(SAMPLE, tolerance=0.05))
    values = torch.linalg.eigvalsh(CENTRE @ kernel_of(ROWS) @ CENTRE)
    assert answer["all"] == int((values > 0.05 * values.max()).sum()) < 15


def test_numerical_rank_does_not_count_what_centring_leaves_of_a_large_mean() -> None:
    """In single precision, features far from zero: what is left of them is rounding too."""
    torch.manual_seed(0)
    x = torch.randn(12, 4) + 30
    sample = KernelSample(x, torch.arange(12) % 3)
    assert measured(NumericalRank(sample), nn.Linear(4, 3))["all"] == 4 * 3


def test_trace_ratios() -> None:
    values = torch.linalg.eigvalsh(CENTRE @ kernel_of(ROWS) @ CENTRE).flip(0).clamp(min=0)
    expected = reference.trace_ratios(values, (1, 4))
    assert list(measured(TraceRatios(SAMPLE, (1, 4))).items()) == [
        ("1", pytest.approx(expected[0])),
        ("4", pytest.approx(expected[1])),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_layer_whose_kernel_does_not_vary_counts_as_nothing(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 3).to(dtype), Shift(dtype))
    sample = KernelSample(inputs().to(dtype), LABELS)
    assert measured(EffectiveRank(sample), model)["1"] == 0
    assert measured(NumericalRank(sample), model)["1"] == 0
    assert measured(KernelDrift(sample, model), model)["1"] == 0
    aligned = measured(LabelAlignment(sample), model)["samples"]
    assert aligned["1"] == 0 < aligned["0"]


def test_probes_of_one_sample_share_one_kernel_and_its_eigenfunctions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def counted(name: str) -> None:
        original = getattr(kernel, name)
        monkeypatch.setattr(kernel, name, lambda *a, **k: calls.append(name) or original(*a, **k))

    probes = [
        Spectrum(SAMPLE),
        EffectiveRank(SAMPLE),
        NumericalRank(SAMPLE),
        TraceRatios(SAMPLE),
        LabelAlignment(SAMPLE),
        ClassAlignment(SAMPLE),
        GroupAlignment(SAMPLE, {"some": torch.tensor([0, 2, 3])}),
        LabelConcentration(SAMPLE, (1, 2)),
        LabelNorm(SAMPLE),
        SubspaceOverlap(SAMPLE, network(), (2,)),
        KernelPrediction(SAMPLE),
        LearningTimes(SAMPLE),
        SpectralBias(SAMPLE),
    ]
    counted("tangent_kernel")
    counted("eigenfunctions")
    moment = Moment(network(), step=0)
    for probe in probes:
        probe.measure(moment)
    assert calls == ["tangent_kernel", "eigenfunctions"]


def test_labels_are_one_hot_functions_or_signs_for_one_output() -> None:
    assert_agree(SAMPLE.targets(3), one_hot())
    assert_agree(SAMPLE.centred_targets(3), centred_labels())
    assert_agree(BINARY_SAMPLE.targets(1).squeeze(1), SIGNS)
    assert_agree(BINARY_SAMPLE.targets(1, torch.tensor([1, 0])).squeeze(1), real([1, -1]))
    assert_agree(KernelSample(inputs(), 3 - BINARY_LABELS).targets(1).squeeze(1), -SIGNS)


@pytest.mark.parametrize("outputs", [1, 2])
def test_labels_beyond_the_outputs_are_refused(outputs: int) -> None:
    with pytest.raises(InputError, match=f"labels: from 0 to 2, .* {outputs} outputs"):
        measured(LabelAlignment(SAMPLE), network(outputs=outputs))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (LABELS[:5], r"int64 of shape \(5,\) for 6"),
        (one_hot().long(), r"\(6, 3\) for 6"),
        (LABELS.double(), "float64"),
    ],
    ids=["number", "one-hot", "real"],
)
def test_labels_that_are_no_classes_are_refused(labels: Tensor, said: str) -> None:
    with pytest.raises(InputError, match=f"labels: .*{said}"):
        KernelSample(inputs(), labels)


def test_probes_of_the_labels_refuse_samples_of_one_class_when_they_are_made() -> None:
    sample = KernelSample(inputs(), torch.ones(6, dtype=torch.long))
    for probe in (
        LabelAlignment,
        ClassAlignment,
        LabelConcentration,
        LabelNorm,
        KernelPrediction,
        LearningTimes,
    ):
        with pytest.raises(InputError, match="labels: .* one class"):
            probe(sample)


def test_a_negative_tolerance_is_refused() -> None:
    with pytest.raises(InputError, match="tolerance: -1"):
        NumericalRank(SAMPLE, tolerance=-1)
