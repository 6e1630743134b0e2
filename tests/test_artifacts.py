"""Artifacts are complete or absent, verified when read, and made by one process at a time."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlpipe.artifacts import ArtifactError, Stage, Store, read_stage, write_stages
from dlpipe.files import write_atomically
from dlpipe.locks import Lock, LockedError
from dlpipe.provenance import source_digests

STAGE = Stage(
    "pretrain", "digits-rbm8", {"units": 8, "rate": 0.1, "layer": {"kind": "rbm"}}, {"data": "digits-1"}, (0, 1)
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", tmp_path / "results")


def make(store: Store, stage: Stage = STAGE) -> Path:
    with store.make(stage) as draft:
        (draft.folder / "weights.bin").write_bytes(b"weights")
        (draft.folder / "history.csv").write_text("a,b\n")
        draft.extra["classes"] = ["0", "1"]
    return store.folder(stage.rule, stage.id)


def test_the_digest_is_of_the_content_not_of_the_order():
    reordered = dataclasses.replace(STAGE, spec={"layer": {"kind": "rbm"}, "rate": 0.1, "units": 8})
    assert reordered.id == STAGE.id


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {**STAGE.spec, "rate": 0.2}},
        {"spec": {**STAGE.spec, "units": 0.1, "rate": 8}},
        {"inputs": {"data": "digits-2"}},
        {"seeds": (1, 0)},
        {"versions": {"layer.rbm": 2}},
        {"rule": "finetune"},
    ],
)
def test_the_digest_covers(change):
    assert dataclasses.replace(STAGE, **change).digest != STAGE.digest


def test_hints_and_name_are_not_digested():
    assert dataclasses.replace(STAGE, hints={"url": "x"}, name="other").digest == STAGE.digest


def test_an_artifact_is_read_back(store):
    folder = make(store)
    artifact = store.read("pretrain", STAGE.id)
    assert artifact.path("weights.bin").read_bytes() == b"weights"
    assert artifact.extra == {"classes": ["0", "1"]}
    assert artifact.stage == STAGE
    assert sorted(p.name for p in folder.parent.iterdir()) == [STAGE.id]
    with pytest.raises(ArtifactError, match="no file other"):
        artifact.path("other")


def test_a_failure_leaves_nothing(store):
    def fail() -> None:
        with store.make(STAGE) as draft:
            (draft.folder / "weights.bin").write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(store.folder("pretrain", "x").parent.iterdir()) == []
    assert not store.is_done("pretrain", STAGE.id)


DAMAGE = {
    "flipped": lambda p: p.write_bytes(b"weightz"),
    "truncated": lambda p: p.write_bytes(b"weigh"),
    "emptied": lambda p: p.write_bytes(b""),
    "deleted": lambda p: p.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("name", ["weights.bin", "manifest.json"])
def test_damage_is_found_named_and_set_aside(store, damage, name):
    folder = make(store)
    damage(folder / name)
    with pytest.raises(ArtifactError, match=name):
        store.read("pretrain", STAGE.id)
    with pytest.raises(ArtifactError, match="run the same command again"):
        store.read_or_set_aside("pretrain", STAGE.id)
    assert not folder.exists()
    assert make(store).exists()


def test_an_empty_folder_is_an_artifact_that_is_not_made_yet(store):
    """Snakemake makes it before the job is run; a report in the meantime leaves it."""
    folder = store.folder("pretrain", STAGE.id)
    folder.mkdir(parents=True)
    with pytest.raises(ArtifactError, match="Run `dlpipe pretrain"):
        store.read_or_set_aside("pretrain", STAGE.id)
    assert folder.exists()
    assert make(store).exists()


def test_a_lying_manifest_is_found(store):
    folder = make(store)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["weights.bin"]["sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="sealed"):
        store.read("pretrain", STAGE.id)


def test_a_siblings_artifact_is_not_taken_for_ours(store):
    sibling = dataclasses.replace(STAGE, seeds=(7,))
    make(store, sibling).rename(store.folder("pretrain", STAGE.id))
    with pytest.raises(ArtifactError, match="sealed"):
        store.read("pretrain", STAGE.id)


def test_missing_says_which_command_makes_it(store):
    with pytest.raises(ArtifactError, match=f"dlpipe pretrain {STAGE.id}"):
        store.read_or_set_aside("pretrain", STAGE.id)


def test_write_atomically_replaces_or_leaves(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "one")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_stage_document_that_was_changed_is_refused(store):
    write_stages(store, [STAGE])
    assert read_stage(store, STAGE.id) == STAGE
    path = store.stage_file(STAGE.id)
    path.write_text(path.read_text().replace("0.1", "0.2"))
    with pytest.raises(ArtifactError, match="has been changed"):
        read_stage(store, STAGE.id)
    with pytest.raises(ArtifactError, match="no stage other"):
        read_stage(store, "other")


def test_a_stage_document_is_written_again_only_for_new_hints(store):
    write_stages(store, [STAGE])
    path = store.stage_file(STAGE.id)
    os.utime(path, (1, 1))
    write_stages(store, [STAGE])
    assert path.stat().st_mtime == 1
    write_stages(store, [dataclasses.replace(STAGE, hints={"dataset": {}})])
    assert read_stage(store, STAGE.id).hints == {"dataset": {}}


def test_a_lock_is_exclusive(tmp_path):
    path = tmp_path / "lock.json"
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from dlpipe.locks import Lock; from pathlib import Path; import time\n"
            f"with Lock(Path({str(path)!r})): print('held', flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(LockedError, match=f"process {child.pid}"), Lock(path):
            pass
        child.send_signal(signal.SIGKILL)
        child.wait()
        with Lock(path) as lock:  # a dead owner's lock is free at once
            lock.beat()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert not path.exists()


def test_whoever_lost_the_lock_does_not_write(store):
    def lose_the_lock() -> None:
        with store.make(STAGE) as draft:
            (draft.folder / "weights.bin").write_bytes(b"late")
            draft.lock.path.write_text(json.dumps({"host": "other", "pid": 1, "started": "1"}))

    with pytest.raises(LockedError, match="stops without writing"):
        lose_the_lock()
    assert not store.folder("pretrain", STAGE.id).exists()


def test_who_shares_the_data_and_not_the_results_shares_the_datas_locks(tmp_path):
    ours, theirs = (Store(tmp_path / "data", tmp_path / name) for name in ("ours", "theirs"))
    for rule, shared in (("fetch", True), ("prepare", True), ("pretrain", False), ("plot", False)):
        assert (ours.lock_file(rule, "x") == theirs.lock_file(rule, "x")) is shared


def test_a_lock_of_another_host_is_free_after_its_patience(tmp_path):
    path = tmp_path / "lock.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1"}))
    with pytest.raises(LockedError, match="on elsewhere"), Lock(path):
        pass
    os.utime(path, (time.time() - Lock.patience - 1,) * 2)
    with Lock(path):
        pass


def test_a_reused_process_id_does_not_hold_a_lock(tmp_path):
    path = tmp_path / "lock.json"
    path.write_text(json.dumps({**Lock(path).owner, "started": "1"}))
    with Lock(path) as lock:
        assert json.loads(path.read_text()) == lock.owner


def test_sources_are_digested_without_importing_them():
    digests = source_digests({"stage.pretrain": "dlpipe.stages.pretrain:run"})
    assert len(digests["stage.pretrain"]) == 16


@pytest.mark.parametrize("module", ["not_installed.layers:Layer", "", ":x"])
def test_a_component_that_is_not_installed_here_has_no_digest(module):
    assert source_digests({"layer.other": module}) == {"layer.other": "unknown"}
