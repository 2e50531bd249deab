"""The command line: what it prints, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from pullback import InputError, cli
from pullback.report import Settings
from pullback.report.anisotropy import AnisotropySettings
from pullback.report.kernel import KernelSettings


@pytest.fixture(autouse=True)
def _threads_as_they_were() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run() -> CliRunner:
    return CliRunner()


def standing_in(monkeypatch: pytest.MonkeyPatch, answer: Path | BaseException) -> list[Any]:
    """Replace the work by its answer; the list fills with what was asked for."""
    asked: list[Any] = []

    def make_report(settings: Settings, out: Path, resume: bool, progress: bool) -> Path:
        asked.extend([settings, out, resume, progress])
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(cli, "make_report", make_report)
    return asked


COMMON = (
    "--data", "--model", "--checkpoint", "--no-train", "--epochs", "--seed", "--samples",
    "--out", "--threads", "--resume",
)  # fmt: skip


@pytest.mark.parametrize(
    ("command", "own"),
    [("report", ()), ("kernel", ("--outputs", "--functions", "--not-centred", "--gram"))],
)
def test_help_names_the_command_and_its_options(
    run: CliRunner, command: str, own: tuple[str, ...]
) -> None:
    assert command in run.invoke(cli.app, ["--help"]).output
    shown = run.invoke(cli.app, [command, "--help"], env={"COLUMNS": "200"}).output
    for option in (*COMMON, *own):
        assert option in shown


def test_the_path_of_the_page_is_the_last_line(
    run: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing_in(monkeypatch, Path("pullback-report/report.html"))
    result = run.invoke(cli.app, ["report"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "pullback-report/report.html"


def test_options_arrive(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = standing_in(monkeypatch, Path("x"))
    words = "report --data mnist --model m.py:f --checkpoint c.pt --no-train --epochs 3 --seed 5"
    run.invoke(cli.app, [*words.split(), "--samples", "40", "--out", "there", "--resume"])
    assert asked == [
        Settings(
            data="mnist",
            model="m.py:f",
            checkpoint=Path("c.pt"),
            train=False,
            epochs=3,
            seed=5,
            samples=40,
        ),
        Path("there"),
        True,
        True,
    ]


class TestNads:
    """The third command."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        asked: list[Any] = []

        def make(settings: AnisotropySettings, out: Path, resume: bool, progress: bool) -> Path:
            asked.extend([settings, out, resume, progress])
            return out / "nads.html"

        monkeypatch.setattr(cli, "make_anisotropy_report", make)
        return asked

    def test_help_names_its_options(self, run: CliRunner) -> None:
        assert "nads" in run.invoke(cli.app, ["--help"]).output
        shown = run.invoke(cli.app, ["nads", "--help"], env={"COLUMNS": "200"}).output
        for option in (
            "--model", "--width", "--shape", "--method", "--networks", "--step", "--at",
            "--samples", "--outputs", "--seed", "--out", "--threads", "--resume",
        ):  # fmt: skip
            assert option in shown

    def test_options_arrive(self, run: CliRunner, asked: list[Any]) -> None:
        words = (
            "nads --model m.py:f --shape 3x8x8 --method kernel --networks 3 --step 100 --at zero"
        )
        more = "--samples 64 --outputs 0,1 --seed 2 --width 0.5 --out there --resume"
        result = run.invoke(cli.app, [*words.split(), *more.split()])
        assert result.stdout.splitlines()[-1] == "there/nads.html"
        assert asked == [
            AnisotropySettings("m.py:f", "3x8x8", "kernel", 3, 100.0, "zero", 64, "0,1", 2, 0.5),
            Path("there"), True, True,
        ]  # fmt: skip

    def test_without_options_the_defaults_are_the_librarys(
        self, run: CliRunner, asked: list[Any]
    ) -> None:
        run.invoke(cli.app, ["nads"])
        assert asked == [AnisotropySettings(), Path("pullback-nads"), False, True]

    @pytest.mark.parametrize(
        "words", [["--outputs", "x"], ["--shape", "1x"], ["--model", "none"], ["--networks", "0"]]
    )
    def test_mistakes_end_with_two_and_one_line_and_write_nothing(
        self, run: CliRunner, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        result = run.invoke(cli.app, ["nads", *words])
        assert result.exit_code == 2
        assert [line for line in result.stderr.splitlines() if "Error: " in line] == [
            result.stderr.splitlines()[-1]
        ]
        assert list(tmp_path.iterdir()) == []


class TestKernel:
    """The second command."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        asked: list[Any] = []

        def make(settings: KernelSettings, out: Path, resume: bool, progress: bool) -> Path:
            asked.extend([settings, out, resume, progress])
            return out / "kernel.html"

        monkeypatch.setattr(cli, "make_kernel_report", make)
        return asked

    def test_options_arrive(self, run: CliRunner, asked: list[Any]) -> None:
        words = "kernel --model m.py:f --train --epochs 2 --samples 30 --outputs 3,1 --functions 4"
        result = run.invoke(cli.app, [*words.split(), "--not-centred", "--gram", "--out", "there"])
        assert result.stdout.splitlines()[-1] == "there/kernel.html"
        subject = Settings(model="m.py:f", train=True, epochs=2, samples=30)
        assert asked == [
            KernelSettings(subject, "3,1", 4, centred=False, gram=True), Path("there"), False, True,
        ]  # fmt: skip

    def test_without_options_the_defaults_are_the_librarys(
        self, run: CliRunner, asked: list[Any]
    ) -> None:
        run.invoke(cli.app, ["kernel"])
        assert asked == [KernelSettings(), Path("pullback-kernel"), False, True]

    @pytest.mark.parametrize(
        "words", [["--outputs", "x"], ["--functions", "0"], ["--samples", "1"]]
    )
    def test_mistakes_end_with_two_and_write_nothing(
        self, run: CliRunner, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert run.invoke(cli.app, ["kernel", *words]).exit_code == 2
        assert list(tmp_path.iterdir()) == []


def test_without_options_the_defaults_are_the_librarys(
    run: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = standing_in(monkeypatch, Path("x"))
    run.invoke(cli.app, ["report"])
    assert asked == [Settings(), Path("pullback-report"), False, True]


@pytest.mark.parametrize(
    ("words", "environment", "load", "expected"),
    [
        ([], {}, 0.2, 4),
        ([], {}, 2.6, 1),
        ([], {}, 99.0, 1),
        (["--threads", "2"], {}, 99.0, 2),
        ([], {"OMP_NUM_THREADS": "3"}, 0.2, None),
    ],
)
def test_threads_are_as_many_as_cores_are_idle_unless_someone_chose(
    run: CliRunner,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    environment: dict[str, str],
    load: float,
    expected: int | None,
) -> None:
    standing_in(monkeypatch, Path("x"))
    asked: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("psutil.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    run.invoke(cli.app, ["report", *words], env=environment)
    assert asked == ([] if expected is None else [expected])


def test_unusable_input_is_one_line_and_exit_code_two(
    run: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing_in(monkeypatch, InputError("data: [bold]\nis wrong; " + "choose another " * 20))
    result = run.invoke(cli.app, ["report"])
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: data: [bold] is wrong; choose another")


@pytest.mark.parametrize(
    "words", [["--epochs", "0"], ["--data", "digitz"], ["--model", "none.py:f"], ["--samples", "x"]]
)
def test_real_mistakes_end_with_two_and_write_nothing(
    run: CliRunner, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.invoke(cli.app, ["report", *words]).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_says_how_to_go_on(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    standing_in(monkeypatch, KeyboardInterrupt())
    monkeypatch.setattr("sys.argv", ["pullback", "report", "--out", "my report"])
    result = run.invoke(cli.app, ["report", "--out", "my report"])
    assert result.exit_code == 130
    assert "pullback report --out 'my report' --resume" in result.stderr
