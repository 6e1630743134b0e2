"""One file over HTTP: resumed, bounded, checked, and never taken for what it is not.

pooch would be the usual choice, but it neither resumes nor bounds what it reads, and lets its HTTP client follow a
redirect from https to http; with those rules added nothing of it would be left. So this is urllib's plainest opener,
without handlers for file:, ftp: or redirects, and the rules in one place.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import itertools
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit, urlunsplit

from dlpipe import __version__
from dlpipe.datasets.sources import DataError
from dlpipe.files import sha256_of_file
from dlpipe.locks import LockedError
from dlpipe.progress import say

CHUNK = 1 << 16
PROGRESS_THAT_COUNTS = 1 << 20
"""Bytes after which a broken connection is a new failure, not one more of the same."""
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_REDIRECTS = 5
HTML = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body|script)\b", re.IGNORECASE)

WEB_PAGE = "it is a web page, not the data: a login, an error or a notice; open it in a browser to see"


class DownloadError(DataError):
    """What is wrong with one place a file might come from; another place may serve."""


class _Broken(Exception):
    """The connection failed; what has arrived is kept, and trying again may help."""


@dataclass(frozen=True)
class Policy:
    """How patient, and how trusting."""

    timeout: float = 30.0
    """Seconds without a byte after which a connection counts as broken."""
    least_rate: float = 100.0
    """Bytes a second, over `timeout` seconds, below which it counts as stalled: a byte now and then is no progress."""
    attempts: int = 4
    backoff: float = 1.0
    """Seconds before the second attempt; doubled each time."""
    most_bytes: int = 4 << 30
    """Cap on a file of unknown size, and on what an archive may unpack to."""


def download(
    url: str,
    partial: Path,
    *,
    sha256: str | None,
    size: int | None,
    policy: Policy | None = None,
    update: Callable[[int], object] = lambda done: None,
) -> None:
    """Completes the file `partial` from `url`, going on where an earlier attempt stopped.

    `update(bytes so far)` is called as bytes arrive. With `sha256` and `size` (bytes) None the file is only bounded,
    and its content is for the caller to check. Raises DownloadError naming the fault; `partial` is then kept if the
    connection broke, for resuming, and removed if what came was wrong. Raises LockedError when another process is at
    the same file.
    """
    policy = policy or Policy()
    partial.parent.mkdir(parents=True, exist_ok=True)
    with _held(partial):
        resumed = partial.exists()
        _transfer(url, partial, size, policy, update)
        if resumed and sha256 is not None and sha256_of_file(partial) != sha256:
            partial.unlink()  # the part that was there may have been of another file
            _transfer(url, partial, size, policy, update)
        fault = wrong_content(partial, sha256, size)
        if fault:
            partial.unlink()
            raise DownloadError(fault)


def wrong_content(path: Path, sha256: str | None, size: int | None) -> str | None:
    """What is wrong with a file, in words, or None."""
    got = path.stat().st_size
    if (size is None or got == size) and (sha256 is None or (actual := sha256_of_file(path)) == sha256):
        return None
    with path.open("rb") as file:
        if HTML.match(file.read(512)):
            return WEB_PAGE
    if size is not None and got != size:
        return f"it has {got:,} bytes, not {size:,}"
    return f"its sha256 is {actual}, not {sha256}: another version, or tampered with"


def shown(url: str) -> str:
    """The URL as it may be printed: without password and query, which can hold secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _transfer(url: str, partial: Path, size: int | None, policy: Policy, update: Callable[[int], object]) -> None:
    failures = 0
    while True:
        before = _size(partial)
        try:
            _attempt(url, partial, size, policy, update)
            return
        except _Broken as error:
            failures = 1 if _size(partial) - before >= PROGRESS_THAT_COUNTS else failures + 1
            if failures >= policy.attempts:
                raise DownloadError(f"{error}; gave up after {failures} attempts") from error
            say(f"{shown(url)}: {error}; trying again")
            time.sleep(policy.backoff * 2 ** (failures - 1))


def _attempt(url: str, partial: Path, size: int | None, policy: Policy, update: Callable[[int], object]) -> None:
    start = _size(partial)
    if size is not None and start >= size:
        if start == size:
            return
        partial.unlink()
        start = 0
    with _open(url, start, partial, policy) as response:
        start, total = _extent(response, start, partial)
        arriving = _chunks(response, policy)
        first = next(arriving, b"")
        fault = WEB_PAGE if start == 0 and HTML.match(first) else _wrong_total(total, size, policy)
        if fault:
            partial.unlink(missing_ok=True)
            raise DownloadError(fault)
        most, received = policy.most_bytes if size is None else size, start
        with partial.open("ab" if start else "wb") as file:
            for chunk in itertools.chain([first], arriving):
                received += len(chunk)
                if received > most:
                    break
                file.write(chunk)
                update(received)
    if received > most:
        partial.unlink()
        raise DownloadError(f"the server sends more than {most:,} bytes")
    expected = size if total is None else total
    if expected is not None and received < expected:
        raise _Broken(f"the connection ended after {received:,} of {expected:,} bytes")


def _wrong_total(total: int | None, size: int | None, policy: Policy) -> str | None:
    if total is not None and size is not None and total != size:
        return f"the server offers {total:,} bytes; the file has {size:,}"
    if total is not None and total > policy.most_bytes:
        return f"the server offers {total:,} bytes; at most {policy.most_bytes:,} are taken"
    return None


def _extent(response: http.client.HTTPResponse, start: int, partial: Path) -> tuple[int, int | None]:
    """Where the bytes that come belong, and how many the whole file has, if the server says."""
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if start == 0 or found is None or int(found[1]) != start:
            partial.unlink(missing_ok=True)
            raise _Broken(f"the server answered with another part of the file than byte {start:,} on")
        return start, None if found[2] == "*" else int(found[2])
    if response.status != 200:
        raise DownloadError(f"HTTP {response.status} {response.reason}")
    return 0, response.length


def _chunks(response: http.client.HTTPResponse, policy: Policy) -> Iterator[bytes]:
    window_start, in_window = time.monotonic(), 0
    while True:
        try:
            chunk = response.read1(CHUNK)  # what there is, so that a server that drips cannot hide behind a full buffer
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(f"the connection broke: {error or type(error).__name__}") from error
        if not chunk:
            return
        yield chunk
        in_window += len(chunk)
        seconds = time.monotonic() - window_start
        if seconds >= policy.timeout:
            if in_window < policy.least_rate * seconds:
                raise _Broken(f"the server stalls: {in_window:,} bytes in {seconds:.0f} s")
            window_start, in_window = time.monotonic(), 0


def _open(url: str, start: int, partial: Path, policy: Policy) -> http.client.HTTPResponse:
    """The answer to a request for the bytes from `start` on, redirects followed."""
    for _ in range(MOST_REDIRECTS + 1):
        headers = {"User-Agent": f"dlpipe/{__version__}", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            return _opener().open(urllib.request.Request(url, headers=headers), timeout=policy.timeout)
        except urllib.error.HTTPError as answer:
            answer.close()
            if answer.code in REDIRECTS:
                url = _redirected(url, answer.headers.get("Location"))
            elif answer.code == 416 and start:
                partial.unlink(missing_ok=True)
                raise _Broken(f"the server has no byte {start:,}, where the file was to go on") from answer
            else:
                kind = _Broken if answer.code in RETRIED else DownloadError
                raise kind(f"HTTP {answer.code} {answer.reason}") from answer
        except (http.client.InvalidURL, ValueError) as error:
            raise DownloadError(f"not a URL that can be asked for: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                advice = "the clock may be wrong, or SSL_CERT_FILE must name your certificates"
                raise DownloadError(f"its certificate does not verify ({reason.verify_message}): {advice}") from error
            raise _Broken(f"no connection: {reason or type(error).__name__}") from error
    raise DownloadError(f"it redirects more than {MOST_REDIRECTS} times")


def _redirected(url: str, location: str | None) -> str:
    if not location:
        raise DownloadError("it redirects to nowhere")
    target = urljoin(url, location)
    scheme = urlsplit(target).scheme
    if scheme not in ("http", "https"):
        raise DownloadError(f"it redirects to {shown(target)}, which is no web address; refused")
    if urlsplit(url).scheme == "https" and scheme == "http":
        raise DownloadError(f"it redirects from https to {shown(target)}, which is not protected; refused")
    return target


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextlib.contextmanager
def _held(partial: Path) -> Iterator[None]:
    """Two processes that append to one file would spoil it."""
    path = partial.with_name(f"{partial.name}.lock")
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                f"another process is downloading {partial.name} already; wait for it, or end it"
            ) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
