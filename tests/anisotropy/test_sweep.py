"""Sweeps over directions: against plain training loops, alone and in stacks, interrupted or not."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scipy.stats import kendalltau, spearmanr, ttest_1samp
from torch import Tensor, nn

from pullback import InputError
from pullback.anisotropy import (
    Recipe,
    SampleComplexity,
    Sweep,
    fourier_basis,
    models,
    random_basis,
    sample_complexity,
    separable,
    sweep,
)
from tests.checks import REFUSED

SHAPE = (1, 6, 6)
BASIS = fourier_basis((6, 6))
SHORT = Recipe(samples=150, tests=100, sigma=0.5, epochs=2, batch=64)


def small(outputs: int = 1, channels: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(4 * channels, outputs),
    )  # fmt: skip


ONE = small()


def linear() -> nn.Module:
    return models.logistic_regression(SHAPE)


def with_batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 1)
    )


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(36, 1))


def by_hand(module: nn.Module, direction: Tensor, seed: tuple[int, ...], recipe: Recipe) -> Any:
    """Test and train accuracies and losses by PyTorch's own optimiser, schedule and clipping.

    `module` has to have its weights.
    """
    seeds = np.random.SeedSequence(seed).generate_state(4).tolist()
    sets = [
        separable(direction.view(SHAPE), n, recipe.epsilon, recipe.sigma, own)
        for n, own in ((recipe.samples, seeds[1]), (recipe.tests, seeds[2]))
    ]
    x, y = sets[0]
    optimiser = torch.optim.SGD(module.parameters(), lr=recipe.rate)
    updates = recipe.epochs * math.ceil(recipe.samples / recipe.batch)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=updates)
    generator = torch.Generator().manual_seed(seeds[3])
    losses = []
    for _ in range(recipe.epochs):
        order = torch.randperm(recipe.samples, generator=generator)
        for start in range(0, recipe.samples, recipe.batch):
            some = order[start : start + recipe.batch]
            outputs = module(x[some])
            if outputs.shape[1] == 1:
                loss = F.binary_cross_entropy_with_logits(outputs[:, 0], (y[some] + 1) / 2)
            else:
                loss = F.cross_entropy(outputs, ((y[some] + 1) / 2).long())
            optimiser.zero_grad()
            loss.backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), float(recipe.clip))
            optimiser.step()
            falling.step()
            losses.append(float(loss.detach()))
    module.eval()
    right = []
    for inputs, labels in reversed(sets):
        outputs = module(inputs)
        said = outputs[:, 0].sign() if outputs.shape[1] == 1 else outputs.argmax(1) * 2 - 1
        right.append(float((said == labels).double().mean()))
    return *right, losses


class TestAgainstPlainTraining:
    @pytest.mark.parametrize("at_once", [1, 3])
    @pytest.mark.parametrize(("outputs", "clip"), [(1, None), (1, 0.05), (2, None), (2, 0.05)])
    def test_convolutional_network(self, outputs: int, clip: float | None, at_once: int) -> None:
        recipe = replace(SHORT, clip=clip)
        vectors = BASIS.vectors.double()
        found = sweep(
            lambda: small(outputs).double(), vectors, SHAPE, [7, 2], 2, recipe, 5, at_once
        )
        assert found.losses.shape == (2, 2, 6)
        for row, place in enumerate((7, 2)):
            for number in range(2):
                seed = (5, number, place)
                with torch.random.fork_rng():
                    own = np.random.SeedSequence(seed).generate_state(4).tolist()
                    torch.manual_seed(own[0])
                    module = small(outputs).double()
                test, train, losses = by_hand(module, vectors[place], seed, recipe)
                assert float(found.test[row, number]) == test
                assert float(found.train[row, number]) == train
                expected = torch.tensor(losses)
                torch.testing.assert_close(found.losses[row, number], expected)

    @pytest.mark.parametrize("at_once", [1, 2])
    def test_batch_norm_is_trained_in_training_mode_and_tested_in_the_other(
        self, at_once: int
    ) -> None:
        vectors, make = BASIS.vectors.double(), lambda: with_batch_norm().double()
        found = sweep(make, vectors, SHAPE, [4, 7], recipe=SHORT, at_once=at_once)
        for row, place in enumerate((4, 7)):
            seed = (0, 0, place)
            with torch.random.fork_rng():
                torch.manual_seed(np.random.SeedSequence(seed).generate_state(4).tolist()[0])
                module = make()
            test, train, losses = by_hand(module, vectors[place], seed, SHORT)
            assert (float(found.test[row]), float(found.train[row])) == (test, train)
            torch.testing.assert_close(found.losses[row, 0], torch.tensor(losses))

    def test_classes_at_half_the_distance(self) -> None:
        near, far = (
            sweep(linear, BASIS.vectors, SHAPE, [3], recipe=replace(SHORT, half=half, epsilon=1.0))
            for half in (True, False)
        )
        assert float(near.losses[0, 0, -1]) > float(far.losses[0, 0, -1])


class TestDraws:
    def test_a_piece_is_the_same_whatever_else_is_swept(self) -> None:
        many = sweep(small, BASIS.vectors, SHAPE, [5, 0, 3], seeds=2, recipe=SHORT)
        one = sweep(small, BASIS.vectors, SHAPE, [3], seeds=1, recipe=SHORT)
        assert torch.equal(many.losses[2:, :1], one.losses)
        assert torch.equal(many.test[2:, :1], one.test)

    def test_directions_and_seeds_have_networks_and_samples_of_their_own(self) -> None:
        found = sweep(small, BASIS.vectors, SHAPE, [0, 1], seeds=2, recipe=SHORT)
        starts = found.losses[..., 0].flatten()
        assert len(set(starts.tolist())) == 4
        other = sweep(small, BASIS.vectors, SHAPE, [0, 1], seeds=2, recipe=SHORT, seed=1)
        assert not bool((other.losses[..., 0].flatten()[:, None] == starts).any())

    def test_the_global_generator_is_left_alone(self) -> None:
        before = torch.get_rng_state()
        sweep(with_dropout, BASIS.vectors, SHAPE, [0], recipe=SHORT)
        assert torch.equal(torch.get_rng_state(), before)

    def test_dropout_is_drawn_from_the_seed(self) -> None:
        one, two = (sweep(with_dropout, BASIS.vectors, SHAPE, [0], recipe=SHORT) for _ in range(2))
        assert torch.equal(one.losses, two.losses)


class TestInterrupted:
    @pytest.mark.parametrize(("at_once", "finished"), [(1, 3), (2, 1)])
    def test_it_goes_on_to_the_same_numbers(
        self, tmp_path: Path, at_once: int, finished: int
    ) -> None:
        path = tmp_path / "sweep.safetensors"
        calls = 0

        def stopped() -> nn.Module:
            nonlocal calls
            calls += 1
            if calls > 2 + 3:  # two are made to look at the architecture
                raise KeyboardInterrupt
            return small()

        def run(make: Any, checkpoint: Path | None) -> Sweep:
            return sweep(
                make, BASIS.vectors, SHAPE, [1, 4, 2], seeds=2, recipe=SHORT, at_once=at_once,
                checkpoint=checkpoint,
            )  # fmt: skip

        with pytest.raises(KeyboardInterrupt):
            run(stopped, path)
        made = 0

        def counted() -> nn.Module:
            nonlocal made
            made += 1
            return small()

        resumed = run(counted, path)
        assert made == 2 + 6 - finished * at_once
        whole = run(small, None)
        for name in ("test", "train", "losses"):
            assert torch.equal(getattr(resumed, name), getattr(whole, name))
        with pytest.raises(InputError, match="recipe"):
            sweep(small, BASIS.vectors, SHAPE, [1, 4, 2], seeds=2, at_once=at_once,
                  recipe=replace(SHORT, rate=0.1), checkpoint=path)  # fmt: skip
        with pytest.raises(InputError, match="digest"):
            sweep(small, BASIS.vectors.flip(0), SHAPE, [1, 4, 2], seeds=2, at_once=at_once,
                  recipe=SHORT, checkpoint=path)  # fmt: skip

    def test_what_is_finished_is_on_disk_before_the_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = sys.modules["pullback.anisotropy.sweep"]  # the function has the same name
        monkeypatch.setattr(module, "PERIOD", -1.0)
        path, found = tmp_path / "sweep.safetensors", []

        def looking() -> nn.Module:
            if path.exists():
                found.append(int(load_file(path)["done"]))
            return small()

        sweep(looking, BASIS.vectors, SHAPE, [1, 4, 2], recipe=SHORT, checkpoint=path)
        assert found == [0, 1, 2]


class TestLinearNetworks:
    """They learn every direction, whatever the noise (statement H1)."""

    @pytest.mark.parametrize("sigma", [0.0, 1.0, 3.0])
    def test_their_map_is_flat(self, sigma: float) -> None:
        recipe = Recipe(samples=2000, tests=500, sigma=sigma, epochs=10)
        places = list(range(0, 36, 7))
        found = sweep(linear, BASIS.vectors, SHAPE, places, recipe=recipe)
        assert found.test.min() == 1.0
        seen = found.map(BASIS)
        assert seen.shape == (6, 6) and float(seen[3, 3]) == 1.0  # place 0 is frequency 0
        assert set(seen[~seen.isnan()].tolist()) == {1.0}
        real = BASIS.frequencies[[p for p in places if not BASIS.imaginary[p]]]
        shown = {tuple(((s * f + 3) % 6).tolist()) for f in real for s in (1, -1)}
        assert {tuple(one) for one in (~seen.isnan()).nonzero().tolist()} == shown
        assert not bool(found.map(BASIS, imaginary=True).isnan().all())


def made_up(test: Tensor, losses: Tensor | None = None, places: Tensor | None = None) -> Sweep:
    k, s = test.shape
    settings = {"recipe": {"samples": 4, "batch": 2, "epochs": 3}, "digest": ""}
    losses = torch.zeros(k, s, 6) if losses is None else losses
    return Sweep(torch.arange(k) if places is None else places, test, test, losses, settings)


class TestStatistics:
    def test_monotonicity_against_scipy(self) -> None:
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(9, 5, generator=generator, dtype=torch.float64)
        test = 1 - torch.arange(9.0, dtype=torch.float64)[:, None] / 10 + 0.4 * noise
        found = made_up(test).monotonicity(0.9)
        each = [spearmanr(range(9), one).statistic for one in test.T]
        assert found.spearman == pytest.approx(np.mean(each))
        low, high = ttest_1samp(each, 0).confidence_interval(0.9)
        assert (found.low, found.high) == pytest.approx((low, high))
        tau = kendalltau(range(9), test.mean(1)).statistic
        assert found.pairs == 36 and (2 * found.inversions / 36 - 1) == pytest.approx(tau)

    def test_order_is_that_of_the_places(self) -> None:
        test = torch.tensor([[0.5], [1.0], [0.7]], dtype=torch.float64)
        found = made_up(test, places=torch.tensor([30, 0, 7])).monotonicity()
        assert found.spearman == pytest.approx(-1) and found.inversions == 0
        assert math.isnan(found.low) and math.isnan(found.high)

    def test_what_is_always_the_same_has_no_order(self) -> None:
        found = made_up(torch.ones(4, 2, dtype=torch.float64)).monotonicity()
        assert math.isnan(found.spearman) and found.inversions == 0

    def test_curves_and_updates_to_a_loss(self) -> None:
        losses = torch.zeros(1, 2, 6)
        losses[0, 0] = torch.tensor([9.0, 7.0, 5.0, 5.0, 3.0, 1.0])
        found = made_up(torch.ones(1, 2, dtype=torch.float64), losses)
        assert found.curves[0].tolist() == [[8, 5, 2], [0, 0, 0]]
        long = torch.cat([torch.full((15,), 2.0), torch.zeros(15)]).view(1, 1, 30)
        found = made_up(torch.ones(1, 1, dtype=torch.float64), long)
        # Ten updates of which five are low: the first of these ends 20 after the start.
        assert float(found.updates_to(1.0)) == 20
        assert float(found.updates_to(2.0)) == 10
        assert float(found.updates_to(-1.0)) == math.inf

    def test_samples_needed(self) -> None:
        rows = torch.tensor(
            [[0.5, 0.8, 1.0], [0.95, 1.0, 1.0], [0.5, 0.5, 0.6]], dtype=torch.float64
        )
        found = SampleComplexity((10, 100, 1000), tuple(made_up(one[:, None]) for one in rows.T))
        assert torch.equal(found.accuracies, rows)
        expected = torch.tensor([10**2.5, 10.0, math.inf], dtype=torch.float64)
        torch.testing.assert_close(found.needed(0.9), expected)


def test_more_samples_are_needed_for_a_direction_that_pooling_hides(tmp_path: Path) -> None:
    """A mean over places sees the zero frequency alone."""

    def pooled() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 1), nn.ReLU(), nn.AvgPool2d(6), nn.Flatten(), nn.Linear(8, 1)
        )

    recipe = replace(SHORT, tests=400, epochs=10, batch=16)
    highest = int((BASIS.frequencies.square().sum(1) == 18).nonzero()[0])
    folder = tmp_path / "sizes"
    options: dict[str, Any] = {"places": [0, highest], "recipe": recipe, "checkpoint": folder}
    found = sample_complexity(pooled, BASIS.vectors, SHAPE, [400, 100], **options)
    assert found.sizes == (100, 400)
    assert float(found.accuracies[0, 1]) > 0.9 and float(found.accuracies[1, 1]) < 0.7
    needed = found.needed(0.9)
    assert float(needed[0]) < float(needed[1]) == math.inf
    assert sorted(one.name for one in folder.iterdir()) == ["100.safetensors", "400.safetensors"]


def test_saved_and_read(tmp_path: Path) -> None:
    found = sweep(linear, BASIS.vectors, SHAPE, [3, 1], recipe=SHORT)
    found.save(tmp_path / "found.safetensors")
    read = Sweep.load(tmp_path / "found.safetensors")
    for name in ("places", "test", "train", "losses"):
        assert torch.equal(getattr(read, name), getattr(found, name))
    assert read.settings == found.settings and read.recipe == SHORT
    torch.testing.assert_close(read.map(BASIS), found.map(BASIS), equal_nan=True)
    (tmp_path / "other").write_text("no")
    with pytest.raises(InputError, match="holds no sweep"):
        Sweep.load(tmp_path / "other")


def test_kernels_stay_as_they_are_where_a_network_relies_on_their_order() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.last = nn.Conv2d(2, 3, 3), nn.Linear(48, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.convolution(x).view(len(x), -1))

    shape = (2, 6, 6)
    found = sweep(Viewing, random_basis(72), shape, [0], recipe=SHORT)
    assert bool(found.losses.isfinite().all())


def test_a_training_that_runs_away_is_not_a_number() -> None:
    found = sweep(small, BASIS.vectors, SHAPE, [0], recipe=replace(SHORT, rate=1e30))
    assert bool(found.test.isnan().all()) and bool(found.train.isnan().all())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"directions": torch.ones(3, 35)}, "vectors of 36 numbers"),
        ({"directions": torch.zeros(3, 36)}, "zero"),
        ({"places": [36]}, "places"), ({"places": []}, "places"), ({"places": [1, 1]}, "places"),
        ({"seeds": 0}, "seeds"), ({"at_once": 0}, "at_once"),
        ({"make_model": lambda: nn.ReLU()}, "ReLU"),
        ({"make_model": lambda: small(outputs=3)}, "one or two outputs"),
        ({"make_model": lambda: nn.Linear(5, 1)}, "inputs of shape"),
        ({"make_model": lambda: ONE}, "the same network each time"),
        ({"make_model": with_dropout, "at_once": 2, "places": [0, 1]}, "at_once"),
    ],
)  # fmt: skip
def test_what_cannot_be_swept_is_refused(change: dict[str, Any], named: str) -> None:
    options = {"make_model": small, "directions": BASIS.vectors, "shape": SHAPE, "recipe": SHORT}
    with pytest.raises(REFUSED, match=named):
        sweep(**{**options, **change})


@pytest.mark.parametrize(
    "change", [{"samples": 0}, {"sigma": -1.0}, {"rate": math.inf}, {"clip": 0.0}, {"epsilon": 0}]
)
def test_numbers_of_a_recipe(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        Recipe(**change)


def test_maps_and_statistics_refuse_what_they_cannot_use() -> None:
    found = sweep(linear, BASIS.vectors, SHAPE, [3], recipe=SHORT)
    with pytest.raises(InputError, match="basis"):
        found.map(fourier_basis((36,)))
    with pytest.raises(InputError, match="two directions"):
        found.monotonicity()
    with pytest.raises(InputError, match="sizes"):
        sample_complexity(linear, BASIS.vectors, SHAPE, [])
