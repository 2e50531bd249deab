"""Eigenfunctions against NumPy and explicit features: signs, extension, grids, frequency, place."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pullback as pb
from pullback.kernels.dense import TangentKernel
from pullback.kernels.mercer import (
    Eigenfunctions,
    eigenfunctions,
    local_energy,
    numerical_rank,
)
from tests import reference
from tests.cases import named
from tests.checks import EXACT, assert_agree

MLP = named("mlp")  # 7 samples, 3 outputs
NEW = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
OUTPUTS = ["all", "sum", 1, (0, 2)]
CENTRINGS = [None, "all", "samples"]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(rows: Tensor, outputs: object) -> Tensor:
    """The features whose inner products are the kernel, one row for each function value."""
    if outputs == "all":
        return rows.flatten(0, 1)
    if outputs == "sum":
        return rows.flatten(1)
    if isinstance(outputs, tuple):
        return rows[:, outputs[1]] - rows[:, outputs[0]]
    return rows[:, outputs]


def projection(outputs: object, centring: str | None) -> Tensor:
    return reference.centring(7, 3 if outputs == "all" else 1, centring)


def twin(outputs: object, centring: str | None = None) -> Tensor:
    """The centred kernel matrix of the MLP, from its Jacobian."""
    rows, centre = features(MLP.rows, outputs), projection(outputs, centring)
    return centre @ rows @ rows.T @ centre


@cache
def rows_of_new() -> Tensor:
    return reference.jacobian(MLP.module, NEW)


@cache
def kernel_of(outputs: object) -> TangentKernel:
    return pb.tangent_kernel(MLP.module, MLP.inputs, outputs=outputs)


@cache
def found(outputs: object, centring: str | None = None, k: int | None = None) -> Eigenfunctions:
    return eigenfunctions(kernel_of(outputs), k, centring)


def cross_of(outputs: object, x: Tensor = NEW) -> TangentKernel:
    return pb.tangent_kernel(MLP.module, x, MLP.inputs, outputs=outputs)


def given(*functions: Tensor) -> Eigenfunctions:
    """Some functions in the place of eigenfunctions, scaled to length 1."""
    rows = torch.stack([row / row.norm() for row in functions])
    return Eigenfunctions(torch.arange(len(rows), 0, -1).to(rows), rows, 0.0)


@pytest.mark.parametrize("outputs", OUTPUTS, ids=str)
@pytest.mark.parametrize("centring", CENTRINGS, ids=str)
class TestEigenpairs:
    def test_values_are_those_of_the_matrix(self, outputs: object, centring: str | None) -> None:
        expected = torch.linalg.eigvalsh(twin(outputs, centring)).flip(0)
        assert_agree(found(outputs, centring).values, expected)

    def test_functions_are_eigenvectors(self, outputs: object, centring: str | None) -> None:
        """004 3.5, 003 B.1.1."""
        pairs = found(outputs, centring)
        rows = pairs.functions.flatten(1)
        residual = rows @ twin(outputs, centring) - pairs.values[:, None] * rows
        assert float(residual.abs().max()) <= EXACT * float(pairs.values[0])

    def test_functions_are_orthonormal(self, outputs: object, centring: str | None) -> None:
        """003 B.1.1, 002 B.1."""
        rows = found(outputs, centring).functions.flatten(1)
        assert_agree(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64))

    def test_values_add_up_to_the_trace(self, outputs: object, centring: str | None) -> None:
        """004 3.5."""
        assert_agree(found(outputs, centring).values.sum(), twin(outputs, centring).trace())

    def test_of_mercer_have_unit_mean_square(self, outputs: object, centring: str | None) -> None:
        """The mean is over samples; of several outputs it is of the sum over them."""
        functions = found(outputs, centring).mercer_functions
        squares = functions.square().reshape(len(functions), 7, -1).sum(2)
        assert_agree(squares.mean(1), torch.ones(len(squares), dtype=torch.float64))

    def test_of_mercer_make_up_the_kernel(self, outputs: object, centring: str | None) -> None:
        """003 B.1.1, corrected (ERR-16): `k = sum_j lambda_j u_j u_j`."""
        pairs = found(outputs, centring)
        rows = pairs.mercer_functions.flatten(1)
        assert_agree(rows.T * pairs.mercer_values @ rows, twin(outputs, centring))

    def test_of_mercer_share_the_spectrum_of_the_metric(
        self, outputs: object, centring: str | None
    ) -> None:
        """002, proposition B.1: eig(J J^T) / n = eig(J^T J / n)."""
        centred = projection(outputs, centring) @ features(MLP.rows, outputs)
        metric = torch.linalg.eigvalsh(centred.T @ centred / 7).flip(0)
        size = min(len(metric), len(centred))
        assert_agree(found(outputs, centring).mercer_values[:size], metric[:size])

    def test_of_a_kernel_by_products(self, outputs: object, centring: str | None) -> None:
        kernel = pb.tangent_kernel(
            MLP.module, MLP.inputs, outputs=outputs, representation="implicit"
        )
        pairs = eigenfunctions(kernel, 3, centring)
        assert_agree(pairs.values, found(outputs, centring, 3).values)
        assert_agree(pairs.functions, found(outputs, centring, 3).functions, 1e-8)


class TestTheSign:
    @pytest.mark.parametrize("outputs", OUTPUTS, ids=str)
    def test_the_largest_entry_is_positive(self, outputs: object) -> None:
        rows = found(outputs).functions.flatten(1)
        largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
        assert float(largest.min()) > 0

    def test_it_does_not_depend_on_the_decomposition(self) -> None:
        class Flipped(TangentKernel):
            def eigh(self, k: int | None = None) -> tuple[Tensor, Tensor]:
                values, functions = super().eigh(k)
                return values, -functions

        kernel = kernel_of(1)
        flipped = Flipped(kernel.matrix, kernel.outputs, kernel.symmetric)
        assert torch.equal(eigenfunctions(flipped).functions, found(1).functions)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_of_entries_equally_large_the_first_is_positive(self, sign: int) -> None:
        """The last is larger by rounding, as a decomposition may have it."""
        odd = sign * torch.tensor([-1.0, 0.0, 1.0 + 1e-14], dtype=torch.float64)
        pairs = eigenfunctions(TangentKernel(torch.outer(odd, odd), 1, True), 1)
        assert_agree(pairs.functions[0], -sign * odd / odd.norm(), 1e-12)


class TestRank:
    def test_of_a_linear_model_it_is_its_number_of_parameters(self) -> None:
        model, x = nn.Linear(2, 1).double(), torch.randn(20, 2, dtype=torch.float64)
        assert eigenfunctions(pb.tangent_kernel(model, x, outputs=0)).rank == 3

    def test_centring_takes_the_constant_away(self) -> None:
        model, x = nn.Linear(2, 1).double(), torch.randn(20, 2, dtype=torch.float64)
        assert eigenfunctions(pb.tangent_kernel(model, x, outputs=0), centring="all").rank == 2

    @pytest.mark.parametrize("rank", [1, 4, 9])
    def test_it_is_that_of_numpy(self, rank: int) -> None:
        rows = torch.randn(9, rank, dtype=torch.float64)
        pairs = eigenfunctions(TangentKernel(rows @ rows.T, 1, True))
        assert pairs.rank == rank == np.linalg.matrix_rank((rows @ rows.T).numpy(), hermitian=True)

    @pytest.mark.parametrize(("tolerance", "rank"), [(1e-3, 2), (0.3, 1), (0.0, 3)])
    def test_the_tolerance_is_a_share_of_the_largest(self, tolerance: float, rank: int) -> None:
        kernel = TangentKernel(torch.diag(torch.tensor([4.0, 1.0, 1e-4])), 1, True)
        assert eigenfunctions(kernel, tolerance=tolerance).rank == rank

    def test_of_no_values_it_is_zero(self) -> None:
        assert numerical_rank(torch.zeros(0)) == 0

    def test_of_leading_eigenfunctions_it_is_at_most_their_number(self) -> None:
        assert found("all", None, 4).rank == 4


@pytest.mark.parametrize("outputs", OUTPUTS, ids=str)
@pytest.mark.parametrize("centring", CENTRINGS, ids=str)
class TestExtension:
    def test_on_the_samples_it_is_what_is_stored(
        self, outputs: object, centring: str | None
    ) -> None:
        """004 3.5, 002 3.C.12."""
        pairs = found(outputs, centring, 5)
        again = pairs.extend(cross_of(outputs, MLP.inputs))
        assert_agree(again.functions, pairs.functions)
        assert_agree(again.values, pairs.values)

    def test_on_new_samples_it_is_the_feature_along_each_singular_vector(
        self, outputs: object, centring: str | None
    ) -> None:
        """003, eq. 6.2.3: phi_j(x) = sqrt(n / kappa_j) <v_j, J(x)>, centred by the samples."""
        pairs = found(outputs, centring, 5)
        known, new = features(MLP.rows, outputs), features(rows_of_new(), outputs)
        centre = projection(outputs, centring)
        if centring == "samples" and outputs == "all":
            new = (new.unflatten(0, (5, 3)) - MLP.rows.mean(0)).flatten(0, 1)
        elif centring is not None:
            new = new - known.mean(0)
        vectors = pairs.functions.flatten(1) @ centre @ known / pairs.values.sqrt()[:, None]
        expected = vectors @ new.T * (7 / pairs.values).sqrt()[:, None]
        actual = pairs.extend(cross_of(outputs)).mercer_functions
        assert_agree(actual.flatten(1), expected)

    def test_mercer_values_stay_the_same(self, outputs: object, centring: str | None) -> None:
        pairs = found(outputs, centring, 5)
        assert_agree(pairs.extend(cross_of(outputs)).mercer_values, pairs.mercer_values)

    def test_a_kernel_by_products_will_do(self, outputs: object, centring: str | None) -> None:
        cross = pb.tangent_kernel(
            MLP.module, NEW, MLP.inputs, outputs=outputs, representation="implicit"
        )
        pairs = found(outputs, centring, 5)
        assert_agree(pairs.extend(cross).functions, pairs.extend(cross_of(outputs)).functions)


class TestNystrom:
    """004, 3.5: eigenpairs of m samples from those of r among them."""

    x = torch.randn(12, 4, dtype=torch.float64, generator=generator(5))

    def matrix(self, x: Tensor, y: Tensor) -> np.ndarray:
        rows, others = (reference.jacobian(MLP.module, z)[:, 1] for z in (x, y))
        return (rows @ others.T).numpy()

    def test_some_of_the_samples_give_the_formula(self) -> None:
        few = self.x[:8]
        pairs = eigenfunctions(pb.tangent_kernel(MLP.module, few, outputs=1), 4)
        all_of_them = pairs.extend(pb.tangent_kernel(MLP.module, self.x, few, outputs=1))
        kappa, vectors = np.linalg.eigh(self.matrix(few, few))
        kappa, vectors = kappa[::-1][:4], vectors[:, ::-1][:, :4]
        expected = math.sqrt(8 / 12) * self.matrix(self.x, few) @ vectors / kappa
        expected *= np.sign((expected[:8] * pairs.functions.T.numpy()).sum(0))
        assert_agree(all_of_them.functions, torch.from_numpy(expected.T.copy()))
        assert_agree(all_of_them.values, torch.from_numpy(kappa * 12 / 8))

    def test_all_of_the_samples_give_the_eigenpairs(self) -> None:
        """004 section 5: exact for r = m."""
        pairs = eigenfunctions(pb.tangent_kernel(MLP.module, self.x, outputs=1), 5)
        again = pairs.extend(pb.tangent_kernel(MLP.module, self.x, self.x, outputs=1))
        kappa = np.linalg.eigvalsh(self.matrix(self.x, self.x))[::-1][:5]
        assert_agree(again.values, torch.from_numpy(kappa.copy()))
        assert_agree(again.functions, pairs.functions)

    def test_labels_of_new_samples_are_signs_of_extensions(self) -> None:
        pairs = found(1, None, 5).extend(cross_of(1))
        expected = np.sign(pairs.functions[2].numpy())
        assert np.array_equal(pairs.labels(2).numpy(), expected)


class TestLabels:
    def test_they_are_the_signs(self) -> None:
        assert torch.equal(found("all").labels(3), found("all").functions[3].sign())

    def test_zero_counts_as_positive(self) -> None:
        assert given(torch.tensor([1.0, 0.0, -1.0])).labels(0).tolist() == [1, 1, -1]

    def test_the_majority_is_the_share_of_the_more_frequent_label(self) -> None:
        pairs = given(torch.tensor([1.0, 2, 3, -1]), torch.tensor([-1.0, -1, -1, -1]))
        assert pairs.majority.tolist() == [0.75, 1.0]

    def test_the_majority_of_each_output(self) -> None:
        functions = torch.tensor([[[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]])
        share = Eigenfunctions(torch.ones(1), functions, 0.0).majority
        assert_agree(share, torch.tensor([[2 / 3, 2 / 3]]), 1e-6)

    def test_their_cosine_with_gaussian_functions_000_t25(self) -> None:
        """The root of 2 / pi, 0.7979."""
        gaussian = torch.randn(100_000, dtype=torch.float64, generator=generator(1))
        pairs = given(gaussian)
        assert abs(float(pairs.coefficients(pairs.labels(0))[0]) - 0.7979) < 0.003

    def test_their_cosine_with_an_eigenfunction_is_its_mean_size(self) -> None:
        pairs = found(1)
        cosines = torch.stack([pairs.coefficients(pairs.labels(j))[j] for j in range(7)])
        assert_agree(cosines, pairs.mercer_functions.abs().mean(1))


class TestCoefficients:
    def test_they_are_means_of_products(self) -> None:
        targets = torch.randn(2, 4, 7, dtype=torch.float64)
        expected = np.einsum("abn,kn->abk", targets, found(1).mercer_functions) / 7
        assert_agree(found(1).coefficients(targets), torch.from_numpy(expected))

    def test_of_several_outputs_they_are_means_of_inner_products(self) -> None:
        targets = torch.randn(4, 7, 3, dtype=torch.float64)
        expected = np.einsum("bnc,knc->bk", targets, found("all").mercer_functions) / 7
        assert_agree(found("all").coefficients(targets), torch.from_numpy(expected))

    def test_whole_numbers_will_do(self) -> None:
        labels = torch.tensor([1, -1, 1, 1, -1, 1, -1])
        assert_agree(found(1).coefficients(labels), found(1).coefficients(labels.double()))


class TestGrids:
    maps = torch.randn(3, 4, 6, dtype=torch.float64, generator=generator(2))
    pairs = given(*maps.flatten(1))
    scaled = maps / maps.flatten(1).norm(dim=1)[:, None, None]

    def test_a_map_has_the_values_row_by_row(self) -> None:
        assert_agree(self.pairs.on_grid((4, 6)), self.scaled, 1e-15)

    def test_maps_of_several_outputs_have_these_last(self) -> None:
        functions = torch.randn(2, 24, 3)
        pairs = Eigenfunctions(torch.ones(2), functions, 0.0)
        assert torch.equal(pairs.on_grid((4, 6))[:, 1, 2], functions[:, 8])

    def test_fourier_in_one_dimension_is_that_of_numpy(self) -> None:
        expected = np.abs(np.fft.fft(self.pairs.functions.numpy(), norm="ortho"))
        assert_agree(self.pairs.fourier(), torch.from_numpy(expected))

    def test_fourier_in_two_dimensions_is_that_of_numpy(self) -> None:
        expected = np.abs(np.fft.fft2(self.scaled.numpy(), norm="ortho"))
        assert_agree(self.pairs.fourier((4, 6)), torch.from_numpy(expected))

    def test_fourier_of_several_outputs_is_of_each_by_itself(self) -> None:
        functions = torch.randn(2, 24, 3, dtype=torch.float64)
        pairs = Eigenfunctions(torch.ones(2).double(), functions, 0.0)
        one = Eigenfunctions(torch.ones(2).double(), functions[..., 1], 0.0)
        assert_agree(pairs.fourier((4, 6))[..., 1], one.fourier((4, 6)))

    @pytest.mark.parametrize("shape", [(4, 6), (2, 3, 4), (24,)], ids=str)
    def test_radial_energy_is_a_sum_over_frequencies_of_a_length(
        self, shape: tuple[int, ...]
    ) -> None:
        spectra = np.abs(
            np.fft.fftn(
                self.pairs.on_grid(shape).numpy(), axes=range(1, 1 + len(shape)), norm="ortho"
            )
        )
        expected = torch.zeros_like(self.pairs.radial_energy(shape))
        for place in np.ndindex(*shape):
            cycles = [p if p <= s // 2 else p - s for p, s in zip(place, shape, strict=True)]
            radius = round(math.hypot(*cycles))
            expected[:, radius] += torch.from_numpy(spectra[(slice(None), *place)] ** 2)
        assert_agree(self.pairs.radial_energy(shape), expected)

    def test_radial_energy_is_a_share(self) -> None:
        assert_agree(self.pairs.radial_energy((4, 6)).sum(1), torch.ones(3, dtype=torch.float64))

    def test_radial_energy_sums_over_outputs(self) -> None:
        pairs = found("all")
        assert_agree(pairs.radial_energy((7,)).sum(1), torch.ones(21, dtype=torch.float64))

    def test_a_plane_wave_has_one_frequency(self) -> None:
        x, y = torch.meshgrid(torch.arange(10), torch.arange(10), indexing="ij")
        wave = torch.cos(2 * math.pi * (3 * x + 4 * y) / 10).double()
        energy = given(wave.flatten()).radial_energy((10, 10))
        assert int(energy.argmax()) == 5
        assert_agree(energy.max(), 1.0)


def ring(points: int) -> Tensor:
    """The tangent kernel of an infinitely wide ReLU layer on points of a circle (closed form)."""
    angles = 2 * math.pi * torch.arange(points, dtype=torch.float64) / points
    cosines = torch.cos(angles[:, None] - angles).clamp(-1, 1)
    t = torch.arccos(cosines)
    return (torch.sin(t) + 2 * (math.pi - t) * cosines) / math.pi


class TestOnARing:
    """000, T40: the kernel is circulant, so its eigenfunctions are Fourier modes."""

    def test_each_eigenfunction_has_one_frequency(self) -> None:
        energy = eigenfunctions(TangentKernel(ring(32), 1, True), 9).radial_energy()
        assert_agree(energy.max(1).values, torch.ones(9, dtype=torch.float64))

    def test_frequencies_are_those_of_the_spectrum(self) -> None:
        pairs = eigenfunctions(TangentKernel(ring(32), 1, True), 9)
        spectrum = torch.fft.fft(ring(32)[0]).real.sort(descending=True).values
        assert_agree(pairs.values, spectrum[:9])

    def test_they_are_not_localised(self) -> None:
        """Five Fourier modes are independent on half of the circle, so their span is uniform."""
        angles = 2 * math.pi * torch.arange(24, dtype=torch.float64) / 24
        lags = angles[:, None] - angles
        kernel = 1 + torch.cos(lags) / 2 + torch.cos(2 * lags) / 4
        energy = local_energy(TangentKernel(kernel[:12], 1, False))
        assert int(energy.rank) == 5
        assert_agree(energy.values, torch.full((24,), 5 / 24, dtype=torch.float64))


def wide_network(inputs: int, seed: int) -> nn.Module:
    """Six affine maps, 256 wide, with the weights and biases that PyTorch draws by itself."""
    torch.manual_seed(seed)
    sizes = [inputs, 256, 256, 256, 256, 256, 1]
    maps = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    between = [part for affine in maps for part in (affine, nn.ReLU())]
    return nn.Sequential(*between[:-1]).double()


class TestCalibration:
    """003, E6.1 and E6.9, at random weights."""

    line = torch.linspace(0, 1, 50, dtype=torch.float64).unsqueeze(1)
    side = torch.linspace(-1, 1, 25, dtype=torch.float64)

    def on_the_line(self, seed: int) -> Eigenfunctions:
        kernel = pb.tangent_kernel(wide_network(1, seed), self.line, outputs=0)
        return eigenfunctions(kernel, 25, centring="all")

    def test_ratio_of_eigenvalues_on_a_line_003_e6_9(self) -> None:
        """About 4 % in the document; 2.4 to 5.1 % in the calibration, with indices from 0."""
        ratios = [float(p.values[10] / p.values[1]) for p in map(self.on_the_line, range(8))]
        assert 0.024 < sum(ratios) / 8 < 0.051
        assert 0.02 < min(ratios) <= max(ratios) < 0.051

    def test_eigenfunctions_on_a_line_rise_in_frequency_003_e6_9(self) -> None:
        energy = self.on_the_line(0).radial_energy()
        means = energy @ torch.arange(energy.shape[1], dtype=torch.float64)
        ranks = torch.stack([means.argsort().argsort(), torch.arange(25)]).double()
        assert float(torch.corrcoef(ranks)[0, 1]) > 0.9

    def test_ratio_of_eigenvalues_on_a_square_003_e6_1(self) -> None:
        """1.5 % in the document, with indices from 1 and the kernel centred."""
        points = torch.cartesian_prod(self.side, self.side)
        kernel = pb.tangent_kernel(wide_network(2, 0), points, outputs=0)
        centred = eigenfunctions(kernel, 20, centring="all")
        assert float(centred.values[19] / centred.values[0]) == pytest.approx(0.015, abs=0.002)
        uncentred = eigenfunctions(kernel, 20)
        assert float(uncentred.values[19] / uncentred.values[0]) < 0.001


class TestLocalEnergy:
    def random_features(self, task: int, control: int, parameters: int) -> TangentKernel:
        rows = torch.randn(task + control, parameters, dtype=torch.float64, generator=generator(1))
        return TangentKernel(rows[:task] @ rows.T, 1, False)

    def test_it_is_the_sum_of_squares_of_right_singular_vectors(self) -> None:
        kernel = self.random_features(5, 4, 3)
        _, scales, vectors = np.linalg.svd(kernel.matrix.numpy())
        expected = (vectors[: (scales > 1e-10).sum()] ** 2).sum(0)
        assert_agree(local_energy(kernel).values, torch.from_numpy(expected))

    @pytest.mark.parametrize("parameters", [3, 200])
    def test_it_adds_up_to_the_rank_000_t39(self, parameters: int) -> None:
        energy = local_energy(self.random_features(40, 40, parameters))
        assert int(energy.rank) == min(parameters, 40)
        assert_agree(energy.values.sum(), float(energy.rank))

    def test_it_is_between_0_and_1_000_t39(self) -> None:
        values = local_energy(self.random_features(40, 40, 200)).values
        assert -1e-12 <= float(values.min()) <= float(values.max()) <= 1 + 1e-12

    def test_of_unrelated_domains_it_is_all_on_the_task_000_t38(self) -> None:
        own = torch.randn(6, 8, dtype=torch.float64)
        kernel = torch.cat([own @ own.T, torch.zeros(6, 5, dtype=torch.float64)], dim=1)
        energy = local_energy(TangentKernel(kernel, 1, False))
        assert_agree(energy.values, torch.tensor([1.0] * 6 + [0.0] * 5, dtype=torch.float64))
        assert (float(energy.on_task), float(energy.on_control)) == (pytest.approx(1), 0.0)

    def test_of_random_features_000_m6_10(self) -> None:
        """40 and 40 points, 200 parameters: 0.83 and 0.17."""
        energy = local_energy(self.random_features(40, 40, 200))
        assert float(energy.on_task) == pytest.approx(0.83, abs=0.02)
        assert float(energy.on_control) == pytest.approx(0.17, abs=0.02)

    def test_it_does_not_depend_on_the_scale(self) -> None:
        kernel = self.random_features(5, 4, 3)
        scaled = TangentKernel(1e-9 * kernel.matrix, 1, False)
        assert_agree(local_energy(scaled).values, local_energy(kernel).values)

    def test_of_each_output_it_is_of_its_own_kernel(self) -> None:
        both = torch.cat([MLP.inputs, NEW])
        energy = local_energy(pb.tangent_kernel(MLP.module, MLP.inputs, both, outputs="each"))
        one = local_energy(pb.tangent_kernel(MLP.module, MLP.inputs, both, outputs=1))
        assert energy.values.shape == (3, 12)
        assert_agree(energy.values[1], one.values)
        assert_agree(energy.on_task[1], one.values[:7].mean())
        assert_agree(energy.on_control[1], one.values[7:].mean())

    def test_the_baseline_is_what_random_subspaces_have(self) -> None:
        """Monte Carlo: 4,000 subspaces of dimension 3 in R^10, 4 points for the task."""
        draws = torch.randn(4000, 10, 3, dtype=torch.float64, generator=generator(1))
        energies = torch.linalg.qr(draws)[0].square().sum(2)[:, :4].mean(1)
        energy = local_energy(self.random_features(4, 6, 3))
        assert int(energy.rank) == 3
        assert float(energies.mean()) == pytest.approx(float(energy.baseline), rel=0.01)
        assert float(energies.std()) == pytest.approx(float(energy.spread), rel=0.03)

    def test_of_full_rank_nothing_is_random(self) -> None:
        kernel = torch.eye(3, dtype=torch.float64)[:2]
        energy = local_energy(TangentKernel(kernel, 1, False))
        assert_agree(energy.baseline, 2 / 3)

    def test_a_tolerance_leaves_small_singular_vectors_out(self) -> None:
        kernel = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1e-3, 0.0]], dtype=torch.float64)
        energy = local_energy(TangentKernel(kernel, 1, False), tolerance=1e-2)
        assert energy.values.tolist() == [1.0, 0.0, 0.0]

    def test_of_a_kernel_of_zeros_it_is_zero(self) -> None:
        assert float(local_energy(TangentKernel(torch.zeros(2, 5), 1, False)).values.sum()) == 0


class TestBadInput:
    @pytest.mark.parametrize("k", [-1, 22])
    def test_a_number_of_eigenfunctions_that_there_is_not(self, k: int) -> None:
        with pytest.raises(pb.InputError, match="k"):
            eigenfunctions(kernel_of("all"), k)

    @pytest.mark.parametrize("k", [0, 7, None])
    def test_all_centred_eigenfunctions_of_a_kernel_by_products(self, k: int | None) -> None:
        kernel = pb.tangent_kernel(MLP.module, MLP.inputs, outputs=1, representation="implicit")
        with pytest.raises(pb.InputError, match="k"):
            eigenfunctions(kernel, k, "all")

    def test_a_kernel_of_each_output(self) -> None:
        with pytest.raises(pb.InputError, match="kernel"):
            eigenfunctions(kernel_of("each"))

    def test_a_kernel_of_two_sets(self) -> None:
        with pytest.raises(pb.InputError, match="kernel"):
            eigenfunctions(cross_of(1))

    def test_an_unknown_centring(self) -> None:
        with pytest.raises(pb.InputError, match=r"centring.*rows"):
            eigenfunctions(kernel_of(1), centring="rows")

    def test_a_negative_tolerance(self) -> None:
        with pytest.raises(pb.InputError, match=r"tolerance.*-1"):
            eigenfunctions(kernel_of(1), tolerance=-1.0)

    def test_a_tolerance_that_is_no_number(self) -> None:
        with pytest.raises(pb.InputError, match=r"tolerance.*nan"):
            numerical_rank(torch.ones(2), math.nan)

    def test_values_that_are_not_finite(self) -> None:
        with pytest.raises(pb.InputError, match="values"):
            numerical_rank(torch.tensor([1.0, math.inf]))

    def test_extension_from_other_samples(self) -> None:
        cross = pb.tangent_kernel(MLP.module, NEW, MLP.inputs[:6], outputs=1)
        with pytest.raises(pb.InputError, match=r"cross.*\(6,\).*\(7,\)"):
            found(1, None, 3).extend(cross)

    def test_extension_with_other_outputs(self) -> None:
        with pytest.raises(pb.InputError, match="cross"):
            found("all", None, 3).extend(cross_of("sum"))

    def test_extension_of_what_is_only_rounding(self) -> None:
        model, x = nn.Linear(2, 1).double(), torch.randn(20, 2, dtype=torch.float64)
        pairs = eigenfunctions(pb.tangent_kernel(model, x, outputs=0), 4)
        with pytest.raises(pb.InputError, match=r"k: 4.*k=3"):
            pairs.extend(pb.tangent_kernel(model, x, x, outputs=0))

    def test_extension_of_an_extension(self) -> None:
        pairs = found(1, None, 3).extend(cross_of(1, MLP.inputs))
        with pytest.raises(pb.InputError, match="extend"):
            pairs.extend(cross_of(1))

    @pytest.mark.parametrize("j", [-1, 7])
    def test_labels_of_an_eigenfunction_that_there_is_not(self, j: int) -> None:
        with pytest.raises(pb.InputError, match=r"j: .*0 to 6"):
            found(1).labels(j)

    @pytest.mark.parametrize("shape", [(), (4, 5), (-4, -6), (24, 1, 0)], ids=str)
    def test_a_grid_of_another_size(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(pb.InputError, match=r"shape.*24 samples"):
            TestGrids.pairs.on_grid(shape)

    @pytest.mark.parametrize("method", ["fourier", "radial_energy"])
    def test_a_transform_on_a_grid_of_another_size(self, method: str) -> None:
        with pytest.raises(pb.InputError, match="shape"):
            getattr(TestGrids.pairs, method)((5, 5))

    @pytest.mark.parametrize("shape", [(6,), (7, 3), ()], ids=str)
    def test_targets_of_another_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(pb.InputError, match=r"targets.*\(7,\)"):
            found(1).coefficients(torch.ones(shape))

    def test_targets_that_are_not_finite(self) -> None:
        with pytest.raises(pb.InputError, match="targets"):
            found(1).coefficients(torch.tensor([1.0, 1, 1, math.nan, 1, 1, 1]))

    def test_local_energy_of_all_pairs_of_outputs(self) -> None:
        with pytest.raises(pb.InputError, match="each"):
            local_energy(cross_of("all"))

    @pytest.mark.parametrize("shape", [(5, 5), (5, 4)], ids=str)
    def test_local_energy_without_a_control(self, shape: tuple[int, int]) -> None:
        with pytest.raises(pb.InputError, match="kernel"):
            local_energy(TangentKernel(torch.randn(shape), 1, False))

    def test_local_energy_of_one_set(self) -> None:
        with pytest.raises(pb.InputError, match="kernel"):
            local_energy(kernel_of(1))

    def test_local_energy_of_a_kernel_that_is_not_finite(self) -> None:
        with pytest.raises(pb.InputError, match="kernel"):
            local_energy(TangentKernel(torch.full((2, 5), math.inf), 1, False))

    def test_local_energy_with_a_negative_tolerance(self) -> None:
        with pytest.raises(pb.InputError, match="tolerance"):
            local_energy(TangentKernel(torch.ones(2, 5), 1, False), tolerance=-0.1)
