"""A network and samples small enough for the slow twin, and how a probe is asked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pullback.probes import KernelSample, Moment, Probe
from tests import reference

N, C = 6, 3
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
LAYERS = {"all": slice(0, 43), "0": slice(0, 25), "2": slice(25, 43)}


def inputs(seed: int = 0, samples: int = N) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 4, dtype=torch.float64, generator=generator)


def network(seed: int = 0, outputs: int = C) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


class Shift(nn.Module):
    """A bias of the outputs, whose kernel is the same for all samples."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(C, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


SAMPLE = KernelSample(inputs(), LABELS)
ROWS = reference.jacobian(network(), inputs())

BINARY = network(outputs=1)
BINARY_LABELS = torch.tensor([0, 1, 1, 0, 1, 1])
BINARY_SAMPLE = KernelSample(inputs(), BINARY_LABELS)
BINARY_ROWS = reference.jacobian(BINARY, inputs())
SIGNS = torch.tensor([-1.0, 1.0, 1.0, -1.0, 1.0, 1.0], dtype=torch.float64)


def one_hot() -> Tensor:
    return torch.eye(C, dtype=torch.float64)[LABELS]


def centred_labels() -> Tensor:
    return one_hot() - one_hot().mean(0)


def kernel_of(rows: Tensor) -> Tensor:
    flat = rows.flatten(0, 1)
    return flat @ flat.T


def projection(centring: str, samples: int = N, outputs: int = C) -> Tensor:
    mode = "all" if centring == "entries" else centring
    return reference.centring(samples, outputs, mode)


def real(values: object) -> Tensor:
    """Numbers of a record as a tensor."""
    return torch.tensor(values, dtype=torch.float64)


def measured(probe: Probe, model: nn.Module | None = None) -> dict[str, Any]:
    return dict(probe.measure(Moment(model or network(), step=0)))
