"""scikit-learn's handwritten digits: 1,797 pictures of 8x8 pixels with 17 shades, 10 classes.

They are the test part of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998) and come without
a split of their own, so a test part is drawn from them by the `split_seed`, 797 examples unless the spec says
otherwise. The file is the same, byte for byte, in scikit-learn 1.5 to 1.9; scikit-learn itself is not imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dlpipe.datasets.sources import DataError, Source
from dlpipe.spec.datasets import Digits as DigitsSpec

if TYPE_CHECKING:
    from dlpipe.datasets.examples import Examples

FILE = "digits.csv.gz"
EXAMPLES = 1797
PIXELS = (8, 8)
SHADES = 16
"""The largest value: how many of the 4x4 binary pixels under each pixel are on."""
CLASSES = 10


class Digits:
    terms: ClassVar[str] = (
        "Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, CC BY 4.0"
    )
    default_test: ClassVar[int | None] = 797

    @staticmethod
    def sources(spec: DigitsSpec) -> tuple[Source, ...]:
        return (
            Source(
                name=FILE,
                sha256="09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
                size=57_523,
                package=("sklearn", f"datasets/data/{FILE}"),
            ),
        )

    @staticmethod
    def parse(folder: Path, spec: DigitsSpec) -> Examples:
        import numpy as np

        from dlpipe.datasets.examples import Examples

        path = folder / FILE
        try:
            table = np.loadtxt(path, delimiter=",", dtype=np.int64)  # [1797, 64 pixels + label]
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{path} is not a gzipped table of whole numbers: {error}") from error
        if table.shape != (EXAMPLES, PIXELS[0] * PIXELS[1] + 1):
            raise DataError(f"{path} has shape {list(table.shape)}, not [{EXAMPLES}, {PIXELS[0] * PIXELS[1] + 1}]")
        pixels, labels = table[:, :-1], table[:, -1]
        if pixels.min() < 0 or pixels.max() > SHADES or labels.min() < 0 or labels.max() >= CLASSES:
            raise DataError(f"{path} has pixels outside 0 to {SHADES} or labels outside 0 to {CLASSES - 1}")
        return Examples(
            inputs=pixels.astype(np.uint8).reshape(-1, *PIXELS),
            targets=labels,
            classes=tuple(str(digit) for digit in range(CLASSES)),
            scale=float(SHADES),
        )
