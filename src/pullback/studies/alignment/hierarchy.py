"""Does the tangent kernel align with easy samples first, and the more so the deeper the network?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pullback.data.tasks import Mixture, mixture, noisy_labels
from pullback.kernels.tangent import tangent_kernel
from pullback.probes import Loss, Moment
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import rounded
from pullback.studies.alignment.moments import moments
from pullback.studies.claims import Claim
from pullback.studies.parts import Curve, Descent, curves_panel, drawn, perceptron, started, trained
from pullback.studies.study import Result, Row, Study, register

KINDS = {"random": "random labels", "alike": "look-alikes"}
GROUPS = {"easy": "-", "difficult": "--"}
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """Which images are mixed, and the networks that learn them.

    Attributes:
        seeds: networks of each kind, each with images of its own.
        data: the name of an image set.
        alike: another one, of images of the same shape.
        easy: images of the first with their labels.
        difficult: images of the first with random labels, or of the other with theirs.
        sample: images of each group on which the kernel between all outputs is taken.
        hidden: layers of the networks that learn both mixtures.
        width: of these layers.
        descent: how they learn.
        depths: hidden layers of the networks that learn random labels only.
        narrow: width of these layers.
        deep_descent: how these learn.
        points: moments on a logarithmic axis.
        first: the update before which only the start is measured.
    """

    seeds: int = 3
    data: str = "mnist"
    alike: str = "fashion-mnist"
    easy: int = 10_000
    difficult: int = 1000
    sample: int = 100
    hidden: int = 6
    width: int = 80
    descent: Descent = Descent(epochs=20, batch=100, rate=0.02, falling=False)
    depths: tuple[int, ...] = (2, 4, 6)
    narrow: int = 60
    deep_descent: Descent = Descent(epochs=30, batch=100, rate=0.01, falling=False)
    points: int = 25
    first: int = 10


class Hierarchy(Study):
    """George 2023, figures 6.4 and B.7; Baratin 2021, figure 4.4."""

    name = "hierarchy"
    title = "How the tangent kernel aligns with easy samples before difficult ones"
    source = "George 2023, sections 6.3.4 and B.3.3, figures 6.4 and B.7"
    about = (
        "A perceptron learns 10,000 images of MNIST together with 1,000 difficult samples: images "
        "of MNIST with random labels, or images of Fashion-MNIST, which stand in for the KMNIST of "
        "the document. The alignment of its tangent kernel with the labels, centred over the "
        "images for each output, is followed on as many easy and difficult images. Perceptrons of "
        "several depths learn the mixture with random labels. Widths, learning rates and batches "
        "are the document's; it does not print the depths nor the length of the training."
    )
    claims = (
        *(
            claim
            for kind, words in KINDS.items()
            for claim in (
                Claim(
                    f"{kind}-easy-higher",
                    f"The alignment on easy samples rises higher than on {words}.",
                    "logarithm to base 2 of the ratio of the highest alignments",
                    0.0,
                    above=True,
                ),
                Claim(
                    f"{kind}-easy-faster",
                    f"It rises faster than on {words}.",
                    "by how much more it has risen where it has made half of its way",
                    0.0,
                    above=True,
                ),
            )
        ),
        Claim(
            "alike-later",
            "The alignment on look-alikes rises later.",
            "logarithm to base 2 of the ratio of updates to half of the way, look-alikes over easy",
            0.0,
            above=True,
        ),
        Claim(
            "deep-later",
            "In deeper networks the alignment starts to rise later.",
            "logarithm to base 2 of the ratio of updates to a quarter of the way on easy samples, "
            "deepest over shallowest",
            0.0,
            above=True,
        ),
        Claim(
            "deep-faster",
            "It rises faster in deeper networks.",
            "logarithm to base 2 of the ratio of updates from a quarter to three quarters of the "
            "way, deepest over shallowest",
            0.0,
            above=False,
        ),
        Claim(
            "deep-ratio",
            "The ratio of easy over difficult alignment is higher in deeper networks.",
            "logarithm to base 2 of the ratio of highest ratios, deepest over shallowest",
            0.0,
            above=True,
        ),
        Claim(
            "deep-shorter",
            "It is high for fewer updates in deeper networks.",
            "logarithm to base 2 of the ratio of updates with more than half of the highest ratio, "
            "deepest over shallowest",
            0.0,
            above=False,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=10, depths=(2, 4, 6, 8),
            descent=Descent(epochs=100, batch=100, rate=0.02, falling=False),
            deep_descent=Descent(epochs=200, batch=100, rate=0.01, falling=False), points=40,
        ),
        "paper": Settings(
            seeds=10, depths=(3, 6, 9),
            descent=Descent(epochs=200, batch=100, rate=0.02, falling=False),
            deep_descent=Descent(epochs=400, batch=100, rate=0.01, falling=False), points=50,
            first=1,
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        samples = settings.easy + settings.difficult
        of_both, of_depths = (
            descent.updates(samples) + len(_moments(settings, descent))
            for descent in (settings.descent, settings.deep_descent)
        )
        return len(KINDS) * of_both + len(settings.depths) * of_depths

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        mixtures = {kind: _mixed(settings, kind, unit) for kind in KINDS}
        return [
            {
                "seed": unit,
                "kinds": {
                    kind: _followed(
                        settings, mixed, (settings.hidden, settings.width), settings.descent,
                        unit, advance,
                    )
                    for kind, mixed in mixtures.items()
                },
                "depths": {
                    str(hidden): _followed(
                        settings, mixtures["random"], (hidden, settings.narrow),
                        settings.deep_descent, unit, advance,
                    )
                    for hidden in settings.depths
                },
            }
        ]  # fmt: skip

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        found: dict[str, float | None] = {}
        for kind, curves in result["kinds"].items():
            easy, difficult = (curves[group] for group in GROUPS)
            found[f"{kind}-easy-higher"] = math.log2(max(easy) / max(difficult))
            found[f"{kind}-easy-faster"] = _ahead(curves)
        alike = result["kinds"]["alike"]
        half = {group: _reached(alike["updates"], alike[group], 0.5) for group in GROUPS}
        found["alike-later"] = math.log2(half["difficult"] / half["easy"])
        depths = result["depths"]
        shallow, deep = (depths[str(of(map(int, depths)))] for of in (min, max))
        first, last = (
            {share: _reached(curves["updates"], curves["easy"], share) for share in (0.25, 0.75)}
            for curves in (shallow, deep)
        )
        found["deep-later"] = math.log2(last[0.25] / first[0.25])
        found["deep-faster"] = math.log2((last[0.75] - last[0.25]) / (first[0.75] - first[0.25]))
        found["deep-ratio"] = math.log2(max(_ratios(deep)) / max(_ratios(shallow)))
        found["deep-shorter"] = math.log2(_long(deep) / _long(shallow))
        return found

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        reading = (
            "Means over seeds, with their spread. Full lines are of easy images, dashed ones of as "
            "many difficult ones."
        )
        return [
            Figure(
                kind,
                f"Easy images with {words}",
                reading,
                _kind_panels([result["kinds"][kind] for result in results]),
            )
            for kind, words in KINDS.items()
        ] + [
            Figure(
                "depths",
                "Random labels, by hidden layers",
                reading,
                _depth_panels([result["depths"] for result in results]),
            )
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        def mean(values: Sequence[int | float]) -> float:
            return float(np.mean(values))

        rows = []
        for kind, words in KINDS.items():
            runs = [result["kinds"][kind] for result in results]
            highest = [mean([max(run[group]) for run in runs]) for group in GROUPS]
            rows.append(
                Row(
                    f"highest alignment, easy and {words}",
                    f"{highest[0]:.3g}, {highest[1]:.3g}",
                    "higher on easy samples (figure 6.4, no numbers)",
                )
            )
        for depth in results[0]["depths"]:
            runs = [result["depths"][depth] for result in results]
            quarter, more = (
                mean([_reached(run["updates"], run["easy"], share) for run in runs])
                for share in (0.25, 0.75)
            )
            highest_ratio = mean([max(_ratios(run)) for run in runs])
            rows += [
                Row(
                    f"{depth} hidden layers: updates to a quarter and three quarters of the way",
                    f"{quarter:,.0f}, {more:,.0f}",
                    "later and faster with depth (figure B.7, no numbers)",
                ),
                Row(
                    f"{depth} hidden layers: highest ratio, easy over difficult",
                    f"{highest_ratio:.3g}",
                    "higher with depth (figure B.7, no numbers)",
                ),
            ]
        return rows


def _moments(settings: Settings, descent: Descent) -> tuple[int, ...]:
    updates = descent.updates(settings.easy + settings.difficult)
    return moments(updates, settings.points, settings.first)


def _mixed(settings: Settings, kind: str, seed: int) -> Mixture:
    """The mixture that a seed learns; the easy images are the same in both kinds."""
    images = drawn(settings.data, "train", settings.easy + settings.difficult, seed)
    easy = images.inputs[: settings.easy], images.labels[: settings.easy]
    if kind == "random":
        classes = len(images.classes)
        labels = images.labels[settings.easy :]
        # A random label is the right one now and then.
        random = noisy_labels(labels, 1 - 1 / classes, classes, seed).labels
        return mixture(easy, (images.inputs[settings.easy :], random), seed)
    others = drawn(settings.alike, "train", settings.difficult, seed)
    return mixture(easy, (others.inputs, others.labels), seed)


def _followed(
    settings: Settings,
    mixed: Mixture,
    layers: tuple[int, int],
    descent: Descent,
    seed: int,
    advance: Callable[[int], None],
) -> Numbers:
    """The alignment within each group and the accuracy on it, moment by moment."""
    hidden, width = layers
    shape, classes = mixed.inputs.shape[1:], int(mixed.labels.max()) + 1
    module = started(lambda: perceptron(shape, classes, width, hidden), seed)
    members = {
        "easy": (~mixed.difficult).nonzero()[:, 0],
        "difficult": mixed.difficult.nonzero()[:, 0],
    }
    accuracy = Loss(
        {group: (mixed.inputs[own], mixed.labels[own]) for group, own in members.items()}
    )
    samples = {group: own[: settings.sample] for group, own in members.items()}
    chosen = _moments(settings, descent)
    found: dict[str, list[float]] = {group: [] for group in GROUPS}
    told: dict[str, list[float]] = {group: [] for group in GROUPS}
    for count in trained(module, mixed.inputs, mixed.labels, F.cross_entropy, descent, seed):
        advance(min(count, 1))
        if count in chosen:
            right = accuracy.measure(Moment(module, count))
            for group, some in samples.items():
                found[group].append(_aligned(module, mixed.inputs[some], mixed.labels[some]))
                told[group].append(right[group]["accuracy"])
            advance(1)
    return {
        "updates": list(chosen),
        **{group: rounded(torch.tensor(values)) for group, values in found.items()},
        "right": {group: rounded(torch.tensor(values)) for group, values in told.items()},
    }


def _aligned(module: nn.Module, x: Tensor, y: Tensor) -> float:
    # At the start of deep networks the centred kernel is a small part of the whole.
    double = copy.deepcopy(module).double()
    kernel = tangent_kernel(double, x.double(), outputs="all", progress=False)
    return kernel.alignment(y, "samples")


def _reached(updates: Sequence[int], values: Sequence[float], share: float) -> float:
    """When a curve has first made a share of the way from its start to its highest value."""
    aim = values[0] + share * (max(values) - values[0])
    place = next(place for place, value in enumerate(values) if value >= aim)
    if not place:
        return float(updates[0])
    before, after = values[place - 1], values[place]
    part = (aim - before) / (after - before)
    return updates[place - 1] + part * (updates[place] - updates[place - 1])


def _ahead(curves: Numbers) -> float:
    """How much more the easy alignment has risen where it has made half of its way."""
    when = _reached(curves["updates"], curves["easy"], 0.5)
    risen = {
        group: np.interp(when, curves["updates"], curves[group]) - curves[group][0]
        for group in GROUPS
    }
    return float(risen["easy"] - risen["difficult"])


def _ratios(curves: Numbers) -> list[float]:
    """Easy over difficult alignment, moment by moment."""
    return [a / b for a, b in zip(curves["easy"], curves["difficult"], strict=True)]


def _long(curves: Numbers) -> float:
    """For how many updates the ratio is above half of its highest value."""
    updates, ratios = curves["updates"], np.array(_ratios(curves))
    every = np.arange(updates[-1] + 1)
    return float((np.interp(every, updates, ratios) > ratios.max() / 2).sum())


def _kind_panels(runs: Sequence[Numbers]) -> tuple[Panel, ...]:
    colours = {"easy": style.AFTER, "difficult": style.TEST}

    def panel(title: str, values: Callable[[Numbers], Mapping[str, Sequence[float]]]) -> Panel:
        curves = [
            Curve(group, [values(run)[group] for run in runs], colours[group], line)
            for group, line in GROUPS.items()
        ]
        return curves_panel(title, runs[0]["updates"], curves, "updates", "symlog")

    ratio = Curve("ratio", [_ratios(run) for run in runs], style.AFTER, "-")
    return (
        panel("Accuracy on what is taught", lambda run: run["right"]),
        panel("Alignment with the labels", lambda run: run),
        curves_panel(
            "Ratio of alignments, easy over difficult", runs[0]["updates"], [ratio], "updates",
            "symlog",
        ),
    )  # fmt: skip


def _depth_panels(runs: Sequence[Mapping[str, Numbers]]) -> tuple[Panel, ...]:
    colours = style.by_depth(list(runs[0]))
    updates = next(iter(runs[0].values()))["updates"]
    aligned = [
        Curve(f"{depth}, {group}", [run[depth][group] for run in runs], colour, line)
        for depth, colour in colours.items()
        for group, line in GROUPS.items()
    ]
    ratios = [
        Curve(depth, [_ratios(run[depth]) for run in runs], colour, "-")
        for depth, colour in colours.items()
    ]
    return (
        curves_panel("Alignment with the labels", updates, aligned, "updates", "symlog"),
        curves_panel(
            "Ratio of alignments, easy over difficult", updates, ratios, "updates", "symlog"
        ),
    )


register(Hierarchy())
