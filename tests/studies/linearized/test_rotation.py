"""The rotation study at a small size on digits: against the kernels themselves."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pullback.studies import find
from pullback.studies.linearized.learning import begun
from pullback.studies.linearized.rotation import Settings
from pullback.studies.parts import drawn

SMALL = Settings(
    seeds=2, network="mlp", data="digits", train=64, others=16, leading=12, targets=(2, 5, 9),
    epochs=6, batch=16,
)  # fmt: skip
STUDY = find("rotation")


def kernel(model: nn.Module, x: Tensor) -> Tensor:
    """Inner products of gradients, by plain autograd."""
    model, rows = copy.deepcopy(model).double(), []
    for one in x.double():
        gradients = torch.autograd.grad(model(one[None]).sum(), list(model.parameters()))
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows) @ torch.stack(rows).T


@pytest.fixture(scope="module")
def result() -> dict:
    done: list[int] = []
    (found,) = STUDY.measure(SMALL, 1, done.append)
    assert sum(done) == STUDY.steps(SMALL)
    return found


def test_growth_is_that_of_quadratic_forms_of_the_kernel(result: dict) -> None:
    splits = (drawn("digits", "train", 64, 1), drawn("digits", "test", 16, 1))
    x = torch.cat([split.inputs for split in splits])
    model = begun("mlp", (1, 8, 8), 1)
    first = kernel(model, x)
    values, vectors = torch.linalg.eigh(first)
    values, vectors = values.flip(0)[:12], vectors.flip(1)[:, :12]
    assert result["spectrum"] == pytest.approx((values / 80).tolist(), rel=1e-4)
    vector = vectors[:, 5]
    labels = (vector * vector[vector.abs().argmax()]).sign()
    optimiser = torch.optim.SGD(model.parameters(), momentum=0.9)
    generator, step = torch.Generator().manual_seed(1), 0
    for _ in range(6):
        for some in torch.randperm(64, generator=generator).split(16):
            optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 24)
            optimiser.zero_grad()
            F.soft_margin_loss(model(x[some])[:, 0], labels[some].float()).backward()
            optimiser.step()
            step += 1
    last = kernel(model, x)
    growth = (vectors.T @ last @ vectors).diagonal() / values
    assert result["growth"][1] == pytest.approx(growth.tolist(), rel=1e-3)
    median = torch.cat([growth[:5], growth[6:]]).quantile(0.5)
    assert result["ratio"][1] == pytest.approx(float(growth[5] / median), rel=1e-3)
    of_sign = (labels @ last @ labels) / (labels @ first @ labels) / median
    assert result["sign"][1] == pytest.approx(float(of_sign), rel=1e-3)
    right = (model(x[:64])[:, 0] > 0) == (labels[:64] > 0)
    assert result["train"][1] == pytest.approx(float(right.double().mean()), abs=1.1 / 64)


def test_the_same_seed_gives_the_same_numbers(result: dict) -> None:
    assert STUDY.measure(SMALL, 1, lambda _: None)[0] == result
    assert STUDY.measure(SMALL, 0, lambda _: None)[0] != result


def test_statistics_of_known_growths() -> None:
    made = {
        "targets": [0, 1, 2],
        "growth": [[9.0, 1.0, 1.0, 2.0], [4.0, 3.0, 2.0, 1.0], [1.0, 1.0, 8.0, 1.0]],
        "ratio": [9.0, 1.5, 2.0],
        "error": 1e-9,
    }
    assert STUDY.statistics(made) == pytest.approx(
        {"spike": 3.0, "alone": (1 + 2 / 3 + 1) / 3, "later-more": -0.5, "spectrum": 1e-9}
    )


def test_figures_and_table_come_from_the_results(result: dict) -> None:
    growth, ratios = STUDY.figures([result, result])
    assert (len(growth.panels), len(ratios.panels)) == (3, 1)
    assert "for eigenfunction 5, which was learned" in growth.panels[1].alt
    assert [row.here for row in STUDY.table([result])][0] == f"{result['ratio'][0]:.3g}"


def test_the_perceptron_is_a_study_of_its_own() -> None:
    assert {one.network for one in find("rotation-mlp").sizes.values()} == {"mlp"}
    assert {one.network for one in STUDY.sizes.values()} == {"lenet"}
