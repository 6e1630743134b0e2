"""Whatever a file holds, it loads or raises SpecError; nothing else. `dlpipe plan` ends with exit code 0 or 2."""

from __future__ import annotations

import contextlib
import io
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dlpipe.cli import OK, USAGE, command_line, run
from dlpipe.spec.loading import load
from dlpipe.spec.problems import SpecError
from tests.faults.running import no_writing_outside
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
ROOT = Path(__file__).parents[2]
EXPERIMENTS = [path.read_text() for path in sorted((ROOT / "config" / "experiments").rglob("*.yaml"))]
MOST_SECONDS = 20
"""For one file: it takes a few milliseconds."""


def calm(in_campaign: int) -> settings:
    """150 examples, or as many as said in the campaign."""
    return settings(
        max_examples=in_campaign if settings.get_current_profile_name() == "campaign" else 150,
        deadline=None,  # the first example pays for imports
        suppress_health_check=[HealthCheck.function_scoped_fixture],
        derandomize=True,
    )


INPUTS: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def counted(tried: Callable[..., None]) -> Iterator[None]:
    """Tells how many inputs there were, how many of them were experiments, and how the others ended."""
    INPUTS.clear()
    yield
    tried(INPUTS.total(), ", ".join(f"{n:,} {how}" for how, n in INPUTS.most_common()))


def try_to_load(folder: Path, content: bytes, overrides: tuple[str, ...] = (), scale: str | None = None) -> None:
    path = folder / "fuzz.yaml"
    path.write_bytes(content)
    try:
        load(path, scale=scale, overrides=overrides)
        INPUTS["loaded"] += 1
    except SpecError:
        INPUTS["refused"] += 1


@calm(1000)
@given(st.binary(max_size=200))
def test_bytes(tmp_path: Path, content: bytes) -> None:
    try_to_load(tmp_path, content)


@calm(1000)
@given(st.integers(0, len(RICH)), st.integers(0, 30), st.sampled_from(PIECES + WORDS))
def test_an_experiment_with_a_piece_replaced(tmp_path: Path, at: int, length: int, piece: str) -> None:
    try_to_load(tmp_path, (RICH[:at] + piece + RICH[at + length :]).encode(), scale="demo")


@calm(1000)
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


@calm(1000)
@given(st.lists(st.sampled_from(WORDS + PIECES) | st.text(max_size=5), max_size=6).map("".join))
@pytest.mark.parametrize("path", ["", "model.units=", "pretrain.0."])
def test_overrides(tmp_path: Path, path: str, text: str) -> None:
    try_to_load(tmp_path, BASE.encode(), overrides=(path + text, "seeds=2"))


def mutated(text: str, changes: list[Change]) -> bytes:
    """A text with changes made one after another; each says how, where in thousandths, how much, and what to put."""
    for how, where, length, piece in changes:
        at = where * len(text) // 1000
        cut = text[at : at + length]
        lines = text.split("\n")
        line = where * len(lines) // 1000
        match how:
            case "replace":
                text = text[:at] + piece + text[at + length :]
            case "double":
                text = text[:at] + cut * 2 + text[at + length :]
            case "move":
                text = text[:at] + text[at + length :] + cut
            case "nest":
                text = text[:at] + "[" * length + text[at:]
            case "swap lines":
                lines[line], lines[-line] = lines[-line], lines[line]
                text = "\n".join(lines)
            case "indent":
                lines[line] = " " * (length % 5) + lines[line].strip()
                text = "\n".join(lines)
            case "value":
                lines[line] = f"{lines[line].partition(':')[0]}: {piece}"
                text = "\n".join(lines)
    return text.encode("utf-8", errors="surrogatepass")


HOSTILE = [
    "/dev/zero",
    "/etc/passwd",
    "../../../etc",
    "{kind: images, images: /dev/zero}",
    "[[]]",
    "-1",
    "1e308",
    "&x *x",
]
Change = tuple[str, int, int, str]
changes = st.lists(
    st.tuples(
        st.sampled_from(["replace", "double", "move", "nest", "swap lines", "indent", "value"]),
        st.integers(0, 999),
        st.integers(0, 60),
        st.sampled_from(PIECES + WORDS + HOSTILE) | st.text(max_size=4),
    ),
    min_size=1,
    max_size=4,
)


def try_to_plan(folder: Path, content: bytes) -> None:
    """As a user does: only a plan or a message, in good time, and nothing written but into the store."""
    path = folder / "fuzz.yaml"
    path.write_bytes(content)
    where = ["--data", str(folder / "data"), "--results", str(folder / "results")]
    message = io.StringIO()
    signal.alarm(MOST_SECONDS)
    try:
        with no_writing_outside(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(message):
            code = run(command_line, ["plan", str(path), *where])
    finally:
        signal.alarm(0)
    assert code in (OK, USAGE)
    assert (code == OK) == (message.getvalue() == "")
    assert "Traceback" not in message.getvalue()
    INPUTS["planned" if code == OK else "refused with a message"] += 1


@calm(5000)
@given(st.sampled_from(EXPERIMENTS), changes)
def test_plan_of_an_experiment_with_changes(tmp_path: Path, text: str, changes: list[Change]) -> None:
    try_to_plan(tmp_path, mutated(text, changes))


@calm(5000)
@given(st.dictionaries(st.sampled_from(WORDS[:14]), trees, max_size=8), st.sampled_from(EXPERIMENTS))
def test_plan_of_an_experiment_with_parts_made_up(tmp_path: Path, parts: dict[str, object], text: str) -> None:
    import yaml

    document = {**yaml.safe_load(text), **parts}
    try_to_plan(tmp_path, yaml.safe_dump(document, allow_unicode=True).encode(errors="replace"))
