"""`python -m benchmarks.anisotropy`: directions of a LeNet beside a loop over networks.

Exact gradients are measured against two programs. One takes a network at a time: it calls the
factory, differentiates by the input and adds the outer product. The other is a lower mark: for the
same number of networks the random numbers, a forward and a backward pass by hand for a stack of
networks, the outer products of the gradients, and one eigendecomposition. Nothing of the library is
in it.

Finite differences are measured against a program that gives two batches of 1,024 inputs to each
network.

The bar: exact gradients 8 times as fast as one network at a time, or within 2 times of the lower
mark; finite differences twice as fast as that program.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pullback.anisotropy import directions
from pullback.anisotropy.gradients import GradientCovariance
from pullback.anisotropy.population import Population, State

SHAPE = (1, 32, 32)
SIZE = 1024
NETWORKS = 10_000
STACK = 100
STEP = 100.0
ROUNDS = 3
RESULTS = Path(__file__).parent / "anisotropy.json"


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 1),
    )  # fmt: skip


def one_at_a_time(x: Tensor, networks: int) -> Tensor:
    """The sum of `g g^T`, and its eigenvectors, as one writes it without a library."""
    torch.manual_seed(0)
    total = torch.zeros(SIZE, SIZE)
    for _ in range(networks):
        network = lenet().eval().requires_grad_(False)
        point = x.unsqueeze(0).requires_grad_()
        (gradient,) = torch.autograd.grad(network(point).sum(), point)
        total.addr_(gradient.flatten(), gradient.flatten())
    return torch.linalg.eigh(total.double())[1]


def two_batches(x: Tensor, networks: int) -> Tensor:
    """The same by finite differences."""
    torch.manual_seed(0)
    total = torch.zeros(SIZE, SIZE)
    steps = (STEP * torch.eye(SIZE)).view(SIZE, *SHAPE)
    with torch.no_grad():
        for _ in range(networks):
            network = lenet().eval()
            gradient = (network(x + steps) - network(x - steps)).flatten() / (2 * STEP)
            total.addr_(gradient, gradient)
    return torch.linalg.eigh(total.double())[1]


def by_hand(x: Tensor, networks: int) -> Tensor:
    """What cannot be left out: random numbers, two passes, products, one decomposition."""
    torch.manual_seed(0)
    total = torch.zeros(SIZE, SIZE)
    with torch.no_grad():
        for _ in range(0, networks, STACK):
            gradients = passes(drawn(STACK), x)
            total.addmm_(gradients.T, gradients)
    return torch.linalg.eigh(total.double())[1]


def drawn(count: int) -> list[Tensor]:
    """Weights and biases of a stack: uniform numbers, as the layers draw them."""
    found = []
    for shape in ((6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (1, 84)):
        bound = math.prod(shape[1:]) ** -0.5
        found.append(torch.empty(count, *shape).uniform_(-bound, bound))
        found.append(torch.empty(count, shape[0]).uniform_(-bound, bound))
    return found


def passes(weights: list[Tensor], x: Tensor) -> Tensor:
    """Input gradients of a stack, (t, 1024): one forward and one backward pass by hand.

    Convolutions have a group for each network: with the patches written out they take longer.
    """
    w1, b1, w2, b2, w3, b3, w4, b4, w5, _ = weights
    t = len(w1)
    w1, w2 = w1.flatten(0, 1), w2.flatten(0, 1)
    first = F.conv2d(x.unsqueeze(0), w1, b1.flatten())
    first, places1 = F.max_pool2d(first, 2, return_indices=True)
    second = F.conv2d(first.clamp_(min=0), w2, b2.flatten(), groups=t)
    second, places2 = F.max_pool2d(second, 2, return_indices=True)
    third = torch.baddbmm(b3.unsqueeze(2), w3, second.clamp_(min=0).view(t, 400, 1)).clamp_(min=0)
    fourth = torch.baddbmm(b4.unsqueeze(2), w4, third)
    back = torch.bmm((fourth.mT > 0) * w5, w4)
    back = torch.bmm((third.mT > 0) * back, w3).view(second.shape) * (second > 0)
    back = F.conv_transpose2d(F.max_unpool2d(back, places2, 2), w2, groups=t) * (first > 0)
    back = F.conv_transpose2d(F.max_unpool2d(back, places1, 2), w1, groups=t)
    return back.view(t, SIZE)


def check(x: Tensor) -> None:
    """Passes by hand give the library's gradients."""
    population = Population(lenet, SHAPE)
    state: State = population.stack(0)
    rows = GradientCovariance(population, population.size, x, None).rows(state, population.size)
    torch.testing.assert_close(passes(list(state.values()), x), rows, atol=1e-6, rtol=1e-4)


def exact(x: Tensor, networks: int) -> None:
    """The library's exact gradients."""
    directions(lenet, SHAPE, networks=networks, at=x)


def differences(x: Tensor, networks: int) -> None:
    """The library's finite differences."""
    directions(lenet, SHAPE, networks=networks, at=x, step=STEP)


Program = Callable[[Tensor, int], object]
# Each with the numbers of networks that it is run for. A program that takes long is run for a few
# and for some; from the difference follows what all would take.
PROGRAMS: dict[str, tuple[Program, tuple[int, int]]] = {
    "exact": (exact, (STACK, NETWORKS)),
    "by hand": (by_hand, (STACK, NETWORKS)),
    "one at a time": (one_at_a_time, (20, 520)),
    "differences": (differences, (8, 32)),
    "two batches": (two_batches, (8, 32)),
}


def seconds(name: str) -> tuple[float, float]:
    """CPU seconds of a program for a few networks and for some, after a first run."""
    torch.set_num_threads(1)
    program, numbers = PROGRAMS[name]
    program(point(), numbers[0])
    found = []
    for networks in numbers:
        start = time.process_time()
        program(point(), networks)
        found.append(time.process_time() - start)
    return found[0], found[1]


def point() -> Tensor:
    """Where gradients are taken."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def measure() -> dict[str, dict[str, float]]:
    """CPU seconds for 10,000 networks, and how many times those of the library others take."""
    check(point())
    best = dict.fromkeys(PROGRAMS, (math.inf, math.inf))
    # Processes of their own: what one leaves in the memory allocator changes the time of another.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for _ in range(ROUNDS):
            for name in PROGRAMS:
                few, some = pool.apply(seconds, (name,))
                best[name] = min(best[name][0], few), min(best[name][1], some)
    took = {name: whole(*best[name], PROGRAMS[name][1]) for name in PROGRAMS}
    return {
        "exact gradients": {
            "pullback, s": took["exact"],
            "one at a time": took["one at a time"] / took["exact"],
            "by hand": took["by hand"] / took["exact"],
        },
        "finite differences": {
            "pullback, s": took["differences"],
            "one at a time": took["two batches"] / took["differences"],
        },
    }


def whole(few: float, some: float, networks: tuple[int, int]) -> float:
    """Seconds for all networks."""
    each = (some - few) / (networks[1] - networks[0])
    return some + (NETWORKS - networks[1]) * each


def within(kind: str, found: Mapping[str, float]) -> bool:
    """Whether the bar is met."""
    if kind == "finite differences":
        return found["one at a time"] >= 2
    return found["one at a time"] >= 8 or found["by hand"] >= 0.5


def main() -> None:
    found = measure()
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    title = f"Directions of a LeNet, {NETWORKS:,} networks: times over the library's own"
    table = Table(title=title, title_justify="left")
    for heading in ("gradients", "pullback, s", "one at a time", "by hand", "bar"):
        table.add_column(heading, justify="left" if heading == "gradients" else "right")
    for kind, values in found.items():
        numbers = [f"{value:.2f}" for value in values.values()]
        verdict = "ok" if within(kind, values) else "OVER"
        table.add_row(kind, *numbers, *[""] * (3 - len(numbers)), verdict)
    Console().print(table)


if __name__ == "__main__":
    main()
