"""The report in two sentences and a few numbers."""

from __future__ import annotations

from pullback.probes import series
from pullback.report.figures.style import short
from pullback.report.numbers import Measured, Summary, Tile

SIGNIFICANT = 0.1
"""By which share the effective rank has to change to be called a change."""


def summarise(measured: Measured) -> Summary:
    """What the top of the page says."""
    return Summary(headline=headline(measured), tiles=tiles(measured))


def headline(measured: Measured) -> str:
    """What happened, in words."""
    name, data = measured["network"]["name"], measured["data"]["name"]
    article = "" if name[0].isupper() else ("An " if name[0] in "aeiou" else "A ")
    subject = f"{article}{name} with {measured['network']['parameters']:,} parameters"
    training = measured["training"]
    if training is None:
        return f"{subject}, measured as given on {data}, without training."
    split = _split(measured)
    _, accuracies = series(measured["series"], "loss", split, "accuracy")
    return (
        f"{subject} learned {data} in {training['steps']:,} updates: its {split} accuracy went "
        f"from {accuracies[0]:.0%} to {accuracies[-1]:.0%}. Meanwhile its tangent kernel "
        f"{_growth(measured)}, {_spread(measured)}, and {_turn(measured)}."
    )


def _split(measured: Measured) -> str:
    return "test" if "test" in measured["series"][0]["loss"] else "train"


def _growth(measured: Measured) -> str:
    _, traces = series(measured["series"], "spectrum", "trace", "all")
    ratio = traces[-1] / traces[0]
    return f"grew {short(ratio)}-fold" if ratio > 1 else f"shrank to {ratio:.0%} of its size"


def _spread(measured: Measured) -> str:
    steps, ranks = series(measured["series"], "effective_rank", "all")
    first, last, least = ranks[0], ranks[-1], min(ranks)
    numbers = f"effective rank {first:.0f} to {last:.0f}"
    dipped = least < (1 - SIGNIFICANT) * min(first, last)
    if dipped:
        step = steps[ranks.index(least)]
        numbers = (
            f"effective rank {first:.0f}, {least:.0f} after {step:,} updates, {last:.0f} at the end"
        )
    if last < (1 - SIGNIFICANT) * first:
        return f"concentrated on fewer functions ({numbers})"
    if dipped:
        return f"concentrated on fewer functions for a while ({numbers})"
    if last > (1 + SIGNIFICANT) * first:
        return f"spread over more functions ({numbers})"
    return f"kept about as many functions ({numbers})"


def _turn(measured: Measured) -> str:
    _, aligned = series(measured["series"], "alignment", "samples", "all")
    direction = "towards the labels" if aligned[-1] > aligned[0] else "away from the labels"
    return f"turned {direction} (alignment {aligned[0]:.2f} to {aligned[-1]:.2f})"


def tiles(measured: Measured) -> list[Tile]:
    """The numbers at the top."""
    fishers, split = measured["fishers"], _split(measured)
    accuracy = _ends(measured, "loss", split, "accuracy")
    rank = _ends(measured, "effective_rank", "all")
    aligned = _ends(measured, "alignment", "samples", "all")
    drift = _ends(measured, "drift", "all")
    pairs = {
        f"{split} accuracy": [f"{value:.1%}" for value in accuracy],
        "effective rank of the kernel": [f"{value:.1f}" for value in rank],
        "alignment with the labels": [f"{value:.2f}" for value in aligned],
        "trace of the Fisher matrix": [short(f["trace"]) for f in (fishers[0], fishers[-1])],
    }
    if measured["training"] is None:
        return [Tile(name=name, before=None, value=value) for name, (_, value) in pairs.items()]
    pairs["alignment with the first kernel"] = ["1", f"{drift[1]:.2f}"]
    return [Tile(name=name, before=a, value=b) for name, (a, b) in pairs.items()]


def _ends(measured: Measured, *path: str) -> tuple[float, float]:
    """The first and the last value of a series."""
    _, values = series(measured["series"], *path)
    return values[0], values[-1]
