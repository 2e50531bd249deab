"""Files: what cannot be read, and metrics of another model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import pullback as pb


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "fisher.safetensors"
    pb.fisher(model(), torch.randn(5, 3), representation="kfac").save(path)
    return path


def model(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))


def test_it_is_used_without_the_model_or_the_data(saved: Path) -> None:
    metric = pb.Metric.load(saved)
    v = metric.space.randn()
    assert float((metric @ metric.solve(v, 0.1) + 0.1 * metric.solve(v, 0.1) - v).norm()) < 1e-4


def test_the_right_model_is_accepted(saved: Path) -> None:
    assert pb.Metric.load(saved, model()).space == pb.Network(model()).space


def test_another_shape_is_named(saved: Path) -> None:
    with pytest.raises(pb.InputError, match=r"0.weight \(4, 3\) against \(5, 3\)"):
        pb.Metric.load(saved, model(5))


def test_a_missing_parameter_is_named(saved: Path) -> None:
    with pytest.raises(pb.InputError, match=r"model lacks: 2.weight"):
        pb.Metric.load(saved, model()[:1])


def test_a_new_parameter_is_named(saved: Path) -> None:
    larger = nn.Sequential(*model(), nn.Linear(2, 2))
    with pytest.raises(pb.InputError, match=r"file lacks: 3.weight"):
        pb.Metric.load(saved, larger)


def test_another_precision_is_named(saved: Path) -> None:
    with pytest.raises(pb.InputError, match="float64"):
        pb.Metric.load(saved, model().double())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pb.InputError, match="path"):
        pb.Metric.load(tmp_path / "nothing")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(pb.InputError, match="path"):
        pb.Metric.load(tmp_path / "text")


def test_tensors_that_are_no_metric_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "tensors")
    with pytest.raises(pb.InputError, match="path"):
        pb.Metric.load(tmp_path / "tensors")


def test_an_unwritable_path_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    metric = pb.fisher(model(), torch.randn(5, 3), representation="diagonal")
    with pytest.raises(pb.InputError, match="path"):
        metric.save(tmp_path / "no" / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced(saved: Path) -> None:
    pb.fisher(model(), torch.randn(5, 3), representation="diagonal").save(saved)
    assert pb.Metric.load(saved).representation == "diagonal"
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
