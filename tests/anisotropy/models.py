"""Small models whose directions are known."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PooledLinear(nn.Module):
    """`theta^T A (m * phi * x)` with normal weights."""

    def __init__(self, response: Tensor, factor: int, theta: float = 1.0, phi: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer("response", response)
        size = len(response)
        like = {"dtype": response.dtype}
        self.theta = nn.Parameter(theta * torch.randn(size // factor, **like))
        self.phi = nn.Parameter(phi * torch.randn(size, **like))

    def forward(self, x: Tensor) -> Tensor:
        scaled = self.response * self.phi * x
        pooled = scaled.unflatten(-1, (self.factor, -1)).sum(-2) / self.factor**0.5
        return pooled @ self.theta[:, None]


class OneHidden(nn.Module):
    """`a^T rho(W x)` with normal weights and no biases."""

    def __init__(
        self, inputs: int, hidden: int, activation: nn.Module, a: float = 1.0, w: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(w * torch.randn(hidden, inputs, dtype=torch.float64))
        self.last = nn.Parameter(a * torch.randn(hidden, dtype=torch.float64))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x @ self.weight.T) @ self.last[:, None]


class Linear(nn.Module):
    """`theta^T x` with normal weights."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn(inputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.theta[:, None]


def small_lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1),
    )  # fmt: skip
