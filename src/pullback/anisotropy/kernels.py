"""Directions by the tangent kernel: how well linear functions are aligned with it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.anisotropy.moments import FOLDS, Moments
from pullback.anisotropy.population import Population
from pullback.kernels.tangent import tangent_kernel

SETS = 4 * FOLDS  # in each piece two sets of inputs are compared, with their opposites


@dataclass(frozen=True, eq=False)
class KernelAlignment(Moments):
    """The alignment of the functions `u^T x` with the tangent kernel, for normal inputs.

    `|E_x[(u^T x) grad_w f(x)]|^2 = u^T E[x k(x, x') x'^T] u`, over pairs of independent inputs, so
    that the estimate is unbiased; it may then be slightly negative along the last directions. By
    Stein's lemma it equals `|E_x[d2f/dwdx] u|^2` where f is smooth; with ReLU, whose second
    derivative automatic differentiation leaves out, only this form is right.

    Each input goes with its opposite, which takes out what is even in x, and inputs of one set are
    orthogonal to each other, each by itself normal: both leave the mean and far less noise.

    Attributes:
        population: where the networks come from.
        networks: how many; the mean is over them.
        samples: normal inputs for each network.
        seed: of the inputs.
    """

    population: Population
    networks: int
    samples: int
    seed: int

    meaning = "alignment of the function u^T x with the tangent kernel, for normal inputs x"

    def weights(self) -> list[int]:
        return [1] * (FOLDS * self.networks)

    def add_(self, total: Float[Tensor, "D D"], place: int) -> None:
        module = copy.deepcopy(self.population.module)
        module.load_state_dict(self.population.one(place // FOLDS))
        generator = torch.Generator().manual_seed(self.seed * len(self.weights()) + place)
        one, two = self._inputs(generator), self._inputs(generator)
        kernel = tangent_kernel(
            module, self._with_opposites(one), self._with_opposites(two),
            outputs=self.population.output, progress=False,
        ).matrix  # fmt: skip
        n = len(one)
        odd = (kernel[:n, :n] - kernel[:n, n:] - kernel[n:, :n] + kernel[n:, n:]) / 4
        found = one.T @ (odd @ two) / n**2
        total += (found + found.T) / 2

    def _inputs(self, generator: torch.Generator) -> Float[Tensor, "n D"]:
        """Normal inputs, of which as many as there are dimensions are orthogonal."""
        size, count = self.population.inputs, self.samples // SETS
        rows = []
        for start in range(0, count, size):
            normal = torch.randn(size, size, generator=generator, dtype=torch.float64)
            turned, triangle = torch.linalg.qr(normal)
            lengths = torch.randn(size, size, generator=generator, dtype=torch.float64).norm(dim=1)
            turned = (turned * triangle.diagonal().sign()).T
            rows.append((lengths[:, None] * turned)[: count - start])
        return torch.cat(rows).to(self.population.dtype)

    def _with_opposites(self, rows: Float[Tensor, "n D"]) -> Tensor:
        return torch.cat([rows, -rows]).view(-1, *self.population.shape)
