"""Steps that are even on a logarithmic axis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullback.probes import log_spaced
from tests.checks import REFUSED


@given(total=st.integers(0, 10**6), points=st.integers(2, 60))
def test_the_steps_rise_from_the_first_to_the_last(total: int, points: int) -> None:
    steps = log_spaced(total, points)
    assert list(steps) == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, total)
    assert len(steps) <= points


def test_the_spacing_is_even_in_the_logarithm() -> None:
    assert log_spaced(10**6, points=8) == (0, 1, 10, 100, 1000, 10**4, 10**5, 10**6)


@pytest.mark.parametrize(("total", "points"), [(-1, 5), (10, 1)])
def test_impossible_wishes_are_refused(total: int, points: int) -> None:
    with pytest.raises(REFUSED):
        log_spaced(total, points)
