"""The eigenfunction study at a small size on digits: against networks trained one by one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import pullback as pb
from pullback.studies.linearized.eigenfunctions import (
    EigenfunctionTasks,
    Settings,
    _images,
    _network,
)

SMALL = Settings(
    seeds=2, data="digits", train=96, test=40, indices=(1, 4, 30), width=16, epochs=4, batch=32
)


@pytest.fixture(scope="module")
def result() -> dict:
    done: list[int] = []
    (found,) = EigenfunctionTasks().measure(SMALL, 1, done.append)
    assert sum(done) == EigenfunctionTasks().steps(SMALL)
    return found


@pytest.mark.parametrize("regime", ["network", "linearized"])
def test_tasks_learned_together_are_tasks_learned_alone(result: dict, regime: str) -> None:
    x = _images(SMALL, seed=1)
    torch.manual_seed(1)
    model = _network(64, 16)
    kernel = pb.tangent_kernel(model, x, outputs=0)
    labels = pb.kernels.eigenfunctions(kernel, k=5).labels(4)
    module = model if regime == "network" else pb.linearize(model)
    start = [parameter.detach().clone() for parameter in module.parameters()]
    optimiser = torch.optim.SGD(module.parameters(), lr=SMALL.rate, momentum=0.9)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0, total_iters=3 * SMALL.epochs)
    generator = torch.Generator().manual_seed(1)
    for _ in range(SMALL.epochs):
        for some in torch.randperm(96, generator=generator).split(32):
            optimiser.zero_grad()
            F.softplus(-labels[some] * module(x[some])[:, 0]).mean().backward()
            optimiser.step()
            falling.step()
    right = ((module(x)[:, 0] > 0) == (labels > 0)).double()
    found = result[regime]
    assert found["train"][1] == pytest.approx(float(right[:96].mean()), abs=1.1 / 96)
    assert found["test"][1] == pytest.approx(float(right[96:].mean()), abs=1.1 / 40)
    pairs = zip(start, module.parameters(), strict=True)
    moved = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
    assert found["distance"][1] == pytest.approx(moved, rel=1e-3)


def test_the_same_seed_gives_the_same_numbers(result: dict) -> None:
    again = EigenfunctionTasks().measure(SMALL, 1, lambda _: None)[0]
    assert again == result
    other = EigenfunctionTasks().measure(SMALL, 0, lambda _: None)[0]
    assert other["network"] != result["network"]


def test_statistics_of_known_curves() -> None:
    made = {
        "indices": [1, 2, 3],
        "network": {"test": [0.9, 0.8, 0.7], "distance": [1.0, 2.0, 3.0]},
        "linearized": {"test": [0.9, 0.7, 0.95], "distance": [3.0, 2.0, 1.0]},
    }
    found = EigenfunctionTasks().statistics(made)
    assert found["network-falls"] == pytest.approx(-1)
    assert found["linearized-falls"] == pytest.approx(0.5)
    assert found["linearized-wins"] == pytest.approx((0.0 - 0.1 + 0.25) / 3)
    assert found["network-travels"] == pytest.approx(1)
    assert found["linearized-travels"] == pytest.approx(-1)


def test_figures_and_table_come_from_the_results(result: dict) -> None:
    study = EigenfunctionTasks()
    (figure,) = study.figures([result, result])
    assert len(figure.panels) == 2
    assert [row.quantity for row in study.table([result])][0].endswith("eigenfunction 1, network")


def test_data_that_are_missing_say_how_to_get_them(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULLBACK_DATA", str(tmp_path / "nothing"))
    with pytest.raises(pb.InputError, match="make data"):
        EigenfunctionTasks().measure(Settings(), 0, lambda _: None)
