"""The study of wrong labels at a small size on digits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pullback.data import noisy_labels
from pullback.studies.parts import NETWORKS, drawn, started
from pullback.studies.regimes.label_noise import (
    LabelNoise,
    Settings,
    first_named,
    memorisation_start,
)

SMALL = Settings(
    seeds=2, data="digits", network="mlp", train=100, test=50, epochs=(4, 8), batch=20, moments=8,
    probed=10, wrong=0.2,
)  # fmt: skip


@pytest.fixture(scope="module")
def result() -> dict:
    done: list[int] = []
    (found,) = LabelNoise().measure(SMALL, 1, done.append)
    assert sum(done) == LabelNoise().steps(SMALL)
    return found


def test_at_the_start_groups_have_the_losses_of_the_untrained_network(result: dict) -> None:
    images, held_out = (drawn("digits", *one, seed=1) for one in (("train", 100), ("test", 50)))
    module = started(lambda: NETWORKS["mlp"]((1, 8, 8), 10), seed=1)
    given = noisy_labels(images.labels, 0.2, 10, seed=1)
    wrong = given.labels != images.labels
    assert int(wrong.sum()) == 20
    own = F.cross_entropy(module(images.inputs), given.labels, reduction="none")
    expected = {
        "clean": own[~wrong].mean(),
        "noisy": own[wrong].mean(),
        "test": F.cross_entropy(module(held_out.inputs), held_out.labels),
    }
    for run in result["runs"].values():
        for name, loss in expected.items():
            assert run["loss"][name][0] == pytest.approx(float(loss.detach()), rel=1e-4)


def test_wrong_labels_are_learned_with_the_right_ones() -> None:
    images = drawn("digits", "train", 100, seed=1)
    given = noisy_labels(images.labels, 0.2, 10, seed=1)
    (found,) = LabelNoise().measure(SMALL, 1, lambda _: None)
    module = started(lambda: NETWORKS["mlp"]((1, 8, 8), 10), seed=1)
    optimiser = torch.optim.SGD(module.parameters(), lr=SMALL.rates[0], momentum=0.9)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        some, order = order[:20], order[20:]
        optimiser.zero_grad()
        F.cross_entropy(module(images.inputs[some]), given.labels[some]).backward()
        optimiser.step()
    own = F.cross_entropy(module(images.inputs), given.labels, reduction="none").detach()
    run = found["runs"]["1"]
    loss = run["loss"]["noisy"][run["updates"].index(2)]
    assert loss == pytest.approx(float(own[given.noisy].mean()), rel=1e-4)


def test_the_same_seed_gives_the_same_numbers(result: dict) -> None:
    again, other = (LabelNoise().measure(SMALL, unit, lambda _: None)[0] for unit in (1, 0))
    assert again == result
    assert other["runs"] != result["runs"]


def _made(clean: list, noisy: list, test: list, named: list, told: list) -> dict:
    return {
        "loss": {"clean": clean, "noisy": noisy, "test": test},
        "accuracy": {"noisy": named, "test": told},
        "linearity": {},
    }


NETWORK = _made(
    [2.0, 1.0, 0.5, 0.0], [2.0, 4.0, 5.0, 1.0], [2, 1, 0.5, 3], [0.2, 0, 0, 0.5], [0, 0.5, 0.9, 0.8]
)
LAZY = _made(
    [2.0, 1.0, 0.5, 0.0], [2.0, 3.0, 1.0, 0.0], [2, 1, 0.7, 3], [0.2, 0, 0.3, 1], [0, 0.5, 0.6, 0.6]
)


def test_statistics_of_known_curves() -> None:
    study = LabelNoise()
    found = study.statistics({"seed": 0, "classes": 10, "runs": {"1": NETWORK, "100": LAZY}})
    resists = found.pop("network-resists")  # type: ignore[attr-defined]
    assert found == pytest.approx(
        {
            "network-noise-rises": 3.0,
            "lazy-noise-rises": 1.0,
            "network-later": -0.5,
            "network-later-named": -0.5,
            "network-better": -0.2,
            "network-more-accurate": 0.3,
        }
    )
    # Three straight lines over the clean loss: from 0 to 1, to 4 and back to 1.
    places = torch.linspace(2, 0, 21)[1:].double()
    gap = torch.where(
        places >= 1,
        2 - places,
        torch.where(places >= 0.5, 1 + 6 * (1 - places), 1 + 6 * places),
    )
    assert resists == pytest.approx(float(gap.mean()))
    names = {claim.name for claim in study.claims}
    assert set(found) | {"network-resists"} == names


def test_what_never_happens_has_no_place() -> None:
    rising = _made([2.0, 1.0], [2.0, 3.0], [2, 1], [0.2, 0.1], [0, 1])
    assert memorisation_start(rising) is None
    assert first_named(rising, 10) is None
    assert first_named(rising, 20) == 1.0
    found = LabelNoise().statistics({"classes": 10, "runs": {"1": rising, "100": NETWORK}})
    assert found["network-later"] is found["network-later-named"] is None


def test_figures_and_table_come_from_the_results(result: dict) -> None:
    figures = LabelNoise().figures([result, result])
    assert [len(figure.panels) for figure in figures] == [3, 3]
    rows = LabelNoise().table([result])
    assert len(rows) == 8
    assert rows[2].here == f"{min(result['runs']['1']['loss']['test']):.3f}"
