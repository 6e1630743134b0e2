"""Data sets that are drawn and not downloaded. How a kind is drawn is a module of its own, which may import numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dlpipe.datasets.sources import Source
from dlpipe.spec.datasets import Linear as LinearSpec
from dlpipe.spec.datasets import Plane as PlaneSpec
from dlpipe.spec.sequences import Adding as AddingSpec

if TYPE_CHECKING:
    from dlpipe.datasets.draws import Draws
    from dlpipe.datasets.examples import Examples
    from dlpipe.datasets.sequences import SequenceExamples, Sequences
    from dlpipe.spec.sequences import GeneratedSequences


class Generated:
    """To be inherited: there is nothing to fetch. `parse` draws the examples, and does not look at the folder."""

    terms: ClassVar[str] = "drawn by dlpipe: nobody's property"
    default_test: ClassVar[int | None] = None

    @staticmethod
    def sources(spec: Any) -> tuple[Source, ...]:
        return ()


class Plane(Generated):
    @staticmethod
    def parse(folder: Path, spec: PlaneSpec) -> Examples:
        from dlpipe.datasets import plane
        from dlpipe.datasets.draws import Draws
        from dlpipe.datasets.examples import Examples
        from dlpipe.datasets.splits import TEST_PART, TRAINING_PART

        training, testing = Draws(spec.split_seed, TRAINING_PART), Draws(spec.split_seed, TEST_PART)
        inputs, targets = plane.points(spec.shape, spec.train + (spec.valid or 0), training)
        test_inputs, test_targets = plane.points(spec.shape, spec.test, testing)
        classes = tuple(str(k) for k in range(plane.CLASSES[spec.shape]))
        return Examples(inputs, targets, classes, 1.0, test_inputs, test_targets)


class Linear(Generated):
    @staticmethod
    def parse(folder: Path, spec: LinearSpec) -> Examples:
        from dlpipe.datasets import linear
        from dlpipe.datasets.draws import Draws
        from dlpipe.datasets.examples import Examples
        from dlpipe.datasets.splits import TEST_PART, TRAINING_PART

        training = Draws(spec.split_seed, TRAINING_PART)
        problem = linear.Problem(spec.features, spec.condition, spec.noise, training)
        inputs, targets = problem.exact(spec.train + (spec.valid or 0), training)
        test = problem.independent(spec.test, Draws(spec.split_seed, TEST_PART))
        return Examples(inputs, targets, (), 1.0, *test)


def _drawn(spec: GeneratedSequences, draw: Callable[[int, Draws], Sequences], **facts: Any) -> SequenceExamples:
    """Training and validation sequences are drawn one after the other, test sequences apart from them."""
    from dlpipe.datasets.draws import Draws
    from dlpipe.datasets.sequences import SequenceExamples
    from dlpipe.datasets.splits import TEST_PART, TRAINING_PART

    training = Draws(spec.split_seed, TRAINING_PART)
    parts = draw(spec.train, training), draw(spec.valid or 0, training)
    return SequenceExamples(*parts, draw(spec.test, Draws(spec.split_seed, TEST_PART)), **facts)


class Adding(Generated):
    @staticmethod
    def parse(folder: Path, spec: AddingSpec) -> SequenceExamples:
        from dlpipe.datasets import memory

        return _drawn(spec, lambda n, draws: memory.adding(n, spec.steps, draws))
