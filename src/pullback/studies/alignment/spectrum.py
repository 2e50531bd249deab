"""Does the tangent kernel's spectrum concentrate, and along the labels, while a network learns?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pullback.data.tasks import noisy_labels
from pullback.kernels.alignment import layer_alignment
from pullback.kernels.spectra import effective_rank, trace_ratios
from pullback.kernels.tangent import tangent_kernel
from pullback.probes import Loss, Moment
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import rounded
from pullback.studies.alignment.moments import moments
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

LEVELS = {"clean": "Labels as they are", "noisy": "Some labels are wrong"}
SPLITS = {"train": "-", "test": "--"}
LEADING = (40, 80, 160)  # eigenvalues of 1,000
COMPARED = max(LEADING)
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What is learned, and when and where the kernel is taken.

    Attributes:
        seeds: networks, each with images of its own, learned once for each level of noise.
        data: the name of an image set.
        network: a name in `NETWORKS`.
        train: training images.
        test: test images.
        sample: images of each on which the kernel between all outputs is taken.
        noise: the share of wrong labels; each seed is learned without any, too.
        descent: how it is learned.
        points: moments on a logarithmic axis.
        first: the update before which only the start is measured.
    """

    seeds: int = 3
    data: str = "mnist"
    network: str = "perceptron"
    train: int = 2000
    test: int = 1000
    sample: int = 100
    noise: int | float = 0.5
    descent: Descent = Descent(epochs=200, batch=100, rate=0.01, falling=False)
    points: int = 25
    first: int = 100


class Spectrum(Study):
    """George 2023, figures 6.2, 6.3, B.5 and B.6; Baratin 2021, figures 4.2 and 4.3."""

    name = "spectrum"
    title = "How the spectrum of the tangent kernel concentrates, and turns towards the labels"
    source = "George 2023, sections 6.3.1 to 6.3.3, figures 6.2, 6.3, B.5 and B.6"
    about = (
        "A network learns images with and without wrong labels. On the way, its tangent kernel "
        "between all outputs is taken on training images, with the labels that it is taught, and "
        "on test images, with the right ones; it is centred over the images for each output. At "
        "the size quick the network is the document's perceptron with six hidden layers of 80 "
        "units, on 2,000 images of MNIST, so few that it learns wrong labels by heart within "
        "minutes; at the size full a residual network on 5,000 images of CIFAR-10; at the size "
        "paper VGG19 without batch norm on all of them."
    )
    claims = (
        Claim(
            "rank-falls",
            "The effective rank falls in training.",
            "that of the training kernel, its end over its start",
            1.0,
            above=False,
        ),
        Claim(
            "rank-below-tenth",
            "It drops to less than 10 % of its initial value.",
            "its lowest over its start",
            0.1,
            above=False,
        ),
        Claim(
            "noisy-rank-below-fifth",
            "With half of the labels wrong it drops to less than 20 %.",
            "its lowest over its start",
            0.2,
            above=False,
        ),
        Claim(
            "noisy-rank-returns",
            "With wrong labels the effective rank rises again when they are learned by heart.",
            "that of the training kernel, its end over its lowest",
            1.0,
            above=True,
        ),
        Claim(
            "noisy-rank-opposes-accuracy",
            "With wrong labels the effective rank goes against the test accuracy.",
            "rank correlation of the two over the moments of measuring",
            0.0,
            above=False,
        ),
        Claim(
            "largest-grows",
            "The largest eigenvalue gains more than two orders of magnitude.",
            "decimal logarithm of its end over its start",
            2.0,
            above=True,
        ),
        Claim(
            "mean-grows",
            "So does the mean eigenvalue.",
            "decimal logarithm of its end over its start",
            2.0,
            above=True,
        ),
        Claim(
            "forty-carry-most",
            "The 40 largest of 1,000 eigenvalues come to more than 70 % of the trace.",
            "their share at the end",
            0.7,
            above=True,
        ),
        Claim(
            "spectra-alike",
            "The spectra on training images and on test images are strikingly similar.",
            f"typical factor between eigenvalues of equal rank, of the {COMPARED} largest, where "
            "it is largest over moments, with and without noise",
            2.0,
            above=False,
        ),
        Claim(
            "alignment-rises",
            "The kernel aligns with the labels in training.",
            "alignment on training images, end minus start",
            0.0,
            above=True,
        ),
        Claim(
            "test-alignment-rises",
            "It does on test images, too.",
            "alignment on test images, end minus start",
            0.0,
            above=True,
        ),
        Claim(
            "uncentred-alignment-rises",
            "Without centring it rises as well.",
            "uncentred alignment on test images, end minus start",
            0.0,
            above=True,
        ),
        Claim(
            "layers-align",
            "Several intermediate layers reach an alignment above 0.5.",
            "how many layers between the first and the last do, on training images",
            1.5,
            above=True,
        ),
        Claim(
            "top-layer-lags",
            "The alignment of the last layer stays low.",
            "highest alignment of the last layer minus the median of those between, on training "
            "images",
            0.0,
            above=False,
        ),
        Claim(
            "noisy-test-aligns-better",
            "With wrong labels the kernel is better aligned on test images, with the right ones.",
            "alignment on test minus on training images, at the best test accuracy",
            0.0,
            above=True,
        ),
        Claim(
            "noisy-peaks-together",
            "With wrong labels the alignment is highest when the test accuracy is.",
            "between the highest alignment on test images and the best accuracy, absolute "
            "logarithm to base 2 of the ratio of updates",
            1.0,
            above=False,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=3, data="cifar10", network="resnet", train=5000, test=2000,
            descent=Descent(epochs=100, batch=100, rate=0.01, falling=False),
        ),
        "paper": Settings(
            seeds=3, data="cifar10", network="vgg19", train=50_000, test=10_000,
            descent=Descent(epochs=100, batch=100, rate=0.01, falling=False), points=50, first=5,
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return len(LEVELS) * (settings.descent.updates(settings.train) + len(_moments(settings)))

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        shares = {"clean": 0.0, "noisy": settings.noise}
        return [
            {
                "seed": unit,
                "updates": list(_moments(settings)),
                "levels": {
                    level: _followed(settings, share, unit, advance)
                    for level, share in shares.items()
                },
            }
        ]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        clean, noisy = (result["levels"][level] for level in LEVELS)
        ranks, noisy_ranks = clean["train"]["rank"], noisy["train"]["rank"]
        best = int(np.argmax(noisy["test"]["accuracy"]))
        peak = int(np.argmax(noisy["test"]["alignment"]))
        aligned = np.array(clean["train"]["layers"]).max(0)
        updates = result["updates"]
        return {
            "rank-falls": ranks[-1] / ranks[0],
            "rank-below-tenth": min(ranks) / ranks[0],
            "noisy-rank-below-fifth": min(noisy_ranks) / noisy_ranks[0],
            "noisy-rank-returns": noisy_ranks[-1] / min(noisy_ranks),
            "noisy-rank-opposes-accuracy": rank_correlation(noisy_ranks, noisy["test"]["accuracy"]),
            "largest-grows": _gain(clean["train"]["largest"]),
            "mean-grows": _gain(clean["train"]["mean"]),
            "forty-carry-most": clean["train"]["ratios"][-1][0],
            "spectra-alike": max(clean["apart"] + noisy["apart"]),
            "alignment-rises": _change(clean["train"]["alignment"]),
            "test-alignment-rises": _change(clean["test"]["alignment"]),
            "uncentred-alignment-rises": _change(clean["test"]["uncentred"]),
            "layers-align": float((aligned[1:-1] > 0.5).sum()),
            "top-layer-lags": float(aligned[-1] - np.median(aligned[1:-1])),
            "noisy-test-aligns-better": (
                noisy["test"]["alignment"][best] - noisy["train"]["alignment"][best]
            ),
            "noisy-peaks-together": (
                abs(math.log2(updates[peak] / updates[best])) if peak and best else None
            ),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        return [
            Figure(
                level,
                title,
                "Means over seeds, with their spread. Full lines are of the training images and "
                "the labels that are taught, dashed ones of test images and their right labels.",
                tuple(_panels([_of_level(result, level) for result in results], results[0])),
            )
            for level, title in LEVELS.items()
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        def ends(level: str, name: str) -> str:
            means = np.mean([one["levels"][level]["train"][name] for one in results], 0)
            return f"{means[0]:.3g}, {means.min():.3g}, {means[-1]:.3g}"

        documents = {
            ("clean", "rank"): "drops to less than 10 % (VGG19, CIFAR-10)",
            ("noisy", "rank"): "drops to less than 20 %, rises again with overfitting",
            ("clean", "alignment"): "rises",
            ("noisy", "alignment"): "lower than on test images",
            ("clean", "accuracy"): "1 at the end",
            ("noisy", "accuracy"): "not printed",
        }
        names = {
            "rank": "Effective rank",
            "alignment": "Alignment",
            "accuracy": "Accuracy",
        }
        return [
            Row(
                f"{names[name]} on training images, {LEVELS[level].lower()}: start, lowest, end",
                ends(level, name),
                document,
            )
            for (level, name), document in documents.items()
        ]


def _moments(settings: Settings) -> tuple[int, ...]:
    updates = settings.descent.updates(settings.train)
    return moments(updates, settings.points, settings.first)


def _followed(
    settings: Settings, share: int | float, seed: int, advance: Callable[[int], None]
) -> Numbers:
    """What the kernels are while one network learns, moment by moment."""
    images, test = (
        drawn(settings.data, split, count, seed)
        for split, count in (("train", settings.train), ("test", settings.test))
    )
    classes = len(images.classes)
    taught = noisy_labels(images.labels, share, classes, seed).labels
    splits = {"train": (images.inputs, taught), "test": (test.inputs, test.labels)}
    make = NETWORKS[settings.network]
    module = started(lambda: make(images.inputs.shape[1:], classes), seed)
    chosen = _moments(settings)
    found: dict[str, list[Numbers]] = {split: [] for split in SPLITS}
    apart = []
    updates = trained(module, images.inputs, taught, F.cross_entropy, settings.descent, seed)
    for count in updates:
        advance(min(count, 1))
        if count in chosen:
            spectra = {}
            for split, (x, y) in splits.items():
                numbers, spectra[split] = _measured(module, x, y, settings.sample)
                found[split].append(numbers)
            apart.append(_apart(spectra["train"], spectra["test"]))
            advance(1)
    return {
        **{
            split: {name: [one[name] for one in numbers] for name in numbers[0]}
            for split, numbers in found.items()
        },
        "apart": apart,
    }


def _measured(
    module: nn.Module, x: Float[Tensor, "n ..."], y: Int[Tensor, " n"], sample: int
) -> tuple[Numbers, Float[Tensor, " r"]]:
    """Numbers of the kernel and of the network, and the centred kernel's spectrum."""
    told = Loss({"all": (x, y)}).measure(Moment(module, step=0))["all"]
    # The smaller half of the eigenvalues is below the rounding of single precision.
    double = copy.deepcopy(module).double()
    kernel = tangent_kernel(
        double, x[:sample].double(), outputs="all", by_layer=True, progress=False
    )
    labels = y[:sample]
    values = kernel.centred("samples").eigvalsh().clamp(min=0)
    largest, mean, median = rounded(torch.stack([values[0], values.mean(), values.median()]))
    layers = layer_alignment(kernel, labels, "samples")
    numbers = {
        "accuracy": told["accuracy"],
        "largest": largest,
        "mean": mean,
        "median": median,
        "rank": effective_rank(values),
        "ratios": trace_ratios(values, LEADING),
        "alignment": kernel.alignment(labels, "samples"),
        "uncentred": kernel.alignment(labels, None),
        "layers": list(layers.values()),
    }
    return numbers, values


def _apart(one: Float[Tensor, " r"], other: Float[Tensor, " r"]) -> float:
    """The typical factor between leading eigenvalues of equal rank."""
    known = min(COMPARED, len(one) // 2)  # the last ones of a centred kernel are 0
    logarithms = (one[:known].log() - other[:known].log()).abs()
    return math.exp(float(logarithms.mean()))


def _gain(values: Sequence[float]) -> float:
    return math.log10(values[-1] / values[0])


def _change(values: Sequence[float]) -> float:
    return values[-1] - values[0]


def _of_level(result: Result, level: str) -> Numbers:
    found: Numbers = result["levels"][level]
    return found


def _panels(results: Sequence[Numbers], first: Result) -> list[Panel]:
    """The panels of one level, in the document's order."""

    def panel(title: str, curves: Sequence[Curve]) -> Panel:
        return curves_panel(title, first["updates"], curves, "updates", "symlog")

    def of(split: str, name: str) -> Float[np.ndarray, "..."]:
        return np.array([result[split][name] for result in results])

    def both(title: str, name: str) -> Panel:
        colours = {"train": style.TRAIN, "test": style.TEST}
        return panel(
            title,
            [Curve(split, of(split, name), colours[split], line) for split, line in SPLITS.items()],
        )

    sizes = dict(zip(("largest", "mean", "median"), style.CLASSES[::3], strict=False))
    ratios = dict(zip(LEADING, style.CLASSES[::3], strict=False))
    names = [str(number + 1) for number in range(of("train", "layers").shape[-1])]
    depths, shown = style.by_depth(names), style.legend_names(names)
    return [
        both("Accuracy", "accuracy"),
        panel(
            "Eigenvalues, their decimal logarithm",
            [
                Curve(f"{name}, {split}", np.log10(of(split, name)), colour, line)
                for name, colour in sizes.items()
                for split, line in SPLITS.items()
            ],
        ),
        both("Effective rank", "rank"),
        panel(
            "Share of the trace in the largest eigenvalues",
            [
                Curve(f"{count}, {split}", of(split, "ratios")[..., place], colour, line)
                for place, (count, colour) in enumerate(ratios.items())
                for split, line in SPLITS.items()
            ],
        ),
        both("Alignment with the labels", "alignment"),
        *(
            panel(
                f"Alignment of a layer's kernel, {split}",
                [
                    Curve(name, of(split, "layers")[..., place], colour, line)
                    for place, (name, colour) in enumerate(depths.items())
                    if name in shown
                ],
            )
            for split, line in SPLITS.items()
        ),
    ]


register(Spectrum())
