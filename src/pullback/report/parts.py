"""Run each part of a report once: its result is kept, and taken from there by a resumed run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pullback.errors import InputError
from pullback.probes.recorder import leaves
from pullback.report.cost import Cost
from pullback.report.numbers import CostNumbers
from pullback.report.progress import Advance, Stages
from pullback.report.workspace import Workspace


def refuse_non_finite(title: str, result: object) -> None:
    """Raise InputError where plain data hold NaN or infinity.

    Raises:
        InputError: naming the first such number.
    """
    for path, value in leaves(result):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(
                f"model: {title}: {path} is {value}; the network has diverged, or its outputs do "
                "not depend on its parameters"
            )


class Parts:
    """The parts that were measured so far, and what they cost.

    Args:
        workspace: where the results are kept.
        stages: the progress bars.
        costs: what was paid before.

    Attributes:
        workspace, stages, costs: the same.
    """

    def __init__(self, workspace: Workspace, stages: Stages, costs: list[CostNumbers]) -> None:
        self.workspace = workspace
        self.costs = costs
        self.stages = stages

    def measure(
        self, name: str, title: str, total: int | None, compute: Callable[[Advance], Any]
    ) -> Any:
        """The result of `compute`, or what it was in the interrupted run.

        Args:
            name: the part's file name in the workspace.
            title: what to call it.
            total: how many units `compute` will report to the function it is given.
            compute: returns plain data (JSON).
        """
        with self.stages.stage(title, total) as advance:
            kept = self.workspace.read(name)
            if kept is None:
                with Cost() as cost:
                    result = compute(advance)
                refuse_non_finite(title, result)
                kept = {"result": result, "cost": cost.numbers(title)}
                self.workspace.write(name, kept)
        self.costs.append(kept["cost"])
        return kept["result"]
