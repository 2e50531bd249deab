"""Are the eigenfunctions of the tangent kernel in the order of their difficulty?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pullback import data as datasets
from pullback.kernels.mercer import eigenfunctions
from pullback.kernels.tangent import tangent_kernel
from pullback.linear.model import linearize
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import rounded
from pullback.studies.claims import Claim
from pullback.studies.study import Result, Row, Study, register

REGIMES = ("network", "linearized")
LOOKS = {"network": (style.AFTER, "o-"), "linearized": (style.TEST, "s--")}


@dataclass(frozen=True)
class Settings:
    """Which data, which eigenfunctions, and how they are learned.

    Attributes:
        seeds: networks, each with images of its own.
        data: the name of an image set.
        train: training images.
        test: test images; the kernel is taken on both.
        indices: of the eigenfunctions, from 0; the first is nearly constant.
        width: of the two hidden layers.
        epochs: of gradient descent with momentum 0.9 and a rate that falls linearly to 0.
        batch: images an update.
        rate: the learning rate at the start.
    """

    seeds: int = 5
    data: str = "mnist"
    train: int = 1500
    test: int = 500
    indices: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 400)
    width: int = 100
    epochs: int = 60
    batch: int = 128
    rate: float = 0.05


class EigenfunctionTasks(Study):
    """Ortiz-Jimenez et al. 2021, figures 2, 3 and 11."""

    name = "eigenfunctions"
    title = "Eigenfunctions of the tangent kernel as tasks, for a network and its linearisation"
    source = "Ortiz-Jimenez et al. 2021, section 3.1, figures 2, 3 and 11"
    about = (
        "The sign of an eigenfunction of the tangent kernel at initialisation is a binary task on "
        "real images. A perceptron and its linearisation learn it from the same start, with the "
        "same optimiser and the same order of the data, for eigenfunctions from the first on. The "
        "document has the whole of CIFAR-10 or MNIST, and convolutional networks too."
    )
    claims = (
        Claim(
            "network-falls",
            "The network's accuracy falls with the index of the eigenfunction.",
            "rank correlation of index and test accuracy",
            -0.8,
            above=False,
        ),
        Claim(
            "linearized-falls",
            "The linearisation's accuracy falls with it too.",
            "rank correlation of index and test accuracy",
            -0.8,
            above=False,
        ),
        Claim(
            "linearized-wins",
            "The linearisation is better at these tasks than the network.",
            "difference of test accuracy (linearisation minus network), mean over tasks",
            0.0,
            above=True,
        ),
        Claim(
            "network-travels",
            "The network's parameters travel further for later eigenfunctions.",
            "rank correlation of index and distance",
            0.8,
            above=True,
        ),
        Claim(
            "linearized-travels",
            "Those of the linearisation do, too.",
            "rank correlation of index and distance",
            0.8,
            above=True,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(seeds=10, data="cifar10", train=8000, test=2000, epochs=100),
        "paper": Settings(
            seeds=1, data="cifar10", train=50_000, test=10_000, epochs=100,
            indices=(1, 5, 10, 50, 100, 200, 300, 400, 500, 750, 999),
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return len(REGIMES) * settings.epochs

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        x = _images(settings, seed=unit)
        with torch.random.fork_rng():
            torch.manual_seed(unit)
            model = _network(x.shape[1], settings.width)
        kernel = tangent_kernel(model, x, outputs=0, progress=False)
        leading = eigenfunctions(kernel, max(settings.indices) + 1)
        tasks = torch.stack([leading.labels(index) for index in settings.indices])
        modules = {"network": model, "linearized": linearize(model)}
        return [
            {
                "seed": unit,
                "indices": list(settings.indices),
                "majority": rounded(leading.majority[list(settings.indices)]),
                **{
                    regime: _learned(settings, modules[regime], x, tasks, unit, advance)
                    for regime in REGIMES
                },
            }
        ]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        def correlation(regime: str, quantity: str) -> float:
            return float(spearmanr(result["indices"], result[regime][quantity]).statistic)

        network, linear = (np.array(result[regime]["test"]) for regime in REGIMES)
        found = {"linearized-wins": float((linear - network).mean())}
        for regime in REGIMES:
            found[f"{regime}-falls"] = correlation(regime, "test")
            found[f"{regime}-travels"] = correlation(regime, "distance")
        return found

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        return [
            Figure(
                "accuracy",
                "Accuracy and distance by eigenfunction",
                "Means over seeds, with their spread. First, the test accuracy on the sign of each "
                "eigenfunction; the dotted line is what a constant scores. Second, how far the "
                "parameters are from their start after training.",
                (_panel(results, "test", "Test accuracy"), _panel(results, "distance", "Distance")),
            )
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        document = {
            "network": "falls with the index (figure 2, no numbers)",
            "linearized": "falls too, and is above the network's (figure 2, no numbers)",
        }
        indices = results[0]["indices"]
        rows = []
        for regime in REGIMES:
            means = np.array([result[regime]["test"] for result in results]).mean(0)
            for place in (0, len(indices) // 2, len(indices) - 1):
                rows.append(
                    Row(
                        f"test accuracy at eigenfunction {indices[place]}, {regime}",
                        f"{means[place]:.1%}",
                        document[regime],
                    )
                )
        return rows


def _images(settings: Settings, seed: int) -> Float[Tensor, "n d"]:
    """Training images and test images, drawn together, as vectors."""
    images = datasets.load(settings.data, "train").inputs
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=generator)[: settings.train + settings.test]
    return images[chosen].flatten(1)


def _network(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, 1),
    )  # fmt: skip


def _learned(
    settings: Settings,
    module: nn.Module,
    x: Float[Tensor, "n d"],
    tasks: Float[Tensor, "t n"],
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, list[float]]:
    """Accuracies on all tasks after training on each, all at once with stacked parameters."""
    start = {name: value.detach() for name, value in module.named_parameters()}
    buffers = dict(module.named_buffers())
    state = {name: value.expand(len(tasks), *value.shape).clone() for name, value in start.items()}
    momentum = {name: torch.zeros_like(value) for name, value in state.items()}

    def outputs(parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        found: Tensor = functional_call(module, {**buffers, **parameters}, (inputs,))
        return found[:, 0]

    def loss(parameters: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return F.softplus(-labels * outputs(parameters, inputs)).mean()

    gradients_of = vmap(grad(loss), in_dims=(0, None, 0))
    generator = torch.Generator().manual_seed(seed)
    batches, count = settings.train // settings.batch, 0
    for _ in range(settings.epochs):
        order = torch.randperm(settings.train, generator=generator)
        for some in order[: batches * settings.batch].split(settings.batch):
            gradients = gradients_of(state, x[some], tasks[:, some])
            rate = settings.rate * (1 - count / (batches * settings.epochs))
            for name, value in state.items():
                value -= rate * momentum[name].mul_(0.9).add_(gradients[name])
            count += 1
        advance(1)
    found = vmap(outputs, in_dims=(0, None))(state, x)
    right = ((found > 0) == (tasks > 0)).double()
    moved = [(state[name] - value).flatten(1).square().sum(1) for name, value in start.items()]
    return {
        "train": rounded(right[:, : settings.train].mean(1)),
        "test": rounded(right[:, settings.train :].mean(1)),
        "distance": rounded(torch.stack(moved).sum(0).sqrt()),
    }


def _panel(results: Sequence[Result], quantity: str, title: str) -> Panel:
    indices, said = results[0]["indices"], []
    with style.axes() as (canvas, ax):
        for regime in REGIMES:
            colour, line = LOOKS[regime]
            curves = np.array([result[regime][quantity] for result in results])
            mean, spread = curves.mean(0), curves.std(0)
            ax.plot(indices, mean, line, color=colour, label=regime)
            ax.fill_between(
                indices, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0
            )
            said.append(f"{regime} from {mean[0]:.3g} to {mean[-1]:.3g}")
        if quantity == "test":
            constant = np.array([result["majority"] for result in results]).mean(0)
            ax.plot(indices, constant, ":", color=style.FAINT, label="constant")
        ax.set_xscale("log")
        ax.set_xlabel("index of the eigenfunction (logarithmic)")
        ax.legend()
        return style.panel(canvas, title, f"Line chart over the index: {'; '.join(said)}.")


register(EigenfunctionTasks())
