"""Members of archives, read by name: nothing is ever extracted by the path that an archive gives.

So `../`, absolute paths, links and devices can do no harm: whatever is not asked for is never looked at, and what is
asked for must be a regular file. Sizes are bounded, those that the archive claims and those that come out.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, cast

from dlpipe.datasets.sources import DataError

GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK"
CHUNK = 1 << 20
MOST_IN_ONE_READ = 64 << 20
"""Bytes: tarfile reads a header of any size it claims into memory at once."""


class ArchiveError(DataError):
    """An archive that is damaged, hostile, or lacks a member."""


def read_members(archive: Path, wanted: Mapping[str, Path], most_bytes: int) -> None:
    """Writes each member named in `wanted` to the path given there; `most_bytes` bounds all that is unpacked.

    Raises ArchiveError naming the member: missing, a link or device, larger than allowed, damaged.
    """
    with archive.open("rb") as file:
        magic = file.read(2)
    with only_if_intact(lambda fault: ArchiveError(f"not an intact archive: {fault}")):
        if magic == ZIP_MAGIC:
            _read_zip(archive, wanted, most_bytes)
        else:
            _read_tar(archive, magic == GZIP_MAGIC, wanted, most_bytes)


@contextlib.contextmanager
def only_if_intact(named: Callable[[str], DataError]) -> Iterator[None]:
    """Whatever the readers of archives raise for one that is damaged becomes the error that `named` makes of it."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError) as error:
        raise named(str(error)) from error
    except (NotImplementedError, RuntimeError, UnicodeDecodeError) as error:  # zipfile, of fields that make no sense
        raise named(str(error)) from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise
        raise named(str(error)) from error  # a place before the beginning of the file; gzip and bz2 have no number


def _read_zip(path: Path, wanted: Mapping[str, Path], most_bytes: int) -> None:
    with zipfile.ZipFile(path) as archive:
        left = most_bytes
        for member, target in wanted.items():
            try:
                info = archive.getinfo(member)
            except KeyError:
                raise ArchiveError(f"it has no member {member}") from None
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind not in (0, stat.S_IFREG):
                raise ArchiveError(f"its member {member} is no regular file")
            if info.flag_bits & 1:
                raise ArchiveError(f"its member {member} is encrypted")
            with archive.open(info) as file:
                left -= _copy(file, target, member, info.file_size, left)


def _read_tar(path: Path, packed: bool, wanted: Mapping[str, Path], most_bytes: int) -> None:
    missing = dict(wanted)
    with (
        cast("IO[bytes]", gzip.open(path, "rb")) if packed else path.open("rb") as file,
        tarfile.open(fileobj=cast("IO[bytes]", _Bounded(file, most_bytes)), mode="r:") as archive,
    ):
        for info in archive:
            target = missing.pop(info.name, None)
            if target is None:
                continue
            if not info.isreg():
                raise ArchiveError(f"its member {info.name} is no regular file")
            content = archive.extractfile(info)
            assert content is not None
            _copy(content, target, info.name, info.size, most_bytes)
            if not missing:
                return
    raise ArchiveError(f"it has no member {next(iter(missing))}")


def _copy(source: IO[bytes], target: Path, member: str, size: int, most_bytes: int) -> int:
    if size > most_bytes:
        raise ArchiveError(f"its member {member} claims {size:,} bytes; at most {most_bytes:,} are unpacked")
    target.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    with target.open("wb") as file:
        while chunk := source.read(min(CHUNK, size + 1 - done)):
            done += len(chunk)
            file.write(chunk)
    if done != size:
        raise ArchiveError(f"its member {member} unpacks to {done:,} bytes, not the {size:,} it claims")
    return done


class _Bounded(io.RawIOBase):
    """An unpacked stream that ends with an error, not with the machine's memory or the user's patience."""

    def __init__(self, file: IO[bytes], most_bytes: int) -> None:
        self.file = file
        self.most_bytes = most_bytes

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_IN_ONE_READ:
            raise ArchiveError(f"it claims a header of {size:,} bytes")
        self._check(self.file.tell() + size)
        return self.file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._check(offset)
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def _check(self, position: int) -> None:
        if position > self.most_bytes + tarfile.RECORDSIZE:
            raise ArchiveError(f"it unpacks to more than {self.most_bytes:,} bytes")
