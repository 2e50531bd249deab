"""Studies that learn one direction after the other, at a small size, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pullback import effective_rank
from pullback.anisotropy import Recipe, directions, fourier_basis, models, random_basis, separable
from pullback.studies import Study
from pullback.studies.anisotropy import (
    bias_controls,
    convergence,
    directional_bias,
    own_directions,
    sample_complexity,
)

SHAPE = (1, 16, 16)
RECIPE = Recipe(samples=120, tests=200, sigma=0.3, epochs=2, batch=40, clip=0.5)
SMALL: dict[str, Any] = {
    "seeds": 2, "side": 16, "width": 0.3, "networks": 20, "recipe": RECIPE,
}  # fmt: skip
BIAS = directional_bias.Settings(
    **{**SMALL, "networks": 1}, frequencies=(-4, 0, 4)
)  # fmt: skip
OWN = own_directions.Settings(**SMALL, beside=(("perceptron", 0.1),), places=(0, 2, 15))
SPEED = convergence.Settings(**SMALL, places=(0, 9), frequencies=((0, 0), (0, 4), (8, 8)))
LONGER = Recipe(samples=120, tests=200, sigma=0.6, epochs=10, batch=40, clip=0.5)
LEARNED: dict[str, Any] = {**SMALL, "network": "perceptron", "recipe": LONGER}
SAMPLES = sample_complexity.Settings(**LEARNED, places=(0, 9), numbers=(60, 300))
CONTROLS = bias_controls.Settings(**LEARNED, frequencies=((0, 1), (0, 4)), sigmas=(0.0, 1.0))
EVERY: list[tuple[Study, Any]] = [
    (directional_bias.DirectionalBias(), BIAS),
    (own_directions.OwnDirections(), OWN),
    (convergence.Convergence(), SPEED),
    (sample_complexity.SamplesNeeded(), SAMPLES),
    (bias_controls.BiasControls(), CONTROLS),
]
NAMES = [study.name for study, _ in EVERY]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """What each study finds for seed 1; and that it says how far it is as often as it promised."""
    found = {}
    for study, settings in EVERY:
        done: list[int] = []
        (found[study.name],) = study.measure(settings, 1, done.append)
        assert sum(done) == study.steps(settings)
        assert study.units(settings) == 2
    return found


def lenet(width: float = 0.3, pooling: bool = True) -> nn.Module:
    return models.lenet(SHAPE, 1, pooling=pooling, width=width)


def perceptron(width: float = 0.3) -> nn.Module:
    return models.perceptron(SHAPE, width=width)


def learned(
    make: Callable[[], nn.Module], direction: Tensor, place: int, recipe: Recipe = RECIPE
) -> tuple[float, list[float]]:
    """Test accuracy and the loss of each update, by a plain loop with the seeds of a sweep."""
    own = np.random.SeedSequence((1, 0, place)).generate_state(4).tolist()
    torch.manual_seed(own[0])
    module = make()
    (x, y), (new, labels) = (
        separable(direction.view(SHAPE), count, 1.0, recipe.sigma, seed)
        for count, seed in ((recipe.samples, own[1]), (recipe.tests, own[2]))
    )
    generator, losses = torch.Generator().manual_seed(own[3]), []
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(recipe.epochs):
        for some in torch.randperm(recipe.samples, generator=generator).split(recipe.batch):
            optimiser.param_groups[0]["lr"] = 0.5 * (1 - len(losses) / recipe.updates)
            optimiser.zero_grad()
            loss = F.softplus(-y[some] * module(x[some])[:, 0]).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 0.5)
            optimiser.step()
            losses.append(float(loss))
    right = ((module(new)[:, 0] > 0) == (labels > 0)).double().mean()
    return float(right), losses


def near(expected: float, tests: int = 200) -> Any:
    """Rounding may tell one sample otherwise."""
    return pytest.approx(expected, abs=1.1 / tests)


def test_each_frequency_is_learned_and_shown_with_its_mirror(results: dict[str, Any]) -> None:
    found, basis = results["directional-bias"], fourier_basis((16, 16))
    for kind, make in {
        "logistic": lambda: models.logistic_regression(SHAPE),
        "network": lenet,
        "no pooling": lambda: lenet(pooling=False),
    }.items():
        values = np.array(found[kind])
        assert values.shape == (3, 3)
        assert np.array_equal(values, values[::-1, ::-1])
        for row, column in ((0, 0), (1, 1), (1, 2)):
            place = basis.place((4 * (row - 1), 4 * (column - 1)))
            assert values[row, column] == near(learned(make, basis.vectors[place], place)[0])


def test_architectures_learn_their_own_directions(results: dict[str, Any]) -> None:
    found = results["own-directions"]["architectures"]
    assert list(found) == ["lenet", "perceptron"]
    for name, make in {
        "lenet": lenet, "perceptron": lambda: perceptron(0.1)
    }.items():  # fmt: skip
        own = directions(make, SHAPE, networks=20, step=100, seed=1)
        expected = [float(own.spectrum[place] / own.spectrum[0]) for place in (0, 2, 15)]
        assert found[name]["spectrum"] == pytest.approx(expected, rel=1e-4)
        assert found[name]["effective rank"] == pytest.approx(effective_rank(own.spectrum))
        test, _ = learned(make, own.vectors[2].float(), 2)
        assert found[name]["test"][1] == near(test)


def test_updates_are_counted_until_the_loss_is_low(results: dict[str, Any]) -> None:
    found, basis = results["convergence"], fourier_basis((16, 16))
    place = basis.place((0, 4))
    test, losses = learned(lenet, basis.vectors[place], place)
    assert found["fourier"]["test"][1] == near(test)
    epochs = [float(np.mean(losses[start : start + 3])) for start in (0, 3)]
    assert found["fourier"]["losses"][1] == pytest.approx(epochs, rel=1e-3)
    assert found["whole"] == 6
    # Six updates are too few for any of these.
    assert found["fourier"]["updates"] == [6.0] * 3


def test_more_samples_are_learned_from_the_same_start(results: dict[str, Any]) -> None:
    found = results["sample-complexity"]
    own = directions(perceptron, SHAPE, networks=20, step=100, seed=1).vectors.float()
    for column, count in enumerate((60, 300)):
        recipe = Recipe(**{**vars(LONGER), "samples": count})
        for row, place in enumerate((0, 9)):
            test, _ = learned(perceptron, own[place], place, recipe)
            assert found["test"][row][column] == near(test)


def test_bases_and_levels_of_noise(results: dict[str, Any]) -> None:
    found, basis = results["bias-controls"], fourier_basis((16, 16))
    place = basis.place((0, 4), imaginary=True)
    assert basis.imaginary[place]
    test, _ = learned(perceptron, basis.vectors[place], place, LONGER)
    assert found["bases"]["imaginary"][1] == near(test)
    test, _ = learned(perceptron, random_basis(256, 1)[1], 1, LONGER)
    assert found["bases"]["random"][1] == near(test)
    place = basis.place((0, 1))
    for row, sigma in enumerate((0.0, 1.0)):
        recipe = Recipe(**{**vars(LONGER), "sigma": sigma})
        test, _ = learned(perceptron, basis.vectors[place], place, recipe)
        assert found["noise"][row][0] == near(test)
        logistic = learned(
            lambda: models.logistic_regression(SHAPE), basis.vectors[place], place, recipe
        )
        assert found["logistic"][row][0] == near(logistic[0])


@pytest.mark.parametrize(("study", "settings"), EVERY, ids=NAMES)
def test_the_same_seed_gives_the_same_numbers(
    study: Study, settings: Any, results: dict[str, Any]
) -> None:
    assert study.measure(settings, 1, lambda _: None)[0] == results[study.name]
    assert study.measure(settings, 0, lambda _: None)[0] != results[study.name]


@pytest.mark.parametrize(("study", "settings"), EVERY, ids=NAMES)
def test_figures_tables_and_statistics_come_from_the_results(
    study: Study, settings: Any, results: dict[str, Any]
) -> None:
    found = results[study.name]
    figures = study.figures([found, found])
    assert all(panel.source for figure in figures for panel in figure.panels)
    assert study.table([found, found])
    assert set(study.statistics(found)) == {claim.name for claim in study.claims}


ONE: dict[str, Any] = {"test": [1.0, 0.8, 0.5], "spectrum": [1.0, 0.3, 0.1], "effective rank": 20.0}
TWO: dict[str, Any] = {
    "test": [1.0, 0.9, 0.95],
    "spectrum": [1.0, 0.9, 0.7],
    "effective rank": 90.0,
}
KNOWN: Sequence[tuple[Study, dict[str, Any], dict[str, float]]] = [
    (
        directional_bias.DirectionalBias(),
        {"logistic": [[1, 0.98]], "network": [[0.5, 0.9]], "no pooling": [[0.8, 0.95]]},
        {"logistic-flat": 0.98, "network-uneven": 0.4, "pooling-shrinks": 0.25},
    ),
    (
        own_directions.OwnDirections(),
        {"places": [0, 5, 9], "architectures": {"lenet": ONE, "perceptron": TWO}},
        {"falls": -1, "lower-rank-worse": 1, "perceptron-all": 0.9, "perceptron-flat": 0.6},
    ),
    (
        convergence.Convergence(),
        {
            "places": [0, 5, 9],
            "own": {"updates": [30, 80, 70], "test": [1, 0.9, 0.95]},
            "fourier": {"updates": [20, 50]},
        },
        {"later-slower": 0.5, "all-learned": 0.9, "frequency-matters": 2.5},
    ),
    (
        sample_complexity.SamplesNeeded(),
        {"places": [0, 5], "test": [[0.7, 1.0], [0.5, 0.9]], "needed": [100, 300]},
        {"later-more": 1, "enough-samples": 0.9},
    ),
    (
        bias_controls.BiasControls(),
        {
            "bases": {
                "real": [0.9, 0.5, 0.6], "imaginary": [0.8, 0.6, 0.5], "random": [0.5, 0.6, 0.5]
            },
            "noise": [[1.0, 0.6], [0.6, 0.5]],
            "logistic": [[1.0, 0.97]],
        },
        {
            "logistic-any-noise": 0.97, "fails-without-noise": 0.6, "noise-hurts": 0.25,
            "imaginary-alike": 0.5, "random-alike": 0.3, "random-trivial": 0.6,
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("study", "result", "expected"), KNOWN, ids=[study.name for study, *_ in KNOWN]
)
def test_statistics_of_known_accuracies(
    study: Study, result: dict[str, Any], expected: dict[str, float]
) -> None:
    assert study.statistics(result) == pytest.approx(expected)
    assert not any(math.isnan(value) for value in expected.values())
