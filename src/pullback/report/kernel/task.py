"""Which function of the network is looked at, and which classes it is to tell apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pullback.errors import InputError
from pullback.kernels.regression import class_targets

ReadOut = str | int | tuple[int, int]


@dataclass(frozen=True)
class Task:
    """A read-out of the outputs, and the labels as what it should be.

    Attributes:
        read_out: as `tangent_kernel` takes it.
        outputs: how many outputs the network has.
        classes: those whose samples are looked at.
    """

    read_out: ReadOut
    outputs: int
    classes: tuple[int, ...]

    @classmethod
    def of(cls, text: str, outputs: int) -> Task:
        """The task of an `outputs` option, for a network of so many.

        Raises:
            InputError: it has no such output.
        """
        classes = tuple(range(max(outputs, 2)))
        if outputs == 1 and text in ("sum", "all", "0"):
            return cls(0, 1, classes)
        if text in ("sum", "all"):
            return cls(text, outputs, classes)
        numbers = tuple(int(one) for one in text.split(","))
        if max(numbers) >= outputs or len(set(numbers)) < len(numbers):
            raise InputError(f"outputs: {text}; the network has outputs 0 to {outputs - 1}")
        if len(numbers) == 1:
            return cls(numbers[0], outputs, classes)
        first, second = numbers
        return cls((first, second), outputs, (first, second))

    @property
    def many(self) -> bool:
        """Whether there is a function for each class, rather than one for one of them."""
        return isinstance(self.read_out, str)

    @property
    def positive(self) -> int:
        """The class whose samples a single function should be positive on."""
        if isinstance(self.read_out, tuple):
            return self.read_out[1]
        return 1 if self.outputs == 1 else int(self.read_out)

    def targets(self, labels: Int[Tensor, " n"]) -> Float[Tensor, "n ..."]:
        """What the function should be: (n, c) where it has all outputs, else (n,) of 1 and -1."""
        if self.many:
            return class_targets(labels, self.outputs)
        return 2.0 * (labels == self.positive).double() - 1

    def functions(self, labels: Int[Tensor, " n"]) -> Float[Tensor, "*t n ..."]:
        """The targets as functions on the samples of the kernel, one or several."""
        targets = self.targets(labels)
        return targets.T if self.read_out == "sum" else targets

    def correct(
        self, values: Float[Tensor, "n ..."], labels: Int[Tensor, " n"]
    ) -> Bool[Tensor, " n"]:
        """Where values of the function name the right class."""
        if self.many:
            return values.argmax(1) == labels
        return (values > 0) == (labels == self.positive)

    def of_outputs(self, outputs: Float[Tensor, "n c"]) -> Float[Tensor, "n ..."]:
        """The function itself, from the network's outputs."""
        if self.many:
            return outputs
        if isinstance(self.read_out, tuple):
            first, second = self.read_out
            return outputs[:, second] - outputs[:, first]
        return outputs[:, int(self.read_out)]

    def aligned_with(self, labels: Int[Tensor, " n"]) -> Tensor:
        """The labels as alignment takes them: one-hot rows, or the single function."""
        if not self.many:
            return self.targets(labels)
        return F.one_hot(labels, self.outputs).to(torch.float64)
