"""Does the tangent kernel turn towards the task while a network learns it?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pullback.data.tasks import two_halves
from pullback.kernels.dense import TangentKernel
from pullback.kernels.mercer import eigenfunctions
from pullback.kernels.regression import kernel_regression
from pullback.kernels.tangent import tangent_kernel
from pullback.kernels.targets import energy_concentration
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.studies.claims import Claim
from pullback.studies.parts import (
    NETWORKS,
    Curve,
    Descent,
    curves_panel,
    drawn,
    logistic,
    right,
    started,
    trained,
)
from pullback.studies.study import Result, Row, Study, register

LEADING = 50  # eigenfunctions
LOOKS = {
    "mlp": ("perceptron", style.BEFORE, "^-"),
    "lenet": ("LeNet", style.AFTER, "o-"),
    "resnet": ("residual network", style.TEST, "s-"),
}
OF_ALL = {
    "concentration": "Labels' length in 50 eigenfunctions",
    "network": "Test accuracy of the network",
}
OF_LENET = {
    "alignment": "Centred alignment with the labels",
    "effective rank": "Effective rank",
    "kernel": "Test accuracy of regression with the kernel",
}
Batch = tuple[Tensor, Tensor]
"""Images (n, c, h, w) and labels (n,) of 1 and -1."""


@dataclass(frozen=True)
class Settings:
    """Which images, and how long they are learned.

    Attributes:
        seeds: networks of each kind, with images of their own.
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
    title = "How the tangent kernel of a network turns towards its task"
    source = "Ortiz-Jimenez et al. 2021, table 1; George 2023, section 6.3"
    about = (
        "A perceptron, a LeNet and a small residual network, each with one output, learn to tell "
        "the first half of the classes from the second. The tangent kernel on the training images "
        "is measured on the way; for the LeNet also what ridge regression with it, on half of the "
        "labels, makes of test images. The documents have 12,000 images of CIFAR-10 and 200 "
        "epochs, and deeper networks."
    )
    claims = (
        *(
            Claim(
                f"concentration-rises-{network}",
                f"More of the labels lies in the {LEADING} leading eigenfunctions of the {name} "
                "after training.",
                "ratio of lengths, end minus start",
                0.0,
                above=True,
            )
            for network, (name, *_) in LOOKS.items()
        ),
        Claim(
            "deeper-is-more",
            "After training it is most for the residual network, and least for the perceptron.",
            "ratio of lengths, the smaller of the differences from one network to the next",
            0.0,
            above=True,
        ),
        Claim(
            "alignment-rises",
            "The kernel of the LeNet is better aligned with the labels after training.",
            "centred alignment, end minus start",
            0.0,
            above=True,
        ),
        Claim(
            "kernel-improves",
            "Regression with its trained kernel is better than with the initial one.",
            "test accuracy, end minus start",
            0.0,
            above=True,
        ),
        Claim(
            "rank-dips",
            "The effective rank of its kernel falls while it learns.",
            "the smallest after the start, over that at the start",
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
        return len(LOOKS) * settings.epochs

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        train, test = _images(settings, "train", unit), _images(settings, "test", unit)
        found = {
            network: _followed(settings, network, train, test, unit, advance) for network in LOOKS
        }
        return [{"seed": unit, "epochs": list(_moments(settings)), **found}]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        def change(network: str, name: str) -> float:
            return float(result[network][name][-1] - result[network][name][0])

        ends = [result[network]["concentration"][-1] for network in LOOKS]
        ranks = result["lenet"]["effective rank"]
        return {
            **{
                f"concentration-rises-{network}": change(network, "concentration")
                for network in LOOKS
            },
            "deeper-is-more": min(b - a for a, b in zip(ends, ends[1:], strict=False)),
            "alignment-rises": change("lenet", "alignment"),
            "kernel-improves": change("lenet", "kernel"),
            "rank-dips": min(ranks[1:]) / ranks[0],
            "rank-falls": ranks[-1] / ranks[0],
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        return [
            Figure(
                "networks",
                "Three networks along training",
                "Means over seeds, with their spread. The kernel is that of the training images.",
                tuple(_panel(results, tuple(LOOKS), *one) for one in OF_ALL.items()),
            ),
            Figure(
                "lenet",
                "The kernel of the LeNet along training",
                "Means over seeds, with their spread. The regression sees half of the labels of "
                "the training images.",
                tuple(_panel(results, ("lenet",), *one) for one in OF_LENET.items()),
            ),
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        concentrations = {
            "mlp": "26.0 % to 63.6 %", "lenet": "25.8 % to 83.0 %", "resnet": "22.7 % to 96.7 %"
        }  # fmt: skip
        accuracies = {"mlp": "67.6 %", "lenet": "75.0 %", "resnet": "81.4 % (ResNet-18)"}
        rows = []
        for network, (name, *_) in LOOKS.items():
            start, end = _ends(results, network, "concentration")
            rows.append(
                Row(
                    f"{OF_ALL['concentration']}, {name}",
                    f"{start:.1%} to {end:.1%}",
                    f"{concentrations[network]} (CIFAR-10 in two halves)",
                )
            )
            accuracy = _ends(results, network, "network")[1]
            rows.append(Row(f"{OF_ALL['network']}, {name}", f"{accuracy:.1%}", accuracies[network]))
        for quantity, title in OF_LENET.items():
            start, end = _ends(results, "lenet", quantity)
            document = (
                "to less than a tenth (VGG19, ten classes)"
                if quantity == "effective rank"
                else "rises"
            )
            rows.append(Row(f"{title}, LeNet", f"{start:.3g} to {end:.3g}", document))
        return rows


def _moments(settings: Settings) -> tuple[int, ...]:
    return (*(epoch for epoch in settings.moments if epoch < settings.epochs), settings.epochs)


def _images(settings: Settings, split: str, seed: int) -> Batch:
    count = settings.train if split == "train" else settings.test
    images = drawn(settings.data, split, count, seed)
    return images.inputs, two_halves(images.labels, len(images.classes))


def _followed(
    settings: Settings,
    network: str,
    train: Batch,
    test: Batch,
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, list[float]]:
    """What is measured of a network at each moment of its training, by its name."""
    model = started(lambda: NETWORKS[network](train[0].shape[1:]), seed)
    descent = Descent(settings.epochs, settings.batch, settings.rate)
    per_epoch, measured = descent.per_epoch(len(train[0])), []
    for count in trained(model, *train, logistic, descent, seed):
        epoch, between = divmod(count, per_epoch)
        if between:
            continue
        if epoch in _moments(settings):
            measured.append(_measured(settings, network, model, train, test))
        if epoch:
            advance(1)
    return {name: [one[name] for one in measured] for name in measured[0]}


def _measured(
    settings: Settings, network: str, single: nn.Module, train: Batch, test: Batch
) -> dict[str, float]:
    # The 50th eigenvalue may be a millionth of the first, the rounding of single precision.
    model = copy.deepcopy(single).double()
    (x, y), (new, wanted) = ([one.double() for one in batch] for batch in (train, test))
    kernel = tangent_kernel(model, x, outputs=0, progress=False)
    with torch.no_grad():
        found = {
            "concentration": float(energy_concentration(eigenfunctions(kernel, LEADING), y).ratio),
            "network": float(right(model(new), wanted).double().mean()),
        }
    if network == "lenet":
        found |= {
            "alignment": kernel.alignment(y),
            "effective rank": kernel.centred().effective_rank(),
            "kernel": _regression(settings, model, (x, y), (new, wanted)),
        }
    return found


def _regression(settings: Settings, model: nn.Module, train: Batch, test: Batch) -> float:
    """The test accuracy of ridge regression with the kernel, on half of the labels."""
    half = len(train[0]) // 2
    x, y = train[0][:half], train[1][:half]
    own: TangentKernel = tangent_kernel(model, x, outputs=0, progress=False)
    fit = kernel_regression(own, y, settings.ridge * own.trace() / half)
    predicted = fit.predict(tangent_kernel(model, test[0], x, outputs=0, progress=False))
    return float(right(predicted.unsqueeze(1), test[1]).double().mean())


def _ends(results: Sequence[Result], network: str, quantity: str) -> tuple[float, float]:
    """A quantity at the start and at the end, means over seeds."""
    rows = torch.tensor([result[network][quantity] for result in results])
    return float(rows[:, 0].mean()), float(rows[:, -1].mean())


def _panel(results: Sequence[Result], networks: Sequence[str], quantity: str, title: str) -> Panel:
    curves = [
        Curve(name, [result[network][quantity] for result in results], colour, line)
        for network in networks
        for name, colour, line in [LOOKS[network]]
    ]
    return curves_panel(title, results[0]["epochs"], curves, "epochs", "symlog")


register(Features())
