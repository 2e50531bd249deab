"""What is asked of a kernel: one immutable record of choices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pullback.errors import InputError
from pullback.report.settings import Settings

SAMPLES = 500


@dataclass(frozen=True)
class KernelSettings:
    """The choices behind one look at a kernel.

    Attributes:
        subject: network, data and training, as for a report; `samples` is how many training samples
            the kernel is taken on, and at most how many test samples it predicts.
        outputs: "sum" over the outputs, "all" pairs of them, the number of one output, or two
            numbers "a,b" for the difference of output b and output a, on samples of these classes.
        functions: how many eigenfunctions are shown.
        centred: whether spectrum, eigenfunctions and alignment are those of the kernel centred over
            the samples; predictions never are.
        gram: whether the kernel is kept on disk.
    """

    subject: Settings = field(default_factory=lambda: Settings(train=False, samples=SAMPLES))
    outputs: str = "sum"
    functions: int = 6
    centred: bool = True
    gram: bool = False

    def __post_init__(self) -> None:
        if self.functions < 1:
            raise InputError(f"functions: {self.functions}; give a whole number of at least 1")
        numbers = self.outputs.split(",")
        known = self.outputs in ("sum", "all") or (
            len(numbers) <= 2 and all(one.strip().isdigit() for one in numbers)
        )
        if not known:
            raise InputError(
                f"outputs: {self.outputs!r}; write sum, all, the number of one output, or two "
                "numbers with a comma"
            )

    def as_dict(self) -> dict[str, Any]:
        """The choices as plain data."""
        own = {"outputs": self.outputs, "functions": self.functions, "centred": self.centred}
        return {**self.subject.as_dict(), **own, "gram": self.gram}
