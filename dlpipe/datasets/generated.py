"""Data sets that are drawn and not downloaded. How a kind is drawn is a module of its own, which may import numpy."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dlpipe.datasets.sources import Source
from dlpipe.spec.datasets import Linear as LinearSpec
from dlpipe.spec.datasets import Plane as PlaneSpec
from dlpipe.spec.sequences import Adding as AddingSpec
from dlpipe.spec.sequences import Arithmetic as ArithmeticSpec
from dlpipe.spec.sequences import Copying as CopyingSpec
from dlpipe.spec.sequences import Increments as IncrementsSpec
from dlpipe.spec.sequences import LookAhead as LookAheadSpec
from dlpipe.spec.sequences import Xml as XmlSpec

if TYPE_CHECKING:
    import numpy as np

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
        inputs, targets = plane.points(spec.shape, spec.train + (spec.valid or 0), training, spec.scale)
        test_inputs, test_targets = plane.points(spec.shape, spec.test, testing, spec.scale)
        classes = tuple(str(k) for k in range(plane.CLASSES[spec.shape]))
        return Examples(inputs, targets, classes, 1.0, test_inputs, test_targets)

    @staticmethod
    def log_density(spec: PlaneSpec, points: np.ndarray) -> np.ndarray:
        """Of what the points are drawn from, where the spec says that it is known: float64 [n, 2] -> [n], in nats."""
        from dlpipe.datasets import plane

        return plane.log_density(spec.shape, points, spec.scale)


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


class Copying(Generated):
    @staticmethod
    def parse(folder: Path, spec: CopyingSpec) -> SequenceExamples:
        from dlpipe.datasets import memory

        symbols = tuple(string.ascii_lowercase[: spec.symbols])
        return _drawn(
            spec,
            lambda n, draws: memory.copying(n, spec.symbols, spec.copied, spec.delay, draws),
            vocabulary=(*symbols, "_", ":"),
            classes=symbols,
        )


class LookAhead(Generated):
    @staticmethod
    def parse(folder: Path, spec: LookAheadSpec) -> SequenceExamples:
        from dlpipe.datasets import memory

        symbols = tuple(string.ascii_lowercase[: spec.symbols])
        return _drawn(
            spec,
            lambda n, draws: memory.look_ahead(n, spec.symbols, spec.steps, spec.distance, draws),
            vocabulary=symbols,
            classes=symbols,
        )


class Arithmetic(Generated):
    @staticmethod
    def parse(folder: Path, spec: ArithmeticSpec) -> SequenceExamples:
        from dlpipe.datasets import strings

        def draw(n: int, draws: Draws) -> Sequences:
            chances = strings.Chances(draws)
            drawn = [strings.arithmetic(chances, spec.digits, spec.distractors) for _ in range(n)]
            return strings.asked_from(drawn, strings.ARITHMETIC, lambda drawn: drawn.index("="))

        return _drawn(spec, draw, vocabulary=strings.ARITHMETIC, classes=strings.ARITHMETIC)


class Xml(Generated):
    @staticmethod
    def parse(folder: Path, spec: XmlSpec) -> SequenceExamples:
        from dlpipe.datasets import strings

        def draw(n: int, draws: Draws) -> Sequences:
            chances = strings.Chances(draws)
            drawn = [strings.xml(chances, spec.tags) for _ in range(n)]
            return strings.asked_from(drawn, strings.XML, lambda drawn: 0)

        return _drawn(spec, draw, vocabulary=strings.XML, classes=strings.XML)


class Increments(Generated):
    @staticmethod
    def parse(folder: Path, spec: IncrementsSpec) -> SequenceExamples:
        from dlpipe.datasets import strings

        def draw(n: int, draws: Draws) -> Sequences:
            chances = strings.Chances(draws)
            drawn = [strings.increments(chances, spec.digits, spec.numbers) for _ in range(n)]
            return strings.encoded(drawn, strings.INCREMENTS)

        return _drawn(spec, draw, vocabulary=strings.INCREMENTS)
