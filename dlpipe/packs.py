"""Packs: artifacts in one file, for a machine without a network, for a laptop, for an archive.

A pack is a plain tar. Its first member, `pack.json`, announces every other: name, size, sha256, in order. A member's
tar header is a function of its name and size alone, so that the same artifacts give the same bytes; and so the reader
interprets no header: where the one that follows from the index does not stand, byte for byte, the pack is refused
before anything is written. Links, devices, `../`, sparse files and headers that lie are all just that.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from dlpipe.artifacts import FOLDERS, MANIFEST, RULES, ArtifactError, Stage, Store, read_manifest, write_stages
from dlpipe.errors import StepError
from dlpipe.files import open_atomically, sha256_of_file
from dlpipe.progress import track

INDEX = "pack.json"
FORMAT = 1
CONTENTS = {
    "report": ("evaluate", "plot"),
    "results": ("pretrain", "finetune", "evaluate", "plot"),
    "data": ("fetch", "prepare"),
    "all": RULES,
}
"""What may be packed: name to the rules whose artifacts travel."""
MOST_JSON = 16 << 20
"""Bytes of an index or a manifest: they are read into memory."""
MOST_FILES = 100_000
CHUNK = 8 << 20
"""Bytes copied at a time; between two of them the lock shows that its owner lives."""
BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
KINDS = {
    tarfile.REGTYPE: "a file",
    tarfile.AREGTYPE: "a file",
    tarfile.DIRTYPE: "a folder",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.GNUTYPE_LONGNAME: "a long name",
    tarfile.GNUTYPE_LONGLINK: "a long link",
    tarfile.XHDTYPE: "an extended header",
    tarfile.XGLTYPE: "an extended header",
}
"""What a header's type is called in an error."""


class PackError(StepError):
    """What cannot be packed, or a pack that is damaged or hostile; the message names the member."""


# The index


def _written_as(pattern: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"it may not be {text[:100]!a}")
        return text

    return AfterValidator(check)


Size = Annotated[int, Field(ge=0, lt=1 << 60)]
Sha256 = Annotated[str, _written_as("[0-9a-f]{64}")]
StageId = Annotated[str, Field(max_length=200), _written_as(r"\w[\w.-]*-[0-9a-f]{12}")]
FileName = Annotated[str, Field(max_length=200), _written_as(r"\w[\w.+-]*(/\w[\w.+-]*)*")]
"""No `..`, nothing hidden or absolute, nothing that some file system takes for another name."""
ExperimentName = Annotated[str, Field(max_length=100), _written_as(r"\w[\w .+-]*")]
Line = Annotated[str, Field(max_length=1000), _written_as(r"[^\x00-\x1f\x7f-\x9f]*")]
"""What may be shown on a terminal."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class PackedFile(_Document):
    bytes: Size
    sha256: Sha256


class PackedExperiment(_Document):
    """What was asked for, so that the other side can compare its own plan."""

    name: ExperimentName
    scale: Literal["demo", "lab", "paper"]
    overrides: tuple[Line, ...]


class PackedArtifact(_Document):
    rule: Annotated[str, _written_as("|".join(RULES))]
    id: StageId
    files: dict[FileName, PackedFile]

    @property
    def folder(self) -> str:
        """Its place in the pack, which is that in a working folder: `results/metrics/<id>`."""
        return "/".join((*FOLDERS[self.rule], self.id))

    def listed(self) -> dict[str, Any]:
        """The files as the artifact's manifest lists them."""
        return {name: file.model_dump() for name, file in self.files.items() if name != MANIFEST}


class Index(_Document):
    format: Literal[1]
    contents: Literal["report", "results", "data", "all"]
    experiments: Annotated[tuple[PackedExperiment, ...], Field(max_length=100)]
    artifacts: tuple[PackedArtifact, ...]
    left_out: tuple[StageId, ...]
    """Stages that belong here and had not been made."""

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for artifact in self.artifacts for file in artifact.files.values())

    def to_json(self) -> bytes:
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True).encode() + b"\n"


class _Shown(BaseModel):
    model_config = ConfigDict(strict=True)


class _Manifest(_Shown):
    """What of a manifest is printed or looked up, beyond the form that `read_manifest` asks for."""

    class Stage(_Shown):
        class Hints(_Shown):
            implementations: dict[Line, Line] = {}

        hints: Hints

    class Environment(_Shown):
        commit: Line
        python: Line
        versions: dict[Line, Line]
        host: Line
        processor: Line

    class Times(_Shown):
        started: Line

    stage: Stage
    sources: dict[Line, Line]
    environment: Environment
    times: Times


def _first(error: ValidationError) -> str:
    """The first problem in words, with its place."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) if isinstance(part, int) else ascii(part[:100])[1:-1] for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]


def _check_index(index: Index) -> None:
    """What types do not say. Raises PackError."""
    _check_distinct([artifact.folder for artifact in index.artifacts])
    if sum(len(artifact.files) for artifact in index.artifacts) > MOST_FILES:
        raise PackError(f"it announces more than {MOST_FILES:,} files")
    for artifact in index.artifacts:
        manifest = artifact.files.get(MANIFEST)
        if manifest is None or manifest.bytes > MOST_JSON:
            raise PackError(f"it announces no {MANIFEST}, or too large a one, in {artifact.folder}")
        _check_distinct([f"{artifact.folder}/{name}" for name in artifact.files])


def _check_distinct(names: Sequence[str]) -> None:
    """Raises PackError for two names of one file, where case does not count too, and for a file inside a file."""
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise PackError(f"it announces {name} twice")
        seen.add(name.casefold())
    for name in names:
        if any(str(parent) in seen for parent in PurePosixPath(name.casefold()).parents):
            raise PackError(f"it announces {name} inside another file")


# The layout


@dataclass(frozen=True)
class Member:
    """A file of the pack: where its bytes begin, and what must stand between them and those of the file before."""

    name: str
    size: int
    before: bytes
    start: int

    @property
    def end(self) -> int:
        return self.start + self.size

    @property
    def padding(self) -> bytes:
        return bytes(-self.size % BLOCK)


def tar_header(name: str, size: int) -> bytes:
    """The same whoever packs, and when."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "ascii", "strict")


def layout(index: Index, index_bytes: int) -> Iterator[Member]:
    """Every member in order, the index first."""
    before = tar_header(INDEX, index_bytes)
    member = Member(INDEX, index_bytes, before, len(before))
    yield member
    for artifact in index.artifacts:
        for name, file in artifact.files.items():
            full = f"{artifact.folder}/{name}"
            before = member.padding + tar_header(full, file.bytes)
            member = Member(full, file.bytes, before, member.end + len(before))
            yield member


# Packing


def pack(
    experiments: Sequence[Mapping[str, Any]], stages: Sequence[Stage], contents: str, store: Store, target: Path
) -> Index:
    """Writes the artifacts of `stages`, as far as they have been made, to `target`.

    `experiments` have the fields of PackedExperiment. Every byte is verified on its way. Raises PackError naming all
    that is damaged; `target` is then as it was.
    """
    damaged: list[str] = []
    index = _make_index(experiments, stages, contents, store, damaged)
    content = index.to_json()
    if len(content) > MOST_JSON:
        raise PackError("this is too much for one pack: its index is too long; pack fewer experiments at a time")
    files = [
        (store.folder(artifact.rule, artifact.id) / name, file)
        for artifact in index.artifacts
        for name, file in artifact.files.items()
    ]
    first, *members = layout(index, len(content))
    with open_atomically(target) as out, track(f"pack {target.name}", index.total, "bytes") as update:
        out.write(first.before + content)
        advance = _counting(update)
        for member, (path, file) in zip(members, files, strict=True):
            out.write(member.before)
            if fault := _copy_in(path, file, out, advance):
                damaged.append(fault)
        out.write((members or [first])[-1].padding + END)
        if damaged:
            raise PackError(
                "nothing was packed, for there is damage:\n  "
                + "\n  ".join(damaged)
                + "\n`dlpipe verify --set-aside` moves it out of the way, and the next run makes it again"
            )
    return index


def _make_index(
    experiments: Sequence[Mapping[str, Any]], stages: Sequence[Stage], contents: str, store: Store, damaged: list[str]
) -> Index:
    artifacts, left_out = [], []
    for stage in sorted(stages, key=lambda stage: (RULES.index(stage.rule), stage.id)):
        folder = store.folder(stage.rule, stage.id)
        if not folder.exists():
            left_out.append(stage.id)
            continue
        try:
            files = dict(read_manifest(folder, stage.id)["files"])
        except ArtifactError as error:
            damaged.append(str(error))
            continue
        manifest = folder / MANIFEST
        files[MANIFEST] = {"bytes": manifest.stat().st_size, "sha256": sha256_of_file(manifest)}
        artifacts.append({"rule": stage.rule, "id": stage.id, "files": dict(sorted(files.items()))})
    document = {
        "format": FORMAT,
        "contents": contents,
        "experiments": tuple(sorted(experiments, key=lambda experiment: experiment["name"])),
        "artifacts": tuple(artifacts),
        "left_out": tuple(left_out),
    }
    try:
        index = Index.model_validate(document)
    except ValidationError as error:
        raise PackError(f"this cannot be packed: {_first(error)}") from error
    _check_index(index)
    return index


def _copy_in(path: Path, file: PackedFile, out: IO[bytes], advance: Callable[[int], None]) -> str | None:
    """Copies a file; what is wrong with it, in words, or None."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as source:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                out.write(chunk)
                size += len(chunk)
                advance(len(chunk))
    except FileNotFoundError:
        return f"{path} is missing"
    if size != file.bytes or digest.hexdigest() != file.sha256:
        return f"{path} does not match its manifest: its content has changed"
    return None


def _counting(update: Callable[..., None]) -> Callable[[int], None]:
    """A function of the bytes that were done since the last call."""
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        update(done)

    return advance


# Unpacking


@dataclass(frozen=True)
class Unpacked:
    index: Index
    counts: Mapping[str, int]
    """How many artifacts were `unpacked`, `kept` because they stood, or `replaced` because they were damaged."""


def unpack(path: Path, store: Store) -> Unpacked:
    """Puts the artifacts of a pack into the store, each of them verified, and leaves their stages' documents.

    Raises PackError for a pack that is damaged or hostile. What was unpacked until then stays.
    """
    if not path.is_file():
        raise PackError(f"there is no file {path}")
    with path.open("rb") as file:
        try:
            index, members = _read_index(file)
            _check_layout(file, members)
            _check_space(index, store)
            with track(f"unpack {path.name}", index.total, "bytes") as update:
                return Unpacked(index, _unpack_all(file, index, members[1:], store, _counting(update)))
        except PackError as error:
            raise PackError(f"{path} is refused: {_shown(str(error))}") from error


def _shown(text: str) -> str:
    """A line for a terminal, whatever a pack has written into it."""
    return "".join(character if character.isprintable() else "?" for character in text[:1000])


def _read_index(file: IO[bytes]) -> tuple[Index, list[Member]]:
    try:
        info = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise PackError("it is no pack: it does not begin as a tar does") from None
    if info.name != INDEX or not 0 < info.size <= MOST_JSON:
        raise PackError(f"it is no pack: it does not begin with {INDEX} of at most {MOST_JSON:,} bytes")
    content = file.read(info.size)
    try:
        index = Index.model_validate_json(content)
    except ValidationError as error:
        raise PackError(f"{INDEX}: {_first(error)}") from None
    _check_index(index)
    return index, list(layout(index, len(content)))


def _check_layout(file: IO[bytes], members: Sequence[Member]) -> None:
    """Raises PackError where anything but the announced members stands between their contents."""
    for member in members:
        begin = member.start - len(member.before)
        found = _bytes_at(file, begin, len(member.before))
        if found != member.before:
            announced = f"{member.name} ({member.size:,} bytes)"
            raise PackError(
                f"where {announced} should stand, as `dlpipe pack` writes it, there is "
                + _described(found[-begin % BLOCK :])
            )
    last = members[-1]
    tail = last.padding + END
    found = _bytes_at(file, last.end, len(tail))
    if found != tail:
        raise PackError(
            f"where the mark of its end should stand, after {last.name}, there is "
            + _described(found[len(last.padding) :])
        )
    surplus = os.fstat(file.fileno()).st_size - last.end - len(tail)
    if surplus:
        raise PackError(f"it goes on after its end, for {surplus:,} bytes")


def _bytes_at(file: IO[bytes], place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _described(block: bytes) -> str:
    """What stands where something else should, in words."""
    if not block.strip(b"\0"):
        return "nothing more"
    try:
        info = tarfile.TarInfo.frombuf(block[:BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return "something that is no file of a tar"
    return f"{KINDS.get(info.type, 'a member')} {info.name!a} of {info.size:,} bytes"


def _check_space(index: Index, store: Store) -> None:
    """Raises PackError when what is to be written is more than a disk has free."""
    needed: Counter[int] = Counter()
    places: dict[int, Path] = {}
    for artifact in index.artifacts:
        folder = store.folder(artifact.rule, artifact.id)
        if not store.is_done(artifact.rule, artifact.id):
            place = next(parent for parent in folder.absolute().parents if parent.exists())
            device = place.stat().st_dev
            places[device] = place
            needed[device] += sum(file.bytes for file in artifact.files.values())
    for device, size in needed.items():
        free = shutil.disk_usage(places[device]).free
        if size > free:
            raise PackError(f"it unpacks to {size:,} bytes, and {places[device]} has {free:,} bytes free")


def _unpack_all(
    file: IO[bytes], index: Index, members: Sequence[Member], store: Store, advance: Callable[[int], None]
) -> Counter[str]:
    counts: Counter[str] = Counter()
    left = iter(members)
    for artifact in index.artifacts:
        own = [next(left) for _ in artifact.files]
        folder = store.folder(artifact.rule, artifact.id)
        stood = os.path.lexists(folder)
        if stood and _is_sound(artifact, store):
            counts["kept"] += 1
            advance(sum(member.size for member in own))
            continue
        if folder.is_symlink():
            raise PackError(f"{folder}, where {artifact.folder} belongs, is a symbolic link; remove it")
        _receive(file, artifact, own, store, advance)
        counts["replaced" if stood else "unpacked"] += 1
    return counts


def _is_sound(artifact: PackedArtifact, store: Store) -> bool:
    try:
        store.read(artifact.rule, artifact.id)
    except ArtifactError:
        return False
    return True


def _receive(
    file: IO[bytes],
    artifact: PackedArtifact,
    members: Sequence[Member],
    store: Store,
    advance: Callable[[int], None],
) -> None:
    """One artifact, complete or not at all, and its stage's document if there is none."""
    try:
        with store.receive(artifact.rule, artifact.id, artifact.listed()) as draft:
            for member, (name, packed) in zip(members, artifact.files.items(), strict=True):
                for size in _copy_out(file, member, packed.sha256, draft.folder / name):
                    draft.lock.beat()
                    advance(size)
            manifest = read_manifest(draft.folder, artifact.id)
            _Manifest.model_validate(manifest)
    except ValidationError as error:
        raise PackError(f"{artifact.folder}/{MANIFEST}: {_first(error)}") from None
    except ArtifactError as error:
        raise PackError(f"{artifact.folder} does not verify: {error}") from error
    if not store.stage_file(artifact.id).exists():
        write_stages(store, [Stage.from_json(manifest["stage"])])


def _copy_out(file: IO[bytes], member: Member, sha256: str, target: Path) -> Iterator[int]:
    """Writes a member's content, yielding the bytes of each step. Raises PackError when it is not as announced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    file.seek(member.start)
    digest, left = hashlib.sha256(), member.size
    with target.open("xb") as out:
        while chunk := file.read(min(CHUNK, left)):
            digest.update(chunk)
            out.write(chunk)
            left -= len(chunk)
            yield len(chunk)
        out.flush()
        os.fsync(out.fileno())
    if digest.hexdigest() != sha256:
        raise PackError(f"the content of {member.name} does not match its sha256")
