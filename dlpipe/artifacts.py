"""Stages and the artifacts they leave: content digests, atomic writes, manifests, verified reading, locks.

A stage is a small JSON document; its digest names the folder of its artifact. A folder without a valid `manifest.json`
is not an artifact: the manifest is written last, inside a temporary folder that is then renamed into place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dlpipe.errors import StepError
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


class ArtifactError(StepError):
    """An artifact that is missing or does not verify; the message says which file and what to do."""


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """The file is complete or absent, after a power cut too: written beside the target, fsynced, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


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
    """What helps to make the artifact and does not change it: URLs, local paths, sources of the components."""

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
        try:
            stage = cls(
                rule=document["rule"],
                name=document["name"],
                spec=document["spec"],
                inputs=document["inputs"],
                seeds=tuple(document["seeds"]),
                versions=document["versions"],
                hints=document.get("hints", {}),
            )
            claimed = document["id"]
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"not a stage document: {error}") from error
        if claimed != stage.id:
            raise ArtifactError(f"the stage document of {claimed} has been changed: its content belongs to {stage.id}")
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

    def path(self, name: str) -> Path:
        """Raises ArtifactError for a file that the manifest does not list: it may be left over or planted."""
        if name not in self.manifest["files"]:
            raise ArtifactError(f"{self.folder} has no file {name}; it has {', '.join(self.manifest['files'])}")
        return self.folder / name


class Draft:
    """An artifact in the making: write files into `folder`, facts for the manifest into `extra`."""

    def __init__(self, folder: Path, lock: Lock) -> None:
        self.folder = folder
        self.lock = lock
        self.extra: dict[str, Any] = {}


class Store:
    """Where artifacts live: `data` for raw and prepared data, `results` for everything that is computed."""

    def __init__(self, data: Path | str = "data", results: Path | str = "results") -> None:
        self.data = Path(data)
        self.results = Path(results)

    def folder(self, rule: str, stage_id: str) -> Path:
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
            if not folder.exists():
                raise ArtifactError(f"{error}. Run `dlpipe {rule} {stage_id}` (or snakemake) first") from error
            kept = self.set_aside(rule, stage_id)
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
        folder = self.folder(stage.rule, stage.id)
        folder.parent.mkdir(parents=True, exist_ok=True)
        started, cpu_started = time.time(), time.process_time()
        with Lock(self.lock_file(stage.rule, stage.id)) as lock:
            for orphan in folder.parent.glob(f".making-{stage.id}-*"):
                shutil.rmtree(orphan, ignore_errors=True)  # we hold the lock, so its maker is dead
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".making-{stage.id}-"))
            os.chmod(temporary, 0o755)
            try:
                draft = Draft(temporary, lock)
                yield draft
                times = {
                    "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
                    "seconds": round(time.time() - started, 3),
                    "cpu_seconds": round(time.process_time() - cpu_started, 3),
                    "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
                }
                _write_manifest(temporary, stage, draft.extra, times, facts)
                lock.check()
                if folder.exists():
                    shutil.rmtree(folder)
                temporary.rename(folder)
                _fsync_folder(folder.parent)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        shutil.rmtree(self.checkpoints(stage), ignore_errors=True)

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
        manifest = json.loads(path.read_bytes())
        seal = manifest.pop("seal")
        intact = seal == hashlib.sha256(canonical_json(manifest).encode()).hexdigest()
        stage = Stage.from_json(manifest["stage"])
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder} is missing or unfinished: it has no {MANIFEST}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error
    if not intact or stage.id != stage_id:
        raise ArtifactError(f"{path} is damaged: its content is not what was sealed for {stage_id}")
    return manifest


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
        path = folder / name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise ArtifactError(f"{path} is missing") from None
        if size != expected["bytes"]:
            raise ArtifactError(f"{path} has {size} bytes; its manifest says {expected['bytes']}")
        if hashes and sha256_of_file(path) != expected["sha256"]:
            raise ArtifactError(f"{path} does not match its manifest's sha256: its content has changed")


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_if_changed(path: Path, text: str) -> None:
    """Leaves a file that holds `text` already as it is, its time too."""
    if not path.exists() or path.read_text() != text:
        write_atomically(path, text)


def write_stages(store: Store, stages: Iterable[Stage]) -> None:
    """Leaves each stage's document where its command finds it; one that stands is touched only for new hints."""
    for stage in stages:
        write_if_changed(store.stage_file(stage.id), json.dumps(stage.to_json(), indent=1, sort_keys=True))


def read_stage(store: Store, stage_id: str) -> Stage:
    """Raises ArtifactError when there is no such document, or when it has been changed."""
    try:
        return Stage.from_json(json.loads(store.stage_file(stage_id).read_bytes()))
    except FileNotFoundError as error:
        raise ArtifactError(f"no stage {stage_id}; `dlpipe plan EXPERIMENT` lists them") from error
    except ValueError as error:
        raise ArtifactError(f"{store.stage_file(stage_id)} is damaged: {error}; delete it and plan again") from error
