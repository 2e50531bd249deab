"""Claims are judged over seeds; studies resume, refuse other settings, and draw what is stored."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from pullback import InputError, cli
from pullback.report.figures import style
from pullback.report.figures.style import Figure
from pullback.studies import (
    Claim,
    Result,
    Row,
    Study,
    find,
    judged,
    register,
    registered,
    run_study,
    show_study,
    stored,
)
from pullback.studies import study as registry

ABOVE = Claim("up", "It goes up.", "end minus start", 0.5, above=True)
BELOW = replace(ABOVE, name="down", above=False)


class TestVerdict:
    @pytest.mark.parametrize(
        ("values", "above", "below"),
        [
            ([1.0, 1.1, 0.9, 1.0], "holds", "fails"),
            ([0.0, 0.1, -0.1, 0.0], "fails", "holds"),
            ([0.0, 1.0, 0.5], "open", "open"),
            ([9.0], "open", "open"),
            ([], "open", "open"),
        ],
    )
    def test_the_whole_interval_has_to_be_beyond(
        self, values: list[float], above: str, below: str
    ) -> None:
        assert judged(ABOVE, values).verdict == above
        assert judged(BELOW, values).verdict == below

    def test_the_interval_is_students(self) -> None:
        values = [0.3, 0.9, 1.4, 0.2, 0.8]
        found = judged(ABOVE, [*values, None])
        expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
        assert found.mean == pytest.approx(np.mean(values))
        assert (len(found.values), found.missing) == (5, 1)

    def test_the_interval_holds_the_truth_19_times_of_20(self) -> None:
        draws = np.random.default_rng(0).normal(0.7, 2.0, (2000, 5))
        inside = 0
        for values in draws:
            found = judged(ABOVE, values.tolist())
            assert found.low is not None
            assert found.high is not None
            inside += found.low <= 0.7 <= found.high
        assert 0.935 < inside / 2000 < 0.965

    def test_a_statistic_that_is_not_finite_is_refused(self) -> None:
        with pytest.raises(InputError, match="'up'"):
            judged(ABOVE, [1.0, float("nan")])


@dataclass(frozen=True)
class Settings:
    seeds: int = 4
    slope: float = 2.0


class Toy(Study):
    """A line with noise, two seeds a unit."""

    name = "toy"
    title = "A line goes up"
    source = "a toy, section 1"
    about = "Each seed is a line with noise."
    claims = (
        Claim("up", "The line goes up.", "its slope", 1.0, above=True),
        Claim("even", "The seed is even.", "1 if it is", 0.9, above=True),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(), "full": Settings(40), "paper": Settings(400),
    }  # fmt: skip

    def __init__(self) -> None:
        self.measured: list[int] = []
        self.stop_at = -1

    def units(self, settings: Settings) -> int:
        return settings.seeds // 2

    def steps(self, settings: Settings) -> int:
        return 2

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        if unit == self.stop_at:
            raise KeyboardInterrupt
        self.measured.append(unit)
        found = []
        for seed in (2 * unit, 2 * unit + 1):
            noise = float(np.random.default_rng(seed).normal(0, 0.1))
            found.append({"seed": seed, "slope": settings.slope + noise})
            advance(1)
        return found

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        return {"up": result["slope"], "even": 1.0 if result["seed"] % 2 == 0 else None}

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        with style.axes() as (canvas, ax):
            ax.plot([result["slope"] for result in results])
            panel = style.panel(canvas, "Slopes", f"Line of {len(results)} slopes over the seeds.")
        return [Figure("slopes", "Slopes", "The slope of each seed.", (panel,))]

    def table(self, results: Sequence[Result]) -> list[Row]:
        return [Row("slope of seed 0", f"{results[0]['slope']:.3f}", "2")]


KILLED = """
import os, signal, sys
from pullback.studies import register, run_study
from tests.studies.test_frame import Toy

class Dying(Toy):
    def measure(self, settings, unit, advance):
        if unit == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().measure(settings, unit, advance)

register(Dying())
run_study("toy", out=sys.argv[1])
"""


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    monkeypatch.setattr(registry, "_STUDIES", dict(registry._STUDIES))
    study = Toy()
    register(study)
    yield study


class TestRun:
    def test_an_interrupted_study_goes_on_and_ends_the_same(self, toy: Toy, tmp_path: Path) -> None:
        whole = run_study("toy", out=tmp_path / "whole")
        assert toy.measured == [0, 1]
        toy.measured, toy.stop_at = [], 1
        with pytest.raises(KeyboardInterrupt):
            run_study("toy", out=tmp_path / "cut")
        assert not (tmp_path / "cut" / "toy" / "quick" / "study.html").exists()
        with pytest.raises(InputError, match="1 of 2 units.*pullback study run toy --size quick"):
            show_study("toy", out=tmp_path / "cut")
        toy.stop_at = -1
        page = run_study("toy", out=tmp_path / "cut")
        assert toy.measured == [0, 1]  # unit 0 before the interruption, unit 1 after it
        assert stored("toy", out=tmp_path / "cut") == stored("toy", out=tmp_path / "whole")
        assert page.read_text() == whole.read_text()

    def test_a_killed_study_goes_on_and_ends_the_same(self, toy: Toy, tmp_path: Path) -> None:
        whole = run_study("toy", out=tmp_path / "whole")
        killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "cut")], check=False)
        assert killed.returncode == -signal.SIGKILL
        kept = tmp_path / "cut" / "toy" / "quick"
        assert sorted(path.name for path in kept.iterdir()) == ["settings.json", "unit-0.json"]
        toy.measured = []
        page = run_study("toy", out=tmp_path / "cut")
        assert toy.measured == [1]
        assert page.read_text() == whole.read_text()

    def test_a_finished_study_is_not_run_again(self, toy: Toy, tmp_path: Path) -> None:
        run_study("toy", out=tmp_path)
        run_study("toy", out=tmp_path)
        assert toy.measured == [0, 1]

    def test_the_page_says_what_was_found(self, toy: Toy, tmp_path: Path) -> None:
        html = run_study("toy", out=tmp_path).read_text()
        for text in (
            "A line goes up", "The line goes up.", "above 1", "2 of 4", "slope of seed 0",
            "2 claims of a toy, section 1, over 4 seeds: 2 hold.",
        ):  # fmt: skip
            assert text in html
        assert html.count("<img") == 1
        assert "http" not in html.split("base64,")[0]

    def test_results_of_other_settings_are_refused(
        self, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_study("toy", out=tmp_path)
        monkeypatch.setattr(toy, "sizes", {**toy.sizes, "quick": Settings(slope=3.0)})
        with pytest.raises(InputError, match="other settings.*'slope': 2.0.*'slope': 3.0"):
            run_study("toy", out=tmp_path)
        kept = json.loads((tmp_path / "toy" / "quick" / "unit-0.json").read_text())
        assert kept[0]["slope"] < 2.5

    @pytest.mark.parametrize(
        ("name", "size", "said"),
        [("no", "quick", "'no' is no study"), ("toy", "huge", "size: 'huge'")],
    )
    def test_what_there_is_not(
        self, toy: Toy, tmp_path: Path, name: str, size: str, said: str
    ) -> None:
        with pytest.raises(InputError, match=said):
            run_study(name, size, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_name_is_taken_once(self, toy: Toy) -> None:
        with pytest.raises(InputError, match="'toy' is registered"):
            register(toy)


class TestCommand:
    def test_list_run_and_show(self, toy: Toy, tmp_path: Path) -> None:
        runner = CliRunner()
        listed = runner.invoke(cli.app, ["study", "list"]).stdout
        for study in registered():
            assert f"    {study.name} " in listed
        topic = "Lazy against hasty training (George 2023, chapter 5)."
        assert listed.splitlines().count(topic) == 1
        told = runner.invoke(cli.app, ["study", "list", "toy"]).stdout
        assert toy.about in told
        assert "its slope; has to be above 1" in told
        unknown = runner.invoke(cli.app, ["study", "list", "tox"])
        assert unknown.exit_code == 2
        assert "'tox' is no study" in unknown.stderr
        words = ["toy", "--out", str(tmp_path)]
        ran = runner.invoke(cli.app, ["study", "run", *words])
        assert ran.exit_code == 0
        lines = ran.stdout.splitlines()
        assert lines[0].startswith("holds  The line goes up. (")
        assert lines[0].endswith("4 seeds)")
        assert lines[-1] == str(tmp_path / "toy" / "quick" / "study.html")
        toy.measured = []
        shown = runner.invoke(cli.app, ["study", "show", *words])
        assert shown.stdout == ran.stdout
        assert toy.measured == []

    def test_an_interruption_says_how_to_go_on(
        self, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        toy.stop_at = 0
        words = ["study", "run", "toy", "--out", str(tmp_path)]
        monkeypatch.setattr("sys.argv", ["pullback", *words])
        ended = CliRunner().invoke(cli.app, words)
        assert ended.exit_code == 130
        assert ended.stderr.splitlines()[-1] == f"Interrupted. To go on: pullback {' '.join(words)}"


@pytest.mark.parametrize("study", registered(), ids=lambda study: study.name)
class TestEveryStudy:
    """What holds for all members."""

    def test_it_has_all_sizes_and_says_what_it_claims(self, study: Study) -> None:
        assert find(study.name) is study
        assert set(study.sizes) == {"quick", "full", "paper"}
        assert study.claims
        assert len({claim.name for claim in study.claims}) == len(study.claims)
        for settings in study.sizes.values():
            assert study.units(settings) >= 1
            assert study.steps(settings) >= 1
        words: list[Any] = [study.title, study.source, study.about]
        assert all(len(one) > 15 for one in words)
