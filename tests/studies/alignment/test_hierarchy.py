"""The study of easy and difficult samples at a small size on digits, against the usual loop."""

from __future__ import annotations

import math

import pytest
import torch

from pullback.studies.alignment.hierarchy import Hierarchy, Settings, _mixed
from pullback.studies.parts import Descent, drawn, perceptron, started
from tests.studies.alignment.by_hand import aligned, features, learn

SMALL = Settings(
    seeds=2, data="digits", alike="digits", easy=40, difficult=20, sample=8, hidden=2, width=16,
    descent=Descent(epochs=6, batch=20, rate=0.1, falling=False), depths=(1, 3), narrow=12,
    deep_descent=Descent(epochs=4, batch=20, rate=0.2, falling=False), points=4, first=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def result() -> dict:
    done: list[int] = []
    (found,) = Hierarchy().measure(SMALL, 1, done.append)
    assert sum(done) == Hierarchy().steps(SMALL)
    return found


@pytest.mark.parametrize(
    ("kind", "hidden"), [("random", None), ("alike", None), ("random", 1), ("random", 3)]
)
def test_numbers_are_those_of_a_network_that_learned_by_hand(
    result: dict, kind: str, hidden: int | None
) -> None:
    mixed = _mixed(SMALL, kind, 1)
    if hidden is None:
        layers, descent, found = (2, 16), SMALL.descent, result["kinds"][kind]
    else:
        layers, descent, found = (hidden, 12), SMALL.deep_descent, result["depths"][str(hidden)]
    module = started(lambda: perceptron((1, 8, 8), 10, layers[1], layers[0]), 1)
    for moment in (0, -1):
        if moment == -1:
            learn(module.float(), mixed.inputs, mixed.labels, descent, seed=1)
        for group, those in {"easy": ~mixed.difficult, "difficult": mixed.difficult}.items():
            x, y = mixed.inputs[those], mixed.labels[those]
            right = (module.float()(x).argmax(1) == y).double().mean()
            assert found["right"][group][moment] == pytest.approx(float(right))
            rows = torch.cat(features(module, x[:8]), 2)
            assert found[group][moment] == pytest.approx(aligned(rows, y[:8]), rel=1e-3)


def test_mixtures_share_their_easy_images_and_have_the_difficult_ones_they_say() -> None:
    random, alike = (_mixed(SMALL, kind, 1) for kind in ("random", "alike"))
    assert torch.equal(random.difficult, alike.difficult) and int(random.difficult.sum()) == 20
    assert torch.equal(random.inputs[~random.difficult], alike.inputs[~alike.difficult])
    own = drawn("digits", "train", 60, 1)
    others = drawn("digits", "train", 20, 1)

    def labels_of(images, those) -> dict:
        pairs = zip(images.inputs[those], images.labels[those], strict=True)
        return {tuple(x.flatten().tolist()): int(y) for x, y in pairs}

    everything = slice(None)
    assert labels_of(alike, alike.difficult) == labels_of(others, everything)
    true, taught = labels_of(own, everything), labels_of(random, random.difficult)
    wrong = sum(true[image] != label for image, label in taught.items())
    assert wrong == 18  # of 20: one in ten random labels is right


def test_the_same_seed_repeats_it_and_another_does_not(result: dict) -> None:
    assert Hierarchy().measure(SMALL, 1, lambda _: None)[0] == result
    other = Hierarchy().measure(SMALL, 0, lambda _: None)[0]
    assert other["kinds"]["random"]["easy"] != result["kinds"]["random"]["easy"]


def test_statistics_of_known_curves() -> None:
    random = {"updates": [0, 10, 20], "easy": [0.1, 0.3, 0.5], "difficult": [0.1, 0.1, 0.125]}
    alike = {"updates": [0, 10, 20], "easy": [0.0, 0.4, 0.4], "difficult": [0.1, 0.1, 0.2]}
    shallow = {"updates": [0, 10, 20], "easy": [0.0, 0.4, 0.4], "difficult": [0.1, 0.1, 0.1]}
    deep = {"updates": [0, 10, 20], "easy": [0.0, 0.0, 0.8], "difficult": [0.1, 0.1, 0.1]}
    depths = {"2": shallow, "10": deep, "6": {}}
    found = Hierarchy().statistics({"kinds": {"random": random, "alike": alike}, "depths": depths})
    assert set(found) == {claim.name for claim in Hierarchy().claims}
    assert found == pytest.approx(
        {
            "random-easy-higher": 2.0,
            "random-easy-faster": 0.2,
            "alike-easy-higher": 1.0,
            "alike-easy-faster": 0.2,
            "alike-later": math.log2(15 / 5),
            "deep-later": math.log2(12.5 / 2.5),
            "deep-faster": 0.0,
            "deep-ratio": 1.0,
            "deep-shorter": math.log2(5 / 15),
        }
    )


def test_figures_and_table_come_from_the_results(result: dict) -> None:
    figures = Hierarchy().figures([result, result])
    assert [len(figure.panels) for figure in figures] == [3, 3, 2]
    assert len(Hierarchy().table([result])) == 6
