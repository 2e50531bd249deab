"""The study of the disk at a small size, against kernels made row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pullback.data import disk_labels, grid_points, uniform_points
from pullback.studies.alignment.disk import Disk, Settings, roundness
from pullback.studies.parts import perceptron, started
from tests.studies.alignment.by_hand import features

SMALL = Settings(
    seeds=2, samples=80, hidden=2, width=20, rate=1.0, longest=3000, side=9, moments=(0, 30),
    line=20,
)  # fmt: skip


@pytest.fixture(scope="module")
def result() -> dict:
    done: list[int] = []
    (found,) = Disk().measure(SMALL, 1, done.append)
    assert sum(done) == Disk().steps(SMALL)
    return found


def network(inputs: int) -> nn.Module:
    return started(lambda: perceptron((inputs,), 1, 20, 2), 1)


def spectrum(module: nn.Module, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues of the centred kernel and its eigenfunctions, (k, n)."""
    rows = torch.cat(features(module, points), 2)[:, 0]
    left, values, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    return values.square(), left.T


def test_numbers_are_those_of_a_network_that_learned_by_hand(result: dict) -> None:
    module, points = network(2), grid_points(9)
    x = uniform_points(80, seed=1)
    y = disk_labels(x)
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    updates, measured = 0, {}
    while True:
        accuracy = float(((module(x)[:, 0] > 0) == (y > 0)).double().mean())
        learned = updates % 20 == 0 and accuracy > 0.99
        if updates in (0, 30) or learned:
            measured[updates] = spectrum(module, points)
            module.float()
        if learned:
            break
        optimiser.zero_grad()
        F.softplus(-y * module(x)[:, 0]).mean().backward()
        optimiser.step()
        updates += 1
    assert result["updates"] == [*measured] and result["right"][-1] == accuracy
    labels = disk_labels(points).double()
    labels = (labels - labels.mean()) / (labels - labels.mean()).norm()
    for place, (values, functions) in enumerate(measured.values()):
        assert result["ratio"][place] == pytest.approx(float(values[19] / values[0]), rel=2e-3)
        held = float((functions[:20] @ labels).norm())
        assert result["held"][place] == pytest.approx(held, rel=1e-3)
    for shown, place in zip(result["shown"], (0, -1), strict=True):
        functions = [*measured.values()][place][1]
        first = torch.tensor(shown[0]).flatten().double()
        assert abs(float(first @ functions[0])) == pytest.approx(1, abs=1e-3)
        rounds = roundness(functions[:6], points).tolist()
        assert result["round"][place] == pytest.approx(rounds, rel=1e-2)


def test_roundness_is_what_rings_leave_of_the_variance() -> None:
    points = grid_points(30)
    radius = points.norm(dim=1)
    noise = torch.randn(len(points), generator=torch.Generator().manual_seed(0))
    functions = torch.stack([radius, points[:, 0], radius + noise]).double()
    found = roundness(functions, points)
    for function, share in zip(functions, found.tolist(), strict=True):
        edges = torch.linspace(0, 2**0.5 + 1e-6, 11)
        left = 0.0
        for low, high in zip(edges, edges[1:], strict=False):
            own = function[(radius >= low) & (radius < high)]
            left += float((own - own.mean()).square().sum())
        total = float((function - function.mean()).square().sum())
        assert share == pytest.approx(1 - left / total, abs=1e-6)
    assert found[0] > 0.97 and abs(found[1]) < 1e-6


def test_the_line_is_that_of_an_untrained_network(result: dict) -> None:
    values, functions = spectrum(network(1), torch.linspace(0, 1, 20).unsqueeze(1))
    assert result["line"]["values"] == pytest.approx(values[:19].tolist(), rel=1e-3, abs=1e-9)
    found = torch.fft.rfft(functions[:5]).abs().square() / 20
    found[:, 1:-1] *= 2  # of both signs
    for energy, row in zip(result["line"]["energy"], found.tolist(), strict=False):
        assert energy == pytest.approx(row, abs=2e-3)


def test_one_that_does_not_learn_has_no_statistic_of_it() -> None:
    short = replace(SMALL, longest=5, moments=(0,))
    (found,) = Disk().measure(short, 0, lambda _: None)
    assert found["updates"] == [0, 5]
    statistics = Disk().statistics(found)
    assert {name for name, value in statistics.items() if value is None} == {
        "concentrates", "round-functions", "labels-lead"
    }  # fmt: skip


def test_the_same_seed_repeats_it_and_another_does_not(result: dict) -> None:
    assert Disk().measure(SMALL, 1, lambda _: None)[0] == result
    assert Disk().measure(SMALL, 0, lambda _: None)[0]["ratio"] != result["ratio"]


def test_statistics_of_known_numbers() -> None:
    energy = [[0.1, 0.8, 0.1], [0.0, 0.4, 0.6], [1.0, 0.0, 0.0]]
    made = {
        "ratio": [0.02, 0.005],
        "right": [0.5, 0.995],
        "held": [0.8, 0.9],
        "round": [[0.1, 0.3], [0.9, 0.2]],
        "line": {"values": [9.0, 1.0, *[0.5] * 8, 0.01], "energy": energy},
    }
    assert Disk().statistics(made) == pytest.approx(
        {
            "not-flatter": 0.02,
            "not-steeper": 0.02,
            "concentrates": 4.0,
            "round-functions": 0.6,
            "labels-lead": 0.1,
            "line-ratio": 2.0,
            "line-order": 1.0,
            "line-fourier": (0.9 + 1.0) / 2,
        }
    )
    assert {*Disk().statistics(made)} == {claim.name for claim in Disk().claims}


def test_figures_and_table_come_from_the_results(result: dict) -> None:
    figures = Disk().figures([result, result])
    assert [len(figure.panels) for figure in figures] == [2, 3, 2]
    assert len(Disk().table([result])) == 5
