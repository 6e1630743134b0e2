"""Files that are complete or absent, and the digests of what is in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """The file is complete or absent, after a power cut too: written beside the target, fsynced, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes the whole of a file by `open_atomically`."""
    with open_atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_if_changed(path: Path, text: str) -> None:
    """Leaves a file that holds `text` already as it is, its time too."""
    if not path.exists() or path.read_bytes() != text.encode():
        write_atomically(path, text)


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
