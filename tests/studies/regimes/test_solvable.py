"""The study of the three solvable data sets, at a small size."""

from __future__ import annotations

import pytest
import torch

import pullback as pb
from pullback.data import shared_feature
from pullback.linear import quadratic_model
from pullback.studies.regimes.solvable import (
    KINDS,
    REGIMES,
    Settings,
    Solvable,
    _dense,
    _descended,
    _judged,
    _problems,
    _Run,
    _solved,
    _when_learned,
)

SMALL = Settings(
    seeds=2, mu=(3.0, 2.0), samples=6, against=2, width=7, start=0.1, steps=300, moments=20
)


@pytest.fixture(scope="module")
def result() -> dict:
    done: list[int] = []
    (found,) = Solvable().measure(SMALL, 1, done.append)
    assert sum(done) == Solvable().steps(SMALL)
    return found


def test_the_dense_network_is_trained_by_gradient_descent() -> None:
    problem = _problems(SMALL)["noise"]
    run = _descended(SMALL, problem, 1, lambda _: None)["network"]
    torch.manual_seed(1)
    first, _, second = _dense(SMALL, 8).double()  # type: ignore[misc]
    v, a = first.weight.detach().clone(), second.weight.detach().clone()[0]
    samples = shared_feature(6, 2, 1.0)
    x, y = samples.inputs.double(), samples.labels.double()
    for step in range(301):
        hidden = x @ v.T
        errors = hidden.relu() @ a - y
        place = (run.times - step * SMALL.rate).abs().argmin()
        if abs(float(run.times[place]) - step * SMALL.rate) < 1e-9:
            torch.testing.assert_close(run.errors[place], errors.square(), rtol=1e-9, atol=1e-12)
        back = (errors[:, None] * a) * (hidden > 0)
        v, a = v - SMALL.rate * back.T @ x, a - SMALL.rate * hidden.relu().T @ errors
    assert float(run.times[-1]) == pytest.approx(300 * SMALL.rate)


def test_its_linearisation_follows_the_flow() -> None:
    problem = _problems(SMALL)["shortcut"]
    run = _descended(SMALL, problem, 0, lambda _: None)["linearized"]
    torch.manual_seed(0)
    tangent = pb.linearize(_dense(SMALL, 8).double())
    place = int((run.times - 1.0).abs().argmin())
    steps = 400
    optimiser = torch.optim.SGD(tangent.parameters(), lr=float(run.times[place]) / steps)
    for _ in range(steps):
        optimiser.zero_grad()
        ((tangent(problem.x)[:, 0] - problem.y).square().sum() / 2).backward()
        optimiser.step()
    errors = (tangent(problem.x)[:, 0] - problem.y).square().detach()
    torch.testing.assert_close(run.errors[place], errors, rtol=0.01, atol=1e-4)


def test_the_solvable_network_has_modes_of_the_seed() -> None:
    problem = _problems(SMALL)["noise"]
    found = [_solved(SMALL, problem, seed)["network"].errors for seed in (0, 1)]
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    order = _problems(SMALL)["order"]
    model = quadratic_model(order.x, order.y, SMALL.start)
    run = _solved(SMALL, order, 0)["network"]
    place = int((run.times - 0.5).abs().argmin())
    expected = (model.outputs(float(run.times[place])) - order.y).square()
    torch.testing.assert_close(run.errors[place], expected, rtol=1e-5, atol=1e-7)


def test_when_a_sample_is_learned() -> None:
    errors = torch.tensor([[4.0, 1.0], [0.03, 0.5], [0.0, 0.02]])
    run = _Run(torch.tensor([0.0, 1.0, 2.0]), errors)
    assert _when_learned(run, torch.tensor([2.0, 1.0])) == [1.0, None]


def test_the_minority_is_judged_where_the_majority_is_equally_far() -> None:
    problem = _problems(SMALL)["noise"]
    times = torch.tensor([0.0, 1.0, 2.0])

    def run(majority: list[float], others: list[float]) -> _Run:
        errors = torch.where(
            problem.groups[0], torch.tensor(majority)[:, None], torch.tensor(others)[:, None]
        )
        return _Run(times, errors.double())

    network, lazy = run([1.0, 0.4, 0.2], [1.0, 2.0, 1.0]), run([1.0, 0.3, 0.1], [1.0, 1.2, 0.9])
    found = _judged({"network": network, "linearized": lazy}, problem)
    assert found == pytest.approx(1.5 - 1.2, abs=1e-6)
    slow = run([1.0, 0.9, 0.8], [1.0, 1.0, 1.0])
    assert _judged({"network": network, "linearized": slow}, problem) is None


def test_the_same_seed_gives_the_same_numbers(result: dict) -> None:
    assert Solvable().measure(SMALL, 1, lambda _: None)[0] == result
    assert Solvable().measure(SMALL, 0, lambda _: None)[0] != result


def test_statistics_of_known_times() -> None:
    made = {
        "learned": {
            "solvable": {"network": [3.0, 2.0, 1.0], "linearized": [1.0, 2.0, 3.0]},
            "dense": {"network": [1.0, 3.0, 2.0], "linearized": [1.0, None, 2.0]},
        },
        "judged": {kind: {"noise": 0.5, "shortcut": None} for kind in KINDS},
    }
    found = Solvable().statistics(made)
    assert found == {
        "solvable-order-network": pytest.approx(1),
        "solvable-order-linearized": pytest.approx(-1),
        "dense-order-network": pytest.approx(-0.5),
        "dense-order-linearized": None,
        "solvable-noise": 0.5,
        "solvable-shortcut": None,
        "dense-noise": 0.5,
        "dense-shortcut": None,
    }
    assert set(found) == {claim.name for claim in Solvable().claims}


def test_figures_and_table_come_from_the_results(result: dict) -> None:
    figures = Solvable().figures([result, result])
    assert [len(figure.panels) for figure in figures] == [3, 3]
    assert len(Solvable().table([result])) == len(KINDS) * len(REGIMES)
