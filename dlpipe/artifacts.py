"""Stages and the artifacts they leave: content digests, atomic writes, manifests, verified reading, locks.

A stage is a small JSON document; its digest names the folder of its artifact. A folder without a valid `manifest.json`
is not an artifact: the manifest is written last, inside a temporary folder that is then renamed into place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import resource
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from dlpipe.errors import StepError
from dlpipe.files import canonical_json, fsync_folder, sha256_of_file, write_atomically, write_if_changed
from dlpipe.locks import Lock
from dlpipe.provenance import environment, source_digests

RULES = ("fetch", "prepare", "pretrain", "finetune", "evaluate", "plot")
FOLDERS = {
    "fetch": ("data", "raw"),
    "prepare": ("data", "prepared"),
    "pretrain": ("results", "layers"),
    "finetune": ("results", "models"),
    "evaluate": ("results", "metrics"),
    "plot": ("results", "figures"),
}
DIGEST_LENGTH = 12
MANIFEST = "manifest.json"
FORMAT = 1
MOST_JSON = 64 << 20
"""Bytes of a manifest or a stage document."""
STAGE_SHAPE = {"rule": str, "name": str, "id": str, "spec": dict, "inputs": dict, "seeds": list, "versions": dict}
FILE_SHAPE = {"bytes": int, "sha256": str}
MANIFEST_SHAPE = {
    "files": dict,
    "extra": dict,
    "facts": dict,
    "sources": dict,
    "times": {"started": str, "seconds": int | float, "cpu_seconds": int | float},
    "environment": {"commit": str, "dirty": bool, "host": str, "processor": str, "python": str, "versions": dict},
}


class ArtifactError(StepError):
    """An artifact that is missing or does not verify; the message says which file and what to do."""


@dataclass(frozen=True)
class Stage:
    """One step of a plan. `spec`, `inputs`, `seeds` and `versions` are digested; `hints` are not."""

    rule: str
    name: str
    """A readable slug such as `mnist-rbm400`; part of the id."""
    spec: Mapping[str, Any]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Role to the id, or the list of ids, of the stages whose artifacts are read."""
    seeds: tuple[int, ...] = ()
    versions: Mapping[str, int] = field(default_factory=dict)
    """Component name to the version of the code that does the work."""
    hints: Mapping[str, Any] = field(default_factory=dict)
    """What helps to make the artifact and does not change it: URLs, local paths, sources of the components,
    threads, the seconds on one core that its size lets one expect."""

    def digested(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "spec": self.spec,
            "inputs": self.inputs,
            "seeds": list(self.seeds),
            "versions": self.versions,
        }

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(canonical_json(self.digested()).encode()).hexdigest()[:DIGEST_LENGTH]

    @property
    def id(self) -> str:
        return f"{self.name}-{self.digest}"

    def input_ids(self) -> list[str]:
        """All inputs' ids, each once, in the order of the roles."""
        ids: list[str] = []
        for value in self.inputs.values():
            ids.extend([value] if isinstance(value, str) else value)
        return list(dict.fromkeys(ids))

    def to_json(self) -> dict[str, Any]:
        return {**self.digested(), "name": self.name, "id": self.id, "hints": dict(self.hints)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Stage:
        """Raises ArtifactError when the document's id is not the digest of its content."""
        if not _fits(document, STAGE_SHAPE) or not isinstance(document.get("hints", {}), dict):
            raise ArtifactError(f"not a stage document: it needs {', '.join(STAGE_SHAPE)}")
        stage = cls(
            rule=document["rule"],
            name=document["name"],
            spec=document["spec"],
            inputs=document["inputs"],
            seeds=tuple(document["seeds"]),
            versions=document["versions"],
            hints=document.get("hints", {}),
        )
        if document["id"] != stage.id:
            raise ArtifactError(
                f"the stage document of {document['id']} has been changed: its content belongs to {stage.id}"
            )
        return stage


@dataclass(frozen=True)
class Artifact:
    """A verified folder and its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def stage(self) -> Stage:
        return Stage.from_json(self.manifest["stage"])

    @property
    def extra(self) -> Mapping[str, Any]:
        return self.manifest["extra"]

    def unlisted(self) -> list[Path]:
        """Files that the manifest does not know, which nothing reads; hidden ones are the file system's own."""
        listed = {self.folder / name for name in (MANIFEST, *self.manifest["files"])}
        found = (path for path in self.folder.rglob("*") if not path.name.startswith("."))
        return sorted(path for path in found if path not in listed and not path.is_dir())

    def path(self, name: str) -> Path:
        """Raises ArtifactError for a file that the manifest does not list: it may be left over or planted."""
        if name not in self.manifest["files"]:
            raise ArtifactError(f"{self.folder} has no file {name}; it has {', '.join(self.manifest['files'])}")
        return self.folder / name

    @contextlib.contextmanager
    def tensors(self, name: str, framework: str = "pt") -> Iterator[Any]:
        """A safetensors file of it, open. Raises ArtifactError when it is none, or lacks a tensor that is asked for."""
        from safetensors import SafetensorError, safe_open

        path = self.path(name)
        try:
            with safe_open(path, framework=framework) as file:
                yield file
        except SafetensorError as error:
            raise ArtifactError(f"{path} is not what it should be: {error}") from error


class Draft:
    """An artifact in the making: write files into `folder`, facts for the manifest into `extra`."""

    def __init__(self, folder: Path, lock: Lock) -> None:
        self.folder = folder
        self.lock = lock
        self.extra: dict[str, Any] = {}

    @contextlib.contextmanager
    def tensors(self, name: str) -> Iterator[Path]:
        """Where safetensors is to write a file. Its own kind of error becomes the OSError that is behind it."""
        from safetensors import SafetensorError

        path = self.folder / name
        try:
            yield path
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


class Store:
    """Where artifacts live: `data` for raw and prepared data, `results` for everything that is computed."""

    def __init__(self, data: Path | str = "data", results: Path | str = "results") -> None:
        self.data = Path(data)
        self.results = Path(results)

    def folder(self, rule: str, stage_id: str) -> Path:
        """Raises ArtifactError for an id that would lead out of the store, as a document made up by hand may have."""
        if not stage_id or "/" in stage_id or "\0" in stage_id or stage_id.startswith("."):
            raise ArtifactError(f"{stage_id!r} is no stage's id")
        return self._root(rule) / FOLDERS[rule][1] / stage_id

    def lock_file(self, rule: str, stage_id: str) -> Path:
        """Beside the artifact: two stores may share their data and not their results."""
        return self._root(rule) / ".locks" / f"{stage_id}.json"

    def _root(self, rule: str) -> Path:
        return self.data if FOLDERS[rule][0] == "data" else self.results

    def output(self, stage: Stage) -> Path:
        """What Snakemake knows the artifact by."""
        folder = self.folder(stage.rule, stage.id)
        return folder if stage.rule == "plot" else folder / MANIFEST

    def checkpoints(self, stage: Stage) -> Path:
        """Resume state lives apart from the outputs, which Snakemake deletes when a job fails."""
        return self.results / ".checkpoints" / stage.id

    def stage_file(self, stage_id: str) -> Path:
        return self.results / "stages" / f"{stage_id}.json"

    @property
    def last_plan(self) -> Path:
        """What Snakemake was last asked for: its config, and the ids of the plan's stages, inputs first."""
        return self.results / "stages" / "last-plan.json"

    def is_done(self, rule: str, stage_id: str) -> bool:
        """Whether the artifact stands, by its manifest and the sizes of its files; `read` looks at every byte."""
        return self.standing(rule, stage_id) is not None

    def standing(self, rule: str, stage_id: str) -> dict[str, Any] | None:
        """The manifest of an artifact that stands, as in `is_done`; None when it does not."""
        folder = self.folder(rule, stage_id)
        try:
            manifest = read_manifest(folder, stage_id)
            _check_files(folder, manifest, hashes=False)
        except ArtifactError:
            return None
        return manifest

    def read(self, rule: str, stage_id: str) -> Artifact:
        """The verified artifact. Raises ArtifactError, naming the file, when it is missing or any byte has changed."""
        folder = self.folder(rule, stage_id)
        manifest = read_manifest(folder, stage_id)
        _check_files(folder, manifest, hashes=True)
        return Artifact(folder, manifest)

    def read_or_set_aside(self, rule: str, stage_id: str) -> Artifact:
        """As `read`; a broken artifact is moved out of the way, so that the next run makes it again."""
        folder = self.folder(rule, stage_id)
        try:
            return self.read(rule, stage_id)
        except ArtifactError as error:
            if not folder.exists() or not any(folder.iterdir()):  # Snakemake makes the folder before the job is run
                raise ArtifactError(f"{error}. Run `dlpipe {rule} {stage_id}` (or snakemake) first") from error
            try:
                kept = self.set_aside(rule, stage_id)
            except OSError as failure:
                raise ArtifactError(f"{error}. It could not be moved out of the way: {failure}") from error
            raise ArtifactError(
                f"{error}. It was moved to {kept}; run the same command again to make it anew"
            ) from error

    def set_aside(self, rule: str, stage_id: str) -> Path:
        folder = self.folder(rule, stage_id)
        kept = folder.parent / f".broken-{stage_id}-{time.time_ns()}"
        folder.rename(kept)
        return kept

    @contextlib.contextmanager
    def make(self, stage: Stage, **facts: Any) -> Iterator[Draft]:
        """Makes the artifact of a stage: yields a draft folder, then writes the manifest and renames it into place.

        `facts` (threads, device …) go into the manifest. Raises LockedError when a live process makes the same one.
        """
        started = time.gmtime()
        wall, cpu = time.monotonic(), time.process_time()  # the other clock may be set
        with self._put_in_place(stage.rule, stage.id) as draft:
            yield draft
            times = {
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", started),
                "seconds": round(time.monotonic() - wall, 3),
                "cpu_seconds": round(time.process_time() - cpu, 3),
                "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            }
            _write_manifest(draft.folder, stage, draft.extra, times, facts)
        shutil.rmtree(self.checkpoints(stage), ignore_errors=True)

    @contextlib.contextmanager
    def receive(self, rule: str, stage_id: str, files: Mapping[str, Mapping[str, Any]]) -> Iterator[Draft]:
        """Takes in an artifact that was made elsewhere: yields a draft folder for its files, manifest included.

        `files` is what the manifest must list; that the bytes are those of the digests is for the caller to see to. A
        damaged artifact in the same place is set aside. Raises ArtifactError when the manifest is another's.
        """
        with self._put_in_place(rule, stage_id) as draft:
            yield draft
            manifest = read_manifest(draft.folder, stage_id)
            if manifest["stage"]["rule"] != rule or manifest["files"] != files:
                raise ArtifactError(f"the manifest of {stage_id} is that of other files, or of another rule")
            _check_files(draft.folder, manifest, hashes=False)
            if self.folder(rule, stage_id).exists():
                self.set_aside(rule, stage_id)
        shutil.rmtree(self.checkpoints(Stage.from_json(manifest["stage"])), ignore_errors=True)

    @contextlib.contextmanager
    def _put_in_place(self, rule: str, stage_id: str) -> Iterator[Draft]:
        """A folder that becomes the artifact's when the block ends, under the stage's lock; removed if it fails."""
        folder = self.folder(rule, stage_id)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with Lock(self.lock_file(rule, stage_id)) as lock:
            for orphan in folder.parent.glob(f".making-{stage_id}-*"):
                shutil.rmtree(orphan, ignore_errors=True)  # we hold the lock, so its maker is dead
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".making-{stage_id}-"))
            os.chmod(temporary, 0o755)
            try:
                yield Draft(temporary, lock)
                lock.check()
                if folder.exists():
                    shutil.rmtree(folder)
                temporary.rename(folder)
                fsync_folder(folder.parent)
            except BaseException as error:
                shutil.rmtree(temporary, ignore_errors=True)
                if isinstance(error, OSError) and error.errno is not None and error.filename is None:
                    error.filename = str(folder)  # a full disk does not say which
                raise

    def artifact_folders(self) -> Iterator[tuple[str, Path]]:
        """Rule and folder of everything that stands where artifacts stand, sound or not."""
        for rule in RULES:
            for folder in sorted(self.folder(rule, "x").parent.glob("*")):
                if folder.is_dir() and not folder.name.startswith("."):
                    yield rule, folder

    def manifests(self) -> Iterator[tuple[str, Path, dict[str, Any]]]:
        """Rule, folder and manifest of every artifact that has a readable one, without looking at its files."""
        for rule, folder in self.artifact_folders():
            with contextlib.suppress(ArtifactError):
                yield rule, folder, read_manifest(folder, folder.name)


def read_manifest(folder: Path, stage_id: str) -> dict[str, Any]:
    """The manifest, once its seal and its stage's digest hold. Raises ArtifactError."""
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
        seal = manifest.pop("seal", None)
        intact = seal == hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
        stage = Stage.from_json(manifest["stage"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(f"{folder} is missing or unfinished: it has no {MANIFEST}") from error
    except (ArtifactError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error
    if not intact or stage.id != stage_id:
        raise ArtifactError(f"{path} is damaged: its content is not what was sealed for {stage_id}")
    if not _fits(manifest, MANIFEST_SHAPE) or not all(_fits(file, FILE_SHAPE) for file in manifest["files"].values()):
        raise ArtifactError(f"{path} is damaged: it has not the form of a manifest")
    return manifest


class Fields(dict[str, Any]):
    """A JSON object that answers for a missing field with an ArtifactError, not a KeyError."""

    def __missing__(self, key: str) -> Any:
        raise ArtifactError(f"there is no field {key!r}: another version of dlpipe wrote this, or a hand; plan again")


def read_json(path: Path) -> Any:
    """A document of ours. Raises ValueError or RecursionError for what is none, and FileNotFoundError."""
    try:
        status = path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError("it is a link that leads nowhere") from error
        raise
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    if status.st_size > MOST_JSON:
        raise ValueError(f"it has {status.st_size:,} bytes; at most {MOST_JSON:,} are read")
    return json.loads(path.read_bytes(), object_hook=Fields)


def _fits(value: Any, shape: Any) -> bool:
    """Whether a value has the types, and an object at least the fields, that `shape` says."""
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(key in value and _fits(value[key], part) for key, part in shape.items())
    return isinstance(value, shape)


def _write_manifest(
    folder: Path, stage: Stage, extra: Mapping[str, Any], times: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    manifest = {
        "format": FORMAT,
        "stage": stage.to_json(),
        "files": files,
        "extra": dict(extra),
        "times": dict(times),
        "facts": dict(facts),
        "sources": source_digests(stage.hints.get("implementations", {})),
        "environment": environment(),
    }
    manifest["seal"] = hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False))


def _check_files(folder: Path, manifest: Mapping[str, Any], *, hashes: bool) -> None:
    for name, expected in manifest["files"].items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
            raise ArtifactError(f"{folder / MANIFEST} names {name!r}, which is not in its folder")
        path = folder / name
        try:
            status = path.stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                raise
            raise ArtifactError(f"{path} is missing") from None
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(f"{path} is no regular file")
        if status.st_size != expected["bytes"]:
            raise ArtifactError(f"{path} has {status.st_size} bytes; its manifest says {expected['bytes']}")
        if hashes and sha256_of_file(path) != expected["sha256"]:
            raise ArtifactError(f"{path} does not match its manifest's sha256: its content has changed")


def write_stages(store: Store, stages: Iterable[Stage]) -> None:
    """Leaves each stage's document where its command finds it; one that stands is touched only for new hints."""
    for stage in stages:
        write_if_changed(store.stage_file(stage.id), json.dumps(stage.to_json(), indent=1, sort_keys=True))


def read_stage(store: Store, stage_id: str) -> Stage:
    """Raises ArtifactError when there is no such document, or when it has been changed."""
    path = store.stage_file(stage_id)
    try:
        stage = Stage.from_json(read_json(path))
    except FileNotFoundError as error:
        raise ArtifactError(f"no stage {stage_id}; `dlpipe plan EXPERIMENT` lists them") from error
    except (ArtifactError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error}; delete it and plan again") from error
    if stage.id != stage_id:
        raise ArtifactError(f"{path} is damaged: it is of {stage.id}; delete it and plan again")
    return stage
