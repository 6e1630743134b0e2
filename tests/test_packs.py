"""Packs: what is packed comes out as it was, and whatever else is in a pack is refused and nowhere to be found."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dlpipe import packs, progress
from dlpipe.artifacts import FOLDERS, RULES, Stage, Store
from dlpipe.cli import command_line, run
from dlpipe.errors import StepError
from dlpipe.files import canonical_json
from dlpipe.locks import Lock, process_start
from dlpipe.provenance import source_digests
from tests.workspace import EXPERIMENT, write_experiment

METRICS = Stage("evaluate", "digits-mlp", {"task": {"kind": "classification"}}, {"model": "digits-1"}, (0, 1))
FIGURES = Stage("plot", "small-demo", {"experiment": "small"}, {"metrics": [METRICS.id]})
STAGES = (METRICS, FIGURES)
TABLE = b"seed,metric,value\n" * 40
"""720 bytes: with padding, more than one block."""


def dlpipe(*arguments: str) -> int:
    return run(command_line, list(arguments))


def make(store: Store) -> None:
    """One artifact of metrics and one of figures, the latter with a file in a folder."""
    with store.make(METRICS, threads=1) as draft:
        (draft.folder / "metrics.csv").write_bytes(TABLE)
        (draft.folder / "times.csv").write_bytes(b"")
    with store.make(FIGURES) as draft:
        (draft.folder / "figures.json").write_text("[]")
        (draft.folder / "parts").mkdir()
        (draft.folder / "parts" / "01-curves.svg").write_bytes(b"<svg/>" * 100)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: files with their content, folders and links with None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(folder.rglob("*"))
    }


def artifacts(store: Store) -> list[str]:
    """The artifacts that stand, each read and verified, and nothing beside them: nothing half there."""
    found = []
    for rule in RULES:
        for folder in sorted(store.folder(rule, "x").parent.glob("*")):
            found.append(store.read(rule, folder.name).stage.id)
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: `from` has artifacts, `to` will get them."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    make(Store("from/data", "from/results"))
    return folder


@pytest.fixture
def source(here: Path) -> Store:
    return Store("from/data", "from/results")


@pytest.fixture
def target(here: Path) -> Store:
    return Store("to/data", "to/results")


TO = ("--data", "to/data", "--results", "to/results")


def packed(store: Store, path: str | Path = "small.tar", stages: tuple[Stage, ...] = STAGES) -> Path:
    packs.pack([], stages, "report", store, Path(path))
    return Path(path)


# Packing


def test_what_is_packed_comes_out_as_it_was(source, target):
    done = packs.unpack(packed(source), target)
    assert done.counts == {"unpacked": 2}
    assert artifacts(target) == [METRICS.id, FIGURES.id]
    for rule, stage in (("evaluate", METRICS), ("plot", FIGURES)):
        assert tree(target.folder(rule, stage.id)) == tree(source.folder(rule, stage.id))
        assert json.loads(target.stage_file(stage.id).read_bytes()) == stage.to_json()


def test_the_same_artifacts_give_the_same_bytes(source, here):
    before = packed(source).read_bytes()
    shutil.copytree("from", "copy")
    for path in Path("copy").rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    assert packed(Store("copy/data", "copy/results"), "other.tar", STAGES[::-1]).read_bytes() == before


def test_a_pack_is_a_tar_that_every_tool_reads(source, here):
    with tarfile.open(packed(source)) as tar:
        index, *members = tar.getmembers()
        assert index.name == "pack.json"
        assert {(m.mtime, m.uid, m.gid, m.mode, m.type) for m in (index, *members)} == {(0, 0, 0, 0o644, b"0")}
        for member in members:
            assert tar.extractfile(member).read() == Path("from", member.name).read_bytes()
    assert [m.name.split("/")[1] for m in members] == ["metrics"] * 3 + ["figures"] * 3


@pytest.mark.parametrize(
    ("name", "size", "digest"),
    [
        ("results/metrics/a-0123456789ab/manifest.json", 5, "bb4f2221f8a3a48a"),
        ("results/metrics/" + "long" * 40 + "-0123456789ab/manifest.json", 5, "acc9e31b380e8913"),
        ("data/raw/a-0123456789ab/train.idx", 9 << 30, "0cba595e5b0e6f74"),
    ],
    ids=["short", "long-name", "over-8-GiB"],
)
def test_headers_are_the_same_with_every_python(name, size, digest):
    """They are the format: should a Python write them otherwise, its packs and those of others would not be read."""
    assert hashlib.sha256(packs.tar_header(name, size)).hexdigest()[:16] == digest


def test_long_names_travel(source, target):
    stage = Stage("evaluate", "long" * 40, {})
    with source.make(stage) as draft:
        (draft.folder / ("x" * 150)).write_bytes(TABLE)
    assert packs.unpack(packed(source, stages=(stage,)), target).counts == {"unpacked": 1}
    assert (target.folder("evaluate", stage.id) / ("x" * 150)).read_bytes() == TABLE


def test_damage_is_named_all_of_it_and_nothing_is_written(source, here):
    Path("small.tar").write_bytes(b"as it was")
    metrics, figures = source.folder("evaluate", METRICS.id), source.folder("plot", FIGURES.id)
    (metrics / "metrics.csv").write_bytes(TABLE[:-1] + b"x")
    (metrics / "times.csv").unlink()
    (figures / "manifest.json").write_text("{")
    with pytest.raises(packs.PackError) as error:
        packed(source)
    for name in (metrics / "metrics.csv", metrics / "times.csv", figures / "manifest.json"):
        assert str(name) in str(error.value)
    assert sorted(path.name for path in here.iterdir()) == ["from", "small.tar"]
    assert Path("small.tar").read_bytes() == b"as it was"


def test_what_the_manifest_does_not_list_does_not_travel(source, target):
    (source.folder("evaluate", METRICS.id) / "left-over.csv").write_text("x")
    packs.unpack(packed(source), target)
    assert not (target.folder("evaluate", METRICS.id) / "left-over.csv").exists()


def test_a_file_name_that_no_pack_may_have_is_refused_when_packing(source):
    stage = Stage("evaluate", "odd", {})
    with source.make(stage) as draft:
        (draft.folder / "with space.csv").write_bytes(TABLE)
    with pytest.raises(packs.PackError, match=r"cannot be packed.*with space\.csv"):
        packed(source, stages=(stage,))


# Unpacking


def test_what_stands_is_kept_and_what_is_damaged_set_aside_and_replaced(source, target):
    path = packed(source)
    packs.unpack(path, target)
    kept = target.folder("evaluate", METRICS.id) / "metrics.csv"
    time = kept.stat().st_mtime_ns
    spoilt = target.folder("plot", FIGURES.id)
    (spoilt / "figures.json").write_text("{}")
    assert packs.unpack(path, target).counts == {"kept": 1, "replaced": 1}
    assert kept.stat().st_mtime_ns == time
    assert target.read("plot", FIGURES.id).path("figures.json").read_text() == "[]"
    aside = [folder for folder in spoilt.parent.iterdir() if folder.name.startswith(".broken-")]
    assert [(folder / "figures.json").read_text() for folder in aside] == ["{}"]


def test_a_stage_document_that_stands_is_left_alone(source, target):
    target.stage_file(METRICS.id).parent.mkdir(parents=True)
    target.stage_file(METRICS.id).write_text("with hints of this side")
    packs.unpack(packed(source), target)
    assert target.stage_file(METRICS.id).read_text() == "with hints of this side"


def test_the_state_of_a_training_that_is_no_longer_needed_goes(source, target):
    target.checkpoints(METRICS).mkdir(parents=True)
    packs.unpack(packed(source), target)
    assert not target.checkpoints(METRICS).exists()


def test_an_interruption_leaves_what_was_complete(source, target, monkeypatch):
    path, copy = packed(source), packs._copy_out

    def interrupted(file, member, *rest):
        if "figures.json" in member.name:
            raise KeyboardInterrupt
        return copy(file, member, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(packs, "_copy_out", interrupted)
        assert dlpipe("unpack", str(path), *TO) == 130
    assert artifacts(target) == [METRICS.id]
    assert dlpipe("unpack", str(path), *TO) == 0
    assert artifacts(target) == [METRICS.id, FIGURES.id]


KILLED = """
import os, signal, sys
from pathlib import Path
from dlpipe import packs, progress
from dlpipe.artifacts import Store
copy = packs._copy_out
def killed(file, member, sha256, target):
    yield from copy(file, member, sha256, target)
    if "parts" in member.name:
        os.kill(os.getpid(), signal.SIGKILL)
packs._copy_out = killed
packs.unpack(Path(sys.argv[1]), Store("to/data", "to/results"))
"""


def test_after_a_kill_the_next_unpack_cleans_up_and_completes(source, target):
    path = packed(source)
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(target.folder("plot", "x").parent.glob(".making-*"))
    assert packs.unpack(path, target).counts == {"kept": 1, "unpacked": 1}
    assert artifacts(target) == [METRICS.id, FIGURES.id]
    assert not target.lock_file("plot", FIGURES.id).exists()


def test_an_artifact_that_another_process_is_making_is_left_to_it(source, target):
    path = packed(source)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        lock = Lock(target.lock_file("evaluate", METRICS.id))
        lock.owner.update(pid=other.pid, started=process_start(other.pid))
        with lock:
            assert dlpipe("unpack", str(path), *TO) == 1
        other.communicate(b"\n")
    assert artifacts(target) == []


def test_progress_and_counts(source, here, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINES", progress.Pace(0.0))
    path = packed(source)
    total = sum(len(content) for content in tree(here / "from").values() if content is not None)
    assert f"pack small.tar: {total:,} of {total:,} bytes" in capsys.readouterr().err
    assert dlpipe("unpack", str(path), *TO) == 0
    out, err = capsys.readouterr()
    assert f"unpack small.tar: {total:,} of {total:,} bytes" in err
    assert out == f"2 artifacts, {total:,} bytes: 2 unpacked\n"


# Hostile packs


@dataclass
class Entry:
    name: str
    content: bytes
    header: bytes | None = None
    """Without one, the one that belongs to it."""

    def to_bytes(self) -> bytes:
        header = packs.tar_header(self.name, len(self.content)) if self.header is None else self.header
        return header + self.content + bytes(-len(self.content) % 512)


class Forged:
    """A sound pack that a test changes, and whose index then says of the contents what it said of them before."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as tar:
            entries = [Entry(member.name, tar.extractfile(member).read()) for member in tar]
        self.index: Any = json.loads(entries[0].content)
        self.entries = entries[1:]
        self.head: bytes | None = None
        """All of the index's member, if it is not made of `index`."""
        self.tail = bytes(1024)

    @property
    def files(self) -> dict[str, Any]:
        """What the index announces of the metrics."""
        return self.index["artifacts"][0]["files"]

    def entry(self, name: str = "metrics.csv") -> Entry:
        return next(entry for entry in self.entries if entry.name.endswith(f"/{name}"))

    def announce(self) -> None:
        """Makes the index tell the truth about the entries, whatever they are."""
        for artifact in self.index["artifacts"]:
            folder = "/".join((*FOLDERS[artifact["rule"]], artifact["id"]))
            own = [entry for entry in self.entries if entry.name.startswith(f"{folder}/")]
            artifact["files"] = {entry.name.removeprefix(f"{folder}/"): announced(entry.content) for entry in own}

    def remanifest(self, change: Callable[[dict[str, Any]], object], *, seal: bool = True) -> None:
        """Changes the manifest of the metrics, and seals it again."""
        entry = self.entry("manifest.json")
        manifest = json.loads(entry.content)
        change(manifest)
        if seal:
            manifest.pop("seal")
            manifest["seal"] = hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
        entry.content = json.dumps(manifest).encode()
        self.announce()

    def to_bytes(self) -> bytes:
        head = Entry("pack.json", json.dumps(self.index).encode()).to_bytes() if self.head is None else self.head
        return head + b"".join(entry.to_bytes() for entry in self.entries) + self.tail


def announced(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def tar_header(
    name: str, size: int, kind: bytes = tarfile.REGTYPE, *, form: int = tarfile.GNU_FORMAT, **more: Any
) -> bytes:
    """A header as `dlpipe pack` would not write it."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(form)


def with_size(header: bytes, field: bytes) -> bytes:
    """A header whose size is written as `field`, with the right checksum."""
    block = header[:124] + field.ljust(12, b"\0") + header[136:148] + b" " * 8 + header[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def test_the_forger_changes_nothing_by_itself(source, target):
    path = packed(source)
    forged = Forged(path)
    Path("forged.tar").write_bytes(forged.to_bytes())
    assert packs.unpack(Path("forged.tar"), target).counts == {"unpacked": 2}
    assert artifacts(target) == [METRICS.id, FIGURES.id]


FILE = f"results/metrics/{METRICS.id}/metrics.csv"


def refused(
    forged: Forged | bytes, message: str, capsys: pytest.CaptureFixture[str], stands: tuple[str, ...] = ()
) -> None:
    """Exit code 1, a message, nothing outside the store, nothing half there in it."""
    Path("hostile.tar").write_bytes(forged if isinstance(forged, bytes) else forged.to_bytes())
    root = Path.cwd().parent
    before = {name: content for name, content in tree(root).items() if not name.startswith("work/to")}
    capsys.readouterr()
    assert dlpipe("unpack", "hostile.tar", *TO) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dlpipe: hostile.tar is refused: ")
    assert message in err
    assert err.count("\n") == 1
    assert {name: content for name, content in tree(root).items() if not name.startswith("work/to")} == before
    assert artifacts(Store("to/data", "to/results")) == list(stands)


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "../../../evil", "a/../../evil", "/tmp/evil", "//evil", "a\\b", "..\\evil", "C:\\evil", "C:evil",
        "a//b", "a/", "./a", "a/./b", "..", ".", "", " ", ".hidden", "a/.git", "a\n", "a\0b", "\x1b[2J", "metrics․csv",
        "ＭＥＴＲＩＣＳ.csv", "x" * 201,
    ],
)  # fmt: skip
def test_names_that_no_file_may_have(source, capsys, name):
    forged = Forged(packed(source))
    forged.files[name] = announced(b"")
    forged.entries.insert(1, Entry("x", b"", tar_header(name.replace("\0", ""), 0)))
    refused(forged, "pack.json: artifacts.0.files.", capsys)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("METRICS.csv", f"announces results/metrics/{METRICS.id}/METRICS.csv twice"),
        ("Manifest.json", f"announces results/metrics/{METRICS.id}/Manifest.json twice"),
        ("metrics.csv/x", f"announces {FILE}/x inside another file"),
        ("Times.csv/x/y", f"announces results/metrics/{METRICS.id}/Times.csv/x/y inside another file"),
    ],
)
def test_two_names_for_one_file(source, capsys, name, message):
    forged = Forged(packed(source))
    forged.files[name] = announced(b"")
    refused(forged, message, capsys)


@pytest.mark.parametrize(
    "stage_id",
    [
        "..", "../../evil-0123456789ab", "/evil-0123456789ab", ".evil-0123456789ab", "digits", "digits-*-0123456789ab",
        "digits-0123456789AB", "", "a/b-0123456789ab", "x" * 200 + "-0123456789ab", "digits-0123456789ab\n",
    ],
)  # fmt: skip
def test_ids_that_no_stage_has(source, capsys, stage_id):
    forged = Forged(packed(source))
    forged.index["artifacts"][0]["id"] = stage_id
    refused(forged, "pack.json: artifacts.0.id", capsys)


@pytest.mark.parametrize("rule", ["../..", "report", "", None, 5, ["evaluate"], "evaluate\n"])
def test_rules_that_make_no_artifact(source, capsys, rule):
    forged = Forged(packed(source))
    forged.index["artifacts"][0]["rule"] = rule
    refused(forged, "pack.json: artifacts.0.rule", capsys)


def test_an_artifact_announced_twice(source, capsys):
    forged = Forged(packed(source))
    forged.index["artifacts"].append(forged.index["artifacts"][0])
    refused(forged, f"announces results/metrics/{METRICS.id} twice", capsys)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (tar_header("../../evil", 720), "there is a file '../../evil' of 720 bytes"),
        (tar_header("/tmp/evil", 720), "there is a file '/tmp/evil'"),
        (tar_header(FILE, 720, tarfile.SYMTYPE, linkname="/etc/passwd"), "there is a symbolic link"),
        (tar_header(FILE, 720, tarfile.LNKTYPE, linkname="../../evil"), "there is a hard link"),
        (tar_header(FILE, 720, tarfile.CHRTYPE, devmajor=1, devminor=5), "there is a device"),
        (tar_header(FILE, 720, tarfile.BLKTYPE), "there is a device"),
        (tar_header(FILE, 720, tarfile.FIFOTYPE), "there is a pipe"),
        (tar_header(FILE, 720, tarfile.DIRTYPE), "there is a folder"),
        (tar_header("../evil/", 0, tarfile.DIRTYPE), "there is a folder '../evil'"),
        (tar_header(FILE, 720, tarfile.CONTTYPE), "there is a member"),
        (tar_header(FILE, 720, b"Z"), "there is a member"),
        (tar_header(FILE, 720, tarfile.GNUTYPE_SPARSE), "there is a sparse file"),
        (tar_header(FILE, 721), "of 721 bytes"),
        (tar_header(FILE, 1), "of 1 bytes"),
        (tar_header(FILE, 0), "of 0 bytes"),
        (tar_header(FILE, 720, mode=0o4755), "of 720 bytes"),
        (tar_header(FILE, 720, uid=1000, gname="root"), "of 720 bytes"),
        (tar_header(FILE, 720, mtime=1), "of 720 bytes"),
        (tar_header("x" * 300, 720), "there is a long name"),
        (tar_header(FILE, 720, tarfile.SYMTYPE, linkname="x" * 300), "there is a long link"),
        (tar_header(FILE, 720, form=tarfile.PAX_FORMAT, pax_headers={"path": "../../evil"}), "an extended header"),
        (tar_header(FILE, 720, form=tarfile.PAX_FORMAT, pax_headers={"GNU.sparse.major": "1"}), "an extended header"),
        (tarfile.TarInfo.create_pax_global_header({"path": "/evil"}), "an extended header"),
        (with_size(tar_header(FILE, 720), b"77777777777"), "of 8,589,934,591 bytes"),
        (with_size(tar_header(FILE, 720), b"\x80" + b"\x7f" * 11), "of 154,135,671,558,081,661,678,616,447 bytes"),
        (with_size(tar_header(FILE, 720), b"\xff" * 12), "of -1 bytes"),
        (with_size(tar_header(FILE, 720), b"-1"), "of -1 bytes"),
        (with_size(tar_header(FILE, 720), b"0x2d0"), "something that is no file of a tar"),
        (tar_header(FILE, 720)[:-1] + b"x", "something that is no file of a tar"),
        (bytes(512), "nothing more"),
        (b"", "something that is no file of a tar"),
    ],
)  # fmt: skip
def test_headers_other_than_the_announced(source, capsys, header, message):
    forged = Forged(packed(source))
    forged.entry().header = header
    refused(forged, f"where {FILE} (720 bytes) should stand", capsys)
    refused(forged, message, capsys)


def remove(forged: Forged, entry: Entry) -> None:
    forged.entries.remove(entry)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.entries.remove(f.entry()), f"where {FILE} (720 bytes) should stand"),
        (lambda f: f.entries.pop(), "where results/figures/small-demo"),
        (lambda f: f.entries.clear(), f"results/metrics/{METRICS.id}/manifest.json"),
        (lambda f: f.entries.insert(1, Entry("surplus", b"x")), "there is a file 'surplus' of 1 bytes"),
        (lambda f: f.entries.append(Entry("surplus", b"x")), "there is a file 'surplus' of 1 bytes"),
        (lambda f: f.entries.insert(1, f.entry()), f"where results/metrics/{METRICS.id}/times.csv"),
        (lambda f: f.entries.append(f.entry()), f"there is a file '{FILE}'"),
        (lambda f: f.entries.reverse(), f"where results/metrics/{METRICS.id}/manifest.json"),
        (lambda f: f.entries.insert(0, Entry("pack.json", b"{}")), "there is a file 'pack.json'"),
        (lambda f: setattr(f.entry(), "content", TABLE + b"more"), "of 724 bytes"),
        (lambda f: setattr(f.entry(), "content", TABLE[:-1]), "of 719 bytes"),
        (lambda f: setattr(f, "tail", b""), "where the mark of its end should stand"),
        (lambda f: setattr(f, "tail", bytes(512)), "where the mark of its end should stand"),
        (lambda f: setattr(f, "tail", bytes(1024) + b"x"), "it goes on after its end, for 1 bytes"),
        (lambda f: setattr(f, "tail", bytes(1023) + b"x"), "where the mark of its end should stand"),
        (lambda f: f.files["metrics.csv"].update(bytes=1 << 59), f"where {FILE} (576,460,752,303,423,488 bytes)"),
    ],
)
def test_members_missing_surplus_or_of_another_size(source, capsys, change, message):
    forged = Forged(packed(source))
    change(forged)
    refused(forged, message, capsys)


def test_a_file_that_is_larger_than_any_disk_in_all_is_refused(source, capsys):
    """Sixty-four of the largest: places that no 64-bit number holds."""
    forged = Forged(packed(source))
    for number in range(64):
        forged.files[f"part{number}"] = {"bytes": (1 << 60) - 1, "sha256": "0" * 64}
    refused(forged, "part0 (1,152,921,504,606,846,975 bytes) should stand", capsys)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: setattr(f.entry(), "content", TABLE[:-1] + b"x"),
        lambda f: f.files["metrics.csv"].update(sha256="0" * 64),
    ],
    ids=["content", "index"],
)
def test_a_content_with_another_sha256(source, capsys, change):
    forged = Forged(packed(source))
    change(forged)
    refused(forged, f"the content of {FILE} does not match its sha256", capsys)


def test_what_was_unpacked_before_a_fault_stays(source, capsys):
    forged = Forged(packed(source))
    forged.entry("figures.json").content = b"{}"
    refused(forged, "figures.json does not match its sha256", capsys, stands=(METRICS.id,))


def lie(forged: Forged) -> None:
    forged.entry().content = b"test_error,0.0\n"
    forged.announce()


def plant(forged: Forged) -> None:
    forged.entries.insert(3, Entry(f"results/metrics/{METRICS.id}/__init__.py", b"raise SystemExit\n"))
    forged.announce()


def leave_out(forged: Forged) -> None:
    forged.entries.remove(forged.entry())
    forged.announce()


def other_id(forged: Forged) -> None:
    forged.index["artifacts"][0]["id"] = "digits-mlp-0123456789ab"
    for entry in forged.entries:
        entry.name = entry.name.replace(METRICS.id, "digits-mlp-0123456789ab")


def other_rule(forged: Forged) -> None:
    forged.index["artifacts"][0]["rule"] = "finetune"
    for entry in forged.entries:
        entry.name = entry.name.replace("metrics/", "models/")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lie, "is that of other files, or of another rule"),
        (plant, "is that of other files, or of another rule"),
        (leave_out, "is that of other files, or of another rule"),
        (other_id, "its content is not what was sealed for digits-mlp-0123456789ab"),
        (other_rule, "is that of other files, or of another rule"),
        (lambda f: f.remanifest(lambda m: m["extra"].update(x=1), seal=False), "not what was sealed"),
        (lambda f: f.remanifest(lambda m: m["stage"]["spec"].update(x=1)), "has been changed"),
        (lambda f: f.remanifest(lambda m: m["stage"].update(id="\x1b[2J\n" * 1000)), "the stage document of ?[2J?"),
        (lambda f: f.remanifest(lambda m: m["environment"].update(host="\x1b[2J")), "manifest.json: environment.host"),
        (lambda f: f.remanifest(lambda m: m.pop("stage")), "is damaged: there is no field 'stage'"),
        (lambda f: f.remanifest(lambda m: m.pop("files")), "has not the form of a manifest"),
        (lambda f: f.remanifest(lambda m: m.update(files=[])), "has not the form of a manifest"),
        (lambda f: f.remanifest(lambda m: m.pop("times")), "has not the form of a manifest"),
        (lambda f: f.remanifest(lambda m: m["times"].update(started="\r")), "manifest.json: times.started"),
        (lambda f: f.remanifest(lambda m: m["sources"].update(x=1)), "manifest.json: sources.x"),
        (
            lambda f: f.remanifest(lambda m: m["stage"]["hints"].update(implementations=[])),
            "manifest.json: stage.hints.implementations",
        ),
        (lambda f: (setattr(f.entry("manifest.json"), "content", b"[" * 100_000), f.announce()), "is damaged"),
        (lambda f: (setattr(f.entry("manifest.json"), "content", b"5"), f.announce()), "is damaged"),
        (lambda f: (remove(f, f.entry("manifest.json")), f.announce()), "announces no manifest.json"),
    ],
)
def test_an_index_that_lies_about_an_artifact(source, capsys, change, message):
    """Everything in the pack is as its index says; the artifact does not hold together."""
    forged = Forged(packed(source))
    change(forged)
    refused(forged, message, capsys)


def index_of(content: bytes) -> bytes:
    return Entry("pack.json", content).to_bytes() + bytes(1024)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is no pack"),
        (b"hello", "it is no pack"),
        (bytes(10240), "it is no pack"),
        (b"PK\x03\x04" + bytes(1000), "it is no pack"),
        (gzip.compress(index_of(b"{}"), mtime=0), "it is no pack"),
        (Entry("other.json", b"{}").to_bytes() + bytes(1024), "does not begin with pack.json"),
        (Entry("./pack.json", b"{}").to_bytes() + bytes(1024), "does not begin with pack.json"),
        (tar_header("pack.json", (16 << 20) + 1), "of at most 16,777,216 bytes"),
        (with_size(tar_header("pack.json", 5), b"\x80" + b"\x7f" * 11), "of at most 16,777,216 bytes"),
        (with_size(tar_header("pack.json", 5), b"\xff" * 12), "of at most 16,777,216 bytes"),
        (tar_header("pack.json", 2, tarfile.SYMTYPE, linkname="x") + b"{}", "pack.json"),
        (tar_header("pack.json", 16 << 20), "Invalid JSON"),
        (index_of(b""), "does not begin with pack.json"),
        (index_of(b"["), "Invalid JSON"),
        (index_of(b"[" * 1_000_000), "Invalid JSON: recursion limit"),
        (index_of(b'{"a":' * 1_000_000), "Invalid JSON: recursion limit"),
        (index_of(b"\xff\xfe"), "Invalid JSON"),
        (index_of(b'{"format": ' + b"9" * 100_000 + b"}"), "Invalid JSON: number out of range"),
        (index_of(b'{"format": 1, "contents": "\\ud800"}'), "pack.json: "),
        (index_of(b"[]"), "pack.json: "),
        (index_of(b"null"), "pack.json: "),
        (index_of(b"{}"), "pack.json: format: Field required"),
    ],
)
def test_what_is_no_pack_or_has_no_index(here, capsys, content, message):
    refused(content, message, capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "pack.json: format"),
        ({"format": "1"}, "pack.json: format"),
        ({"contents": "everything"}, "pack.json: contents"),
        ({"surplus": 1}, "pack.json: surplus"),
        ({"artifacts": {}}, "pack.json: artifacts"),
        ({"artifacts": [None]}, "pack.json: artifacts.0"),
        ({"left_out": ["../x"]}, "pack.json: left_out.0"),
        ({"experiments": [{"name": "../../x", "scale": "demo", "overrides": []}]}, "pack.json: experiments.0.name"),
        ({"experiments": [{"name": "-s", "scale": "demo", "overrides": []}]}, "pack.json: experiments.0.name"),
        ({"experiments": [{"name": "x", "scale": "huge", "overrides": []}]}, "pack.json: experiments.0.scale"),
        ({"experiments": [{"name": "x", "scale": "demo", "overrides": ["\x1b[2J"]}]}, "experiments.0.overrides.0"),
        ({"experiments": [{"name": "x", "scale": "demo", "overrides": []}] * 101}, "pack.json: experiments"),
    ],
)
def test_an_index_with_something_else_in_it(source, capsys, change, message):
    forged = Forged(packed(source))
    forged.index.update(change)
    refused(forged, message, capsys)


@pytest.mark.parametrize("value", [-1, 1.5, 720.0, "720", True, None, 1 << 60, 10**400])
def test_sizes_that_no_file_has(source, capsys, value):
    forged = Forged(packed(source))
    forged.files["metrics.csv"]["bytes"] = value
    refused(forged, "pack.json: artifacts.0.files.metrics.csv.bytes", capsys)


def test_too_many_files(source, capsys, monkeypatch):
    monkeypatch.setattr(packs, "MOST_FILES", 5)
    forged = Forged(packed(source, stages=(METRICS,)))
    for number in range(3):
        forged.files[f"part{number}"] = announced(b"")
    refused(forged, "announces more than 5 files", capsys)


def test_a_pack_cut_off_anywhere_is_refused_before_anything_is_written(source, capsys):
    content = packed(source).read_bytes()
    for length in {*range(0, len(content), 509), len(content) - 1, len(content) - 1024}:
        refused(content[:length], "", capsys)
        assert not Path("to").exists()


def test_more_than_the_disk_has_free(source, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 0, 99))
    refused(Forged(packed(source)), "has 99 bytes free", capsys)


@pytest.mark.parametrize("outside", ["empty", "absent"])
def test_a_link_in_an_artifacts_place_is_not_followed(source, target, capsys, outside):
    Path("empty").mkdir()
    place = target.folder("evaluate", METRICS.id)
    place.parent.mkdir(parents=True)
    place.symlink_to(Path(outside).absolute())
    Path("hostile.tar").write_bytes(packed(source).read_bytes())
    assert dlpipe("unpack", "hostile.tar", *TO) == 1
    assert f"{place}, where results/metrics/{METRICS.id} belongs, is a symbolic link" in capsys.readouterr().err
    assert tree(Path("empty")) == {}
    assert not Path("absent").exists()
    assert [path.name for path in place.parent.iterdir()] == [METRICS.id]


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_is_no_file_at_all(here, capsys, kind):
    if kind == "folder":
        Path("x.tar").mkdir()
    if kind == "pipe":
        os.mkfifo("x.tar")
    assert dlpipe("unpack", "x.tar", *TO) == 1
    assert capsys.readouterr().err == "dlpipe: there is no file x.tar\n"


def test_naming_a_module_in_a_manifest_runs_nothing_of_it(tmp_path, monkeypatch):
    """A pack may carry an `__init__.py`, and a manifest name it as the implementation of something."""
    package = tmp_path / "evil"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('it ran')")
    (package / "inner.py").write_text("x = 1")
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "module.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    found = source_digests({"a": "evil.inner", "b": "evil", "c": "open.module", "d": "__main__.x", "e": ".", "f": "é"})
    assert found["a"] == hashlib.sha256(b"x = 1").hexdigest()[:16]
    assert [found[name] for name in "cdef"] == ["unknown"] * 4
    assert "evil" not in sys.modules


# Fuzz


def unpacked_or_refused(content: bytes, root: Path) -> None:
    """Nothing but a StepError; nothing outside the store; what stands in it verifies."""
    shutil.rmtree(root, ignore_errors=True)
    (root / "work").mkdir(parents=True)
    path = root / "work" / "fuzzed.tar"
    path.write_bytes(content)
    store = Store(root / "work" / "data", root / "work" / "results")
    message = ""
    try:
        packs.unpack(path, store)
    except StepError as error:
        message = str(error)
    assert message.isprintable()
    assert {str(p.relative_to(root)) for p in root.glob("*")} == {"work"}
    assert {p.name for p in (root / "work").glob("*")} <= {"fuzzed.tar", "data", "results"}
    assert {p.name for p in store.results.glob("*")} <= {".locks", "stages", *(f for _, f in FOLDERS.values())}
    artifacts(store)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("sound")
    store = Store(folder / "data", folder / "results")
    make(store)
    return packed(store, folder / "sound.tar").read_bytes()


PIECES = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(
        [bytes(512), bytes(1024), b"../", b"/", b"\xff" * 12, b"\x80" + b"\x7f" * 11, b"x", b"L", b"2", b'"']
    ),
)
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 600), PIECES), min_size=1, max_size=4)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES)
def test_any_bytes_are_unpacked_or_refused(sound, tmp_path, changes):
    content = sound
    for place, length, piece in changes:
        place %= len(content) + 1
        content = content[:place] + piece + content[place + length :]
    unpacked_or_refused(content, tmp_path / "fuzz")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["..", "evaluate"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every part of a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 1 << 16), value=VALUES, manifest=st.booleans())
@example(where=0, value=[], manifest=True)
def test_any_value_in_the_index_or_in_a_manifest_is_unpacked_or_refused(sound, tmp_path, where, value, manifest):
    (tmp_path / "sound.tar").write_bytes(sound)
    forged = Forged(tmp_path / "sound.tar")

    def change(document: Any) -> None:
        place = places(document)[1:][where % (len(places(document)) - 1)]
        for key in place[:-1]:
            document = document[key]
        document[place[-1]] = value

    if manifest:
        forged.remanifest(change)
    else:
        change(forged.index)
    unpacked_or_refused(forged.to_bytes(), tmp_path / "fuzz")


# The commands, with a real experiment


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the small experiment was run by hand, stage after stage."""
    folder = tmp_path_factory.mktemp("made")
    write_experiment(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for rule in RULES:
            assert dlpipe(rule, "small") == 0
        assert dlpipe("report", "small", "--to", "report.html") == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another machine: the YAML and nothing else."""
    write_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pack_there(made: Path, *arguments: str) -> int:
    where = ["--data", str(made / "data"), "--results", str(made / "results")]
    return dlpipe("pack", "small", "--to", "small.tar", *where, *arguments)


def test_a_laptop_gets_its_report_byte_for_byte(made, there, capsys):
    assert pack_there(made) == 0
    out, err = capsys.readouterr()
    assert out == "small.tar\n"
    assert "4 artifacts, " in err
    assert dlpipe("unpack", "small.tar") == 0
    assert "small (demo): all 4 artifacts stand; `dlpipe report small --scale demo`" in capsys.readouterr().out
    assert dlpipe("report", "small", "--to", "report.html") == 0
    assert Path("report.html").read_bytes() == (made / "report.html").read_bytes()
    assert Path("report.json").read_bytes() == (made / "report.json").read_bytes()
    assert not Path("data").exists()


def test_a_cluster_without_a_network_gets_its_data(made, there, capsys, monkeypatch):
    assert pack_there(made, "--contents", "data") == 0
    assert dlpipe("unpack", "small.tar") == 0
    assert "small (demo): all 2 artifacts stand\n" in capsys.readouterr().out
    monkeypatch.setattr("dlpipe.stages.fetch.run", lambda *_, **__: pytest.fail("it stands"))
    monkeypatch.setattr("dlpipe.stages.prepare.run", lambda *_, **__: pytest.fail("it stands"))
    assert dlpipe("fetch", "small", "--offline") == 0
    assert dlpipe("prepare", "small") == 0
    assert dlpipe("pretrain", "small") == 0
    for path in Path("results/layers").rglob("weights.safetensors"):
        assert path.read_bytes() == (made / path).read_bytes()


def test_all_and_results(made, there, capsys):
    assert pack_there(made, "--contents", "results") == 0
    assert dlpipe("unpack", "small.tar") == 0
    assert "10 unpacked" in capsys.readouterr().out
    assert pack_there(made, "--contents", "all") == 0
    assert dlpipe("unpack", "small.tar") == 0
    assert "10 kept, 2 unpacked" in capsys.readouterr().out.replace("2 unpacked, 10 kept", "10 kept, 2 unpacked")
    assert dlpipe("verify") == 0
    assert dlpipe("plan", "small") == 0
    assert "; 0 to run" in capsys.readouterr().out


def test_what_has_not_been_made_is_listed_with_what_to_run(there, capsys):
    assert dlpipe("pack", "small", "--to", "small.tar", "-s", "seeds=2") == 1
    err = capsys.readouterr().err
    assert "4 of 4 artifacts have not been made:\n  evaluate digits-200-rbm-mlp12-" in err
    assert "`dlpipe plan small --scale demo -s seeds=2`" in err
    assert dlpipe("pack", "small", "--to", "small.tar", "--partial") == 1
    assert not Path("small.tar").exists()


def test_partial_packs_what_stands_and_the_other_side_knows_what_is_left_out(made, there, capsys):
    shutil.copytree(made / "results", "made/results")
    figures = next(Path("made/results/figures").iterdir())
    shutil.rmtree(figures)
    arguments = ["pack", "small", "--to", "small.tar", "--results", "made/results"]
    assert dlpipe(*arguments) == 1
    assert f"1 of 4 artifacts have not been made:\n  plot {figures.name}\n" in capsys.readouterr().err
    assert dlpipe(*arguments, "--partial") == 0
    assert f"left out: 1 of 4 artifacts have not been made:\n  plot {figures.name}\n" in capsys.readouterr().err
    assert dlpipe("unpack", "small.tar") == 0
    assert capsys.readouterr().out.endswith(
        "small (demo): 1 of 4 artifacts are missing; `dlpipe plan small --scale demo` lists them\n"
    )


def test_another_experiment_on_this_side_is_noticed(made, there, capsys):
    assert pack_there(made) == 0
    write_experiment(there, EXPERIMENT.replace("{epochs: 3}", "{epochs: 4}"))
    capsys.readouterr()
    assert dlpipe("unpack", "small.tar") == 0
    assert "4 of 4 artifacts are missing, 4 of them unknown to the packer: it had other" in capsys.readouterr().out
    shutil.rmtree(there / "config")
    assert dlpipe("unpack", "small.tar") == 0
    assert "small (demo): it cannot be planned here, and code and YAML travel by git" in capsys.readouterr().out


def test_values_of_the_packers_own_are_shown_not_used(made, there, capsys):
    assert pack_there(made, "-s", "title=An other title") == 0
    capsys.readouterr()
    assert dlpipe("unpack", "small.tar") == 0
    command = "`dlpipe plan small --scale demo -s 'title=An other title'`"
    assert f"small (demo): it was packed with values of its own; {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pack", "small"], "Missing option '--to'"),
        (["pack", "smal", "--to", "x.tar"], "did you mean 'small'?"),
        (["pack", "small", "--to", "."], "is a directory"),
        (["pack", "small", "--to", "x.tar", "--contents", "figures"], "is not one of"),
        (["unpack"], "Missing argument 'FILE'"),
    ],
)
def test_usage_errors(there, capsys, arguments, message):
    assert dlpipe(*arguments) == 2
    assert message in capsys.readouterr().err
