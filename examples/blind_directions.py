"""A feature that a network cannot see, found before any training.

Two classes differ along one direction of the image, by far enough that a linear classifier is
always right. Whether a convolutional network learns them depends on the direction, and its
architecture says so beforehand: gradients of some thousand random networks have their largest
variance along directions that it will learn, and their smallest along those that it will not.

    1. `directions` finds them from random networks, by differences of the output over a large step.
    2. `sweep` trains new networks, one along each of some of these directions.
    3. The same with logistic regression, which has no preferences.

What shows: the network is right for all new samples along its first directions, for 80 % along
number 101, and guesses along number 201, whose variance is a hundredth of the first one's.
Logistic regression is always right.

Source: Ortiz-Jimenez et al. 2020, figures 1, 5 and 6.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from torch import nn

from pullback.anisotropy import Recipe, directions, models, sweep
from pullback.report.anisotropy import anisotropy_figures, sweep_figures

SHAPE = (1, 16, 16)
PLACES = (0, 3, 10, 30, 100, 200)
RECIPE = Recipe(samples=2000, tests=1000, sigma=0.5, epochs=12, clip=0.5)


def make_model() -> nn.Module:
    """A small network of two convolutions, each followed by max pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 1),
    )  # fmt: skip


def logistic_regression() -> nn.Module:
    """One linear layer."""
    return models.logistic_regression(SHAPE)


def main() -> None:
    """Find, train, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the figures")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    own = directions(make_model, SHAPE, networks=1000, step=100)
    vectors = own.vectors.float()
    network = sweep(make_model, vectors, SHAPE, PLACES, recipe=RECIPE)
    linear = sweep(logistic_regression, vectors, SHAPE, PLACES, recipe=RECIPE)

    shares = own.spectrum / own.spectrum[0]
    numbers = {}
    print("direction  variance  network  logistic regression")
    for row, place in enumerate(PLACES):
        accuracies = float(network.accuracies[row]), float(linear.accuracies[row])
        numbers[f"variance {place}"] = float(shares[place])
        numbers[f"network {place}"], numbers[f"logistic {place}"] = accuracies
        print(f"{place:9}  {shares[place]:8.4f}  {accuracies[0]:7.1%}  {accuracies[1]:19.1%}")

    drawn = sweep_figures(network, directions=own)["accuracy"]
    drawn.savefig(out / "blind_directions.png")
    anisotropy_figures(own, pictures=6)["gallery"].savefig(out / "blind_directions_gallery.png")
    (out / "blind_directions.json").write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
