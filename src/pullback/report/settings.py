"""What a report is asked to do: one immutable record of choices."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pullback.errors import InputError


@dataclass(frozen=True)
class Settings:
    """The choices behind one report.

    Attributes:
        data: "digits", "mnist", "fashion-mnist", "cifar10", or "FILE.py:function" whose function
            returns a loader of (inputs, labels) batches, or a pair (train, test) of them.
        model: "conv", "mlp", or "FILE.py:function" whose function returns an `nn.Module`; it is
            called with the shape of an input and the number of classes if it needs two arguments.
        checkpoint: weights to start from, a .pt or .safetensors file.
        train: whether the network is trained while it is measured.
        epochs: passes over the training data; None chooses about 1,500 updates.
        batch_size: samples an update, for the data sets that are known by name.
        learning_rate: of stochastic gradient descent with momentum 0.9.
        seed: for the weights, the order of the data and every choice of samples.
        samples: how many samples the tangent kernel is taken on.
    """

    data: str = "digits"
    model: str = "conv"
    checkpoint: Path | None = None
    train: bool = True
    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float = 0.01
    seed: int = 0
    samples: int = 100

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("samples", 2), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name}: {value}; give a whole number of at least {least}")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate: {self.learning_rate}; give a positive number")

    def as_dict(self) -> dict[str, Any]:
        """The choices as plain data."""
        chosen = asdict(self)
        chosen["checkpoint"] = str(self.checkpoint) if self.checkpoint else None
        return chosen
