"""Tiny packages in the formats of the real ones, and clients that deliver them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(">HBB", 0, 8, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist_files(splits: Mapping[str, tuple[np.ndarray, np.ndarray]], zipped: bool) -> dict:
    suffix, pack = (".gz", gzip.compress) if zipped else ("", bytes)
    files = {}
    for prefix, (images, labels) in zip(("train", "t10k"), splits.values(), strict=True):
        files[f"{prefix}-images-idx3-ubyte{suffix}"] = pack(idx(images))
        files[f"{prefix}-labels-idx1-ubyte{suffix}"] = pack(idx(labels))
    return files


def png_of_rows(images: np.ndarray) -> bytes:
    """One image (height, width, channel) a row, as in the CIFAR-10 package."""
    buffer = io.BytesIO()
    rows = images.reshape(len(images), -1, images.shape[-1])
    Image.fromarray(rows).save(buffer, "PNG")
    return buffer.getvalue()


def cifar_files(splits: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, bytes]:
    (train, train_labels), (test, test_labels) = splits.values()
    batches = enumerate(np.array_split(train, 5), start=1)
    files = {f"data_batch_{batch}.png": png_of_rows(images) for batch, images in batches}
    files["test_batch.png"] = png_of_rows(test)
    files["train_lables.json"] = json.dumps(train_labels.tolist()).encode()
    files["test_lables.json"] = json.dumps(test_labels.tolist()).encode()
    return files


def write_tar(path: Path, root: str, files: Mapping[str, bytes], mode: str) -> str:
    """Write the files below `root` into a tar file; its sha256."""
    with tarfile.open(path, mode) as tar:
        for name, contents in {f"{root}/{name}": files[name] for name in files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            tar.addfile(member, io.BytesIO(contents))
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Clients:
    """A folder for PATH whose programs stand in for the registries' clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.add("cat", 'exec /bin/cat "$@"')

    def add(self, name: str, script: str) -> None:
        """A program that runs these lines of shell and notes that it ran."""
        program = self.folder / name
        program.write_text(f'#!/bin/sh\necho "$@" >>"{self.folder}/{name}.calls"\n{script}\n')
        program.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        notes = self.folder / f"{name}.calls"
        return notes.read_text().splitlines() if notes.exists() else []
