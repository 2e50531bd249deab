"""Figures of sweeps have the numbers of the sweep at the right places."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure as Canvas

from pullback import InputError
from pullback.anisotropy import Recipe, Sweep, directions, fourier_basis, models, sweep
from pullback.report.anisotropy import frequency_panel, sweep_figures

SHAPE = (1, 6, 6)
RECIPE = Recipe(samples=40, tests=20, sigma=2.0, epochs=3, batch=20)


def linear() -> torch.nn.Module:
    return models.logistic_regression(SHAPE)


def swept(vectors: torch.Tensor, places: list[int] | None, seeds: int = 2) -> Sweep:
    return sweep(linear, vectors, SHAPE, places, seeds, RECIPE)


def image(canvas: Canvas) -> np.ndarray:
    return np.asarray(canvas.axes[0].images[0].get_array().filled(np.nan))


def test_a_map_of_all_frequencies_is_that_of_the_sweep() -> None:
    basis = fourier_basis((6, 6))
    found = swept(basis.vectors, None, 1)
    drawn = sweep_figures(found, basis)
    assert list(drawn) == ["map", "imaginary map", "losses"]
    for name, imaginary in (("map", False), ("imaginary map", True)):
        expected = found.map(basis, imaginary=imaginary).numpy()
        np.testing.assert_array_equal(image(drawn[name]), expected)
    ticks = [label.get_text() for label in drawn["map"].axes[0].get_xticklabels()]
    assert ticks == ["-3", "-2", "-1", "0", "1", "2"]


def test_empty_rows_and_columns_are_left_out() -> None:
    basis = fourier_basis((6, 6))
    axis = (-2, 0, 2)
    places = sorted({basis.place((row, column)) for row in axis for column in axis})
    found = swept(basis.vectors, places)
    drawn = sweep_figures(found, basis)
    assert list(drawn) == ["map", "losses"]
    chosen = torch.tensor(axis) + 3
    np.testing.assert_array_equal(image(drawn["map"]), found.map(basis)[chosen][:, chosen].numpy())
    ax = drawn["map"].axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["-2", "0", "2"]


def test_signals_have_a_line() -> None:
    basis = fourier_basis((6,))
    make = lambda: models.logistic_regression((6,))  # noqa: E731
    found = sweep(make, basis.vectors, (6,), recipe=RECIPE)
    drawn = sweep_figures(found, basis)
    (line,) = drawn["map"].axes[0].lines
    np.testing.assert_array_equal(line.get_xdata(), range(-3, 3))
    np.testing.assert_array_equal(line.get_ydata(), found.map(basis).numpy())


def test_accuracies_stand_beside_the_spectrum() -> None:
    own = directions(linear, SHAPE, networks=100)
    vectors = own.vectors.float()
    found = swept(vectors, [20, 0, 4])
    drawn = sweep_figures(found, directions=own)
    assert list(drawn) == ["accuracy", "losses"]
    test, train, spectrum = drawn["accuracy"].axes[0].lines
    np.testing.assert_array_equal(test.get_xdata(), [1, 5, 21])
    order = [1, 2, 0]
    np.testing.assert_allclose(test.get_ydata(), found.test.mean(1)[order])
    np.testing.assert_allclose(train.get_ydata(), found.train.mean(1)[order])
    np.testing.assert_allclose(spectrum.get_ydata(), own.spectrum[[0, 4, 20]] / own.spectrum[0])
    curves = drawn["losses"].axes[0].lines
    assert [line.get_label() for line in curves] == ["direction 1", "direction 5", "direction 21"]
    np.testing.assert_allclose(curves[2].get_ydata(), found.curves[0].mean(0))


def test_other_directions_are_refused() -> None:
    found = swept(fourier_basis((6, 6)).vectors, [0])
    with pytest.raises(InputError, match="directions: their vectors"):
        sweep_figures(found, directions=directions(linear, SHAPE, networks=40))
    with pytest.raises(InputError, match="basis: its vectors"):
        sweep_figures(found, fourier_basis((36,)))
    with pytest.raises(InputError, match="basis, directions: give one"):
        sweep_figures(found, fourier_basis((6, 6)), directions(linear, SHAPE, networks=40))


def test_a_panel_says_what_it_shows() -> None:
    panel = frequency_panel("The network", [[0.5, 0.9], [float("nan"), 0.75]], ((-2, 0), (-2, 0)))
    assert panel.alt == "Map of accuracies over 3 frequencies, from 0.5 to 0.9."
