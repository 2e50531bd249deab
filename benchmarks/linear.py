"""`python -m benchmarks.linear`: a linearised network beside the network itself.

A forward pass needs up to three products for each layer where the network needs one (the layer on
what enters, on how this moves, and the layer's own move on what enters), and a training step up to
five where the network needs three. The layer that sees the data needs one less of each, because
data do not move. What the products alone would take is counted; the rest of the time goes into
elementwise operations, which are doubled too, and into Python.

The bar: a forward pass in 3.3 times the network's time, a training step in 2 times.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import pullback as pb

from .cases import KERNELS, load

SAMPLES = {"mlp": 200, "conv": 100, "resnet": 50, "transformer": 100}
SECONDS = 8.0
BARS = {"forward": 3.3, "step": 2.0}
RESULTS = Path(__file__).parent / "linear.json"


class Plain(nn.Module):
    """What one writes without a library: `torch.func.jvp`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = [model]
        self.point = {n: p.detach() for n, p in model.named_parameters()}
        self.buffers_ = dict(model.named_buffers())
        self.moved = nn.ParameterList([p.detach().clone() for p in self.point.values()])

    def forward(self, x: Tensor) -> Tensor:
        steps = {n: w - self.point[n] for n, w in zip(self.point, self.moved, strict=True)}

        def function(parameters: dict[str, Tensor]) -> Tensor:
            state = {**parameters, **self.buffers_}
            return torch.func.functional_call(self.inner[0], state, (x,))

        # Fused attention has no forward mode.
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            value, change = torch.func.jvp(function, (self.point,), (steps,))
        return value + change


def programs(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[], object]]:
    """A forward pass without gradients, and a training step without the optimiser."""

    def forward() -> object:
        with torch.no_grad():
            return model(x)

    def step() -> object:
        F.cross_entropy(model(x), y).backward()
        for parameter in model.parameters():
            parameter.grad = None
        return None

    return {"forward": forward, "step": step}


def seconds(runs: Sequence[Callable[[], object]]) -> list[float]:
    """The least CPU time of each, in turn until the time is up."""
    for run in runs:
        run()
    best = [float("inf")] * len(runs)
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for place, run in enumerate(runs):
            start = time.process_time()
            run()
            best[place] = min(best[place], time.process_time() - start)
    return best


def products(run: Callable[[], object]) -> int:
    """Multiplications and additions in matrix products and convolutions."""
    aten = torch.ops.aten
    in_place = dict.fromkeys((aten.addmm_, aten.baddbmm_), _added)
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        run()
    return counter.get_total_flops()


def _added(total: Sequence[int], first: Sequence[int], second: Sequence[int], **_: object) -> int:
    """Of a product that is added to what there is, which the counter does not know."""
    return 2 * math.prod(first) * second[-1]


def measure(name: str) -> dict[str, dict[str, float]]:
    """For each kind of pass what it takes, and its ratios to the network's own."""
    case = load(name)
    x, y = case.inputs[: SAMPLES[name]], case.targets[: SAMPLES[name]]
    models = {"network": case.model, "pullback": pb.linearize(case.model), "jvp": Plain(case.model)}
    with torch.no_grad():
        for other in ("pullback", "jvp"):
            for parameter in models[other].parameters():
                parameter += 0.01 * torch.randn_like(parameter)
    passes = {key: programs(model, x, y) for key, model in models.items()}
    found = {}
    for kind in BARS:
        took = dict(zip(passes, seconds([passes[key][kind] for key in passes]), strict=True))
        counted = {key: products(passes[key][kind]) for key in ("network", "pullback")}
        found[kind] = {
            "network, ms": 1e3 * took["network"],
            "pullback": took["pullback"] / took["network"],
            "torch.func.jvp": took["jvp"] / took["network"],
            "products": counted["pullback"] / counted["network"],
        }
    return found


def main() -> None:
    torch.manual_seed(0)
    found = {name: measure(name) for name in KERNELS}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    table = Table(title="A linearised network: times over the network's own", title_justify="left")
    for heading in ("case", "pass", *found[KERNELS[0]]["step"], "bar"):
        table.add_column(heading, justify="left" if heading in ("case", "pass") else "right")
    for name, kinds in found.items():
        for kind, values in kinds.items():
            within = values["pullback"] <= BARS[kind]
            verdict = f"{BARS[kind]:g} {'ok' if within else 'OVER'}"
            table.add_row(name, kind, *(f"{value:.2f}" for value in values.values()), verdict)
    Console().print(table)


if __name__ == "__main__":
    main()
