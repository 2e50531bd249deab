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


@dataclass(frozen=True, eq=False)
class KernelAlignment(Moments):
    """The alignment of the functions `u^T x` with the tangent kernel, for normal inputs.

    `|E_x[(u^T x) grad_w f(x)]|^2 = u^T E[x k(x, x') x'^T] u`, over pairs of different inputs, so
    that the estimate is unbiased; it may then be slightly negative along the last directions. By
    Stein's lemma it equals `|E_x[d2f/dwdx] u|^2` where f is smooth; with ReLU, whose second
    derivative automatic differentiation leaves out, only this form is right.

    Attributes:
        population: where the networks come from.
        networks: how many; the mean is over them.
        samples: normal inputs for each network, at least two for each piece.
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
        population = self.population
        number, part = divmod(place, FOLDS)
        module = copy.deepcopy(population.module)
        module.load_state_dict(population.one(number))
        count = (self.samples * (part + 1)) // FOLDS - (self.samples * part) // FOLDS
        generator = torch.Generator().manual_seed(self.seed * FOLDS + place)
        x = torch.randn(count, *population.shape, generator=generator, dtype=population.dtype)
        kernel = tangent_kernel(module, x, outputs=population.output, progress=False).matrix
        rows = x.flatten(1)
        pairs = kernel - kernel.diagonal().diag()
        total += rows.T @ (pairs @ rows) / (count * (count - 1))
