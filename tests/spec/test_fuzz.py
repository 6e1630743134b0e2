"""Whatever a file holds, it loads or raises SpecError; nothing else."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dlpipe.spec.problems import SpecError
from dlpipe.spec.variants import load
from tests.spec.conftest import BASE

WORDS = [
    "title",
    "dataset",
    "model",
    "pretrain",
    "finetune",
    "axes",
    "skip",
    "seeds",
    "scales",
    "claims",
    "figures",
    "from",
    "where",
    "experiment",
    "kind",
    "layer",
    "duration",
    "epochs",
    "steps",
    "optimizer",
    "learning_rate",
    "sgd",
    "rbm",
    "mlp",
    "digits",
    "units",
    "task",
    "select",
    "best_of",
    "compare",
    "with",
    "for_each",
    "grows",
    "axis",
    "to",
    "demo",
    "lab",
    "paper",
    "model.units",
    "pretrain.layer",
    "pretrain.0",
    "finetune.duration.epochs",
    "a",
    "b",
    "1",
    "2",
    ".",
    "..",
    "<<",
]
RICH = (Path(__file__).parent / "example.yaml").read_text() + (
    "skip: [{pretraining: none, depth: [1, 2]}]\nfigures: [{kind: comparison, x: depth}]\nresources: {mem_mb: 5}\n"
)
PIECES = [
    "&a ",
    "*a",
    "[",
    "]",
    "{",
    "}",
    ": ",
    ", ",
    "- ",
    "\n",
    "\n  ",
    "\t",
    "'",
    '"',
    "!!set ",
    "---\n",
    "null",
    "1e999",
    "~",
    "#",
    "|",
    "\ufeff",
    "\x85",
]

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(WORDS), st.text(max_size=8), st.just(10**39)
)
trees = st.recursive(
    scalars,
    lambda parts: (
        st.lists(parts, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), parts, max_size=6)
    ),
    max_leaves=25,
)
calm = settings(
    max_examples=150,
    deadline=None,  # the first example pays for imports
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def try_to_load(folder: Path, content: bytes, overrides: tuple[str, ...] = (), scale: str | None = None) -> None:
    path = folder / "fuzz.yaml"
    path.write_bytes(content)
    with contextlib.suppress(SpecError):
        load(path, scale=scale, overrides=overrides)


@calm
@given(st.binary(max_size=200))
def test_bytes(tmp_path: Path, content: bytes) -> None:
    try_to_load(tmp_path, content)


@calm
@given(st.integers(0, len(RICH)), st.integers(0, 30), st.sampled_from(PIECES + WORDS))
def test_an_experiment_with_a_piece_replaced(tmp_path: Path, at: int, length: int, piece: str) -> None:
    try_to_load(tmp_path, (RICH[:at] + piece + RICH[at + length :]).encode(), scale="demo")


@calm
@given(
    st.sampled_from(["axes", "skip", "scales", "claims", "figures", "from", "pretrain", "finetune", "model", "seeds"]),
    trees,
)
@example("axes", {"a": {"1": {"": 1, ".": 2, "model..units": 3}}})
@example("claims", [{"says": "x", "compare": {}, "with": {}}])
@example("scales", {"demo": {"axes.a.b": 1, "axes": 5}})
def test_any_value_at_a_known_key(tmp_path: Path, key: str, value: object) -> None:
    import yaml

    base = "\n".join(line for line in BASE.split("\n"))
    text = yaml.safe_dump({key: value}, allow_unicode=True)
    try_to_load(tmp_path, (base + text).encode(errors="replace"), scale="demo")
    other = yaml.safe_dump({**yaml.safe_load(base), key: value}, allow_unicode=True)
    try_to_load(tmp_path, other.encode(errors="replace"))


@calm
@given(st.lists(st.sampled_from(WORDS + PIECES) | st.text(max_size=5), max_size=6).map("".join))
@pytest.mark.parametrize("path", ["", "model.units=", "pretrain.0."])
def test_overrides(tmp_path: Path, path: str, text: str) -> None:
    try_to_load(tmp_path, BASE.encode(), overrides=(path + text, "seeds=2"))
