"""What is asked of an architecture: one immutable record of choices."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pullback.anisotropy.directions import METHODS
from pullback.anisotropy.population import Outputs
from pullback.errors import InputError

POINTS = ("normal", "zero")


@dataclass(frozen=True)
class AnisotropySettings:
    """The choices behind one look at the directions of an architecture.

    Attributes:
        model: the name of an architecture, or FILE.py:function, which returns a new network each
            time; it is called with the shape if it needs an argument.
        shape: of one input, its sizes with x between them: "1x32x32", or "100" for a signal.
        method: as `pullback.anisotropy.directions` takes it.
        networks: how many are drawn; None for the method's default.
        step: for derivatives by the input as finite differences; None for exact ones.
        at: the input where derivatives are taken: "normal" draws one, or "zero".
        samples: normal inputs for each network, with the kernel; None for the default.
        outputs: which output: None for the only one, the number of one, or two numbers "a,b" for
            output b minus output a.
        seed: of everything random.
        width: a factor of the numbers of channels and hidden units of a named architecture.
    """

    model: str = "lenet"
    shape: str = "1x32x32"
    method: str = "gradient"
    networks: int | None = None
    step: int | float | None = None
    at: str = "normal"
    samples: int | None = None
    outputs: str | None = None
    seed: int = 0
    width: int | float = 1.0

    def __post_init__(self) -> None:
        sizes = self.shape.split("x")
        if not all(one.isdigit() and int(one) > 0 for one in sizes):
            raise InputError(f"shape: {self.shape!r}; write sizes such as 1x32x32")
        if self.method not in METHODS:
            raise InputError(f"method: {self.method!r}; choose one of {tuple(METHODS)}")
        if self.at not in POINTS:
            raise InputError(f"at: {self.at!r}; choose one of {POINTS}")
        numbers = [] if self.outputs is None else self.outputs.split(",")
        if len(numbers) > 2 or not all(one.strip().isdigit() for one in numbers):
            raise InputError(
                f"outputs: {self.outputs!r}; write the number of one output, or two with a comma"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(int(one) for one in self.shape.split("x"))

    @property
    def read_out(self) -> Outputs:
        """Which output, as `directions` takes it."""
        if self.outputs is None:
            return None
        first, *second = (int(one) for one in self.outputs.split(","))
        return (first, second[0]) if second else first

    @property
    def drawn(self) -> int:
        """How many networks."""
        return METHODS[self.method] if self.networks is None else self.networks

    def as_dict(self) -> dict[str, Any]:
        """The choices as plain data."""
        return {**asdict(self), "networks": self.drawn}
