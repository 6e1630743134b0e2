"""IDX and .npz: what is read is what was written, and every fault is named with its file and numbers."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dlpipe.datasets import idx, npz
from dlpipe.datasets.idx import read_idx
from dlpipe.datasets.npz import read_npz
from dlpipe.datasets.sources import DataError

CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx_bytes(array: np.ndarray, code: int | None = None) -> bytes:
    name = array.dtype.str[1:]
    header = struct.pack(">BBBB", 0, 0, CODES[name] if code is None else code, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(f">{name}").tobytes()


def npy_bytes(array: np.ndarray, pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=pickle)
    return file.getvalue()


def zip_with(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", CODES)
def test_idx_round_trip(tmp_path: Path, dtype: str, packed: bool) -> None:
    array = np.array([[[1, 2, 3], [4, 5, 6]]] * 5, dtype)
    content = idx_bytes(array)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if packed else content)
    got = read_idx(path, axes=(3,))
    assert got.dtype == np.dtype(dtype)
    assert np.array_equal(got, array)
    got[0] = 0  # it is the caller's own


LABELS = idx_bytes(np.arange(10, dtype=np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "{path} is not an IDX file: it starts with nothing, not 00 00 and a type code"),
        (b"\x89PNG....", "{path} is not an IDX file: it starts with 89 50 4e 47, not 00 00 and a type code"),
        (LABELS.replace(b"\0\0\x08", b"\0\0\x07"), "{path} is not an IDX file: it starts with 00 00 07 01, not"),
        (b"\0\0\x08\x03" + LABELS[4:], "{path} has 3 axes (magic 00 00 08 03); expected 1"),
        (LABELS[:6], "{path} ends inside its header: 2 of 4 bytes of sizes"),
        (LABELS[:-3], "{path} has 7 bytes of values; its header says [10], 10 bytes"),
        (LABELS + b"x", "{path} goes on after the 10 bytes of values that its header [10] says"),
        (b"\0\0\x0e\x01\xff\xff\xff\xff", "{path} claims shape [4294967295], 34,359,738,360 bytes; at most"),
        (gzip.compress(LABELS, mtime=0)[:-9], "{path} is a damaged gzip file: "),
        (
            gzip.compress(LABELS, mtime=0)[:12] + b"\xff\xff\xff\xff" + gzip.compress(LABELS, mtime=0)[16:],
            "{path} is a damaged gzip file: ",
        ),
    ],
)
def test_idx_faults(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path, axes=(1,))
    assert str(caught.value).startswith(message.format(path=path))


def test_a_gzip_bomb_is_read_no_further_than_its_header_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(LABELS + bytes(50 << 20)))
    with pytest.raises(DataError, match="goes on after the 10 bytes"):
        read_idx(path, axes=(1,))
    monkeypatch.setattr(idx, "MOST_BYTES", 9)
    with pytest.raises(DataError, match=r"10 bytes; at most 9 are read"):
        read_idx(path, axes=(1,))


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.arange(6, dtype=">i4"), np.arange(6).reshape(2, 3).T]
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_round_trip(tmp_path: Path, array: np.ndarray, save: object) -> None:
    save(tmp_path / "file.npz", images=array, other=np.zeros(1))  # type: ignore[operator]
    got = read_npz(tmp_path / "file.npz", ["images"], ["test_images"])
    assert list(got) == ["images"]
    assert np.array_equal(got["images"], array)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "file.npz", x=np.zeros(1), y=np.zeros(1))
    with pytest.raises(DataError, match=r"file.npz has no array 'images'; it has x, y"):
        read_npz(tmp_path / "file.npz", ["images"])


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/nowhere/touched"),))  # would raise if it ran


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "file.npz", images=npy_bytes(np.array([Trap()], dtype=object), pickle=True))
    with pytest.raises(DataError, match="array 'images': it holds pickled Python objects"):
        read_npz(path, ["images"])


def claiming(shape: str, values: bytes = b"") -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + values


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an array", "not a NumPy array: "),
        (b"", "not a NumPy array: "),
        (b"\x93NUMPY\x03\x00" + bytes(100), "not a NumPy array: format 3.0 is not 1.0 or 2.0"),
        (
            claiming("(99999999999,)"),
            "claims shape [99999999999], 99,999,999,999 bytes; at most 17,179,869,184 are read",
        ),
        (claiming("(10, 10)", bytes(99)), "99 bytes of values; shape [10, 10] uint8 needs 100"),
        (claiming("(10, 10)", bytes(101)), "101 bytes of values; shape [10, 10] uint8 needs 100"),
        (claiming("(-1,)", bytes(4)), "-1"),
        (claiming("__import__('os').abort()"), "not a NumPy array: "),
        (claiming("(1,)" + " " * 20_000, b"1"), "not a NumPy array: "),
    ],
)
def test_npz_faults(tmp_path: Path, content: bytes, message: str) -> None:
    path = zip_with(tmp_path / "file.npz", images=content)
    with pytest.raises(DataError) as caught:
        read_npz(path, ["images"])
    assert str(caught.value).startswith(f"{path}, array 'images': ")
    assert message in str(caught.value)


def test_what_is_no_zip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    path.write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"file.npz is not an intact .npz file"):
        read_npz(path, ["images"])


def test_a_flipped_byte_is_found_by_the_archives_checksum(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "file.npz", images=npy_bytes(np.zeros(1000, np.uint8)))
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"file.npz is not an intact .npz file: Bad CRC-32"):
        read_npz(path, ["images"])


def test_the_cap_holds_for_npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "file.npz", images=np.zeros(10, np.uint8))
    monkeypatch.setattr(npz, "MOST_BYTES", 9)
    with pytest.raises(DataError, match=r"claims shape \[10\], 10 bytes; at most 9 are read"):
        read_npz(tmp_path / "file.npz", ["images"])
