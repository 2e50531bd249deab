"""Interrupted computations go on where they stopped, and lose nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from tests.checks import assert_agree

ROOT = Path(__file__).parents[2]
REPRESENTATIONS = (
    "dense",
    "lowrank",
    "block",
    "diagonal",
    "quasidiagonal",
    "kfac",
    "kfac-reduce",
    "kfac-nearest",
    "ekfac",
)
MEASURED = [
    (representation, estimator)
    for representation in REPRESENTATIONS
    for estimator in ("exact", "sampled", "empirical", "centred")
    # A product of factors minus a square is no product of factors.
    if estimator != "centred" or not representation.startswith("kfac")
]


def model(width: int = 3) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, width, 3), nn.GroupNorm(1, width), nn.Tanh(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4 * width, 3)).double()


def samples(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 1, 4, 4, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 3, (20,), generator=generator)


class Loader:
    """Batches of four; the passes counted by `breaks` end early, with Ctrl-C, after some batches.

    Args:
        breaks: pass number: batches that it gives.
    """

    def __init__(self, breaks: dict[int, int], seed: int = 1) -> None:
        self.breaks, self.seed, self.passes = breaks, seed, 0
        self.given = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = samples(self.seed)
        self.passes += 1
        most = self.breaks.get(self.passes, 5)
        for place in range(5):
            if place == most:
                raise KeyboardInterrupt
            some = slice(4 * place, 4 * place + 4)
            self.given += 1
            yield x[some], y[some]


def measured(data: object, folder: Path | None, representation: str, estimator: str) -> pb.Metric:
    # Memory for one sample at a time, so that every batch is added when it comes.
    return pb.fisher(
        model(), data, "categorical", representation, estimator, memory=1, checkpoint=folder
    )


@pytest.mark.parametrize(("representation", "estimator"), MEASURED)
def test_a_resumed_computation_gives_what_an_unbroken_one_does(
    representation: str, estimator: str, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    # Pass 1 looks at the first batch alone; what the second gives is interrupted.
    with pytest.raises(KeyboardInterrupt):
        measured(Loader({2: 3}), folder, representation, estimator)
    seen = torch.load(folder / "metric.pt", weights_only=True)["samples"]
    assert seen == 12
    found = measured(Loader({}), folder, representation, estimator)
    expected = measured(Loader({}), None, representation, estimator)
    assert_agree(found.to_dense(), expected.to_dense())
    assert not folder.exists()


def test_the_second_pass_is_resumed_without_the_first(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(Loader({3: 2}), tmp_path, "ekfac", "exact")
    names = {path.name: torch.load(path, weights_only=True) for path in tmp_path.iterdir()}
    assert {name: kept["samples"] for name, kept in names.items()} == {
        "metric.pt": 20,
        "EKFAC scales.pt": 8,
    }
    found = measured(Loader({}), tmp_path, "ekfac", "exact")
    assert_agree(found.to_dense(), measured(Loader({}), None, "ekfac", "exact").to_dense())


def test_another_batch_size_may_go_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(Loader({2: 3}), tmp_path, "kfac", "sampled")
    found = measured(samples(), tmp_path, "kfac", "sampled")
    assert_agree(found.to_dense(), measured(samples(), None, "kfac", "sampled").to_dense())


def test_blocks_over_layers_are_resumed(tmp_path: Path) -> None:
    def joined(data: object, pattern: str, folder: Path | None = tmp_path) -> pb.Metric:
        groups = {"joined": pattern}
        return pb.fisher(
            model(), data, representation="block", memory=1, checkpoint=folder, groups=groups
        )

    with pytest.raises(KeyboardInterrupt):
        joined(Loader({2: 3}), "*weight")
    with pytest.raises(pb.InputError, match="another representation"):
        joined(Loader({}), "*bias")
    found, expected = joined(Loader({}), "*weight"), joined(samples(), "*weight", None)
    assert "joined" in found.blocks
    assert_agree(found.to_dense(), expected.to_dense())


class TestRefused:
    @pytest.fixture
    def kept(self, tmp_path: Path) -> Path:
        with pytest.raises(KeyboardInterrupt):
            measured(Loader({2: 3}), tmp_path, "kfac", "exact")
        return tmp_path

    def test_other_data(self, kept: Path) -> None:
        with pytest.raises(pb.InputError, match="data: its first 12 samples"):
            measured(Loader({}, seed=2), kept, "kfac", "exact")

    def test_another_representation(self, kept: Path) -> None:
        with pytest.raises(pb.InputError, match="another representation"):
            measured(Loader({}), kept, "diagonal", "exact")

    def test_another_estimator(self, kept: Path) -> None:
        with pytest.raises(pb.InputError, match="another estimator"):
            measured(Loader({}), kept, "kfac", "empirical")

    def test_another_model(self, kept: Path) -> None:
        with pytest.raises(pb.InputError, match="another model"):
            pb.fisher(model(4), Loader({}), representation="kfac", checkpoint=kept)

    def test_other_weights(self, kept: Path) -> None:
        other = model()
        with torch.no_grad():
            other[0].weight[0, 0, 0, 0] += 1.0  # type: ignore[index, union-attr, operator]
        with pytest.raises(pb.InputError, match="another parameters"):
            pb.fisher(other, Loader({}), "categorical", "kfac", "exact", checkpoint=kept)

    def test_a_file_that_is_no_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "metric.pt").write_text("nothing")
        with pytest.raises(pb.InputError, match="cannot read"):
            measured(Loader({}), tmp_path, "kfac", "exact")

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(pb.InputError, match="checkpoint"):
            measured(Loader({}), tmp_path / "file", "kfac", "exact")

    def test_implicit_keeps_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(pb.InputError, match="checkpoint"):
            measured(Loader({}), tmp_path, "implicit", "exact")


PROGRAM = """
import signal, sys, time
import pullback as pb
from tests.metrics.test_checkpoint import model, samples

# A process that was started in the background ignores it, and so do all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Data:
    def __iter__(self):
        x, y = samples()
        for place in range(20):
            print(place, flush=True)
            if place == int(sys.argv[2]):
                time.sleep(600)
            yield x[place : place + 1], y[place : place + 1]

found = pb.fisher(model(), Data(), representation="ekfac", memory=1, checkpoint=sys.argv[1])
print(found.trace())
"""


def test_a_real_interrupt_of_a_real_process(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    with subprocess.Popen([*command, "5"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as begun:
        assert begun.stdout is not None
        while begun.stdout.readline() not in ("5\n", ""):
            pass
        begun.send_signal(signal.SIGINT)  # while it waits for the sixth sample
    assert begun.returncode != 0
    assert torch.load(folder / "metric.pt", weights_only=True)["samples"] == 5
    again = subprocess.run(
        [*command, "-1"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    expected = pb.fisher(model(), samples(), representation="ekfac").trace()
    assert abs(float(again.stdout.split()[-1]) / expected - 1) < 1e-12
