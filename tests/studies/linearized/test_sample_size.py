"""The study of sample sizes at a small size on digits: against the plain loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import pullback as pb
from pullback.data.tasks import two_halves
from pullback.studies import find
from pullback.studies.linearized.learning import begun
from pullback.studies.linearized.sample_size import Settings
from pullback.studies.parts import drawn

SMALL = Settings(seeds=2, data="digits", sizes=(32, 80), test=60, epochs=4, batch=16)
STUDY = find("sample-size")


@pytest.fixture(scope="module")
def result() -> dict:
    done: list[int] = []
    (found,) = STUDY.measure(SMALL, 1, done.append)
    assert sum(done) == STUDY.steps(SMALL)
    return found


@pytest.mark.parametrize("regime", ["network", "linearized"])
@pytest.mark.parametrize(("place", "size"), [*enumerate(SMALL.sizes)])
def test_each_size_is_learned_as_in_the_plain_loop(
    result: dict, regime: str, place: int, size: int
) -> None:
    train, test = drawn("digits", "train", 80, 1), drawn("digits", "test", 60, 1)
    x, y = train.inputs[:size], two_halves(train.labels, 10)[:size]
    module = begun("mlp", (1, 8, 8), 1)
    if regime == "linearized":
        module = pb.linearize(module)
    start = torch.cat([one.detach().clone().flatten() for one in module.parameters()])
    optimiser = torch.optim.SGD(module.parameters(), momentum=0.9)
    generator, step, best = torch.Generator().manual_seed(1), 0, (-1.0, 0.0)
    updates = 4 * size // 16
    for epoch in range(5):
        accuracy = ((module(test.inputs)[:, 0] > 0) == (test.labels < 5)).double().mean()
        now = torch.cat([one.detach().flatten() for one in module.parameters()])
        if float(accuracy) > best[0]:
            best = (float(accuracy), float((now - start).norm()))
        if epoch == 4:
            break
        for some in torch.randperm(size, generator=generator).split(16):
            optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / updates)
            optimiser.zero_grad()
            F.soft_margin_loss(module(x[some])[:, 0], y[some]).backward()
            optimiser.step()
            step += 1
    assert result[regime]["test"][place] == pytest.approx(best[0], abs=1e-4)
    assert result[regime]["distance"][place] == pytest.approx(best[1], rel=1e-3)


def test_the_same_seed_gives_the_same_numbers(result: dict) -> None:
    assert STUDY.measure(SMALL, 1, lambda _: None)[0] == result
    assert STUDY.measure(SMALL, 0, lambda _: None)[0] != result


def test_statistics_of_known_curves() -> None:
    made = {
        "sizes": [10, 20, 30],
        "network": {"test": [0.5, 0.8, 0.9], "distance": [1.0, 3.0, 2.0]},
        "linearized": {"test": [0.6, 0.7, 0.75], "distance": [1.0, 1.0, 1.0]},
    }
    assert STUDY.statistics(made) == pytest.approx(
        {"advantage-grows": 1.0, "large-over-small": 0.25, "travels": 0.5}
    )


def test_figures_and_table_come_from_the_results(result: dict) -> None:
    (figure,) = STUDY.figures([result, result])
    assert len(figure.panels) == 3
    first = 100 * (result["network"]["test"][0] - result["linearized"]["test"][0])
    assert STUDY.table([result])[0].here == f"{first:.1f} points"
