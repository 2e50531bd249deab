"""Does the tangent kernel turn towards the function that a network learns, and no other?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pullback.kernels.targets import rotation, target_alignment
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import rounded
from pullback.studies.claims import Claim
from pullback.studies.linearized.learning import Posed, posed
from pullback.studies.parts import Curve, Descent, curves_panel, logistic, rank_correlation, trained
from pullback.studies.study import Result, Row, Study, register


@dataclass(frozen=True)
class Settings:
    """Which network, and which eigenfunctions it learns one at a time.

    Attributes:
        seeds: networks, each with images of its own.
        network: "mlp", "lenet" or "resnet".
        data: the name of an image set.
        train: training images.
        others: images besides, on which the eigenfunctions are taken too.
        leading: eigenfunctions at the start, of which all are watched.
        targets: whose signs are learned, from 0.
        epochs: of gradient descent with momentum 0.9 and a rate that falls linearly to 0.
        batch: images an update.
        rate: the learning rate at the start.
    """

    seeds: int = 3
    network: str = "lenet"
    data: str = "mnist"
    train: int = 500
    others: int = 100
    leading: int = 200
    targets: tuple[int, ...] = (5, 20, 50, 100, 150)
    epochs: int = 40
    batch: int = 32
    rate: float = 0.05


class KernelRotation(Study):
    """Ortiz-Jimenez et al. 2021, figures 7, 14 and 15, for one kind of network.

    Args:
        name: as of a study.
        kind: of network, in a few words.
        figures: of the document.
        sizes: as of a study.
    """

    claims = (
        Claim(
            "spike",
            "The kernel grows along the eigenfunction that is learned, more than along others.",
            "growth of its alignment over the median of the others', geometric mean over targets",
            2.0,
            above=True,
        ),
        Claim(
            "alone",
            "It grows more along this eigenfunction than along nearly all others.",
            "share of the others that grow less, mean over targets",
            0.95,
            above=True,
        ),
        Claim(
            "later-more",
            "The later the eigenfunction that is learned, the more it stands out.",
            "rank correlation of index and ratio of growths",
            0.0,
            above=True,
        ),
        Claim(
            "spectrum",
            "At the start, alignments with the kernel's own eigenfunctions are its eigenvalues.",
            "largest relative difference",
            1e-6,
            above=False,
        ),
    )

    def __init__(self, name: str, kind: str, figures: str, sizes: Mapping[str, Settings]) -> None:
        self.name = name
        self.title = f"Which functions the tangent kernel of {kind} turns to"
        self.source = f"Ortiz-Jimenez et al. 2021, section 4.2, figures {figures}"
        self.about = (
            f"The network, {kind}, learns the sign of one eigenfunction of its tangent kernel at "
            "initialisation. The alignment of the kernel with each of the leading eigenfunctions "
            "at the start is measured before and after, without a kernel matrix. The document has "
            "the whole of CIFAR-10 and a thousand eigenfunctions."
        )
        self.sizes = sizes

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return len(settings.targets) * settings.epochs

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        images = (settings.data, settings.train, settings.others)
        start = posed(settings.network, *images, settings.leading, seed=unit)
        values = start.leading.mercer_values
        before = _alignments(start, start.model, start.leading.mercer_functions)
        runs = [
            _turned(settings, start, before, target, unit, advance) for target in settings.targets
        ]
        return [
            {
                "seed": unit,
                "targets": list(settings.targets),
                "spectrum": rounded(values),
                "error": float(((before - values).abs() / values).max()),
                **{name: [run[name] for run in runs] for name in runs[0]},
            }
        ]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        below = [
            (np.delete(growth, target) < growth[target]).mean()
            for target, growth in zip(result["targets"], result["growth"], strict=True)
        ]
        return {
            "spike": float(np.exp(np.log(result["ratio"]).mean())),
            "alone": float(np.mean(below)),
            "later-more": rank_correlation(result["targets"], result["ratio"]),
            "spectrum": result["error"],
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        ratios = [result["ratio"] for result in results]
        return [
            Figure(
                "growth",
                "What the kernel grows along",
                "For each eigenfunction that was learned, by how much the alignment of the kernel "
                "with the leading eigenfunctions at the start has grown, over the median: means "
                "over seeds, with their spread. The dot is the one that was learned.",
                tuple(_panel(results, place) for place in range(len(results[0]["targets"]))),
            ),
            Figure(
                "ratios",
                "How much the learned eigenfunction stands out",
                "The growth of its alignment over the median of the others', means over seeds with "
                "their spread.",
                (
                    curves_panel(
                        "Ratio of growths",
                        results[0]["targets"],
                        [Curve("learned eigenfunction", ratios)],
                        "index of the eigenfunction",
                        "log",
                    ),
                ),
            ),
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        def mean(name: str, place: int) -> float:
            return float(np.mean([result[name][place] for result in results]))

        rows = []
        for place, target in enumerate(results[0]["targets"]):
            rows += [
                Row(
                    f"ratio of growths, eigenfunction {target} learned",
                    f"{mean('ratio', place):.3g}",
                    "a spike in the figure, no number",
                ),
                Row(
                    f"the same for its sign, eigenfunction {target} learned",
                    f"{mean('sign', place):.3g}",
                    "not shown",
                ),
                Row(
                    f"training accuracy, eigenfunction {target} learned",
                    f"{mean('train', place):.1%}",
                    "not printed",
                ),
            ]
        return rows


def _alignments(start: Posed, model: torch.nn.Module, functions: Tensor) -> Float[Tensor, " t"]:
    exact = copy.deepcopy(model).double()
    return target_alignment(exact, start.images.double(), functions, progress=False)


def _turned(
    settings: Settings,
    start: Posed,
    before: Float[Tensor, " k"],
    target: int,
    seed: int,
    advance: Callable[[int], None],
) -> dict[str, float | list[float]]:
    """By how much alignments have grown when the sign of one eigenfunction is learned."""
    (labels,) = start.labels([target])
    x, y = start.images[: settings.train], labels[: settings.train]
    model = copy.deepcopy(start.model)
    descent = Descent(settings.epochs, settings.batch, settings.rate)
    for count in trained(model, x, y, logistic, descent, seed):
        if count and count % descent.per_epoch(len(x)) == 0:
            advance(1)
    functions = torch.cat([start.leading.mercer_functions, labels.double().unsqueeze(0)])
    after = _alignments(start, model, functions)
    found = rotation(before, after[:-1], target)
    sign = after[-1] / _alignments(start, start.model, functions[-1:])[0]
    others = found.growth[target] / found.ratio  # the median of the others
    with torch.no_grad():
        fitted = (model(x)[:, 0] > 0) == (y > 0)
    return {
        "growth": rounded(found.growth),
        "ratio": found.ratio,
        "sign": float(sign / others),
        "train": float(fitted.double().mean()),
    }


def _panel(results: Sequence[Result], place: int) -> Panel:
    target = results[0]["targets"][place]
    grown = np.array([result["growth"][place] for result in results])
    relative = grown / np.median(grown, 1, keepdims=True)
    mean, spread = relative.mean(0), relative.std(0)
    with style.axes() as (canvas, ax):
        indices = np.arange(len(mean))
        ax.plot(indices, mean, color=style.BEFORE, linewidth=1)
        ax.fill_between(
            indices, mean - spread, mean + spread, color=style.BEFORE, alpha=0.25, linewidth=0
        )
        ax.plot(target, mean[target], "o", color=style.AFTER)
        ax.set_xlabel("index of the eigenfunction")
        ax.set_ylim(bottom=0)
        alt = (
            f"Line chart of the growth of {len(mean)} alignments over their median: "
            f"{style.short(float(mean[target]))} for eigenfunction {target}, which was learned, "
            f"and at most {style.short(float(np.delete(mean, target).max()))} for another."
        )
        return style.panel(canvas, f"Eigenfunction {target} learned", alt)


LENET = Settings()
FULL = Settings(
    seeds=5, data="cifar10", train=4000, others=1000, leading=1000,
    targets=(50, 100, 200, 500), epochs=100, batch=128,
)  # fmt: skip
PAPER = replace(FULL, seeds=1, train=50_000, others=10_000)

register(
    KernelRotation(
        "rotation", "a LeNet", "7 and 15", {"quick": LENET, "full": FULL, "paper": PAPER}
    )
)
register(
    KernelRotation(
        "rotation-mlp",
        "a perceptron",
        "14",
        {
            "quick": replace(LENET, network="mlp", seeds=5),
            "full": replace(FULL, network="mlp"),
            "paper": replace(PAPER, network="mlp"),
        },
    )
)
