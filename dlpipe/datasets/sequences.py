"""Sequences as arrays, as a parser hands them to `prepare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlpipe.datasets.sources import DataError

IGNORE_INDEX = -1
"""The target of a step of which nothing is asked."""


@dataclass(frozen=True)
class Sequences:
    """N sequences, one behind another.

    `inputs` [steps, *shape of a step] are int32 tokens, uint8 or float32; `lengths` [N] are int64 and sum up to the
    steps. `targets` are int64 classes or float32 numbers, one a step (-1 where nothing is asked) or one a sequence;
    None where the next step is what is asked for.
    """

    inputs: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray | None = None

    @classmethod
    def of(cls, inputs: Sequence[np.ndarray], targets: np.ndarray | None = None) -> Sequences:
        """Of one array a sequence, at least one of them."""
        return cls(np.concatenate(inputs), np.array([len(each) for each in inputs], np.int64), targets)

    @classmethod
    def stream(cls, tokens: np.ndarray) -> Sequences:
        """All tokens [steps] as one sequence, or none where there is no token."""
        return cls(tokens, np.array([len(tokens)] if len(tokens) else [], np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def steps(self) -> int:
        return len(self.inputs)

    def first(self, n: int) -> Sequences:
        """The first n sequences."""
        steps = int(self.lengths[:n].sum())
        a_step = self.targets is not None and len(self.targets) == self.steps
        targets = None if self.targets is None else self.targets[: steps if a_step else n]
        return Sequences(self.inputs[:steps], self.lengths[:n], targets)


@dataclass(frozen=True)
class SequenceExamples:
    """The three parts of a source, as they are to be stored.

    `vocabulary` names each token, None where steps are frames; `classes` names those among the targets. Inputs are to
    be divided by `scale`, as those of pictures are; tokens are not.
    """

    train: Sequences
    valid: Sequences
    test: Sequences
    vocabulary: tuple[str, ...] | None = None
    classes: tuple[str, ...] = ()
    scale: float = 1.0

    def parts(self) -> dict[str, Sequences]:
        return {"train": self.train, "valid": self.valid, "test": self.test}


def front(what: str, there: int, size: int | None) -> int:
    """How many to take from the front of a part that has `there`: `size`, or all. Raises DataError if it has fewer."""
    if size is not None and size > there:
        raise DataError(f"{what}: {size:,} are asked for; this part of the source has {there:,}")
    return there if size is None else size
