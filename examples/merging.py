"""Merging two networks by what each is sure of: a Fisher-weighted average.

From one start, two networks are fine-tuned on different classes, digits 0 to 4 and 5 to 9. Their
plain average `(w_1 + w_2) / 2` gives every parameter of both the same say. If each weight vector
is instead a normal distribution `N(w_k, F_k^-1)`, the most probable common one is

    w = (F_1 + F_2 + 2 eps I)^-1 ((F_1 + eps I) w_1 + (F_2 + eps I) w_2),

where eps keeps the average in directions that neither F knows of. With diagonal F this is one
division. The sum of two Kronecker factored matrices is none, and the exact F ("implicit") is never
written out, so these are solved by conjugate gradients, with products alone.

What shows (means over three seeds): parents 63 % and 70 %, plain average 92.5 %, by EKFAC and the
exact F 95 %. The diagonal, of which Matena and Raffel report gains, gives no more than the plain
average here (92.7 %). eps is chosen by validation accuracy.

Source: Matena and Raffel 2022 (diagonal); Tam et al. 2024 (conjugate gradients).
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from matplotlib.figure import Figure
from scipy.sparse import eye_array
from scipy.sparse.linalg import aslinearoperator, cg
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import pullback as pb

SEEDS = (0, 1, 2)
REPRESENTATIONS = ("diagonal", "ekfac", "implicit")
EPS = (1e-3, 1e-2, 1e-1)
START = 100  # images that the common start has seen
VALIDATION = 200  # images that choose eps
STEPS = 200
BATCH = 64

Set = tuple[Tensor, Tensor]


def train(model: nn.Module, data: Set, rate: float) -> None:
    """Minimise the cross-entropy."""
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(STEPS):
        batch = torch.randint(len(data[1]), (BATCH,))
        optimiser.zero_grad()
        cross_entropy(model(data[0][batch]), data[1][batch]).backward()
        optimiser.step()


def merged(
    weights: tuple[pb.ParameterVector, pb.ParameterVector],
    fishers: tuple[pb.Metric, pb.Metric],
    eps: float,
) -> pb.ParameterVector:
    """The Fisher-weighted average: the plain one and a move that the difference calls for."""
    (w1, w2), (f1, f2) = weights, fishers
    pull = (f1 @ (w1 - w2) - f2 @ (w1 - w2)) / 2
    if f1.representation == "diagonal":
        return (w1 + w2) / 2 + (f1 + f2).solve(pull, damping=2 * eps)
    identity = aslinearoperator(eye_array(pull.space.size))
    total = f1.to_scipy() + f2.to_scipy() + 2 * eps * identity
    move, _ = cg(total, pull.flat.double().numpy(), rtol=1e-3, maxiter=300)
    return (w1 + w2) / 2 + pull.space.vector(torch.from_numpy(move).float())


def accuracy(model: nn.Module, data: Set) -> float:
    """The share of right answers, in percent."""
    return 100 * float((model(data[0]).argmax(1) == data[1]).float().mean())


def run(seeds: tuple[int, ...] = SEEDS) -> dict[str, float]:
    """Test accuracies in percent: of the start, both parents and each merger; means over seeds."""
    digits, images = (pb.data.load("digits", split=split) for split in ("train", "test"))
    x, y = digits.inputs.flatten(1), digits.labels
    test = (images.inputs.flatten(1), images.labels)
    found: dict[str, list[float]] = {}

    def note(key: str, model: nn.Module) -> None:
        found.setdefault(key, []).append(accuracy(model, test))

    for seed in seeds:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        train(model, (x[:START], y[:START]), rate=3e-3)
        note("start", model)
        validation = slice(START, START + VALIDATION)
        rest_x, rest_y = x[START + VALIDATION :], y[START + VALIDATION :]
        parents, halves = [], [rest_y < 5, rest_y >= 5]
        for name, half in zip(("digits 0-4", "digits 5-9"), halves, strict=True):
            parents.append(copy.deepcopy(model))
            train(parents[-1], (rest_x[half], rest_y[half]), rate=1e-3)
            note(name, parents[-1])
        w1, w2 = (pb.ParameterVector.from_model(parent) for parent in parents)
        ((w1 + w2) / 2).copy_to(model)
        note("average", model)
        for representation in REPRESENTATIONS:
            f1, f2 = (
                pb.fisher(parent, rest_x[half], "categorical", representation)
                for parent, half in zip(parents, halves, strict=True)
            )
            scored = []
            for eps in EPS:
                merger = merged((w1, w2), (f1, f2), eps)
                merger.copy_to(model)
                note(f"{representation} {eps:g}", model)
                scored.append((accuracy(model, (x[validation], y[validation])), merger))
            max(scored, key=lambda pair: pair[0])[1].copy_to(model)
            note(f"{representation} chosen", model)
    return {key: sum(values) / len(values) for key, values in found.items()}


def draw(numbers: dict[str, float], path: Path) -> None:
    """Accuracy of the mergers against eps."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="eps", ylabel="test accuracy on all digits, %", xscale="log")
    for representation, marker in zip(REPRESENTATIONS, "so^", strict=True):
        over = [numbers[f"{representation} {eps:g}"] for eps in EPS]
        axes.plot(EPS, over, marker=marker, label=f"Fisher-weighted, {representation}")
    axes.axhline(numbers["average"], color="black", label="plain average")
    axes.axhline(numbers["start"], color="grey", linestyle=":", label="start")
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Merging networks by their Fisher information.")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for figure and numbers")
    out = parser.parse_args().out
    numbers = run()
    print(f"{'accuracy, %':<18}{'all digits':>10}")
    for key, value in numbers.items():
        print(f"{key:<18}{value:>10.1f}")
    (out / "merging.json").write_text(json.dumps(numbers, indent=1))
    draw(numbers, out / "merging.png")


if __name__ == "__main__":
    main()
