"""The JSON schema is in step with the models, and says the same as they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dlpipe.spec import source
from dlpipe.spec.problems import Report
from dlpipe.spec.schema import FILE, MODELINE, experiment_schema, schema_text
from tests.spec import spec_goldens
from tests.spec.conftest import EXAMPLE

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted((ROOT / "config" / "experiments").rglob("*.yaml"))
SEEN_BY_THE_SCHEMA = [
    "unknown-key",
    "unknown-key-at-top",
    "key-of-another-kind",
    "misspelt-kind",
    "kind-from-nowhere",
    "no-kind",
    "dotted-kind",
    "missing-key",
    "wrong-type",
    "out-of-range",
    "not-a-choice",
    "yes-and-no",
    "duration-as-number",
    "axis-patches-seeds",
    "level-not-a-patch",
    "scale-name",
    "select",
    "phases",
    "null-where-required",
    "skip",
    "claim-half",
    "sequence-scaled",
]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(experiment_schema())
    return jsonschema.Draft202012Validator(experiment_schema())


def data(path: Path) -> Any:
    return source.read(path, Report()).data


def test_what_is_committed_is_in_step() -> None:
    assert (ROOT / FILE).read_text() == schema_text(), f"run `dlpipe schema > {FILE}`"


@pytest.mark.parametrize(
    "path", [EXAMPLE, spec_goldens.FOLDER / "starting-point.yaml", *EXPERIMENTS], ids=lambda p: p.stem
)
def test_experiments_hold(validator: jsonschema.Draft202012Validator, path: Path) -> None:
    assert [error.message for error in validator.iter_errors(data(path))] == []


@pytest.mark.parametrize("name", SEEN_BY_THE_SCHEMA)
def test_broken_files_do_not(validator: jsonschema.Draft202012Validator, name: str) -> None:
    assert not validator.is_valid(data(spec_goldens.FOLDER / f"{name}.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_experiment_names_the_schema(path: Path) -> None:
    assert path.read_text().startswith(f"{MODELINE}\n")
    named = MODELINE.partition("$schema=")[2]
    assert (path.parent / named).resolve() == ROOT / FILE
