"""Does a network learn features? Its tangent kernel turns towards the task, and predicts better.

A LeNet learns to tell the classes 0 to 4 of a data set from 5 to 9. At several moments its tangent
kernel on the training images is measured: how much of the labels lies in its 50 leading
eigenfunctions, how well it is aligned with them, its effective rank, and how well ridge regression
with this fixed kernel, on half of the labels, classifies test images.

RESULTS

    python examples/feature_learning.py --data cifar10 --out results

Source: Ortiz-Jimenez et al. 2021, section 4.2, table 1 and appendix A (network and training);
George 2023, chapter 6.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import pullback as pb

SIZES = {"digits": (1000, 360, 40), "mnist": (2000, 1000, 50), "cifar10": (2000, 1000, 100)}
"""Training samples, test samples, epochs."""

BATCH = 64
LEADING = 50  # eigenfunctions
MOMENTS = (0, 1, 2, 5, 10, 20, 40, 100)  # epochs, up to the last
RIDGE = 0.1  # in units of the kernel's mean eigenvalue


def network(shape: tuple[int, ...]) -> nn.Module:
    """The LeNet of the source, with padding and average pooling, and a single output."""
    channels, side, _ = shape
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(16 * (side // 4) ** 2, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 1),
    )  # fmt: skip


def images(data: str, split: str, samples: int) -> tuple[Tensor, Tensor]:
    """Images, and whether the class of each is below 5: 1 or -1."""
    found = pb.data.load(data, split=split, samples=samples)
    return found.inputs, torch.where(found.labels < 5, 1.0, -1.0)


def accuracy(outputs: Tensor, y: Tensor) -> float:
    return float((outputs.flatten().sign() == y).float().mean())


def measure(model: nn.Module, x: Tensor, y: Tensor, new: Tensor, wanted: Tensor) -> list[float]:
    """Concentration, alignment, effective rank, accuracies of the kernel and of the network."""
    kernel = pb.tangent_kernel(model, x, outputs=0)
    leading = pb.kernels.eigenfunctions(kernel, k=LEADING)
    labelled = len(x) // 2
    some, theirs = x[:labelled], y[:labelled]
    own = pb.tangent_kernel(model, some, outputs=0)
    fit = pb.kernels.kernel_regression(own, theirs, RIDGE * own.trace() / labelled)
    predicted = fit.predict(pb.tangent_kernel(model, new, some, outputs=0))
    return [
        float(pb.kernels.energy_concentration(leading, y).ratio),
        kernel.alignment(y),
        kernel.centred().effective_rank(),
        accuracy(predicted, wanted),
        accuracy(model(new).detach(), wanted),
    ]


NAMES = ("concentration", "alignment", "effective rank", "kernel accuracy", "network accuracy")


def run(data: str) -> tuple[list[int], dict[str, list[float]]]:
    """The moments, and what is measured at each of them, by its name."""
    samples, tested, epochs = SIZES[data]
    (x, y), (new, wanted) = images(data, "train", samples), images(data, "test", tested)
    axes = (0, 2, 3)
    mean, deviation = x.mean(axes, keepdim=True), x.std(axes, keepdim=True)
    x, new = (x - mean) / deviation, (new - mean) / deviation
    model, generator = network(tuple(x.shape[1:])), torch.Generator().manual_seed(0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    steps = epochs * len(x.split(BATCH))
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 1e-3, total_iters=steps)
    moments = sorted({*(epoch for epoch in MOMENTS if epoch < epochs), epochs})
    rows = []
    for epoch in range(epochs + 1):
        if epoch in moments:
            rows.append(measure(model, x, y, new, wanted))
        for some in torch.randperm(samples, generator=generator).split(BATCH):
            optimiser.zero_grad()
            nn.functional.soft_margin_loss(model(x[some])[:, 0], y[some]).backward()
            optimiser.step()
            decay.step()
    return moments, dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True))


def draw(moments: list[int], found: dict[str, list[float]], path: Path) -> None:
    """What changes while the network learns."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, names in zip(panels, (NAMES[:2], NAMES[2:3], NAMES[3:]), strict=True):
        for name in names:
            axes.plot(moments, found[name], "o-", markersize=3, label=name)
        axes.set(xlabel="epoch", xscale="symlog")
        axes.set_xticks(moments, [str(epoch) for epoch in moments])
        axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="The tangent kernel while a network learns.")
    parser.add_argument("--data", choices=SIZES, default="digits")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for figure and numbers")
    given = parser.parse_args()
    moments, found = run(given.data)
    print(f"{'epoch':<6}" + "".join(f"{name:>18}" for name in NAMES))
    for place, epoch in enumerate(moments):
        print(f"{epoch:<6}" + "".join(f"{found[name][place]:>18.3f}" for name in NAMES))
    numbers = {
        f"{name} {epoch}": found[name][place]
        for name in NAMES
        for place, epoch in enumerate(moments)
    }
    (given.out / "feature_learning.json").write_text(json.dumps(numbers, indent=1))
    draw(moments, found, given.out / "feature_learning.png")


if __name__ == "__main__":
    main()
