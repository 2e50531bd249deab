"""The yin-yang study at a small size: against networks trained one by one, and its geometry."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pullback.data import grid_points, uniform_points, yin_yang_labels
from pullback.linear import ScaledModel
from pullback.studies import find
from pullback.studies.regimes.yin_yang import Settings, YinYang, _module, regions

SMALL = Settings(seeds=3, at_once=2, samples=30, width=12, rate=0.2, steps=150, side=9, moments=8)


@pytest.fixture(scope="module")
def results() -> list[dict]:
    study = YinYang()
    done: list[int] = []
    found = [
        result
        for unit in range(study.units(SMALL))
        for result in study.measure(SMALL, unit, done.append)
    ]
    assert sum(done) == study.units(SMALL) * study.steps(SMALL)
    return found


def test_each_seed_is_measured_once(results: list[dict]) -> None:
    assert [result["seed"] for result in results] == [0, 1, 2]
    assert results[0]["steps"][0] == 0
    assert results[0]["steps"][-1] == SMALL.steps


@pytest.mark.parametrize(("regime", "alpha"), [("network", 1.0), ("lazy", SMALL.alpha)])
def test_networks_trained_together_are_networks_trained_alone(
    results: list[dict], regime: str, alpha: float
) -> None:
    result = results[1]
    torch.manual_seed(1)
    scaled = ScaledModel(_module(SMALL), alpha)
    x = uniform_points(SMALL.samples, seed=1)
    y = yin_yang_labels(x)
    optimiser = torch.optim.SGD(scaled.parameters(), lr=scaled.learning_rate(SMALL.rate))
    losses = {}
    for step in range(SMALL.steps + 1):
        loss = F.softplus(-y * scaled(x)[:, 0]).mean()
        losses[step] = float(loss.detach())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    expected = [losses[step] for step in result["steps"]]
    assert result["losses"][regime] == pytest.approx(expected, rel=2e-3)


def test_the_same_unit_gives_the_same_numbers(results: list[dict]) -> None:
    again = YinYang().measure(SMALL, 1, lambda _: None)
    assert list(again) == results[2:]


def test_statistics_are_those_of_the_maps(results: list[dict]) -> None:
    study = YinYang()
    disks, large = regions(SMALL.side)
    for result in results:
        found = study.statistics(result)
        assert set(found) == {claim.name for claim in study.claims}
        if "0.4" in result["difference"]:
            values = torch.tensor(result["difference"]["0.4"])
            assert found["disks"] == pytest.approx(float(values[disks].mean()))
            assert found["large-areas"] == pytest.approx(float(values[large].mean()))
        else:
            assert found["disks"] is found["large-areas"] is None


def test_a_seed_that_does_not_get_there_has_no_statistic() -> None:
    short = replace(SMALL, seeds=1, steps=2)
    (result,) = YinYang().measure(short, 0, lambda _: None)
    assert result["difference"] == {}
    assert set(YinYang().statistics(result).values()) == {None}


def test_regions_are_of_one_class_each() -> None:
    disks, large = regions(41)
    points = grid_points(41)
    labels = yin_yang_labels(points).view(41, 41)
    upper = (points[:, 1] > 0).view(41, 41)
    assert bool((labels[disks & upper] == 1).all())
    assert bool((labels[large & upper] == -1).all())
    assert not bool((disks & large).any())
    assert int(disks.sum()) > 100
    assert int(large.sum()) > 300


def test_figures_and_table_come_from_the_results(results: list[dict]) -> None:
    study = find("yin-yang")
    figures = study.figures(results)
    assert [figure.name for figure in figures] == ["losses", "differences"]
    assert len(study.table(results)) == 5
