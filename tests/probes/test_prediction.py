"""What the kernel predicts and learns, against fits, solves and gradients by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pullback import InputError, tangent_kernel
from pullback.kernels import kernel_regression
from pullback.probes import (
    KernelPrediction,
    KernelSample,
    LearningTimes,
    SpectralBias,
    prediction,
)
from tests import reference
from tests.checks import assert_agree
from tests.probes.small import (
    BINARY,
    BINARY_LABELS,
    BINARY_ROWS,
    BINARY_SAMPLE,
    LABELS,
    ROWS,
    SAMPLE,
    SIGNS,
    C,
    N,
    centred_labels,
    inputs,
    kernel_of,
    measured,
    network,
    one_hot,
    real,
)

NEW, NEW_LABELS = inputs(seed=3, samples=5), torch.tensor([2, 0, 1, 1, 0])
RIDGE = 0.2


def predicted(rows: Tensor, new: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """`k(x, X) (K + ridge I)^-1 y`, from the features of both."""
    kernel = kernel_of(rows)
    shifted = kernel + ridge * torch.eye(len(kernel), dtype=torch.float64)
    cross = new.flatten(0, 1) @ rows.flatten(0, 1).T
    return (cross @ torch.linalg.solve(shifted, targets.flatten())).reshape(len(new), -1)


def left_out(rows: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Each sample's prediction by a fit to the others."""
    found = []
    for i in range(N):
        others = torch.arange(N) != i
        found.append(predicted(rows[others], rows[i : i + 1], targets[others], ridge)[0])
    return torch.stack(found)


def scores(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    if targets.shape[1] == 1:
        right = [float(f) * float(y) > 0 for f, y in zip(outputs, targets, strict=True)]
    else:
        right = (outputs.argmax(1) == targets.argmax(1)).tolist()
    error = (outputs - targets).square().sum() / len(targets)
    return {"accuracy": sum(right) / len(right), "error": float(error)}


class TestPrediction:
    targets = one_hot() - 1 / C
    ridge = RIDGE * float(ROWS.square().sum()) / (N * C)

    def test_samples_left_out_are_predicted_as_by_fits_without_them(self) -> None:
        expected = scores(left_out(ROWS, self.targets, self.ridge), self.targets)
        answer = measured(KernelPrediction(SAMPLE, ridge=RIDGE))
        assert set(answer) == {"leave_one_out"}
        assert answer["leave_one_out"]["accuracy"] == pytest.approx(expected["accuracy"])
        assert_agree(answer["leave_one_out"]["error"], expected["error"])

    @pytest.mark.parametrize("batch", [3, 500])
    def test_held_out_samples_are_predicted_in_any_batches(
        self, batch: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(prediction, "BATCH", batch)
        rows = reference.jacobian(network(), NEW)
        wanted = torch.eye(C, dtype=torch.float64)[NEW_LABELS] - 1 / C
        expected = scores(predicted(ROWS, rows, self.targets, self.ridge), wanted)
        answer = measured(KernelPrediction(SAMPLE, (NEW, NEW_LABELS), ridge=RIDGE))["held_out"]
        assert answer["accuracy"] == pytest.approx(expected["accuracy"])
        assert_agree(answer["error"], expected["error"])

    def test_one_output_is_fitted_to_signs(self) -> None:
        ridge = RIDGE * float(BINARY_ROWS.square().sum()) / N
        targets, labels = SIGNS.unsqueeze(1), torch.tensor([1, 0, 1, 1, 0])
        rows = reference.jacobian(BINARY, NEW)
        answer = measured(KernelPrediction(BINARY_SAMPLE, (NEW, labels), ridge=RIDGE), BINARY)
        pairs = {
            "leave_one_out": scores(left_out(BINARY_ROWS, targets, ridge), targets),
            "held_out": scores(
                predicted(BINARY_ROWS, rows, targets, ridge), 2.0 * labels.unsqueeze(1) - 1
            ),
        }
        for name, expected in pairs.items():
            assert answer[name]["accuracy"] == pytest.approx(expected["accuracy"])
            assert_agree(answer[name]["error"], expected["error"])

    def test_the_ridge_grows_with_the_kernel(self) -> None:
        """A network times 1,000 has a kernel times 1,000,000, and predicts the same."""

        class Scaled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = network()

            def forward(self, x: Tensor) -> Tensor:
                return 1000 * self.inner(x)

        probe = KernelPrediction(SAMPLE, (NEW, NEW_LABELS))
        plain, scaled = measured(probe), measured(probe, Scaled())
        for name in ("leave_one_out", "held_out"):
            assert_agree(scaled[name]["error"], plain[name]["error"])

    def test_a_small_ridge_in_single_precision_does_not_end_the_training(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(40, 4, generator=generator), torch.arange(40) % 3
        model, ridge = network().float(), 1e-5
        kernel = tangent_kernel(model, x)
        with pytest.raises(InputError, match="singular"):
            kernel_regression(kernel, y, ridge * kernel.trace() / 120).leave_one_out()
        found = measured(KernelPrediction(KernelSample(x, y), ridge=ridge), model)
        exact = measured(
            KernelPrediction(KernelSample(x.double(), y), ridge=ridge), network().float().double()
        )
        error = found["leave_one_out"]["error"]
        assert error == pytest.approx(exact["leave_one_out"]["error"], rel=0.05)

    @pytest.mark.parametrize(
        ("held_out", "ridge", "said"),
        [
            (None, 0, "ridge: 0"),
            (None, math.inf, "ridge: inf"),
            ((NEW, NEW_LABELS[:4]), 1.0, "held_out: 5 inputs and 4 labels"),
            ((NEW[:0], NEW_LABELS[:0]), 1.0, "held_out: 0 inputs"),
            ((NEW, NEW_LABELS + 1), 1.0, "held_out: class 3"),
        ],
        ids=["zero", "infinite", "labels", "empty", "class"],
    )
    def test_what_cannot_be_fitted_is_refused_when_the_probe_is_made(
        self, held_out: tuple[Tensor, Tensor] | None, ridge: float, said: str
    ) -> None:
        with pytest.raises(InputError, match=said):
            KernelPrediction(SAMPLE, held_out, ridge)


class TestLearningTimes:
    def test_after_its_time_a_mode_has_1_over_e_of_its_error_left_003_err_12(self) -> None:
        values, vectors = (part.flip(-1) for part in torch.linalg.eigh(kernel_of(ROWS)))
        answer = measured(LearningTimes(SAMPLE, k=9))
        assert answer["steps"][0] == 0
        left = (1 - values[1:9] / values[0]) ** real(answer["steps"][1:])
        assert_agree(left, torch.full((8,), 1 / math.e, dtype=torch.float64))
        y = centred_labels().flatten()
        assert_agree(real(answer["energy"]), (vectors.T @ y)[:9].square() / y.square().sum())

    def test_modes_that_are_never_learned_have_no_time(self) -> None:
        x = inputs()[torch.tensor([0, 1, 0, 2, 3, 4])]
        answer = measured(LearningTimes(KernelSample(x, LABELS), k=100))
        assert [time is None for time in answer["steps"]] == [False] * 15 + [True] * 3
        assert_agree(sum(answer["energy"]), 1.0)

    def test_of_one_output_the_labels_are_signs(self) -> None:
        vectors = torch.linalg.eigh(kernel_of(BINARY_ROWS)).eigenvectors.flip(1)
        y = SIGNS - SIGNS.mean()
        answer = measured(LearningTimes(BINARY_SAMPLE), BINARY)
        assert_agree(real(answer["energy"]), (vectors.T @ y).square() / y.square().sum())


class TestSpectralBias:
    def expected(self, rows: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        """The change of the outputs that the parameters' gradient makes, mode by mode."""
        flat, g = rows.flatten(0, 1), gradient.flatten()
        vectors = torch.linalg.eigh(flat @ flat.T).eigenvectors.flip(1)
        change = flat @ (flat.T @ g)
        return {
            "step": (vectors.T @ change).square() / change.square().sum(),
            "gradient": (vectors.T @ g).square() / g.square().sum(),
        }

    @pytest.mark.parametrize("batch", [3, 500])
    def test_a_step_on_the_cross_entropy_is_taken_apart_003_lemma_6_2_1(
        self, batch: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(prediction, "BATCH", batch)
        outputs = network()(inputs()).detach().requires_grad_()
        loss = nn.functional.cross_entropy(outputs, LABELS)
        gradient = torch.autograd.grad(loss, outputs)[0]
        answer = measured(SpectralBias(SAMPLE, k=7))
        for name, shares in self.expected(ROWS, gradient).items():
            assert_agree(real(answer[name]), shares[:7])
        assert sum(answer["step"]) > sum(answer["gradient"])

    def test_of_one_output_the_loss_is_logistic(self) -> None:
        outputs = BINARY(inputs()).detach().requires_grad_()
        loss = nn.functional.binary_cross_entropy_with_logits(
            outputs, BINARY_LABELS.double().unsqueeze(1)
        )
        gradient = torch.autograd.grad(loss, outputs)[0]
        answer = measured(SpectralBias(BINARY_SAMPLE), BINARY)
        for name, shares in self.expected(BINARY_ROWS, gradient).items():
            assert_agree(real(answer[name]), shares)

    def test_a_network_that_has_learned_everything_takes_no_step(self) -> None:
        model = nn.Linear(3, 3, bias=False).double()
        with torch.no_grad():
            model.weight.copy_(1e4 * torch.eye(3))
        sample = KernelSample(torch.eye(3, dtype=torch.float64), torch.arange(3))
        assert measured(SpectralBias(sample, k=2), model) == {
            "step": [0.0, 0.0],
            "gradient": [0.0, 0.0],
        }


@pytest.mark.parametrize("probe", [LearningTimes, SpectralBias])
def test_a_number_of_modes_that_is_not_positive_is_refused(probe: type) -> None:
    with pytest.raises(InputError, match="k: 0"):
        probe(SAMPLE, k=0)
