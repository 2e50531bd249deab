"""Directions of models that are known, one network at a time, by all methods."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pullback import InputError
from pullback.anisotropy import Directions, directions, mixed, overlap
from pullback.anisotropy.closed_forms import (
    hidden_layer_variance,
    marchenko_pastur,
    pooled_covariance,
    pooled_mixed,
)
from pullback.anisotropy.gradients import GradientCovariance
from pullback.anisotropy.mixed import MixedDerivative
from pullback.anisotropy.population import Population
from tests.anisotropy.models import Linear, OneHidden, PooledLinear, small_lenet
from tests.checks import differences, snapshot

RESPONSE = torch.tensor([1.0, 0.8, 0.3, 0.6, 0.45, 0.15], dtype=torch.float64)


def pooled() -> nn.Module:
    return PooledLinear(RESPONSE, 3, theta=0.8, phi=1.3)


def states(population: Population, count: int) -> list[dict[str, Tensor]]:
    return [population.one(number) for number in range(count)]


def module_of(make: Callable[[], nn.Module], state: dict[str, Tensor]) -> nn.Module:
    module = make().eval()
    module.load_state_dict(state)
    return module


class TestOneNetworkAtATime:
    """What is batched over networks, against plain autograd on each of the same networks."""

    shape = (1, 10, 10)

    def test_gradients(self) -> None:
        x = torch.randn(self.shape)
        population = Population(small_lenet, self.shape, seed=3, at_most=7)
        assert population.together
        found = GradientCovariance(population, 7, x, None).rows(population.stack(1), 5)
        assert found.shape == (5, 100)
        for row, state in zip(found, states(population, 12)[7:], strict=True):
            point = x.unsqueeze(0).requires_grad_()
            value = module_of(small_lenet, state)(point).sum()
            (expected,) = torch.autograd.grad(value, point)
            torch.testing.assert_close(row, expected.flatten(), atol=1e-6, rtol=1e-4)

    def test_finite_differences(self) -> None:
        x = torch.randn(self.shape)
        population = Population(small_lenet, self.shape, seed=3, at_most=3)
        found = GradientCovariance(population, 3, x, 50.0).rows(population.stack(0), 3)
        for row, state in zip(found, states(population, 3), strict=True):
            module = module_of(small_lenet, state)
            for place in (0, 17, 99):
                step = torch.zeros(100)
                step[place] = 50.0
                ahead, behind = (module((x + s * step.view(x.shape))[None]) for s in (1, -1))
                assert float(row[place]) == pytest.approx(float(ahead - behind) / 100, abs=1e-5)

    @pytest.mark.parametrize("several", [1, 3])
    def test_mixed_derivatives_and_their_adjoints_t10(self, several: int) -> None:
        def make() -> nn.Module:
            return nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 1)).double()

        points = torch.randn(several, 4, dtype=torch.float64)
        population = Population(make, (4,), seed=1)
        state = population.one(0)
        mixed = MixedDerivative(population, 1, points, None)
        module = module_of(make, state)
        names = [name for name, _ in module.named_parameters()]
        rows = []
        for place in range(4):
            point = points.clone().requires_grad_()
            (slope,) = torch.autograd.grad(module(point).sum() / several, point, create_graph=True)
            gradients = torch.autograd.grad(
                slope[:, place].sum(), list(module.parameters()), materialize_grads=True
            )
            rows.append(torch.cat([one.flatten() for one in gradients]))
        m = torch.stack(rows, 1)
        v = torch.randn(4, dtype=torch.float64)
        moved = mixed.product(state, v)
        torch.testing.assert_close(torch.cat([moved[name].flatten() for name in names]), m @ v)
        u = {name: torch.randn_like(state[name]) for name in names}
        flat = torch.cat([u[name].flatten() for name in names])
        torch.testing.assert_close(mixed.adjoint(state, u), m.T @ flat)
        near = MixedDerivative(population, 1, points, 1e-3)
        coarse = near.product(state, v)
        torch.testing.assert_close(
            torch.cat([coarse[name].flatten() for name in names]), m @ v, atol=1e-5, rtol=1e-4
        )
        stacked = {name: one.unsqueeze(0) for name, one in state.items()}
        eye = torch.eye(4, dtype=torch.float64)
        torch.testing.assert_close(mixed.products(stacked, eye), m.T @ m)

    @pytest.mark.parametrize("numbers", [1, 60, 10_000])
    def test_mixed_derivatives_by_large_steps(
        self, numbers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`M^T M` with M by columns; of networks with ReLU a large step leads far from M itself."""
        monkeypatch.setattr(mixed, "COLUMNS", numbers)
        x = torch.randn(5, dtype=torch.float64)

        def make() -> nn.Module:
            return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1)).double()

        def gradient(module: nn.Module, at: Tensor) -> Tensor:
            slopes = torch.autograd.grad(module(at[None]).sum(), list(module.parameters()))
            return torch.cat([one.flatten() for one in slopes])

        columns = []
        for state in states(Population(make, (5,), at_most=1), 3):
            module = module_of(make, state)
            steps = 30 * torch.eye(5, dtype=torch.float64)
            pairs = [(gradient(module, x + one), gradient(module, x - one)) for one in steps]
            columns.append(torch.stack([(ahead - behind) / 60 for ahead, behind in pairs], 1))
        gram = torch.stack([one.T @ one for one in columns]).mean(0)
        mean = torch.stack(columns).mean(0)
        for method, expected in (("mixed", gram), ("mean mixed", mean.T @ mean)):
            found = directions(make, (5,), method=method, networks=3, step=30, at=x)
            values = torch.linalg.eigvalsh(expected).flip(0)
            torch.testing.assert_close(found.spectrum, values, atol=1e-12, rtol=1e-6)
            along = ((found.vectors @ expected) * found.vectors).sum(1)
            torch.testing.assert_close(along, values, atol=1e-12, rtol=1e-6)


class TestKnownDirections:
    def test_gradients_of_pooling_t7(self) -> None:
        found = directions(pooled, (6,), networks=20_000)
        expected = pooled_covariance(RESPONSE, 3, 0.8, 1.3)
        order = RESPONSE.argsort(descending=True)
        assert found.vectors.abs().argmax(1).tolist() == order.tolist()
        off = (found.spectrum - expected[order]).abs()
        assert bool((off < 4 * found.stderr + 0.01).all())
        assert float((found.stderr / found.spectrum).max()) < 0.05
        assert found.rank == 6

    @pytest.mark.parametrize("step", [None, 1e-2])
    def test_mixed_derivatives_of_pooling_t9(self, step: float | None) -> None:
        found = directions(pooled, (6,), method="mixed", networks=4000, step=step)
        order = RESPONSE.argsort(descending=True)
        assert found.vectors.abs().argmax(1).tolist() == order.tolist()
        expected = pooled_mixed(RESPONSE, 3, 0.8, 1.3)[order]
        assert bool(((found.spectrum - expected).abs() < 4 * found.stderr + 0.01).all())

    def test_the_mean_operator_is_what_chance_leaves(self) -> None:
        """As printed: over T networks it has the spectrum of one, divided by T."""
        response = torch.tensor([1.0, 0.5], dtype=torch.float64)
        tries = [
            directions(
                lambda: PooledLinear(response, 1), (2,), method="mean mixed", networks=20, seed=seed
            ).spectrum.sum()
            for seed in range(50)
        ]
        found = 20 * float(torch.stack(tries).mean())
        assert found == pytest.approx(float(pooled_mixed(response, 1).sum()), rel=0.35)

    def test_logistic_regression_has_none_t8(self) -> None:
        found = directions(lambda: Linear(100), (100,), networks=4000)
        low, high = marchenko_pastur(100, 4000)
        assert float(found.spectrum[-1]) == pytest.approx(low, rel=0.05)
        assert float(found.spectrum[0]) == pytest.approx(high, rel=0.05)
        more = directions(lambda: Linear(100), (100,), networks=40_000)
        ratio = [float(one.spectrum[0] / one.spectrum[-1]) for one in (found, more)]
        assert ratio[1] - 1 < 0.4 * (ratio[0] - 1)

    def test_one_hidden_layer_has_none(self) -> None:
        found = directions(lambda: OneHidden(5, 8, nn.ReLU()), (5,), networks=20_000)
        expected = hidden_layer_variance(8, 5)
        assert float((found.spectrum / expected - 1).abs().max()) < 0.05

    @pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU()])
    def test_kernel_of_one_hidden_layer_t23(self, activation: nn.Module) -> None:
        """A quarter of `|W u|^2 + |a|^2`, for ReLU as for GELU."""
        kinds = {"a": 0.6, "w": 1.0}
        found = directions(
            lambda: OneHidden(4, 6, activation, **kinds), (4,), method="kernel", samples=40_000
        )
        state = Population(lambda: OneHidden(4, 6, activation, **kinds), (4,), at_most=1).one(0)
        matrix = state["weight"].T @ state["weight"]
        matrix = (matrix + state["last"].square().sum() * torch.eye(4)) / 4
        values, vectors = torch.linalg.eigh(matrix)
        torch.testing.assert_close(found.spectrum, values.flip(0), rtol=0.03, atol=0)
        assert float(overlap(found.vectors, vectors.T.flip(0))[0]) > 0.98
        assert bool(((found.spectrum - values.flip(0)).abs() < 5 * found.stderr).all())

    def test_kernel_of_a_linear_function_t22(self) -> None:
        found = directions(lambda: Linear(3), (3,), method="kernel", samples=30_000)
        torch.testing.assert_close(found.spectrum, torch.ones(3).double(), atol=0.03, rtol=0)

    def test_mixed_derivative_of_one_pooled_network_t24(self) -> None:
        """The singular vectors of `[A diag(phi m); diag(A^T theta m)]`."""
        found = directions(pooled, (6,), method="mixed", networks=1, at=torch.zeros(6))
        state = Population(pooled, (6,), at_most=1).one(0)
        first = torch.eye(2).double().repeat(1, 3) / 3**0.5 * (state["phi"] * RESPONSE)
        second = (state["theta"].repeat(3) / 3**0.5 * RESPONSE).diag()
        _, scales, right = torch.linalg.svd(torch.cat([first, second]))
        torch.testing.assert_close(found.spectrum, scales.square(), atol=1e-10, rtol=1e-10)
        cosines = (found.vectors * right).sum(1).abs()
        torch.testing.assert_close(cosines, torch.ones(6).double(), atol=1e-8, rtol=0)

    def test_a_step_does_not_matter_without_biases_at_zero(self) -> None:
        """A network that is positively homogeneous, and a linear one anywhere."""

        def make() -> nn.Module:
            return OneHidden(5, 4, nn.ReLU())

        small, large = (
            directions(make, (5,), networks=50, at=torch.zeros(5), step=step) for step in (0.1, 70)
        )
        torch.testing.assert_close(small.spectrum, large.spectrum)
        exact = directions(lambda: Linear(5), (5,), networks=50)
        coarse = directions(lambda: Linear(5), (5,), networks=50, step=100)
        torch.testing.assert_close(exact.spectrum, coarse.spectrum, rtol=1e-4, atol=0)

    def test_turned_inputs_turn_the_directions(self) -> None:
        turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]

        class Turned(PooledLinear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x @ turn.T)

        plain = directions(pooled, (6,), networks=500, at=torch.zeros(6))
        other = directions(
            lambda: Turned(RESPONSE, 3, 0.8, 1.3), (6,), networks=500, at=torch.zeros(6)
        )
        torch.testing.assert_close(other.spectrum, plain.spectrum)
        cosines = (other.vectors * (plain.vectors @ turn)).sum(1).abs()
        torch.testing.assert_close(cosines, torch.ones(6).double())


class TestUncertainty:
    def test_two_seeds_agree_within_their_errors(self) -> None:
        one, two = (directions(pooled, (6,), networks=3000, seed=seed) for seed in (0, 1))
        errors = (one.stderr.square() + two.stderr.square()).sqrt()
        assert bool(((one.spectrum - two.spectrum).abs() < 4 * errors).all())
        assert bool(((one.spectrum - two.spectrum).abs() > 0).all())

    def test_the_error_is_that_of_the_mean_of_squares(self) -> None:
        """Normal gradients: the variance of a mean of T squares is `2 lambda^2 / T`."""
        found = directions(lambda: Linear(4), (4,), networks=20_000)
        expected = found.spectrum * (2 / 20_000) ** 0.5
        assert 0.5 < float((found.stderr / expected).mean()) < 1.7

    def test_the_error_of_a_number_of_the_spectrum(self) -> None:
        """Against many seeds; of the trace, which is linear, also against the groups' means."""

        def first(spectrum: Tensor) -> float:
            return float(spectrum[0] / spectrum.sum())

        tries = [directions(pooled, (6,), networks=800, seed=seed) for seed in range(40)]
        shares = [found.estimate(first) for found in tries]
        spread = torch.tensor([one.value for one in shares]).std()
        said = torch.tensor([one.stderr for one in shares]).square().mean().sqrt()
        assert 0.7 < float(said / spread) < 1.4
        one = tries[0]
        trace = one.estimate(lambda spectrum: float(spectrum.sum()))
        assert one.groups is not None and one.groups.shape == (8, 6)
        torch.testing.assert_close(one.groups.mean(0), one.spectrum)
        means = one.groups.sum(1)
        assert trace.stderr == pytest.approx(float(means.std()) / 8**0.5)
        assert (trace.value, trace.samples) == (pytest.approx(float(one.spectrum.sum())), 8)

    def test_the_overlap_rises_as_theory_says(self) -> None:
        """For normal gradients.

        The squared sine of the leading direction of T is `sum_j l_1 l_j / (l_1 - l_j)^2 / T`, that
        of two of them twice as much.
        """
        scales = torch.tensor([1.0, 0.8, 0.5, 0.3], dtype=torch.float64)

        class Scaled(Linear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x * scales)

        def make() -> nn.Module:
            return Scaled(4).double()

        values = scales.square()
        sine = float((values[0] * values[1:] / (values[0] - values[1:]).square()).sum())
        for networks in (800, 3200):
            off = [
                1 - float(directions(make, (4,), networks=networks, seed=seed).overlap[0])
                for seed in range(40)
            ]
            expected = 2 * sine / (networks / 2)
            assert sum(off) / 40 == pytest.approx(expected, rel=0.6)

    def test_fewer_networks_than_directions_state_the_rank(self) -> None:
        found = directions(small_lenet, (1, 10, 10), networks=12)
        assert found.rank <= 12
        assert found.vectors.shape == (100, 100)
        torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(100).double())

    def test_one_network_has_no_errors(self) -> None:
        found = directions(pooled, (6,), networks=1)
        assert bool(found.stderr.isnan().all()) and bool(found.overlap.isnan().all())
        error = found.estimate(lambda spectrum: float(spectrum[0])).stderr
        assert error != error


class TestRuns:
    def test_the_same_seed_gives_the_same(self) -> None:
        one, two = (directions(small_lenet, (1, 10, 10), networks=40, seed=2) for _ in range(2))
        assert torch.equal(one.vectors, two.vectors)
        other = directions(small_lenet, (1, 10, 10), networks=40, seed=3)
        assert not torch.equal(one.spectrum, other.spectrum)

    def test_the_global_random_state_stays(self) -> None:
        before = torch.random.get_rng_state()
        directions(pooled, (6,), networks=10)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_an_interrupted_run_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "run.safetensors"
        whole = directions(pooled, (6,), networks=80)
        plain, drawn = Population.stack, []

        def stack(self: Population, place: int) -> dict[str, Tensor]:
            drawn.append(place)
            if len(drawn) == 4:
                raise KeyboardInterrupt
            return plain(self, place)

        monkeypatch.setattr(Population, "stack", stack)
        with pytest.raises(KeyboardInterrupt):
            directions(pooled, (6,), networks=80, checkpoint=path)
        found = directions(pooled, (6,), networks=80, checkpoint=path)
        assert drawn == [0, 1, 2, 3, 3, 4, 5, 6, 7]
        assert torch.equal(found.vectors, whole.vectors)
        assert torch.equal(found.stderr, whole.stderr)
        with pytest.raises(InputError, match="another networks"):
            directions(pooled, (6,), networks=90, checkpoint=path)

    def test_a_piece_is_added_and_counted_or_neither(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Interrupted in the middle of an addition, as it is in one case of thirty."""
        path = tmp_path / "run.safetensors"
        whole = directions(pooled, (6,), networks=80)
        add = torch.add

        def interrupted(*arguments: Tensor, **named: Tensor) -> Tensor:
            add(*arguments, **named)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(torch, "add", interrupted)
            with pytest.raises(KeyboardInterrupt):
                directions(pooled, (6,), networks=80, checkpoint=path)
        found = directions(pooled, (6,), networks=80, checkpoint=path)
        assert torch.equal(found.spectrum, whole.spectrum)

    def test_a_file_gives_them_back(self, tmp_path: Path) -> None:
        found = directions(small_lenet, (1, 10, 10), networks=20)
        found.save(tmp_path / "found.safetensors")
        again = Directions.load(tmp_path / "found.safetensors")
        for name in ("vectors", "spectrum", "stderr", "overlap"):
            assert torch.equal(getattr(again, name), getattr(found, name))
        assert found.groups is not None and torch.equal(again.groups, found.groups)
        assert again.settings == found.settings and again.shape == (1, 10, 10)
        assert again.image(3).shape == (1, 10, 10)
        assert "derivative of f" in again.meaning
        one = directions(pooled, (6,), method="mean mixed", networks=1)
        one.save(tmp_path / "one.safetensors")
        assert bool(Directions.load(tmp_path / "one.safetensors").overlap.isnan().all())
        (tmp_path / "other.safetensors").write_bytes(b"nothing")
        with pytest.raises(InputError, match="holds no directions"):
            Directions.load(tmp_path / "other.safetensors")

    def test_an_output_of_many(self) -> None:
        def make() -> nn.Module:
            return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

        x = torch.randn(3)
        found = directions(make, (3,), networks=8, outputs=(0, 1), at=x)
        total = torch.zeros(3, 3, dtype=torch.float64)
        for state in states(Population(make, (3,), (0, 1), at_most=1), 8):
            point = x.clone().requires_grad_()
            pair = module_of(make, state)(point)
            (gradient,) = torch.autograd.grad(pair[1] - pair[0], point)
            total += gradient.outer(gradient) / 8
        values = torch.linalg.eigvalsh(total).flip(0)
        torch.testing.assert_close(found.spectrum, values, atol=1e-8, rtol=1e-4)


class TestArrays:
    """Directions that somebody else found, in the form in which they are published."""

    def test_principal_components_give_the_librarys_directions(self, tmp_path: Path) -> None:
        """Singular values and all vectors but the last, in single precision, by way of a file."""
        scales = np.linspace(2, 0.5, 12)
        gradients = np.random.default_rng(0).normal(size=(400, 12)) * scales
        _, singular, right = np.linalg.svd(gradients, full_matrices=False)
        np.savez(tmp_path / "a.npz", u=right[:11].astype(np.float32), s=singular[:11])
        file = np.load(tmp_path / "a.npz")
        found = Directions.from_arrays(file["u"], file["s"], (1, 3, 4), True, networks=400)
        values, vectors = np.linalg.eigh(gradients.T @ gradients / 400)
        np.testing.assert_allclose(found.spectrum[:11], values[:0:-1], rtol=1e-6)
        assert float(found.spectrum[11]) == 0
        cosines = np.abs((found.vectors.numpy() * vectors.T[::-1]).sum(1))
        np.testing.assert_allclose(cosines, 1, atol=1e-5)
        assert found.rank == 11 and found.image(11).shape == (1, 3, 4)
        said = "squared singular value of each direction, as given, over 400 networks"
        assert found.meaning == said
        plain = Directions.from_arrays(file["u"], file["s"], (1, 3, 4), singular=True)
        torch.testing.assert_close(plain.spectrum, 400 * found.spectrum)

    def test_our_own_come_back(self, tmp_path: Path) -> None:
        made = directions(small_lenet, (1, 10, 10), networks=300)
        np.save(tmp_path / "u.npy", made.vectors[:99].numpy())
        np.save(tmp_path / "values.npy", made.spectrum[:99].numpy())
        arrays = (np.load(tmp_path / name) for name in ("u.npy", "values.npy"))
        found = Directions.from_arrays(*arrays, (1, 10, 10))
        assert torch.equal(found.vectors[:99], made.vectors[:99])
        assert torch.equal(found.spectrum[:99], made.spectrum[:99])
        assert float(found.vectors[99] @ made.vectors[99]) ** 2 == pytest.approx(1)
        whole = Directions.from_arrays(made.vectors, made.spectrum, (1, 10, 10))
        assert torch.equal(whole.vectors, made.vectors) and whole.settings["missing"] == 0

    def test_what_is_unknown_is_said_and_stays_so_in_a_file(self, tmp_path: Path) -> None:
        found = Directions.from_arrays(np.eye(6)[:3], [3, 2, 1], (6,))
        found.save(tmp_path / "found.safetensors")
        for one in (found, Directions.load(tmp_path / "found.safetensors")):
            assert bool(one.stderr.isnan().all()) and bool(one.overlap.isnan().all())
            assert one.groups is None and one.rank == 3
            share = one.estimate(lambda spectrum: float(spectrum[0] / spectrum.sum()))
            assert (share.value, share.samples) == (0.5, 0) and share.stderr != share.stderr
            assert one.settings["method"] == "given" and one.settings["missing"] == 3
            assert float(one.vectors[3:, :3].abs().max()) < 1e-12

    @pytest.mark.parametrize(
        ("vectors", "spectrum", "options", "named"),
        [
            (np.eye(4).T[:, :3], [3, 2, 1], {}, r"vectors: shape \(4, 3\); give vectors of 4"),
            (np.ones(4), [1], {}, r"vectors: shape \(4,\)"),
            (np.ones((2, 4)), [2, 1], {}, "vectors: not orthonormal"),
            (np.full((1, 4), np.nan), [1], {}, "vectors: not orthonormal"),
            (np.eye(4), [3, 2, 1], {}, r"spectrum: shape \(3,\) for 4 vectors"),
            (np.eye(4), [1, 2, 3, 4], {}, "spectrum: give finite numbers that fall"),
            (np.eye(4), [0, 0, 0, 0], {}, "spectrum: give finite numbers that fall"),
            (np.eye(4), [2, 1, 1, np.nan], {}, "spectrum: give finite numbers"),
            (np.eye(4), [2, 1, 1, -1], {"singular": True}, "spectrum, networks: -1 at the end"),
            (np.eye(4), [2, 1, 1, 1], {"singular": True, "networks": 0}, "networks: .* 0; sing"),
            (np.eye(4), [2, 1, 1, 1], {"networks": 5}, "networks: 5; they are those of singular"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_used_is_refused(
        self, vectors: np.ndarray, spectrum: list[float], options: dict, named: str
    ) -> None:
        with pytest.raises(InputError, match=named):
            Directions.from_arrays(vectors, spectrum, (4,), **options)


class TestPopulation:
    def test_batch_norm_and_buffers(self) -> None:
        def make() -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1)
            )

        population = Population(make, (1, 4, 4))
        assert population.together
        found = directions(make, (1, 4, 4), networks=30)
        assert found.rank == 16

    def test_a_factory_that_cannot_be_drawn_at_once_is_called_for_each(self) -> None:
        calls = []

        def make() -> nn.Module:
            calls.append(1)
            module = Linear(3)
            nn.init.trunc_normal_(module.theta)  # looks at its numbers
            return module

        population = Population(make, (3,), at_most=5)
        assert not population.together
        before = len(calls)
        stack = population.stack(0)
        assert len(calls) == before + 5
        assert len({tuple(row) for row in stack["theta"].tolist()}) == 5

    def test_weights_drawn_at_once_have_the_same_distribution(self) -> None:
        def make() -> nn.Module:
            module = nn.Linear(30, 40)
            nn.init.normal_(module.bias, std=0.5)
            return nn.Sequential(module, nn.Linear(40, 1))

        population = Population(make, (30,))
        assert population.together
        stack = population.stack(0)
        bound = 30**-0.5
        assert float(stack["0.weight"].abs().max()) <= bound
        assert float(stack["0.weight"].std()) == pytest.approx(bound / 3**0.5, rel=0.02)
        assert float(stack["0.bias"].std()) == pytest.approx(0.5, rel=0.05)
        correlations = torch.corrcoef(stack["0.bias"].T)
        assert float((correlations - torch.eye(40)).abs().max()) < 0.5

    def test_the_users_factory_and_model_stay_as_they_are(self) -> None:
        made: list[nn.Module] = []

        def make() -> nn.Module:
            made.append(Linear(3))
            return made[-1]

        population = Population(make, (3,))
        before = snapshot(population.module)
        directions(make, (3,), networks=5)
        assert not differences(before, snapshot(population.module))


@pytest.mark.parametrize(
    ("make", "options", "named"),
    [
        (lambda: (torch.manual_seed(0), Linear(3))[1], {}, "same weights each time"),
        (lambda: nn.Linear(3, 2), {}, "outputs: the network has 2"),
        (lambda: nn.Linear(3, 2), {"outputs": 5}, "outputs: 5 is out of range"),
        (lambda: nn.Linear(4, 1), {}, "does not take inputs of shape"),
        (lambda: "no module", {}, "returned str"),
        (lambda: nn.ReLU(), {}, "returned ReLU"),
        (lambda: Linear(3), {"method": "gradients"}, "method: 'gradients'"),
        (lambda: Linear(3), {"networks": 0}, "networks: 0"),
        (lambda: Linear(3), {"step": -1.0}, "step: -1.0"),
        (lambda: Linear(3), {"method": "kernel", "step": 1.0}, "step: 1.0, for method 'kernel'"),
        (lambda: Linear(3), {"method": "kernel", "samples": 3}, "samples: 3; give at least"),
        (lambda: Linear(3), {"samples": 300}, "samples: 300, for method 'gradient'"),
        (lambda: Linear(3), {"method": "kernel", "at": torch.zeros(3)}, "at: the kernel"),
        (lambda: Linear(3), {"at": torch.zeros(4)}, "at: shape"),
        (lambda: Linear(3), {"at": torch.zeros(2, 3)}, "at: shape"),
        (lambda: Linear(3), {"at": torch.full((3,), torch.nan)}, "at: some numbers are NaN"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(
    make: Callable[[], nn.Module], options: dict, named: str
) -> None:
    with pytest.raises(InputError, match=named):
        directions(make, (3,), **options)


def test_derivatives_that_are_zero_or_not_finite_are_refused() -> None:
    class Flat(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return (0 * x) @ self.theta[:, None]

    class Broken(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return (x / 0) @ self.theta[:, None]

    with pytest.raises(InputError, match="all derivatives by the input are zero"):
        directions(lambda: Flat(3), (3,), networks=8)
    with pytest.raises(InputError, match="not finite"):
        directions(lambda: Broken(3), (3,), networks=8)


def test_orthogonal_inputs_leave_little_noise() -> None:
    """Of a smooth network in many dimensions: two halves agree, and with the derivative at 0."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(60, 20), nn.GELU(), nn.Linear(20, 1))

    found = directions(make, (60,), method="kernel")
    assert float(found.overlap[4]) > 0.9
    mixed = directions(make, (60,), method="mixed", networks=1, at=torch.randn(2000, 60))
    assert float(overlap(found.vectors, mixed.vectors)[4]) > 0.9
