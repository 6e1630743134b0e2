"""The strings that tokens stand for, and text out of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dlpipe.artifacts import Artifact, ArtifactError, read_json
from dlpipe.spec.sequences import WORD

VOCABULARY = "vocabulary.json"
"""A list of strings in a prepared artifact; the place in it is the token."""
UNKNOWN, END_OF_LINE = "<unk>", "<eos>"


@dataclass(frozen=True)
class Vocabulary:
    strings: tuple[str, ...]
    by_words: bool = False

    def text(self, tokens: Iterable[int]) -> str:
        """Characters one after another; words with spaces between them, and a new line for each <eos>."""
        strings = [self.strings[token] for token in tokens]
        if not self.by_words:
            return "".join(strings)
        return " ".join("\n" if string == END_OF_LINE else string for string in strings).replace(" \n ", "\n")

    def tokens(self, text: str) -> list[int]:
        """The other way, for the beginning of a text that is to be gone on with.

        Raises ValueError for what the vocabulary lacks; <unk> stands for a word that it lacks where it is written so.
        """
        parts = text.replace("\n", f" {END_OF_LINE} ").split() if self.by_words else list(text)
        number_of = {string: token for token, string in enumerate(self.strings)}
        missing = sorted(set(parts) - number_of.keys())
        if missing:
            raise ValueError(f"the text that was trained on has no {', '.join(map(repr, missing))}")
        return [number_of[part] for part in parts]


def read_vocabulary(data: Artifact) -> Vocabulary:
    """Of prepared data. Raises ArtifactError when they have none, as music has."""
    strings = read_json(data.path(VOCABULARY))
    if not isinstance(strings, list) or not all(isinstance(each, str) for each in strings):
        raise ArtifactError(f"{data.path(VOCABULARY)} is no list of strings")
    return Vocabulary(tuple(strings), data.stage.spec["dataset"].get("by") == WORD)
