"""The figure of representation quality."""

from __future__ import annotations

import pytest

import pullback as pb
from pullback.report.figures import quality_figure
from tests.cases import named
from tests.entries import measured

NAMES = ["diagonal", "quasidiagonal", "block", "kfac", "ekfac", "lowrank"]


@pytest.fixture(scope="module")
def found() -> dict[str, pb.Quality]:
    dense = measured(named("mlp"), "dense")
    return {name: pb.quality(dense, measured(named("mlp"), name)) for name in NAMES}


def test_bars_have_the_heights_of_the_measures(found: dict[str, pb.Quality]) -> None:
    errors, products = quality_figure(found).axes[:2]
    heights = [[bar.get_height() for bar in bars] for bars in errors.containers if len(bars) == 2]
    said = [[abs(q.trace), q.quadratic.value] for q in found.values()]
    assert [h for h in heights if h in said] == said
    assert [len(ax.get_xticks()) for ax in (errors, products)] == [2, 2]


def test_curves_go_through_the_solves(found: dict[str, pb.Quality]) -> None:
    cosines, residuals = quality_figure(found).axes[2:]
    for line, quality in zip(cosines.lines, found.values(), strict=False):
        assert list(line.get_ydata()) == [solve.cosine.value for solve in quality.solve]
        assert list(line.get_xdata()) == [solve.damping for solve in quality.solve]
    for line, quality in zip(residuals.lines, found.values(), strict=False):
        assert list(line.get_ydata()) == [solve.residual.value for solve in quality.solve]


def test_the_legend_names_every_representation(found: dict[str, pb.Quality]) -> None:
    (legend,) = quality_figure(found).legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["diagonal", "quasidiagonal", "block", "KFAC", "EKFAC", "lowrank"]


def test_one_representation_and_no_damping_are_enough() -> None:
    metric = measured(named("mlp"), "dense")
    assert len(quality_figure({"dense": pb.quality(metric, metric, dampings=[])}).axes) == 4


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(pb.InputError, match="found"):
        quality_figure({})
