"""Which moves of the parameters change a trained network, and which hardly do?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from pullback.jacobian import jacobian
from pullback.kernels.tangent import tangent_kernel
from pullback.metrics.fisher import fisher
from pullback.parameters import ParameterVector
from pullback.report.figures import style
from pullback.report.figures.style import Figure
from pullback.report.numbers import rounded
from pullback.studies.alignment.networks import NETWORKS
from pullback.studies.claims import Claim
from pullback.studies.parts import (
    Curve,
    Descent,
    curves_panel,
    drawn,
    rank_correlation,
    started,
    trained,
)
from pullback.studies.study import Result, Row, Study, register


@dataclass(frozen=True)
class Settings:
    """What is learned, and how far the parameters are moved.

    Attributes:
        seeds: networks, each with images of its own.
        data: the name of an image set.
        network: a name in `NETWORKS`.
        train: training images.
        sample: how many of these the Jacobian is taken on.
        test: test images, on which outputs are compared.
        descent: how the network learns.
        directions: of each kind.
        length: of a move.
    """

    seeds: int = 5
    data: str = "mnist"
    network: str = "lenet"
    train: int = 5000
    sample: int = 100
    test: int = 500
    descent: Descent = Descent(epochs=10, batch=100, rate=0.01, falling=False)
    directions: int = 50
    length: int | float = 0.1


class SingularVectors(Study):
    """George 2023, figure B.1; Baratin 2021, appendix B.1."""

    name = "singular-vectors"
    title = "How much a network changes along singular vectors of its Jacobian and at random"
    source = "George 2023, section B.1, figure B.1"
    about = (
        "The parameters of a trained network are moved by a length of 0.1 along each of the 50 "
        "first right singular vectors of its Jacobian on 100 training images, and along 50 random "
        "directions. What is compared is the root of the mean squared change of the outputs on "
        "test images. At the size quick a LeNet learns 5,000 images of MNIST, at the size paper "
        "VGG11 without batch norm learns CIFAR-10, both for the 10 epochs of the document, which "
        "prints neither the length nor the learning rate."
    )
    claims = (
        Claim(
            "first-moves-most",
            "Along the first singular vector the network changes far more than at random.",
            "decimal logarithm of the ratio of changes, first over the mean of random ones",
            1.0,
            above=True,
        ),
        Claim(
            "all-move-more",
            "So it does along each of the 50 first singular vectors.",
            "decimal logarithm of the ratio of changes, least over the mean of random ones",
            0.0,
            above=True,
        ),
        Claim(
            "falls-with-index",
            "The change falls with the index of the singular vector.",
            "rank correlation of index and change",
            -0.8,
            above=False,
        ),
        Claim(
            "random-is-mean",
            "Along a random direction the change is the mean over all directions.",
            "absolute decimal logarithm of the ratio of random changes to that of the mean squared "
            "singular value on test images",
            0.1,
            above=False,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=10, data="cifar10", network="resnet", train=20_000, test=2000,
            descent=Descent(epochs=10, batch=100, rate=0.01, falling=False),
        ),
        "paper": Settings(
            seeds=3, data="cifar10", network="vgg11", train=50_000, test=10_000,
            descent=Descent(epochs=10, batch=100, rate=0.01, falling=False),
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return settings.descent.updates(settings.train) + 2 * settings.directions

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        images = drawn(settings.data, "train", settings.train, unit)
        test = drawn(settings.data, "test", settings.test, unit).inputs
        shape, classes = images.inputs.shape[1:], len(images.classes)
        make = NETWORKS[settings.network]
        module = started(lambda: make(shape, classes), unit)
        x, y = images.inputs, images.labels
        for count in trained(module, x, y, F.cross_entropy, settings.descent, unit):
            advance(min(count, 1))
        singular = _singular(module, x[: settings.sample], settings.directions)
        random = _random(module, settings.directions, unit)
        before = _outputs(module, ParameterVector.from_model(module), test)

        def changes(directions: Iterator[ParameterVector]) -> Float[Tensor, " k"]:
            found = []
            for direction in directions:
                moved = ParameterVector.from_model(module) + direction * settings.length
                found.append((_outputs(module, moved, test) - before).square().mean().sqrt())
                advance(1)
            return torch.stack(found)

        squares = fisher(
            module, test, likelihood="euclidean", representation="diagonal", progress=False
        ).diagonal()
        expected = settings.length * math.sqrt(float(squares.flat.mean()) / classes)
        return [
            {
                "seed": unit,
                "singular": rounded(changes(singular)),
                "random": rounded(changes(random)),
                "expected": float(f"{expected:.5g}"),
                "spread": float(f"{float((before - before.mean(0)).square().mean().sqrt()):.5g}"),
            }
        ]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        singular, random = np.array(result["singular"]), np.array(result["random"])
        mean_square = float(np.sqrt((random**2).mean()))
        return {
            "first-moves-most": math.log10(singular[0] / random.mean()),
            "all-move-more": math.log10(singular.min() / random.mean()),
            "falls-with-index": rank_correlation(range(len(singular)), singular.tolist()),
            "random-is-mean": abs(math.log10(mean_square / result["expected"])),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        logarithms = {
            kind: np.log10([result[kind] for result in results]) for kind in ("singular", "random")
        }
        numbers = range(1, logarithms["random"].shape[1] + 1)
        curves = [
            Curve("singular vectors", logarithms["singular"], style.AFTER, "-"),
            Curve("random directions", logarithms["random"], style.TEST, "--"),
        ]
        return [
            Figure(
                "changes",
                "Change of the outputs by direction",
                "Means over seeds, with their spread, of the logarithm of the root of the mean "
                "squared change of the outputs on test images.",
                (
                    curves_panel(
                        "Change of the outputs, its decimal logarithm", numbers, curves,
                        "number of the direction",
                    ),
                ),
            )
        ]  # fmt: skip

    def table(self, results: Sequence[Result]) -> list[Row]:
        singular, random = (
            np.array([result[kind] for result in results]).mean(0)
            for kind in ("singular", "random")
        )
        spread = np.mean([result["spread"] for result in results])
        document = "far above random ones (figure B.1, no numbers)"
        return [
            *(
                Row(
                    f"change along singular vector {place + 1}, over that along random directions",
                    f"{singular[place] / random.mean():,.3g}",
                    document,
                )
                for place in sorted({0, len(singular) // 2 - 1, len(singular) - 1})
            ),
            Row(
                "change along random directions, over the spread of the outputs",
                f"{random.mean() / spread:.2g}",
                "almost none (figure B.1, no numbers)",
            ),
        ]


def _singular(module: nn.Module, x: Tensor, count: int) -> Iterator[ParameterVector]:
    """The first right singular vectors of the Jacobian, from its left ones."""
    values, functions = tangent_kernel(module, x, outputs="all", progress=False).eigh(count)
    derivative = jacobian(module, x)
    for value, function in zip(values.sqrt(), functions, strict=True):
        yield derivative.pull(function) / value


def _random(module: nn.Module, count: int, seed: int) -> Iterator[ParameterVector]:
    """Directions that are uniform on the unit sphere."""
    space = ParameterVector.from_model(module).space
    for number in range(count):
        gaussian = space.randn(seed=seed * count + number)
        yield gaussian / gaussian.norm()


def _outputs(
    module: nn.Module, parameters: ParameterVector, x: Float[Tensor, "n ..."]
) -> Float[Tensor, "n c"]:
    moved = parameters.as_dict()
    with torch.no_grad():
        return torch.cat([functional_call(module, moved, (some,)) for some in x.split(500)])


register(SingularVectors())
