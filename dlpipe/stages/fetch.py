"""Fetch: every file of a data set, from wherever it can be had, verified by its sha256.

For each file in turn: the user's own path, an installed package, what has been downloaded already, the mirrors, the
URLs. The artifact is complete or absent. A download lies in `data/.partial/<sha256>`, apart from it, until all files
are there, so that the next attempt goes on where this one stopped.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

from dlpipe.artifacts import MANIFEST, Artifact, ArtifactError, Stage, Store, read_manifest
from dlpipe.datasets.archives import read_members
from dlpipe.datasets.download import DownloadError, Policy, download, shown, wrong_content
from dlpipe.datasets.sources import DataError, Dataset, RequestError, Source, dataset_spec
from dlpipe.progress import Told, say, track
from dlpipe.running import Record

PARTIAL = ".partial"
OUR_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors that no other place would mend."""


class FetchError(DataError):
    """A file that could not be had anywhere; the message has a line for each place and what was wrong with it."""


def run(
    stage: Stage, store: Store, *, mirrors: Sequence[str] = (), offline: bool = False, policy: Policy | None = None
) -> Artifact:
    """Makes the raw data of `stage`.

    A mirror is a folder or a URL under which a file is `<data set>/<name>`. `offline` leaves folders, packages and what
    is here already. Raises FetchError when a file cannot be had, DataError when the request itself is wrong.
    """
    if store.is_done(stage.rule, stage.id):
        return store.read_or_set_aside(stage.rule, stage.id)
    places = [_place(mirror) for mirror in mirrors]
    spec = dataset_spec(stage.hints["dataset"])
    dataset: type[Dataset] = spec.load()
    sources = dataset.sources(spec)
    _check_planned(stage, sources)
    with store.make(stage) as draft, Record(store, stage, draft.lock, units=len(sources)) as record:
        fetcher = Fetcher(
            dataset=stage.spec["dataset"],
            folder=draft.folder,
            partials=store.data / PARTIAL,
            here=_here(store),
            mirrors=places,
            offline=offline,
            policy=policy or Policy(),
            unit=record.unit,
        )
        fetcher.fetch(sources)
        draft.extra.update(terms=dataset.terms, origins=fetcher.origins)
    fetcher.clean()
    return store.read(stage.rule, stage.id)


def _place(mirror: str) -> str | Path:
    """The mirror as URL or folder. Raises RequestError when it is neither."""
    if urlsplit(mirror).scheme in ("http", "https"):
        return mirror.rstrip("/")
    folder = Path(mirror).expanduser()
    if not folder.is_dir():
        raise RequestError(f"--mirror {mirror}: neither a folder nor an http(s) URL")
    return folder


def _check_planned(stage: Stage, sources: Sequence[Source]) -> None:
    planned, now = stage.spec["files"], {source.name: source.sha256 for source in sources}
    if planned != now:
        changed = sorted(name for name in {*planned, *now} if planned.get(name) != now.get(name))
        raise DataError(f"{', '.join(changed)}: not the file that {stage.id} was planned with; plan again")


@dataclass
class Fetcher:
    """Brings the files of one data set into `folder`. `origins` tells where each came from."""

    dataset: str
    folder: Path
    partials: Path
    here: Mapping[str, Path] = field(default_factory=dict)
    """sha256 to a file that an earlier fetch has left."""
    mirrors: Sequence[str | Path] = ()
    offline: bool = False
    policy: Policy = field(default_factory=Policy)
    unit: Callable[[str, int, int], Told] = lambda name, position, after: lambda count: None
    """What is to be told how far a file is: by its name, its position, and the bytes to come after it."""
    origins: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    """Of the files that are wanted, in bytes; 0 where it is not known."""
    used: set[Path] = field(default_factory=set)
    """Complete downloads, of no use once the artifact stands."""

    def fetch(self, sources: Sequence[Source]) -> None:
        """Every source, or FetchError for the first that cannot be had."""
        self.sizes = {source.name: source.size or 0 for source in sources}
        for source in sources:
            if source.name not in self.origins:
                self._fetch(source, sources)

    def _fetch(self, source: Source, sources: Sequence[Source]) -> None:
        failures = []
        for place, bring in self._ways(source, sources):
            try:
                bring()
                self.origins.setdefault(source.name, place)
                return
            except (DataError, OSError) as error:
                if isinstance(error, OSError) and error.errno in OUR_DISK:
                    raise
                failures.append(f"  {place}: {error}")
                say(f"{place}: {error}")
                (self.folder / source.name).unlink(missing_ok=True)
        tried = "\n".join(failures) or "  there is no place to look at"
        raise FetchError(f"{self.dataset}/{source.name} could not be had:\n{tried}\n{self._advice(source)}")

    def _ways(self, source: Source, sources: Sequence[Source]) -> Iterator[tuple[str, Callable[[], None]]]:
        """Places, in the order they are tried, and what brings the file from there, verified, or raises."""
        if source.path is not None:
            yield str(source.path), partial(self._copy, source, source.path)
        if source.package is not None:
            yield f"package {source.package[0]}", partial(self._from_package, source)
        if source.sha256 in self.here:
            yield str(self.here[source.sha256]), partial(self._copy, source, self.here[source.sha256])
        kept = self.partials / source.sha256
        if kept.is_file() and wrong_content(kept, source.sha256, source.size) is None:
            yield "downloaded before", partial(self._take, source, kept)
        for mirror in self.mirrors:
            if isinstance(mirror, Path):
                yield from self._ways_in_folder(source, sources, mirror / self.dataset)
            elif not self.offline:
                yield from self._ways_at_url(source, sources, f"{mirror}/{quote(self.dataset)}")
        for url in source.urls:
            if source.member is not None:
                if not self.offline or self._whole(url).exists():
                    yield shown(url), partial(self._from_archive_at, url, source, sources)
            elif not self.offline:
                yield shown(url), partial(self._download, source, url)

    def _ways_in_folder(
        self, source: Source, sources: Sequence[Source], folder: Path
    ) -> Iterator[tuple[str, Callable[[], None]]]:
        yield str(folder / source.name), partial(self._copy, source, folder / source.name)
        for archive in {folder / name: None for name in _archive_names(source)}:
            if archive.is_file():
                yield str(archive), partial(self._unpack, archive, source, sources, str(archive))

    def _ways_at_url(
        self, source: Source, sources: Sequence[Source], folder: str
    ) -> Iterator[tuple[str, Callable[[], None]]]:
        url = f"{folder}/{quote(source.name)}"
        yield shown(url), partial(self._download, source, url)
        for archive in {f"{folder}/{quote(name)}": None for name in _archive_names(source)}:
            yield shown(archive), partial(self._from_archive_at, archive, source, sources)

    def _copy(self, source: Source, path: Path) -> None:
        if not path.is_file():
            raise DownloadError("no such file")
        size = path.stat().st_size
        if source.size is not None and size != source.size:
            raise DownloadError(f"it has {size:,} bytes, not {source.size:,}")
        shutil.copyfile(path, self._target(source))
        self._verify(source)

    def _from_package(self, source: Source) -> None:
        assert source.package is not None
        package, inside = source.package
        found = importlib.util.find_spec(package)  # finds it without importing it
        if found is None or not found.submodule_search_locations:
            raise DownloadError("it is not installed")
        self._copy(source, Path(found.submodule_search_locations[0]) / inside)

    def _download(self, source: Source, url: str) -> None:
        path, leave = self.partials / source.sha256, self._leave(source.name)
        with track(f"fetch {self.dataset}/{source.name}", source.size, "bytes", leave=leave) as update:
            download(url, path, sha256=source.sha256, size=source.size, policy=self.policy, update=update)
        self._take(source, path)

    def _take(self, source: Source, kept: Path) -> None:
        """A copy, not the file itself: if a later file fails, this one need not be downloaded again."""
        self._copy(source, kept)
        self.used.add(kept)

    def _from_archive_at(self, url: str, source: Source, sources: Sequence[Source]) -> None:
        whole = self._whole(url)
        if not whole.exists():
            path, leave = whole.with_suffix(""), self._leave(PurePosixPath(urlsplit(url).path).name)
            with track(f"fetch {shown(url)}", None, "bytes", leave=leave) as update:
                download(url, path, sha256=None, size=None, policy=self.policy, update=update)
                path.replace(whole)
        self.used.add(whole)
        try:
            self._unpack(whole, source, sources, shown(url))
        except DataError:
            whole.unlink()
            raise

    def _unpack(self, archive: Path, source: Source, sources: Sequence[Source], place: str) -> None:
        """This source and all others that are members of the same archive, in one pass."""
        siblings = [s for s in sources if s.member and s.urls == source.urls and s.name not in self.origins]
        wanted = {s.member: self._target(s) for s in siblings if s.member is not None}
        read_members(archive, wanted, self.policy.most_bytes)
        for sibling in siblings:
            self._verify(sibling)
        self.origins.update({sibling.name: place for sibling in siblings})

    def _whole(self, url: str) -> Path:
        """Where a complete archive is kept until the artifact stands; its URL names it, for want of a sha256."""
        return self.partials / f"{hashlib.sha256(url.encode()).hexdigest()}.whole"

    def _target(self, source: Source) -> Path:
        path = self.folder / source.name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _verify(self, source: Source) -> None:
        path = self.folder / source.name
        fault = wrong_content(path, source.sha256, source.size)
        if fault:
            path.unlink()
            raise DownloadError(fault if source.member is None else f"its member {source.member}: {fault}")

    def _leave(self, name: str) -> Told:
        """What is told how far the download of `name`, a file or an archive of several, is."""
        after = sum(size for other, size in self.sizes.items() if other != name and other not in self.origins)
        return self.unit(name, len(self.origins) + 1, after)

    def _advice(self, source: Source) -> str:
        if source.path is not None:
            return "Plan again, or put the file back as it was."
        if source.package is not None:
            return f"Install the package {source.package[0]} again, in a version that dlpipe's requirements allow."
        where = f"{self.dataset}/{source.name} (sha256 {source.sha256})"
        if self.offline:
            return f"Leave --offline out to download it, or name a folder that holds {where} with --mirror DIR."
        return f"Try again: what has arrived is kept. Or get {where} elsewhere and name its folder with --mirror DIR."

    def clean(self) -> None:
        """Removes what only served the artifact that now stands."""
        for path in self.used:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.partials.rmdir()


def _archive_names(source: Source) -> tuple[str, ...]:
    if source.member is None:
        return ()
    return tuple(PurePosixPath(urlsplit(url).path).name for url in source.urls)


def _here(store: Store) -> dict[str, Path]:
    """sha256 to a file of an earlier fetch, as its manifest has it; whoever copies it looks at every byte."""
    found = {}
    for path in store.folder("fetch", "any").parent.glob(f"*/{MANIFEST}"):
        with contextlib.suppress(ArtifactError):
            files = read_manifest(path.parent, path.parent.name)["files"]
            found.update({facts["sha256"]: path.parent / name for name, facts in files.items()})
    return found
