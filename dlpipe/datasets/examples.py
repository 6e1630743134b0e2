"""Examples as arrays, as a parser hands them to `prepare`, with the checks that hold for every data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlpipe.datasets.sources import DataError


@dataclass(frozen=True)
class Examples:
    """A source's training part and, if it has one, its test part.

    `inputs` [N, *shape] are uint8, to be divided by `scale` to lie in [0, 1], or float32 with scale 1: in [0, 1] for
    pictures, any real numbers for data that are generated. `targets` [N] are int64 positions in `classes`, or float32
    with no classes, for regression.
    """

    inputs: np.ndarray
    targets: np.ndarray
    classes: tuple[str, ...]
    scale: float
    test_inputs: np.ndarray | None = None
    test_targets: np.ndarray | None = None


def check_inputs(what: str, inputs: np.ndarray) -> np.ndarray:
    """Pictures as uint8 or float32. Raises DataError for another type, an empty axis, or values outside [0, 1].

    Pictures are [N, H, W], [N, H, W, C] or, as plain features, [N, D]; `what` names them in errors.
    """
    if inputs.ndim not in (2, 3, 4) or 0 in inputs.shape:
        raise DataError(
            f"{what}: shape {list(inputs.shape)}; it must be [N, H, W], [N, H, W, C] or [N, D], none of them 0"
        )
    if inputs.dtype == np.uint8:
        return inputs
    if inputs.dtype.kind != "f":
        raise DataError(f"{what}: type {inputs.dtype}; it must be uint8 (0 to 255) or floating point (0 to 1)")
    if not np.isfinite(inputs).all():
        raise DataError(
            f"{what}: {np.count_nonzero(~np.isfinite(inputs)):,} of {inputs.size:,} values are NaN or infinite"
        )
    low, high = float(inputs.min()), float(inputs.max())
    if low < 0.0 or high > 1.0:
        raise DataError(
            f"{what}: values from {low:g} to {high:g}; floating-point pictures must lie in [0, 1], others be uint8"
        )
    return inputs.astype(np.float32)


def check_targets(what: str, targets: np.ndarray, examples: int, classes: int | None = None) -> np.ndarray:
    """The labels as int64 [N]. Raises DataError when they are not `examples` many or not in 0 … `classes` - 1."""
    if targets.ndim != 1:
        raise DataError(f"{what}: shape {list(targets.shape)}; labels are one number an example, [N]")
    if targets.dtype.kind not in "iu":
        raise DataError(f"{what}: type {targets.dtype}; labels are whole numbers from 0")
    if len(targets) != examples:
        raise DataError(f"{what}: {len(targets):,} labels for {examples:,} examples")
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or (classes is not None and high >= classes):
        allowed = "0 on" if classes is None else f"0 to {classes - 1}"
        raise DataError(f"{what}: labels from {low} to {high}; they must be from {allowed}")
    return targets.astype(np.int64)
