from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError
from sklearn.datasets import load_digits

from pullback.data import ImageSet, Pixels, load, register, registered, registry
from pullback.data.fetched import moments
from pullback.data.registry import find
from pullback.errors import InputError

SPLITS = ("train", "test")


class Ramp(ImageSet):
    """Four images of one pixel and two channels."""

    def read(self, split: str) -> Pixels:
        values = torch.tensor([[0, 10], [2, 10], [4, 10], [6, 0]], dtype=torch.uint8)
        return Pixels(values.view(4, 2, 1, 1), torch.arange(4))


@pytest.fixture
def ramp(monkeypatch):
    monkeypatch.setattr(registry, "_SETS", dict(registry._SETS))
    register(Ramp("ramp", tuple("abcd"), levels=10, mean=(0.3, 0.75), std=(0.5, 0.25)))


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    monkeypatch.setenv("PULLBACK_DATA", str(tmp_path))
    return tmp_path


def test_digits_have_the_stated_sizes_types_and_names():
    train, test = (load("digits", split) for split in SPLITS)
    assert train.inputs.shape == (1437, 1, 8, 8)
    assert test.inputs.shape == (360, 1, 8, 8)
    assert len(train) + len(test) == 1797
    assert train.inputs.dtype == torch.float32
    assert train.labels.dtype == torch.int64
    assert train.classes == tuple("0123456789")
    assert (test.name, test.split) == ("digits", "test")


def test_digits_splits_are_together_the_original_set():
    splits = [load("digits", split, normalisation="unit") for split in SPLITS]
    ours = torch.cat([split.inputs.flatten(1) * 16 for split in splits])
    labels = torch.cat([split.labels for split in splits])
    original = load_digits()
    rows = sorted(map(tuple, torch.column_stack([ours.double(), labels]).tolist()))
    expected = zip(original.data.tolist(), original.target.tolist(), strict=True)
    assert rows == sorted((*image, label) for image, label in expected)


def test_digits_split_is_stratified():
    everything = torch.bincount(torch.from_numpy(load_digits().target)).double()
    share = torch.bincount(load("digits", "test").labels) / everything
    assert (share - 360 / 1797).abs().max() < 0.01


def test_digits_split_never_changes():
    assert load("digits", "train").labels[:8].tolist() == [3, 9, 1, 3, 1, 9, 4, 4]
    assert load("digits", "test").labels[:8].tolist() == [7, 6, 3, 7, 7, 3, 2, 8]


def test_digits_constants_are_those_of_the_training_images():
    digits = find("digits")
    mean, std = moments(digits.read("train").values, digits.levels)
    assert mean.tolist() == pytest.approx(digits.mean, abs=6e-5)
    assert std.tolist() == pytest.approx(digits.std, abs=6e-5)


def test_standard_normalisation_centres_and_scales_the_training_images():
    inputs = load("digits").inputs
    assert inputs.mean().item() == pytest.approx(0, abs=1e-3)
    assert inputs.std(correction=0).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("normalisation", "expected"),
    [
        ("unit", [[0, 1], [0.2, 1], [0.4, 1], [0.6, 0]]),
        ("standard", [[-0.6, 1], [-0.2, 1], [0.2, 1], [0.6, -3]]),
    ],
)
def test_normalisation_works_channel_by_channel(ramp, normalisation, expected):
    inputs = load("ramp", normalisation=normalisation).inputs
    torch.testing.assert_close(inputs.flatten(1), torch.tensor(expected))


def test_samples_are_the_first_of_the_split(ramp):
    some = load("ramp", samples=2)
    assert torch.equal(some.inputs, load("ramp").inputs[:2])
    assert some.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"name": "imagenet"}, r"name='imagenet' is no data set; choose one of .*digits.*ramp"),
        ({"split": "dev"}, "split='dev' is unknown; choose 'train' or 'test'"),
        ({"normalisation": "l2"}, "normalisation='l2' is unknown; choose 'standard' or 'unit'"),
        ({"samples": 0}, "samples=0 is out of range; this split has 4 images"),
        ({"samples": 5}, "samples=5 is out of range; this split has 4 images"),
    ],
)
def test_load_refuses(ramp, arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        load(**{"name": "ramp"} | arguments)


def test_annotated_shapes_are_checked_in_this_test_run():
    values = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(TypeCheckError):
        Pixels(values, torch.zeros(2, dtype=torch.int64))


def test_a_name_is_registered_once(ramp):
    with pytest.raises(InputError, match="'ramp' is registered already"):
        register(find("ramp"))


def test_registered_sets_are_listed(ramp):
    names = [image_set.name for image_set in registered()]
    assert {"digits", "mnist", "fashion-mnist", "cifar10", "ramp"} == set(names)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_a_set_that_was_not_fetched_names_the_command_and_the_folder(no_data, name):
    with pytest.raises(InputError) as caught:
        load(name)
    message = str(caught.value)
    for part in (name, "`make data`", str(no_data), "PULLBACK_DATA"):
        assert part in message


def test_a_damaged_file_is_named(no_data):
    damaged = no_data / "mnist.safetensors"
    damaged.write_bytes(b"not tensors")
    with pytest.raises(InputError, match="damaged.*`make data` fetches it again") as caught:
        load("mnist")
    assert str(damaged) in str(caught.value)
