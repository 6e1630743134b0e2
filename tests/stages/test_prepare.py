"""Prepare: the stored examples against their sources, byte for byte where it can be."""

from __future__ import annotations

import gzip
import math
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from dlpipe.artifacts import Artifact, ArtifactError, Stage, Store
from dlpipe.datasets.mnist import FashionMnist, Mnist
from dlpipe.datasets.sources import DataError
from dlpipe.spec.datasets import DatasetSpec, Digits, Images
from dlpipe.spec.datasets import FashionMnist as FashionMnistSpec
from dlpipe.spec.datasets import Mnist as MnistSpec
from dlpipe.stages import fetch, prepare


def make(spec: DatasetSpec, store: Store, *, mirror: Path | None = None) -> Artifact:
    kind = spec.model_dump()["kind"]
    hints = {"dataset": spec.model_dump(mode="json")}
    files = {source.name: source.sha256 for source in spec.load().sources(spec)}
    raw = Stage("fetch", kind, {"dataset": kind, "files": files}, hints=hints)
    fetch.run(raw, store, mirrors=[str(mirror)] if mirror else [], offline=True)
    local = {"labelled", "images", "labels"}
    stage = Stage(
        "prepare", kind, {"dataset": spec.model_dump(mode="json", exclude=local)}, {"raw": raw.id}, hints=hints
    )
    return prepare.run(stage, store)


def arrays(artifact: Artifact) -> dict[str, np.ndarray]:
    return load_file(artifact.path("data.safetensors"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", tmp_path / "results")


def rows(inputs: np.ndarray, targets: np.ndarray) -> list[tuple[int, ...]]:
    return sorted(
        (*row, label) for row, label in zip(inputs.reshape(len(inputs), -1).tolist(), targets.tolist(), strict=True)
    )


def test_digits_are_scikit_learns_each_once(store: Store) -> None:
    artifact = make(Digits(valid=200), store)
    got = arrays(artifact)
    names = ("train", "valid", "test")
    inputs = np.concatenate([got[f"{name}.inputs"] for name in names])
    targets = np.concatenate([got[f"{name}.targets"] for name in names])
    oracle = load_digits()
    assert rows(inputs, targets) == rows(oracle.images.astype(int), oracle.target)
    assert {key: (value.dtype.name, value.shape) for key, value in got.items()} == {
        "train.inputs": ("uint8", (800, 8, 8)),
        "train.targets": ("int64", (800,)),
        "valid.inputs": ("uint8", (200, 8, 8)),
        "valid.targets": ("int64", (200,)),
        "test.inputs": ("uint8", (797, 8, 8)),
        "test.targets": ("int64", (797,)),
    }
    assert artifact.extra == {
        "input_shape": [8, 8],
        "classes": list("0123456789"),
        "scale": 16.0,
        "sizes": {"train": 800, "valid": 200, "test": 797},
        "terms": artifact.extra["terms"],
    }
    assert "Alpaydin" in artifact.extra["terms"]


@pytest.mark.parametrize(
    ("spec", "sha256"),
    [
        (Digits(), "5e6490c5bfc97e605b5958eee9e6437ab228d3b4124c84acad3aea8456bc9489"),
        (
            Digits(train=500, valid=200, test=300, split_seed=7, scaling="standard"),
            "f3b1b3520d4c2e6fe1208fcd580b0edfb452620271cce7396f5210204455f77f",
        ),
    ],
)
def test_golden_bytes(store: Store, spec: Digits, sha256: str) -> None:
    """Every published number stands on these; if they change, raise `prepare`'s version."""
    assert make(spec, store).manifest["files"]["data.safetensors"]["sha256"] == sha256


@pytest.mark.parametrize(
    ("variation", "sha256"),
    [
        ("rotated", "e27f08b8e3626b4e3b059ff608f86d855c1ea4d042f7c155fbca0fc43a6d18ca"),
        ("random_background", "cc67f731893656f02fd2467af21bab2acea1b8b152f4c0c29e08d214add255e5"),
    ],
)
def test_golden_bytes_of_variations(store: Store, variation: str, sha256: str) -> None:
    spec = Digits.model_validate({"train": 500, "valid": 200, "variation": variation})
    assert make(spec, store).manifest["files"]["data.safetensors"]["sha256"] == sha256


def test_a_variation_changes_the_pictures_and_nothing_else(store: Store) -> None:
    plain, rotated = arrays(make(Digits(), store)), arrays(make(Digits(variation="rotated"), store))
    assert {key for key in plain if not np.array_equal(plain[key], rotated[key])} == {"train.inputs", "test.inputs"}
    few = arrays(make(Digits(train=100, valid=50, variation="rotated"), store))
    assert np.array_equal(few["test.inputs"], rotated["test.inputs"])
    assert np.array_equal(few["train.inputs"], rotated["train.inputs"][:100])


def test_what_is_not_declared_is_in_no_document() -> None:
    """So that the digests of data that were declared before there were variations stay as they are."""
    assert not {"variation", "pooled"} & Digits().model_dump(mode="json").keys()
    assert Digits(variation="rotated", train=100).slug == "digits-rotated-100"
    assert Digits(train=100).slug == "digits-100"


def test_pooled_parts_are_split_as_one(store: Store, tmp_path: Path) -> None:
    pictures = np.arange(50, dtype=np.uint8).repeat(4).reshape(50, 2, 2)
    labels = np.arange(50) % 2
    parts = {"images": pictures[:30], "labels": labels[:30], "test_images": pictures[30:], "test_labels": labels[30:]}
    np.savez(tmp_path / "mine.npz", **parts)
    path = str(tmp_path / "mine.npz")
    got = arrays(make(Images(images=path, train=8, valid=2, test=40, pooled=True), store))
    together = np.concatenate([got[f"{name}.inputs"] for name in ("train", "valid", "test")])
    assert sorted(together[:, 0, 0]) == list(range(50))
    assert [len(got[f"{name}.targets"]) for name in ("train", "valid", "test")] == [8, 2, 40]
    varied = make(Images(images=path, train=8, valid=2, test=40, pooled=True, variation="random_background"), store)
    assert np.array_equal(arrays(varied)["train.targets"], got["train.targets"])
    with pytest.raises(DataError, match="pooled: this data set has no test part of its own"):
        make(Digits(test=100, pooled=True), store)


def test_the_first_hundred_digits_are_ten_of_each(store: Store) -> None:
    got = arrays(make(Digits(), store))
    assert np.array_equal(np.bincount(got["train.targets"][:100]), [10] * 10)


def test_another_training_size_moves_nothing(store: Store) -> None:
    small, large = arrays(make(Digits(train=300, valid=100), store)), arrays(make(Digits(valid=100), store))
    for key in ("valid.inputs", "valid.targets", "test.inputs", "test.targets"):
        assert np.array_equal(small[key], large[key])
    assert np.array_equal(small["train.inputs"], large["train.inputs"][:300])


def test_a_split_of_none_has_length_zero(store: Store) -> None:
    got = arrays(make(Digits(scaling="standard"), store))
    assert got["valid.inputs"].shape == (0, 8, 8)
    assert got["valid.inputs"].dtype == np.float32
    assert got["valid.targets"].shape == (0,)


def test_standard_scaling_is_by_the_training_examples_alone(store: Store) -> None:
    unit, standard = (arrays(make(Digits(train=400, valid=300, scaling=how), store)) for how in ("unit", "standard"))
    reference = unit["train.inputs"] / 16.0
    mean, deviation = reference.mean(axis=0), reference.std(axis=0)
    constant = deviation == 0.0
    assert constant.any()  # the corners of the digits are always white
    deviation[constant] = 1.0
    for name in ("train", "valid", "test"):
        expected = (unit[f"{name}.inputs"] / 16.0 - mean) / deviation
        # one rounding to float32 of numbers up to 30, after float64 sums whose order differs
        np.testing.assert_allclose(standard[f"{name}.inputs"], expected, rtol=1e-6, atol=1e-6)
        assert np.array_equal(standard[f"{name}.targets"], unit[f"{name}.targets"])
    assert not standard["train.inputs"][:, constant].any()


def test_binary_scaling_is_1_above_the_middle(store: Store) -> None:
    unit, binary = (arrays(make(Digits(train=400, valid=300, scaling=how), store)) for how in ("unit", "binary"))
    for name in ("train", "valid", "test"):
        assert binary[f"{name}.inputs"].dtype == np.uint8
        assert np.array_equal(binary[f"{name}.inputs"], unit[f"{name}.inputs"] > 8)  # of 16 shades
        assert np.array_equal(binary[f"{name}.targets"], unit[f"{name}.targets"])
    assert 8 in unit["train.inputs"]


def test_sampled_pixels_are_on_as_often_as_they_are_bright(store: Store) -> None:
    """Within four standard deviations for every shade; an example gets the same pixels however many are asked for."""
    unit, drawn = (arrays(make(Digits(train=700, valid=300, scaling=how), store)) for how in ("unit", "sampled"))
    grey, on = (np.concatenate([parts[f"{name}.inputs"] for name in ("train", "test")]) for parts in (unit, drawn))
    assert on.dtype == np.uint8
    for shade in range(17):
        pixels, p = on[grey == shade], shade / 16
        assert abs(pixels.mean() - p) <= 4 * math.sqrt(p * (1 - p) / len(pixels))
    fewer = arrays(make(Digits(train=500, valid=0, scaling="sampled"), store))
    everything = {row.tobytes() for parts in (on, drawn["valid.inputs"]) for row in parts}
    assert {row.tobytes() for row in fewer["train.inputs"]} <= everything
    another = arrays(make(Digits(train=700, valid=300, scaling="sampled", split_seed=1), store))
    assert {row.tobytes() for row in another["train.inputs"]}.isdisjoint(everything)


def test_a_constant_feature_that_is_not_exact_in_binary_stays_zero() -> None:
    """1/255 summed 34 times and divided by it is not 1/255; the tiny deviation that results must not be divided by."""
    parts = {f"{name}.inputs": np.ones((34, 1), np.uint8) for name in ("train", "valid", "test")}
    scaled = prepare.standardise(parts, 255.0)
    assert np.abs(scaled["train.inputs"]).max() < 1e-15


def test_scaling_in_pieces_is_scaling_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    parts = {f"{name}.inputs": draws.integers(0, 256, (50, 3), np.uint8) for name in ("train", "valid", "test")}
    whole = prepare.standardise(parts, 255.0)
    monkeypatch.setattr(prepare, "CHUNK", 7)
    for key, value in prepare.standardise(parts, 255.0).items():
        np.testing.assert_allclose(value, whole[key], rtol=1e-6, atol=1e-7)  # float32


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train": 1001}, "train 1,001 + test 797 make 1,798 examples; the source's training part has 1,797"),
        ({"valid": 1000}, "valid 1,000 + test 797 and at least 1 to train on make 1,798 examples; the source's"),
        (
            {"test": 1797},
            "test 1,797 and at least 1 to train on make 1,798 examples; the source's training part has 1,797",
        ),
    ],
)
def test_more_examples_than_there_are(store: Store, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(DataError) as caught:
        make(Digits(**sizes), store)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert not list(store.data.glob("prepared/*"))


def test_damaged_raw_data_are_never_used(store: Store) -> None:
    prepared = make(Digits(), store)
    stage = prepared.stage
    raw = store.folder("fetch", stage.inputs["raw"])
    content = bytearray((raw / "digits.csv.gz").read_bytes())
    content[1000] ^= 1
    (raw / "digits.csv.gz").write_bytes(content)
    other = Stage("prepare", "digits", stage.spec, stage.inputs, versions={"prepare": 2}, hints=stage.hints)
    with pytest.raises(ArtifactError, match=r"digits.csv.gz does not match its manifest's sha256.*moved to"):
        prepare.run(other, store)
    assert prepare.run(stage, store).manifest == prepared.manifest  # done, and looks at its own bytes alone


def test_own_pictures_from_end_to_end(store: Store, tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).random((40, 5, 4, 3), np.float32)
    labels = np.arange(40) % 4
    np.savez(tmp_path / "mine.npz", images=pictures, labels=labels)
    artifact = make(Images(images=str(tmp_path / "mine.npz"), valid=8, test=12), store)
    got = arrays(artifact)
    assert artifact.extra["sizes"] == {"train": 20, "valid": 8, "test": 12}
    assert artifact.extra["input_shape"] == [5, 4, 3]
    assert artifact.extra["scale"] == 1.0
    assert np.array_equal(np.bincount(got["test.targets"]), [3] * 4)
    inputs = np.concatenate([got[f"{name}.inputs"] for name in ("train", "valid", "test")])
    assert np.array_equal(np.sort(inputs.ravel()), np.sort(pictures.ravel()))


def test_pictures_without_a_test_part_need_its_size() -> None:
    from dlpipe.datasets.examples import Examples

    examples = Examples(np.zeros((4, 2), np.uint8), np.arange(4), tuple("0123"), 255.0)
    with pytest.raises(DataError, match="the data set has no test part; say how many"):
        prepare.split_examples(examples, Images(images="x"))


def test_prepare_imports_neither_torch_nor_scikit_learn(tmp_path: Path) -> None:
    script = """
        import sys
        import dlpipe.stages.prepare
        from dlpipe.spec.datasets import Digits
        Digits().load()
        print([name for name in ("torch", "sklearn", "scipy", "matplotlib") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def small_mnist(folder: Path, images: tuple[int, ...] = (60_000, 28, 28), labels: int = 60_000, top: int = 9) -> None:
    """Files with MNIST's names and headers: blank pictures, one label."""
    counts = (("train", images, labels), ("t10k", (10_000, 28, 28), 10_000))
    for prefix, shape, number in counts:
        header = struct.pack(">HBB3I", 0, 8, 3, *shape)
        pixels = bytes(shape[0] * shape[1] * shape[2])
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels, 1))
        content = struct.pack(">HBBI", 0, 8, 1, number) + bytes([top]) * number
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"images": (59_999, 28, 28)},
            "train-images-idx3-ubyte.gz has [59999, 28, 28] uint8, not [60000, 28, 28] uint8",
        ),
        (
            {"images": (60_000, 14, 56)},
            "train-images-idx3-ubyte.gz has [60000, 14, 56] uint8, not [60000, 28, 28] uint8",
        ),
        ({"labels": 59_999}, "train-labels-idx1-ubyte.gz: 59,999 labels for 60,000 examples"),
        ({"top": 10}, "train-labels-idx1-ubyte.gz: labels from 10 to 10; they must be from 0 to 9"),
    ],
)
def test_files_that_are_not_mnists(tmp_path: Path, options: dict, message: str) -> None:  # type: ignore[type-arg]
    small_mnist(tmp_path, **options)
    with pytest.raises(DataError) as caught:
        Mnist.parse(tmp_path, MnistSpec())
    assert str(caught.value) == f"{tmp_path}/{message}"


@pytest.mark.mirror
def test_mnist_in_50_10_10(store: Store, mirror: Path) -> None:
    artifact = make(MnistSpec(train=50_000, valid=10_000), store, mirror=mirror)
    got = arrays(artifact)
    assert artifact.extra["sizes"] == {"train": 50_000, "valid": 10_000, "test": 10_000}
    # how many of each digit MNIST has, as published with it
    training = np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    assert list(np.bincount(got["test.targets"])) == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert list(np.bincount(np.concatenate([got["train.targets"], got["valid.targets"]]))) == list(training)
    assert np.abs(np.bincount(got["valid.targets"]) - training / 6).max() <= 1.5  # in proportion; two roundings
    assert np.array_equal(np.bincount(got["train.targets"][:1000]), [100] * 10)
    pixels = np.concatenate([got["train.inputs"], got["valid.inputs"]]) / np.float32(255)
    # the mean and deviation of MNIST's training pixels that everybody quotes, to their four digits
    assert (round(float(pixels.mean(dtype=np.float64)), 4), round(float(pixels.std(dtype=np.float64)), 4)) == (
        0.1307,
        0.3081,
    )
    assert got["test.targets"][:5].tolist() == [7, 2, 1, 0, 4]  # the source's order


@pytest.mark.mirror
def test_rotated_mnist_in_10_2_50(store: Store, mirror: Path) -> None:
    """The sizes of the benchmark of variations."""
    artifact = make(
        MnistSpec(train=10_000, valid=2_000, test=50_000, pooled=True, variation="rotated"), store, mirror=mirror
    )
    assert artifact.extra["sizes"] == {"train": 10_000, "valid": 2_000, "test": 50_000}
    turned = arrays(artifact)["train.inputs"] > 127
    # MNIST's digits are centred by their mass, and turning moves no mass to speak of off the picture
    upright = arrays(make(MnistSpec(train=10_000), store, mirror=mirror))["train.inputs"] > 127
    assert turned.mean() == pytest.approx(upright.mean(), rel=0.05)


@pytest.mark.mirror
def test_mnist_in_60_10(store: Store, mirror: Path) -> None:
    """What is in the training set does not depend on the size that is written down."""
    whole, written = (arrays(make(MnistSpec(train=train), store, mirror=mirror)) for train in (None, 60_000))
    assert all(np.array_equal(whole[key], written[key]) for key in whole)
    assert len(whole["train.targets"]) == 60_000


@pytest.mark.mirror
def test_fashion_mnist(store: Store, mirror: Path) -> None:
    artifact = make(FashionMnistSpec(valid=10_000), store, mirror=mirror)
    got = arrays(artifact)
    assert artifact.extra["classes"] == list(FashionMnist.classes)
    assert [len(got[f"{name}.targets"]) for name in ("train", "valid", "test")] == [50_000, 10_000, 10_000]
    for name, count in (("train", 5000), ("valid", 1000), ("test", 1000)):
        assert np.array_equal(np.bincount(got[f"{name}.targets"]), [count] * 10)
