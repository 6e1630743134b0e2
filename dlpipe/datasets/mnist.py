"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): four gzipped IDX files each, 60,000
training and 10,000 test pictures of 28x28 pixels with 256 shades, 10 classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dlpipe.datasets.sources import DataError, Source
from dlpipe.spec.datasets import FashionMnist as FashionMnistSpec
from dlpipe.spec.datasets import Mnist as MnistSpec

if TYPE_CHECKING:
    import numpy as np

    from dlpipe.datasets.examples import Examples

TRAINING = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", 60_000)
TEST = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", 10_000)
PIXELS = (28, 28)


def _sources(folders: tuple[str, ...], files: dict[str, tuple[int, str]]) -> tuple[Source, ...]:
    return tuple(
        Source(name=name, sha256=sha256, size=size, urls=tuple(f"{folder}/{name}" for folder in folders))
        for name, (size, sha256) in files.items()
    )


def _part(folder: Path, images: str, labels: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs uint8 [count, 28, 28] and targets int64 [count]."""
    from dlpipe.datasets.examples import check_targets
    from dlpipe.datasets.idx import read_idx

    inputs = read_idx(folder / images, axes=(3,))
    if inputs.shape != (count, *PIXELS) or inputs.dtype != "uint8":
        raise DataError(f"{folder / images} has {list(inputs.shape)} {inputs.dtype}, not {[count, *PIXELS]} uint8")
    targets = check_targets(str(folder / labels), read_idx(folder / labels, axes=(1,)), count, classes=10)
    return inputs, targets


def _parse(folder: Path, classes: tuple[str, ...]) -> Examples:
    from dlpipe.datasets.examples import Examples

    inputs, targets = _part(folder, *TRAINING)
    test_inputs, test_targets = _part(folder, *TEST)
    return Examples(inputs, targets, classes, 255.0, test_inputs, test_targets)


class Mnist:
    terms: ClassVar[str] = (
        "LeCun, Cortes and Burges, The MNIST database of handwritten digits, CC BY-SA 3.0 as usually stated"
    )
    default_test: ClassVar[int | None] = None

    @staticmethod
    def sources(spec: MnistSpec) -> tuple[Source, ...]:
        folders = (
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        )
        return _sources(
            folders,
            {
                TRAINING[0]: (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
                TRAINING[1]: (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
                TEST[0]: (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
                TEST[1]: (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
            },
        )

    @staticmethod
    def parse(folder: Path, spec: MnistSpec) -> Examples:
        return _parse(folder, tuple(str(digit) for digit in range(10)))


class FashionMnist:
    terms: ClassVar[str] = "Xiao, Rasul and Vollgraf, Fashion-MNIST, Zalando SE, MIT licence"
    default_test: ClassVar[int | None] = None
    classes: ClassVar[tuple[str, ...]] = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )

    @staticmethod
    def sources(spec: FashionMnistSpec) -> tuple[Source, ...]:
        return _sources(
            ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",),
            {
                TRAINING[0]: (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
                TRAINING[1]: (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
                TEST[0]: (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
                TEST[1]: (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
            },
        )

    @staticmethod
    def parse(folder: Path, spec: FashionMnistSpec) -> Examples:
        return _parse(folder, FashionMnist.classes)
