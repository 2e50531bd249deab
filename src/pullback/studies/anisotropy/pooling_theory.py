"""Does pooling lose and slow down directions as its closed forms say?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from pullback.anisotropy import fourier_basis, separable
from pullback.anisotropy.closed_forms import (
    SIGNALS,
    average_response,
    convergence_ratio,
    pooled_accuracy,
)
from pullback.probes import log_spaced
from pullback.report.figures import style
from pullback.report.figures.style import Figure, Panel
from pullback.report.numbers import rounded
from pullback.studies.claims import Claim
from pullback.studies.parts import Descent, rank_correlation, started, trained
from pullback.studies.study import Result, Row, Study, register

NEAR = 0.1  # of the way from no signal at all to the best loss, what may be left of it
TICKS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


@dataclass(frozen=True)
class Settings:
    """Which signals are pooled, what is measured of them, and how the linear model is trained.

    Attributes:
        seeds: of everything drawn.
        size: D, of the signals.
        factor: S, of average pooling.
        frequencies: whose directions are told apart after pooling, each less than D/2 and not its
            own mirror after aliasing.
        samples: to fit a classifier or the linear model to, and as many new ones for the former.
        epsilon: how far each class is from 0.
        sigma: of the noise, in front of a classifier.
        places: l, where the signal of the linear model is.
        weak: sigma of the linear model's noise.
        start: standard deviation of its weights.
        descent: plain stochastic gradient descent.
        moments: how often its loss is kept.
    """

    seeds: int = 3
    size: int = 128
    factor: int = 4
    frequencies: tuple[int, ...] = tuple(range(1, 64, 4))
    samples: int = 20_000
    epsilon: int | float = 1.0
    sigma: int | float = 1.0
    places: tuple[int, ...] = (0, 8, 16, 20, 24, 28, 30, 40, 48)
    weak: int | float = 0.3
    start: int | float = 0.1
    descent: Descent = Descent(epochs=15, momentum=0.0, falling=False)
    moments: int = 80


class Pooling(Study):
    """Ortiz-Jimenez et al. 2020, figure 4."""

    name = "pooling"
    title = "What average pooling loses of a direction, and how it slows learning down"
    source = "Ortiz-Jimenez et al. 2020, sections 2.1 and 2.2, figure 4, appendices B.1 and B.2"
    about = (
        "Samples of two classes that differ along one Fourier direction go through average "
        "pooling; a linear classifier is fitted to the pooled ones, and judged on new ones. Beside "
        "it stands the best accuracy in closed form: for complex signals with circular noise, "
        "which the document's proof is about, and for real ones. Then a linear model with pooling "
        "inside is trained by stochastic gradient descent on a signal at one frequency after the "
        "other, in the noise of all. The document does not say what noise, weights and rate its "
        "figure has."
    )
    claims = (
        Claim(
            "complex-agrees",
            "The best accuracy for complex signals is that of the closed form.",
            "largest absolute difference of fitted and predicted accuracy over frequencies",
            0.02,
            above=False,
        ),
        Claim(
            "real-agrees",
            "The best accuracy for real signals is that of the closed form.",
            "largest absolute difference of fitted and predicted accuracy over frequencies",
            0.02,
            above=False,
        ),
        Claim(
            "uneven",
            "How much is lost depends on the direction.",
            "range of the fitted accuracies of real signals over frequencies",
            0.1,
            above=True,
        ),
        Claim(
            "same-optimum",
            "The best loss of the linear model is the same for all frequencies, σ² / (ε² + σ²).",
            "largest relative difference of the least-squares optimum from it over frequencies",
            0.05,
            above=False,
        ),
        Claim(
            "slower",
            "The smaller the ratio ζ of a frequency, the later it is learned.",
            "rank correlation of ζ and the updates to a loss near the best; never comes last",
            -0.7,
            above=False,
        ),
    )
    sizes: Mapping[str, Settings] = {
        "quick": Settings(),
        "full": Settings(
            seeds=10, frequencies=tuple(range(1, 64, 2)), samples=50_000,
            places=(0, 4, 8, 12, 16, 20, 22, 24, 26, 28, 29, 30, 40, 48, 56, 60),
            descent=Descent(epochs=8, momentum=0.0, falling=False),
        ),
        "paper": Settings(
            seeds=3, frequencies=tuple(range(1, 64, 2)), samples=100_000,
            places=(0, 4, 8, 12, 16, 20, 22, 24, 26, 28, 29, 30, 40, 48, 56, 60),
            descent=Descent(epochs=4, momentum=0.0, falling=False),
        ),
    }  # fmt: skip

    def units(self, settings: Settings) -> int:
        return settings.seeds

    def steps(self, settings: Settings) -> int:
        return len(SIGNALS) * len(settings.frequencies) + len(settings.places)

    def measure(
        self, settings: Settings, unit: int, advance: Callable[[int], None]
    ) -> Sequence[Result]:
        measured: dict[str, list[float]] = {signals: [] for signals in SIGNALS}
        draw = {"real": _pooled_real, "complex": _pooled_complex}
        for signals in SIGNALS:
            for frequency in settings.frequencies:
                x, y = draw[signals](settings, frequency, (unit << 16) + frequency)
                measured[signals].append(_fitted(x, y))
                advance(1)
        response = average_response(settings.size, settings.factor).abs()
        ratios = convergence_ratio(response, settings.epsilon, settings.weak)
        runs = []
        for place in settings.places:
            runs.append(_learned(settings, response, place, unit))
            advance(1)
        return [
            {
                "seed": unit,
                "frequencies": list(settings.frequencies),
                "measured": measured,
                "error": 0.5 / math.sqrt(settings.samples),
                "known": _known(settings),
                "formula": _formula(settings),
                "places": list(settings.places),
                "zeta": rounded(ratios[list(settings.places)]),
                "best": _best(settings),
                "optima": [run.optimum for run in runs],
                "moments": list(_moments(settings)),
                "losses": [run.losses for run in runs],
                "updates": [run.updates for run in runs],
            }
        ]

    def statistics(self, result: Result) -> Mapping[str, float | None]:
        real = result["measured"]["real"]
        updates = [math.inf if one is None else one for one in result["updates"]]
        optima = np.array(result["optima"]) / result["best"]
        return {
            "complex-agrees": float(np.abs(_differences(result, "complex")).max()),
            "real-agrees": float(np.abs(_differences(result, "real")).max()),
            "uneven": max(real) - min(real),
            "same-optimum": float(np.abs(optima - 1).max()),
            "slower": rank_correlation(result["zeta"], updates),
        }

    def figures(self, results: Sequence[Result]) -> list[Figure]:
        return [
            Figure(
                "information",
                "What is left after pooling",
                "Best accuracy by the frequency of the direction: closed forms as lines, fitted "
                "classifiers as dots, means over seeds. The dotted line is the formula as printed; "
                "at a factor of 4 it is that of complex signals.",
                (_information(results),),
            ),
            Figure(
                "landscape",
                "How soon a signal is learned behind pooling",
                "First, the loss on the training samples, a mean over seeds, for each signal by "
                "its ratio ζ; the dotted line is the best possible, the same for all. Second, the "
                f"updates to the loss of which {NEAR:.0%} of the way down are left, for each seed "
                "that comes so far.",
                (_losses(results), _slowness(results)),
            ),
        ]

    def table(self, results: Sequence[Result]) -> list[Row]:
        rows = []
        for signals in SIGNALS:
            for kind, words in ((signals, "closed form"), ("printed", "formula as printed")):
                gaps = [np.abs(_differences(one, signals, kind)).max() for one in results]
                rows.append(
                    Row(
                        f"{signals} signals, largest distance from the {words}",
                        f"{np.mean(gaps):.3f}",
                        "0" if kind == "printed" else "not given",
                    )
                )
        rows.append(
            Row("standard error of an accuracy", f"{results[0]['error']:.2g}", "not measured")
        )
        means = np.mean([one["measured"]["real"] for one in results], 0)
        rows.append(
            Row(
                "real signals, lowest and highest accuracy",
                f"{means.min():.1%}, {means.max():.1%}",
                "anisotropic (figure 4a)",
            )
        )
        optima = np.mean([one["optima"] for one in results], 0)
        rows.append(
            Row(
                "linear model, lowest and highest best loss",
                f"{optima.min():.4f}, {optima.max():.4f}",
                f"the same for all, {results[0]['best']:.4f}",
            )
        )
        for place in (np.argmax(results[0]["zeta"]), np.argmin(results[0]["zeta"])):
            known = [one["updates"][place] for one in results]
            rows.append(
                Row(
                    f"linear model, updates until near the best, ζ = {_short(results, int(place))}",
                    ", ".join("never" if one is None else str(one) for one in known),
                    "slow for small ζ (figure 4b)",
                )
            )
        return rows


@dataclass(frozen=True)
class _Run:
    """How the linear model learned one signal.

    Attributes:
        optimum: the least loss that any of its weights have on the training samples.
        losses: on these, at some moments.
        updates: until the loss was near the best; None for never.
    """

    optimum: float
    losses: list[float]
    updates: int | None


class _PooledModel(nn.Module):
    """`theta^T A (m * phi * x)`, with normal weights."""

    response: Tensor

    def __init__(self, response: Float[Tensor, " D"], factor: int, start: int | float) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer("response", response)
        self.theta = nn.Parameter(start * torch.randn(len(response) // factor))
        self.phi = nn.Parameter(start * torch.randn(len(response)))

    def forward(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n 1"]:
        # A^T theta: each of the S frequencies that are added up has the same weight.
        weights = self.theta.repeat(self.factor) / math.sqrt(self.factor)
        found: Tensor = x @ (weights * self.response * self.phi)[:, None]
        return found


def _pooled_real(
    settings: Settings, frequency: int, seed: int
) -> tuple[Float[Tensor, "n M"], Float[Tensor, " n"]]:
    """Twice as many pooled samples as are fitted, of the real vector of a frequency."""
    basis = fourier_basis((settings.size,))
    direction = basis.vectors[basis.place((frequency,))]
    x, y = separable(direction, 2 * settings.samples, settings.epsilon, settings.sigma, seed)
    return _pooled(x, settings.factor), y


def _pooled_complex(
    settings: Settings, frequency: int, seed: int
) -> tuple[Float[Tensor, "n k"], Float[Tensor, " n"]]:
    """The same for complex signals, with circular noise at all frequencies but that one.

    Real and imaginary parts stand side by side.
    """
    generator = torch.Generator().manual_seed(seed)
    count = 2 * settings.samples
    y = torch.randint(0, 2, (count,), generator=generator).float() * 2 - 1
    spectra = settings.sigma * torch.randn(
        count, settings.size, generator=generator, dtype=torch.complex64
    )
    spectra[:, frequency] = settings.epsilon * y
    x = torch.fft.ifft(spectra, norm="ortho")
    return torch.cat([_pooled(one, settings.factor) for one in (x.real, x.imag)], 1), y


def _pooled(x: Float[Tensor, "n D"], factor: int) -> Float[Tensor, "n M"]:
    return F.avg_pool1d(x[:, None], factor)[:, 0]


def _fitted(x: Float[Tensor, "n k"], y: Float[Tensor, " n"]) -> float:
    """On half of the samples, the accuracy of the discriminant that fits the other half best.

    Classes are equal but for the sign, so that Fisher's linear discriminant, which is the best
    classifier for normal noise, is the least-squares solution without a constant.
    """
    half = len(x) // 2
    weights = torch.linalg.lstsq(x[:half], y[:half, None]).solution[:, 0]
    return float(((x[half:] @ weights > 0) == (y[half:] > 0)).double().mean())


def _formula(settings: Settings) -> dict[str, list[float]]:
    """What the closed forms say, by the name of each."""
    of = partial(
        pooled_accuracy,
        average_response(settings.size, settings.factor),
        settings.factor,
        settings.epsilon,
        settings.sigma,
    )
    kinds = {signals: of(signals=signals) for signals in SIGNALS} | {"printed": of(printed=True)}
    return {kind: rounded(found[_known(settings)]) for kind, found in kinds.items()}


def _known(settings: Settings) -> list[int]:
    """The frequencies for which the closed forms hold: no alias is its own mirror."""
    aliases = settings.size // settings.factor
    return [one for one in range(settings.size // 2) if 2 * one % aliases]


def _best(settings: Settings) -> float:
    """The least mean loss of the linear model, for any place of the signal."""
    return settings.weak**2 / (settings.epsilon**2 + settings.weak**2)


def _moments(settings: Settings) -> tuple[int, ...]:
    return log_spaced(settings.descent.updates(settings.samples), settings.moments)


def _learned(settings: Settings, response: Float[Tensor, " D"], place: int, seed: int) -> _Run:
    generator = torch.Generator().manual_seed(seed)
    x = settings.weak * torch.randn(settings.samples, settings.size, generator=generator)
    y = torch.randint(0, 2, (settings.samples,), generator=generator).float() * 2 - 1
    x[:, place] += settings.epsilon * y
    model = started(lambda: _PooledModel(response, settings.factor, settings.start), seed)
    moments, losses = _moments(settings), []
    for count in trained(model, x, y, _squares, settings.descent, seed):
        if count in moments:
            with torch.no_grad():
                losses.append(float(_squares(model(x), y)))
    aim = _best(settings) + NEAR * (1 - _best(settings))
    reached = [moment for moment, one in zip(moments, losses, strict=True) if one <= aim]
    return _Run(
        _least_squares(x * response, y),
        rounded(torch.tensor(losses)),
        min(reached, default=None),
    )


def _squares(outputs: Float[Tensor, "n 1"], labels: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    return (outputs[:, 0] - labels).square().mean()


def _least_squares(x: Float[Tensor, "n D"], y: Float[Tensor, " n"]) -> float:
    """The least mean square that a linear function of some numbers leaves."""
    seen = x[:, x.abs().amax(0) > 1e-6]
    weights = torch.linalg.lstsq(seen, y[:, None]).solution
    return float(_squares(seen @ weights, y))


def _differences(result: Result, signals: str, formula: str | None = None) -> NDArray[np.float64]:
    """Fitted minus predicted accuracies."""
    places = [result["known"].index(one) for one in result["frequencies"]]
    predicted = np.array(result["formula"][signals if formula is None else formula])[places]
    return np.array(result["measured"][signals]) - predicted


def _short(results: Sequence[Result], place: int) -> str:
    return style.short(results[0]["zeta"][place])


def _information(results: Sequence[Result]) -> Panel:
    known, formula = results[0]["known"], results[0]["formula"]
    looks = {"complex": (style.TEST, "s"), "real": (style.AFTER, "o")}
    said = []
    with style.axes() as (canvas, ax):
        for signals, (colour, marker) in looks.items():
            ax.plot(
                known, formula[signals], color=colour,
                label=f"closed form, {signals} signals",
            )  # fmt: skip
            means = np.mean([one["measured"][signals] for one in results], 0)
            ax.plot(
                results[0]["frequencies"], means, marker, color=colour, markeredgecolor="white",
                markersize=5.5, label=f"fitted, {signals} signals",
            )  # fmt: skip
            said.append(f"{signals} signals from {means.max():.3f} to {means.min():.3f}")
        ax.plot(known, formula["printed"], ":", color=style.INK, label="as printed")
        ax.set_xlabel("frequency of the direction")
        ax.legend()
        return style.panel(
            canvas, "Best accuracy", f"Line chart over frequencies: {'; '.join(said)}."
        )


def _losses(results: Sequence[Result]) -> Panel:
    order = np.argsort(results[0]["zeta"])[::-1].tolist()
    colours = style.by_depth([str(place) for place in order])
    named = style.legend_names(list(colours), limit=10)
    means = np.mean([one["losses"] for one in results], 0)
    moments = results[0]["moments"]
    with style.axes() as (canvas, ax):
        for place in order:
            ax.plot(
                moments, means[place], color=colours[str(place)],
                label=f"ζ = {_short(results, place)}" if str(place) in named else None,
            )  # fmt: skip
        ax.axhline(results[0]["best"], linestyle=":", color=style.FAINT)
        ax.set_ylim(bottom=0)
        style.time_axis(ax, moments[-1])
        ax.legend(ncols=2)
        ends = means[:, -1]
        alt = f"Line chart over updates: losses end between {ends.min():.3g} and {ends.max():.3g}."
        return style.panel(canvas, "Training loss", alt)


def _slowness(results: Sequence[Result]) -> Panel:
    said = []
    with style.axes() as (canvas, ax):
        for one in results:
            for zeta, updates in zip(one["zeta"], one["updates"], strict=True):
                if updates is not None:
                    ax.plot(zeta, updates, "o", color=style.AFTER, alpha=0.6)
                    said.append(f"{updates} at {style.short(zeta)}")
        style.decades(ax, "y")
        ax.set_xscale("log")
        zetas = results[0]["zeta"]
        ticks = [one for one in TICKS if min(zetas) / 1.2 <= one <= 1.2 * max(zetas)]
        ax.set_xticks(ticks, [f"{one:g}" for one in ticks])
        ax.minorticks_off()
        ax.set_xlabel("ζ (logarithmic)")
        alt = f"Dots over ζ, updates: {', '.join(said)}."
        return style.panel(canvas, "Updates to a loss near the best", alt)


register(Pooling())
