"""Artifacts that were damaged: never used, found, named, and made again by the same commands."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlpipe.artifacts import MANIFEST, Store
from dlpipe.files import canonical_json
from tests.faults.conftest import Run, Task
from tests.faults.running import dlpipe

READ_BY = {
    "fetch": "prepare",
    "prepare": "pretrain",
    "pretrain": "finetune",
    "finetune": "evaluate",
    "evaluate": "plot",
    "plot": "report",
}
"""A stage's rule to the command that reads its artifact."""

UNLIKE = {**dict.fromkeys(READ_BY, ()), "plot": ("demo.html",)}
"""Files that differ when a stage was made again: the page tells how long the figures took."""

Damage = Callable[[Path, Path], object]
"""Of a file or a manifest, given the like of a sibling: an artifact of the same rule, made as it should be."""


def flipped(path: Path, sibling: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncated(path: Path, sibling: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path, sibling: Path) -> None:
    path.write_bytes(b"")


def gone(path: Path, sibling: Path) -> None:
    path.unlink()


def swapped(path: Path, sibling: Path) -> None:
    shutil.copyfile(sibling, path)


def a_link_to_another(path: Path, sibling: Path) -> None:
    path.unlink()
    path.symlink_to(sibling)


def a_folder(path: Path, sibling: Path) -> None:
    path.unlink()
    path.mkdir()


FILE_DAMAGE: list[Damage] = [flipped, truncated, emptied, gone, swapped, a_link_to_another, a_folder]


def lying(change: Callable[[dict[str, Any]], object], *, sealed: bool) -> Damage:
    """A manifest with something changed; `sealed`: and its seal made to fit."""

    def damage(path: Path, sibling: Path) -> None:
        manifest = json.loads(path.read_text())
        seal = manifest.pop("seal")
        change(manifest)
        if sealed:
            seal = hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
        path.write_text(json.dumps({"seal": seal, **manifest}))

    return damage


def first_file(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["files"][next(iter(manifest["files"]))]


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "size": lambda manifest: first_file(manifest).update(bytes=7),
    "sha256": lambda manifest: first_file(manifest).update(sha256="0" * 64),
    "spec": lambda manifest: manifest["stage"]["spec"].update(more=1),
    "id": lambda manifest: manifest["stage"].update(id="digits-000000000000"),
    "another-file": lambda manifest: manifest["files"].update(more=first_file(manifest)),
}
MANIFEST_DAMAGE: dict[str, Damage] = {
    "seal": lying(lambda manifest: None, sealed=False),
    **{f"{name}-{how}": lying(lie, sealed=how == "sealed") for name, lie in LIES.items() for how in ("bare", "sealed")},
}
MANIFEST_DAMAGE["seal"] = lambda path, sibling: path.write_text(path.read_text().replace('"seal": "', '"seal": "0'))
DAMAGE: dict[str, tuple[bool, Damage]] = {
    **{f"file-{damage.__name__}": (False, damage) for damage in FILE_DAMAGE},
    **{f"manifest-{damage.__name__}": (True, damage) for damage in FILE_DAMAGE},
    **{f"manifest-lies-{name}": (True, damage) for name, damage in MANIFEST_DAMAGE.items()},
}
"""Whether it is the manifest that is damaged, and how."""


def sibling_of(run: Run, task: Task, tmp_path: Path) -> Path:
    """Another stage's artifact, whose files have the same names and sizes and other bytes."""
    assert task.stage is not None
    other = Store(tmp_path / "data", tmp_path / "results")
    stage = dataclasses.replace(task.stage, seeds=(7, 8, 9))
    with other.make(stage) as draft:
        for path in run.artifact(task).iterdir():
            if path.name != MANIFEST:
                (draft.folder / path.name).write_bytes(path.read_bytes()[::-1])
    return other.folder(stage.rule, stage.id)


@pytest.mark.parametrize("rule", READ_BY)
def test_damage_is_found_named_and_made_good(
    rule: str,
    finished: Run,
    tmp_path: Path,
    often: Callable[[int, int], int],
    tried: Callable[..., None],
) -> None:
    """By `verify`; and by the commands of the flow, which never use it, name it, and make it again when run again."""
    folder = finished.artifact(finished.of_rule(rule)[-1])
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)[: often(1, 100)]
    chosen = DAMAGE if rule == "pretrain" else {name: DAMAGE[name] for name in list(DAMAGE)[:: often(5, 1)]}
    cases = [(name, MANIFEST) for name, (of_manifest, _) in chosen.items() if of_manifest]
    cases += [(name, file) for name, (of_manifest, _) in chosen.items() if not of_manifest for file in names]
    for number, (damage, name) in enumerate(cases):
        print(f"{rule}: {damage} of {name}")
        _damage_and_make_good(rule, DAMAGE[damage][1], name, finished, tmp_path / str(number))
    tried(len(cases), f"{rule}: {', '.join([MANIFEST, *names])}")


def _damage_and_make_good(rule: str, damage: Damage, name: str, finished: Run, folder: Path) -> None:
    run = finished.copy(folder / "run")
    task, reader = run.of_rule(rule)[-1], run.of_rule(READ_BY[rule])[-1]
    run.unmade(reader)
    path = run.artifact(task) / name
    damage(path, sibling_of(run, task, folder / "sibling") / name)
    where = path.parent.name if name == MANIFEST else path.relative_to(run.folder).as_posix()
    verified = dlpipe(run.folder, "verify")
    assert verified.exit_code == 3
    assert where in verified.out
    assert f"{len(run.tasks) - 1 - (reader.stage is not None)} artifacts: 1 damaged" in verified.out
    first = dlpipe(run.folder, *reader.arguments)
    assert first.says(where), first.err
    assert first.exit_code == (1 if reader.stage else 0), "a report is written without its figures, and says so"
    for again in (task, reader):
        ended = dlpipe(run.folder, *again.arguments)
        assert ended.exit_code == 0, ended.err
    assert run.digests(but=UNLIKE[rule]) == finished.digests(but=UNLIKE[rule])


@pytest.mark.parametrize("rule", READ_BY)
def test_an_artifact_in_the_place_of_a_sibling_is_found_named_and_made_good(
    rule: str, run: Run, finished: Run, tmp_path: Path
) -> None:
    task, reader = run.of_rule(rule)[-1], run.of_rule(READ_BY[rule])[-1]
    sibling = sibling_of(run, task, tmp_path / "sibling")
    run.unmade(task)
    run.unmade(reader)
    shutil.copytree(sibling, run.artifact(task))
    verified = dlpipe(run.folder, "verify")
    assert (verified.exit_code, run.artifact(task).name in verified.out) == (3, True)
    for again in (task, reader):
        assert dlpipe(run.folder, *again.arguments).exit_code == 0
    assert run.digests(but=UNLIKE[rule]) == finished.digests(but=UNLIKE[rule])


@pytest.mark.parametrize("rule", READ_BY)
def test_a_planted_file_is_named_and_never_read(rule: str, run: Run, finished: Run) -> None:
    task, reader = run.of_rule(rule)[-1], run.of_rule(READ_BY[rule])[-1]
    planted = run.artifact(task) / "planted.csv"
    planted.write_text("planted")
    run.unmade(reader)
    verified = dlpipe(run.folder, "verify")
    assert verified.exit_code == 0
    assert f"{planted.relative_to(run.folder)} is not in the manifest; nothing reads it" in verified.out
    assert "0 damaged, 0 made by other code than today's, 1 extra files" in verified.out
    assert dlpipe(run.folder, *reader.arguments).exit_code == 0
    planted.unlink()
    assert run.digests() == finished.digests()


@pytest.mark.parametrize("damage", FILE_DAMAGE[:4], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", ["demo.html", "demo.json"])
def test_a_damaged_report_is_written_anew_from_verified_results(
    name: str, damage: Damage, run: Run, finished: Run
) -> None:
    damage(run.store.results / "report" / name, Path())
    assert dlpipe(run.folder, "report", "small").exit_code == 0
    assert run.digests() == finished.digests()


@pytest.mark.parametrize("damage", FILE_DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_stage_document_is_named_and_planned_anew(damage: Damage, run: Run, tmp_path: Path) -> None:
    """A job that is given its stage's id says what is wrong with the document; one that is given the experiment
    writes it again."""
    task = run.of_rule("finetune")[-1]
    assert task.stage is not None
    run.unmade(task)
    path = run.store.stage_file(task.stage.id)
    sound = path.read_bytes()
    damage(path, run.store.stage_file(run.of_rule("finetune")[0].arguments[1]))
    ended = dlpipe(run.folder, *task.arguments)
    assert ended.exit_code in (1, 2)
    assert ended.says(task.stage.id), ended.err
    if damage is not a_folder:
        assert dlpipe(run.folder, "finetune", "small").exit_code == 0
        assert path.read_bytes() == sound
