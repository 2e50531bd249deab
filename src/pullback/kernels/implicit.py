"""A tangent kernel known by its products, `K f = J (J^T f)`: no matrix, whatever its size."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from pullback.batches import all_finite, working_memory
from pullback.cotangents import ReadOut
from pullback.errors import InputError
from pullback.estimates import Estimate
from pullback.jacobian import Jacobian
from pullback.kernels.arrangement import AllPairs, Arrangement, Single
from pullback.kernels.kernel import SAMPLES, Kernel
from pullback.tape.sweep import Sweep


class ImplicitKernel(Kernel):
    """A kernel that can be multiplied with functions, and no more.

    A product takes a backward and a forward pass over the data for each function; of the sum over
    outputs, for each function and output.

    Args:
        left: the network and the first data set.
        right: the second, if there is one.
        read_out: combinations of the outputs.
        arrangement: which pairs of these the kernel has; all, their sum, or the only one.
    """

    def __init__(
        self, left: Sweep, right: Sweep | None, read_out: ReadOut, arrangement: Arrangement
    ) -> None:
        self.symmetric = right is None
        self.outputs = left.plan.outputs
        self._sweep, self._arrangement = left, arrangement
        self._left, self._right = Jacobian(left), Jacobian(right or left)
        self._weights = read_out.weights(self._like.new_empty(0, self.outputs))

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """The shape of a function on the first set."""
        return self._shape(self._left)

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """The shape of a function on the second set."""
        return self.rows if self.symmetric else self._shape(self._right)

    def _shape(self, side: Jacobian) -> tuple[int, ...]:
        samples = side.samples
        return (samples, len(self._weights)) if self._in_pairs else (samples,)

    @property
    def _in_pairs(self) -> bool:
        return isinstance(self._arrangement, AllPairs)

    @property
    def _like(self) -> Tensor:
        return self._left.space.zeros((0,)).flat

    def _product(self, flat: Float[Tensor, "b s"]) -> Float[Tensor, "b r"]:
        space = self._left.space
        room = working_memory(self._sweep.memory, space.device)
        pulled = space.size * space.dtype.itemsize * (1 if self._one_pull else len(self._weights))
        return torch.cat([self._products(some) for some in flat.split(max(1, room // pulled))])

    @property
    def _one_pull(self) -> bool:
        """Whether a function is pulled back once, rather than for each output."""
        return self._in_pairs or isinstance(self._arrangement, Single)

    def _products(self, flat: Float[Tensor, "b s"]) -> Float[Tensor, "b r"]:
        weights = self._weights
        if self._one_pull:
            functions = flat.reshape(len(flat), self.columns[0], len(weights))
            found = self._left.push(self._right.pull(functions @ weights)) @ weights.T
            return found.flatten(1)
        # The sum over outputs is a sum of kernels of one output each.
        cotangents = flat[:, None, :, None] * weights[:, None, :]
        changes = self._left.push(self._right.pull(cotangents))
        return torch.einsum("bknc,kc->bn", changes, weights)

    def diagonal(self) -> Tensor:
        self._check_symmetric()
        return self._squared_norms.clone() if self._in_pairs else self._squared_norms.sum(1)

    @cached_property
    def _squared_norms(self) -> Float[Tensor, "n k"]:
        """The squared norms of the gradients of each sample and read-out.

        Raises:
            InputError: they are not finite.
        """
        norms = self._sweep.settled(lambda: self._sweep.squared_norms("diagonal")).T
        if not all_finite(norms):
            raise InputError("gradients: not finite; the network's derivative is NaN or infinite")
        return norms.to(self._like)

    def norm(self, samples: int = SAMPLES, seed: int = 0) -> Estimate:
        """The Frobenius norm, estimated: `|K z|^2` has the mean `|K|^2` for random signs z."""
        self._check_symmetric()
        draws = self._product(self._signs(samples, seed)).double().square().sum(1)
        squares = Estimate.of(draws)
        root = math.sqrt(squares.value)
        return Estimate(root, squares.stderr / (2 * root) if root else 0.0, samples)

    def dense(self) -> Tensor:
        """The matrix, by products with every function that is one at a single place."""
        size = math.prod(self.columns)
        every = torch.eye(size, dtype=self._like.dtype, device=self._like.device)
        return self._product(every).T.reshape(*self.rows, *self.columns)
