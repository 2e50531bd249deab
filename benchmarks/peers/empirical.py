"""The process of `neural_tangents.py`: JAX, and nothing of torch."""

from __future__ import annotations

import argparse
import json
import sys
import types
from collections.abc import Callable
from dataclasses import asdict

# It would import tensorflow, for functions that are not needed.
sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import neural_tangents as nt  # noqa: E402
import numpy as np  # noqa: E402
from jax import lax  # noqa: E402

from ..measure import timed  # noqa: E402

Parameters = list[jax.Array]


def network(kinds: list[tuple[str, int]]) -> Callable[[Parameters, jax.Array], jax.Array]:
    """The function of parameters and samples, images with channels last."""

    def function(parameters: Parameters, x: jax.Array) -> jax.Array:
        left = iter(parameters)
        for kind, size in kinds:
            if kind == "linear":
                x = x @ next(left) + next(left)
            elif kind == "convolution":
                edges = [(size, size)] * 2
                order = ("NHWC", "HWIO", "NHWC")
                x = lax.conv_general_dilated(x, next(left), (1, 1), edges, dimension_numbers=order)
                x = x + next(left)
            elif kind == "relu":
                x = jax.nn.relu(x)
            elif kind == "pool":
                window = (1, size, size, 1)
                x = lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
            elif kind == "flatten":  # as torch does, with channels first
                x = jnp.moveaxis(x, 3, 1).reshape(len(x), -1)
            else:
                raise ValueError(f"no layer of kind {kind}")
        return x

    return function


def kernel(operation: str, given: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    """What is measured, compiled."""
    summed = operation == "ntk_sum"
    function = network(json.loads(str(given["kinds"])))
    count = sum(name.startswith("parameter") for name in given)
    parameters = [jnp.asarray(given[f"parameter{k}"]) for k in range(count)]
    x = jnp.asarray(given["x"])
    first, second = jnp.split(x, 2) if operation == "ntk_two" else (x, None)
    compiled = jax.jit(
        nt.empirical_ntk_fn(
            function,
            trace_axes=(-1,) if summed else (),
            vmap_axes=0,
            implementation=nt.NtkImplementation[str(given["implementation"])],
        )
    )
    outputs = jax.eval_shape(function, parameters, x).shape[1]

    def work() -> np.ndarray:
        found = np.asarray(compiled(first, second, parameters))
        # Its trace is divided by the number of outputs.
        return found * outputs if summed else found.transpose(0, 2, 1, 3)

    work()
    return work


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("operation", "given", "answer"):
        parser.add_argument(name)
    parser.add_argument("repetitions", type=int)
    parser.add_argument("budget", type=float)
    asked = parser.parse_args()
    work = kernel(asked.operation, dict(np.load(asked.given)))
    timing, value = timed(work, asked.repetitions, asked.budget)
    np.savez(asked.answer, timing=np.array(json.dumps(asdict(timing))), value=value)


if __name__ == "__main__":
    main()
