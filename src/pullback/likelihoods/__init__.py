"""Output metrics M(x): what a likelihood says about distances between outputs.

A Fisher matrix is an output metric pulled back to the parameters, `J^T M J`. What a likelihood has
to supply is M in the forms that computations need: products with it and with a square root of it,
gradients at labels drawn from the model, the gradient at the true label.

    "categorical", "bernoulli", ...       named, by formulas in the outputs (`named.py`)
    lambda out: Poisson(out[:, 0].exp())  any function from outputs to a distribution: gradients by
                                          autograd (`predictive.py`), M where the Fisher information
                                          of the class is registered (`information.py`)
    Loss(function)                        the curvature of any loss (`loss.py`)

A new output metric is a subclass of `Likelihood` with a name, or `register_information`.
"""

from __future__ import annotations

from pullback.errors import InputError
from pullback.likelihoods.base import REGISTRY, Likelihood
from pullback.likelihoods.information import Information, information_of, register_information
from pullback.likelihoods.loss import Loss
from pullback.likelihoods.named import Bernoulli, Categorical, Euclidean, Gaussian, Poisson
from pullback.likelihoods.predictive import DistributionOf, Predictive

__all__ = [
    "Bernoulli",
    "Categorical",
    "DistributionOf",
    "Euclidean",
    "Gaussian",
    "Information",
    "Likelihood",
    "Loss",
    "Poisson",
    "Predictive",
    "information_of",
    "likelihood_of",
    "register_information",
]


def likelihood_of(likelihood: str | Likelihood | DistributionOf) -> Likelihood:
    """The likelihood of that name or that function, or the object itself.

    Raises:
        InputError: there is no such likelihood.
    """
    if isinstance(likelihood, Likelihood):
        return likelihood
    if isinstance(likelihood, str) and likelihood in REGISTRY:
        return REGISTRY[likelihood]()
    if isinstance(likelihood, str) or not callable(likelihood):
        raise InputError(
            f"likelihood: no {likelihood!r}; there are {sorted(REGISTRY)}, and any function from "
            "outputs (n, c) to a torch.distributions.Distribution"
        )
    return Predictive(likelihood)
