"""Networks of infinite width: their tangent kernel and their Gaussian process, in closed form.

The wider a network with random weights, the less its tangent kernel depends on these, and on
training. In the limit the kernel follows from the architecture by a recursion through the layers:
K is the covariance of what a layer gives out for two samples (NNGP), T the tangent kernel so far.

    affine       K' = w^2 mean_k K(p_k, q_k) + b^2        T' = w^2 mean_k T(p_k, q_k) + K'
    pooling      K' = mean_kl K(p_k, q_l)                 T' = mean_kl T(p_k, q_l)
    activation   K' = E f(u) f(v)                         T' = T E f'(u) f'(v)

Here p and q are positions in one sample and in the other, p_k those that output position p reads,
and (u, v) is Gaussian with covariance K. A fully connected layer reads all positions at once, so it
needs equal ones only, K(p, p); a convolution keeps the distance between them; pooling mixes them.
The recursion is therefore planned backwards, and keeps the pairs that later layers need, no others.

Kernels are laid out (pairs..., a, b): pairs of positions for each axis of the input, a samples and
b others.

    InfiniteNetwork([Dense(2**0.5, 0.1), Relu(), Dense()])
    InfiniteNetwork([Convolution(3), Relu(), AveragePool(2), Convolution(3), Relu(), Dense()])

Another activation is a subclass of `Activation`: the function, and the two expectations.
"""

from pullback.kernels.infinite.layers import (
    Activation,
    Affine,
    AveragePool,
    Convolution,
    Dense,
    Erf,
    Identity,
    Layer,
    Linear,
    Relu,
)
from pullback.kernels.infinite.network import InfiniteNetwork

__all__ = [
    "Activation",
    "Affine",
    "AveragePool",
    "Convolution",
    "Dense",
    "Erf",
    "Identity",
    "InfiniteNetwork",
    "Layer",
    "Linear",
    "Relu",
]
