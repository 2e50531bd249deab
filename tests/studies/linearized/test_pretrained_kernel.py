"""The study of pretrained kernels at a small size on digits: against plain loops."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pullback.studies import find
from pullback.studies.linearized.learning import begun, posed
from pullback.studies.linearized.pretrained_kernel import FITTED, Settings

SMALL = Settings(
    seeds=2, network="mlp", data="digits", train=64, test=40, index=6, moments=(0, 2), epochs=5,
    batch=16,
)  # fmt: skip
STUDY = find("pretrained-kernel")


@pytest.fixture(scope="module")
def result() -> dict:
    done: list[int] = []
    (found,) = STUDY.measure(SMALL, 1, done.append)
    assert sum(done) == STUDY.steps(SMALL)
    return found


def train_losses(parameters: list[Tensor], outputs, y: Tensor, after_epoch=None) -> list[float]:
    """Losses at the start and after each epoch of the usual loop."""
    optimiser = torch.optim.SGD(parameters, momentum=0.9)
    generator, step, losses = torch.Generator().manual_seed(1), 0, []
    for epoch in range(6):
        losses.append(float(F.soft_margin_loss(outputs(torch.arange(64)), y[:64]).detach()))
        if after_epoch is not None:
            after_epoch(epoch)
        if epoch == 5:
            return losses
        for some in torch.randperm(64, generator=generator).split(16):
            optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 20)
            optimiser.zero_grad()
            F.soft_margin_loss(outputs(some), y[some]).backward()
            optimiser.step()
            step += 1
    raise AssertionError


def rows_of(model: nn.Module, x: Tensor) -> Tensor:
    found = []
    for one in x:
        gradients = torch.autograd.grad(model(one[None]).sum(), list(model.parameters()))
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(found)


def test_kernels_are_linear_models_in_the_gradients_of_the_network_on_its_way(
    result: dict,
) -> None:
    start = posed("mlp", "digits", 64, 40, 7, seed=1)
    (y,), x = start.labels([6]), start.images
    model, snapshots = begun("mlp", (1, 8, 8), 1), {}

    def keep(epoch: int) -> None:
        snapshots[epoch] = copy.deepcopy(model)

    own = train_losses(list(model.parameters()), lambda some: model(x[some])[:, 0], y, keep)
    assert result["network"]["loss"] == pytest.approx(own, rel=1e-3)
    assert result["epochs"] == [0, 2, 5]
    for place, epoch in enumerate(result["epochs"]):
        features = rows_of(snapshots[epoch], x)
        weights = torch.zeros(features.shape[1], requires_grad=True)
        losses = train_losses([weights], lambda some, f=features, w=weights: f[some] @ w, y)
        found = result["kernels"][place]
        assert found["loss"] == pytest.approx(losses, rel=2e-3)
        right = ((features[64:] @ weights.detach() > 0) == (y[64:] > 0)).double().mean()
        assert found["test"][-1] == pytest.approx(float(right), abs=1.1 / 40)


def test_the_same_seed_gives_the_same_numbers(result: dict) -> None:
    assert STUDY.measure(SMALL, 1, lambda _: None)[0] == result
    assert STUDY.measure(SMALL, 0, lambda _: None)[0] != result


def test_statistics_of_known_curves() -> None:
    made = {
        "epochs": [0, 2, 5],
        "per epoch": 4,
        "network": {"loss": [1.0, 0.1, 0.1], "test": [0.5, 0.6, 0.7]},
        "kernels": [
            {"loss": [1.0, 0.9, FITTED], "test": [0.5, 0.8, 0.9]},
            {"loss": [1.0, 0.9, 0.3], "test": [0.5, 0.8, 0.6]},
            {"loss": [1.0, 0.1, 0.1], "test": [0.5, 0.7, 0.65]},
        ],
    }
    assert STUDY.statistics(made) == pytest.approx(
        {
            "fits-faster": math.log10(2),
            "generalises-worse": 0.25,
            "as-the-network": 0.05,
            "falls-early": 0.3,
            "falls": -0.5,
        }
    )
    made["kernels"][0]["loss"] = [1.0, 0.9, 0.8]
    assert STUDY.statistics(made)["fits-faster"] is None


def test_figures_and_table_come_from_the_results(result: dict) -> None:
    learning, kernels = STUDY.figures([result, result])
    assert (len(learning.panels), len(kernels.panels)) == (2, 1)
    rows = STUDY.table([result])
    assert rows[-1].here == f"{result['kernels'][-1]['test'][-1]:.1%}"
