"""`python -m benchmarks.store`: a 20,000 x 20,000 kernel of a small network, on disk.

Prints what `kernel_cost` says before, then the seconds and the peak memory of the process while the
store is written, and while its largest eigenvalues are found. LeNet on 28x28 noise, one output.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time

import torch
from torch import nn

import pullback as pb


def lenet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000, help="default 20,000")
    parser.add_argument("--threads", type=int, default=1, help="default 1")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    x = torch.randn(given.samples, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    model = lenet()
    print(f"before: {pb.kernel_cost(model, x, outputs=0)}")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        kernel = pb.tangent_kernel(model, x, outputs=0, store=folder)
        print(f"written: {time.perf_counter() - start:.1f} s, peak {peak_mb():.0f} MB")
        start = time.perf_counter()
        values, _ = kernel.eigh(5)
        seconds = time.perf_counter() - start
        print(f"five eigenpairs: {seconds:.1f} s, peak {peak_mb():.0f} MB, from {values[0]:.3g}")


if __name__ == "__main__":
    main()
