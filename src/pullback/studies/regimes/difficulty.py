"""Easy and difficult images: are the easy ones learned first, and more so by the network?"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from pullback.linear.difficulty import ConsistencyScores, Predictor, consistency_scores
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import rounded
from pullback.studies.claims import Claim
from pullback.studies.parts import NETWORKS, Curve, Descent, drawn, started, trained
from pullback.studies.regimes.scaled import (
    METRICS,
    Batch,
    Regimes,
    equally_far,
    followed,
    linearity_figure,
    lowest_linearity,
    progress_panel,
    regime_curve,
)
from pullback.studies.study import Result, Row, Study, register

PROGRESS = ("loss", "train")
AXIS = "mean training loss (nats)"
LINEAR = 0.99


@dataclass(frozen=True)
class Settings(Regimes):
    """As `Regimes`, and how C-scores are estimated.

    Attributes:
        groups: of equal size, by the C-score.
        shares: of the training images, for the subsets.
        repeats: subsets of each share.
        updates: of the training on a subset.
        score_rate: its learning rate at the start, which falls linearly to 0.
    """

    groups: int = 5
    shares: tuple[float, ...] = (0.05, 0.2, 0.5, 0.8)
    repeats: int = 6
    updates: int = 200
    score_rate: float = 0.03


class Difficulty(Study):
    """George 2023, figure 5.2, top left and right."""

    name = "difficulty"
    title = "Easy and difficult images at equal training loss, for a network and its lazy twin"
    source = "George 2023, sections 5.3.2 and C.5, figures 5.2 and C.5"
    about = (
        "The difficulty of a training image is how seldom networks that were trained on subsets "
        "without it name its class (its C-score). A network and its lazy twin (alpha = 100) learn "
        "all images from one start, and the losses of groups of equal difficulty are compared "
        "where the mean training losses are equal. The document has published C-scores of "
        "CIFAR-10, ten groups, and a ResNet-18; here the scores are those of the network itself, "
        "trained on few subsets."
    )
    claims = (
        Claim(
            "network-easy-first",
            "The network learns easy images before difficult ones.",
            "loss of the most difficult group minus the easiest, mean over training losses, nats",
            0.0,
            above=True,
        ),
        Claim(
            "lazy-easy-first",
            "So does its lazy twin.",
            "loss of the most difficult group minus the easiest, mean over training losses, nats",
            0.0,
            above=True,
        ),
        Claim(
            "network-more-so",
            "At equal training loss the groups lie further apart for the network.",
            "the difference above, network minus lazy, nats",
            0.0,
            above=True,
        ),
        Claim(
            "easy-ahead",
            "At equal training loss the network is better at the easiest images.",
            "their loss, network minus lazy, mean over training losses, nats",
            0.0,
            above=False,
        ),
        Claim(
            "difficult-behind",
            "It is worse at the most difficult ones.",
            "their loss, network minus lazy, mean over training losses, nats",
            0.0,
            above=True,
        ),
        *(
            Claim(
                f"lazy-{metric.replace(' ', '-')}",
                f"The lazy twin stays where it is linear, by its {metric}.",
                f"lowest {metric} in the whole training",
                LINEAR,
                above=True,
            )
            for metric in METRICS
        ),
        Claim(
            "network-bends",
            "The network does not: all three metrics fall.",
            "highest of the lowest values of the three metrics",
            LINEAR,
            above=False,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=5, data="cifar10", network="lenet", train=5000, epochs=(100, 1000),
            rates=(0.01, 0.01), batch=125, moments=100, probed=100, groups=10, repeats=20,
            updates=1000,
        ),
        "paper": Settings(
            seeds=1, data="cifar10", network="resnet", train=40_000, epochs=(200, 1000),
            rates=(0.01, 0.01), batch=125, moments=200, probed=100, groups=10, repeats=50,
            updates=10_000,
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return len(settings.shares) * settings.repeats + sum(settings.epochs)

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        images = drawn(settings.data, "train", settings.train, unit)
        x, y = images.inputs, images.labels
        make = partial(NETWORKS[settings.network], x.shape[1:], len(images.classes))
        scores = _scores(settings, make, (x, y), unit, advance)
        members = scores.groups(settings.groups)
        groups = {str(place): (x[own], y[own]) for place, own in enumerate(members)}
        start = started(make, unit)
        runs = followed(settings, start, (x, y), {"train": (x, y), **groups}, unit, advance)
        means = torch.stack([scores.scores[own].mean() for own in members])
        return [{"seed": unit, "scores": rounded(means), "runs": runs}]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        _, values = _by_group([result])
        network, lazy = (one[0].mean(0) for one in values.values())
        bent, straight = (lowest_linearity(result, regime) for regime in result["runs"])
        return {
            "network-easy-first": float(network[0] - network[-1]),
            "lazy-easy-first": float(lazy[0] - lazy[-1]),
            "network-more-so": float((network[0] - network[-1]) - (lazy[0] - lazy[-1])),
            "easy-ahead": float(network[-1] - lazy[-1]),
            "difficult-behind": float(network[0] - lazy[0]),
            **{f"lazy-{metric.replace(' ', '-')}": straight[metric] for metric in METRICS},
            "network-bends": max(bent.values()),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        return [
            Figure(
                "groups",
                "Groups of equal difficulty at equal progress",
                "Means over seeds, with their spread. First, the loss of the most difficult group "
                "minus that of the easiest. Second, what the network's loss is above that of its "
                "lazy twin, for each group.",
                (_spread_panel(results), _difference_panel(results)),
            ),
            linearity_figure(results, PROGRESS, AXIS),
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        scores = torch.tensor([result["scores"] for result in results]).mean(0)
        rows = [
            Row(
                f"C-score of group {place + 1} of {len(scores)}, from the most difficult",
                f"{score:.2f}",
                "not printed",
            )
            for place, score in enumerate(scores.tolist())
        ]
        document = {
            "network": "falls (figure 5.2, no numbers)",
            "lazy": "close to 1 (figure 5.2, no numbers)",
        }
        for regime, name in zip(results[0]["runs"], document, strict=True):
            for metric in METRICS:
                mean = statistics.fmean(lowest_linearity(one, regime)[metric] for one in results)
                rows.append(Row(f"lowest {metric}, {name}", f"{mean:.4f}", document[name]))
        return rows


def _scores(
    settings: Settings,
    make: Callable[[], nn.Module],
    train: Batch,
    seed: int,
    advance: Callable[[int], None],
) -> ConsistencyScores:
    def fit(inputs: Tensor, labels: Tensor, own: int) -> Predictor:
        per_epoch = -(-len(inputs) // settings.batch)
        descent = Descent(-(-settings.updates // per_epoch), settings.batch, settings.score_rate)
        module = started(make, own)
        for _ in trained(module, inputs, labels, F.cross_entropy, descent, own):
            pass
        advance(1)
        return partial(_named, module)

    sizes = [round(share * len(train[0])) for share in settings.shares]
    return consistency_scores(*train, fit, sizes, settings.repeats, seed, progress=False)


def _named(module: nn.Module, x: Tensor) -> Int[Tensor, " m"]:
    with torch.no_grad():
        return torch.cat([module(part).argmax(1) for part in x.split(1000)])


def _by_group(results: Sequence[Result]) -> tuple[list[float], dict[str, Float[Tensor, "s k g"]]]:
    watched = [("loss", str(place)) for place in range(len(results[0]["scores"]))]
    return equally_far(results, PROGRESS, watched)


def _spread_panel(results: Sequence[Result]) -> Panel:
    losses, values = _by_group(results)
    curves = [regime_curve(name, one[..., 0] - one[..., -1]) for name, one in values.items()]
    return progress_panel("Most difficult minus easiest (nats)", losses, curves, PROGRESS, AXIS)


def _difference_panel(results: Sequence[Result]) -> Panel:
    losses, values = _by_group(results)
    network, lazy = values.values()
    names = [f"group {place + 1}" for place in range(network.shape[-1])]
    colours = style.by_depth(names)
    curves = [
        Curve(name, (network - lazy)[..., place], colours[name], "-")
        for place, name in enumerate(names)
    ]
    return progress_panel("Network minus lazy (nats)", losses, curves, PROGRESS, AXIS)


register(Difficulty())
