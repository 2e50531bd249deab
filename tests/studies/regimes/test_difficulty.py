"""The study of difficulty at a small size on digits: its scores, its groups, its statistics."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pullback.studies.parts import NETWORKS, drawn, started
from pullback.studies.regimes.difficulty import Difficulty, Settings

SMALL = Settings(
    seeds=2, data="digits", network="mlp", train=100, epochs=(4, 8), batch=20, moments=8, probed=10,
    groups=3, shares=(0.4, 0.8), repeats=2, updates=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def result() -> dict:
    done: list[int] = []
    (found,) = Difficulty().measure(SMALL, 1, done.append)
    assert sum(done) == Difficulty().steps(SMALL)
    return found


def test_scores_are_those_of_networks_trained_by_hand(result: dict) -> None:
    images = drawn("digits", "train", 100, seed=1)
    x, y = images.inputs, images.labels
    right, held_out = torch.zeros(2, 100), torch.zeros(2, 100)
    for size, share in enumerate(SMALL.shares):
        for repeat in range(2):
            number = 4 + 2 * size + repeat
            order = torch.randperm(100, generator=torch.Generator().manual_seed(number))
            own = order[: round(100 * share)].sort()[0]
            away = torch.ones(100, dtype=torch.bool).index_fill(0, own, False)
            named = _trained_by_hand(x[own], y[own], number)(x[away]).argmax(1)
            held_out[size, away] += 1
            right[size, away] += (named == y[away]).float()
    scores = (right / held_out).nanmean(0)
    ordered = scores[~scores.isnan()].sort()[0]
    expected = [float(part.mean()) for part in ordered.tensor_split(3)]
    assert result["scores"] == pytest.approx(expected, rel=1e-4)
    assert result["scores"] == sorted(result["scores"])


def _trained_by_hand(x: torch.Tensor, y: torch.Tensor, seed: int) -> torch.nn.Module:
    module = started(lambda: NETWORKS["mlp"]((1, 8, 8), 10), seed)
    optimiser = torch.optim.SGD(module.parameters(), lr=SMALL.score_rate, momentum=0.9)
    epochs = -(-SMALL.updates // -(-len(x) // SMALL.batch))
    total, step = epochs * -(-len(x) // SMALL.batch), 0
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for some in torch.randperm(len(x), generator=generator).split(SMALL.batch):
            optimiser.param_groups[0]["lr"] = SMALL.score_rate * (1 - step / total)
            optimiser.zero_grad()
            F.cross_entropy(module(x[some]), y[some]).backward()
            optimiser.step()
            step += 1
    return module


def test_groups_of_equal_size_have_the_mean_training_loss(result: dict) -> None:
    settings = replace(SMALL, shares=(0.1,), repeats=12, groups=4)  # each is held out
    (found,) = Difficulty().measure(settings, 0, lambda _: None)
    for run in found["runs"].values():
        own = torch.tensor([run["loss"][str(place)] for place in range(4)]).mean(0)
        assert run["loss"]["train"] == pytest.approx(own.tolist(), rel=1e-3)


def test_the_same_seed_gives_the_same_numbers(result: dict) -> None:
    again, other = (Difficulty().measure(SMALL, unit, lambda _: None)[0] for unit in (1, 0))
    assert again == result
    assert other["runs"] != result["runs"]


def _made(difficult: list[float], easy: list[float], metrics: list[float]) -> dict:
    names = ("sign similarity", "kernel alignment", "representation alignment")
    return {
        "loss": {"train": [2.0, 1.0, 0.0], "0": difficult, "1": easy},
        "linearity": {name: [1.0, low, 1.0] for name, low in zip(names, metrics, strict=True)},
    }


def test_statistics_of_known_curves() -> None:
    runs = {
        "1": _made([4.0, 4.0, 4.0], [1.0, 1.0, 1.0], [0.5, 0.6, 0.7]),
        "100": _made([3.0, 3.0, 3.0], [2.0, 2.0, 2.0], [0.9, 0.999, 1.0]),
    }
    found = Difficulty().statistics({"seed": 0, "scores": [0.2, 0.9], "runs": runs})
    assert found == pytest.approx(
        {
            "network-easy-first": 3.0,
            "lazy-easy-first": 1.0,
            "network-more-so": 2.0,
            "easy-ahead": -1.0,
            "difficult-behind": 1.0,
            "lazy-sign-similarity": 0.9,
            "lazy-kernel-alignment": 0.999,
            "lazy-representation-alignment": 1.0,
            "network-bends": 0.7,
        }
    )
    assert set(found) == {claim.name for claim in Difficulty.claims}


def test_figures_and_table_come_from_the_results(result: dict) -> None:
    figures = Difficulty().figures([result, result])
    assert [len(figure.panels) for figure in figures] == [2, 3]
    rows = Difficulty().table([result])
    assert len(rows) == SMALL.groups + 6
    lowest = min(result["runs"]["100"]["linearity"]["sign similarity"])
    assert rows[SMALL.groups + 3].here == f"{lowest:.4f}"
