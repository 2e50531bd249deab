"""Plain `torch.func`: what a user writes without a library, and (in float64) the reference.

`torch.func` has no Kronecker factors; those are a naive program with forward hooks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

from ..cases import OUTPUTS, Case
from ..program import NotOfferedError, Program

Gradients = dict[str, Tensor]
CHUNK = {"mlp": 100, "conv": 50, "resnet": 50, "tiny": 200}
"""Samples whose gradients are held at once: per-sample gradients do not fit otherwise."""


def program(operation: str, case: Case) -> Program:
    plain = PlainTorch(case)
    runs = {
        "diag": plain.diag,
        "trace": plain.trace,
        "dense": plain.dense,
        "fvp": plain.fvp,
        "ntk_all": plain.ntk_all,
        "ntk_sum": plain.ntk_sum,
        "kfac": lambda: naive_kfac(case),
        "ekfac": lambda: naive_ekfac(case),
    }
    if operation not in runs:
        raise NotOfferedError
    note = "naive program with hooks" if "kfac" in operation else ""
    return Program(runs[operation], note=note)


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

    def dense(self) -> Tensor:
        total: Tensor | float = 0.0
        for x, _ in self.case.batches(CHUNK[self.case.name]):
            root = output_square_root(self.function(self.parameters, x))
            rows = torch.einsum("ncd,nck->nkd", self.jacobian(x), root).flatten(0, 1)
            total = total + rows.T @ rows
        return total / self.case.samples

    def fvp(self) -> Tensor:
        sizes = [p.numel() for p in self.parameters.values()]
        pieces = self.case.direction().split(sizes)
        v = {k: t.view_as(self.parameters[k]) for k, t in zip(self.parameters, pieces, strict=True)}
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


def _naive_factors(case: Case, passes: Passes) -> dict[str, tuple[Tensor, Tensor]]:
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


def naive_ekfac(case: Case) -> Tensor:
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
    directions = passes.directions()
    product = sum(
        ((basis_g.T @ directions[k] @ basis_a).square() * scales[k]).sum()
        for k, (basis_a, basis_g) in bases.items()
    )
    return torch.stack([product, sum(s.sum() for s in scales.values())])
