"""Decoders of the file formats that data sets come in."""

from __future__ import annotations

import gzip
import io
import math
import struct
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from pullback.data.registry import Pixels

IDX_UNSIGNED_BYTE = 0x08
GZIP_MAGIC = b"\x1f\x8b"


def decode_idx(data: bytes) -> UInt8[Tensor, "..."]:
    """An array of bytes in the IDX format, gzipped or not.

    The format: two zero bytes, the type of the entries, the number of dimensions, each dimension
    as a big-endian 32-bit integer, then the entries in C order.

    Raises:
        ValueError: the header is not that of an array of bytes, or entries are missing.
    """
    if data.startswith(GZIP_MAGIC):
        data = gzip.decompress(data)
    zeros, kind, dimensions = struct.unpack_from(">HBB", data)
    if zeros != 0 or kind != IDX_UNSIGNED_BYTE:
        raise ValueError(f"not an IDX array of bytes: it starts with {data[:4].hex()}")
    shape = struct.unpack_from(f">{dimensions}I", data, offset=4)
    entries = data[4 + 4 * dimensions :]
    if len(entries) != math.prod(shape):
        raise ValueError(f"an IDX array of shape {shape} cannot have {len(entries)} entries")
    return torch.frombuffer(bytearray(entries), dtype=torch.uint8).reshape(shape)


def decode_idx_splits(files: Mapping[str, bytes], suffix: str = "") -> dict[str, Pixels]:
    """The four IDX files of a set that is laid out like MNIST: images and labels of two splits."""
    return {
        split: Pixels(
            decode_idx(files[f"{prefix}-images-idx3-ubyte{suffix}"]).unsqueeze(1),
            decode_idx(files[f"{prefix}-labels-idx1-ubyte{suffix}"]).long(),
        )
        for split, prefix in (("train", "train"), ("test", "t10k"))
    }


def decode_image_rows(
    data: bytes, channels: int, height: int, width: int
) -> UInt8[Tensor, "n channels height width"]:
    """A picture (PNG, say) whose every row is one image, its values in (height, width, channel).

    Raises:
        ValueError: a row of the picture does not hold such an image.
    """
    with Image.open(io.BytesIO(data)) as picture:
        rows = np.array(picture)
    if rows[0].size != channels * height * width:
        raise ValueError(
            f"a row of {rows[0].size} values is no image of {height}x{width} pixels "
            f"and {channels} channels"
        )
    images = torch.from_numpy(rows.reshape(-1, height, width, channels))
    return images.permute(0, 3, 1, 2).contiguous()
