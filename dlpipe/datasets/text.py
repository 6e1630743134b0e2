"""Text to tokens, as torchtext 0.6.0 does it: what a word is, and which number it gets.

Words are what stands between spaces, and <eos> at the end of every line (Mikolov's and Zaremba's Penn Treebank); those
outside the vocabulary are <unk>. The vocabulary begins with <unk> and <eos>; then come the words of the training part,
the most frequent first and, among equals, by the alphabet. It is that of the whole part, however little of it is
trained on: perplexities on more and on less text are then of the same outcomes. Characters are all told apart, those of
all parts, so that none is unknown.

torchtext brings torch; only `prepare` comes here. Nothing of its downloads, vectors or iterators is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from torchtext.data import Field
from torchtext.vocab import Vocab

from dlpipe.datasets.sequences import SequenceExamples, Sequences, front
from dlpipe.datasets.sources import DataError
from dlpipe.datasets.vocabulary import END_OF_LINE, UNKNOWN
from dlpipe.spec.sequences import WORD, Corpus

LEAST = 2
"""Tokens of a part that is not empty: the first is only read, and another is to be told from it."""
LEAST_TO_CUT = 20 * LEAST
"""Tokens of which a twentieth is such a part."""


def corpus(train: str, valid: str, test: str, spec: Corpus) -> SequenceExamples:
    """A text that comes in three parts. Raises DataError for a part of one token, or shorter than what is asked for."""
    if spec.by == WORD:
        return _examples((words(train), words(valid), words(test)), spec)
    return _examples((train, valid, test), spec)


def corpus_of_one(text: str, spec: Corpus) -> SequenceExamples:
    """A text without parts: nine tenths to train on, a twentieth each for validation and test, in this order.

    Raises DataError as `corpus` does, and for a text of which there is nothing for one of them.
    """
    tokens: Sequence[str] = words(text) if spec.by == WORD else text
    if len(tokens) < LEAST_TO_CUT:
        counted = "words and ends of lines (<eos>)" if spec.by == WORD else "characters"
        raise DataError(
            f"a text of {len(tokens)} {counted} cannot be cut into three parts: it takes at least {LEAST_TO_CUT}"
        )
    first, second = len(tokens) * 9 // 10, len(tokens) * 19 // 20
    return _examples((tokens[:first], tokens[first:second], tokens[second:]), spec)


def words(text: str) -> list[str]:
    """The words of each line and <eos>. What follows the last end of line is a line if there is anything."""
    field = Field(eos_token=END_OF_LINE)
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [token for line in lines for token in (*field.preprocess(line), END_OF_LINE)]


def _examples(parts: tuple[Sequence[str], Sequence[str], Sequence[str]], spec: Corpus) -> SequenceExamples:
    by_words = spec.by == WORD
    vocabulary = vocabulary_of_words(parts[0], spec.vocabulary) if by_words else vocabulary_of_characters(*parts)
    sizes = {"train": spec.train, "valid": spec.valid, "test": spec.test}
    train, valid, test = (
        Sequences.stream(numbers(_taken(name, part, size, spec.by), vocabulary))
        for (name, size), part in zip(sizes.items(), parts, strict=True)
    )
    return SequenceExamples(train, valid, test, vocabulary=tuple(vocabulary.itos))


def _taken(name: str, part: Sequence[str], size: int | None, by: str) -> Sequence[str]:
    """The front of a part: `size` tokens, or all."""
    taken = part[: front(name, len(part), size)]
    if 0 < len(taken) < LEAST:
        advice = f"ask for at least {LEAST}" if len(part) >= LEAST else f"its text must have at least {LEAST}"
        raise DataError(f"{name}: in a part of 1 {by} there is none to be told from those before it; {advice}")
    return taken


def vocabulary_of_words(tokens: Sequence[str], most: int | None = None) -> Vocab:
    """<unk>, <eos>, and the `most` most frequent other words."""
    return Vocab(Counter(tokens), max_size=most, specials=[UNKNOWN, END_OF_LINE])


def vocabulary_of_characters(*parts: Sequence[str]) -> Vocab:
    """The characters of all parts, the most frequent first."""
    return Vocab(sum(map(Counter, parts), Counter()), specials=[])


def numbers(tokens: Sequence[str], vocabulary: Vocab) -> np.ndarray:
    """int32 [len(tokens)]. `stoi` is asked by `get`: its brackets would take an unknown word into the vocabulary."""
    number_of, unknown = vocabulary.stoi, vocabulary.unk_index
    return np.fromiter((number_of.get(token, unknown) for token in tokens), np.int32, len(tokens))
