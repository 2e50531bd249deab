"""The feature study at a small size on digits: what is measured, and when."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pullback.data.tasks import two_halves
from pullback.studies.alignment.features import LOOKS, OF_ALL, OF_LENET, Features, Settings
from pullback.studies.parts import NETWORKS, drawn, lenet, started

SMALL = Settings(seeds=2, data="digits", train=80, test=40, epochs=3, batch=40, moments=(0, 1, 9))


def images(split: str, count: int) -> tuple[Tensor, Tensor]:
    found = drawn("digits", split, count, seed=1)
    return found.inputs.double(), two_halves(found.labels, 10).double()


def rows_of(model: nn.Module, x: Tensor) -> Tensor:
    """Gradients of the output at each sample, by plain autograd."""
    found = []
    for one in x:
        gradients = torch.autograd.grad(model(one[None]).sum(), list(model.parameters()))
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(found)


def inside(rows: Tensor, y: Tensor) -> float:
    """The share of the labels' length in the 50 leading left singular vectors of the gradients."""
    vectors = torch.linalg.svd(rows, full_matrices=False)[0]
    return float((vectors[:, :50].T @ y).norm() / y.norm())


@pytest.fixture(scope="module")
def result() -> dict:
    done: list[int] = []
    (found,) = Features().measure(SMALL, 1, done.append)
    assert sum(done) == Features().steps(SMALL)
    return found


def test_the_kernel_is_measured_at_its_moments_and_at_the_end(result: dict) -> None:
    assert result["epochs"] == [0, 1, 3]
    assert all(len(result[network][name]) == 3 for network in LOOKS for name in OF_ALL)
    assert all(len(result["lenet"][name]) == 3 for name in OF_LENET)


@pytest.mark.parametrize("network", LOOKS)
def test_concentration_is_that_of_gradients_before_and_after_the_plain_loop(
    result: dict, network: str
) -> None:
    x, y = images("train", 80)
    model = started(lambda: NETWORKS[network]((1, 8, 8)), 1)
    before = inside(rows_of(copy.deepcopy(model).double(), x), y)
    assert result[network]["concentration"][0] == pytest.approx(before, rel=1e-6)
    optimiser = torch.optim.SGD(model.parameters(), momentum=0.9)
    generator, step = torch.Generator().manual_seed(1), 0
    for _ in range(3):
        for some in torch.randperm(80, generator=generator).split(40):
            optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 6)
            optimiser.zero_grad()
            F.soft_margin_loss(model(x[some].float())[:, 0], y[some].float()).backward()
            optimiser.step()
            step += 1
    exact = model.double()
    after = inside(rows_of(exact, x), y)
    assert result[network]["concentration"][-1] == pytest.approx(after, rel=1e-3)
    new, wanted = images("test", 40)
    found = (exact(new)[:, 0].sign() == wanted).double().mean()
    assert result[network]["network"][-1] == pytest.approx(float(found), abs=1.1 / 40)


def test_at_the_start_it_is_the_kernel_of_the_untrained_lenet(result: dict) -> None:
    (x, y), (new, wanted) = images("train", 80), images("test", 40)
    model = started(lambda: lenet((1, 8, 8)), 1).double()
    rows, found = rows_of(model, x), result["lenet"]
    gram = rows @ rows.T
    h = torch.eye(80, dtype=torch.float64) - 1 / 80
    centred = h @ gram @ h
    shares = torch.linalg.eigvalsh(centred).clamp(min=1e-300)
    shares = shares / shares.sum()
    rank = float((-(shares * shares.log()).sum()).exp())
    assert found["effective rank"][0] == pytest.approx(rank, rel=1e-8)
    labels = h @ y
    aligned = labels @ centred @ labels / (labels @ labels) / torch.linalg.matrix_norm(centred)
    assert found["alignment"][0] == pytest.approx(float(aligned), rel=1e-8)
    ridge = 0.1 * gram[:40, :40].trace() / 40
    fit = torch.linalg.solve(gram[:40, :40] + ridge * torch.eye(40), y[:40])
    predicted = rows_of(model, new) @ rows[:40].T @ fit
    right = (predicted.sign() == wanted).double().mean()
    assert found["kernel"][0] == pytest.approx(float(right))


def test_the_same_seed_repeats_it(result: dict) -> None:
    again = Features().measure(SMALL, 1, lambda _: None)[0]
    assert again == result
    assert Features().measure(SMALL, 0, lambda _: None)[0] != result


def test_statistics_of_known_curves() -> None:
    made: dict = {network: {"concentration": [0.2, 0.9, 0.5]} for network in LOOKS}
    made["resnet"]["concentration"][-1] = 0.8
    made["mlp"]["concentration"][-1] = 0.45
    made["lenet"] |= {"alignment": [0.1, 0.6], "kernel": [0.9, 0.8]}
    made["lenet"]["effective rank"] = [1.0, 3.0, 2.0]  # the start does not count as a dip
    assert Features().statistics(made) == pytest.approx(
        {
            "concentration-rises-mlp": 0.25,
            "concentration-rises-lenet": 0.3,
            "concentration-rises-resnet": 0.6,
            "deeper-is-more": 0.05,
            "alignment-rises": 0.5,
            "kernel-improves": -0.1,
            "rank-dips": 2.0,
            "rank-falls": 2.0,
        }
    )


def test_figures_and_table_come_from_the_results(result: dict) -> None:
    networks, own = Features().figures([result, result])
    assert (len(networks.panels), len(own.panels)) == (2, 3)
    rows = Features().table([result])
    assert len(rows) == 9
    start, end = (result["mlp"]["concentration"][place] for place in (0, -1))
    assert rows[0].here == f"{start:.1%} to {end:.1%}"
