"""Does the tangent kernel turn towards the task while a network learns it?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pullback import data as datasets
from pullback.data.tasks import two_halves
from pullback.kernels.mercer import eigenfunctions
from pullback.kernels.regression import kernel_regression
from pullback.kernels.tangent import tangent_kernel
from pullback.kernels.targets import energy_concentration
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.studies.claims import Claim
from pullback.studies.study import Result, Row, Study, register

LEADING = 50  # eigenfunctions
QUANTITIES = {
    "concentration": "Labels' length in 50 eigenfunctions",
    "alignment": "Centred alignment with the labels",
    "effective rank": "Effective rank",
    "kernel": "Test accuracy of regression with the kernel",
    "network": "Test accuracy of the network",
}
Batch = tuple[Tensor, Tensor]
"""Images (n, c, h, w) and labels (n,) of 1 and -1."""


@dataclass(frozen=True)
class Settings:
    """Which images, and how long they are learned.

    Attributes:
        seeds: networks, each with images of its own.
        data: the name of an image set, of an even number of classes.
        train: training images, on which the kernel is taken.
        test: test images.
        epochs: of gradient descent with momentum 0.9 and a rate that falls linearly to 0.
        batch: images an update.
        rate: the learning rate at the start.
        ridge: of the regression on half of the labels, in mean eigenvalues.
        moments: epochs after which the kernel is measured; the last one always is.
    """

    seeds: int = 3
    data: str = "mnist"
    train: int = 1000
    test: int = 1000
    epochs: int = 40
    batch: int = 64
    rate: float = 0.05
    ridge: float = 0.1
    moments: tuple[int, ...] = (0, 1, 2, 4, 8, 16)


class Features(Study):
    """Ortiz-Jimenez et al. 2021, figure 6 and table 1; George 2023, sections 6.3.2 and 6.3.3."""

    name = "features"
    title = "How the tangent kernel of a LeNet turns towards its task"
    source = "Ortiz-Jimenez et al. 2021, table 1; George 2023, section 6.3"
    about = (
        "A LeNet with one output learns to tell the first half of the classes from the second. Its "
        "tangent kernel on the training images is measured on the way, and what ridge regression "
        "with it, on half of the labels, makes of test images. The documents have 12,000 images of "
        "CIFAR-10 and 200 epochs, and deeper networks."
    )
    claims = (
        Claim(
            "concentration-rises",
            "More of the labels lies in the 50 leading eigenfunctions after training.",
            "ratio of lengths, end minus start",
            0.0,
            above=True,
        ),
        Claim(
            "alignment-rises",
            "The kernel is better aligned with the labels after training.",
            "centred alignment, end minus start",
            0.0,
            above=True,
        ),
        Claim(
            "kernel-improves",
            "Regression with the trained kernel is better than with the initial one.",
            "test accuracy, end minus start",
            0.0,
            above=True,
        ),
        Claim(
            "rank-dips",
            "The effective rank of the kernel falls while the network learns.",
            "its minimum over its start",
            1.0,
            above=False,
        ),
        Claim(
            "rank-falls",
            "It is still lower at the end.",
            "its end over its start",
            1.0,
            above=False,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=5, data="cifar10", train=5000, test=5000, epochs=100,
            moments=(0, 1, 2, 5, 10, 20, 50),
        ),
        "paper": Settings(
            seeds=1, data="cifar10", train=12_000, test=10_000, epochs=200, batch=128,
            moments=(0, 1, 5, 20, 50, 100),
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return settings.epochs + len(_moments(settings))

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        train, test = _images(settings, "train", unit), _images(settings, "test", unit)
        with torch.random.fork_rng():
            torch.manual_seed(unit)
            model = _lenet(train[0].shape[1], train[0].shape[-1])
        moments, measured = _moments(settings), []
        for epoch in _trained(settings, model, train, unit, advance):
            if epoch in moments:
                measured.append(_measured(settings, model, train, test))
                advance(1)
        values = {name: [one[name] for one in measured] for name in QUANTITIES}
        return [{"seed": unit, "epochs": list(moments), **values}]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        def change(name: str) -> float:
            return float(result[name][-1] - result[name][0])

        ranks = result["effective rank"]
        return {
            "concentration-rises": change("concentration"),
            "alignment-rises": change("alignment"),
            "kernel-improves": change("kernel"),
            "rank-dips": min(ranks) / ranks[0],
            "rank-falls": ranks[-1] / ranks[0],
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        return [
            Figure(
                "training",
                "The kernel along training",
                "Means over seeds, with their spread. The kernel is that of the training images; "
                "its regression sees half of their labels.",
                tuple(_panel(results, name, title) for name, title in QUANTITIES.items()),
            )
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        document = {
            "concentration": "25.8 % to 83.0 % (LeNet, CIFAR-10 in two halves)",
            "effective rank": "to less than a tenth (VGG19, ten classes)",
        }
        rows = []
        for name, title in QUANTITIES.items():
            means = np.array([result[name] for result in results]).mean(0)
            here = f"{means[0]:.3g} to {means[-1]:.3g}"
            rows.append(Row(f"{title}, start to end", here, document.get(name, "rises")))
        return rows


def _moments(settings: Settings) -> tuple[int, ...]:
    return (*(epoch for epoch in settings.moments if epoch < settings.epochs), settings.epochs)


def _images(settings: Settings, split: str, seed: int) -> Batch:
    images = datasets.load(settings.data, split)
    count = settings.train if split == "train" else settings.test
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=generator)[:count]
    return images.inputs[chosen], two_halves(images.labels[chosen], len(images.classes))


def _lenet(channels: int, side: int) -> nn.Module:
    """With padding and average pooling, as in the published code."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(16 * (side // 4) ** 2, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 1),
    )  # fmt: skip


def _trained(
    settings: Settings, model: nn.Module, train: Batch, seed: int, advance: Callable[[int], None]
) -> Iterator[int]:
    """Train the model in place; yields the number of finished epochs, from 0 on."""
    x, y = train
    optimiser = torch.optim.SGD(model.parameters(), lr=settings.rate, momentum=0.9)
    updates = settings.epochs * -(-settings.train // settings.batch)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0, total_iters=updates)
    generator = torch.Generator().manual_seed(seed)
    yield 0
    for epoch in range(1, settings.epochs + 1):
        for some in torch.randperm(len(x), generator=generator).split(settings.batch):
            optimiser.zero_grad()
            F.softplus(-y[some] * model(x[some])[:, 0]).mean().backward()
            optimiser.step()
            falling.step()
        advance(1)
        yield epoch


def _measured(settings: Settings, single: nn.Module, train: Batch, test: Batch) -> dict[str, float]:
    # The 50th eigenvalue may be a millionth of the first, the rounding of single precision.
    model = copy.deepcopy(single).double()
    (x, y), (new, wanted) = ([one.double() for one in batch] for batch in (train, test))
    kernel = tangent_kernel(model, x, outputs=0, progress=False)
    leading = eigenfunctions(kernel, LEADING)
    half = len(x) // 2
    own = tangent_kernel(model, x[:half], outputs=0, progress=False)
    fit = kernel_regression(own, y[:half], settings.ridge * own.trace() / half)
    predicted = fit.predict(tangent_kernel(model, new, x[:half], outputs=0, progress=False))
    with torch.no_grad():
        outputs = model(new)[:, 0]
    return {
        "concentration": float(energy_concentration(leading, y).ratio),
        "alignment": kernel.alignment(y),
        "effective rank": kernel.centred().effective_rank(),
        "kernel": float((predicted.sign() == wanted).double().mean()),
        "network": float((outputs.sign() == wanted).double().mean()),
    }


def _panel(results: Sequence[Result], name: str, title: str) -> Panel:
    epochs = results[0]["epochs"]
    curves = np.array([result[name] for result in results])
    mean, spread = curves.mean(0), curves.std(0)
    with style.axes() as (canvas, ax):
        ax.plot(epochs, mean, "o-", color=style.AFTER)
        ax.fill_between(
            epochs, mean - spread, mean + spread, color=style.AFTER, alpha=0.18, linewidth=0
        )
        ax.set_xscale("symlog", linthresh=1, linscale=0.5)
        ax.set_xticks(epochs, [str(epoch) for epoch in epochs])
        ax.set_xlabel("epochs (logarithmic)")
        alt = f"Line chart over epochs, from {mean[0]:.3g} to {mean[-1]:.3g}."
        return style.panel(canvas, title, alt)


register(Features())
