"""Sequences that are drawn, against what their rules say, worked out another way; and music."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.io import savemat

from dlpipe.artifacts import Store
from dlpipe.datasets.poly_music import FILES, PolyMusic, read_pieces
from dlpipe.datasets.sequences import SequenceExamples, Sequences
from dlpipe.datasets.sources import DataError
from dlpipe.spec import sequences as specs
from tests.stages.test_prepare import arrays, make

LIKELY = 1e-3
"""Least p-value that passes. The draws are fixed, so that these tests give the same answer every time."""
SMALL: dict[str, specs.GeneratedSequences] = {
    spec.kind: spec  # type: ignore[attr-defined]
    for spec in (
        specs.Adding(train=40, valid=10, test=20, steps=9),
        specs.Copying(train=40, valid=10, test=20, symbols=3, copied=4, delay=5),
        specs.LookAhead(train=40, valid=10, test=20, symbols=5, steps=9, distance=2),
        specs.Arithmetic(train=40, valid=10, test=20),
        specs.Xml(train=40, valid=10, test=20),
        specs.Increments(train=40, valid=10, test=20),
    )
}


def drawn(spec: specs.GeneratedSequences) -> SequenceExamples:
    examples: SequenceExamples = spec.load().parse(Path(), spec)
    return examples


def rows(part: Sequences) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets of each sequence."""
    ends = np.cumsum(part.lengths)[:-1]
    targets = np.split(part.targets, ends) if part.targets is not None else [np.empty(0)] * len(part)
    return list(zip(np.split(part.inputs, ends), targets, strict=True))


def strings(examples: SequenceExamples) -> list[tuple[str, str]]:
    """Of the training sequences: the string, and the string of targets, with a space where nothing is asked."""
    assert examples.vocabulary is not None
    found = []
    for inputs, targets in rows(examples.train):
        asked = "".join(" " if target < 0 else examples.classes[target] for target in targets)
        found.append(("".join(examples.vocabulary[token] for token in inputs), asked))
    return found


def test_the_target_of_adding_is_the_sum_of_the_two_numbers_that_are_marked() -> None:
    part = drawn(specs.Adding(train=3000, steps=11)).train
    inputs = part.inputs.reshape(3000, 11, 2)
    numbers, markers = inputs[..., 0], inputs[..., 1]
    assert inputs.dtype == np.float32
    assert set(markers.ravel().tolist()) == {0.0, 1.0}
    assert (markers[:, :5].sum(axis=1) == 1).all()
    assert (markers[:, 5:].sum(axis=1) == 1).all()
    assert part.targets is not None
    assert part.targets.dtype == np.float32
    np.testing.assert_allclose(part.targets, (numbers * markers).sum(axis=1), rtol=1e-6)  # float32
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > LIKELY
    assert stats.chisquare(markers[:, :5].sum(axis=0)).pvalue > LIKELY
    assert stats.chisquare(markers[:, 5:].sum(axis=0)).pvalue > LIKELY
    guessing = np.mean((part.targets - 1.0) ** 2)
    assert guessing == pytest.approx(1 / 6, abs=4 * np.sqrt(7 / 180 / 3000))  # variance of the square: 1/15 - 1/36


def test_copying_asks_for_the_symbols_in_their_order_after_the_sign() -> None:
    for string, asked in strings(drawn(specs.Copying(train=50, symbols=4, copied=3, delay=6))):
        found = re.fullmatch(r"([abcd]{3})_{5}:_{3}", string)
        assert found
        assert asked == f"{'':9}{found[1]}"


def test_copied_symbols_are_equally_likely() -> None:
    part = drawn(specs.Copying(train=2000, symbols=5, copied=3, delay=1)).train
    assert part.targets is not None
    assert stats.chisquare(np.bincount(part.targets[part.targets >= 0])).pvalue > LIKELY


def test_a_tag_is_the_larger_symbol_of_before_and_after() -> None:
    for string, asked in strings(drawn(specs.LookAhead(train=50, symbols=6, steps=12, distance=3))):
        tags = [max(string[t - 3], string[t + 3]) for t in range(3, 9)]
        assert asked == f"   {''.join(tags)}   "


def test_who_does_not_look_ahead_is_right_as_often_as_is_said() -> None:
    """Of the tags, given the symbol before, the best guess is that symbol or, where it is the least, any."""
    symbols, n = 4, 5000
    part = drawn(specs.LookAhead(train=n, symbols=symbols, steps=3, distance=1)).train
    assert part.targets is not None
    before, tag = part.inputs.reshape(n, 3)[:, 0], part.targets.reshape(n, 3)[:, 1]
    right = sum(np.bincount(tag[before == symbol]).max() for symbol in range(symbols)) / n
    expected = (symbols + 1) / (2 * symbols)
    assert right == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / n))


def test_arithmetic_is_right() -> None:
    signs, lengths, letters = set(), set(), 0
    for string, asked in strings(drawn(specs.Arithmetic(train=1000, digits=5))):
        question, answer = string.split("=")
        plain = re.sub(r"[a-z]", "", question)
        letters += len(question) - len(plain)
        found = re.fullmatch(r"(-?)(\d+)([+-])(\d+)", plain)
        assert found
        first, second = int(found[1] + found[2]), int(found[4])
        assert answer == f"{first + second if found[3] == '+' else first - second}."
        assert asked == f"{' ' * len(question)}{answer} "  # the "=" is asked for the first digit
        signs.add((found[1], found[3]))
        lengths |= {len(found[2]), len(found[4])}
    assert signs == {("", "+"), ("", "-"), ("-", "+"), ("-", "-")}
    assert lengths == {1, 2, 3, 4, 5}


def test_a_letter_follows_with_the_probability_that_is_declared() -> None:
    def questions(probability: float) -> str:
        examples = drawn(specs.Arithmetic(train=1000, distractors=probability))
        return "".join(string.split("=")[0] for string, _ in strings(examples))

    asked = questions(0.2)
    letters = sum(character.isalpha() for character in asked)
    assert letters / len(asked) == pytest.approx(0.2, abs=4 * np.sqrt(0.2 * 0.8 / len(asked)))
    assert not any(character.isalpha() for character in questions(0.0))


def nested(string: str) -> int:
    """How many tags there are, if they are well nested and no string goes on after its end; else -1."""
    open_tags: list[str] = []
    tags = re.findall(r"<(/?)([a-z]{2,10})>", string)
    if "".join(f"<{slash}{name}>" for slash, name in tags) != string:
        return -1
    for slash, name in tags:
        if not slash:
            open_tags.append(name)
        elif not open_tags or open_tags.pop() != name:
            return -1
    return -1 if open_tags else len(tags)


def test_tags_are_well_nested() -> None:
    assert [nested(wrong) for wrong in ("<ab></ba>", "<ab>", "</ab>", "<a></a>", "<ab>x</ab>")] == [-1] * 5
    counts = []
    for string, asked in strings(drawn(specs.Xml(train=1000, tags=12))):
        counts.append(nested(string))
        assert counts[-1] >= 2
        assert asked == f"{string[1:]} "
    assert 12 in counts
    assert max(counts) <= 24  # as many are closed after the twelfth as are open then, at most
    # <ab></ab> and the end: three coins, of which the first tag takes none
    assert counts.count(2) / 1000 == pytest.approx(1 / 4, abs=4 * np.sqrt(3 / 16 / 1000))


def test_increments_count_up() -> None:
    examples = drawn(specs.Increments(train=200, digits=2, numbers=4))
    assert examples.train.targets is None
    firsts = set()
    for string, _ in strings(examples):
        assert string.endswith(".")
        numbers = [int(each) for each in string[:-1].split(" ")]
        assert numbers == list(range(numbers[0], numbers[0] + 4))
        assert len(string) == 12
        firsts.add(numbers[0])
    assert min(firsts) == 0
    assert max(firsts) == 96


@pytest.mark.parametrize("kind", SMALL)
def test_the_stages_need_no_file(tmp_path: Path, kind: str) -> None:
    spec = SMALL[kind]
    store = Store(tmp_path / "data", tmp_path / "results")
    prepared = make(spec, store)
    got, facts = arrays(prepared), prepared.extra
    assert dict(store.read("fetch", prepared.stage.inputs["raw"]).manifest["files"]) == {}
    assert facts["sizes"] == {"train": 40, "valid": 10, "test": 20}
    assert facts["steps"] == {part: int(got[f"{part}.lengths"].sum()) for part in facts["sizes"]}
    for part, size in facts["sizes"].items():
        inputs, lengths = got[f"{part}.inputs"], got[f"{part}.lengths"]
        assert (lengths.dtype, len(lengths), lengths.min() > 0) == (np.int64, size, True)
        assert inputs.shape == (facts["steps"][part], *facts["input_shape"])
        targets = got.get(f"{part}.targets")
        lengths_of_targets = {"next_step": None, "each_step": len(inputs), "sequence": size}
        assert (None if targets is None else len(targets)) == lengths_of_targets[spec.target]
        if spec.target == "each_step":
            assert targets is not None
            assert targets.dtype == np.int64
            assert targets.min() == -1
            assert targets.max() < len(facts["classes"])
        if spec.tokens:
            assert inputs.dtype == np.int32
            assert 0 <= inputs.min() <= inputs.max() < facts["tokens"]
        else:
            assert facts["tokens"] is None
    assert spec.vocabulary_size() == (facts["tokens"] or 0)
    assert spec.extent()[0] == pytest.approx(sum(facts["steps"].values()), rel=0.5)


@pytest.mark.parametrize("kind", SMALL)
def test_the_seed_decides_and_test_sequences_do_not_move(kind: str) -> None:
    spec = SMALL[kind]
    first, longer, other = (
        drawn(spec.model_copy(update=changed)) for changed in ({}, {"train": 60, "valid": None}, {"split_seed": 1})
    )
    assert np.array_equal(first.test.inputs, longer.test.inputs)
    assert not np.array_equal(first.test.inputs, other.test.inputs)
    assert not np.array_equal(first.train.inputs, other.train.inputs)
    assert (len(longer.train), len(longer.valid), longer.valid.steps) == (60, 0, 0)


def test_golden_sequences() -> None:
    """The first of each kind: if they change, raise the spec's version."""
    adding = drawn(SMALL["adding"]).train
    assert adding.targets is not None
    firsts = {kind: strings(drawn(SMALL[kind]))[0][0] for kind in SMALL if kind != "adding"}
    assert firsts == {
        "copying": "ccab____:____",
        "look_ahead": "ddaceaeeb",
        "arithmetic": "717mwhyvfmfu19ymd7+5w=717202.",
        "xml": "<rapzaxwg></rapzaxwg><chbyhvhff></chbyhvhff><jut><yem></yem></jut>",
        "increments": "70361 70362 70363 70364 70365 70366 70367 70368.",
    }
    np.testing.assert_allclose(adding.inputs[:3, 0], [0.70366, 0.68577, 0.01549], atol=1e-5)
    np.testing.assert_allclose(adding.targets[:2], [1.00476, 1.01307], atol=1e-5)


def test_the_first_sequences_take_their_targets_with_them() -> None:
    lengths = np.array([2, 1, 3])
    a_step = Sequences(np.arange(6), lengths, np.arange(6) * 10).first(2)
    assert (a_step.inputs.tolist(), a_step.lengths.tolist()) == ([0, 1, 2], [2, 1])
    assert a_step.targets is not None
    assert a_step.targets.tolist() == [0, 10, 20]
    each = Sequences(np.arange(6), lengths, np.array([7, 8, 9])).first(2)
    assert each.targets is not None
    assert each.targets.tolist() == [7, 8]


PIECES = {"traindata": (3, 5, 4), "validdata": (2, 6), "testdata": (7,)}


def write_music(folder: Path, name: str = "jsb", **changed: Any) -> dict[str, list[np.ndarray]]:
    draws = np.random.default_rng(0)
    pieces = {
        part: [(draws.random((frames, 88)) < 0.05).astype(np.uint8) for frames in lengths]
        for part, lengths in PIECES.items()
    }
    cells: dict[str, Any] = {}
    for part, arrays_ in pieces.items():
        cells[part] = np.empty((1, len(arrays_)), object)
        cells[part][0, :] = arrays_
    savemat(folder / FILES[name][0], {**cells, **changed}, do_compression=True)
    return pieces


def test_music_is_read_piece_by_piece(tmp_path: Path) -> None:
    pieces = write_music(tmp_path)
    got = PolyMusic.parse(tmp_path, specs.PolyMusic(name="jsb"))
    for part, name in zip(got.parts().values(), PIECES, strict=True):
        assert part.inputs.dtype == np.uint8
        assert part.lengths.tolist() == list(PIECES[name])
        assert np.array_equal(part.inputs, np.concatenate(pieces[name]))
        assert part.targets is None
    some = PolyMusic.parse(tmp_path, specs.PolyMusic(name="jsb", train=2, valid=0))
    assert np.array_equal(some.train.inputs, got.train.inputs[:8])
    assert (len(some.valid), some.valid.inputs.shape) == (0, (0, 88))
    with pytest.raises(DataError, match="test: 2 are asked for; this part of the source has 1"):
        PolyMusic.parse(tmp_path, specs.PolyMusic(name="jsb", test=2))


def test_frames_are_stored_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A MATLAB file gives its arrays column by column."""
    folder = tmp_path / "mirror" / "poly_music"
    folder.mkdir(parents=True)
    pieces = write_music(folder)
    file = folder / FILES["jsb"][0]
    assert not read_pieces(file)["train"][0].flags.c_contiguous
    monkeypatch.setitem(FILES, "jsb", (file.name, hashlib.sha256(file.read_bytes()).hexdigest()))
    artifact = make(specs.PolyMusic(name="jsb"), Store(tmp_path / "data", tmp_path / "results"), mirror=folder.parent)
    stored = arrays(artifact)
    for part, name in zip(("train", "valid", "test"), PIECES, strict=True):
        assert np.array_equal(stored[f"{part}.inputs"], np.concatenate(pieces[name]))


def cell(piece: object) -> np.ndarray:
    made = np.empty((1, 1), object)
    made[0, 0] = piece
    return made


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"testdata": np.zeros((3, 88))}, "has no cells 'testdata'"),
        ({"testdata": np.empty((1, 0), object)}, "has no cells 'testdata'"),
        ({"testdata": cell(np.zeros((3, 87)))}, "testdata 1: [3, 87] float64, not [frames, 88] numbers"),
        ({"testdata": cell(np.full((3, 88), 2.0))}, "testdata 1: other numbers than 0 and 1"),
        ({"testdata": cell("text")}, "testdata 1: [1] <U4, not [frames, 88] numbers"),
    ],
)
def test_faults_of_music(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    write_music(tmp_path, **changed)
    with pytest.raises(DataError) as caught:
        PolyMusic.parse(tmp_path, specs.PolyMusic(name="jsb"))
    assert str(caught.value).startswith(str(tmp_path / FILES["jsb"][0]))
    assert str(caught.value).endswith(message)


def test_a_damaged_file_of_music(tmp_path: Path) -> None:
    write_music(tmp_path)
    path = tmp_path / FILES["jsb"][0]
    whole = path.read_bytes()
    for content in (b"", b"nonsense" * 40, whole[: len(whole) // 2], whole[:300] + b"\0" * 40 + whole[340:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"JSB_Chorales\.mat is no MATLAB 5 file that can be read"):
            PolyMusic.parse(tmp_path, specs.PolyMusic(name="jsb"))


@pytest.mark.mirror
@pytest.mark.parametrize(("name", "sizes"), [("jsb", (229, 76, 77)), ("nottingham", (694, 173, 170))])
def test_the_music_itself(tmp_path: Path, mirror: Path, name: str, sizes: tuple[int, ...]) -> None:
    spec = specs.PolyMusic.model_validate({"name": name})
    artifact = make(spec, Store(tmp_path / "data", tmp_path / "results"), mirror=mirror)
    assert artifact.extra["sizes"] == dict(zip(("train", "valid", "test"), sizes, strict=True))
    assert (artifact.extra["input_shape"], artifact.extra["tokens"]) == ([88], None)
    assert spec.extent() == (sum(artifact.extra["steps"].values()), 88)
