"""A ResNet-50 of the usual shape, 25.6 million parameters: what has to fit fits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with batch norm, around them a residual connection."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.short = nn.Sequential()
        if stride != 1 or before != after:
            self.short = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.short(x)).relu_()


def resnet50(classes: int = 1000) -> nn.Module:
    """The usual network: stages of 3, 4, 6 and 3 blocks."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    before = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(Bottleneck(before, width, stride))
            before = 4 * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)]
    return nn.Sequential(*layers).eval()


SETUP = """
import resource
import torch
import pullback as pb
from tests.test_scale import resnet50

torch.set_num_threads(2)
model = resnet50()
x = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
options = dict(estimator="sampled", seed=0, progress=False)
"""
PEAK = """
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


PROGRAM = """
implicit = pb.fisher(model, x, representation="implicit", **options)
v = implicit.space.randn(seed=1)
product, trace = implicit @ v, implicit.trace()
quadratic = float(v @ product)
kfac = pb.fisher(model, x, representation="kfac", **options)
print(implicit.space.size, quadratic, float(trace), kfac.trace(), float(v @ kfac @ v))
"""


EKFAC_PROGRAM = """
ekfac = pb.fisher(model, x, representation="ekfac", **options)
diagonal = pb.fisher(model, x, representation="diagonal", **options)
v = ekfac.space.randn(seed=1)
solution = ekfac.solve(v, damping=1e-2)
error = float(torch.linalg.vector_norm((ekfac @ solution + 1e-2 * solution - v).flat))
print(error / float(torch.linalg.vector_norm(v.flat)), ekfac.trace(), diagonal.trace())
"""


def run(program: str) -> tuple[list[float], float]:
    """The numbers that a program prints, and its peak memory in GiB."""
    root = Path(__file__).parents[1]
    paths = os.pathsep.join(map(str, (root / "src", root)))  # this tree, wherever it was installed
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", SETUP + program + PEAK],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    numbers, peak = done.stdout.splitlines()
    return list(map(float, numbers.split())), float(peak)


def test_kfac_product_and_trace_of_25_million_parameters_take_less_than_6_gigabytes() -> None:
    numbers, peak = run(PROGRAM)
    size, quadratic, trace, kfac_trace, kfac_quadratic = numbers
    assert size == 25_557_032  # the well-known number
    assert quadratic > 0 and trace > 0 and kfac_trace > 0 and kfac_quadratic > 0
    # E[v^T F v] = tr F for v of independent standard normal entries.
    assert 0.2 < quadratic / trace < 5
    assert peak < 6  # GiB


def test_ekfac_of_25_million_parameters_takes_less_than_8_gigabytes() -> None:
    (error, trace, true_trace), peak = run(EKFAC_PROGRAM)
    assert error < 1e-3  # of the damped system, solved in float32
    # The scales are second moments of the same draws in another basis: the same trace.
    assert abs(trace / true_trace - 1) < 1e-3
    assert peak < 8  # GiB
