"""Where labels lie among the eigenfunctions, and these on the samples, against the slow twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pullback import InputError
from pullback.probes import (
    EigenfunctionLocalisation,
    KernelSample,
    LabelConcentration,
    LabelNorm,
)
from tests import reference
from tests.checks import assert_agree
from tests.probes.small import (
    BINARY,
    BINARY_ROWS,
    BINARY_SAMPLE,
    LABELS,
    ROWS,
    SAMPLE,
    SIGNS,
    C,
    N,
    Shift,
    centred_labels,
    inputs,
    kernel_of,
    measured,
    network,
    real,
)


def test_concentration_is_the_length_of_the_labels_within_leading_eigenfunctions() -> None:
    vectors = torch.linalg.eigh(kernel_of(ROWS)).eigenvectors.flip(1)
    y = centred_labels().flatten()
    answer = measured(LabelConcentration(SAMPLE, ks=(2, 5)))
    for k in (2, 5):
        expected = (vectors[:, :k].T @ y).norm() / y.norm()
        assert_agree(answer[str(k)]["ratio"], expected)
        assert_agree(answer[str(k)]["energy"], expected**2)
        assert_agree(answer[str(k)]["random"], (k / (N * C)) ** 0.5)


def test_concentration_of_one_output_is_that_of_signs() -> None:
    vectors = torch.linalg.eigh(kernel_of(BINARY_ROWS)).eigenvectors.flip(1)
    y = SIGNS - SIGNS.mean()
    answer = measured(LabelConcentration(BINARY_SAMPLE, ks=(2,)), BINARY)
    assert_agree(answer["2"]["energy"], (vectors[:, :2].T @ y).square().sum() / y.square().sum())


def test_a_number_of_eigenfunctions_that_is_not_positive_is_refused() -> None:
    with pytest.raises(InputError, match="ks: "):
        LabelConcentration(SAMPLE, ks=(2, 0))


class TestNorm:
    y = centred_labels().flatten()
    kernel = kernel_of(ROWS)

    def test_it_is_the_length_of_the_shortest_step_that_makes_the_labels_004_eq_3(self) -> None:
        step = torch.linalg.lstsq(ROWS.flatten(0, 1), self.y, driver="gelsd").solution
        answer = measured(LabelNorm(SAMPLE))
        assert_agree(answer["squared"], step.square().sum())
        assert_agree(answer["captured"], 1.0)
        assert answer["rank"] == N * C

    def test_the_lower_bound_is_that_of_lemma_1_004(self) -> None:
        answer = measured(LabelNorm(SAMPLE))
        expected = self.y.square().sum() ** 2 / (self.y @ self.kernel @ self.y)
        assert_agree(answer["lower_bound"], expected)
        assert answer["lower_bound"] < answer["squared"]

    def test_jitter_is_in_units_of_the_mean_eigenvalue(self) -> None:
        shift = 0.3 * self.kernel.trace() / (N * C)
        identity = torch.eye(N * C, dtype=torch.float64)
        expected = self.y @ torch.linalg.solve(self.kernel + shift * identity, self.y)
        answer = measured(LabelNorm(SAMPLE, jitter=0.3))
        assert_agree(answer["squared"], expected)
        assert_agree(answer["lower_bound"], measured(LabelNorm(SAMPLE))["lower_bound"])

    def test_of_samples_that_contradict_each_other_a_part_is_left_out(self) -> None:
        x = inputs()[torch.tensor([0, 1, 0, 2, 3, 4])]
        rows = reference.jacobian(network(), x).flatten(0, 1)
        basis, scales, _ = torch.linalg.svd(rows, full_matrices=False)
        inner, kept = basis.T @ self.y, scales > 1e-8
        answer = measured(LabelNorm(KernelSample(x, LABELS)))
        assert answer["rank"] == int(kept.sum()) == 15
        shares = (inner[kept] / scales[kept]).square().sum()
        assert_agree(answer["squared"], shares)
        assert_agree(answer["captured"], inner[kept].square().sum() / self.y.square().sum())
        assert answer["captured"] < 0.9

    def test_labels_that_do_not_meet_the_kernel_have_no_finite_lower_bound(self) -> None:
        answer = measured(
            LabelNorm(KernelSample(inputs()[:, :3], LABELS)), nn.Sequential(nn.Flatten(), Shift())
        )
        assert answer["rank"] == C
        assert answer["captured"] < 1e-20
        assert answer["lower_bound"] is None

    def test_negative_jitter_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"jitter: -0\.1"):
            LabelNorm(SAMPLE, jitter=-0.1)


class TestLocalisation:
    control = inputs(seed=7, samples=5)

    def expected(self, rows: Tensor) -> dict[str, float]:
        """Of features (11, p), by the singular vectors of their products with the first six."""
        _, scales, vectors = torch.linalg.svd(rows[:N] @ rows.T, full_matrices=False)
        energy = vectors[scales > 1e-12 * scales[0]].square().sum(0)
        rank = int((scales > 1e-12 * scales[0]).sum())
        return {
            "task": float(energy[:N].mean()),
            "control": float(energy[N:].mean()),
            "baseline": rank / len(rows),
            "rank": rank,
        }

    def rows(self) -> Tensor:
        return reference.jacobian(network(), torch.cat([inputs(), self.control]))

    def test_of_each_output_it_is_the_energy_of_its_own_kernel_000_eq_6_10(self) -> None:
        answer = measured(EigenfunctionLocalisation(inputs(), self.control))
        for output in range(C):
            expected = self.expected(self.rows()[:, output])
            assert_agree(
                real([answer[name][output] for name in expected]), real([*expected.values()])
            )

    @pytest.mark.parametrize("outputs", ["sum", 1], ids=str)
    def test_of_one_kernel_it_is_a_number(self, outputs: str | int) -> None:
        rows = self.rows().flatten(1) if outputs == "sum" else self.rows()[:, 1]
        answer = measured(EigenfunctionLocalisation(inputs(), self.control, outputs))
        expected = self.expected(rows)
        assert_agree(real([answer[name] for name in expected]), real([*expected.values()]))

    def test_the_spread_is_that_of_random_subspaces(self) -> None:
        answer = measured(EigenfunctionLocalisation(inputs(), self.control, 0))
        generator = torch.Generator().manual_seed(0)
        draws = torch.randn(20_000, N + 5, answer["rank"], generator=generator)
        means = torch.linalg.qr(draws).Q.square().sum(2)[:, :N].mean(1)
        assert answer["spread"] == pytest.approx(float(means.std()), rel=0.03)

    def test_a_tolerance_leaves_small_singular_values_out(self) -> None:
        answer = measured(EigenfunctionLocalisation(inputs(), self.control, 0, tolerance=0.1))
        rows = self.rows()[:, 0]
        scales = torch.linalg.svdvals(rows[:N] @ rows.T)
        assert answer["rank"] == int((scales > 0.1 * scales[0]).sum()) < N

    @pytest.mark.parametrize(
        ("control", "choices", "said"),
        [
            (torch.zeros(0, 4), {}, "task, control: 6 and 0"),
            (torch.zeros(2, 5), {}, r"control: samples of shape \(5,\)"),
            (torch.zeros(2, 4), {"outputs": "all"}, "outputs: 'all'"),
            (torch.zeros(2, 4), {"tolerance": -1}, "tolerance: -1"),
        ],
        ids=["empty", "shape", "outputs", "tolerance"],
    )
    def test_what_cannot_be_compared_is_refused_when_the_probe_is_made(
        self, control: Tensor, choices: dict[str, object], said: str
    ) -> None:
        with pytest.raises(InputError, match=said):
            EigenfunctionLocalisation(inputs(), control, **choices)  # type: ignore[arg-type]
