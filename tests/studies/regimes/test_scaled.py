"""One start trained at several alpha: against a loop of its own, and curves with known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pullback as pb
from pullback.studies.parts import NETWORKS, drawn, perceptron, started
from pullback.studies.regimes.scaled import (
    METRICS,
    Batch,
    Regimes,
    equally_far,
    followed,
    linearity_figure,
    lowest_linearity,
    regime_curve,
    regimes,
)

SMALL = Regimes(
    train=60, alphas=(1, 20), epochs=(3, 4), rates=(0.02, 0.05), batch=25, moments=6, probed=6
)


def _network() -> torch.nn.Module:
    return started(lambda: perceptron((1, 8, 8), 10, width=9), seed=3).double()


@pytest.fixture(scope="module")
def train() -> Batch:
    images = drawn("digits", "train", SMALL.train, seed=1)
    return images.inputs.double(), images.labels


@pytest.fixture(scope="module")
def groups(train: Batch) -> dict[str, Batch]:
    return {"train": train, "some": (train[0][:7], train[1][:7])}


@pytest.fixture(scope="module")
def runs(train: Batch, groups: dict[str, Batch]) -> dict:
    done: list[int] = []
    found = followed(SMALL, _network(), train, groups, 2, done.append)
    assert sum(done) == sum(SMALL.epochs)
    return found


@pytest.mark.parametrize("place", [0, 1])
def test_each_regime_is_the_plain_loop(
    runs: dict, train: Batch, groups: dict[str, Batch], place: int
) -> None:
    alpha, epochs, rate = (one[place] for one in (SMALL.alphas, SMALL.epochs, SMALL.rates))
    start, now = _network(), _network()
    momentum = [torch.zeros_like(one) for one in now.parameters()]
    generator = torch.Generator().manual_seed(2)
    losses, shares, step = {}, {}, 0

    def measure() -> None:
        with torch.no_grad():
            outputs = {
                name: start(x) + alpha * (now(x) - start(x)) for name, (x, _) in groups.items()
            }
        losses[step] = float(F.cross_entropy(outputs["train"], train[1]))
        shares[step] = float((outputs["some"].argmax(1) == groups["some"][1]).double().mean())

    measure()
    for _ in range(epochs):
        for some in torch.randperm(SMALL.train, generator=generator).split(SMALL.batch):
            x, y = train[0][some], train[1][some]
            loss = F.cross_entropy(start(x).detach() + alpha * (now(x) - start(x).detach()), y)
            gradients = torch.autograd.grad(loss, list(now.parameters()))
            with torch.no_grad():
                for one, moving, gradient in zip(
                    now.parameters(), momentum, gradients, strict=True
                ):
                    moving.mul_(0.9).add_(gradient)
                    one -= rate / alpha**2 * moving
            step += 1
            measure()
    run = runs[regimes(SMALL)[place]]
    assert run["updates"][-1] == step
    assert run["loss"]["train"] == pytest.approx([losses[one] for one in run["updates"]], rel=1e-4)
    assert run["accuracy"]["some"] == pytest.approx(
        [shares[one] for one in run["updates"]], rel=1e-4
    )
    ends = {name: found[-1] for name, found in run["linearity"].items()}
    assert ends == pytest.approx(_metrics(start, now, train), rel=1e-4)


def _metrics(start: torch.nn.Module, now: torch.nn.Module, train: Batch) -> dict[str, float]:
    """The three metrics at the end, from layers and Jacobians."""
    x = train[0][: SMALL.probed]
    hidden = [(one[:3](x), one[:5](x)) for one in (start, now)]  # type: ignore[index]
    same = torch.cat([((a > 0) == (b > 0)).flatten() for a, b in zip(*hidden, strict=True)])
    rows = [pb.jacobian(one, x).rows().flatten(0, 1) for one in (start, now)]

    def aligned(first: torch.Tensor, second: torch.Tensor) -> float:
        a, b = first @ first.T, second @ second.T
        return float(((a * b).sum() / a.norm() / b.norm()).detach())

    found = [float(same.double().mean()), aligned(*rows), aligned(hidden[0][1], hidden[1][1])]
    return dict(zip(METRICS, found, strict=True))


def test_the_lazy_one_is_nearer_to_its_linearisation(runs: dict) -> None:
    lazy, network = (lowest_linearity({"runs": runs}, one) for one in ("20", "1"))
    assert all(lazy[metric] > network[metric] for metric in METRICS)


def test_the_start_stays_as_it_is(train: Batch, groups: dict[str, Batch], runs: dict) -> None:
    start = _network()
    again = followed(SMALL, start, train, groups, 2, lambda _: None)
    assert again == runs
    assert all(map(torch.equal, start.parameters(), _network().parameters()))
    assert followed(SMALL, start, train, groups, 3, lambda _: None) != runs


@pytest.mark.parametrize("name", NETWORKS)
def test_all_networks_can_be_followed(train: Batch, name: str) -> None:
    images = train[0].float(), train[1]
    start = started(lambda: NETWORKS[name]((1, 8, 8), 10), seed=0)
    brief = replace(SMALL, epochs=(1, 1), probed=2)
    found = followed(brief, start, images, {"train": images}, 0, lambda _: None)
    for run in found.values():
        assert all(len(run["linearity"][metric]) == len(run["updates"]) for metric in METRICS)
        assert run["linearity"]["sign similarity"][0] == 1


def _made(progress: list[float], other: list[float]) -> dict:
    return {
        "loss": {"train": progress, "other": other},
        "linearity": dict.fromkeys(METRICS, other),
    }


def test_runs_are_compared_where_they_are_equally_far() -> None:
    results = [
        {
            "runs": {
                "1": _made([2.0, 1.0, 0.0], [0.0, 1.0, 2.0]),
                "100": _made([2.0, 0.5], [5.0, 8.0]),
            }
        },
        {
            "runs": {
                "1": _made([2.0, 0.0], [0.0, 4.0]),
                "100": _made([2.0, 1.0, 0.0], [1.0, 1.0, 1.0]),
            }
        },
    ]
    thresholds, values = equally_far(results, ("loss", "train"), [("loss", "other")])
    places = torch.tensor(thresholds)
    assert thresholds == pytest.approx([2 - 1.5 * place / 20 for place in range(1, 21)])
    torch.testing.assert_close(values["1"][:, :, 0], torch.stack([2 - places, 4 - 2 * places]))
    lazy = torch.stack([5 + 3 * (2 - places) / 1.5, torch.ones(20)])
    torch.testing.assert_close(values["100"][:, :, 0], lazy)
    figure = linearity_figure(results, ("loss", "train"), "training loss")
    assert [panel.title for panel in figure.panels] == [name.capitalize() for name in METRICS]
    assert lowest_linearity(results[0], "100") == dict.fromkeys(METRICS, 5)


def test_accuracies_are_compared_by_the_logarithm_of_the_error() -> None:
    shares = [0.2, 0.5, 0.9, 1.0]
    results = [
        {"runs": {"1": {"accuracy": {"train": shares, "other": [1.0, 0.7, 0.3, 0.0]}}}},
        {"runs": {"1": {"accuracy": {"train": [0.36, 0.95], "other": [0.0, 0.59]}}}},
    ]
    errors, values = equally_far(results, ("accuracy", "train"), [("accuracy", "other")])
    ratio = (0.05 / 0.64) ** (1 / 20)
    assert errors == pytest.approx([0.64 * ratio**place for place in range(1, 21)])
    first, second = values["1"][..., 0].tolist()
    assert second == pytest.approx([0.64 - error for error in errors])
    places = [0.0, 0.1, 0.5, 0.8]
    expected = np.interp(errors, places, [0.0, 0.3, 0.7, 1.0])
    assert first == pytest.approx(expected, rel=1e-5)
    perfect = [{"runs": {"1": {"accuracy": {"train": [0.5, 1.0], "other": [0.0, 1.0]}}}}]
    assert equally_far(perfect, ("accuracy", "train"), [("accuracy", "other")])[0][
        -1
    ] == pytest.approx(0.01)


def test_a_regime_without_a_colour_of_its_own_is_drawn_too() -> None:
    assert regime_curve("7", torch.zeros(1, 2)).label == "alpha = 7"
