"""Kronecker-factored blocks: KFAC and EKFAC.

The gradient of an affine layer is `g a~^T`, summed over positions. KFAC replaces the second moment
of that product by the product of second moments, `B (x) A`; EKFAC keeps KFAC's eigenvectors and
puts the true second moments along them in place of KFAC's eigenvalues, which is never further from
the block in Frobenius norm and has its exact trace (George et al. 2018).
"""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float
from linear_operator import LinearOperator
from linear_operator.operators import DenseLinearOperator, KroneckerProductLinearOperator
from torch import Tensor

from pullback.linalg import eigh_of_moment
from pullback.metrics.block import Block, Spectral
from pullback.metrics.dense import Dense
from pullback.tape.affine import AffineLayout

# At most so many steps towards the nearest Kronecker product; they converge geometrically.
POWER_ITERATIONS = 500


class EKFAC(Block):
    """A block `(U_B (x) U_A) diag(scales) (U_B (x) U_A)^T` for each group of channels.

    Args:
        layout: how the parameters form matrices (G, o, i).
        left: the eigenvectors U_B in columns, (G, o, o).
        right: the eigenvectors U_A in columns, (G, i, i).
        scales: the second moments along them, (G, o, i).
    """

    kind = "ekfac"

    def __init__(
        self,
        layout: AffineLayout,
        left: Float[Tensor, "g o o"],
        right: Float[Tensor, "g i i"],
        scales: Float[Tensor, "g o i"],
    ) -> None:
        self.layout, self.left, self.right, self.scales = layout, left, right, scales

    @property
    def size(self) -> int:
        return self.scales.numel()

    def tensors(self) -> dict[str, Tensor]:
        return {"left": self.left, "right": self.right, "scales": self.scales}

    def product(self, flat: Tensor) -> Tensor:
        return self._turned_back(self._turned(flat).mul_(self.scales))

    def solve(self, flat: Tensor, damping: int | float) -> Tensor:
        return self._turned_back(self._turned(flat).div_(self.scales + damping))

    def _turned(self, flat: Float[Tensor, "*b d"]) -> Float[Tensor, "*b g o i"]:
        return self.left.mT @ self.layout.matrix(flat) @ self.right

    def _turned_back(self, rotated: Float[Tensor, "*b g o i"]) -> Float[Tensor, "*b d"]:
        right = self.right[0] if len(self.right) == 1 else self.right  # one product for a batch
        return self.layout.flat(self.left @ (rotated @ right.mT))

    # Noise has no direction, so it is taken as if along the eigenvectors already.

    def sample(self, noise: Tensor) -> Tensor:
        root = self.scales.clamp(min=0).sqrt_()
        return self._turned_back(noise.unflatten(-1, self.scales.shape) * root)

    def sample_inverse(self, noise: Tensor, damping: int | float) -> Tensor:
        root = (self.scales + damping).rsqrt_()
        return self._turned_back(noise.unflatten(-1, self.scales.shape) * root)

    def trace(self) -> float:
        return float(self.scales.sum())

    def norm(self) -> float:
        return float(torch.linalg.vector_norm(self.scales))

    def diagonal(self) -> Tensor:
        return self.layout.flat(self.left.square() @ self.scales @ self.right.square().mT)

    def eigenvalues(self) -> Tensor:
        return self.scales.flatten()

    def eigenvectors(self, places: Tensor) -> Tensor:
        group, row, column = torch.unravel_index(places, self.scales.shape)
        vectors = self.left[group, :, row].unsqueeze(2) * self.right[group, :, column].unsqueeze(1)
        out = self.scales.new_zeros(len(places), *self.scales.shape)
        out[torch.arange(len(places)), group] = vectors
        return self.layout.flat(out)

    def apply(self, function: Spectral) -> EKFAC:
        return EKFAC(self.layout, self.left, self.right, function(self.scales))

    def centred(self, mean: Tensor) -> EKFAC:
        along = self.left.mT @ self.layout.matrix(mean) @ self.right
        return EKFAC(self.layout, self.left, self.right, self.scales - along.square())

    def scaled(self, factor: int | float) -> EKFAC:
        return self.apply(lambda values: values * factor)

    def plus(self, other: Block) -> Block:
        if isinstance(other, EKFAC) and self._shares_basis(other):
            scales = self.scales + other.scales
            return EKFAC(self.layout, self.left, self.right, scales)
        if isinstance(other, Dense):
            return other.plus(self)
        raise self.refuse("the sum with a block in another eigenbasis")

    def _shares_basis(self, other: EKFAC) -> bool:
        return torch.equal(self.left, other.left) and torch.equal(self.right, other.right)


class KFAC(Block):
    """A block `B (x) A` for each group of channels.

    Args:
        layout: how the parameters form matrices (G, o, i).
        outputs: the second moment B of the gradients by the outputs, (G, o, o).
        inputs: the second moment A of the inputs, (G, i, i), the bias coordinate last.
    """

    kind = "kfac"

    def __init__(
        self,
        layout: AffineLayout,
        outputs: Float[Tensor, "g o o"],
        inputs: Float[Tensor, "g i i"],
    ) -> None:
        self.layout, self.outputs, self.inputs = layout, outputs, inputs

    @property
    def size(self) -> int:
        return self.outputs.shape[:2].numel() * self.inputs.shape[1]

    def tensors(self) -> dict[str, Tensor]:
        return {"outputs": self.outputs, "inputs": self.inputs}

    @cached_property
    def eigenbasis(self) -> EKFAC:
        """The same block by eigenvalues and eigenvectors."""
        over_outputs, left = eigh_of_moment(self.outputs)
        over_inputs, right = eigh_of_moment(self.inputs)
        return EKFAC(self.layout, left, right, _products(over_outputs, over_inputs))

    def product(self, flat: Tensor) -> Tensor:
        return self.layout.flat(self.outputs @ self.layout.matrix(flat) @ self.inputs)

    def solve_split(self, flat: Tensor, damping: int | float, by_trace: bool) -> Tensor:
        """`(B + sqrt(damping)/pi I)^-1 V (A + pi sqrt(damping) I)^-1`, each factor damped.

        With `by_trace` pi^2 is the ratio of the factors' mean eigenvalues (Martens and Grosse
        2015), otherwise 1.
        """
        outputs, inputs = self.outputs.clone(), self.inputs.clone()
        pi = torch.ones_like(outputs[:, 0, 0])
        if by_trace:
            mean_out, mean_in = (m.diagonal(dim1=1, dim2=2).mean(1) for m in (outputs, inputs))
            pi = (mean_in / mean_out).sqrt().nan_to_num(1.0, 1.0, 1.0)
            pi = torch.where(pi > 0, pi, 1.0)
        outputs.diagonal(dim1=1, dim2=2).add_((damping**0.5 / pi).unsqueeze(1))
        inputs.diagonal(dim1=1, dim2=2).add_((damping**0.5 * pi).unsqueeze(1))
        found = torch.linalg.solve_ex(outputs, self.layout.matrix(flat)).result
        found = torch.linalg.solve_ex(inputs, found, left=False).result
        return self.layout.flat(found)

    def trace(self) -> float:
        traces = [f.diagonal(dim1=1, dim2=2).sum(1) for f in (self.outputs, self.inputs)]
        return float(traces[0] @ traces[1])

    def norm(self) -> float:
        norms = [torch.linalg.matrix_norm(f) for f in (self.outputs, self.inputs)]
        return float(torch.linalg.vector_norm(norms[0] * norms[1]))

    def diagonal(self) -> Tensor:
        rows, columns = (f.diagonal(dim1=1, dim2=2) for f in (self.outputs, self.inputs))
        return self.layout.flat(rows.unsqueeze(2) * columns.unsqueeze(1))

    def eigenvalues(self) -> Tensor:
        if "eigenbasis" in self.__dict__:
            return self.eigenbasis.eigenvalues()
        values = (torch.linalg.eigvalsh(f) for f in (self.outputs, self.inputs))
        return _products(*values).flatten()

    def eigenvectors(self, places: Tensor) -> Tensor:
        return self.eigenbasis.eigenvectors(places)

    def apply(self, function: Spectral) -> EKFAC:
        return self.eigenbasis.apply(function)

    def solve(self, flat: Tensor, damping: int | float) -> Tensor:
        return self.eigenbasis.solve(flat, damping)

    def sample(self, noise: Tensor) -> Tensor:
        return self.eigenbasis.sample(noise)

    def sample_inverse(self, noise: Tensor, damping: int | float) -> Tensor:
        return self.eigenbasis.sample_inverse(noise, damping)

    def scaled(self, factor: int | float) -> Block:
        if factor < 0:  # the factors stay positive
            return self.eigenbasis.scaled(factor)
        return KFAC(self.layout, self.outputs * factor, self.inputs)

    def plus(self, other: Block) -> Block:
        if isinstance(other, Dense):
            return other.plus(self)
        raise self.refuse("the sum")

    def to_linear_operator(self) -> LinearOperator:
        places = torch.arange(self.size)
        if self.layout.groups > 1 or not torch.equal(self.layout.matrix(places).flatten(), places):
            return super().to_linear_operator()  # a bias, say, comes after all the weights
        factors = (DenseLinearOperator(factor[0]) for factor in (self.outputs, self.inputs))
        return KroneckerProductLinearOperator(*factors)


def _products(outputs: Float[Tensor, "g o"], inputs: Float[Tensor, "g i"]) -> Tensor:
    """The eigenvalues of Kronecker products, (G, o, i)."""
    # Rounding leaves tiny negative eigenvalues, which a solve must not meet.
    return outputs.clamp(min=0).unsqueeze(2) * inputs.clamp(min=0).unsqueeze(1)


def nearest_kronecker(matrix: Float[Tensor, "d d"], layout: AffineLayout) -> KFAC:
    """The factors whose product is nearest to a block in Frobenius norm (Van Loan 2000).

    They are the leading singular vectors of the block with its entries rearranged to rows (o, o)
    and columns (i, i), here by power iteration; positive like the block they come from.
    """
    groups, o, i = layout.groups, layout.outputs, layout.columns
    places = torch.arange(len(matrix), device=matrix.device)
    by_group = layout.matrix(places).reshape(groups, o * i)
    outputs, inputs = [], []
    for own in by_group:
        block = matrix[own.unsqueeze(1), own].view(o, i, o, i)
        left = torch.einsum("aibi->ab", block)
        right = torch.einsum("aiaj->ij", block)
        for _ in range(POWER_ITERATIONS):
            before = right
            left = torch.einsum("aibj,ij->ab", block, right) / right.square().sum()
            right = torch.einsum("aibj,ab->ij", block, left) / left.square().sum()
            left, right = left.nan_to_num(), right.nan_to_num()  # of a block of zeros
            if (right - before).norm() <= torch.finfo(right.dtype).eps * right.norm():
                break
        outputs.append(left)
        inputs.append(right)
    return KFAC(layout, torch.stack(outputs), torch.stack(inputs))
