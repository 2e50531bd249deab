"""C-scores: counts of held-out samples, errors, groups, and what is easy on real digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from pullback import InputError, data
from pullback.linear import ConsistencyScores, consistency_scores


def nearest(inputs: Tensor, labels: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
    model = KNeighborsClassifier(1).fit(inputs.flatten(1).numpy(), labels.numpy())
    return lambda new: torch.as_tensor(model.predict(new.flatten(1).numpy()))


def test_a_sample_is_judged_by_fits_that_never_saw_it() -> None:
    x, y = torch.arange(30.0).unsqueeze(1), torch.arange(30) % 2
    seen: list[tuple[list[float], list[float]]] = []

    def fit(inputs: Tensor, labels: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
        def predict(new: Tensor) -> Tensor:
            seen.append((inputs[:, 0].tolist(), new[:, 0].tolist()))
            return torch.zeros(len(new), dtype=torch.long)

        return predict

    found = consistency_scores(x, y, fit, sizes=[5, 20], repeats=7, seed=1)
    assert len(seen) == 14
    counts = torch.zeros(30)
    for trained, held_out in seen:
        assert not set(trained) & set(held_out)
        assert len(trained) + len(held_out) == 30
        counts[torch.tensor(held_out).long()] += 1
    assert torch.equal(found.held_out.sum(0).float(), counts)
    assert torch.equal(found.scores == 1, y == 0)
    assert torch.equal(found.scores == 0, y == 1)


def test_wrong_labels_of_real_digits_score_low_and_duplicates_high() -> None:
    digits = data.load("digits", "train", samples=300)
    noisy = data.noisy_labels(digits.labels, 0.1, 10, seed=0)
    twin = int((~noisy.noisy).nonzero()[0])
    inputs = torch.cat([digits.inputs, digits.inputs[twin : twin + 1].expand(5, -1, -1, -1)])
    labels = torch.cat([noisy.labels, noisy.labels[twin : twin + 1].expand(5)])
    found = consistency_scores(inputs, labels, nearest, sizes=[100, 200], repeats=12)
    assert float(found.scores.min()) >= 0
    assert float(found.scores.max()) <= 1
    wrong = torch.cat([noisy.noisy, torch.zeros(5, dtype=torch.bool)])
    assert float(found.scores[wrong].mean()) < 0.15
    assert float(found.scores[~wrong].mean()) > 0.7
    assert float(found.scores[-5:].min()) > 0.9
    groups = found.groups(10)
    assert sorted(torch.cat(groups).tolist()) == list(range(305))
    assert float(wrong[groups[0]].float().mean()) > 0.7
    assert not bool(wrong[groups[-1]].any())


def test_errors_are_those_of_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    right = torch.binomial(torch.full((1, 4000), 20.0), torch.tensor(0.7), generator=generator)
    found = ConsistencyScores(right.long(), torch.full((1, 4000), 20), (5,))
    assert float(found.scores.std()) == pytest.approx((0.7 * 0.3 / 20) ** 0.5, rel=0.05)
    assert float(found.stderr.mean()) == pytest.approx(float(found.scores.std()), rel=0.05)


def test_the_same_seed_gives_the_same_scores() -> None:
    digits = data.load("digits", "train", samples=60)
    runs = [
        consistency_scores(digits.inputs, digits.labels, nearest, [20], 3, seed=seed)
        for seed in (4, 4, 5)
    ]
    assert torch.equal(runs[0].right, runs[1].right)
    assert not torch.equal(runs[0].held_out, runs[2].held_out)


def test_a_sample_that_was_never_held_out_has_no_score() -> None:
    found = ConsistencyScores(torch.tensor([[1, 0]]), torch.tensor([[2, 0]]), (5,))
    assert float(found.scores[0]) == 0.5
    assert bool(found.scores[1].isnan())
    assert [group.tolist() for group in found.groups(1)] == [[0]]


@pytest.mark.parametrize("sizes", [[], [0], [30]])
def test_sizes_that_leave_nothing_out_are_refused(sizes: list[int]) -> None:
    x, y = torch.zeros(30, 1), torch.zeros(30, dtype=torch.long)
    with pytest.raises(InputError, match="sizes"):
        consistency_scores(x, y, nearest, sizes)
    with pytest.raises(InputError, match="repeats"):
        consistency_scores(x, y, nearest, [3], repeats=0)
    with pytest.raises(InputError, match="count: 3 groups of 0"):
        ConsistencyScores(torch.zeros(1, 2).long(), torch.zeros(1, 2).long(), (1,)).groups(3)


class TestCheckpoint:
    """An interrupted estimate goes on, and ends as if nothing had happened."""

    digits = data.load("digits", "train", samples=60)

    def scores(self, path: Path | None, stop: int = -1, **changed: object) -> ConsistencyScores:
        self.fits: list[int] = []

        def fit(inputs: Tensor, labels: Tensor, seed: int) -> Callable[[Tensor], Tensor]:
            self.fits.append(seed)
            if len(self.fits) == stop:
                raise KeyboardInterrupt
            return nearest(inputs, labels, seed)

        given = {"sizes": [20, 40], "repeats": 3, "seed": 2, **changed}
        x, y = self.digits.inputs, self.digits.labels
        return consistency_scores(x, y, fit, checkpoint=path, **given)  # type: ignore[arg-type]

    def test_it_goes_on_where_it_was_interrupted(self, tmp_path: Path) -> None:
        path = tmp_path / "scores.safetensors"
        with pytest.raises(KeyboardInterrupt):
            self.scores(path, stop=5)
        first = self.fits
        found = self.scores(path)
        assert first[:4] + self.fits == list(range(12, 18))
        whole = self.scores(None)
        assert torch.equal(found.right, whole.right)
        assert torch.equal(found.held_out, whole.held_out)
        again = self.scores(path)
        assert self.fits == []
        assert torch.equal(again.right, whole.right)

    @pytest.mark.parametrize(
        ("changed", "named"),
        [({"repeats": 4}, "repeats"), ({"seed": 3}, "seed"), ({"sizes": [20, 30]}, "sizes")],
    )
    def test_one_of_another_call_is_refused(
        self, tmp_path: Path, changed: dict[str, object], named: str
    ) -> None:
        path = tmp_path / "scores.safetensors"
        self.scores(path)
        kept = path.read_bytes()
        with pytest.raises(InputError, match=f"another {named};"):
            self.scores(path, **changed)
        assert path.read_bytes() == kept

    def test_one_of_other_data_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "scores.safetensors"
        self.scores(path)
        self.digits = data.load("digits", "test", samples=60)
        with pytest.raises(InputError, match="another data"):
            self.scores(path)

    def test_what_cannot_be_read_or_written(self, tmp_path: Path) -> None:
        broken = tmp_path / "broken.safetensors"
        broken.write_bytes(b"no tensors")
        with pytest.raises(InputError, match="cannot read .*delete it"):
            self.scores(broken)
        with pytest.raises(InputError, match="cannot write"):
            self.scores(tmp_path / "nowhere" / "scores.safetensors")
        assert self.fits == []
