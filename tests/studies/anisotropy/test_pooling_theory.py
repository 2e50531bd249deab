"""What pooling loses and slows down, at a tiny size, against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pullback.anisotropy import separable
from pullback.studies.anisotropy.pooling_theory import Pooling, Settings
from pullback.studies.parts import Descent

SMALL = Settings(
    size=16, factor=4, frequencies=(1, 3, 7), samples=300, sigma=0.7, places=(0, 2, 5, 9),
    weak=0.4, start=0.3, descent=Descent(epochs=8, batch=50, rate=0.4, momentum=0.0, falling=False),
    moments=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    done: list[int] = []
    (found,) = Pooling().measure(SMALL, 1, done.append)
    assert sum(done) == Pooling().steps(SMALL)
    return found


def pooled(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([[row[start : start + 4].mean() for start in range(0, 16, 4)] for row in x])


def accuracy(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Of Fisher's discriminant, by normal equations."""
    weights = np.linalg.solve(x[:300].T @ x[:300], x[:300].T @ y[:300])
    return float(np.mean(np.sign(x[300:] @ weights) == y[300:]))


def test_a_classifier_is_fitted_to_pooled_real_signals(found: dict[str, Any]) -> None:
    for place, frequency in enumerate(SMALL.frequencies):
        wave = torch.cos(2 * torch.pi * frequency * torch.arange(16) / 16)
        x, y = separable(wave, 600, 1.0, 0.7, (1 << 16) + frequency)
        expected = accuracy(pooled(x.double().numpy()), y.double().numpy())
        assert found["measured"]["real"][place] == pytest.approx(expected, abs=1.1 / 300)


def test_and_to_pooled_complex_ones(found: dict[str, Any]) -> None:
    for place, frequency in enumerate(SMALL.frequencies):
        generator = torch.Generator().manual_seed((1 << 16) + frequency)
        y = torch.randint(0, 2, (600,), generator=generator).double().numpy() * 2 - 1
        drawn = torch.randn(600, 16, generator=generator, dtype=torch.complex64)
        spectra = 0.7 * drawn.numpy().astype(complex)
        assert np.var(spectra) == pytest.approx(0.49, rel=0.05)
        spectra[:, frequency] = y
        angles = 2 * np.pi * np.outer(np.arange(16), np.arange(16)) / 16
        x = spectra @ np.exp(1j * angles) / 4
        both = np.concatenate([pooled(x.real), pooled(x.imag)], 1)
        expected = accuracy(both, y)
        assert found["measured"]["complex"][place] == pytest.approx(expected, abs=1.1 / 300)


def test_the_linear_model_descends_as_in_a_plain_loop(found: dict[str, Any]) -> None:
    taps = np.zeros(16)
    taps[:4] = 0.25
    response = np.abs(np.fft.fft(taps))
    for place, where in enumerate(SMALL.places):
        generator = torch.Generator().manual_seed(1)
        x = 0.4 * torch.randn(300, 16, generator=generator).double().numpy()
        y = torch.randint(0, 2, (300,), generator=generator).double().numpy() * 2 - 1
        x[:, where] += y
        torch.manual_seed(1)
        theta, phi = (0.3 * torch.randn(count).double().numpy() for count in (4, 16))
        generator, losses, count = torch.Generator().manual_seed(1), {}, 0
        for _ in range(8):
            for some in torch.randperm(300, generator=generator).split(50):
                wide = np.tile(theta, 4) / 2
                losses[count] = np.mean((x @ (wide * response * phi) - y) ** 2)
                rest = x[some] @ (wide * response * phi) - y[some]
                slope = 2 * (rest @ x[some]) / len(some) * response
                theta, phi = (
                    theta - 0.4 * (slope * phi / 2).reshape(4, 4).sum(0),
                    phi - 0.4 * slope * wide,
                )
                count += 1
        losses[count] = np.mean((x @ (np.tile(theta, 4) / 2 * response * phi) - y) ** 2)
        moments = found["moments"]
        assert moments[-1] == 48
        assert found["losses"][place] == pytest.approx([losses[one] for one in moments], abs=1e-4)
        best = 0.16 / 1.16
        soon = [one for one in moments if losses[one] <= best + 0.1 * (1 - best)]
        assert found["updates"][place] == (soon[0] if soon else None)
        seen = (x * response)[:, response > 1e-9]
        weights = np.linalg.solve(seen.T @ seen, seen.T @ y)
        assert found["optima"][place] == pytest.approx(np.mean((seen @ weights - y) ** 2), rel=1e-4)
        assert found["zeta"][place] == pytest.approx(response[where] ** 2 / 0.16, rel=1e-4)


def test_some_signals_are_learned_and_some_not_yet(found: dict[str, Any]) -> None:
    assert None in found["updates"] and any(found["updates"])


def test_closed_forms_stand_where_they_hold(found: dict[str, Any]) -> None:
    assert found["known"] == [1, 3, 5, 7]  # the aliases of 2, 4 and 6 are their own mirrors
    power = np.abs(np.fft.fft(np.repeat([0.25, 0], [4, 12]))) ** 2
    for place, one in enumerate(found["known"]):
        others = sum(power[(one + 4 * k) % 16] for k in (1, 2, 3))
        ratio = torch.tensor(np.sqrt(power[one] / others) / 0.7)
        for name, factor in (("real", 1), ("complex", 2**0.5), ("printed", 2**0.5)):
            expected = float(torch.special.ndtr(factor * ratio))
            assert found["formula"][name][place] == pytest.approx(expected, abs=1e-5)


KNOWN: dict[str, Any] = {
    "frequencies": [1, 5],
    "known": [1, 3, 5],
    "measured": {"real": [0.9, 0.6], "complex": [0.95, 0.7]},
    "formula": {
        "real": [0.91, 0, 0.56], "complex": [0.95, 0, 0.69], "printed": [0.93, 0, 0.66]
    },
    "error": 0.01,
    "places": [0, 4, 8],
    "zeta": [4.0, 1.0, 0.2],
    "best": 0.1,
    "optima": [0.099, 0.101, 0.102],
    "moments": [0, 1, 10],
    "losses": [[1.0, 0.1, 0.1], [1.0, 0.9, 0.1], [1.0, 0.9, 0.8]],
    "updates": [1, 10, None],
}  # fmt: skip


def test_statistics_of_known_numbers() -> None:
    assert Pooling().statistics(KNOWN) == {
        "complex-agrees": pytest.approx(0.01),
        "real-agrees": pytest.approx(0.04),
        "uneven": pytest.approx(0.3),
        "same-optimum": pytest.approx(0.02),
        "slower": pytest.approx(-1),
    }
    assert Pooling().statistics({**KNOWN, "updates": [None] * 3})["slower"] is None


def test_figures_and_table_come_from_the_results() -> None:
    first, second = Pooling().figures([KNOWN, KNOWN])
    assert "real signals from 0.900 to 0.600" in first.panels[0].alt
    assert "losses end between 0.1 and 0.8" in second.panels[0].alt
    assert "1 at 4, 10 at 1" in second.panels[1].alt and "0.2" not in second.panels[1].alt
    rows = {row.quantity: row.here for row in Pooling().table([KNOWN, KNOWN])}
    assert rows["real signals, largest distance from the formula as printed"] == "0.060"
    assert rows["complex signals, largest distance from the closed form"] == "0.010"
    assert rows["linear model, lowest and highest best loss"] == "0.0990, 0.1020"
    assert rows["linear model, updates until near the best, ζ = 0.2"] == "never, never"
