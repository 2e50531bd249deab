"""Tangent kernels against the slow twin: every choice of outputs, two sets, layers, spectra."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from tests import reference
from tests.cases import CASES, Case, golden_module, named
from tests.checks import EXACT, REFUSED, SINGLE, assert_agree, unchanged
from tests.entries import batch_of, batches_of, data_of, network_of

MLP = named("mlp")
SEVERAL = [case for case in CASES if case.c > 1]
MODES = ["all", "sum", "each", 0, 2, (0, 2), (2, 1)]


def kernel_of(case: Case, outputs: object = "all", **options: object) -> pb.TangentKernel:
    """The library's kernel of a case."""
    return pb.tangent_kernel(network_of(case), data_of(case), outputs=outputs, **options)


@cache
def mlp_kernel(outputs: object = "all") -> pb.TangentKernel:
    """The kernel of the MLP, computed once."""
    return kernel_of(MLP, outputs, by_layer=True)


def two_sets(case: Case) -> tuple[object, object]:
    """The first two samples of a case, and the others."""
    first = batch_of(reference.rows_of(case.inputs, slice(0, 2)))
    rest = batch_of(reference.rows_of(case.inputs, slice(2, case.n)))
    return [first], [rest]


class TestOnTheGrid:
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_all_outputs(self, case: Case) -> None:
        """000 T16, 003 F27: `K = J J^T`, with J written out."""
        assert_agree(kernel_of(case).matrix, reference.tangent_kernel(case.rows))

    @pytest.mark.parametrize("case", SEVERAL, ids=str)
    def test_sum_over_outputs(self, case: Case) -> None:
        expected = reference.tangent_kernel(case.rows, outputs="sum")
        assert_agree(kernel_of(case, "sum").matrix, expected)

    @pytest.mark.parametrize("case", SEVERAL[::2], ids=str)
    def test_each_output(self, case: Case) -> None:
        expected = reference.tangent_kernel(case.rows, outputs="each")
        assert_agree(kernel_of(case, "each").matrix, expected)

    @pytest.mark.parametrize("case", SEVERAL[1::2], ids=str)
    def test_difference_of_two_outputs(self, case: Case) -> None:
        """003 F32."""
        expected = reference.tangent_kernel(case.rows, outputs=(1, 0))
        assert_agree(kernel_of(case, (1, 0)).matrix, expected)

    @pytest.mark.parametrize("case", SEVERAL[::3], ids=str)
    def test_one_output(self, case: Case) -> None:
        expected = reference.tangent_kernel(case.rows, outputs=1)
        assert_agree(kernel_of(case, 1).matrix, expected)

    @pytest.mark.parametrize("case", [case for case in CASES if case.n > 2], ids=str)
    def test_two_sets(self, case: Case) -> None:
        """000 T16, 003 F27: `J(x) J(x')^T`."""
        kernel = pb.tangent_kernel(network_of(case), *two_sets(case))
        expected = reference.tangent_kernel(case.rows[:2], case.rows[2:])
        assert_agree(kernel.matrix, expected)

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_kernels_of_the_layers(self, case: Case) -> None:
        """003 F29, 002 3.C.7."""
        layers = kernel_of(case, by_layer=True).layers
        slices = reference.flat_slices(case.module)
        expected: dict[str, Tensor] = {}
        for name, where in slices.items():
            rows = case.rows[..., where]
            owner = name.rpartition(".")[0]
            part = reference.tangent_kernel(rows)
            expected[owner] = expected[owner] + part if owner in expected else part
        scale = float(reference.tangent_kernel(case.rows).abs().max())
        error = 0.0
        for owner, matrix in expected.items():
            found = layers.get(owner or "(root)")  # an unused layer may have none
            difference = matrix if found is None else found.matrix - matrix
            error = max(error, float(difference.abs().max()))
        assert error <= EXACT * scale

    @pytest.mark.parametrize("case", CASES[::2], ids=str)
    def test_it_is_the_sum_over_its_layers(self, case: Case) -> None:
        """003 part 5, 002 section 5.3: `K = sum_l K_l`."""
        kernel = kernel_of(case, by_layer=True)
        assert_agree(sum(layer.matrix for layer in kernel.layers.values()), kernel.matrix)

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_the_least_memory_gives_the_same(self, case: Case) -> None:
        """000 T16, 004 3.4: blocks of any size."""
        assert_agree(kernel_of(case, memory=1).matrix, reference.tangent_kernel(case.rows))

    @pytest.mark.parametrize("case", [case for case in CASES if case.n > 1], ids=str)
    def test_batches_give_the_same(self, case: Case) -> None:
        """000 T16: batched as unbatched."""
        kernel = pb.tangent_kernel(network_of(case), batches_of(case, [1, case.n - 1]))
        assert_agree(kernel.matrix, reference.tangent_kernel(case.rows))

    @pytest.mark.parametrize("case", CASES[::2], ids=str)
    def test_single_precision(self, case: Case) -> None:
        network = network_of(case, torch.float32)
        kernel = pb.tangent_kernel(network, data_of(case, dtype=torch.float32))
        assert_agree(kernel.matrix, reference.tangent_kernel(case.rows).float(), SINGLE)

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_the_module_is_left_alone(self, case: Case) -> None:
        with unchanged(case.module):
            kernel_of(case, "sum")


@pytest.mark.parametrize("outputs", MODES, ids=str)
class TestModes:
    def test_one_set(self, outputs: object) -> None:
        expected = reference.tangent_kernel(MLP.rows, outputs=outputs)
        assert_agree(mlp_kernel(outputs).matrix, expected)

    def test_two_sets(self, outputs: object) -> None:
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs[:3], MLP.inputs[1:], outputs)
        expected = reference.tangent_kernel(MLP.rows[:3], MLP.rows[1:], outputs)
        assert_agree(kernel.matrix, expected)

    def test_convolutions(self, outputs: object) -> None:
        case = named("two convolutions and pooling")
        expected = reference.tangent_kernel(case.rows, outputs=outputs)
        assert_agree(kernel_of(case, outputs).matrix, expected)

    def test_kernels_of_the_layers_add_up(self, outputs: object) -> None:
        """003 F29, 002 section 5.3."""
        kernel = mlp_kernel(outputs)
        assert_agree(sum(layer.matrix for layer in kernel.layers.values()), kernel.matrix)

    def test_least_memory(self, outputs: object) -> None:
        kernel = kernel_of(MLP, outputs, memory=1)
        assert_agree(kernel.matrix, mlp_kernel(outputs).matrix)

    def test_flat_has_one_row_for_each_function_value(self, outputs: object) -> None:
        flat = mlp_kernel(outputs).flat
        expected = {"all": (21, 21), "each": (3, 7, 7)}.get(str(outputs), (7, 7))
        assert flat.shape == expected


class TestManySamples:
    """Kernels of more rows than fit one block, which are summed by their lower triangle."""

    module, _ = named("two convolutions and pooling").fresh()
    x = torch.randn(70, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows = reference.jacobian(module, x)

    @pytest.mark.parametrize("outputs", ["all", "sum", "each", 1, (0, 2)], ids=str)
    def test_one_set(self, outputs: object) -> None:
        kernel = pb.tangent_kernel(self.module, self.x, outputs=outputs)
        assert_agree(kernel.matrix, reference.tangent_kernel(self.rows, outputs=outputs))

    def test_one_set_in_batches(self) -> None:
        kernel = pb.tangent_kernel(self.module, list(self.x.split(13)))
        assert_agree(kernel.matrix, reference.tangent_kernel(self.rows))

    def test_it_is_exactly_symmetric(self) -> None:
        """000 T16."""
        flat = pb.tangent_kernel(self.module, self.x).flat
        assert torch.equal(flat, flat.T)

    def test_a_linear_model(self) -> None:
        module, x = nn.Linear(4, 3).double(), self.x[..., 0, :4].reshape(70, 4)
        expected = reference.tangent_kernel(reference.jacobian(module, x))
        assert_agree(pb.tangent_kernel(module, x).matrix, expected)


class TestGoldenFixture:
    def test_kernel_of_each_class_003_g1(self) -> None:
        module, x = golden_module()
        kernel = pb.tangent_kernel(module, x, outputs="each").matrix
        one = torch.tensor([[2.0, 2.0], [2.0, 6.0]], dtype=torch.float64)
        assert_agree(kernel, torch.stack([one, one]), 1e-15)

    def test_kernel_across_classes_003_g1(self) -> None:
        module, x = golden_module()
        assert float(pb.tangent_kernel(module, x).matrix[:, 0, :, 1].abs().max()) == 0.0


SQUARE = ["all", "sum", 1, (0, 2)]


@pytest.mark.parametrize("outputs", SQUARE, ids=str)
class TestSpectrum:
    def dense(self, outputs: object) -> Tensor:
        matrix = reference.tangent_kernel(MLP.rows, outputs=outputs)
        return matrix.reshape(21, 21) if outputs == "all" else matrix

    def test_eigenvalues(self, outputs: object) -> None:
        expected = torch.linalg.eigvalsh(self.dense(outputs)).flip(0)
        assert_agree(mlp_kernel(outputs).eigvalsh(), expected)

    def test_eigenvalues_of_the_decomposition(self, outputs: object) -> None:
        kernel = mlp_kernel(outputs)
        assert_agree(kernel.eigh()[0], kernel.eigvalsh())

    def test_eigenfunctions_are_orthonormal(self, outputs: object) -> None:
        functions = mlp_kernel(outputs).eigh()[1].flatten(1)
        assert_agree(functions @ functions.T, torch.eye(len(functions), dtype=torch.float64))

    def test_eigenfunctions_and_values_make_up_the_kernel(self, outputs: object) -> None:
        """003 B.1.1, 002 B.1."""
        values, functions = mlp_kernel(outputs).eigh()
        columns = functions.flatten(1).T
        assert_agree(columns @ torch.diag(values) @ columns.T, self.dense(outputs))

    def test_eigenfunctions_are_functions_on_the_samples(self, outputs: object) -> None:
        functions = mlp_kernel(outputs).eigh(k=4)[1]
        assert functions.shape == ((4, 7, 3) if outputs == "all" else (4, 7))

    def test_the_largest_k(self, outputs: object) -> None:
        values, _ = mlp_kernel(outputs).eigh(k=3)
        assert_agree(values, mlp_kernel(outputs).eigvalsh()[:3])

    def test_effective_rank(self, outputs: object) -> None:
        """003 eq. 6.3.1."""
        values = torch.linalg.eigvalsh(self.dense(outputs))
        assert_agree(mlp_kernel(outputs).effective_rank(), reference.effective_rank(values))

    def test_trace_ratios(self, outputs: object) -> None:
        """003 eq. 6.3.2, corrected (ERR-13)."""
        values = torch.linalg.eigvalsh(self.dense(outputs))
        expected = reference.trace_ratios(values, (1, 5, 7))
        assert list(mlp_kernel(outputs).trace_ratios((1, 5, 7))) == pytest.approx(expected)

    def test_trace(self, outputs: object) -> None:
        """003 F30, 002 3.C.14."""
        assert_agree(mlp_kernel(outputs).trace(), self.dense(outputs).trace())

    def test_norm(self, outputs: object) -> None:
        """003 F30."""
        assert_agree(mlp_kernel(outputs).norm(), self.dense(outputs).norm())

    def test_normalised_has_ones_on_its_diagonal(self, outputs: object) -> None:
        flat = mlp_kernel(outputs).normalised().flat
        assert_agree(flat.diagonal(), torch.ones(len(flat), dtype=torch.float64))

    def test_normalised_is_the_cosine_between_features(self, outputs: object) -> None:
        """003 F30."""
        dense = self.dense(outputs)
        scale = dense.diagonal().sqrt()
        assert_agree(mlp_kernel(outputs).normalised().flat, dense / scale / scale[:, None])

    def test_it_is_not_divided_by_the_number_of_samples(self, outputs: object) -> None:
        """The nonzero eigenvalues are those of J^T J itself."""
        if outputs == "all":
            features = MLP.rows.reshape(-1, MLP.d)
        elif outputs == "sum":
            features = MLP.rows.reshape(7, -1)
        elif isinstance(outputs, tuple):
            features = MLP.rows[:, outputs[1]] - MLP.rows[:, outputs[0]]
        else:
            features = MLP.rows[:, 1]
        expected = torch.linalg.svdvals(features).square()
        assert_agree(mlp_kernel(outputs).eigvalsh(), expected)


@pytest.mark.parametrize("outputs", SQUARE, ids=str)
@pytest.mark.parametrize("centring", ["all", "samples"])
class TestCentring:
    def projection(self, outputs: object, centring: str | None) -> Tensor:
        return reference.centring(7, 3 if outputs == "all" else 1, centring)

    def test_centred(self, outputs: object, centring: str) -> None:
        """003 F30, 002 3.C.2: both centrings."""
        projection = self.projection(outputs, centring)
        expected = projection @ mlp_kernel(outputs).flat @ projection
        assert_agree(mlp_kernel(outputs).centred(centring).flat, expected)

    def test_centring_twice_changes_nothing(self, outputs: object, centring: str) -> None:
        once = mlp_kernel(outputs).centred(centring)
        assert_agree(once.centred(centring).flat, once.flat)

    def test_alignment_with_another_kernel(self, outputs: object, centring: str) -> None:
        """003 eq. 6.3.3."""
        other, _ = named("mlp").fresh()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter += 0.3
        rows = reference.jacobian(other, MLP.inputs)
        theirs = reference.tangent_kernel(rows, outputs=outputs)
        theirs = theirs.reshape(21, 21) if outputs == "all" else theirs
        expected = reference.alignment(
            mlp_kernel(outputs).flat, theirs, self.projection(outputs, centring)
        )
        kernel = pb.tangent_kernel(other, MLP.inputs, outputs=outputs)
        assert_agree(mlp_kernel(outputs).alignment(kernel, centring=centring), expected)


class TestAlignmentWithLabels:
    labels = MLP.targets("categorical")

    @pytest.mark.parametrize("centring", ["all", "samples", None])
    def test_of_all_outputs_is_with_the_rank_one_kernel(self, centring: str | None) -> None:
        kernel = reference.label_kernel(self.labels, 3)
        projection = reference.centring(7, 3, centring)
        expected = reference.alignment(mlp_kernel().flat, kernel, projection)
        assert_agree(mlp_kernel().alignment(self.labels, centring=centring), expected)

    @pytest.mark.parametrize("outputs", ["sum", 1, (0, 2)], ids=str)
    @pytest.mark.parametrize("centring", ["all", "samples", None])
    def test_of_one_function_is_with_the_same_class_kernel(
        self, outputs: object, centring: str | None
    ) -> None:
        kernel = (self.labels[:, None] == self.labels).double()
        projection = reference.centring(7, 1, centring)
        expected = reference.alignment(mlp_kernel(outputs).flat, kernel, projection)
        assert_agree(mlp_kernel(outputs).alignment(self.labels, centring=centring), expected)

    def test_the_default_is_centred_over_all_indices(self) -> None:
        expected = mlp_kernel().alignment(self.labels, centring="all")
        assert mlp_kernel().alignment(self.labels) == expected

    def test_a_kernel_is_aligned_with_itself(self) -> None:
        """002 section 5.3: CKA(K, K) = 1."""
        assert_agree(mlp_kernel().alignment(mlp_kernel()), 1.0, 1e-14)

    def test_a_subset_of_the_samples_aligns_with_its_labels(self) -> None:
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs[:4])
        twin = reference.tangent_kernel(MLP.rows[:4]).reshape(12, 12)
        labels = reference.label_kernel(self.labels[:4], 3)
        expected = reference.alignment(twin, labels, reference.centring(4, 3, "all"))
        assert_agree(kernel.alignment(self.labels[:4]), expected)


class TestPrincipalComponents:
    @pytest.mark.parametrize("outputs", ["sum", 1, (0, 2)], ids=str)
    def test_they_are_the_scores_of_centred_features(self, outputs: object) -> None:
        """Kernel PCA equals PCA of the features, up to the sign of each component."""
        if outputs == "sum":
            features = MLP.rows.reshape(7, -1)
        elif isinstance(outputs, tuple):
            features = MLP.rows[:, outputs[1]] - MLP.rows[:, outputs[0]]
        else:
            features = MLP.rows[:, 1]
        centred = features - features.mean(0)
        u, s, _ = torch.linalg.svd(centred, full_matrices=False)
        actual = mlp_kernel(outputs).principal_components(k=3)
        assert_agree(actual.abs(), (u * s)[:, :3].abs())

    def test_they_have_one_row_for_each_function_value(self) -> None:
        assert mlp_kernel().principal_components(k=2).shape == (21, 2)

    def test_the_default_is_a_plane(self) -> None:
        assert mlp_kernel("sum").principal_components().shape == (7, 2)

    def test_all_of_them_give_back_the_centred_kernel(self) -> None:
        components = mlp_kernel("sum").principal_components(k=7)
        assert_agree(components @ components.T, mlp_kernel("sum").centred().matrix)


class TestBadInput:
    def test_an_unknown_choice_of_outputs(self) -> None:
        with pytest.raises(pb.InputError, match=r"outputs.*mean"):
            kernel_of(MLP, "mean")

    @pytest.mark.parametrize("outputs", [3, (0, 3), -4], ids=str)
    def test_an_output_that_the_model_does_not_have(self, outputs: object) -> None:
        with pytest.raises(pb.InputError, match="outputs"):
            kernel_of(MLP, outputs)

    @pytest.mark.parametrize("outputs", [(0, 1, 2), (1,), 0.5], ids=str)
    def test_an_output_of_another_form(self, outputs: object) -> None:
        with pytest.raises(REFUSED, match="outputs"):
            kernel_of(MLP, outputs)

    @pytest.mark.parametrize(
        "method", ["eigvalsh", "eigh", "effective_rank", "trace", "normalised"]
    )
    def test_spectra_of_a_kernel_between_two_sets(self, method: str) -> None:
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs[:3], MLP.inputs[1:])
        with pytest.raises(pb.InputError, match="kernel"):
            getattr(kernel, method)()

    @pytest.mark.parametrize("method", ["eigvalsh", "trace", "normalised"])
    def test_spectra_of_two_sets_of_the_same_size(self, method: str) -> None:
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs[:3], MLP.inputs[3:6])
        with pytest.raises(pb.InputError, match="kernel"):
            getattr(kernel, method)()

    def test_labels_of_another_number(self) -> None:
        with pytest.raises(pb.InputError, match="labels"):
            mlp_kernel().alignment(torch.tensor([0, 1, 2]))

    def test_labels_out_of_range(self) -> None:
        with pytest.raises(pb.InputError, match="labels"):
            mlp_kernel().alignment(torch.tensor([0, 1, 2, 3, 0, 1, 2]))

    def test_negative_labels(self) -> None:
        with pytest.raises(pb.InputError, match="labels"):
            mlp_kernel().alignment(torch.tensor([0, 1, 2, -1, 0, 1, 2]))

    def test_kernels_on_other_samples(self) -> None:
        other = pb.tangent_kernel(MLP.module, MLP.inputs[:4])
        with pytest.raises(pb.InputError, match=r"kernel|other"):
            mlp_kernel().alignment(other)

    @pytest.mark.parametrize("method", ["centred", "alignment"])
    def test_an_unknown_centring(self, method: str) -> None:
        arguments = () if method == "centred" else (mlp_kernel(),)
        with pytest.raises(pb.InputError, match=r"centring.*rows"):
            getattr(mlp_kernel(), method)(*arguments, centring="rows")

    def test_a_negative_number_of_eigenfunctions(self) -> None:
        with pytest.raises(pb.InputError, match="k"):
            mlp_kernel().eigh(k=-1)

    def test_a_kernel_that_cannot_fit_says_how_much_it_needs(self) -> None:
        model = nn.Linear(1, 100)
        with pytest.raises(pb.InputError, match=r"tangent_kernel.*GB"):
            pb.tangent_kernel(model, torch.zeros(20_000, 1))  # (2 million)^2 numbers

    def test_no_samples(self) -> None:
        with pytest.raises(pb.InputError, match="data"):
            pb.tangent_kernel(MLP.module, MLP.inputs[:0])

    def test_no_samples_in_the_second_set(self) -> None:
        with pytest.raises(pb.InputError, match="data"):
            pb.tangent_kernel(MLP.module, MLP.inputs, MLP.inputs[:0])

    def test_gradients_that_are_not_finite(self) -> None:
        model = nn.Linear(2, 2)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        network = pb.Network(model, outputs=lambda y: y.sqrt())  # type: ignore[attr-defined]
        with pytest.raises(pb.InputError, match="not finite"):
            pb.tangent_kernel(network, torch.ones(3, 2))
