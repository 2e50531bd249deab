"""The generic way: exact per-sample gradients by `torch.func`, for whatever has no rule.

An LSTM, attention, a raw parameter in a product, a reparametrised weight: the module
is run on each sample by itself and differentiated with respect to these parameters alone. All
samples go at once under `vmap`; a module that `vmap` cannot follow is run sample by sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

from pullback.batches import Batch
from pullback.network import Network
from pullback.tape.use import Gradients, Unforeseen, Use

# What `torch.func.vjp` returns: the outputs, and the map from cotangents to gradients.
Linearised = tuple[Tensor, Callable[[Tensor], tuple[dict[str, Tensor]]]]

VMAPPED = "generic (vmap)"
LOOPED = "generic (sample by sample)"


class GenericUse(Use):
    """All uses, of any kind, of parameters that have some use without a rule.

    Here `g` is the cotangents themselves, k tensors (n, c).

    Args:
        network: the function.
        names: the parameters.
        batch: the samples.
        vmapped: whether the module can be run under `vmap`.
    """

    def __init__(
        self, network: Network, names: tuple[str, ...], batch: Batch, vmapped: bool
    ) -> None:
        self.network, self.names, self.batch, self.vmapped = network, names, batch, vmapped
        self.dtype = network.space.dtype

    @property
    def way(self) -> str:  # type: ignore[override]
        return VMAPPED if self.vmapped else LOOPED

    def lay_out(self, gradient: Tensor) -> Float[Tensor, "n c"]:
        return gradient

    @property
    def floats(self) -> tuple[int, int]:
        size = sum(self.network.tensors[name].numel() for name in self.names)
        return 0, size  # the gradients themselves are what is kept

    def per_sample(self, g: Gradients) -> dict[str, Tensor]:
        cotangents = torch.stack(g)
        if not self.vmapped:
            return self._looped(cotangents)
        try:
            by_name = self._vmapped(cotangents)
        except RuntimeError as error:
            raise Unforeseen({}, vmapped=False) from error
        return {name: value.to(self.dtype) for name, value in by_name.items()}

    def _vmapped(self, g: Tensor) -> dict[str, Tensor]:
        size = len(self.batch)
        own = {name: self.network.tensors[name] for name in self.names}
        tensors = (self.batch.args, self.batch.kwargs)
        leaves, structure = pytree.tree_flatten(tensors)
        mapped = [isinstance(x, Tensor) and x.ndim > 0 and len(x) == size for x in leaves]
        constant = [None if m else x for x, m in zip(leaves, mapped, strict=True)]

        def pull(sample: list[Tensor], cotangents: Tensor) -> dict[str, Tensor]:
            fresh = iter(sample)
            pieces = [
                next(fresh).unsqueeze(0) if m else x for x, m in zip(constant, mapped, strict=True)
            ]
            args, kwargs = pytree.tree_unflatten(pieces, structure)

            def outputs(values: dict[str, Tensor]) -> Tensor:
                every = {**self.network.tensors, **values}
                return self.network.forward(every, Batch(args, kwargs))[0]

            back = cast(Linearised, torch.func.vjp(outputs, own))[1]
            return torch.func.vmap(lambda u: back(u)[0])(cotangents)

        samples = [x for x, m in zip(leaves, mapped, strict=True) if m]
        in_dims = ([0] * len(samples), 1)
        return torch.func.vmap(pull, in_dims=in_dims, out_dims=1)(samples, g)

    def _looped(self, g: Tensor) -> dict[str, Tensor]:
        own = {n: self.network.tensors[n].clone().requires_grad_() for n in self.names}
        every = {**self.network.tensors, **own}
        out = {
            n: g.new_empty(g.shape[0], g.shape[1], *t.shape, dtype=self.dtype)
            for n, t in own.items()
        }
        for sample in range(g.shape[1]):
            values = self.network.forward(every, self.batch.take(sample, sample + 1))[0]
            for cotangent in range(g.shape[0]):
                gradients = torch.autograd.grad(
                    values,
                    list(own.values()),
                    g[cotangent, sample],
                    retain_graph=True,
                    materialize_grads=True,
                )
                for name, gradient in zip(own, gradients, strict=True):
                    out[name][cotangent, sample] = gradient
        return out


def can_vmap(network: Network, names: tuple[str, ...], batch: Batch, outputs: int) -> bool:
    """Whether the module runs under `vmap`, and gives the same: tried on a few samples."""
    space = network.space
    rows = torch.eye(2, outputs, dtype=space.dtype, device=space.device)
    cotangents = [row.expand(len(batch), -1) for row in rows]
    try:
        fast = GenericUse(network, names, batch, vmapped=True).per_sample(cotangents)
    except Unforeseen:
        return False
    slow = GenericUse(network, names, batch, vmapped=False).per_sample(cotangents)
    return all(torch.allclose(fast[n], slow[n], rtol=1e-2, atol=1e-5) for n in names)
