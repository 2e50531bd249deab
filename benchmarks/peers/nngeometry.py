"""NNGeometry 0.4."""

from __future__ import annotations

import torch
from nngeometry import GramMatrix
from nngeometry import object as nng
from nngeometry.layercollection import LayerCollection
from nngeometry.metrics import FIM, FIM_MonteCarlo
from nngeometry.object.vector import PVector
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ..cases import OUTPUTS, Case
from ..program import DAMPING, SAMPLED_TOLERANCE, NotOfferedError, Program, leading_part


def program(operation: str, case: Case) -> Program:
    loader = DataLoader(TensorDataset(case.inputs, case.targets), batch_size=case.batch_size)
    rows = TensorDataset(case.kernel_inputs, case.targets[: case.kernel_samples])
    one_batch = DataLoader(rows, batch_size=case.kernel_samples)

    def fisher(representation: type, layers: LayerCollection | None = None):
        return FIM(
            model=case.model, loader=loader, representation=representation,
            variant="classif_logits", layer_collection=layers,
        )  # fmt: skip

    def layers() -> LayerCollection:
        found = LayerCollection()
        for module in case.kronecker_modules().values():
            found.add_layer_from_model(case.model, module)
        return found

    def summary(matrix, covered: LayerCollection) -> Tensor:
        v = PVector(covered, vector_repr=case.direction(kronecker=True))
        return torch.stack([matrix.vTMv(v), matrix.trace()])

    def kronecker(representation: type):
        covered = layers()
        matrix = fisher(representation, covered)
        if representation is nng.PMatEKFAC:
            matrix.update_diag(loader)
        return matrix, covered

    def solve(built) -> Tensor:
        matrix, covered = built
        v = PVector(covered, vector_repr=case.direction(kronecker=True))
        return matrix.solve(v, regul=DAMPING).to_torch()

    def values(built) -> Tensor:
        matrix, _ = built
        matrix.compute_eigendecomposition()
        pairs = matrix.get_eigendecomposition()[0].values()
        return torch.cat([torch.outer(g, a).flatten() for a, g in pairs])

    def eigh(matrix) -> Tensor:
        matrix.compute_eigendecomposition()
        values, vectors = matrix.get_eigendecomposition()
        along = vectors.T @ case.direction()
        return torch.cat([values.flip(0), vectors @ (values * along)])

    def kfac_mc() -> Tensor:
        covered = layers()
        matrix = FIM_MonteCarlo(
            model=case.model, loader=loader, representation=nng.PMatKFAC,
            variant="classif_logits", trials=1, layer_collection=covered,
        )  # fmt: skip
        return summary(matrix, covered)

    def product(representation: type) -> Tensor:
        every = LayerCollection.from_model(case.model)
        v = PVector(every, vector_repr=case.direction())
        return fisher(representation, every).mv(v).to_torch().detach()

    def lowrank() -> Tensor:
        every = LayerCollection.from_model(case.model)
        matrix = fisher(nng.PMatLowRank, every)
        v = PVector(every, vector_repr=case.direction())
        # Its trace forms the Gram matrix of all rows, 1.6 GB on the tiny case.
        return torch.stack([matrix.vTMv(v), matrix.get_diag().sum()])

    def blocks() -> Tensor:
        return torch.cat([b.flatten() for b in fisher(nng.PMatBlockDiag).data.values()])

    def ntk_sum() -> Tensor:
        total = torch.zeros(case.kernel_samples, case.kernel_samples)
        for c in range(OUTPUTS):

            def output(x: Tensor, _: Tensor, c: int = c) -> Tensor:
                return case.model(x)[:, c : c + 1]

            total += GramMatrix(case.model, one_batch, function=output).to_torch()[0, :, 0]
        return total

    if operation == "diag":
        return Program(lambda: fisher(nng.PMatDiag).get_diag())
    if operation == "dense":
        return Program(lambda: fisher(nng.PMatDense).to_torch())
    if operation == "block":
        return Program(blocks)
    if operation == "quasi":
        return Program(lambda: product(nng.PMatQuasiDiag))
    if operation == "lowrank":
        return Program(lowrank)
    if operation == "eigh":
        return Program(eigh, setup=lambda: fisher(nng.PMatDense))
    if operation == "solve_kfac":
        return Program(
            solve,
            setup=lambda: kronecker(nng.PMatKFAC),
            note="damps each factor: not the same quantity",
        )
    if operation == "solve_ekfac":
        return Program(solve, setup=lambda: kronecker(nng.PMatEKFAC))
    if operation == "eigvals_kfac":
        return Program(
            lambda built: values(built).sort(descending=True).values,
            setup=lambda: kronecker(nng.PMatKFAC),
        )
    if operation == "logdet_kfac":
        return Program(
            lambda built: (values(built) + DAMPING).log().sum().reshape(1),
            setup=lambda: kronecker(nng.PMatKFAC),
            note="from its eigenvalues",
        )
    if operation == "kfac":
        return Program(lambda: summary(*kronecker(nng.PMatKFAC)))
    if operation == "kfac_mc":
        return Program(kfac_mc, tolerance=SAMPLED_TOLERANCE)
    if operation == "ekfac":
        return Program(lambda: summary(*kronecker(nng.PMatEKFAC)))
    if operation == "fvp":
        return Program(lambda: product(nng.PMatImplicit))
    if operation == "trace":
        return Program(lambda: fisher(nng.PMatImplicit).trace().reshape(1))
    if operation == "ntk_all":  # kept as (c, n, c, n)
        return Program(lambda: GramMatrix(case.model, one_batch).to_torch().permute(1, 0, 3, 2))
    if operation == "ntk_sum":
        return Program(ntk_sum, note="ten kernels of one output")
    if operation == "ntk_eigh":
        return Program(lambda: leading_part(ntk_sum()), note="of ten kernels of one output")
    raise NotOfferedError
