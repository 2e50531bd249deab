"""Does a network generalise worse where the order of its directions is turned round?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pullback.anisotropy import flipped
from pullback.report.figures import style
from pullback.report.figures.style import Figure
from pullback.studies.anisotropy.images import (
    Learning,
    accuracies,
    intensities,
)
from pullback.studies.anisotropy.preferences import found_directions
from pullback.studies.claims import Claim
from pullback.studies.study import Result, Row, Study, register

KINDS = ("standard", "flipped")
LOGISTIC = "logistic-regression"


@dataclass(frozen=True)
class Settings(Learning):
    """As `Learning`."""

    epochs: int = 50


class Flip(Study):
    """Ortiz-Jimenez et al. 2020, figure 8."""

    name = "flip"
    title = "Images with the coefficients of a network's directions in the opposite order"
    source = "Ortiz-Jimenez et al. 2020, section 4.2 and figure 8"
    about = (
        "Training and test images are turned so that what lay in the first direction of the "
        "network lies in the last one, and so on: an isometry, which takes nothing away. Logistic "
        "regression, which has no directions of its own, learns them besides. The document has "
        "three networks and the whole of CIFAR-10."
    )
    claims = (
        Claim(
            "flipped-worse",
            "The network generalises worse on flipped images.",
            "test accuracy, standard minus flipped images",
            0.0,
            above=True,
        ),
        Claim(
            "both-fitted",
            "It fits the training images of both kinds.",
            "training accuracy, the lower of the two",
            0.99,
            above=True,
        ),
        Claim(
            "logistic-alike",
            "Logistic regression is as good on both.",
            "absolute difference of test accuracy",
            0.03,
            above=False,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=5, train=20_000, test=10_000, networks=5000, epochs=50, batch=128
        ),
        "paper": Settings(
            seeds=1, train=50_000, test=10_000, network="resnet18", networks=10_000, epochs=50,
            batch=128, rate=0.21,
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return 1 + 2 * len(KINDS) * settings.epochs

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        train, test = intensities(settings, unit)
        basis = found_directions(settings, train.inputs.shape[-1], unit).vectors.float()
        advance(1)
        channels = train.inputs.shape[1]
        mean = train.inputs.mean((0, 2, 3), keepdim=True)
        x, new = train.inputs - mean, test.inputs - mean
        turned = (flipped(x, basis, channels), flipped(new, basis, channels))
        kinds = {"standard": (x, new), "flipped": turned}
        return [
            {
                "seed": unit,
                **{
                    network: {
                        kind: accuracies(
                            settings,
                            (x, train.labels),
                            (new, test.labels),
                            len(train.classes),
                            unit,
                            advance,
                            network,
                        )
                        for kind, (x, new) in kinds.items()
                    }
                    for network in (settings.network, LOGISTIC)
                },
                "network": settings.network,
            }
        ]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        network, logistic = result[result["network"]], result[LOGISTIC]
        return {
            "flipped-worse": network["standard"][1] - network["flipped"][1],
            "both-fitted": min(network[kind][0] for kind in KINDS),
            "logistic-alike": abs(logistic["standard"][1] - logistic["flipped"][1]),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        names = (results[0]["network"], LOGISTIC)
        means = {
            kind: [np.mean([one[name][kind][1] for one in results]) for name in names]
            for kind in KINDS
        }
        with style.axes() as (canvas, ax):
            for shift, (kind, colour) in enumerate(
                zip(KINDS, (style.AFTER, style.TEST), strict=True)
            ):
                places = np.arange(len(names)) + 0.38 * (shift - 0.5)
                ax.bar(places, means[kind], 0.36, color=colour, label=kind)
                for place, name in zip(places, names, strict=True):
                    dots = [one[name][kind][1] for one in results]
                    ax.plot([place] * len(dots), dots, "o", color=style.INK, markersize=3)
            ax.set_xticks(range(len(names)), names)
            ax.legend()
            said = "; ".join(
                f"{name} {means['standard'][place]:.3g} and {means['flipped'][place]:.3g}"
                for place, name in enumerate(names)
            )
            panel = style.panel(canvas, "Test accuracy", f"Bars, standard and flipped: {said}.")
        return [
            Figure(
                "accuracy",
                "Standard and flipped images",
                "Means over seeds, which are the dots.",
                (panel,),
            )
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        rows = []
        for name in (results[0]["network"], LOGISTIC):
            for kind in KINDS:
                train, test = np.mean([one[name][kind] for one in results], 0)
                document = "significantly lower" if kind == "flipped" else "bars, no numbers"
                rows.append(
                    Row(
                        f"training and test accuracy, {name}, {kind}",
                        f"{train:.1%}, {test:.1%}",
                        document if name != LOGISTIC else "not shown",
                    )
                )
        return rows


register(Flip())
