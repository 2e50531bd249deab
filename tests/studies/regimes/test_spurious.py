"""The study of misleading colours at a small size on digits."""

from __future__ import annotations

import pytest
import torch

from pullback.studies.parts import NETWORKS, drawn, started
from pullback.studies.regimes.spurious import Settings, Spurious, digits

SMALL = Settings(
    seeds=2, data="digits", network="mlp", train=100, test=200, each=30, epochs=(4, 4, 8),
    batch=20, moments=8, probed=10, agree=0.8, tint=0.5,
)  # fmt: skip
GROUPS = ("agrees", "against", "test agrees", "test against", "test")


@pytest.fixture(scope="module")
def result() -> dict:
    done: list[int] = []
    (found,) = Spurious().measure(SMALL, 1, done.append)
    assert sum(done) == Spurious().steps(SMALL)
    return found


def test_the_colour_agrees_for_most_training_images() -> None:
    x, labels, colours = digits(SMALL, "train", 1)
    images = drawn("digits", "train", 100, seed=1)
    assert torch.equal(labels, (images.labels >= 5).long())
    agrees = labels == colours
    assert [int(agrees[labels == label].sum()) for label in (0, 1)] == [
        round(0.8 * int((labels == label).sum())) for label in (0, 1)
    ]
    grey, dark = images.inputs[:, 0], images.inputs.min()
    for channel in (0, 1, 2):
        own = colours == channel
        torch.testing.assert_close(x[own, channel], grey[own])
        torch.testing.assert_close(x[~own, channel], (grey[~own] + dark) / 2)


def test_colours_say_nothing_about_test_images(result: dict) -> None:
    _, labels, colours = digits(SMALL, "test", 1)
    assert abs(float((labels == colours).double().mean()) - 0.5) < 0.02
    for run in result["runs"].values():
        for quantity in ("loss", "accuracy"):
            agrees, against, both = (
                torch.tensor(run[quantity][name]) for name in GROUPS[2:]
            )  # of the same size
            torch.testing.assert_close((agrees + against) / 2, both, rtol=1e-3, atol=1e-5)


def test_at_the_start_all_regimes_are_the_untrained_network(result: dict) -> None:
    x, labels, colours = digits(SMALL, "train", 1)
    module = started(lambda: NETWORKS["mlp"]((3, 8, 8), 2), seed=1)
    right = module(x).argmax(1) == labels
    agrees = labels == colours
    for run in result["runs"].values():
        assert set(run["loss"]) == set(GROUPS)
        for name, own in (("agrees", right[agrees]), ("against", right[~agrees])):
            share = float(own.double().mean())
            assert run["accuracy"][name][0] == pytest.approx(share, rel=1e-4)


def test_the_same_seed_gives_the_same_numbers(result: dict) -> None:
    again, other = (Spurious().measure(SMALL, unit, lambda _: None)[0] for unit in (1, 0))
    assert again == result
    assert other["runs"] != result["runs"]


def _made(against: float, test: float, hidden: float) -> dict:
    flat = {"against": [against] * 3, "test": [test] * 3, "test against": [hidden] * 3}
    return {"accuracy": {"agrees": [0.5, 0.9, 1.0], **flat}}


def test_statistics_of_known_curves() -> None:
    runs = {"0.5": _made(0.1, 0.0, 0.0), "1": _made(0.4, 0.5, 0.1), "100": _made(0.6, 0.8, 0.5)}
    found = Spurious().statistics({"seed": 0, "runs": runs})
    assert found == pytest.approx(
        {
            "lazy-relies-less": 0.2,
            "hasty-relies-more": -0.3,
            "lazy-generalises": 0.3,
            "lazy-relies-less-on-test": 0.4,
        }
    )
    assert set(found) == {claim.name for claim in Spurious.claims}


def test_figures_and_table_come_from_the_results(result: dict) -> None:
    figures = Spurious().figures([result, result])
    assert [len(figure.panels) for figure in figures] == [3, 3]
    rows = Spurious().table([result])
    assert len(rows) == 6
    assert rows[5].here == f"{result['runs']['100']['accuracy']['test'][-1]:.1%}"
