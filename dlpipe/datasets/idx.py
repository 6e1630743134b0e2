"""IDX, the format of the MNIST files: magic number, sizes, values, all big-endian; plain or gzipped.

Two zero bytes, a type code, the number of axes, then one 4-byte size an axis, then the values, last axis fastest.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

from dlpipe.datasets.sources import DataError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"
MOST_AXES = 4
MOST_BYTES = 16 << 30


def read_idx(path: Path, *, axes: tuple[int, ...]) -> np.ndarray:
    """The array in an IDX file, in the machine's byte order, with a number of axes out of `axes`.

    Raises DataError naming the file and the numbers when the header is wrong or the values are too few or too many.
    """
    try:
        with _open(path) as file:
            return _read(path, file, axes)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}") from error


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        packed = file.read(2) == GZIP_MAGIC
    return cast("IO[bytes]", gzip.open(path, "rb")) if packed else path.open("rb")


def _read(path: Path, file: IO[bytes], axes: tuple[int, ...]) -> np.ndarray:
    header = file.read(4)
    if len(header) < 4 or header[:2] != b"\0\0" or header[2] not in TYPES:
        raise DataError(
            f"{path} is not an IDX file: it starts with {header.hex(' ') or 'nothing'}, not 00 00 and a type code"
        )
    dtype, count = np.dtype(TYPES[header[2]]), header[3]
    if count not in axes or count > MOST_AXES:
        raise DataError(f"{path} has {count} axes (magic {header.hex(' ')}); expected {' or '.join(map(str, axes))}")
    sizes = file.read(4 * count)
    if len(sizes) < 4 * count:
        raise DataError(f"{path} ends inside its header: {len(sizes)} of {4 * count} bytes of sizes")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    expected = math.prod(shape) * dtype.itemsize
    if expected > MOST_BYTES:
        raise DataError(f"{path} claims shape {list(shape)}, {expected:,} bytes; at most {MOST_BYTES:,} are read")
    values = file.read(expected)
    if len(values) < expected:
        raise DataError(
            f"{path} has {len(values):,} bytes of values; its header says {list(shape)}, {expected:,} bytes"
        )
    if file.read(1):
        raise DataError(f"{path} goes on after the {expected:,} bytes of values that its header {list(shape)} says")
    return np.frombuffer(values, dtype).reshape(shape).astype(dtype.newbyteorder("="))
