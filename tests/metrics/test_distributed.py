"""One process and two give the same metric: real processes under torchrun, with gloo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from tests.checks import assert_agree

MEASURED = [
    (representation, estimator)
    for representation in (
        "dense",
        "block",
        "diagonal",
        "quasidiagonal",
        "kfac",
        "ekfac",
        "lowrank",
    )
    for estimator in ("exact", "sampled", "empirical", "sketched", "centred")
    if (representation, estimator) != ("kfac", "centred")
]
JOINED = {"front": ["0.*", "1.weight"]}
ROOT = Path(__file__).parents[2]


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
    return nn.Sequential(*layers).double()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(10, 1, 4, 4, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 3, (10,), generator=generator)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Tensor, int]]]:
    """What each of two processes got."""
    folder = tmp_path_factory.mktemp("shards")
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         "-m", "tests.metrics.shards", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return torch.load(folder / "found.pt")


@pytest.mark.parametrize(("representation", "estimator"), MEASURED)
def test_two_processes_give_what_one_does(
    found: list[dict[str, tuple[Tensor, int]]], representation: str, estimator: str
) -> None:
    alone = pb.fisher(model(), data(), "categorical", representation, estimator).to_dense()
    for matrix, samples in (process[f"{representation} {estimator}"] for process in found):
        assert_agree(matrix, alone)
        assert samples == 10


def test_blocks_over_layers_are_the_same_too(found: list[dict[str, tuple[Tensor, int]]]) -> None:
    alone = pb.fisher(model(), data(), representation="block", groups=JOINED).to_dense()
    for process in found:
        assert_agree(process["joined"][0], alone)
