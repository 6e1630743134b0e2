"""Words, characters, vocabularies: small texts, counted by hand, and what faults in files are called."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torchtext.data import Field
from torchtext.datasets import LanguageModelingDataset

from dlpipe.artifacts import ArtifactError, Store
from dlpipe.datasets import text
from dlpipe.datasets.corpora import Ptb, Pydoc, Text, TinyShakespeare, WikiText2, read_text, topics
from dlpipe.datasets.sequences import SequenceExamples
from dlpipe.datasets.sources import DataError, RequestError
from dlpipe.datasets.vocabulary import Vocabulary, read_vocabulary
from dlpipe.spec import sequences as specs
from tests.stages.test_prepare import arrays, make
from tests.workspace import ids, plan_of

TRAIN = " the cat <unk> the mat \n the N cats sat \n"
VALID = " the dog sat \n"
TEST = " a cat sat \n"


def write_ptb(folder: Path) -> None:
    for name, content in zip(Ptb.files, (TRAIN, VALID, TEST), strict=True):
        (folder / name).write_text(content)


def spelt(examples: SequenceExamples, part: str) -> list[str]:
    assert examples.vocabulary is not None
    return [examples.vocabulary[token] for token in examples.parts()[part].inputs]


def test_words_are_as_in_mikolovs_penn_treebank(tmp_path: Path) -> None:
    """<unk> of the text and words that are not in the training part are one token; every line ends in <eos>."""
    write_ptb(tmp_path)
    got = Ptb.parse(tmp_path, specs.Ptb())
    assert got.vocabulary == ("<unk>", "<eos>", "the", "N", "cat", "cats", "mat", "sat")  # by number, then alphabet
    assert spelt(got, "train") == ["the", "cat", "<unk>", "the", "mat", "<eos>", "the", "N", "cats", "sat", "<eos>"]
    assert spelt(got, "valid") == ["the", "<unk>", "sat", "<eos>"]
    assert spelt(got, "test") == ["<unk>", "cat", "sat", "<eos>"]
    assert got.train.inputs.dtype == np.int32
    assert got.train.lengths.tolist() == [11]
    assert (got.train.targets, got.classes, got.scale) == (None, (), 1.0)


def test_tokens_and_vocabulary_are_torchtexts_own(tmp_path: Path) -> None:
    write_ptb(tmp_path)
    field = Field(eos_token="<eos>", pad_token=None)
    train, test = (LanguageModelingDataset(str(tmp_path / Ptb.files[part]), field) for part in (0, 2))
    field.build_vocab(train)
    got = Ptb.parse(tmp_path, specs.Ptb())
    assert got.vocabulary == tuple(field.vocab.itos)
    assert got.train.inputs.tolist() == [field.vocab[token] for token in train[0].text]
    assert got.test.inputs.tolist() == [field.vocab[token] for token in test[0].text]


def test_a_smaller_vocabulary_keeps_the_frequent_words(tmp_path: Path) -> None:
    write_ptb(tmp_path)
    got = Ptb.parse(tmp_path, specs.Ptb(vocabulary=2))
    assert got.vocabulary == ("<unk>", "<eos>", "the", "N")
    assert spelt(got, "train") == [
        "the",
        "<unk>",
        "<unk>",
        "the",
        "<unk>",
        "<eos>",
        "the",
        "N",
        "<unk>",
        "<unk>",
        "<eos>",
    ]


def test_unknown_words_do_not_grow_the_vocabulary() -> None:
    vocabulary = text.vocabulary_of_words(["a", "a", "b"])
    assert text.numbers(["b", "c", "d", "a"], vocabulary).tolist() == [3, 0, 0, 2]
    assert len(vocabulary.stoi) == len(vocabulary.itos) == 4


def test_penn_treebank_by_character_has_no_spaces_at_the_ends_of_lines(tmp_path: Path) -> None:
    write_ptb(tmp_path)
    got = Ptb.parse(tmp_path, specs.Ptb(by="character"))
    assert "".join(spelt(got, "train")) == "the cat <unk> the mat\nthe N cats sat\n"
    assert set(got.vocabulary or ()) == set("the cat <unk> the mat\nthe N cats sat\nthe dog sat\na cat sat\n")


def test_wikitext_has_a_token_for_every_empty_line_too(tmp_path: Path) -> None:
    for name in WikiText2.files:
        (tmp_path / name).write_text(" \n = Title = \n \n some words \n")
    got = WikiText2.parse(tmp_path, specs.WikiText2())
    assert spelt(got, "test") == ["<eos>", "=", "Title", "=", "<eos>", "<eos>", "some", "words", "<eos>"]


def test_sizes_take_from_the_front_and_leave_the_vocabulary(tmp_path: Path) -> None:
    write_ptb(tmp_path)
    whole, some = (Ptb.parse(tmp_path, specs.Ptb(**sizes)) for sizes in ({}, {"train": 4, "valid": 0, "test": 2}))  # type: ignore[arg-type]
    assert some.vocabulary == whole.vocabulary
    assert np.array_equal(some.train.inputs, whole.train.inputs[:4])
    assert np.array_equal(some.test.inputs, whole.test.inputs[:2])
    assert (len(some.valid), some.valid.steps, some.valid.inputs.dtype) == (0, 0, np.int32)
    with pytest.raises(DataError, match="train: 12 are asked for; this part of the source has 11"):
        Ptb.parse(tmp_path, specs.Ptb(train=12))


def test_one_text_is_cut_by_position_at_nine_tenths_and_nineteen_twentieths(tmp_path: Path) -> None:
    content = "".join(chr(ord("a") + k % 26) for k in range(207)) + "é\n€"
    (tmp_path / "input.txt").write_text(content, encoding="utf-8")
    got = TinyShakespeare.parse(tmp_path, specs.TinyShakespeare())
    assert "".join(spelt(got, "train")) == content[: int(0.9 * len(content))]  # as nanoGPT cuts it
    assert [part.steps for part in got.parts().values()] == [189, 10, 11]
    assert "".join("".join(spelt(got, part)) for part in got.parts()) == content
    assert sorted(got.vocabulary or ()) == sorted(set(content))


def test_a_text_that_is_too_short_to_be_cut() -> None:
    assert [part.steps for part in text.corpus_of_one("a" * 40, specs.Text(text="x")).parts().values()] == [36, 2, 2]
    with pytest.raises(DataError, match="a text of 39 characters cannot be cut into three parts: it takes at least 40"):
        text.corpus_of_one("a" * 39, specs.Text(text="x"))
    with pytest.raises(DataError, match=r"a text of 2 words and ends of lines \(<eos>\) cannot be cut"):
        text.corpus_of_one("abc", specs.Text(text="x", by="word"))


@pytest.mark.parametrize("by", ["word", "character"])
@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_a_part_of_one_token_is_refused(part: str, by: str) -> None:
    """Nothing could be told of it; of two, one can."""
    sizes = {"train": 2, "valid": 0, "test": 2}
    one, two = (specs.Text.model_validate({"text": "x", "by": by, **sizes, part: n}) for n in (1, 2))
    assert text.corpus_of_one("a b\n" * 40, two).parts()[part].steps == 2
    with pytest.raises(DataError, match=f"{part}: in a part of 1 {by} there is none .* it; ask for at least 2"):
        text.corpus_of_one("a b\n" * 40, one)


def test_words_of_one_text() -> None:
    got = text.corpus_of_one("a b a\n" * 10, specs.Text(text="x", by="word"))
    assert [part.steps for part in got.parts().values()] == [36, 2, 2]
    assert spelt(got, "valid") == ["a", "b"]
    assert spelt(got, "test") == ["a", "<eos>"]


def test_only_an_end_of_line_ends_a_line() -> None:
    assert text.words("a\x0bb\u2028c d") == ["a", "b", "c", "d", "<eos>"]
    assert text.words("a\n\nb\n") == ["a", "<eos>", "<eos>", "b", "<eos>"]


def own(folder: Path, *contents: bytes, **fields: object) -> specs.Text:
    paths = {}
    for field, content in zip(("text", "valid_text", "test_text"), contents, strict=False):
        (folder / f"{field}.txt").write_bytes(content)  # as fetch leaves them
        paths[field] = str(folder / f"{field}.txt")
    return specs.Text.model_validate({**paths, **fields})


def test_own_text_in_one_file_or_three(tmp_path: Path) -> None:
    one = own(tmp_path, b"abcdefghij" * 4)
    assert [source.name for source in Text.sources(one)] == ["text.txt"]
    assert [part.steps for part in Text.parse(tmp_path, one).parts().values()] == [36, 2, 2]
    three = own(tmp_path, b"ab", b"abc", b"de")
    assert [source.name for source in Text.sources(three)] == ["text.txt", "valid_text.txt", "test_text.txt"]
    got = Text.parse(tmp_path, three)
    assert ["".join(spelt(got, part)) for part in got.parts()] == ["ab", "abc", "de"]
    with pytest.raises(DataError, match=r"test: in a part of 1 character .* its text must have at least 2"):
        Text.parse(tmp_path, own(tmp_path, b"ab", b"abc", b"d"))


def test_ends_of_lines_and_byte_order_marks_of_windows_leave_no_trace(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert read_text(tmp_path / "x") == "one\ntwo\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "{path} has no text in it"),
        (b" \n\n", "{path} has no text in it"),
        (
            b"one\ntwo\n caf\xe9 \n",
            "{path} is not UTF-8: byte 12, in line 3, is 0xe9; save it as UTF-8, or convert it, as by "
            "`iconv -f latin1 -t utf-8`",
        ),
        ("text".encode("utf-16"), "{path} is not UTF-8: byte 0, in line 1, is 0xff; save"),
    ],
)
def test_faults_of_own_text(tmp_path: Path, content: bytes, message: str) -> None:
    spec = own(tmp_path, content)
    with pytest.raises(DataError) as caught:
        Text.parse(tmp_path, spec)
    assert str(caught.value).startswith(message.format(path=spec.text))


def test_own_text_that_is_missing(tmp_path: Path) -> None:
    spec = own(tmp_path, b"a", b"b", b"c")
    (tmp_path / "test_text.txt").unlink()
    with pytest.raises(RequestError, match=r"dataset.test_text: no file .*test_text.txt; a relative path starts from"):
        Text.sources(spec)


def test_pydoc_is_the_help_topics_of_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    import pydoc_data.topics

    (source,) = Pydoc.sources(specs.Pydoc())
    assert source.size == Path(pydoc_data.topics.__file__).stat().st_size
    assert topics(Path(pydoc_data.topics.__file__)) == list(pydoc_data.topics.topics.values())
    monkeypatch.setattr(Pydoc, "package", ("pydoc_data", "none.py"))
    with pytest.raises(
        RequestError, match=r"dataset.kind: this Python comes without pydoc_data/none.py, its help topics"
    ):
        Pydoc.sources(specs.Pydoc())
    monkeypatch.setattr(Pydoc, "package", ("no_such_package", "topics.py"))
    with pytest.raises(RequestError, match=r"comes without no_such_package/topics\.py"):
        Pydoc.sources(specs.Pydoc())


@pytest.mark.parametrize("path", ["", " ", ".", "{folder}"])
def test_own_text_that_is_no_file(tmp_path: Path, path: str) -> None:
    given = path.format(folder=tmp_path)
    fault = f"{given} is a folder; name a file in it" if given.strip() else "the path is empty; name a file"
    with pytest.raises(RequestError) as caught:
        Text.sources(specs.Text(text=given))
    assert str(caught.value) == f"dataset.text: {fault}"


PYDOC = """\
title: Help topics
dataset: {kind: pydoc}
model: {kind: recurrent, units: [4]}
finetune:
  task: {kind: language_model}
  duration: {epochs: 1}
  optimizer: {kind: sgd, learning_rate: 0.1}
"""


def test_pydoc_goes_by_the_content_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Python's topics are another data set, of which everything is made anew."""
    file = tmp_path / "some_topics" / "topics.py"
    file.parent.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(Pydoc, "package", ("some_topics", "topics.py"))

    def stages(content: str) -> set[str]:
        file.write_text(f"topics = {{'a': '{content}'}}\n")
        (source,) = Pydoc.sources(specs.Pydoc())
        assert source.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        return ids(plan_of(tmp_path, PYDOC), "fetch", "prepare", "finetune", "evaluate")

    ours = stages("some text")
    assert len(ours) == 4
    assert ours.isdisjoint(stages("some other text"))
    assert ours == stages("some text")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "topics = {",
        "topics = {}",
        "other = {'a': 'b'}",
        "topics = {'a': 1}",
        "topics = ['a']",
        "topics = {'a': f()}",
    ],
)
def test_what_is_no_table_of_topics_is_refused_and_not_run(tmp_path: Path, content: str) -> None:
    (tmp_path / "topics.py").write_text(f"import nothing_of_that_name\n{content}")
    with pytest.raises(DataError, match=r"does not say `topics = \{name: text, \.\.\.\}`"):
        topics(tmp_path / "topics.py")


def test_topics_of_another_python_are_read_without_running_them(tmp_path: Path) -> None:
    """3.14 writes raw strings in three quotes."""
    (tmp_path / "topics.py").write_text("raise SystemExit\ntopics = {\n    'assert': r'''The \\n\n''',\n}\n")
    assert topics(tmp_path / "topics.py") == ["The \\n\n"]


def test_pydoc_from_end_to_end(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", tmp_path / "results")
    artifact = make(specs.Pydoc(train=50_000), store)
    got = arrays(artifact)
    assert {key: (value.dtype.name, value.shape) for key, value in got.items()} == {
        "train.inputs": ("int32", (50_000,)),
        "train.lengths": ("int64", (1,)),
        "valid.inputs": ("int32", got["valid.inputs"].shape),
        "valid.lengths": ("int64", (1,)),
        "test.inputs": ("int32", got["test.inputs"].shape),
        "test.lengths": ("int64", (1,)),
    }
    vocabulary = read_vocabulary(artifact)
    assert artifact.extra == {
        "input_shape": [],
        "classes": [],
        "scale": 1.0,
        "sizes": {"train": 1, "valid": 1, "test": 1},
        "steps": {"train": 50_000, "valid": len(got["valid.inputs"]), "test": len(got["test.inputs"])},
        "tokens": len(vocabulary.strings),
        "terms": Pydoc.terms,
    }
    whole = "\n".join(topics(store.folder("fetch", artifact.stage.inputs["raw"]) / "topics.py"))
    assert vocabulary.text(got["train.inputs"]) == whole[:50_000]
    assert whole.endswith(vocabulary.text(got["test.inputs"]))


def test_words_from_end_to_end_and_back_to_text(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", tmp_path / "results")
    (tmp_path / "mine").write_text("one two\n two  three\n" * 10)
    artifact = make(specs.Text(text=str(tmp_path / "mine"), by="word"), store)
    vocabulary = read_vocabulary(artifact)
    assert vocabulary == Vocabulary(("<unk>", "<eos>", "two", "one", "three"), by_words=True)
    assert vocabulary.text(arrays(artifact)["train.inputs"][:7]) == "one two\ntwo three\none"
    assert vocabulary.tokens("one two\ntwo <unk>") == [3, 2, 1, 2, 0]
    with pytest.raises(ValueError, match="the text that was trained on has no 'four'"):
        vocabulary.tokens("one two\ntwo four")


def test_a_prompt_of_characters_that_are_not_in_the_vocabulary() -> None:
    assert Vocabulary(("a", "b")).tokens("abba") == [0, 1, 1, 0]
    with pytest.raises(ValueError, match="the text that was trained on has no 'c', 'é'"):
        Vocabulary(("a", "b")).tokens("caé")


def test_frames_have_no_vocabulary(tmp_path: Path) -> None:
    artifact = make(specs.Adding(train=2, test=2, steps=4), Store(tmp_path / "data", tmp_path / "results"))
    with pytest.raises(ArtifactError, match=r"has no file vocabulary.json; it has data.safetensors"):
        read_vocabulary(artifact)


def test_planning_imports_neither_torch_nor_torchtext() -> None:
    script = (
        "import sys; from dlpipe.spec import sequences as s; s.Pydoc().load().sources(s.Pydoc()); "
        "import dlpipe.stages.prepare; print([n for n in ('torch', 'torchtext', 'scipy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("by", "steps", "tokens"),
    [
        ("word", {"train": 929_589, "valid": 73_760, "test": 82_430}, 10_000),
        # thousands as Mikolov et al. (2012) have them: 5017 / 393 / 442, 50 different
        ("character", {"train": 5_017_482, "valid": 393_042, "test": 442_423}, 50),
    ],
)
def test_the_penn_treebank(tmp_path: Path, mirror: Path, by: str, steps: dict[str, int], tokens: int) -> None:
    spec = specs.Ptb.model_validate({"by": by})
    artifact = make(spec, Store(tmp_path / "data", tmp_path / "results"), mirror=mirror)
    assert (artifact.extra["steps"], artifact.extra["tokens"]) == (steps, tokens)
    assert spec.extent() == (sum(steps.values()), 1)
    assert spec.vocabulary_size() == tokens
    everything = np.concatenate([arrays(artifact)[f"{part}.inputs"] for part in steps])
    assert len(np.unique(everything)) == tokens


@pytest.mark.mirror
def test_tiny_shakespeare(tmp_path: Path, mirror: Path) -> None:
    artifact = make(specs.TinyShakespeare(), Store(tmp_path / "data", tmp_path / "results"), mirror=mirror)
    assert artifact.extra["tokens"] == 65
    assert artifact.extra["steps"] == {"train": 1_003_854, "valid": 55_770, "test": 55_770}
    start = arrays(artifact)["train.inputs"][:14]
    assert read_vocabulary(artifact).text(start) == "First Citizen:"
