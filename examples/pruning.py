"""Pruning a network by how little its predictions notice: Fisher saliency in two bases.

To set a coordinate w_i to zero moves the predictions by `F_ii w_i^2` (twice the divergence, to
second order). In the plain basis the coordinates are weights and F_ii its diagonal; in the
eigenvectors U of a Kronecker factored F they are the rotated weights `U^T w`, and the eigenvalues
weigh them. What is pruned there are directions, so this measures how few numbers describe the
function; U is not counted, and the savings that Wang et al. get from whole rows and columns of the
rotated weights are not shown.

What shows (means over three seeds): with 90 % pruned in the eigenvectors accuracy is still 97 %.
In the plain basis it is 60 % by magnitude, and the diagonal of F is no better than magnitude once
more than half is pruned: it does not see that weights make up for each other.

Source: LeCun et al. 1990 ("Optimal brain damage"); Wang et al. 2019 ("EigenDamage").
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import pullback as pb

SEEDS = (0, 1, 2)
SHARES = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
CRITERIA = ("magnitude", "diagonal", "kfac", "ekfac")
EPOCHS = 40
BATCH = 64


def trained(x: Tensor, y: Tensor) -> nn.Module:
    """A small network that has learned the digits."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(y)).split(BATCH):
            optimiser.zero_grad()
            cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
    return model


def coordinates(
    weights: pb.ParameterVector, fisher: pb.Metric
) -> tuple[Tensor, Tensor, pb.ParameterVector]:
    """The weights along all eigenvectors of the metric, their saliencies, the eigenvectors."""
    values, vectors = fisher.eigh(weights.space.size)
    along = vectors @ weights
    return along, values * along.square(), vectors


def run(seeds: tuple[int, ...] = SEEDS) -> dict[str, float]:
    """Test loss and accuracy by criterion and pruned share: "ekfac 0.9 loss", means over seeds."""
    digits, test = (pb.data.load("digits", split=split) for split in ("train", "test"))
    found: dict[str, list[float]] = {}
    for seed in seeds:
        torch.manual_seed(seed)
        model = trained(digits.inputs, digits.labels)
        weights = pb.ParameterVector.from_model(model)
        for criterion in CRITERIA:
            representation = "diagonal" if criterion == "magnitude" else criterion
            fisher = pb.fisher(model, digits.inputs, "categorical", representation)
            along, saliency, vectors = coordinates(weights, fisher)
            if criterion == "magnitude":
                saliency = along.square()
            order = saliency.argsort()
            for share in SHARES:
                kept = along.clone()
                kept[order[: round(share * len(order))]] = 0
                weights.space.vector(kept @ vectors.flat).copy_to(model)
                with torch.no_grad():
                    outputs = model(test.inputs)
                right = (outputs.argmax(1) == test.labels).float().mean()
                loss = cross_entropy(outputs, test.labels)
                found.setdefault(f"{criterion} {share:g} accuracy", []).append(100 * float(right))
                found.setdefault(f"{criterion} {share:g} loss", []).append(float(loss))
            weights.copy_to(model)
    return {key: sum(values) / len(values) for key, values in found.items()}


def draw(numbers: dict[str, float], path: Path) -> None:
    """Accuracy against the pruned share."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="pruned share", ylabel="test accuracy, %")
    for criterion, marker in zip(CRITERIA, "xs^o", strict=True):
        over = [numbers[f"{criterion} {share:g} accuracy"] for share in SHARES]
        axes.plot(SHARES, over, marker=marker, label=criterion)
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pruning by Fisher saliency on digits.")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for figure and numbers")
    out = parser.parse_args().out
    numbers = run()
    for quantity, form in (("accuracy", ".1f"), ("loss", ".3f")):
        print(f"{'test ' + quantity:<14}" + "".join(f"{share:>8.0%}" for share in SHARES))
        for criterion in CRITERIA:
            row = (numbers[f"{criterion} {share:g} {quantity}"] for share in SHARES)
            print(f"{criterion:<14}" + "".join(f"{value:>8{form}}" for value in row))
    (out / "pruning.json").write_text(json.dumps(numbers, indent=1))
    draw(numbers, out / "pruning.png")


if __name__ == "__main__":
    main()
