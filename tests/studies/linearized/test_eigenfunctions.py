"""The eigenfunction studies at a small size on digits: against networks trained one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import pullback as pb
from pullback.studies import find
from pullback.studies.linearized.eigenfunctions import EigenfunctionTasks, Settings
from pullback.studies.linearized.learning import begun
from pullback.studies.parts import drawn

SMALL = Settings(seeds=2, data="digits", train=96, test=40, indices=(1, 4, 30), epochs=4)
STUDY = find("eigenfunctions")


def measured(settings: Settings, unit: int) -> dict:
    done: list[int] = []
    (found,) = STUDY.measure(settings, unit, done.append)
    assert sum(done) == STUDY.steps(settings)
    return found


@pytest.fixture(scope="module")
def result() -> dict:
    return measured(SMALL, 1)


@pytest.mark.parametrize("regime", ["network", "linearized"])
@pytest.mark.parametrize("together", [True, False])
def test_each_task_is_learned_as_in_the_plain_loop(
    result: dict, regime: str, together: bool
) -> None:
    found = (result if together else measured(replace(SMALL, together=False), 1))[regime]
    splits = (drawn("digits", "train", 96, 1), drawn("digits", "test", 40, 1))
    x = torch.cat([split.inputs for split in splits])
    model = begun("mlp", (1, 8, 8), 1)
    rows = pb.jacobian(model, x).rows()[:, 0].double()
    vector = torch.linalg.eigh(rows @ rows.T)[1][:, -5]
    labels = (vector * vector[vector.abs().argmax()]).sign().float()
    module = model if regime == "network" else pb.linearize(model)
    start = torch.cat([one.detach().clone().flatten() for one in module.parameters()])
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0, total_iters=3 * SMALL.epochs)
    generator = torch.Generator().manual_seed(1)
    for _ in range(SMALL.epochs):
        for some in torch.randperm(96, generator=generator).split(32):
            optimiser.zero_grad()
            F.soft_margin_loss(module(x[some])[:, 0], labels[some]).backward()
            optimiser.step()
            falling.step()
    right = ((module(x)[:, 0] > 0) == (labels > 0)).double()
    assert found["train"][1] == pytest.approx(float(right[:96].mean()), abs=1.1 / 96)
    assert found["test"][1] == pytest.approx(float(right[96:].mean()), abs=1.1 / 40)
    end = torch.cat([one.detach().flatten() for one in module.parameters()])
    assert found["distance"][1] == pytest.approx(float((end - start).norm()), rel=1e-3)
    cosine = 1 - float(start @ end / start.norm() / end.norm())
    assert found["cosine"][1] == pytest.approx(cosine, rel=5e-3)


def test_the_same_seed_gives_the_same_numbers(result: dict) -> None:
    assert measured(SMALL, 1) == result
    assert measured(SMALL, 0)["network"] != result["network"]


def test_statistics_of_known_curves() -> None:
    made = {
        "indices": [1, 2, 3],
        "network": {
            "test": [0.9, 0.8, 0.7],
            "distance": [1.0, 2.0, 3.0],
            "cosine": [0.1, 0.3, 0.2],
            "updates": [5, 30, None],
        },
        "linearized": {
            "test": [0.9, 0.7, 0.95],
            "distance": [3.0, 2.0, 1.0],
            "cosine": [0.3, 0.2, 0.1],
            "updates": [None, None, None],
        },
    }
    found = STUDY.statistics(made)
    assert dict(found) == pytest.approx(
        {
            "linearized-slows": None,
            "linearized-wins": (0.0 - 0.1 + 0.25) / 3,
            "network-falls": -1,
            "network-slows": 1,
            "network-travels": 1,
            "network-turns": 0.5,
            "linearized-falls": 0.5,
            "linearized-travels": -1,
            "linearized-turns": -1,
        }
    )
    assert set(found) == {claim.name for claim in STUDY.claims}


def test_figures_and_table_come_from_the_results(result: dict) -> None:
    accuracy, training = STUDY.figures([result, result])
    assert (len(accuracy.panels), len(training.panels)) == (1, 3)
    rows = STUDY.table([result])
    assert rows[0].quantity.endswith("eigenfunction 1, network")
    assert rows[0].here == f"{result['network']['test'][0]:.1%}"


def test_other_networks_and_optimisers_are_studies_of_their_own() -> None:
    for kind, network in (("adam", "mlp"), ("lenet", "lenet"), ("resnet", "resnet")):
        study = find(f"eigenfunctions-{kind}")
        assert isinstance(study, EigenfunctionTasks)
        assert {one.network for one in study.sizes.values()} == {network}
        assert study.sizes["paper"].train == 50_000
        few = replace(
            study.sizes["quick"], data="digits", train=40, test=20, indices=(1,), epochs=1
        )
        (found,) = study.measure(few, 0, lambda _: None)
        assert len(found["network"]["test"]) == 1


def test_data_that_are_missing_say_how_to_get_them(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULLBACK_DATA", str(tmp_path / "nothing"))
    with pytest.raises(pb.InputError, match="make data"):
        STUDY.measure(Settings(), 0, lambda _: None)
