from __future__ import annotations

from pathlib import Path

import pytest

from dlpipe.artifacts import Store
from dlpipe.spec.base import FAMILIES
from tests.golden.traces import FOLDER, TRACES, committed, difference, run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", tmp_path / "results")


@pytest.mark.parametrize("name", TRACES)
def test_results_are_those_of_the_committed_version(name: str, store: Store) -> None:
    assert difference(run(name, store), committed(name)) is None


@pytest.mark.parametrize("name", TRACES)
def test_a_slightly_other_learning_rate_is_noticed(name: str, store: Store) -> None:
    """One per cent, seen in what it does to the losses, not in the recorded rate itself."""
    found = difference(run(name, store, rate=1.01), committed(name), ignore=("learning_rate",))
    assert found is not None
    assert "raise the version of what you changed" in found
    assert "`python -m tests.golden`" in found


def test_a_raised_version_asks_for_a_new_trace() -> None:
    golden = committed("rbm-cd1")
    found = difference(golden.replace("# layer.rbm 1", "# layer.rbm 2"), golden)
    assert found == "a version was raised: run `python -m tests.golden` and commit what changes"


def test_a_row_more_or_less_is_noticed() -> None:
    golden = committed("rbm-cd1")
    last = golden.splitlines()[-1]
    found = difference(golden.replace(last + "\n", ""), golden)
    assert found is not None
    assert last.rpartition(",")[0] in found


def test_every_kind_that_trains_has_a_trace_and_every_trace_a_kind() -> None:
    kinds = {
        f"{family}.{kind}"
        for family in ("layer", "model", "task", "optimizer", "schedule")
        for kind, spec in FAMILIES[family].items()
        if spec.implementation.startswith("dlpipe.")
    }
    traced = {part.component for trace in TRACES.values() for part in trace.components()}
    assert traced == kinds
    assert {path.stem for path in FOLDER.glob("*.csv")} == set(TRACES)
