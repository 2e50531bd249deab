"""Does a network learn features? Its tangent kernel turns towards the task, and predicts better.

A LeNet learns to tell the classes 0 to 4 of a data set from 5 to 9, or one class from another. At
several moments its tangent kernel on the training images is measured: how much of the labels lies
in its 50 leading eigenfunctions, how well it is aligned with them, its effective rank, and how well
ridge regression with this fixed kernel, on half of the labels, classifies test images.

What shows, before and after training, with seed 0 (the effective rank also at its lowest between):

                       digits           MNIST             CIFAR-10          planes and cars
    labels in 50       0.84    0.96     0.75     0.95     0.27      0.90    0.69      0.92
    alignment          0.09    0.49     0.08     0.63     0.008     0.34    0.09      0.54
    kernel accuracy    89 %    98 %     89 %     96 %     58 %      62 %    84 %      89 %
    effective rank     25 24 30         93 21 67          139 48 695        120 13 228

Labels, alignment and accuracy rise everywhere. The effective rank falls, by up to ten times, while
the network begins to learn, and rises again while it fits what single images have of their own: far
above its start where it memorises (CIFAR-10: all training images right, 63 % of the test images).

    python examples/feature_learning.py --data cifar10 --classes 0 1 --out results

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
from pullback.studies.parts import Descent, lenet, logistic, right, started, trained

SIZES = {"digits": (1000, 360, 40), "mnist": (2000, 1000, 50), "cifar10": (2000, 1000, 100)}
"""Training samples, test samples, epochs."""

BATCH = 64
LEADING = 50  # eigenfunctions
MOMENTS = (0, 1, 2, 5, 10, 20, 40, 100)  # epochs, up to the last
RIDGE = 0.1  # in units of the kernel's mean eigenvalue


def images(
    data: str, split: str, samples: int, pair: tuple[int, int] | None
) -> tuple[Tensor, Tensor]:
    """Images of two classes, or of all, and which half each belongs to: 1 or -1."""
    found = pb.data.load(data, split=split, samples=samples if pair is None else None)
    first = found.labels < 5 if pair is None else found.labels == pair[0]
    kept = first | (pair is None) | (found.labels == (pair or (0, 0))[1])
    return found.inputs[kept][:samples], torch.where(first[kept], 1.0, -1.0)[:samples]


def accuracy(outputs: Tensor, y: Tensor) -> float:
    return float(right(outputs.view(-1, 1), y).float().mean())


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


def run(data: str, pair: tuple[int, int] | None = None) -> tuple[list[int], dict[str, list[float]]]:
    """The moments, and what is measured at each of them, by its name."""
    samples, tested, epochs = SIZES[data]
    x, y = images(data, "train", samples, pair)
    new, wanted = images(data, "test", tested, pair)
    axes = (0, 2, 3)
    mean, deviation = x.mean(axes, keepdim=True), x.std(axes, keepdim=True)
    x, new = (x - mean) / deviation, (new - mean) / deviation
    model = started(lambda: lenet(x.shape[1:]), seed=0)
    descent = Descent(epochs, BATCH)  # with momentum, and a rate that falls from 0.05 to 0
    moments = sorted({*(epoch for epoch in MOMENTS if epoch < epochs), epochs})
    rows = []
    for update in trained(model, x, y, logistic, descent, seed=0):
        epoch, between = divmod(update, descent.per_epoch(len(x)))
        if epoch in moments and not between:
            rows.append(measure(model, x, y, new, wanted))
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
    parser.add_argument("--classes", type=int, nargs=2, help="two of the classes instead of all")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for figure and numbers")
    given = parser.parse_args()
    moments, found = run(given.data, tuple(given.classes) if given.classes else None)
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
