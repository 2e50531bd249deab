"""Runs at equal progress: the first crossing, between measurements, for losses and accuracies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pullback import InputError
from pullback.linear import equal_progress
from tests.checks import assert_agree


def test_values_lie_between_those_of_the_measurements_around_a_threshold() -> None:
    found = equal_progress(
        {"a": ([4.0, 2.0, 1.0], [[0.0, 10.0], [4.0, 20.0], [5.0, 30.0]])}, [3, 1.5]
    )
    assert found.thresholds.tolist() == [3, 1.5]
    assert found.values["a"].tolist() == [[2, 15], [4.5, 25]]


def test_a_progress_that_turns_back_counts_when_it_first_passes() -> None:
    found = equal_progress({"a": ([4.0, 2.0, 3.0, 1.0], [0.0, 4.0, 100.0, 6.0])}, [2.5, 1.5])
    assert found.values["a"].tolist() == [3.0, 100 + 0.75 * (6 - 100)]


def test_accuracies_rise() -> None:
    runs = {"a": ([0.1, 0.5, 0.9], [3.0, 2.0, 1.0]), "b": ([0.2, 0.6], [1.0, 0.0])}
    found = equal_progress(runs, [0.5, 0.3], rising=True)
    assert found.thresholds.tolist() == pytest.approx([0.3, 0.5])  # in the order of the progress
    assert found.difference("a", "b").tolist() == pytest.approx([2.5 - 0.75, 2.0 - 0.25])


@given(
    losses=st.lists(st.floats(0.01, 10), min_size=2, max_size=20, unique=True),
    scale=st.floats(0.1, 10),
)
def test_how_often_a_run_was_measured_does_not_matter(losses: list[float], scale: float) -> None:
    """A quantity that is a function of the loss alone is found wherever the loss was measured."""
    falling = torch.tensor(sorted(losses, reverse=True), dtype=torch.float64)
    fine = torch.cat([falling, (falling[1:] + falling[:-1]) / 2]).sort(descending=True)[0]
    found = equal_progress(
        {"coarse": (falling, scale * falling + 1), "fine": (fine, scale * fine + 1)}, 7
    )
    assert_agree(found.values["coarse"], found.values["fine"])
    assert_agree(found.difference("coarse", "fine"), torch.zeros(7, dtype=torch.float64))


def test_thresholds_by_number_cover_what_all_runs_pass() -> None:
    runs = {"a": ([5.0, 1.0], [0.0, 1.0]), "b": ([4.0, 2.0], [0.0, 1.0])}
    assert equal_progress(runs, 4).thresholds.tolist() == [3.5, 3.0, 2.5, 2.0]


class TestBadInput:
    def test_no_runs(self) -> None:
        with pytest.raises(InputError, match="runs"):
            equal_progress({})

    def test_another_length(self) -> None:
        with pytest.raises(InputError, match=r"runs\['a'\].*\(2,\).*\(3,\)"):
            equal_progress({"a": ([1.0, 0.5], [1.0, 2.0, 3.0])})

    def test_not_finite(self) -> None:
        with pytest.raises(InputError, match="NaN"):
            equal_progress({"a": ([1.0, float("nan")], [1.0, 2.0])})

    def test_a_threshold_that_is_not_reached(self) -> None:
        runs = {"a": ([5.0, 1.0], [0.0, 1.0]), "b": ([4.0, 2.0], [0.0, 1.0])}
        with pytest.raises(InputError, match="'b' does not pass 1.5; it goes from 4 to 2"):
            equal_progress(runs, [3.0, 1.5])

    def test_runs_that_do_not_overlap(self) -> None:
        with pytest.raises(InputError, match="overlap"):
            equal_progress({"a": ([5.0, 4.0], [0.0, 1.0]), "b": ([3.0, 2.0], [0.0, 1.0])})

    def test_a_run_that_there_is_not(self) -> None:
        with pytest.raises(InputError, match="run: 'c'"):
            equal_progress({"a": ([5.0, 4.0], [0.0, 1.0])}).difference("a", "c")
