"""Files of the user's own: they count by their content. Moved or renamed, nothing is done again."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from dlpipe.datasets.sources import RequestError, Source
from dlpipe.files import sha256_of_file


def existing(path: str, field: str) -> Path:
    """Raises RequestError, naming the field of the data set, when there is no such file."""
    if not path.strip():
        raise RequestError(f"dataset.{field}: the path is empty; name a file")
    file = Path(path).expanduser()
    if file.is_dir():
        raise RequestError(f"dataset.{field}: {path} is a folder; name a file in it")
    if not file.is_file():
        raise RequestError(
            f"dataset.{field}: no file {path}; a relative path starts from the folder you run in, {Path.cwd()}"
        )
    return file


def own_source(name: str, path: Path) -> Source:
    return Source(name=name, sha256=content_of(path), size=path.stat().st_size, path=path)


def content_of(path: Path) -> str:
    """The sha256 of the file as it is now."""
    status = path.stat()
    return _sha256(path.resolve(), status.st_mtime_ns, status.st_size)


@lru_cache
def _sha256(path: Path, modified: int, size: int) -> str:
    """A plan asks for the same file once a variant; it is read again only when its time or size changes."""
    return sha256_of_file(path)
