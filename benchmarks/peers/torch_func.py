"""Plain `torch.func`: what a user writes without a library, and (in float64) the reference.

`torch.func` has no Kronecker factors; those are a naive program with forward hooks. What is asked
of a matrix that is there already is plain `torch.linalg`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..cases import OUTPUTS, Case
from ..program import (
    CG_RESIDUAL,
    CG_TOLERANCE,
    DAMPING,
    DRAWS,
    NotOfferedError,
    Program,
    leading_part,
)
from ..samples import checked

Gradients = dict[str, Tensor]
Pairs = dict[str, tuple[Tensor, Tensor]]
Triples = dict[str, tuple[Tensor, Tensor, Tensor]]
CHUNK = {"mlp": 100, "conv": 50, "resnet": 50, "tiny": 200, "small": 100}
"""Samples whose gradients are held at once: per-sample gradients do not fit otherwise."""
NAIVE = "naive program with hooks"


def program(operation: str, case: Case) -> Program:
    plain, factored = PlainTorch(case), Factored(case)
    from_factors = {
        "solve_kfac": factored.solve,
        "eigvals_kfac": factored.eigenvalues,
        "logdet_kfac": factored.logdet,
        "sample_kfac": factored.samples,
    }
    if operation in from_factors:
        judged = checked(case) if operation == "sample_kfac" else {}
        return Program(from_factors[operation], setup=factored.factors, note=NAIVE, **judged)
    if operation == "solve_ekfac":
        return Program(factored.solve_scaled, setup=lambda: naive_scales(case), note=NAIVE)
    if operation == "eigh":
        return Program(plain.eigh, setup=plain.dense)
    if operation == "solve_cg":
        return Program(plain.solve, tolerance=CG_TOLERANCE)
    runs = {
        "diag": plain.diag,
        "trace": plain.trace,
        "dense": plain.dense,
        "block": plain.block,
        "quasi": plain.quasi,
        "lowrank": plain.lowrank,
        "fvp": lambda: plain.product(case.direction()),
        "ntk_all": plain.ntk_all,
        "ntk_sum": plain.ntk_sum,
        "ntk_two": plain.ntk_two,
        "ntk_eigh": plain.ntk_eigh,
        "kfac": lambda: naive_kfac(case),
        "ekfac": lambda: naive_ekfac(case),
        "factors": factored.packed,  # a reference only
    }
    if operation not in runs:
        raise NotOfferedError
    return Program(runs[operation], note=NAIVE if "kfac" in operation else "")


def output_square_root(outputs: Tensor) -> Tensor:
    """S (n, c, c) with S S^T = diag p - p p^T."""
    p = torch.softmax(outputs.detach(), 1)
    s = p.sqrt()
    return torch.diag_embed(s) - torch.einsum("nc,nk->nck", p, s)


class PlainTorch:
    """Per-sample gradients by `vmap`, products by `jvp` and `vjp`."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.parameters = {k: p.detach() for k, p in case.model.named_parameters()}
        self.buffers = dict(case.model.named_buffers())

    def function(self, parameters: Gradients, x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # `vmap` has no rule for the fused attention
            return functional_call(self.case.model, {**parameters, **self.buffers}, (x,))

    def single(self, parameters: Gradients, x: Tensor) -> Tensor:
        return self.function(parameters, x.unsqueeze(0)).squeeze(0)

    def jacobian(self, x: Tensor) -> Tensor:
        """(n, c, d)."""
        rows = vmap(jacrev(self.single), (None, 0))(self.parameters, x)
        return torch.cat([rows[k].flatten(2) for k in self.parameters], 2)

    def rows(self) -> Iterator[Gradients]:
        """Per-sample gradients along each column of the output metric's square root."""
        rows = vmap(grad(lambda p, x, s: self.single(p, x) @ s), (None, 0, 0))
        for x, _ in self.case.batches(CHUNK[self.case.name]):
            for s in output_square_root(self.function(self.parameters, x)).unbind(2):
                yield rows(self.parameters, x, s)

    def diag(self) -> Tensor:
        sums = {k: torch.zeros_like(p) for k, p in self.parameters.items()}
        for rows in self.rows():
            for k, row in rows.items():
                sums[k] += row.square_().sum(0)
        return torch.cat([s.flatten() for s in sums.values()]) / self.case.samples

    def trace(self) -> Tensor:
        total = sum(row.square_().sum() for rows in self.rows() for row in rows.values())
        return torch.as_tensor(total / self.case.samples).reshape(1)

    def roots(self) -> Iterator[Tensor]:
        """The rows R (n c, d) of each batch: F is the mean over samples of R^T R."""
        for x, _ in self.case.batches(CHUNK[self.case.name]):
            root = output_square_root(self.function(self.parameters, x))
            yield torch.einsum("ncd,nck->nkd", self.jacobian(x), root).flatten(0, 1)

    def dense(self) -> Tensor:
        return sum(rows.T @ rows for rows in self.roots()) / self.case.samples

    def block(self) -> Tensor:
        """The blocks one after another, each flattened."""
        totals: dict[str, Tensor | float] = dict.fromkeys(self.layers(), 0.0)
        for rows in self.roots():
            for name, places in self.layers().items():
                own = rows[:, places]
                totals[name] = totals[name] + own.T @ own
        return torch.cat([t.flatten() for t in totals.values()]) / self.case.samples

    def layers(self) -> dict[str, slice]:
        """Where the parameters of each module stand in a flat vector."""
        found: dict[str, slice] = {}
        start = 0
        for name, p in self.parameters.items():
            layer = name.rpartition(".")[0]
            found[layer] = slice(found[layer].start if layer in found else start, start + p.numel())
            start += p.numel()
        return found

    def lowrank(self) -> Tensor:
        rows = torch.cat(list(self.roots())) / self.case.samples**0.5
        along = rows @ self.case.direction()
        return torch.stack([along @ along, rows.square().sum()])

    def quasi(self) -> Tensor:
        """The product with the direction: diagonals, and what weights share with their bias."""
        squares = {k: torch.zeros_like(p) for k, p in self.parameters.items()}
        cross = {k: torch.zeros_like(p) for k, p in self.parameters.items() if p.ndim > 1}
        for rows in self.rows():
            for k, row in rows.items():
                squares[k] += row.square().sum(0)
            for k in cross:
                cross[k] += torch.einsum("no,no...->o...", rows[_bias_of(k)], rows[k])
        v = self.split(self.case.direction())
        product = {k: squares[k] * v[k] for k in v}
        for k, shared in cross.items():
            bias = _bias_of(k)
            product[k] += shared * v[bias].view(-1, *[1] * (shared.ndim - 1))
            product[bias] += (shared * v[k]).flatten(1).sum(1)
        return torch.cat([p.flatten() for p in product.values()]) / self.case.samples

    def eigh(self, matrix: Tensor) -> Tensor:
        """The eigenvalues, largest first, and F v from them and the eigenvectors."""
        values, vectors = torch.linalg.eigh(matrix)
        along = vectors.T @ self.case.direction()
        return torch.cat([values.flip(0), vectors @ (values * along)])

    def solve(self) -> Tensor:
        """Conjugate gradients."""
        right = self.case.direction()
        exact = right.dtype == torch.float64  # the reference
        least = (1e-10 if exact else CG_RESIDUAL) * right.norm()
        found, residual = torch.zeros_like(right), right.clone()
        along, square = residual, residual @ residual
        while square.sqrt() > least:
            product = self.product(along) + DAMPING * along
            step = square / (along @ product)
            found, residual = found + step * along, residual - step * product
            square, before = residual @ residual, square
            along = residual + square / before * along
        return found

    def split(self, flat: Tensor) -> Gradients:
        """A flat vector by parameters."""
        pieces = flat.split([p.numel() for p in self.parameters.values()])
        return {k: t.view_as(p) for (k, p), t in zip(self.parameters.items(), pieces, strict=True)}

    def product(self, flat: Tensor) -> Tensor:
        """The Fisher matrix times a vector."""
        v = self.split(flat)
        total: Tensor | float = 0.0
        for x, _ in self.case.batches():
            outputs, tangent = jvp(lambda p, x=x: self.function(p, x), (self.parameters,), (v,))
            p = torch.softmax(outputs, 1)
            cotangent = p * tangent - p * (p * tangent).sum(1, keepdim=True)
            _, pull = vjp(lambda p, x=x: self.function(p, x), self.parameters)
            total = total + torch.cat([g.flatten() for g in pull(cotangent)[0].values()])
        return total / self.case.samples

    def ntk_all(self) -> Tensor:
        n = self.case.kernel_samples
        rows = self.jacobian(self.case.kernel_inputs).flatten(0, 1)
        return (rows @ rows.T).view(n, OUTPUTS, n, OUTPUTS)

    def ntk_sum(self) -> Tensor:
        total: Tensor | float = 0.0
        for c in range(OUTPUTS):
            rows = vmap(grad(lambda p, x, c=c: self.single(p, x)[c]), (None, 0))
            for row in rows(self.parameters, self.case.kernel_inputs).values():
                total = total + row.flatten(1) @ row.flatten(1).T
        return total

    def ntk_two(self) -> Tensor:
        first, second = map(self.jacobian, self.case.kernel_halves)
        return torch.einsum("ncd,med->ncme", first, second)

    def ntk_eigh(self) -> Tensor:
        return leading_part(self.ntk_sum())


def _bias_of(weight: str) -> str:
    return f"{weight.rpartition('.')[0]}.bias"


class Passes:
    """Layer inputs (n, T, i) and output gradients (n, T, o) by forward hooks."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.modules = case.kronecker_modules()

    def __iter__(self) -> Iterator[tuple[int, dict[str, Tensor], dict[str, Tensor]]]:
        """For each batch and each cotangent: its number, the inputs, the gradients."""
        for x, _ in self.case.batches():
            taken: dict[str, Tensor] = {}
            kept: dict[str, Tensor] = {}

            def hook(name: str, inputs: Tensor, output: Tensor, taken=taken, kept=kept) -> None:
                taken[name], kept[name] = inputs.detach(), output

            handles = [
                m.register_forward_hook(lambda m, i, o, name=name: hook(name, i[0], o))
                for name, m in self.modules.items()
            ]
            outputs = self.case.model(x)
            for handle in handles:
                handle.remove()
            inputs = {k: self._patches(m, taken[k]) for k, m in self.modules.items()}
            roots = output_square_root(outputs)
            for c in range(OUTPUTS):
                found = torch.autograd.grad(
                    outputs, list(kept.values()), roots[:, :, c], retain_graph=c < OUTPUTS - 1
                )
                by_name = dict(zip(kept, found, strict=True))
                gradients = {
                    k: g.flatten(2).transpose(1, 2) if g.ndim == 4 else g.unsqueeze(1)
                    for k, g in by_name.items()
                }
                yield c, inputs, gradients

    @staticmethod
    def _patches(module: nn.Module, a: Tensor) -> Tensor:
        if isinstance(module, nn.Conv2d):
            a = F.unfold(a, module.kernel_size, padding=module.padding, stride=module.stride)
            a = a.transpose(1, 2)
        else:
            a = a.unsqueeze(1)
        return a if module.bias is None else torch.cat([a, torch.ones_like(a[..., :1])], -1)

    def directions(self) -> dict[str, Tensor]:
        """The fixed direction, (o, i) for each module, the bias in the last column."""
        names = [n for n, _ in self.case.model.named_parameters()]
        pieces = self.case.direction().split([p.numel() for p in self.case.model.parameters()])
        by_name = dict(zip(names, pieces, strict=True))
        found = {}
        for name, module in self.modules.items():
            v = by_name[f"{name}.weight"].view(len(module.weight), -1)
            if module.bias is not None:
                v = torch.cat([v, by_name[f"{name}.bias"][:, None]], 1)
            found[name] = v
        return found


def _naive_factors(case: Case, passes: Passes) -> Pairs:
    a: dict[str, Tensor | float] = dict.fromkeys(passes.modules, 0.0)
    g: dict[str, Tensor | float] = dict.fromkeys(passes.modules, 0.0)
    for c, inputs, gradients in passes:
        for name in passes.modules:
            u, rows = inputs[name], gradients[name].flatten(0, 1)
            if c == 0:
                count = case.samples * u.shape[1]
                a[name] = a[name] + u.flatten(0, 1).T @ u.flatten(0, 1) / count
            g[name] = g[name] + rows.T @ rows / case.samples
    return {name: (a[name], g[name]) for name in passes.modules}


def naive_kfac(case: Case) -> Tensor:
    passes = Passes(case)
    factors, directions = _naive_factors(case, passes), passes.directions()
    product = sum(((g @ directions[k] @ a) * directions[k]).sum() for k, (a, g) in factors.items())
    return torch.stack([product, sum(a.trace() * g.trace() for a, g in factors.values())])


def naive_scales(case: Case) -> Triples:
    """For each module the eigenvectors of A and G, and the scales (o, i)."""
    passes = Passes(case)
    bases = {
        k: (torch.linalg.eigh(a)[1], torch.linalg.eigh(g)[1])
        for k, (a, g) in _naive_factors(case, passes).items()
    }
    scales: dict[str, Tensor | float] = dict.fromkeys(bases, 0.0)
    for _, inputs, gradients in passes:
        for k, (basis_a, basis_g) in bases.items():
            rows = torch.einsum("nto,nti->noi", gradients[k] @ basis_g, inputs[k] @ basis_a)
            scales[k] = scales[k] + rows.square_().sum(0) / case.samples
    return {k: (*bases[k], scales[k]) for k in bases}


def naive_ekfac(case: Case) -> Tensor:
    directions, scaled = Passes(case).directions(), naive_scales(case)
    product = sum(
        ((basis_g.T @ directions[k] @ basis_a).square() * scales).sum()
        for k, (basis_a, basis_g, scales) in scaled.items()
    )
    return torch.stack([product, sum(scales.sum() for _, _, scales in scaled.values())])


class Factored:
    """What is asked of KFAC once its factors are there."""

    def __init__(self, case: Case) -> None:
        self.case, self.passes = case, Passes(case)

    def factors(self) -> Pairs:
        """A and G of each module."""
        return _naive_factors(self.case, self.passes)

    def packed(self) -> Tensor:
        """All of them in one vector, as `samples.error` reads them."""
        return torch.cat([f.flatten() for pair in self.factors().values() for f in pair])

    def flat(self, matrices: dict[str, Tensor]) -> Tensor:
        """From matrices (..., o, i) to vectors (..., d)."""
        pieces = []
        for name, module in self.passes.modules.items():
            weight, bias = matrices[name], None
            if module.bias is not None:
                weight, bias = weight[..., :-1], weight[..., -1]
            pieces += [weight.flatten(-2)] + ([] if bias is None else [bias])
        return torch.cat(pieces, -1)

    def turned(self, factors: Pairs, function: Callable[..., Tensor]) -> Tensor:
        """From matrices in the eigenbasis, by module, its eigenvalues and eigenvectors."""
        found = {}
        for name, (a, g) in factors.items():
            (over_a, basis_a), (over_g, basis_g) = torch.linalg.eigh(a), torch.linalg.eigh(g)
            inside = function(name, torch.outer(over_g, over_a), basis_a, basis_g)
            found[name] = basis_g @ inside @ basis_a.T
        return self.flat(found)

    def solve(self, factors: Pairs) -> Tensor:
        v = self.passes.directions()

        def inside(name: str, values: Tensor, basis_a: Tensor, basis_g: Tensor) -> Tensor:
            return (basis_g.T @ v[name] @ basis_a) / (values + DAMPING)

        return self.turned(factors, inside)

    def samples(self, factors: Pairs) -> Tensor:
        def inside(name: str, values: Tensor, basis_a: Tensor, basis_g: Tensor) -> Tensor:
            return torch.randn(DRAWS, *values.shape) * (values + DAMPING).rsqrt()

        return self.turned(factors, inside)

    def solve_scaled(self, scaled: Triples) -> Tensor:
        v, found = self.passes.directions(), {}
        for name, (basis_a, basis_g, scales) in scaled.items():
            inside = (basis_g.T @ v[name] @ basis_a) / (scales + DAMPING)
            found[name] = basis_g @ inside @ basis_a.T
        return self.flat(found)

    def values(self, factors: Pairs) -> Tensor:
        found = [
            torch.outer(torch.linalg.eigvalsh(g), torch.linalg.eigvalsh(a)).flatten()
            for a, g in factors.values()
        ]
        return torch.cat(found)

    def eigenvalues(self, factors: Pairs) -> Tensor:
        return self.values(factors).sort(descending=True).values

    def logdet(self, factors: Pairs) -> Tensor:
        return (self.values(factors) + DAMPING).log().sum().reshape(1)
