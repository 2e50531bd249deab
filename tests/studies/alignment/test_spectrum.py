"""The study of the spectrum at a small size on digits, against features made one by one."""

from __future__ import annotations

import math

import pytest
import torch

from pullback.data import noisy_labels
from pullback.studies.alignment.networks import NETWORKS, vgg
from pullback.studies.alignment.spectrum import LEADING, Settings, Spectrum, _apart
from pullback.studies.parts import Descent, drawn, started
from tests.studies.alignment.by_hand import aligned, features, learn

SMALL = Settings(
    seeds=2, data="digits", train=60, test=40, sample=12,
    descent=Descent(epochs=10, batch=20, rate=0.2, falling=False), points=4, first=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def result() -> dict:
    done: list[int] = []
    (found,) = Spectrum().measure(SMALL, 1, done.append)
    assert sum(done) == Spectrum().steps(SMALL)
    return found


def learned(share: float) -> tuple[list[torch.nn.Module], torch.Tensor]:
    """The network before and after it has learned, and the labels that it is taught."""
    images = drawn("digits", "train", 60, 1)
    labels = noisy_labels(images.labels, share, 10, 1).labels
    pair = [started(lambda: NETWORKS["perceptron"]((1, 8, 8), 10), 1) for _ in range(2)]
    learn(pair[1], images.inputs, labels, SMALL.descent, seed=1)
    return pair, labels


@pytest.mark.parametrize(("level", "share"), [("clean", 0.0), ("noisy", 0.5)])
@pytest.mark.parametrize("moment", [0, -1])
def test_numbers_are_those_of_the_features(
    result: dict, level: str, share: float, moment: int
) -> None:
    networks, taught = learned(share)
    test = drawn("digits", "test", 40, 1)
    sets = {
        "train": (drawn("digits", "train", 60, 1).inputs, taught),
        "test": (test.inputs, test.labels),
    }
    spectra = {}
    for split, (x, y) in sets.items():
        found = {name: of[moment] for name, of in result["levels"][level][split].items()}
        with torch.no_grad():
            right = networks[moment].float()(x).argmax(1) == y
        assert found["accuracy"] == pytest.approx(float(right.double().mean()))
        layers = features(networks[moment], x[:12])
        whole = torch.cat(layers, 2)
        values = torch.linalg.svdvals((whole - whole.mean(0)).flatten(0, 1)).square()
        shares = values / values.sum()
        spectra[split] = values.log()
        assert found["largest"] == pytest.approx(float(values[0]), rel=1e-3)
        assert found["mean"] == pytest.approx(float(values.mean()), rel=1e-3)
        assert found["median"] == pytest.approx(float(values.sort()[0][59]), rel=1e-3)
        rank = math.exp(-sum(share * math.log(share) for share in shares.tolist() if share))
        assert found["rank"] == pytest.approx(rank, rel=1e-3)
        ratios = [float(shares[:count].sum()) for count in LEADING]
        assert found["ratios"] == pytest.approx(ratios, rel=1e-3)
        assert found["alignment"] == pytest.approx(aligned(whole, y[:12]), rel=1e-3)
        assert found["uncentred"] == pytest.approx(aligned(whole, y[:12], centred=False), rel=1e-3)
        own = [aligned(layer, y[:12]) for layer in layers]
        assert found["layers"] == pytest.approx(own, rel=1e-3)
    apart = float((spectra["train"] - spectra["test"])[:60].abs().mean().exp())
    assert result["levels"][level]["apart"][moment] == pytest.approx(apart, rel=1e-3)


def test_spectra_are_compared_rank_by_rank() -> None:
    one = torch.tensor([8.0, 4.0, 2.0, 0.0, 0.0, 0.0])
    factors = torch.tensor([2.0, 0.5, 1.0, 1.0, 1.0, 1.0])
    assert _apart(one, one * factors) == pytest.approx(2 ** (2 / 3))


def test_it_is_measured_at_the_start_and_later(result: dict) -> None:
    assert result["updates"] == [0, 5, 30]
    assert result["levels"]["clean"] != result["levels"]["noisy"]


def test_the_same_seed_repeats_it_and_another_does_not(result: dict) -> None:
    assert Spectrum().measure(SMALL, 1, lambda _: None)[0] == result
    other = Spectrum().measure(SMALL, 0, lambda _: None)[0]
    assert other["levels"]["clean"]["train"] != result["levels"]["clean"]["train"]


def test_statistics_of_known_curves() -> None:
    def made(ranks: list[float], layers: list[float], alignment: list[float]) -> dict:
        return {
            "rank": ranks,
            "largest": [1.0, 10.0, 1000.0],
            "mean": [1.0, 10.0, 100.0],
            "ratios": [[0.5, 0.6, 0.7], [0.6, 0.7, 0.8], [0.75, 0.8, 0.9]],
            "alignment": alignment,
            "uncentred": [0.3, 0.3, 0.1],
            "layers": [[0.0] * 4, layers, [0.0] * 4],
            "accuracy": [0.1, 0.9, 0.5],
        }

    train, test = (
        made([100.0, 5.0, 20.0], [0.1, 0.6, 0.7, 0.2], alignment)
        for alignment in ([0.1, 0.2, 0.4], [0.1, 0.3, 0.35])
    )
    level = {"train": train, "test": test, "apart": [1.0, 1.5, 1.2]}
    noisy = {**level, "apart": [1.0, 1.1, 3.0]}
    found = Spectrum().statistics(
        {"updates": [0, 10, 80], "levels": {"clean": level, "noisy": noisy}}
    )
    assert set(found) == {claim.name for claim in Spectrum().claims}
    assert found == pytest.approx(
        {
            "rank-falls": 0.2,
            "rank-below-tenth": 0.05,
            "noisy-rank-below-fifth": 0.05,
            "noisy-rank-returns": 4.0,
            "noisy-rank-opposes-accuracy": -1.0,
            "largest-grows": 3.0,
            "mean-grows": 2.0,
            "forty-carry-most": 0.75,
            "spectra-alike": 3.0,
            "alignment-rises": 0.3,
            "test-alignment-rises": 0.25,
            "uncentred-alignment-rises": -0.2,
            "layers-align": 2.0,
            "top-layer-lags": -0.45,
            "noisy-test-aligns-better": 0.1,
            "noisy-peaks-together": 3.0,
        }
    )


def test_figures_and_table_come_from_the_results(result: dict) -> None:
    figures = Spectrum().figures([result, result])
    assert [len(figure.panels) for figure in figures] == [7, 7]
    assert len(Spectrum().table([result])) == 6


def test_vgg_has_the_parameters_of_the_literature() -> None:
    with torch.device("meta"):
        network = vgg((3, 32, 32), 10, layers=19)
    assert sum(parameter.numel() for parameter in network.parameters()) == 20_029_514
