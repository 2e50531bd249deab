"""Each probe against the slow twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pullback.probes import (
    EffectiveRank,
    KernelDrift,
    KernelRotation,
    KernelSample,
    LabelAlignment,
    LabelConcentration,
    Loss,
    Moment,
    ParameterDistance,
    Probe,
    Spectrum,
    TraceRatios,
    kernel,
)
from tests import reference
from tests.checks import assert_agree

N, C = 6, 3
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def inputs(seed: int = 0) -> Tensor:
    return torch.randn(N, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, C)).double()


def kernel_of(rows: Tensor) -> Tensor:
    flat = rows.flatten(0, 1)
    return flat @ flat.T


def projection(centring: str) -> Tensor:
    return reference.centring(N, C, "all" if centring == "entries" else centring)


LAYERS = {"all": slice(0, 43), "0": slice(0, 25), "2": slice(25, 43)}


@pytest.fixture
def rows() -> Tensor:
    return reference.jacobian(network(), inputs())


@pytest.fixture
def sample() -> KernelSample:
    return KernelSample(inputs(), LABELS)


def measured(probe: Probe, model: nn.Module | None = None) -> dict[str, object]:
    return dict(probe.measure(Moment(model or network(), step=0)))


def test_eigenvalues_are_those_of_the_kernel_centred_over_samples(
    sample: KernelSample, rows: Tensor
) -> None:
    centred = projection("samples") @ kernel_of(rows) @ projection("samples")
    expected = torch.linalg.eigvalsh(centred).flip(0).clamp(min=0)
    answer = measured(Spectrum(sample))
    assert_agree(torch.tensor(answer["eigenvalues"], dtype=torch.float64), expected)


def test_traces_by_layer_are_those_before_centring(sample: KernelSample, rows: Tensor) -> None:
    traces = measured(Spectrum(sample))["trace"]
    assert isinstance(traces, dict)
    assert set(traces) == set(LAYERS)
    for layer, where in LAYERS.items():
        assert_agree(traces[layer], rows[..., where].square().sum())


def test_effective_rank_by_layer(sample: KernelSample, rows: Tensor) -> None:
    answer = measured(EffectiveRank(sample))
    for layer, where in LAYERS.items():
        centred = projection("samples") @ kernel_of(rows[..., where]) @ projection("samples")
        values = torch.linalg.eigvalsh(centred).clamp(min=0)
        assert answer[layer] == pytest.approx(reference.effective_rank(values), rel=1e-6)


def test_trace_ratios(sample: KernelSample, rows: Tensor) -> None:
    centred = projection("samples") @ kernel_of(rows) @ projection("samples")
    values = torch.linalg.eigvalsh(centred).flip(0).clamp(min=0)
    expected = reference.trace_ratios(values, (1, 4))
    assert list(measured(TraceRatios(sample, (1, 4))).items()) == [
        ("1", pytest.approx(expected[0])),
        ("4", pytest.approx(expected[1])),
    ]


@pytest.mark.parametrize("centring", ["entries", "samples"])
def test_alignment_with_the_labels_by_layer_003_3_6_8(
    sample: KernelSample, rows: Tensor, centring: str
) -> None:
    answer = measured(LabelAlignment(sample))[centring]
    assert isinstance(answer, dict)
    labels = reference.label_kernel(LABELS, C)
    for layer, where in LAYERS.items():
        own = kernel_of(rows[..., where])
        assert_agree(answer[layer], reference.alignment(own, labels, projection(centring)))


def test_drift_is_one_at_the_start_and_the_twins_elsewhere(
    sample: KernelSample, rows: Tensor
) -> None:
    probe = KernelDrift(sample, network())
    assert measured(probe)["all"] == pytest.approx(1)
    moved = network(seed=1)
    elsewhere = reference.jacobian(moved, inputs())
    for layer, where in LAYERS.items():
        expected = reference.alignment(
            kernel_of(elsewhere[..., where]), kernel_of(rows[..., where]), projection("samples")
        )
        assert_agree(float(measured(probe, moved)[layer]), expected)  # type: ignore[arg-type]


def test_a_layer_whose_kernel_does_not_vary_counts_as_nothing(sample: KernelSample) -> None:
    class Shift(nn.Module):
        """A bias of the outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(C, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.bias

    model = nn.Sequential(nn.Linear(4, C).double(), Shift())
    assert measured(EffectiveRank(sample), model)["1"] == 0
    assert measured(KernelDrift(sample, model), model)["1"] == 0
    aligned = measured(LabelAlignment(sample), model)["samples"]
    assert isinstance(aligned, dict)
    assert aligned["1"] == 0 < aligned["0"]


def test_kernel_probes_share_one_kernel(
    sample: KernelSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = kernel.tangent_kernel
    monkeypatch.setattr(
        kernel, "tangent_kernel", lambda *a, **k: calls.append(None) or original(*a, **k)
    )
    moment = Moment(network(), step=0)
    for probe in (Spectrum(sample), EffectiveRank(sample), LabelAlignment(sample)):
        probe.measure(moment)
    assert len(calls) == 1


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_loss_and_accuracy_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    outputs = network()(inputs())
    answer = Loss({"train": (inputs(), LABELS)}, batch_size).measure(Moment(network(), step=0))
    assert_agree(answer["train"]["loss"], nn.functional.cross_entropy(outputs, LABELS).item())
    assert answer["train"]["accuracy"] == (outputs.argmax(1) == LABELS).double().mean()


def test_distance_is_that_to_the_start_which_is_copied() -> None:
    model = network()
    probe = ParameterDistance(model)
    length = sum(float(p.detach().square().sum()) for p in model.parameters()) ** 0.5
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    answer = measured(probe, model)
    assert answer["l2"] == pytest.approx(2 * length)
    assert answer["relative"] == pytest.approx(2)


def centred_labels() -> Tensor:
    one_hot = torch.eye(C, dtype=torch.float64)[LABELS]
    return one_hot - one_hot.mean(0)


def test_concentration_is_the_length_of_the_labels_within_leading_eigenfunctions(
    sample: KernelSample, rows: Tensor
) -> None:
    vectors = torch.linalg.eigh(kernel_of(rows)).eigenvectors.flip(1)
    y = centred_labels().flatten()
    answer = measured(LabelConcentration(sample, ks=(2, 5)))
    for k in (2, 5):
        expected = (vectors[:, :k].T @ y).norm() / y.norm()
        assert_agree(answer[str(k)]["ratio"], expected)
        assert_agree(answer[str(k)]["energy"], expected**2)
        assert_agree(answer[str(k)]["random"], (k / (N * C)) ** 0.5)


def test_rotation_compares_the_growth_of_alignments(sample: KernelSample, rows: Tensor) -> None:
    leading = torch.linalg.eigh(kernel_of(rows)).eigenvectors.flip(1)[:, :4].T
    functions = torch.cat([centred_labels().flatten().unsqueeze(0), leading])
    later = network(seed=1)
    now = reference.jacobian(later, inputs()).flatten(0, 1)
    growth = (functions @ now).square().sum(1) / (functions @ rows.flatten(0, 1)).square().sum(1)
    answer = measured(KernelRotation(sample, network(), k=4), later)
    assert_agree(answer["labels"], growth[0])
    assert_agree(torch.tensor(answer["functions"], dtype=torch.float64), growth[1:])
    assert_agree(answer["ratio"], growth[0] / growth[1:].quantile(0.5))


def test_a_network_that_has_not_moved_has_not_turned(sample: KernelSample) -> None:
    answer = measured(KernelRotation(sample, network(), k=4))
    assert_agree(answer["ratio"], 1.0)
    assert_agree(answer["labels"], 1.0)
