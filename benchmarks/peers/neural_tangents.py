"""neural-tangents 0.6.5, the empirical kernels of finite networks, in JAX.

It is no PyTorch library, so it sets no bar. It runs in an environment of its own, which
`scripts/jax.sh` makes, on the weights and the data of the case: `empirical.py` is what runs there.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..cases import Case
from ..measure import ROOT, Timing, one_thread
from ..program import NotOfferedError, Program

PYTHON = Path(__file__).parents[1] / ".jax" / "bin" / "python"
XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
OPERATIONS = ("ntk_all", "ntk_sum", "ntk_two")
IMPLEMENTATIONS = {"mlp": "STRUCTURED_DERIVATIVES", "conv": "JACOBIAN_CONTRACTION"}
"""The quickest for each case. By its own choice it takes up to 180 times as long on the MLP."""


@dataclass(frozen=True)
class Apart(Program):
    """A program that is measured in another process, under another Python."""

    def measured(self, repetitions: int, budget: float) -> tuple[Timing, Tensor]:
        return self.run(repetitions, budget)


def program(operation: str, case: Case) -> Program:
    if operation not in OPERATIONS or case.name not in IMPLEMENTATIONS:
        raise NotOfferedError
    if not PYTHON.exists():
        raise ImportError("scripts/jax.sh installs it")

    def run(repetitions: int, budget: float) -> tuple[Timing, Tensor]:
        with tempfile.TemporaryDirectory() as folder:
            given, answer = Path(folder) / "given.npz", Path(folder) / "answer.npz"
            np.savez(given, **exported(case))
            done = subprocess.run(
                [
                    PYTHON, "-m", f"{__package__}.empirical", operation, given, answer,
                    str(repetitions), str(budget),
                ],
                cwd=ROOT, env=one_thread() | {"XLA_FLAGS": XLA_FLAGS, "PYTHONPATH": os.curdir},
                capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
            found = np.load(answer)
            return Timing(**json.loads(str(found["timing"]))), torch.from_numpy(found["value"])

    return Apart(run, note="JAX; compiled, and called once before the clock starts")


def exported(case: Case) -> dict[str, np.ndarray]:
    """The samples, the layers and their parameters, with channels last, and how to contract."""
    kinds: list[tuple[str, int]] = []
    parameters: list[Tensor] = []
    for module in case.model:
        if isinstance(module, nn.Linear):
            kinds.append(("linear", 0))
            parameters += [module.weight.T, module.bias]
        elif isinstance(module, nn.Conv2d):
            kinds.append(("convolution", module.padding[0]))
            parameters += [module.weight.permute(2, 3, 1, 0), module.bias]
        elif isinstance(module, nn.MaxPool2d):
            kinds.append(("pool", module.kernel_size))
        else:
            kinds.append((type(module).__name__.lower(), 0))
    x = case.kernel_inputs
    return {
        "x": (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).numpy(),
        "kinds": np.array(json.dumps(kinds)),
        "implementation": np.array(IMPLEMENTATIONS[case.name]),
        **{f"parameter{k}": p.detach().numpy() for k, p in enumerate(parameters)},
    }
