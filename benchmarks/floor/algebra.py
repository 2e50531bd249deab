"""What is asked of KFAC and EKFAC once their factors are there: the decompositions and the rest."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..cases import Case
from ..program import DAMPING, DRAWS
from .kronecker import eigenbases, exact_factors
from .network import Layer


class Factored(NamedTuple):
    """A layer with the fixed direction (o, i) and its factors A and G."""

    layer: Layer
    v: Tensor
    a: Tensor
    g: Tensor


class Scaled(NamedTuple):
    """A layer with the fixed direction, the eigenvectors of A and G, and the scales (o, i)."""

    layer: Layer
    v: Tensor
    basis_a: Tensor
    basis_g: Tensor
    scales: Tensor


def factors(case: Case) -> list[Factored]:
    """Made before the clock starts."""
    return [Factored(*found) for found in exact_factors(case)]


def scaled(case: Case) -> list[Scaled]:
    """Made before the clock starts."""
    return [Scaled(*found) for found in eigenbases(case)]


def _flat(layer: Layer, matrix: Tensor) -> list[Tensor]:
    return layer.flat(matrix[:, : layer.i], matrix[:, -1] if layer.has_bias else None)


def _solution(one: Scaled) -> list[Tensor]:
    inside = torch.linalg.multi_dot([one.basis_g.T, one.v, one.basis_a]).div_(one.scales + DAMPING)
    return _flat(one.layer, torch.linalg.multi_dot([one.basis_g, inside, one.basis_a.T]))


def solve_ekfac(scaled: list[Scaled]) -> Tensor:
    """The solution x of (K + damping I) x = v, (d',)."""
    return torch.cat([piece for one in scaled for piece in _solution(one)])


def solve_kfac(factors: list[Factored]) -> Tensor:
    """The same from the factors, by their eigenvectors."""
    found = []
    for layer, v, a, g in factors:
        (over_a, basis_a), (over_g, basis_g) = torch.linalg.eigh(a), torch.linalg.eigh(g)
        found += _solution(Scaled(layer, v, basis_a, basis_g, torch.outer(over_g, over_a)))
    return torch.cat(found)


def _values(factors: list[Factored]) -> Tensor:
    pairs = [(torch.linalg.eigvalsh(one.g), torch.linalg.eigvalsh(one.a)) for one in factors]
    return torch.cat([torch.outer(*pair).flatten() for pair in pairs])


def eigvals_kfac(factors: list[Factored]) -> Tensor:
    """All eigenvalues, largest first, (d',)."""
    return _values(factors).sort(descending=True).values


def logdet_kfac(factors: list[Factored]) -> Tensor:
    """The logarithm of det(K + damping I), (1,)."""
    return _values(factors).add_(DAMPING).log_().sum().reshape(1)


def sample_kfac(factors: list[Factored]) -> Tensor:
    """Samples (m, d'): U (values + damping)^(-1/2) z, no symmetric root."""
    found: list[Tensor] = []
    for layer, _, a, g in factors:
        (over_a, basis_a), (over_g, basis_g) = torch.linalg.eigh(a), torch.linalg.eigh(g)
        scale = torch.outer(over_g, over_a).add_(DAMPING).rsqrt_()
        z = torch.randn(DRAWS, *scale.shape).mul_(scale)
        x = (z.view(-1, len(a)) @ basis_a.T).view_as(z)
        x = torch.stack([basis_g @ one for one in x])
        weight = x[..., : layer.i]
        if layer.image_order:
            k, channels = layer.image_order
            weight = weight.unflatten(2, (k, k, channels)).movedim(-1, 2)
        found.append(weight.flatten(1))
        if layer.has_bias:
            found.append(x[..., -1])
    return torch.cat(found, 1)
