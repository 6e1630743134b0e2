"""The data sets whose steps come one after another: corpora, music, and sequences that are drawn.

Nothing here is shuffled before it is split: parts follow one another as in the source.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import Field, model_validator

from dlpipe.spec.base import NonNegativeInt, PositiveInt, Probability, misuse
from dlpipe.spec.datasets import DatasetSpec

WORD: Final = "word"
CHARACTER: Final = "character"
LETTERS_A_WORD = 5
"""Of English text, with the space behind it, roughly."""


Target = Literal["next_step", "each_step", "sequence"]


class Sequential(DatasetSpec):
    """Sequences of steps. A step is a token out of a vocabulary, or a frame: some numbers."""

    sequential: ClassVar[bool] = True
    target: ClassVar[Target] = "next_step"
    """What is to be told: the step that comes next, a class at each step (or at some), or one thing at the end."""
    target_follows: ClassVar[bool] = False
    """Whether the class of a step is to be read off the steps behind it, as where it is the next character."""

    def extent(self) -> tuple[int, int]:
        """Steps of the source and numbers a step, by which jobs are sized; no result depends on them.

        A kind that does not say is taken for a short text.
        """
        return 1_000_000, 1

    def vocabulary_size(self) -> int:
        """Tokens that there are, as far as one knows before the data are read: for the sizes of jobs alone.

        0 where a step is a frame.
        """
        return 0


class Corpus(Sequential):
    """Text as one long sequence of tokens. Sizes are numbers of tokens, taken from the front of each part."""

    tokens: ClassVar[bool] = True
    words: ClassVar[int] = 0
    """Of all parts together, with the ends of lines."""
    characters: ClassVar[int] = 0

    by: Literal["word", "character"] = Field(
        CHARACTER,
        description="word: what stands between spaces, and <eos> at the end of each line; character: each of them",
    )
    train: PositiveInt | None = Field(None, description="tokens to train on, from the front of the training part")
    valid: NonNegativeInt | None = Field(None, description="validation tokens; the whole part if absent")
    test: PositiveInt | None = Field(None, description="test tokens; the whole part if absent")
    vocabulary: PositiveInt | None = Field(
        None,
        description="how many of the training part's most frequent words are told apart, <unk> and <eos> besides; all "
        "if absent. Any other word is <unk>",
    )

    @model_validator(mode="after")
    def _characters_are_all_told_apart(self) -> Corpus:
        if self.by == CHARACTER and self.vocabulary is not None:
            raise misuse("of characters, all are told apart: leave vocabulary out, or say `by: word`", "vocabulary")
        return self

    def extent(self) -> tuple[int, int]:
        return (self.words if self.by == WORD else self.characters), 1

    def vocabulary_size(self) -> int:
        return 100 if self.by == CHARACTER else self.vocabulary or 30_000

    @property
    def slug(self) -> str:
        """Such as `ptb-word` or `ptb-character-100000`."""
        return "-".join(str(part) for part in (self.kind, self.by, self.train) if part is not None)


class Ptb(Corpus):
    """Penn Treebank, Mikolov's split: 929,589 / 73,760 / 82,430 words of the Wall Street Journal, 10,000 different."""

    implementation: ClassVar[str] = "dlpipe.datasets.corpora:Ptb"
    words: ClassVar[int] = 1_085_779
    characters: ClassVar[int] = 5_852_947
    kind: Literal["ptb"] = "ptb"
    by: Literal["word", "character"] = Field(
        WORD, description="word: what stands between spaces, and <eos> at the end of each line; character: each of them"
    )

    def vocabulary_size(self) -> int:
        return 50 if self.by == CHARACTER else self.vocabulary or 10_000


class WikiText2(Corpus):
    """WikiText-2 (Merity et al. 2017): by its paper 2,088,628, 217,646 and 245,569 words, 33,278 different ones."""

    implementation: ClassVar[str] = "dlpipe.datasets.corpora:WikiText2"
    words: ClassVar[int] = 2_551_843
    characters: ClassVar[int] = 13_200_000
    kind: Literal["wikitext2"] = "wikitext2"
    by: Literal["word", "character"] = Field(
        WORD, description="word: what stands between spaces, and <eos> at the end of each line; character: each of them"
    )

    def vocabulary_size(self) -> int:
        return 1_000 if self.by == CHARACTER else self.vocabulary or 33_278


class TinyShakespeare(Corpus):
    """1,115,394 characters of Shakespeare's plays, 65 different (Karpathy 2015); nine tenths of them to train on."""

    implementation: ClassVar[str] = "dlpipe.datasets.corpora:TinyShakespeare"
    words: ClassVar[int] = 242_651
    characters: ClassVar[int] = 1_115_394
    kind: Literal["tinyshakespeare"] = "tinyshakespeare"


class Pydoc(Corpus):
    """The help topics of the Python that runs this: about 500,000 characters of English, by its version; no network.
    Nine tenths of them to train on."""

    implementation: ClassVar[str] = "dlpipe.datasets.corpora:Pydoc"
    words: ClassVar[int] = 80_000
    characters: ClassVar[int] = 500_000
    kind: Literal["pydoc"] = "pydoc"


class Text(Corpus):
    """Your own text, UTF-8: one file, of which nine tenths are to train on, or a file for each part."""

    implementation: ClassVar[str] = "dlpipe.datasets.corpora:Text"
    LOCAL_FIELDS: ClassVar[frozenset[str]] = frozenset({"text", "valid_text", "test_text"})
    kind: Literal["text"] = "text"
    text: str = Field(description="path of the text, from the folder you run in")
    valid_text: str | None = Field(None, description="path of the validation part; with it, `text` is to train on")
    test_text: str | None = Field(None, description="path of the test part")

    @model_validator(mode="after")
    def _one_file_or_three(self) -> Text:
        if (self.valid_text is None) != (self.test_text is None):
            given, missing = ("valid_text", "test_text") if self.test_text is None else ("test_text", "valid_text")
            raise misuse(f"text comes as one file, or as three: {missing} is missing", given)
        return self

    @property
    def paths(self) -> dict[str, str]:
        """Field to path, of those that are given."""
        named = {"text": self.text, "valid_text": self.valid_text, "test_text": self.test_text}
        return {field: path for field, path in named.items() if path is not None}

    def extent(self) -> tuple[int, int]:
        files = [Path(path) for path in self.paths.values()]
        characters = sum(file.stat().st_size for file in files if file.exists())
        return (characters // LETTERS_A_WORD if self.by == WORD else characters) + 1, 1


class PolyMusic(Sequential):
    """Polyphonic music as piano rolls (Boulanger-Lewandowski et al. 2012): a frame says which of 88 keys are down.
    Sizes are numbers of pieces."""

    implementation: ClassVar[str] = "dlpipe.datasets.poly_music:PolyMusic"
    version: ClassVar[int] = 2  # before, frames were stored column by column and read row by row
    kind: Literal["poly_music"] = "poly_music"
    name: Literal["jsb", "nottingham", "musedata", "piano_midi"] = Field(
        description="jsb: Bach's chorales; nottingham: folk tunes; musedata and piano_midi: classical music"
    )
    train: PositiveInt | None = Field(None, description="pieces to train on, the first ones; all if absent")
    valid: NonNegativeInt | None = Field(None, description="validation pieces; all if absent")
    test: PositiveInt | None = Field(None, description="test pieces; all if absent")

    def extent(self) -> tuple[int, int]:
        frames = {"jsb": 23_134, "nottingham": 266_537, "musedata": 400_000, "piano_midi": 110_000}
        return frames[self.name], 88

    @property
    def slug(self) -> str:
        return "-".join(str(part) for part in ("music", self.name.replace("_", "-"), self.train) if part is not None)


class GeneratedSequences(Sequential):
    """Sequences that are drawn, not downloaded: as many as are asked for."""

    train: PositiveInt = Field(2000, description="training sequences")
    valid: NonNegativeInt | None = Field(None, description="validation sequences; none if absent")
    test: PositiveInt = Field(1000, description="test sequences")
    split_seed: NonNegativeInt = Field(
        0, description="seed from which the sequences are drawn; the same for every run seed"
    )

    @property
    def validated(self) -> bool:
        return bool(self.valid)

    @property
    def length(self) -> int:
        """Steps of a sequence, about."""
        raise NotImplementedError

    def extent(self) -> tuple[int, int]:
        return (self.train + (self.valid or 0) + self.test) * self.length, 1


class Adding(GeneratedSequences):
    """The sum of two numbers of a sequence that are marked (Hochreiter and Schmidhuber 1997): guessing costs 1/6."""

    implementation: ClassVar[str] = "dlpipe.datasets.generated:Adding"
    real_targets: ClassVar[bool] = True
    target: ClassVar[Target] = "sequence"
    kind: Literal["adding"] = "adding"
    steps: int = Field(100, ge=2, description="length of every sequence; one number of each half is marked")

    @property
    def length(self) -> int:
        return self.steps

    def extent(self) -> tuple[int, int]:
        return super().extent()[0], 2

    @property
    def slug(self) -> str:
        return f"adding{self.steps}-{self.train}"


class Copying(GeneratedSequences):
    """Symbols that are to be told again after a delay (Hochreiter and Schmidhuber 1997, Arjovsky et al. 2016)."""

    implementation: ClassVar[str] = "dlpipe.datasets.generated:Copying"
    tokens: ClassVar[bool] = True
    target: ClassVar[Target] = "each_step"
    kind: Literal["copying"] = "copying"
    symbols: int = Field(8, ge=2, le=26, description="how many different ones there are")
    copied: PositiveInt = Field(10, description="symbols of a sequence that are to be remembered")
    delay: PositiveInt = Field(100, description="steps from the last symbol to the sign that asks for the first")

    @property
    def length(self) -> int:
        return 2 * self.copied + self.delay

    def vocabulary_size(self) -> int:
        return self.symbols + 2

    @property
    def slug(self) -> str:
        return f"copying{self.copied}-delay{self.delay}-{self.train}"


class Arithmetic(GeneratedSequences):
    """The sum or difference of two numbers, with letters between that mean nothing (Jozefowicz et al. 2015)."""

    implementation: ClassVar[str] = "dlpipe.datasets.generated:Arithmetic"
    tokens: ClassVar[bool] = True
    target: ClassVar[Target] = "each_step"
    target_follows: ClassVar[bool] = True
    kind: Literal["arithmetic"] = "arithmetic"
    digits: int = Field(8, ge=1, le=15, description="most digits of a number; as often fewer")
    distractors: Probability = Field(
        0.5,
        description="probability of a letter behind a character of the question, and of another behind each letter",
    )

    @property
    def length(self) -> int:
        return round((self.digits + 3) / (1 - self.distractors)) + self.digits + 3

    def vocabulary_size(self) -> int:
        return 40

    @property
    def slug(self) -> str:
        return f"arithmetic{self.digits}-{self.train}"


class Xml(GeneratedSequences):
    """The next character of nested tags with random names (Jozefowicz et al. 2015)."""

    implementation: ClassVar[str] = "dlpipe.datasets.generated:Xml"
    tokens: ClassVar[bool] = True
    target: ClassVar[Target] = "each_step"
    target_follows: ClassVar[bool] = True
    kind: Literal["xml"] = "xml"
    tags: PositiveInt = Field(50, description="opened and closed ones of a string after which none is opened any more")

    @property
    def length(self) -> int:
        return 4 * self.tags

    def vocabulary_size(self) -> int:
        return 29

    @property
    def slug(self) -> str:
        return f"xml{self.tags}-{self.train}"


class LookAhead(GeneratedSequences):
    """Tags that depend on what was as on what will be: the larger of the symbols some steps before and after."""

    implementation: ClassVar[str] = "dlpipe.datasets.generated:LookAhead"
    tokens: ClassVar[bool] = True
    target: ClassVar[Target] = "each_step"
    kind: Literal["look_ahead"] = "look_ahead"
    symbols: int = Field(4, ge=2, le=26, description="how many different ones there are, and tags")
    steps: PositiveInt = Field(20, description="length of every sequence")
    distance: PositiveInt = Field(3, description="steps to either symbol; those at the ends have no tag")

    @model_validator(mode="after")
    def _a_step_has_both_neighbours(self) -> LookAhead:
        if self.steps <= 2 * self.distance:
            least = 2 * self.distance + 1
            raise misuse(f"a step with others {self.distance} before and behind it takes at least {least}", "steps")
        return self

    @property
    def length(self) -> int:
        return self.steps

    def vocabulary_size(self) -> int:
        return self.symbols

    @property
    def slug(self) -> str:
        return f"look-ahead{self.distance}-{self.train}"


class Increments(GeneratedSequences):
    """Numbers that count up, by character: all but the first follow from what was before, mistakes too."""

    implementation: ClassVar[str] = "dlpipe.datasets.generated:Increments"
    tokens: ClassVar[bool] = True
    kind: Literal["increments"] = "increments"
    digits: int = Field(
        5,
        ge=1,
        le=9,
        description="of each number, with leading zeros; few make few sequences, seen in training and test",
    )
    numbers: int = Field(8, ge=2, description="of a sequence")

    @model_validator(mode="after")
    def _there_are_so_many_numbers(self) -> Increments:
        if self.numbers > 10**self.digits:
            raise misuse(f"there are no {self.numbers:,} numbers in a row of {self.digits} digits", "numbers")
        return self

    @property
    def length(self) -> int:
        return (self.digits + 1) * self.numbers

    def vocabulary_size(self) -> int:
        return 12

    @property
    def slug(self) -> str:
        return f"increments{self.digits}-{self.train}"
