"""The user's own pictures: one .npz file, or a pair of IDX files.

The .npz has arrays `images` and `labels` and, if the data come split, `test_images` and `test_labels`. Pictures are
[N, H, W], [N, H, W, C] or plain features [N, D], uint8 or floating point in [0, 1]; labels are whole numbers from 0
without gaps. IDX files have no test part. The files count by their content: moved or renamed, nothing is done again.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dlpipe.datasets.archives import only_if_intact
from dlpipe.datasets.own_files import existing, own_source
from dlpipe.datasets.sources import DataError, RequestError, Source
from dlpipe.spec.datasets import Images as ImagesSpec

if TYPE_CHECKING:
    import numpy as np

    from dlpipe.datasets.examples import Examples

NPZ, IDX_IMAGES, IDX_LABELS = "images.npz", "images.idx", "labels.idx"
ZIP_MAGIC = b"PK"
MOST_CLASSES = 100_000
"""More than any labelled picture collection has; a larger label is a sign of something that is no label."""


class Images:
    terms: ClassVar[str] = "the user's own data"
    default_test: ClassVar[int | None] = None

    @staticmethod
    def sources(spec: ImagesSpec) -> tuple[Source, ...]:
        images = existing(spec.images, "images")
        with images.open("rb") as file:
            packed = file.read(2) == ZIP_MAGIC
        if packed:
            if spec.labels is not None:
                raise RequestError(
                    f"dataset.labels: {images} is an .npz file and has its labels inside; leave `labels` out"
                )
            _check_arrays(images, spec)
            return (own_source(NPZ, images),)
        if spec.labels is None:
            raise RequestError(
                f"dataset.images: {images} is no .npz file; for an IDX file give its labels too: `labels: PATH`"
            )
        if spec.test is None:
            raise RequestError(
                f"dataset.test: {images} has no test part; say how many examples to hold out, as `test: 1000`"
            )
        return (own_source(IDX_IMAGES, images), own_source(IDX_LABELS, existing(spec.labels, "labels")))

    @staticmethod
    def parse(folder: Path, spec: ImagesSpec) -> Examples:
        from dlpipe.datasets.idx import read_idx
        from dlpipe.datasets.npz import read_npz

        if not (folder / NPZ).exists():
            images, labels = read_idx(folder / IDX_IMAGES, axes=(2, 3, 4)), read_idx(folder / IDX_LABELS, axes=(1,))
            arrays = {"images": images, "labels": labels}
            return _examples(arrays, {"images": spec.images, "labels": str(spec.labels)})
        arrays = read_npz(folder / NPZ, ("images", "labels"), ("test_images", "test_labels"))
        return _examples(arrays, {name: f"{spec.images}, array {name!r}" for name in arrays})


def _examples(arrays: dict[str, np.ndarray], names: dict[str, str]) -> Examples:
    """The checked arrays; `names` says what to call each in an error."""
    import numpy as np

    from dlpipe.datasets.examples import Examples, check_inputs, check_targets

    inputs = check_inputs(names["images"], arrays["images"])
    targets = check_targets(names["labels"], arrays["labels"], len(inputs), MOST_CLASSES)
    classes = int(targets.max()) + 1
    counts = np.bincount(targets, minlength=classes)
    if not counts.all():
        gap = int(np.flatnonzero(counts == 0)[0])
        raise DataError(
            f"{names['labels']}: labels go up to {classes - 1}, but none is {gap}; number the classes from 0"
        )
    test_inputs = test_targets = None
    if "test_images" in arrays:
        test_inputs = check_inputs(names["test_images"], arrays["test_images"])
        if test_inputs.shape[1:] != inputs.shape[1:] or test_inputs.dtype != inputs.dtype:
            raise DataError(
                f"{names['test_images']}: {list(test_inputs.shape[1:])} {test_inputs.dtype}; "
                f"the training pictures are {list(inputs.shape[1:])} {inputs.dtype}"
            )
        test_targets = check_targets(names["test_labels"], arrays["test_labels"], len(test_inputs), classes)
    return Examples(
        inputs=inputs,
        targets=targets,
        classes=tuple(str(label) for label in range(classes)),
        scale=255.0 if inputs.dtype == np.uint8 else 1.0,
        test_inputs=test_inputs,
        test_targets=test_targets,
    )


def _check_arrays(path: Path, spec: ImagesSpec) -> None:
    """What the archive's table of contents tells: whether the arrays are there."""
    with (
        only_if_intact(lambda fault: RequestError(f"dataset.images: {path} is not an intact .npz file: {fault}")),
        zipfile.ZipFile(path) as archive,
    ):
        there = {name.removesuffix(".npy") for name in archive.namelist()}
    for name in ("images", "labels"):
        if name not in there:
            raise RequestError(
                f"dataset.images: {path} has no array {name!r}; it has {', '.join(sorted(there)) or 'none'}"
            )
    if ("test_images" in there) != ("test_labels" in there):
        raise RequestError(
            f"dataset.images: {path} has one of `test_images` and `test_labels`; it needs both or neither"
        )
    if "test_images" not in there and spec.test is None:
        raise RequestError(f"dataset.test: {path} has no test part; say how many examples to hold out, as `test: 1000`")
