"""The feature study at a small size on digits: what is measured, and when."""

from __future__ import annotations

import copy

import pytest
import torch

import pullback as pb
from pullback.studies.alignment import features
from pullback.studies.alignment.features import QUANTITIES, Features, Settings, _images, _lenet

SMALL = Settings(seeds=2, data="digits", train=120, test=60, epochs=3, batch=40, moments=(0, 1, 9))


@pytest.fixture(scope="module")
def result() -> dict:
    done: list[int] = []
    (found,) = Features().measure(SMALL, 1, done.append)
    assert sum(done) == Features().steps(SMALL)
    return found


def test_the_kernel_is_measured_at_its_moments_and_at_the_end(result: dict) -> None:
    assert result["epochs"] == [0, 1, 3]
    assert all(len(result[name]) == 3 for name in QUANTITIES)


def test_at_the_start_it_is_the_kernel_of_the_untrained_network(result: dict) -> None:
    (x, y), (new, wanted) = (_images(SMALL, split, 1) for split in ("train", "test"))
    torch.manual_seed(1)
    model, x, new = _lenet(1, 8).double(), x.double(), new.double()
    rows = pb.jacobian(model, x).rows()[:, 0]
    gram = rows @ rows.T
    _, vectors = torch.linalg.eigh(gram)
    inside = (vectors[:, -50:].T @ y.double()).norm() / y.double().norm()
    assert result["concentration"][0] == pytest.approx(float(inside), rel=1e-8)
    h = torch.eye(120, dtype=torch.float64) - 1 / 120
    centred = h @ gram @ h
    shares = torch.linalg.eigvalsh(centred).clamp(min=1e-300)
    shares = shares / shares.sum()
    rank = float((-(shares * shares.log()).sum()).exp())
    assert result["effective rank"][0] == pytest.approx(rank, rel=1e-8)
    labels = h @ y.double()
    aligned = labels @ centred @ labels / (labels @ labels) / torch.linalg.matrix_norm(centred)
    assert result["alignment"][0] == pytest.approx(float(aligned), rel=1e-8)
    ridge = 0.1 * gram[:60, :60].trace() / 60
    fit = torch.linalg.solve(gram[:60, :60] + ridge * torch.eye(60), y[:60].double())
    others = pb.jacobian(model, new).rows()[:, 0]
    predicted = others @ rows[:60].T @ fit
    right = (predicted.sign() == wanted).double().mean()
    assert result["kernel"][0] == pytest.approx(float(right))


def test_training_moves_it_and_the_same_seed_repeats_it(result: dict) -> None:
    assert result["alignment"][-1] != result["alignment"][0]
    again = Features().measure(SMALL, 1, lambda _: None)[0]
    assert again == result
    assert Features().measure(SMALL, 0, lambda _: None)[0] != result


def test_statistics_of_known_curves() -> None:
    made = {name: [1.0, 0.25, 0.5] for name in QUANTITIES}
    found = Features().statistics(copy.deepcopy(made))
    assert found == {
        "concentration-rises": -0.5,
        "alignment-rises": -0.5,
        "kernel-improves": -0.5,
        "rank-dips": 0.25,
        "rank-falls": 0.5,
    }


def test_figures_and_table_come_from_the_results(result: dict) -> None:
    (figure,) = Features().figures([result, result])
    assert len(figure.panels) == len(QUANTITIES)
    assert len(Features().table([result])) == len(QUANTITIES)
    assert features.LEADING == 50
