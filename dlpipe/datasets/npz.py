"""Reading .npz safely: no pickles, and every header is checked before anything is allocated."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from dlpipe.datasets.archives import only_if_intact
from dlpipe.datasets.sources import DataError

MOST_BYTES = 16 << 30
MOST_HEADER = 10_000
"""Bytes of an array's header: shape and type, never more than a few hundred."""


def read_npz(path: Path, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays `names`, and those of `optional` that are there. Raises DataError naming the file and the fault."""
    with (
        only_if_intact(lambda fault: DataError(f"{path} is not an intact .npz file: {fault}")),
        zipfile.ZipFile(path) as archive,
    ):
        there = {entry.removesuffix(".npy") for entry in archive.namelist() if entry.endswith(".npy")}
        missing = [name for name in names if name not in there]
        if missing:
            raise DataError(f"{path} has no array {missing[0]!r}; it has {', '.join(sorted(there)) or 'none'}")
        wanted = [*names, *(name for name in optional if name in there)]
        return {name: _read(path, archive, name) for name in wanted}


def _read(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    info = archive.getinfo(f"{name}.npy")
    where = f"{path}, array {name!r}"
    with archive.open(info) as file:
        try:
            shape, dtype = _header(file)
        except (ValueError, EOFError, SyntaxError) as error:
            raise DataError(f"{where}: not a NumPy array: {error}") from error
        header = file.tell()
    if dtype.hasobject:
        raise DataError(f"{where}: it holds pickled Python objects, which could run code; save it as plain numbers")
    values = math.prod(shape) * dtype.itemsize
    if values > MOST_BYTES:
        raise DataError(f"{where}: claims shape {list(shape)}, {values:,} bytes; at most {MOST_BYTES:,} are read")
    if info.file_size != header + values:
        raise DataError(
            f"{where}: {info.file_size - header:,} bytes of values; shape {list(shape)} {dtype} needs {values:,}"
        )
    with archive.open(info) as file:
        try:
            return npy.read_array(file, allow_pickle=False, max_header_size=MOST_HEADER)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:  # type: ignore[type-arg]
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format {version[0]}.{version[1]} is not 1.0 or 2.0")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file, max_header_size=MOST_HEADER)
    return shape, dtype
