"""Text of models that write, by `dlpipe sample`: by character and by word, of prompts, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dlpipe import sampling
from dlpipe.artifacts import Artifact, Stage, Store, write_stages
from dlpipe.datasets.vocabulary import read_vocabulary
from dlpipe.models.recurrent import Recurrent
from dlpipe.runtime.data import load_weights
from dlpipe.stages import finetune
from tests.datasets.test_text import make, own
from tests.stages.small import finetune_stage, prepared
from tests.test_commands import dlpipe

TEXT = b"one two three\nfour five six\n" * 30
MODEL = {"kind": "recurrent", "units": [6]}
TASK = {"kind": "language_model", "unroll": 8}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("sampling")
    return Store(root / "data", root / "results")


def trained(store: Store, by: str) -> tuple[Stage, Artifact]:
    store.data.mkdir(parents=True, exist_ok=True)
    data = make(own(store.data, TEXT, by=by), store)
    stage = finetune_stage(data.stage.id, model=MODEL, task=TASK, batch_size=2)
    finetune.run(stage, store)
    return stage, data


@pytest.fixture(scope="module")
def characters(store: Store) -> tuple[Stage, Artifact]:
    return trained(store, "character")


@pytest.fixture(scope="module")
def words(store: Store) -> tuple[Stage, Artifact]:
    return trained(store, "word")


def text(stage: Stage, store: Store, prompt: str | None, **options: Any) -> str:
    given: dict[str, Any] = {"length": 40, "temperature": 1.0, "seed": 0, "noise": 0, "device": "cpu"}
    return sampling.text(stage, store, prompt=prompt, **(given | options))


def test_what_follows_is_the_models_own_given_all_before_at_once(
    store: Store, characters: tuple[Stage, Artifact]
) -> None:
    """At temperature 0, from one call of the model on the whole text: so the prompt is carried as the state."""
    stage, data = characters
    vocabulary = read_vocabulary(data)
    model = Recurrent(len(vocabulary.strings), len(vocabulary.strings), tokens=True, units=[6])
    load_weights(model, store.read("finetune", stage.id), 0)
    written = text(stage, store, "one t", temperature=0.0)
    assert len(written) == 45
    assert written.startswith("one t")
    tokens = torch.tensor([vocabulary.tokens(written)])
    logits, _ = model.eval()(tokens)
    assert torch.equal(logits[0, 4:-1].argmax(dim=1), tokens[0, 5:])


def test_the_same_noise_the_same_text(store: Store, characters: tuple[Stage, Artifact]) -> None:
    stage, _ = characters
    assert text(stage, store, "one") == text(stage, store, "one")
    assert text(stage, store, "one") != text(stage, store, "one", noise=1)
    assert text(stage, store, "one") != text(stage, store, "one", seed=1)
    assert text(stage, store, "one", temperature=0.0) == text(stage, store, "one", temperature=0.0, noise=1)


def test_without_a_prompt_it_begins_a_line(store: Store, characters: tuple[Stage, Artifact]) -> None:
    stage, _ = characters
    assert text(stage, store, None) == text(stage, store, "\n").removeprefix("\n")


def test_words_have_spaces_between_and_lines_end(store: Store, words: tuple[Stage, Artifact]) -> None:
    stage, data = words
    written = text(stage, store, "one two", length=200)
    assert written.startswith("one two")
    assert "<eos>" not in written
    assert "\n" in written
    assert set(written.split()) <= set(read_vocabulary(data).strings)
    assert len(text(stage, store, None, length=30).replace("\n", " | ").split()) == 30


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("one 2", "the text that was trained on has no '2'; choose another --prompt"),
        ("", "--prompt is empty"),
    ],
)
def test_prompts_that_are_refused(
    store: Store, characters: tuple[Stage, Artifact], words: tuple[Stage, Artifact], prompt: str, message: str
) -> None:
    for stage, _ in (characters, words):
        with pytest.raises(sampling.SamplingError, match=message):
            text(stage, store, prompt)


def sample(store: Store, stage: Stage, *arguments: str) -> int:
    write_stages(store, [stage])
    return dlpipe("sample", stage.id, *arguments, "--data", str(store.data), "--results", str(store.results))


def test_the_command_prints_or_writes(
    store: Store, characters: tuple[Stage, Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, _ = characters
    options = ("--prompt", "one", "--length", "9", "--temperature", "0")
    assert sample(store, stage, *options) == 0
    printed = capsys.readouterr().out
    assert printed == text(stage, store, "one", length=9, temperature=0.0) + "\n"
    assert sample(store, stage, *options, "--to", str(tmp_path / "mine.txt")) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'mine.txt'}\n"
    assert (tmp_path / "mine.txt").read_text() == printed
    assert sample(store, stage, *options, "--to", str(tmp_path / "mine.png")) == 1
    assert f"{tmp_path / 'mine.png'}: text is written as .txt" in capsys.readouterr().err
    assert not (tmp_path / "mine.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--label", "a"), "--label does not apply: the samples here are text, with --prompt, --length, --temperature"),
        (("--steps", "5"), "--steps does not apply"),
        (("--count", "5"), "--count does not apply"),
        (("--temperature", "-1"), "-1.0 is not in the range"),
        (("--temperature", "nan"), "nan is not a finite number"),
        (("--temperature", "inf"), "inf is not a finite number"),
    ],
)
def test_options_of_pictures_are_refused_of_text(
    store: Store,
    characters: tuple[Stage, Artifact],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert sample(store, characters[0], *arguments) == 2
    assert message in capsys.readouterr().err


def test_options_of_text_are_refused_of_pictures(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    model = {"kind": "dbn", "units": [8, 6]}
    stage = finetune_stage(prepared(store), model=model, task={"kind": "generative"})
    finetune.run(stage, store)
    for option, value in (("--prompt", "a"), ("--length", "3"), ("--temperature", "0.5")):
        assert sample(store, stage, option, value) == 2
        assert f"{option} does not apply: the samples here are pictures, with" in capsys.readouterr().err
