"""What cannot be done is refused with the argument, the reason and the remedy; nothing is written.

Further refusals stand beside what they concern: `test_fisher.TestBadInput`, `test_storage`, and the
conformance suite for each representation.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

import pullback as pb


class TestTenMillionParameters:
    """A matrix of 10^14 numbers, 400 TB."""

    model = nn.Linear(5000, 2000)
    x = torch.ones(1, 5000)

    def metric(self) -> pb.Metric:
        return pb.fisher(self.model, self.x, representation="implicit")

    def test_a_dense_matrix_is_refused_before_it_is_begun(self) -> None:
        with pytest.raises(pb.InputError, match=r"representation.*GB.*'implicit'"):
            pb.fisher(self.model, self.x, representation="dense")

    @pytest.mark.parametrize("operation", ["eigenvalues", "to_dense"])
    def test_what_needs_the_whole_matrix_says_what_fits(self, operation: str) -> None:
        with pytest.raises(pb.InputError, match=r"10,002,000.*GB.*use 'kfac'"):
            getattr(self.metric(), operation)()

    def test_too_many_eigenvectors_are_refused(self) -> None:
        with pytest.raises(pb.InputError, match=r"eigh: 1,000,000 eigenvectors.*GB.*fewer"):
            self.metric().eigh(1_000_000)


def small(width: int = 3) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(width, 2), torch.randn(4, width)


@pytest.mark.parametrize("one", ["dense", "diagonal", "kfac", "implicit"])
@pytest.mark.parametrize("other", ["dense", "diagonal", "kfac", "implicit"])
def test_metrics_of_different_spaces_do_not_add(one: str, other: str) -> None:
    first, second = (
        pb.fisher(*small(3), representation=one),
        pb.fisher(*small(4), "categorical", other),
    )
    for refused in (lambda: first + second, lambda: first - second, lambda: first @ second):
        with pytest.raises(pb.InputError, match=r"metrics.*parameters.*one space"):
            refused()


class Unsampled(Normal):
    """A distribution that has a density, but no `sample`."""

    def sample(self, sample_shape: object = None) -> Tensor:
        raise NotImplementedError

    def icdf(self, value: Tensor) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("representation", ["ekfac", "implicit"])
def test_a_distribution_without_sample_is_refused_and_nothing_is_written(
    representation: str, tmp_path: Path
) -> None:
    def likelihood(out: Tensor) -> Distribution:
        return Unsampled(out[:, 0], out[:, 1].exp())

    model, x = small()
    folder = None if representation == "implicit" else tmp_path / "sums"
    with pytest.raises(pb.InputError, match=r"estimator.*Unsampled.*sample.*'exact'"):
        pb.fisher(model, x, likelihood, representation, "sampled", checkpoint=folder).trace()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_of_another_model_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "fisher.safetensors"
    metric = pb.fisher(*small(), representation="kfac")
    metric.save(path)
    before = path.read_bytes()
    with pytest.raises(pb.InputError, match=r"weight \(2, 3\) against \(2, 4\)"):
        pb.Metric.load(path, small(4)[0])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
