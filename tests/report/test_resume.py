"""An interrupted report leaves nothing half-written, and goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pullback import InputError
from pullback.report import Settings, make_report, stages, training
from tests.report.conftest import Finished
from tests.report.test_report import timeless

# The reports to compare with are made first, with their figures.
pytestmark = pytest.mark.usefixtures("images", "points", "undrawn")


@pytest.fixture
def settings(files: Path) -> Settings:
    """Those of the `points` report."""
    return Settings(
        data=f"{files}/data.py:make_points",
        model=f"{files}/model.py:make_wide",
        epochs=2,
        samples=12,
    )


def interrupting(function: Callable[..., Any], after: int) -> Callable[..., Any]:
    """The function, interrupted by Ctrl-C at a later call."""
    calls = 0

    def called(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return function(*arguments, **named)

    return called


def refused(*arguments: Any, **named: Any) -> Any:
    raise AssertionError("this part was finished already")


def finish(settings: Settings, out: Path) -> dict[str, Any]:
    make_report(settings, out, resume=True)
    numbers: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return numbers


@pytest.mark.parametrize("updates", [0, 1, 4])
def test_training_goes_on_and_ends_with_the_same_numbers(
    settings: Settings, points: Finished, tmp_path: Path, updates: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_update", interrupting(training._update, updates))
        with pytest.raises(KeyboardInterrupt):
            make_report(settings, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".work"]
    assert not list(tmp_path.rglob("*.partial"))
    resumed = finish(settings, tmp_path)
    resumed["notes"] = []
    assert timeless(resumed) == timeless(points.numbers)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_dropout_and_the_order_of_the_data_go_on_too(
    files: Path, images: Finished, tmp_path: Path
) -> None:
    same = Settings(model=f"{files}/model.py:make_model", epochs=1, batch_size=200, samples=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_update", interrupting(training._update, 5))
        with pytest.raises(KeyboardInterrupt):
            make_report(same, tmp_path)
    resumed = finish(same, tmp_path)
    assert resumed["series"][-1]["loss"] == images.numbers["series"][-1]["loss"]


def test_finished_parts_are_not_measured_again(
    settings: Settings, points: Finished, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "fisher_numbers", interrupting(stages.fisher_numbers, 1))
        with pytest.raises(KeyboardInterrupt):
            make_report(settings, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "kernel_numbers", refused)
        patch.setattr(stages.Recorder, "measure", refused)
        resumed = finish(settings, tmp_path)
    assert resumed["fishers"] == points.numbers["fishers"]
    assert any("interrupted" in note for note in resumed["notes"])


def test_other_choices_are_refused_with_their_names(settings: Settings, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "kernel_numbers", interrupting(stages.kernel_numbers, 0))
        with pytest.raises(KeyboardInterrupt):
            make_report(settings, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    changed = Settings(**{**settings.as_dict(), "learning_rate": 0.5})
    with pytest.raises(InputError, match=r"learning_rate 0\.01, now 0\.5"):
        make_report(changed, tmp_path, resume=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_without_resume_the_run_starts_again(
    settings: Settings, points: Finished, tmp_path: Path
) -> None:
    stale = tmp_path / ".work"
    stale.mkdir()
    (stale / "kernels.json").write_text('{"result": "stale", "cost": {}}')
    make_report(settings, tmp_path)
    numbers = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert numbers["kernels"] == points.numbers["kernels"]


def test_a_diverging_training_says_so_and_leaves_nothing(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    wild = Settings(
        data=f"{files}/data.py:make_points",
        model=f"{files}/model.py:make_wide",
        learning_rate=1e8,
        epochs=20,
        samples=12,
    )
    with pytest.raises(InputError, match="lower the learning rate"):
        make_report(wild, out)
    assert not out.exists()
