"""The data sets an experiment can name. A size that is not given takes what the source offers."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from dlpipe.spec.base import Component, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, misuse

TYPICAL_FEATURES = 1024
"""Of a small picture."""


class DatasetSpec(Component):
    """What every data set has. Sizes are numbers of examples, or of what the kind says instead."""

    family: ClassVar[str] = "dataset"
    FINETUNE_FIELDS: ClassVar[frozenset[str]] = frozenset()
    """What only fine-tuning looks at: another value leaves the prepared data and the layers as they are."""
    LOCAL_FIELDS: ClassVar[frozenset[str]] = frozenset()
    """Paths on this machine; the digest of what they hold counts instead."""
    real_targets: ClassVar[bool] = False
    """Whether a target is a real number, and not a class."""
    sequential: ClassVar[bool] = False
    """Whether the data are sequences, whose steps come one after another."""
    tokens: ClassVar[bool] = False
    """Whether a step is a token out of a vocabulary, and not numbers."""
    can_be_scaled: ClassVar[bool] = False
    """Whether `scaling: unit` brings its inputs into [0, 1]."""
    extent_is_known: ClassVar[bool] = False
    """Whether the second number of `extent`, of an example, is no guess."""

    train: PositiveInt | None = Field(None, description="training examples; all that are left if absent")
    valid: NonNegativeInt | None = Field(None, description="validation examples")
    test: PositiveInt | None = Field(None, description="test examples; all of the source's test part if absent")

    def extent(self) -> tuple[int, int]:
        """Examples of the source and numbers an example, by which jobs are sized; no result depends on them.

        A kind that does not say is taken for a collection of small pictures.
        """
        return 50_000, TYPICAL_FEATURES

    @property
    def validated(self) -> bool:
        """Whether there are validation examples. Of a kind that does not say there are, if `valid` is absent."""
        return self.valid != 0

    @property
    def inputs(self) -> int | None:
        """How many an example has; None where only the data tell."""
        return self.extent()[1] if self.extent_is_known else None

    @property
    def labels_seen(self) -> int | None:
        """How many of the training examples fine-tuning sees with their label; None for all of them."""
        return None

    @property
    def in_unit_interval(self) -> bool:
        """Whether all inputs lie in [0, 1], as probabilities do; a kind that does not say is taken for such."""
        return True

    def unfit_for(self, what: str, instead: str | None = None) -> str | None:
        """Why it is not for what takes inputs for probabilities, and what to set; None if it is.

        `instead`: the setting by which `what` takes others.
        """
        if self.in_unit_interval:
            return None
        scaled = "dataset.scaling to unit" if self.can_be_scaled else None
        ways = ", or ".join(way for way in (scaled, instead) if way)
        advice = f"set {ways}" if ways else "take other data"
        return f"{what} inputs in [0, 1], and {self.kind} has others: {advice}"  # type: ignore[attr-defined]

    @property
    def slug(self) -> str:
        """For the names of artifacts, such as `mnist-10000`."""
        return _joined(self.kind, self.train)


class ExampleSet(DatasetSpec):
    """Examples that are independent of each other. Those to train on are shuffled once, by `split_seed`, class by class
    in turn, so that the first n are nearly balanced whatever n is."""

    FINETUNE_FIELDS: ClassVar[frozenset[str]] = frozenset({"labelled"})
    can_be_scaled: ClassVar[bool] = True

    train: PositiveInt | None = Field(
        None, description="training examples, with or without label; all that are left if absent"
    )
    labelled: PositiveInt | None = Field(
        None, description="how many of the training examples fine-tuning sees with their label; all if absent"
    )
    valid: NonNegativeInt | None = Field(None, description="validation examples, taken from the source's training part")
    split_seed: NonNegativeInt = Field(
        0, description="seed of the shuffle before splitting; the same for every run seed"
    )
    scaling: Literal["unit", "standard", "binary", "sampled"] = Field(
        "unit",
        description="unit: into [0, 1]; standard: zero mean and unit variance a feature, over the training examples; "
        "binary: 1 above the middle of the scale, else 0; sampled: 1 with the probability that the value is of the "
        "scale, drawn once by the split_seed, as in most papers' binarised MNIST",
    )
    # Neither is part of a digest where it is not used, as before there were any.
    variation: Literal["rotated", "random_background"] | None = Field(
        None,
        description="of square pictures in grey (Larochelle et al. 2007), drawn by the split_seed; "
        "rotated: by any angle; random_background: before one of noise",
        exclude_if=operator.not_,
    )
    pooled: bool = Field(
        False,
        description="put the source's training and test part together before they are split; then say `test`",
        exclude_if=operator.not_,
    )

    @model_validator(mode="after")
    def _labelled_are_some_of_train(self) -> ExampleSet:
        if self.train is not None and self.labelled is not None and self.labelled > self.train:
            raise misuse(f"labelled ({self.labelled}) are some of train ({self.train}), not more", "labelled")
        return self

    @model_validator(mode="after")
    def _pooled_leaves_no_test_part(self) -> ExampleSet:
        if self.pooled and self.test is None:
            raise misuse("pooled leaves no test part: say how many examples to hold out, as `test: 10000`", "pooled")
        return self

    @property
    def validated(self) -> bool:
        return bool(self.valid)

    @property
    def labels_seen(self) -> int | None:
        return self.labelled

    @property
    def grey(self) -> bool:
        """Whether the inputs are more than on or off."""
        return self.scaling not in ("binary", "sampled")

    @property
    def in_unit_interval(self) -> bool:
        return self.scaling == "unit" or not self.grey

    @property
    def slug(self) -> str:
        """For the names of artifacts, such as `mnist-10000` or `mnist-rotated-10000`."""
        return _joined(self.kind, self.variation and self.variation.replace("_", "-"), self.train)


def _joined(*parts: object) -> str:
    return "-".join(str(part) for part in parts if part is not None)


class Digits(ExampleSet):
    """1,797 handwritten digits of 8x8 pixels (Alpaydin and Kaynak 1998), part of scikit-learn: no network."""

    implementation: ClassVar[str] = "dlpipe.datasets.digits:Digits"
    extent_is_known: ClassVar[bool] = True
    kind: Literal["digits"] = "digits"

    def extent(self) -> tuple[int, int]:
        return 1797, 64


class Mnist(ExampleSet):
    """60,000 and 10,000 handwritten digits of 28x28 pixels (LeCun et al. 1998)."""

    implementation: ClassVar[str] = "dlpipe.datasets.mnist:Mnist"
    extent_is_known: ClassVar[bool] = True
    kind: Literal["mnist"] = "mnist"

    def extent(self) -> tuple[int, int]:
        return 70_000, 784


class FashionMnist(ExampleSet):
    """60,000 and 10,000 pictures of clothes, 28x28 pixels (Xiao, Rasul and Vollgraf 2017)."""

    implementation: ClassVar[str] = "dlpipe.datasets.mnist:FashionMnist"
    extent_is_known: ClassVar[bool] = True
    kind: Literal["fashion-mnist"] = "fashion-mnist"

    def extent(self) -> tuple[int, int]:
        return 70_000, 784


class Images(ExampleSet):
    """Your own pictures: an .npz with arrays `images` and `labels`, or a pair of IDX files (plain or .gz)."""

    implementation: ClassVar[str] = "dlpipe.datasets.images:Images"
    LOCAL_FIELDS: ClassVar[frozenset[str]] = frozenset({"images", "labels"})
    kind: Literal["images"] = "images"
    images: str = Field(description="path of the .npz or IDX file of pictures, from the folder you run in")
    labels: str | None = Field(None, description="path of the IDX file of labels; not for .npz")

    def extent(self) -> tuple[int, int]:
        """A guess from the size of the file, as if it were compressed to a quarter and its pictures were small."""
        path = Path(self.images)
        numbers = 4 * path.stat().st_size if path.exists() else 0
        return numbers // TYPICAL_FEATURES + 1, TYPICAL_FEATURES


class Generated(ExampleSet):
    """Examples that are drawn, not downloaded: as many as are asked for, of real numbers that may have any size."""

    can_be_scaled: ClassVar[bool] = False
    train: PositiveInt = Field(2000, description="training examples, with or without label")
    test: PositiveInt = Field(1000, description="test examples")
    split_seed: NonNegativeInt = Field(
        0, description="seed from which the examples are drawn; the same for every run seed"
    )
    scaling: Literal["none", "standard"] = Field(  # type: ignore[assignment]
        "none",
        description="none: as they are drawn; standard: zero mean and unit variance a feature, over the training "
        "examples",
    )

    @property
    def examples(self) -> int:
        return self.train + (self.valid or 0) + self.test


class Plane(Generated):
    """Points in the plane from a distribution with a shape; classes are the moons, Gaussians or rings."""

    implementation: ClassVar[str] = "dlpipe.datasets.generated:Plane"
    extent_is_known: ClassVar[bool] = True
    kind: Literal["plane"] = "plane"
    shape: Literal["gaussian", "two_moons", "eight_gaussians", "rings", "ica_mixture"]
    scale: PositiveFloat = Field(
        1.0,
        description="what the points are multiplied by, for a model whose noise has a deviation of its own",
        exclude_if=lambda scale: scale == 1.0,  # so that points are declared, and digested, as before there was any
    )

    @model_validator(mode="after")
    def _standard_scaling_undoes_a_scale(self) -> Plane:
        if self.scaling == "standard" and self.scale != 1.0:
            raise misuse("scaling standard divides by the deviation, whatever the scale: leave one out", "scale")
        return self

    def extent(self) -> tuple[int, int]:
        return self.examples, 2

    @property
    def density_is_known(self) -> bool:
        """Whether the density that the points are drawn from has a closed form."""
        return self.shape in ("gaussian", "eight_gaussians", "ica_mixture") and self.scaling == "none"

    @property
    def slug(self) -> str:
        return f"{self.shape}-{self.train}"


class Linear(Generated):
    """Linear regression with a covariance of the inputs that is asked for: a quadratic with a known optimum."""

    implementation: ClassVar[str] = "dlpipe.datasets.generated:Linear"
    extent_is_known: ClassVar[bool] = True
    kind: Literal["linear"] = "linear"
    real_targets: ClassVar[bool] = True
    train: PositiveInt = Field(100, description="training examples, more than there are features")
    test: PositiveInt = Field(100, description="test examples")
    features: PositiveInt = Field(20, description="inputs of an example")
    condition: float = Field(100.0, ge=1.0, description="largest over smallest eigenvalue of the inputs' covariance")
    noise: NonNegativeFloat = Field(0.0, description="standard deviation of what is added to the targets")

    @model_validator(mode="after")
    def _more_examples_than_features(self) -> Linear:
        if self.train <= self.features:
            raise misuse(f"{self.features} features need more training examples than {self.train}", "train")
        return self

    def extent(self) -> tuple[int, int]:
        return self.examples, self.features

    @property
    def slug(self) -> str:
        return f"linear{self.features}-condition{self.condition:g}"
