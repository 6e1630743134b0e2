"""Files made to harm: a message or nothing at all, never a traceback, a hang, or a change outside the folder."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import os
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from dlpipe.artifacts import MANIFEST, Stage, write_stages
from dlpipe.datasets.archives import read_members
from dlpipe.datasets.idx import read_idx
from dlpipe.datasets.images import Images
from dlpipe.datasets.npz import read_npz
from dlpipe.datasets.sources import DataError
from dlpipe.files import canonical_json
from dlpipe.runtime.checkpoints import Checkpoints, Snapshot
from dlpipe.spec.datasets import Images as ImagesSpec
from tests.datasets.test_formats import idx_bytes, npy_bytes
from tests.faults.conftest import Run, Task
from tests.faults.running import dlpipe, no_writing_outside

SECRET = b"not yours"


def a_file(content: bytes) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(content)

    return write


def instead(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def put(path: Path) -> None:
        path.unlink()
        make(path)

    return put


NO_DOCUMENT: dict[str, Callable[[Path], object]] = {
    "nothing": a_file(b""),
    "null": a_file(b"null"),
    "a-list": a_file(b"[1]"),
    "a-text": a_file(b'"text"'),
    "a-number": a_file(b"7"),
    "an-empty-object": a_file(b"{}"),
    "deep-lists": a_file(b"[" * 200_000),
    "deep-objects": a_file(b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
    "a-huge-number": a_file(b'{"format": ' + b"9" * 100_000 + b"}"),
    "not-a-number": a_file(b'{"format": NaN}'),
    "not-utf-8": a_file(b'{"a": "\xff\xfe"}'),
    "half-a-surrogate": a_file(b'{"stage": "\\ud800"}'),
    "utf-16": a_file("{}".encode("utf-16")),
    "a-link-to-itself": instead(lambda path: path.symlink_to(path)),
    "a-link-to-endless-zeros": instead(lambda path: path.symlink_to("/dev/zero")),
    "a-pipe": instead(os.mkfifo),
    "a-file-of-a-terabyte": instead(lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 40)),
}


@pytest.mark.parametrize("document", NO_DOCUMENT)
def test_what_is_no_manifest_is_named_and_its_artifact_made_again(document: str, run: Run, finished: Run) -> None:
    task = run.of_rule("pretrain")[-1]
    NO_DOCUMENT[document](run.artifact(task) / MANIFEST)
    verified = dlpipe(run.folder, "verify")
    assert verified.exit_code == 3, verified.err
    assert f"damaged   {run.artifact(task).relative_to(run.folder)}" in verified.out
    assert dlpipe(run.folder, *task.arguments).exit_code == 0
    assert run.digests() == finished.digests()


@pytest.mark.parametrize("document", NO_DOCUMENT)
def test_what_is_no_stage_document_is_named(document: str, run: Run) -> None:
    task = run.of_rule("pretrain")[-1]
    assert task.stage is not None
    NO_DOCUMENT[document](run.store.stage_file(task.stage.id))
    ended = dlpipe(run.folder, *task.arguments)
    assert ended.exit_code in (1, 2)
    assert ended.says(task.stage.id), ended.err


def sealed(path: Path, **changes: Any) -> None:
    """A manifest with changes at its top level, and a seal that fits."""
    manifest = {**json.loads(path.read_text()), **changes}
    manifest.pop("seal")
    seal = hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
    path.write_text(json.dumps({**manifest, "seal": seal}))


def listing(name: str, **about: Any) -> dict[str, Any]:
    facts = {"bytes": len(SECRET), "sha256": hashlib.sha256(SECRET).hexdigest()}
    return {"files": {name: {**facts, **about}}}


FORGED: dict[str, dict[str, Any]] = {
    "out-of-its-folder": listing("../../secret"),
    "through-a-folder": listing("a/../../../secret"),
    "absolute": listing("/etc/hostname"),
    "a-nul-in-a-name": listing("a\0b"),
    "itself": listing("."),
    "no-name": listing(""),
    "a-name-too-long": listing("x" * 5000),
    "endless-zeros": listing("zeros", bytes=0),
    "a-pipe": listing("pipe", bytes=0),
    "a-size-that-is-none": listing("weights.safetensors", bytes="9"),
    "a-sum-that-is-none": listing("weights.safetensors", sha256=None),
    "files-in-a-list": {"files": ["weights.safetensors"]},
    "no-times": {"times": {}},
    "times-that-are-none": {"times": {"started": 1, "seconds": "long", "cpu_seconds": []}},
    "no-environment": {"environment": None},
    "sources-in-a-list": {"sources": []},
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_manifest_with_a_seal_that_fits_cannot_lead_out_of_its_folder(forged: str, run: Run, finished: Run) -> None:
    """Nor be of a wrong form. `plan`, `show`, `verify` and whoever reads the artifact say so."""
    task, reader = run.of_rule("pretrain")[-1], run.of_rule("finetune")[-1]
    folder = run.artifact(task)
    (run.store.results / "secret").write_bytes(SECRET)
    (folder / "zeros").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    (folder / "a").mkdir()
    sealed(folder / MANIFEST, **FORGED[forged])
    run.unmade(reader)
    verified = dlpipe(run.folder, "verify")
    assert (verified.exit_code, folder.name in verified.out) == (3, True)
    assert dlpipe(run.folder, "plan", "small").exit_code == 0
    assert dlpipe(run.folder, "show", folder.name).says()
    ended = dlpipe(run.folder, *reader.arguments)
    assert ended.exit_code == 1
    assert ended.says(folder.name, "run the same command again"), ended.err
    for again in (task, reader):
        assert dlpipe(run.folder, *again.arguments).exit_code == 0
    assert run.digests() == finished.digests()
    assert (run.store.results / "secret").read_bytes() == SECRET


def changed(stage: Stage, **changes: Any) -> Stage:
    return dataclasses.replace(stage, **changes)


STAGES: dict[str, Callable[[Stage], Stage]] = {
    "a-name-that-leads-out": lambda s: changed(s, name="../../victim"),
    "an-input-that-leads-out": lambda s: changed(s, inputs={**s.inputs, "data": "../../../victim"}),
    "a-hidden-input": lambda s: changed(s, inputs={**s.inputs, "data": ".."}),
    "an-input-with-a-nul": lambda s: changed(s, inputs={**s.inputs, "data": "a\0b"}),
    "inputs-that-are-missing": lambda s: changed(s, inputs={}),
    "a-rule-that-is-none": lambda s: changed(s, rule="../../victim"),
    "a-spec-without-its-fields": lambda s: changed(s, spec={}),
    "a-layer-that-is-none": lambda s: changed(s, spec={**s.spec, "layer": {"kind": "os.system"}}),
    "a-layer-without-a-kind": lambda s: changed(s, spec={**s.spec, "layer": {}}),
    "a-field-that-is-unknown": lambda s: changed(s, spec={**s.spec, "layer": {"kind": "rbm", "x": 1}}),
    "a-training-that-is-none": lambda s: changed(s, spec={**s.spec, "training": {"duration": "long"}}),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_forged_stage_document_ends_in_a_message_and_moves_nothing(name: str, run: Run, finished: Run) -> None:
    """Its digest fits its content, so it is what somebody meant it to be."""
    victim = run.folder.parent / "victim"
    victim.mkdir()
    (victim / "thesis").write_bytes(SECRET)
    stage = STAGES[name](finished.of_rule("pretrain")[0].stage)  # type: ignore[arg-type]
    (run.store.results / "stages" / "forged.json").write_text(json.dumps(stage.to_json()))
    path = run.store.stage_file(stage.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stage.to_json()))
    ended = dlpipe(run.folder, "pretrain", stage.id)
    assert ended.exit_code == 1
    assert ended.says("dlpipe: "), ended.err
    assert [path.name for path in victim.iterdir()] == ["thesis"]
    assert run.digests() == finished.digests()


@pytest.mark.parametrize("dataset", [None, 7, {}, {"kind": "none"}, {"kind": "digits", "x": 1}], ids=str)
@pytest.mark.parametrize("rule", ["fetch", "prepare"])
def test_hints_that_were_changed_end_in_a_message(rule: str, dataset: Any, run: Run) -> None:
    """They are no part of the digest, as they only say where things are."""
    task = run.of_rule(rule)[0]
    assert task.stage is not None
    run.unmade(task)
    write_stages(run.store, [changed(task.stage, hints={} if dataset is None else {"dataset": dataset})])
    ended = dlpipe(run.folder, *task.arguments)
    assert ended.exit_code == 1
    assert ended.says("dlpipe: "), ended.err


def header_of(text: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def one(dtype: str = "F32", shape: str = "[1]", offsets: str = "[0,4]") -> bytes:
    return f'{{"0/weight":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}'.encode()


NO_TENSORS: dict[str, bytes] = {
    "nothing": b"",
    "seven-bytes": b"\0" * 7,
    "a-header-longer-than-the-file": header_of(b"{}", length=1 << 20),
    "a-header-of-2-to-the-64": header_of(b"{}", length=(1 << 64) - 1),
    "a-header-that-is-no-json": header_of(b"{{{{{{{{"),
    "a-header-nested-deep": header_of(b'{"a":' * 100_000),
    "a-header-that-is-not-utf-8": header_of(b'{"\xff":1}'),
    "a-type-that-is-none": header_of(one("PICKLE"), bytes(4)),
    "offsets-out-of-the-file": header_of(one(offsets="[0,4000000000]"), bytes(4)),
    "offsets-backwards": header_of(one(offsets="[4,0]"), bytes(4)),
    "offsets-that-overlap": header_of(one()[:-1] + b"," + one()[1:].replace(b"0/weight", b"0/bias"), bytes(4)),
    "a-shape-that-is-too-large": header_of(one(shape="[4294967296,4294967296,4294967296]"), bytes(4)),
    "a-shape-below-zero": header_of(one(shape="[-1]"), bytes(4)),
    "a-hole": header_of(one(), bytes(400)),
    "a-pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
}
WEIGHTS: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "of-other-shapes": lambda weights: {name: torch.zeros(3, 3) for name in weights},
    "with-tensors-more": lambda weights: {**weights, "0/more": torch.zeros(1)},
    "with-tensors-less": lambda weights: dict(list(weights.items())[1:]),
    "of-no-seed": lambda weights: {f"x{name}": tensor for name, tensor in weights.items()},
}


def forged_layer(run: Run, finished: Run, content: bytes) -> tuple[Task, Task]:
    """An artifact whose manifest vouches for a hostile file, and who reads it."""
    task, reader = run.of_rule("pretrain")[-1], run.of_rule("finetune")[-1]
    path = run.artifact(task) / "weights.safetensors"
    path.write_bytes(content)
    files = json.loads((run.artifact(task) / MANIFEST).read_text())["files"]
    files[path.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    sealed(run.artifact(task) / MANIFEST, files=files)
    run.unmade(reader)
    return task, reader


@pytest.mark.parametrize("name", [*NO_TENSORS, *WEIGHTS])
def test_hostile_weights_that_a_manifest_vouches_for_end_in_a_message(name: str, run: Run, finished: Run) -> None:
    if name in NO_TENSORS:
        content = NO_TENSORS[name]
    else:
        sound = load_file(finished.artifact(finished.of_rule("pretrain")[-1]) / "weights.safetensors")
        content = save(WEIGHTS[name](sound))
    task, reader = forged_layer(run, finished, content)
    ended = dlpipe(run.folder, *reader.arguments)
    assert ended.exit_code == 1, ended.err
    assert ended.says("dlpipe: ", run.artifact(task).name), ended.err
    assert not run.artifact(reader).exists()


def test_weights_that_are_no_numbers_stop_the_training_that_reads_them(run: Run, finished: Run) -> None:
    sound = load_file(finished.artifact(finished.of_rule("pretrain")[-1]) / "weights.safetensors")
    _, reader = forged_layer(run, finished, save({name: tensor * torch.nan for name, tensor in sound.items()}))
    ended = dlpipe(run.folder, *reader.arguments)
    assert ended.exit_code == 1
    assert ended.says("nan"), ended.err
    assert not run.artifact(reader).exists()


KEY = {"stage": "x", "device": "cpu", "threads": 1, "torch": torch.__version__}


@pytest.mark.parametrize("name", NO_TENSORS)
def test_a_hostile_checkpoint_is_named_and_ignored(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "seed0.safetensors").write_bytes(NO_TENSORS[name])
    assert Checkpoints(tmp_path, KEY).load("seed0") is None
    assert "seed0.safetensors is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "header", ["[" * 100_000, "null", "{}", '{"key": 1}', '{"key": {}, "values": {}, "sha256": 0}']
)
def test_a_checkpoint_with_a_hostile_header_is_named_and_ignored(
    header: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"0/module/weight": torch.zeros(2)}, tmp_path / "seed0.safetensors", metadata={"checkpoint": header})
    assert Checkpoints(tmp_path, KEY).load("seed0") is None
    assert "starting seed0 anew" in capsys.readouterr().err


def calm(times: int) -> settings:
    return settings(
        max_examples=times,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
        derandomize=True,
    )


@st.composite
def spoilt(draw: st.DrawFn, sound: bytes) -> bytes:
    """A file with a few bytes changed, cut out or put in."""
    content = bytearray(sound)
    for _ in range(draw(st.integers(1, 3))):
        at, new = draw(st.integers(0, len(content))), draw(st.binary(max_size=8))
        old = len(new) if draw(st.booleans()) else draw(st.integers(0, 8))
        content[at : at + old] = new
    return bytes(content)


SNAPSHOT = Snapshot(
    {"0/module/weight": torch.arange(600.0).reshape(20, 30), "optimizer/step": torch.tensor(3)},
    {"finished": False, "step": 3, "trained": [0], "states": [{"seconds": 0.1}]},
)


def saved() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        Checkpoints(Path(folder), KEY).save("seed0", SNAPSHOT)
        return (Path(folder) / "seed0.safetensors").read_bytes()


def npz_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", npy_bytes(array))
        archive.writestr("labels.npy", npy_bytes(np.arange(len(array))))
    return file.getvalue()


PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)


def test_a_checkpoint_with_any_bytes_changed_is_refused(
    tmp_path: Path, often: Callable[[int, int], int], tried: Callable[..., None]
) -> None:
    """Or it is the same to a bit in all that counts."""

    @calm(often(100, 2000))
    @given(spoilt(saved()))
    def check(content: bytes) -> None:
        (tmp_path / "seed0.safetensors").write_bytes(content)
        found = Checkpoints(tmp_path, KEY).load("seed0")
        if found is not None:
            assert found.values == SNAPSHOT.values
            assert found.tensors.keys() == SNAPSHOT.tensors.keys()
            assert all(torch.equal(tensor, SNAPSHOT.tensors[name]) for name, tensor in found.tensors.items())

    check()
    tried(often(100, 2000))


def zip_of() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(range(200)))
    return file.getvalue()


def tar_of() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("a")
        info.size = 200
        archive.addfile(info, io.BytesIO(bytes(range(200))))
    return file.getvalue()[:2048]


FORMATS: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "npz": (npz_of(PIXELS), lambda path: read_npz(path, ["images", "labels"])),
    "npz-planned": (npz_of(PIXELS), lambda path: Images.sources(ImagesSpec(images=str(path), test=1))),
    "idx": (idx_bytes(PIXELS), lambda path: read_idx(path, axes=(2, 3))),
    "idx-packed": (gzip.compress(idx_bytes(PIXELS)), lambda path: read_idx(path, axes=(2, 3))),
    "zip": (zip_of(), lambda path: read_members(path, {"a": path.with_name("out")}, 1 << 20)),
    "tar": (tar_of(), lambda path: read_members(path, {"a": path.with_name("out")}, 1 << 20)),
    "tar-packed": (gzip.compress(tar_of()), lambda path: read_members(path, {"a": path.with_name("out")}, 1 << 20)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_data_with_any_bytes_changed_are_read_or_refused(
    name: str, tmp_path: Path, often: Callable[[int, int], int], tried: Callable[..., None]
) -> None:
    """With the error that says so, and no other."""
    sound, read = FORMATS[name]
    refused = 0

    @calm(often(100, 2000))
    @given(spoilt(sound))
    def check(content: bytes) -> None:
        nonlocal refused
        (tmp_path / "file").write_bytes(content)
        with no_writing_outside(tmp_path):
            try:
                read(tmp_path / "file")
            except DataError:
                refused += 1

    (tmp_path / "file").write_bytes(sound)
    read(tmp_path / "file")
    check()
    tried(often(100, 2000), f"{name}: {refused} refused")


def test_a_zip_that_unpacks_to_more_than_it_should_is_not_unpacked(tmp_path: Path) -> None:
    """A gibibyte of zeros in a megabyte, whose header says that it has four values."""
    path = tmp_path / "file.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as member:
        member.write(npy_bytes(np.zeros(4, np.uint8)))
        for _ in range(64):
            member.write(bytes(16 << 20))
    with pytest.raises(DataError, match="bytes of values; shape"):
        read_npz(path, ["images"])
