"""Which training images did a prediction come from? Influence functions, checked by retraining.

Without training sample i the loss of a test image changes by about `1/n g_test^T H^-1 g_i`, with g
the gradients of single losses and H the Hessian of what was minimised, `F + lambda I` for logistic
regression with the penalty `lambda/2 |w|^2`. The model is trained again without each of 100 images,
and the changes compared with the predicted ones, for the test images of the largest loss. A
positive change is that of an image that helped.

What shows: with the exact F the correlation is 0.99, though the true changes of the most
influential images are larger than the first order says (slope 1.7: true over predicted). Kronecker
factors keep a correlation of 0.84; the diagonal, 0.50, is too crude to be of use.

Source: Koh and Liang 2017; Grosse et al. 2023 (EKFAC).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

import pullback as pb

TRAINING = 500
LEFT_OUT = 100  # of these, each in turn
PENALTY = 1e-2
QUERIES = 5  # the test images of the largest loss
REPRESENTATIONS = ("diagonal", "kfac", "ekfac", "dense")


def fit(model: nn.Module, x: Tensor, y: Tensor, weights: Tensor) -> None:
    """Minimise `sum_i weights_i loss_i + penalty/2 |w|^2` to convergence."""
    parameters = list(model.parameters())
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=300,
        tolerance_grad=1e-7,
        tolerance_change=0,
        history_size=30,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = weights @ cross_entropy(model(x), y, reduction="none")
        loss = loss + PENALTY / 2 * sum(p.square().sum() for p in parameters)
        loss.backward()
        return loss

    optimiser.step(closure)


def slopes(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each sample's loss by its outputs, (n, c)."""
    outputs = model(x).detach()
    return outputs.softmax(1) - one_hot(y, outputs.shape[1])


def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The loss of each sample."""
    return cross_entropy(model(x), y, reduction="none").detach()


def changes() -> tuple[Tensor, dict[str, Tensor]]:
    """True and predicted changes of the test losses, each (queries, left out)."""
    train = pb.data.load("digits", split="train", samples=TRAINING)
    test = pb.data.load("digits", split="test")
    x, y = train.inputs.flatten(1).double(), train.labels
    model = nn.Linear(64, 10).double()
    uniform = torch.full((TRAINING,), 1 / TRAINING, dtype=torch.float64)
    pb.ParameterVector.from_model(model).space.zeros().copy_to(model)
    fit(model, x, y, uniform)
    optimum = pb.ParameterVector.from_model(model)

    test_x, test_y = test.inputs.flatten(1).double(), test.labels
    hardest = losses(model, test_x, test_y).topk(QUERIES).indices
    test_x, test_y = test_x[hardest], test_y[hardest]

    # One gradient for each query: a cotangent that is zero on the other images.
    cotangents = torch.diag_embed(slopes(model, test_x, test_y).T).permute(1, 2, 0)
    gradients = pb.jacobian(model, test_x).pull(cotangents)
    jacobian = pb.jacobian(model, x[:LEFT_OUT])
    predicted = {}
    for representation in REPRESENTATIONS:
        fisher = pb.fisher(model, x, "categorical", representation)
        response = fisher.solve(gradients, damping=PENALTY)
        # g_i^T v is the slope of sample i along J v: no gradient of a single sample is formed.
        along = torch.linalg.vecdot(
            jacobian.push(response), slopes(model, x[:LEFT_OUT], y[:LEFT_OUT])
        )
        predicted[representation] = along / TRAINING

    before = losses(model, test_x, test_y)
    actual = torch.empty(QUERIES, LEFT_OUT, dtype=torch.float64)
    for left_out in range(LEFT_OUT):
        weights = uniform.clone()
        weights[left_out] = 0
        optimum.copy_to(model)
        fit(model, x, y, weights)
        actual[:, left_out] = losses(model, test_x, test_y) - before
    return actual, predicted


def compare(actual: Tensor, predicted: dict[str, Tensor]) -> dict[str, float]:
    """For each representation, the correlation (mean over queries) and the slope."""
    numbers = {}
    for name, own in predicted.items():
        pairs = [torch.corrcoef(torch.stack(rows))[0, 1] for rows in zip(actual, own, strict=True)]
        numbers[f"{name} correlation"] = float(torch.stack(pairs).mean())
        numbers[f"{name} slope"] = float((actual * own).sum() / own.square().sum())
    return numbers


def run() -> dict[str, float]:
    """Correlation and slope of true against predicted changes: "dense correlation", ..."""
    return compare(*changes())


def draw(actual: Tensor, predicted: dict[str, Tensor], path: Path) -> None:
    """True against predicted changes."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="predicted change of a test loss", ylabel="after retraining")
    for name in ("ekfac", "dense"):
        axes.plot(predicted[name].flatten(), actual.flatten(), ".", markersize=3, label=name)
    ends = [float(actual.min()), float(actual.max())]
    axes.plot(ends, ends, color="grey", linewidth=0.8)
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Influence functions against retraining.")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for figure and numbers")
    out = parser.parse_args().out
    actual, predicted = changes()
    numbers = compare(actual, predicted)
    print(f"{'metric':<12}{'correlation':>12}{'slope':>8}")
    for name in predicted:
        print(f"{name:<12}{numbers[f'{name} correlation']:>12.3f}{numbers[f'{name} slope']:>8.2f}")
    (out / "influence.json").write_text(json.dumps(numbers, indent=1))
    draw(actual, predicted, out / "influence.png")


if __name__ == "__main__":
    main()
