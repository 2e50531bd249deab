"""The Fisher information of distributions in their own parameters, in closed form.

It is registered by class, as `torch.distributions.kl.register_kl` does for divergences. A network's
outputs determine the parameters, so what is registered here is pulled back twice: to the outputs,
which gives M(x), and from there to the network's parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
)

from pullback.errors import InputError
from pullback.likelihoods.multinomial import transposed_root_times

Factor = Tensor | Callable[[Tensor], Tensor]
Information = Sequence[tuple[Tensor, Factor]]
D = TypeVar("D", bound=Distribution)

_REGISTRY: dict[type[Distribution], Callable[[Any], Information]] = {}


def register_information(
    kind: type[D],
) -> Callable[[Callable[[D], Information]], Callable[[D], Information]]:
    """Register the Fisher information of a class of distributions, and of its subclasses.

    The function that is decorated gets a distribution and returns pairs (parameter, information).
    Different pairs are uncorrelated; parameters that are not have to be stacked into one. A
    parameter is a tensor with the samples in front, computed from what the distribution was made
    of. Its information is one of

    - a tensor of the parameter's shape (n, *b): the matrix is diagonal;
    - a tensor (n, *b, p, p) for a parameter (n, *b, p): a positive semidefinite matrix for each;
    - a function, linear in its argument, from a change v of the parameter to `R^T v`, where the
      information is `R R^T`: coordinates in which its quadratic form is the squared length.

    Args:
        kind: the class.

    Raises:
        InputError: it is no class of distributions.

    Example:
        >>> import torch, pullback as pb
        >>> from torch.distributions import Exponential
        >>> @pb.likelihoods.register_information(Exponential)
        ... def _(d):
        ...     return [(d.rate, d.rate**-2)]
        >>> model, x = torch.nn.Linear(3, 1), torch.eye(3)
        >>> pb.fisher(model, x, lambda out: Exponential(out[:, 0].exp()), "dense").trace()
        2.0
    """
    if not (isinstance(kind, type) and issubclass(kind, Distribution)):
        raise InputError(f"register_information: {kind!r} is no class of distributions")

    def register(function: Callable[[D], Information]) -> Callable[[D], Information]:
        _REGISTRY[kind] = function
        return function

    return register


def information_of(distribution: Distribution) -> Information:
    """The parameters of a distribution with their Fisher information, from the nearest class.

    Raises:
        InputError: none is registered.
    """
    for kind in type(distribution).__mro__:
        if kind in _REGISTRY:
            return _REGISTRY[kind](distribution)
    name = type(distribution).__name__
    raise InputError(
        f"estimator: no closed form of the Fisher information of {name} is known, as 'exact' and "
        "'sketched' need it; use estimator='sampled', or register one with "
        f"@pullback.likelihoods.register_information({name})"
    )


def whitened(change: Float[Tensor, "n *b"], factor: Factor) -> Float[Tensor, "n *r"]:
    """The change of a parameter in coordinates in which its information is the identity.

    Raises:
        InputError: the information has a shape that does not fit the parameter's.
    """
    if not isinstance(factor, Tensor):
        return factor(change)
    factor = factor.detach()
    if factor.shape == change.shape:
        return factor.sqrt() * change
    if change.ndim < 2 or factor.shape != (*change.shape, change.shape[-1]):
        raise InputError(
            f"register_information: an information of shape {tuple(factor.shape)} for a parameter "
            f"of shape {tuple(change.shape)}; give the same shape, or its last dimension twice"
        )
    # The symmetric root, because it is unique, so that draws do not depend on how samples are
    # batched; with ones on the diagonal first, so that small parameters keep their precision.
    scale = factor.diagonal(dim1=-2, dim2=-1).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    values, vectors = torch.linalg.eigh(inverse.unsqueeze(-1) * factor * inverse.unsqueeze(-2))
    root = (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT
    return (root @ (scale * change).unsqueeze(-1)).squeeze(-1)


@register_information(Independent)
def _independent(d: Independent[Distribution]) -> Information:
    return information_of(d.base_dist)


@register_information(Categorical)
def _categorical(d: Categorical) -> Information:
    return [(d.logits, lambda v: transposed_root_times(d.probs, v))]


@register_information(Bernoulli)
def _bernoulli(d: Bernoulli) -> Information:
    return [(d.logits, d.logits.sigmoid() * (-d.logits).sigmoid())]


@register_information(Poisson)
def _poisson(d: Poisson) -> Information:
    # A rate that is rounded to 0 changes by 0 only.
    return [(d.rate, 1 / d.rate.clamp(min=torch.finfo(d.rate.dtype).tiny))]


@register_information(Normal)
def _normal(d: Normal) -> Information:
    return [(d.loc, d.scale**-2), (d.scale, 2 * d.scale**-2)]


@register_information(MultivariateNormal)
def _multivariate_normal(d: MultivariateNormal) -> Information:
    """The covariance `C = L L^T` has the quadratic form `tr(C^-1 dC C^-1 dC) / 2`.

    With `A = L^-1 dL`, lower triangular, this is `|A + A^T|^2 / 2`: the sum of the squares below
    the diagonal and of twice those on it.
    """
    cholesky = d.scale_tril
    row, column = torch.tril_indices(*cholesky.shape[-2:], device=cholesky.device)
    weight = (1 + (row == column).to(cholesky.dtype)).sqrt()

    def of_mean(v: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(cholesky, v.unsqueeze(-1), upper=False).squeeze(-1)

    def of_cholesky(v: Tensor) -> Tensor:
        change = torch.linalg.solve_triangular(cholesky, v.tril(), upper=False)
        return change[..., row, column] * weight

    return [(d.loc, of_mean), (cholesky, of_cholesky)]


@register_information(StudentT)
def _student(d: StudentT) -> Information:
    """Lange, Little and Taylor 1989, with the scale instead of its square as the parameter."""
    nu, scale = d.df.double(), d.scale.double()
    x = 1 / nu
    of_df = x**4 * (7 + 3 * x) / (2 * (1 + x) * (1 + 3 * x)) + _alternating(nu)
    of_scale = 2 * nu / ((nu + 3) * scale**2)
    of_both = -2 / (scale * (nu + 1) * (nu + 3))
    rows = [torch.stack([of_df, of_both], -1), torch.stack([of_both, of_scale], -1)]
    return [
        (d.loc, ((nu + 1) / ((nu + 3) * scale**2)).to(d.loc.dtype)),
        (torch.stack([d.df, d.scale], -1), torch.stack(rows, -2).to(d.loc.dtype)),
    ]


def _alternating(nu: Tensor) -> Tensor:
    """The sum over k >= 0 of `(-1)^k / (nu + k)^2`, less the first two terms of its expansion.

    The sum is `(trigamma(nu / 2) - trigamma((nu + 1) / 2)) / 4`. Its expansion (Boole's formula) is
    `x^2 / 2 + x^3 / 2 - x^5 / 2 + 3 x^7 / 2 - 17 x^9 / 2 + ...` with x = 1 / nu: it is taken from
    the start where nu is large, where the information on nu is a tiny difference of its terms, and
    after the first forty elsewhere, in double precision either way.
    """

    def expansion(x: Tensor) -> Tensor:
        return x**5 * (-1 + 3 * x**2 - 17 * x**4) / 2

    k = torch.arange(40, dtype=nu.dtype, device=nu.device)
    first = ((1 - 2 * (k % 2)) / (nu.unsqueeze(-1) + k) ** 2).sum(-1)
    x, y = 1 / nu, 1 / (nu + 40)
    summed = first + (y**2 + y**3) / 2 + expansion(y) - (x**2 + x**3) / 2
    return torch.where(nu > 200, expansion(x), summed)
