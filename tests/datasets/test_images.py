"""The user's own pictures: what is accepted, and what each fault is called."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlpipe.datasets.images import Images
from dlpipe.datasets.sources import DataError, RequestError
from dlpipe.spec.datasets import Images as ImagesSpec

PICTURES = np.arange(6 * 2 * 2, dtype=np.uint8).reshape(6, 2, 2)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def write_npz(folder: Path, **arrays: Any) -> ImagesSpec:
    np.savez(folder / "images.npz", **{"images": PICTURES, "labels": LABELS, **arrays})
    return ImagesSpec(images=str(folder / "images.npz"), test=2)


def write_idx(path: Path, array: np.ndarray) -> str:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())
    return str(path)


def idx_spec(folder: Path) -> ImagesSpec:
    """As fetch leaves them; `sources` does not mind the names."""
    images, labels = write_idx(folder / "images.idx", PICTURES), write_idx(folder / "labels.idx", LABELS)
    return ImagesSpec(images=images, labels=labels, test=2)


@pytest.mark.parametrize("shape", [(6, 4), (6, 2, 2), (6, 2, 2, 1), (6, 1, 1, 4)])
def test_npz_of_every_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    got = Images.parse(tmp_path, write_npz(tmp_path, images=PICTURES.reshape(shape)))
    assert np.array_equal(got.inputs, PICTURES.reshape(shape))
    assert got.inputs.dtype == np.uint8
    assert got.targets.dtype == np.int64
    assert np.array_equal(got.targets, LABELS)
    assert (got.scale, got.classes, got.test_inputs) == (255.0, ("0", "1", "2"), None)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_pictures_keep_their_values(tmp_path: Path, dtype: type) -> None:
    pictures = (PICTURES / 32).astype(dtype)  # exact in all three
    got = Images.parse(tmp_path, write_npz(tmp_path, images=pictures))
    assert got.inputs.dtype == np.float32
    assert np.array_equal(got.inputs, PICTURES / 32)
    assert got.scale == 1.0


def test_npz_with_a_test_part(tmp_path: Path) -> None:
    write_npz(tmp_path, test_images=PICTURES[:3], test_labels=LABELS[:3])
    spec = ImagesSpec(images=str(tmp_path / "images.npz"))
    assert len(Images.sources(spec)) == 1
    got = Images.parse(tmp_path, spec)
    assert got.test_inputs is not None
    assert np.array_equal(got.test_inputs, PICTURES[:3])
    assert got.test_targets is not None
    assert np.array_equal(got.test_targets, LABELS[:3])


def test_idx_pair(tmp_path: Path) -> None:
    spec = idx_spec(tmp_path)
    assert [source.name for source in Images.sources(spec)] == ["images.idx", "labels.idx"]
    got = Images.parse(tmp_path, spec)
    assert np.array_equal(got.inputs, PICTURES)
    assert np.array_equal(got.targets, LABELS)


def test_a_file_counts_by_its_content(tmp_path: Path) -> None:
    spec = write_npz(tmp_path)
    (first,) = Images.sources(spec)
    moved = (tmp_path / "images.npz").rename(tmp_path / "elsewhere")
    (second,) = Images.sources(spec.model_copy(update={"images": str(moved)}))
    assert (first.name, first.sha256, first.size) == (second.name, second.sha256, second.size)
    moved.write_bytes(moved.read_bytes() + b" ")
    (third,) = Images.sources(spec.model_copy(update={"images": str(moved)}))
    assert third.sha256 != first.sha256


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"images": PICTURES[0, 0]},
            "'images': shape [2]; it must be [N, H, W], [N, H, W, C] or [N, D], none of them 0",
        ),
        ({"images": PICTURES[:0]}, "'images': shape [0, 2, 2]; it must be"),
        ({"images": PICTURES.reshape(6, 2, 1, 2, 1)}, "'images': shape [6, 2, 1, 2, 1]; it must be"),
        (
            {"images": PICTURES.astype(int)},
            "'images': type int64; it must be uint8 (0 to 255) or floating point (0 to 1)",
        ),
        ({"images": PICTURES * 1.0}, "'images': values from 0 to 23; floating-point pictures must lie in [0, 1]"),
        ({"images": PICTURES / 23 - 0.5}, "'images': values from -0.5 to 0.5; floating-point"),
        ({"images": np.full((6, 4), np.nan)}, "'images': 24 of 24 values are NaN or infinite"),
        ({"images": np.array([[0.0, np.inf]] * 6)}, "'images': 6 of 12 values are NaN or infinite"),
        ({"labels": LABELS[:5]}, "'labels': 5 labels for 6 examples"),
        ({"labels": LABELS[:, None]}, "'labels': shape [6, 1]; labels are one number an example, [N]"),
        ({"labels": LABELS * 1.0}, "'labels': type float64; labels are whole numbers from 0"),
        ({"labels": LABELS - 1}, "'labels': labels from -1 to 1; they must be from 0 to 99999"),
        ({"labels": LABELS * 10**9}, "'labels': labels from 0 to 2000000000; they must be from 0 to 99999"),
        ({"labels": LABELS + 1}, "'labels': labels go up to 3, but none is 0; number the classes from 0"),
        ({"labels": np.array([0, 1, 2, 0, 1, 4])}, "'labels': labels go up to 4, but none is 3; number the classes"),
        (
            {"test_images": PICTURES[:, :1], "test_labels": LABELS},
            "'test_images': [1, 2] uint8; the training pictures are [2, 2] uint8",
        ),
        (
            {"test_images": PICTURES / 255, "test_labels": LABELS},
            "'test_images': [2, 2] float32; the training pictures are [2, 2] uint8",
        ),
        (
            {"test_images": PICTURES, "test_labels": LABELS + 1},
            "'test_labels': labels from 1 to 3; they must be from 0 to 2",
        ),
    ],
)
def test_wrong_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    spec = write_npz(tmp_path, **arrays)
    with pytest.raises(DataError) as caught:
        Images.parse(tmp_path, spec)
    assert str(caught.value).startswith(f"{spec.images}, array {message}")


def test_wrong_idx_files(tmp_path: Path) -> None:
    spec = idx_spec(tmp_path)
    write_idx(tmp_path / "labels.idx", LABELS[:4])
    with pytest.raises(DataError) as caught:
        Images.parse(tmp_path, spec)
    assert str(caught.value) == f"{tmp_path / 'labels.idx'}: 4 labels for 6 examples"


def test_what_planning_finds(tmp_path: Path) -> None:
    """Faults that are known before anything is computed, with the field to change."""
    packed, idx = write_npz(tmp_path), idx_spec(tmp_path)
    np.savez(tmp_path / "x.npz", x=PICTURES)
    np.savez(tmp_path / "half.npz", images=PICTURES, labels=LABELS, test_images=PICTURES)
    (tmp_path / "broken.npz").write_bytes(b"PK")
    faults = {
        f"dataset.images: no file {tmp_path}/none; a relative path starts from the folder you run in, {Path.cwd()}": (
            packed.model_copy(update={"images": f"{tmp_path}/none"})
        ),
        "dataset.labels: no file none;": idx.model_copy(update={"labels": "none"}),
        "dataset.labels: {images} is an .npz file and has its labels inside": packed.model_copy(update={"labels": "x"}),
        "dataset.images: {images} is no .npz file; for an IDX file give its labels": idx.model_copy(
            update={"labels": None}
        ),
        "dataset.test: {images} has no test part; say how many examples to hold out, as `test: 1000`": idx.model_copy(
            update={"test": None}
        ),
        "dataset.images: {images} has no array 'images'; it has x": packed.model_copy(
            update={"images": str(tmp_path / "x.npz")}
        ),
        "dataset.images: {images} has one of `test_images` and `test_labels`": packed.model_copy(
            update={"images": str(tmp_path / "half.npz")}
        ),
        "dataset.images: {images} is not an intact .npz file": packed.model_copy(
            update={"images": str(tmp_path / "broken.npz")}
        ),
    }
    for message, spec in faults.items():
        with pytest.raises(RequestError) as caught:
            Images.sources(spec)
        assert str(caught.value).startswith(message.replace("{images}", spec.images))
    with pytest.raises(DataError, match="has no test part"):
        Images.sources(packed.model_copy(update={"test": None}))
