"""Input that a report cannot be made of: one clear error, and nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pullback import InputError
from pullback.report import Settings, make_report
from pullback.report.models import conv, make
from tests.report.conftest import Finished

CASES = {
    "unknown data set": ({"data": "digitz"}, "digitz.*no data set"),
    "data file is missing": ({"data": "{files}/none.py:make"}, "data: there is no file"),
    "data function is missing": (
        {"data": "{files}/data.py:make_it"},
        "no function 'make_it'.*make_",
    ),
    "data name is incomplete": ({"data": "{files}/data.py"}, "write FILE.py:function"),
    "data does not import": ({"data": "{files}/broken.py:make"}, "does not import.*no_such_module"),
    "data is nothing": ({"data": "{files}/data.py:make_nothing"}, "returned int"),
    "data is an iterator": ({"data": "{files}/data.py:make_iterator"}, "read only once"),
    "loader is empty": ({"data": "{files}/data.py:make_empty"}, "train loader is empty"),
    "labels are real": ({"data": "{files}/data.py:make_real_labels"}, "float32 of shape"),
    "labels are negative": (
        {"data": "{files}/data.py:make_negative_labels"},
        "classes count from 0",
    ),
    "labels are missing": ({"data": "{files}/data.py:make_unpaired"}, "has none"),
    "inputs are not finite": ({"data": "{files}/data.py:make_nan"}, "NaN or infinity"),
    "labels are out of range": (
        {"data": "{files}/data.py:make_labels_too_large", "model": "{files}/model.py:make_wide"},
        "out of range: label 102.*3 outputs",
    ),
    "inputs are no images": ({"data": "{files}/data.py:make_points"}, "'conv' takes images"),
    "unknown model": ({"model": "resnet"}, "'resnet' is unknown.*conv"),
    "model file is missing": ({"model": "none.py:make"}, "model: there is no file 'none.py'"),
    "model is nothing": ({"model": "{files}/model.py:make_nothing"}, "returned str"),
    "model fails": ({"model": "{files}/model.py:make_trouble"}, "RuntimeError: out of order"),
    "model takes other inputs": ({"model": "{files}/model.py:make_wide"}, "does not take inputs"),
    "checkpoint is missing": ({"checkpoint": Path("none.pt")}, "checkpoint: there is no file"),
}


@pytest.mark.parametrize("case", CASES)
def test_unusable_input_is_named_and_nothing_is_written(
    case: str, files: Path, tmp_path: Path
) -> None:
    choices, message = CASES[case]
    filled = {
        key: value.format(files=files) if isinstance(value, str) else value
        for key, value in choices.items()
    }
    with pytest.raises(InputError, match=message) as caught:
        make_report(Settings(**filled), tmp_path / "report")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "choice",
    [{"epochs": 0}, {"samples": 1}, {"seed": -1}, {"batch_size": 0}, {"learning_rate": 0.0}],
)
def test_impossible_settings_are_refused_by_name(choice: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(choice))):
        Settings(**choice)


def test_a_data_set_that_was_not_fetched_points_to_make_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULLBACK_DATA", str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="make data"):
        make_report(Settings(data="mnist"), tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_an_output_path_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for out in (tmp_path / "file", tmp_path / "file" / "report"):
        with pytest.raises(InputError, match="is a file, not a folder"):
            make_report(Settings(), out)


class TestCheckpoints:
    """Weights to start from."""

    @pytest.fixture
    def weights(self) -> dict[str, torch.Tensor]:
        torch.manual_seed(4)
        return dict(conv((1, 8, 8), 10).state_dict())

    def report(self, path: Path, out: Path) -> None:
        make_report(Settings(checkpoint=path, train=False, samples=10), out)

    @pytest.mark.parametrize("form", ["plain.pt", "state_dict.pt", "model.pt", "plain.safetensors"])
    def test_every_form_is_read(
        self, weights: dict[str, torch.Tensor], form: str, tmp_path: Path
    ) -> None:
        from pullback.report.models import load_checkpoint

        path = tmp_path / form
        if path.suffix == ".safetensors":
            save_file(weights, path)
        else:
            torch.save(weights if path.stem == "plain" else {path.stem: weights}, path)
        model = conv((1, 8, 8), 10)
        load_checkpoint(model, path)
        for name, value in model.state_dict().items():
            assert torch.equal(value, weights[name])

    def test_names_that_do_not_match_are_named(
        self, weights: dict[str, torch.Tensor], tmp_path: Path
    ) -> None:
        del weights["conv2.bias"]
        torch.save(weights, path := tmp_path / "less.pt")
        with pytest.raises(InputError, match=r"no values for conv2\.bias"):
            self.report(path, tmp_path / "report")
        torch.save({**weights, "conv2.bias": torch.zeros(10), "extra": torch.zeros(1)}, path)
        with pytest.raises(InputError, match="does not have: extra"):
            self.report(path, tmp_path / "report")
        torch.save({**weights, "conv2.bias": torch.zeros(3)}, path)
        with pytest.raises(InputError, match=r"conv2\.bias \(3,\) instead of \(10,\)"):
            self.report(path, tmp_path / "report")
        assert [one.name for one in tmp_path.iterdir()] == ["less.pt"]

    @pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
    def test_a_file_of_something_else_is_refused(self, name: str, tmp_path: Path) -> None:
        (path := tmp_path / name).write_text("no weights")
        with pytest.raises(InputError, match="cannot be read as weights"):
            self.report(path, tmp_path / "report")

    def test_a_whole_pickled_model_is_not_loaded(self, tmp_path: Path) -> None:
        torch.save(nn.Linear(2, 2), path := tmp_path / "model.pt")
        with pytest.raises(InputError, match="cannot be read as weights"):
            self.report(path, tmp_path / "report")


def test_a_pair_of_loaders_gives_held_out_samples(files: Path, tmp_path: Path) -> None:
    from pullback.report.samples import read, source

    found = read(source(f"{files}/data.py:make_pair", 32), keep=5, seed=0, tick=lambda: None)
    assert found.sizes == {"train": 48, "test": 20}
    assert found.held_out == "test"
    _, labels = found.balanced(found.held_out, 6, range(3))
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("shape", "classes", "size"),
    [((1, 8, 8), 10, 2454), ((1, 28, 28), 10, 7178), ((3, 32, 32), 10, 26154)],
)
def test_the_default_network_fits_the_data(shape: tuple[int, ...], classes: int, size: int) -> None:
    model = make("conv", shape, classes)
    assert model(torch.zeros(2, *shape)).shape == (2, classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == size


def test_finished_reports_name_the_users_function(points: Finished) -> None:
    assert "Sequential from" in points.html
    assert "model.py:make_wide" in points.html
