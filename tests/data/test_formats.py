from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch

from pullback.data import cifar10
from pullback.data.formats import decode_idx, decode_idx_splits, decode_image_rows
from tests.data import archives

GREY = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
COLOUR = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_idx_gives_the_array_back(pack):
    assert torch.equal(decode_idx(pack(archives.idx(GREY))), torch.from_numpy(GREY))


def test_idx_of_one_dimension_gives_labels():
    assert decode_idx(archives.idx(np.array([7, 0, 9], np.uint8))).tolist() == [7, 0, 9]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x80\x3f", "not an IDX array of bytes"),
        (archives.idx(GREY)[:-1], "cannot have 59 entries"),
        (archives.idx(GREY) + b"\x00", "cannot have 61 entries"),
    ],
    ids=["floats", "too short", "too long"],
)
def test_idx_refuses(data, complaint):
    with pytest.raises(ValueError, match=complaint):
        decode_idx(data)


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzipped"])
def test_idx_files_become_two_splits_with_a_channel(zipped):
    splits = {"train": (GREY, np.array([2, 0, 1], np.uint8)), "test": (GREY[:1], np.uint8([3]))}
    files = archives.mnist_files(splits, zipped)
    decoded = decode_idx_splits(files, suffix=".gz" if zipped else "")
    assert decoded["train"].values.shape == (3, 1, 4, 5)
    assert torch.equal(decoded["train"].values[:, 0], torch.from_numpy(GREY))
    assert decoded["train"].labels.tolist() == [2, 0, 1]
    assert torch.equal(decoded["test"].values[:, 0], torch.from_numpy(GREY[:1]))
    assert decoded["test"].labels.tolist() == [3]
    assert decoded["test"].labels.dtype == torch.int64


def test_picture_rows_become_images_with_channels_first():
    picture = archives.png_of_rows(COLOUR)
    images = decode_image_rows(picture, channels=3, height=4, width=5)
    assert images.is_contiguous()
    assert torch.equal(images, torch.from_numpy(COLOUR).permute(0, 3, 1, 2))


def test_picture_of_another_size_is_refused():
    with pytest.raises(ValueError, match="a row of 60 values is no image of 5x5 pixels"):
        decode_image_rows(archives.png_of_rows(COLOUR), channels=3, height=5, width=5)


def test_cifar10_batches_are_joined_in_their_order():
    train = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    test = 255 - train[:2]
    labels = np.arange(10)
    files = archives.cifar_files({"train": (train, labels), "test": (test, labels[:2])})
    assert json.loads(files["train_lables.json"]) == labels.tolist()
    decoded = cifar10.decode(files)
    assert torch.equal(decoded["train"].values, torch.from_numpy(train).permute(0, 3, 1, 2))
    assert torch.equal(decoded["test"].values, torch.from_numpy(test).permute(0, 3, 1, 2))
    assert decoded["train"].labels.tolist() == labels.tolist()
    assert decoded["test"].labels.tolist() == [0, 1]
