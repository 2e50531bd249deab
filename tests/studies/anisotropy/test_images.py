"""Carriers, flips and two features at a small size on digits, against plain loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pullback.anisotropy import carriers, flipped, models, two_features
from pullback.data import two_halves
from pullback.studies.anisotropy import flip, poisoning, underspecification
from pullback.studies.anisotropy.flip import Flip
from pullback.studies.anisotropy.images import Labelled, Learning, intensities
from pullback.studies.anisotropy.poisoning import Poisoning
from pullback.studies.anisotropy.preferences import found_directions
from pullback.studies.anisotropy.underspecification import Underspecification
from pullback.studies.parts import drawn

SMALL: dict[str, Any] = {
    "seeds": 2, "data": "digits", "train": 120, "test": 60, "network": "perceptron", "width": 0.05,
    "networks": 16, "epochs": 3, "batch": 40,
}  # fmt: skip
POISON = poisoning.Settings(**SMALL, places=(0, 59), epsilon=0.5)
FLIP = flip.Settings(**SMALL)


@pytest.fixture(scope="module")
def poisoned() -> dict[str, Any]:
    done: list[int] = []
    (found,) = Poisoning().measure(POISON, 1, done.append)
    assert sum(done) == Poisoning().steps(POISON)
    return found


@pytest.fixture(scope="module")
def turned() -> dict[str, Any]:
    done: list[int] = []
    (found,) = Flip().measure(FLIP, 1, done.append)
    assert sum(done) == Flip().steps(FLIP)
    return found


def learned(train: Labelled, test: Labelled, settings: Learning) -> tuple[float, float]:
    """By a plain loop."""
    mean, scale = train[0].mean(), train[0].std()
    x, new = (train[0] - mean) / scale, (test[0] - mean) / scale
    torch.manual_seed(1)
    module = models.perceptron((1, 8, 8), 10, width=settings.width)
    optimiser = torch.optim.SGD(module.parameters(), lr=settings.rate, momentum=0.9)
    generator, count = torch.Generator().manual_seed(1), 0
    for _ in range(settings.epochs):
        order = torch.randperm(len(x), generator=generator)
        for some in order.split(settings.batch):
            optimiser.param_groups[0]["lr"] = settings.rate * (1 - count / (3 * settings.epochs))
            optimiser.zero_grad()
            F.cross_entropy(module(x[some]), train[1][some]).backward()
            optimiser.step()
            count += 1
    pairs = ((x, train[1]), (new, test[1]))
    first, second = (
        float((module(one).argmax(1) == labels).double().mean()) for one, labels in pairs
    )
    return first, second


def test_the_network_learns_poisoned_images_and_is_judged_on_clean_ones(
    poisoned: dict[str, Any],
) -> None:
    train, test = intensities(POISON, 1)
    clean = (test.inputs, test.labels)
    basis = found_directions(POISON, 8, 1).vectors.float()
    assert poisoned["places"] == [0, 59]
    for place, start in enumerate((None, 0, 59)):
        images = train.inputs
        if start is not None:
            images = carriers(basis, 10, start).poison(images, train.labels, 0.5)
        expected = learned((images, train.labels), clean, POISON)
        assert poisoned["train"][place] == pytest.approx(expected[0], abs=1.1 / 120)
        assert poisoned["test"][place] == pytest.approx(expected[1], abs=1.1 / 60)


def test_both_kinds_of_images_are_learned_alike(turned: dict[str, Any]) -> None:
    train, test = intensities(FLIP, 1)
    basis = found_directions(FLIP, 8, 1).vectors.float()
    mean = train.inputs.mean()
    x, new = (flipped(one.inputs - mean, basis) for one in (train, test))
    expected = learned((x, train.labels), (new, test.labels), FLIP)
    assert turned["perceptron"]["flipped"][0] == pytest.approx(expected[0], abs=1.1 / 120)
    assert turned["perceptron"]["flipped"][1] == pytest.approx(expected[1], abs=1.1 / 60)
    expected = learned((train.inputs, train.labels), (test.inputs, test.labels), FLIP)
    assert turned["perceptron"]["standard"][1] == pytest.approx(expected[1], abs=1.1 / 60)


def test_the_same_seed_gives_the_same_numbers(poisoned: dict[str, Any]) -> None:
    assert Poisoning().measure(POISON, 1, lambda _: None)[0] == poisoned
    other = Poisoning().measure(POISON, 0, lambda _: None)[0]
    assert other["test"] != poisoned["test"]


def test_statistics_of_known_accuracies() -> None:
    made = {"places": [0, 5, 9], "test": [0.5, 0.2, 0.4, 0.45]}
    assert Poisoning().statistics(made) == {
        "early-hurts": pytest.approx(0.25),
        "first-very-low": pytest.approx(0.3),
        "rises": pytest.approx(1),
        "late-harmless": pytest.approx(-0.05),
    }
    made = {
        "network": "lenet",
        "lenet": {"standard": [1.0, 0.5], "flipped": [0.9, 0.3]},
        "logistic-regression": {"standard": [0.4, 0.3], "flipped": [0.4, 0.31]},
    }
    assert Flip().statistics(made) == {
        "flipped-worse": pytest.approx(0.2),
        "both-fitted": 0.9,
        "logistic-alike": pytest.approx(0.01),
    }


def test_figures_and_tables_come_from_the_results(
    poisoned: dict[str, Any], turned: dict[str, Any]
) -> None:
    (figure,) = Poisoning().figures([poisoned, poisoned])
    assert "clean test images" in figure.panels[0].alt
    assert len(Poisoning().table([poisoned])) == 3
    (figure,) = Flip().figures([turned, turned])
    assert figure.panels[0].alt.startswith("Bars, standard and flipped: perceptron")
    assert len(Flip().table([turned])) == 4


UNDER = underspecification.Settings(
    **{**SMALL, "epochs": 8, "network": "logistic-regression"},
    places=(1, 4),
    sigma=0.3,
    epsilon=3.0,
)


def test_what_a_network_uses_is_seen_where_the_other_feature_is_taken_away() -> None:
    done: list[int] = []
    study = Underspecification()
    (found,) = study.measure(UNDER, 1, done.append)
    assert sum(done) == study.steps(UNDER)
    images = drawn("digits", "train", 120, 1)
    held_out = drawn("digits", "test", 60, 1)
    basis = found_directions(UNDER, 8, 1).vectors.float()
    samples = two_features(
        (images.inputs, two_halves(images.labels, 10)),
        (held_out.inputs, two_halves(held_out.labels, 10)),
        basis[4].view(8, 8), 3.0, 0.3, 1,
    )  # fmt: skip
    torch.manual_seed(1)
    module = models.perceptron((2, 8, 8), 1, width=0.05)
    (x, y), generator, count = samples.train, torch.Generator().manual_seed(1), 0
    optimiser = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for _ in range(8):
        for some in torch.randperm(120, generator=generator).split(40):
            optimiser.param_groups[0]["lr"] = 0.05 * (1 - count / 24)
            optimiser.zero_grad()
            F.softplus(-y[some] * module(x[some])[:, 0]).mean().backward()
            optimiser.step()
            count += 1
    for name, (inputs, labels) in {
        "images": samples.images_alone, "channel": samples.channel_alone
    }.items():  # fmt: skip
        right = ((module(inputs)[:, 0] > 0) == (labels > 0)).double().mean()
        assert found["perceptron"][name][1] == pytest.approx(float(right), abs=1.1 / 60)
    assert min(found["logistic-regression"]["channel"]) > 0.9
    (figure,) = study.figures([found, found])
    assert len(figure.panels) == 2
    assert len(study.table([found])) == 4


def test_statistics_of_known_features() -> None:
    made = {
        "networks": ["lenet", "perceptron"],
        "lenet": {"images": [0.5, 0.7, 0.8], "channel": [1.0, 0.6, 0.5]},
        "perceptron": {"images": [0.5] * 3, "channel": [1.0, 0.95, 0.9]},
    }
    assert Underspecification().statistics(made) == {
        "early-channel": 0.5,
        "late-images": pytest.approx(0.3),
        "never-both": 0.6,
        "perceptron-channel": 0.9,
    }
