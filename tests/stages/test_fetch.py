"""Fetch against a web server that misbehaves in every way we could think of, on 127.0.0.1."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import re
import signal
import ssl
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dlpipe.artifacts import Stage, Store
from dlpipe.datasets import download as downloading
from dlpipe.datasets.archives import ArchiveError, read_members
from dlpipe.datasets.digits import Digits
from dlpipe.datasets.download import DownloadError, Policy, download, shown
from dlpipe.datasets.mnist import Mnist
from dlpipe.datasets.sources import DataError, RequestError, Source, dataset_spec
from dlpipe.locks import LockedError
from dlpipe.spec.datasets import Digits as DigitsSpec
from dlpipe.spec.datasets import Images as ImagesSpec
from dlpipe.spec.datasets import Mnist as MnistSpec
from dlpipe.stages import fetch
from dlpipe.stages.fetch import Fetcher, FetchError

CONTENT = bytes(range(256)) * 2048
"""512 KiB, eight network reads."""
OTHER = CONTENT[::-1]
PATIENCE = Policy(timeout=0.3, attempts=3, backoff=0.01, most_bytes=4 << 20)
"""Short, for the tests; a server on this machine answers within milliseconds."""
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"

Answer = Callable[[BaseHTTPRequestHandler], None]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Web:
    """A server with an answer, or one answer a request, for each path; it keeps count of what it sends."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.sent = 0
        self.stopping = threading.Event()
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.requests.append((self.path, self.headers.get("Range")))
                self.close_connection = True
                answers = web.answers.get(self.path)
                if not answers:
                    self.send_error(404)
                    return
                with contextlib.suppress(ConnectionError):
                    (answers.pop(0) if len(answers) > 1 else answers[0])(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def url(self, path: str = "/file") -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def serve(self, *answers: Answer, path: str = "/file") -> str:
        self.answers[path] = list(answers)
        return self.url(path)

    def stop(self) -> None:
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def send(self, handler: BaseHTTPRequestHandler, content: bytes) -> None:
        self.sent += len(content)  # first, for the client may have it all before this thread goes on
        handler.wfile.write(content)
        handler.wfile.flush()

    def good(
        self, content: bytes = CONTENT, *, upto: int | None = None, then: str = "close", ranges: bool = True
    ) -> Answer:
        """The content, or its part that was asked for; with `upto`, only that many bytes, and then close or stall."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            found = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
            start = int(found[1]) if found and ranges else 0
            if start >= len(content):
                handler.send_error(416)
                return
            handler.send_response(206 if start else 200)
            if start:
                handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            handler.send_header("Content-Length", str(len(content) - start))
            handler.end_headers()
            self.send(handler, content[start : len(content) if upto is None else start + upto])
            if then == "stall":
                self.stopping.wait(20)

        return answer

    def status(self, code: int, **headers: str) -> Answer:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(code)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        return answer

    def unbounded(self, chunk: bytes, pause: float = 0.0) -> Answer:
        """A body without a length, which never ends by itself."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.end_headers()
            while not self.stopping.wait(pause) and self.sent < 100 << 20:
                self.send(handler, chunk)

        return answer


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    web = Web()
    yield web
    web.stop()


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "part"


def get(url: str, part: Path, *, content: bytes = CONTENT, size: bool = True, policy: Policy = PATIENCE) -> bytes:
    download(url, part, sha256=sha256(content), size=len(content) if size else None, policy=policy)
    return part.read_bytes()


@pytest.mark.parametrize("size", [True, False])
def test_a_good_file_arrives(web: Web, part: Path, size: bool) -> None:
    assert get(web.serve(web.good()), part, size=size) == CONTENT
    assert web.requests == [("/file", None)]


def test_progress_is_told_in_bytes_and_ends_at_the_size(web: Web, part: Path) -> None:
    told: list[int] = []
    download(web.serve(web.good()), part, sha256=sha256(CONTENT), size=None, policy=PATIENCE, update=told.append)
    assert told == sorted(told)
    assert told[-1] == len(CONTENT)


def test_a_truncated_file_is_gone_on_with(web: Web, part: Path) -> None:
    """Every byte is sent once: nothing is asked for again after the break."""
    assert get(web.serve(web.good(upto=100_000), web.good(upto=100_000), web.good()), part) == CONTENT
    assert web.requests == [("/file", None), ("/file", "bytes=100000-"), ("/file", "bytes=200000-")]
    assert web.sent == len(CONTENT)


def test_an_earlier_runs_part_is_gone_on_with(web: Web, part: Path) -> None:
    part.write_bytes(CONTENT[:300_000])
    assert get(web.serve(web.good()), part) == CONTENT
    assert web.sent == len(CONTENT) - 300_000


def test_a_complete_part_needs_no_request(web: Web, part: Path) -> None:
    part.write_bytes(CONTENT)
    assert get(web.url(), part) == CONTENT
    assert web.requests == []


def test_a_part_of_another_file_is_found_out_and_begun_anew(web: Web, part: Path) -> None:
    part.write_bytes(OTHER[:300_000])
    assert get(web.serve(web.good()), part) == CONTENT
    assert web.requests == [("/file", "bytes=300000-"), ("/file", None)]


def test_a_part_longer_than_the_file_is_begun_anew(web: Web, part: Path) -> None:
    part.write_bytes(CONTENT + b"more")
    assert get(web.serve(web.good()), part) == CONTENT
    assert web.requests == [("/file", None)]


def test_416_begins_anew(web: Web, part: Path) -> None:
    part.write_bytes(CONTENT)
    assert get(web.serve(web.good()), part, size=False) == CONTENT
    assert web.requests == [("/file", f"bytes={len(CONTENT)}-"), ("/file", None)]


def test_a_server_without_ranges_sends_all_again(web: Web, part: Path) -> None:
    part.write_bytes(OTHER[:300_000])
    assert get(web.serve(web.good(ranges=False)), part) == CONTENT
    assert web.sent == len(CONTENT)


@pytest.mark.parametrize("content_range", ["bytes 5-524287/524288", "5-9", "bytes */524288", ""])
def test_a_wrong_range_is_not_appended(web: Web, part: Path, content_range: str) -> None:
    part.write_bytes(CONTENT[:300_000])
    assert get(web.serve(web.status(206, Content_Range=content_range), web.good()), part) == CONTENT
    assert web.requests == [("/file", "bytes=300000-"), ("/file", None)]


def test_a_stalled_server_is_left_and_the_part_kept(web: Web, part: Path) -> None:
    with pytest.raises(DownloadError, match=r"the connection broke: .*timed out.*gave up after 3 attempts"):
        get(web.serve(web.good(upto=1000, then="stall")), part)
    assert part.read_bytes() == CONTENT[:3000]  # 1,000 more at each attempt


def test_a_byte_now_and_then_is_no_progress(web: Web, part: Path) -> None:
    policy = Policy(timeout=0.2, least_rate=1000.0, attempts=1)
    with pytest.raises(DownloadError, match=r"the server stalls: \d+ bytes in 0 s"):
        get(web.serve(web.unbounded(b"x", pause=0.02)), part, policy=policy)


@pytest.mark.parametrize("size", [True, False])
def test_a_web_page_is_named(web: Web, part: Path, size: bool) -> None:
    with pytest.raises(DownloadError, match="it is a web page, not the data"):
        get(web.serve(web.good(b" \n<HTML lang=en>" + PAGE)), part, size=size)
    assert not part.exists()
    assert len(web.requests) == 1


def test_wrong_bytes_are_named_and_removed(web: Web, part: Path) -> None:
    with pytest.raises(DownloadError, match=f"its sha256 is {sha256(OTHER)}, not {sha256(CONTENT)}"):
        get(web.serve(web.good(OTHER)), part)
    assert not part.exists()


@pytest.mark.parametrize("length", [1000, len(CONTENT) + 1])
def test_a_wrong_length_is_named_before_the_body_is_read(web: Web, part: Path, length: int) -> None:
    with pytest.raises(DownloadError, match=f"the server offers {length:,} bytes; the file has 524,288"):
        get(web.serve(web.good(b"\1" * length)), part)
    assert not part.exists()


@pytest.mark.parametrize(("size", "most"), [(True, len(CONTENT)), (False, 4 << 20)])
def test_an_endless_body_is_cut_off(web: Web, part: Path, size: bool, most: int) -> None:
    with pytest.raises(DownloadError, match=f"the server sends more than {most:,} bytes"):
        get(web.serve(web.unbounded(b"x" * 65536)), part, size=size)
    assert not part.exists()
    assert web.sent < most + (32 << 20)  # what the sockets' buffers hold


def test_an_offer_over_the_cap_is_refused(web: Web, part: Path) -> None:
    with pytest.raises(DownloadError, match=r"the server offers 8,000,000,000 bytes; at most 4,194,304 are taken"):
        get(web.serve(web.status(200, Content_Length="8000000000")), part, size=False)


def test_a_body_without_length_that_ends_early_is_cut_off_and_gone_on_with(web: Web, part: Path) -> None:
    def early(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        web.send(handler, CONTENT[:1000])

    assert get(web.serve(early, web.good()), part) == CONTENT
    assert web.sent == len(CONTENT)


def test_errors_that_pass_are_tried_again_and_others_not(web: Web, part: Path) -> None:
    assert get(web.serve(web.status(503), web.status(429), web.good()), part) == CONTENT
    part.unlink()
    with pytest.raises(DownloadError, match="HTTP 503 Service Unavailable; gave up after 3 attempts"):
        get(web.serve(web.status(503)), part)
    web.requests.clear()
    with pytest.raises(DownloadError, match="HTTP 403 Forbidden"):
        get(web.serve(web.status(403)), part)
    assert len(web.requests) == 1


def test_a_redirect_is_followed_and_the_range_with_it(web: Web, part: Path) -> None:
    part.write_bytes(CONTENT[:300_000])
    web.serve(web.good(), path="/there")
    assert get(web.serve(web.status(302, Location="/there")), part) == CONTENT
    assert web.requests == [("/file", "bytes=300000-"), ("/there", "bytes=300000-")]


def test_a_redirect_loop_ends(web: Web, part: Path) -> None:
    with pytest.raises(DownloadError, match="it redirects more than 5 times"):
        get(web.serve(web.status(301, Location="/file")), part)
    assert len(web.requests) == 6


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/file", "data:,x", "gopher://x"])
def test_a_redirect_away_from_the_web_is_refused(web: Web, part: Path, target: str) -> None:
    with pytest.raises(DownloadError, match=r"it redirects to .*, which is no web address; refused"):
        get(web.serve(web.status(302, Location=target)), part)
    assert len(web.requests) == 1


def test_a_redirect_to_nowhere_is_named(web: Web, part: Path) -> None:
    with pytest.raises(DownloadError, match="it redirects to nowhere"):
        get(web.serve(web.status(302)), part)


def test_https_never_becomes_http() -> None:
    with pytest.raises(DownloadError, match=r"from https to http://example\.org/b, which is not protected"):
        downloading._redirected("https://example.org/a", "http://example.org/b?token=1")
    assert downloading._redirected("https://example.org/a", "b") == "https://example.org/b"
    assert downloading._redirected("http://example.org/a", "https://example.org/b") == "https://example.org/b"


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "nonsense", "http://127.0.0.1:1x/"]
)
def test_only_web_addresses_are_opened(part: Path, url: str) -> None:
    with pytest.raises(DownloadError):
        get(url, part, policy=Policy(attempts=1, timeout=0.2))
    assert not part.exists()


def test_no_connection_is_named(part: Path, web: Web) -> None:
    url = web.url()
    web.server.server_close()  # nothing listens there any more
    with pytest.raises(DownloadError, match=r"no connection: .*refused.*; gave up after 3 attempts"):
        get(url, part)


def test_a_certificate_that_does_not_verify_is_not_tried_again(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Opener:
        def open(self, *_: object, **__: object) -> None:
            calls.append(1)
            error = ssl.SSLCertVerificationError()
            error.verify_message = "unable to get local issuer certificate"
            raise downloading.urllib.error.URLError(error)

    monkeypatch.setattr(downloading, "_opener", Opener)
    with pytest.raises(
        DownloadError, match=r"does not verify \(unable to get local issuer certificate\).*SSL_CERT_FILE"
    ):
        get("https://example.org/file", part)
    assert len(calls) == 1


def test_two_processes_do_not_append_to_one_file(web: Web, part: Path) -> None:
    with downloading._held(part), pytest.raises(LockedError, match="another process is downloading part"):
        get(web.serve(web.good()), part)
    assert get(web.serve(web.good()), part) == CONTENT
    assert [path.name for path in part.parent.iterdir()] == ["part"]


def test_secrets_in_a_url_are_not_shown() -> None:
    assert shown("https://user:secret@example.org:8080/a/b?token=secret#c") == "https://example.org:8080/a/b"


# Archives


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes], packed: bool = True) -> Path:
    with tarfile.open(path, "w:gz" if packed else "w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, target: str = "/etc/passwd") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def regular(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


def zip_of(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_members_are_read_by_name_and_nothing_else_is_written(tmp_path: Path, kind: str) -> None:
    members = {"../evil": b"evil", "/evil": b"evil", "a": CONTENT[:1024], "b": b"second", "c": b"not wanted"}
    path = tmp_path / "archive"
    if kind == "zip":
        zip_of(path, **members)
    else:
        links = [special("evil", tarfile.SYMTYPE), special("evil2", tarfile.LNKTYPE), special("dev", tarfile.CHRTYPE)]
        tar_of(path, *links, *(regular(*member) for member in members.items()), packed=kind == "tar.gz")
    folder = tmp_path / "out"
    read_members(path, {"b": folder / "deep" / "b", "a": folder / "a"}, 1 << 20)
    assert (folder / "a").read_bytes() == members["a"]
    assert (folder / "deep" / "b").read_bytes() == b"second"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "archive", "b", "deep", "out"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_no_regular_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    path = tar_of(tmp_path / "archive", special("a", kind))
    with pytest.raises(ArchiveError, match="its member a is no regular file"):
        read_members(path, {"a": tmp_path / "a"}, 1 << 20)
    assert not (tmp_path / "a").exists()


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("a")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ArchiveError, match="its member a is no regular file"):
        read_members(tmp_path / "archive", {"a": tmp_path / "a"}, 1 << 20)


@pytest.mark.parametrize("make", [lambda path: zip_of(path, b=b""), lambda path: tar_of(path, regular("b", b""))])
def test_a_missing_member_is_named(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(ArchiveError, match="it has no member a"):
        read_members(make(tmp_path / "archive"), {"a": tmp_path / "a"}, 1 << 20)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: zip_of(path, a=bytes(2 << 20)),
        lambda path: tar_of(path, regular("a", bytes(2 << 20))),
        lambda path: tar_of(path, regular("before", bytes(2 << 20)), regular("a", b"")),
    ],
)
def test_a_bomb_is_not_unpacked(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(ArchiveError, match=r"at most 1,048,576|more than 1,048,576"):
        read_members(make(tmp_path / "archive"), {"a": tmp_path / "a"}, 1 << 20)
    assert not (tmp_path / "a").exists()


def test_two_members_share_one_bound(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "archive", a=bytes(800_000), b=bytes(800_000))
    with pytest.raises(ArchiveError, match="its member b claims 800,000 bytes; at most 248,576"):
        read_members(path, {"a": tmp_path / "a", "b": tmp_path / "b"}, 1 << 20)


def test_a_tar_header_that_claims_gigabytes_is_not_read_into_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 3 << 30
    path = tmp_path / "archive"
    path.write_bytes(gzip.compress(info.tobuf() + bytes(4096)))
    with pytest.raises(ArchiveError, match=r"it claims a header of 3,221,225,472 bytes"):
        read_members(path, {"a": tmp_path / "a"}, 8 << 30)


def test_a_member_that_claims_gigabytes_is_not_skipped_over(tmp_path: Path) -> None:
    """To skip is to unpack."""
    info = tarfile.TarInfo("before")
    info.size = 3 << 30
    path = tmp_path / "archive"
    path.write_bytes(gzip.compress(info.tobuf() + bytes(4096)))
    with pytest.raises(ArchiveError, match="it unpacks to more than 1,048,576 bytes"):
        read_members(path, {"a": tmp_path / "a"}, 1 << 20)


@pytest.mark.parametrize("content", [b"", b"PK not a zip", b"\x1f\x8b not gzip", CONTENT, PAGE])
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"not an intact archive|it has no member a"):
        read_members(tmp_path / "archive", {"a": tmp_path / "a"}, 1 << 20)


@pytest.mark.parametrize("make", [lambda p: zip_of(p, a=OTHER), lambda p: tar_of(p, regular("a", OTHER))])
def test_an_archive_that_is_cut_short_is_named(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "archive")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ArchiveError, match="not an intact archive"):
        read_members(path, {"a": tmp_path / "a"}, 1 << 20)


# All files of a data set, from the places in their order


def fetcher(tmp_path: Path, **options: object) -> Fetcher:
    (tmp_path / "out").mkdir(exist_ok=True)
    return Fetcher("set", tmp_path / "out", tmp_path / "partial", policy=PATIENCE, **options)  # type: ignore[arg-type]


def source(*urls: str, name: str = "file", content: bytes = CONTENT, **options: object) -> Source:
    return Source(name, sha256(content), urls=urls, size=len(content), **options)  # type: ignore[arg-type]


def mirror_of(tmp_path: Path, name: str = "file", content: bytes = CONTENT) -> Path:
    path = tmp_path / "mirror" / "set" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return tmp_path / "mirror"


def test_403_at_the_first_url_then_the_second(web: Web, tmp_path: Path) -> None:
    bad, good = web.serve(web.status(403), path="/bad"), web.serve(web.good(), path="/good")
    job = fetcher(tmp_path)
    job.fetch([source(bad, good)])
    assert job.origins == {"file": good}
    assert (tmp_path / "out" / "file").read_bytes() == CONTENT


def test_progress_is_told_by_file_and_with_what_is_to_come(web: Web, tmp_path: Path) -> None:
    told: dict[tuple[str, int, int], list[int]] = {}
    job = fetcher(tmp_path, unit=lambda *unit: lambda count: told.setdefault(unit, []).append(count.done))
    urls = [web.serve(web.good(), path="/one"), web.serve(web.good(OTHER[:999]), path="/two")]
    job.fetch([source(urls[0], name="one"), source(urls[1], name="two", content=OTHER[:999])])
    assert {unit: counts[-1] for unit, counts in told.items()} == {("one", 1, 999): len(CONTENT), ("two", 2, 0): 999}
    assert told["one", 1, 999] == sorted(told["one", 1, 999])


def test_what_the_first_url_began_the_second_goes_on_with(
    web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, good = web.serve(web.good(upto=1000), path="/broken"), web.serve(web.good(), path="/good")
    fetcher(tmp_path).fetch([source(broken, good)])
    assert (tmp_path / "out" / "file").read_bytes() == CONTENT
    assert web.requests[-1] == ("/good", "bytes=3000-")
    ended = [f"{broken}: the connection ended after {n} of 524,288 bytes" for n in ("1,000", "2,000", "3,000")]
    assert capsys.readouterr().err.splitlines() == [
        f"{ended[0]}; trying again",
        f"{ended[1]}; trying again",
        f"{ended[2]}; gave up after 3 attempts",
    ]


def test_the_error_names_every_place_and_its_fault(web: Web, tmp_path: Path) -> None:
    urls = [
        web.serve(answer, path=f"/{n}") for n, answer in enumerate([web.status(403), web.good(PAGE), web.good(OTHER)])
    ]
    mirror = mirror_of(tmp_path, content=b"short")
    with pytest.raises(FetchError) as caught:
        fetcher(tmp_path, mirrors=[mirror, web.url("/mirror")]).fetch([source(*urls)])
    assert str(caught.value).splitlines() == [
        "set/file could not be had:",
        f"  {mirror}/set/file: it has 5 bytes, not 524,288",
        f"  {web.url('/mirror/set/file')}: HTTP 404 Not Found",
        f"  {urls[0]}: HTTP 403 Forbidden",
        f"  {urls[1]}: it is a web page, not the data: a login, an error or a notice; open it in a browser to see",
        f"  {urls[2]}: its sha256 is {sha256(OTHER)}, not {sha256(CONTENT)}: another version, or tampered with",
        "Try again: what has arrived is kept. "
        f"Or get set/file (sha256 {sha256(CONTENT)}) elsewhere and name its folder with --mirror DIR.",
    ]
    assert not list((tmp_path / "out").iterdir())
    assert not list((tmp_path / "partial").iterdir())


def test_a_mirror_comes_before_the_network(web: Web, tmp_path: Path) -> None:
    job = fetcher(tmp_path, mirrors=[mirror_of(tmp_path)])
    job.fetch([source(web.serve(web.good()))])
    assert web.requests == []
    assert job.origins == {"file": str(tmp_path / "mirror" / "set" / "file")}


def test_a_mirror_with_the_wrong_bytes_is_passed_over(web: Web, tmp_path: Path) -> None:
    job = fetcher(tmp_path, mirrors=[mirror_of(tmp_path, content=OTHER)])
    job.fetch([source(web.serve(web.good()))])
    assert (tmp_path / "out" / "file").read_bytes() == CONTENT
    assert job.origins == {"file": web.url()}


def test_a_mirror_may_be_a_url(web: Web, tmp_path: Path) -> None:
    web.serve(web.good(), path="/mirror/set/deep/a%20file")
    job = fetcher(tmp_path, mirrors=[web.url("/mirror")])
    job.fetch([source(web.url("/nothing"), name="deep/a file")])
    assert (tmp_path / "out" / "deep" / "a file").read_bytes() == CONTENT


def test_offline_uses_folders_and_never_the_network(web: Web, tmp_path: Path) -> None:
    url = web.serve(web.good())
    fetcher(tmp_path, mirrors=[mirror_of(tmp_path)], offline=True).fetch([source(url)])
    with pytest.raises(FetchError) as caught:
        fetcher(tmp_path, mirrors=[web.url("/mirror")], offline=True).fetch([source(url)])
    assert str(caught.value) == (
        "set/file could not be had:\n  there is no place to look at\n"
        "Leave --offline out to download it, or name a folder that holds "
        f"set/file (sha256 {sha256(CONTENT)}) with --mirror DIR."
    )
    assert web.requests == []


def test_what_was_downloaded_before_a_failure_is_not_downloaded_again(web: Web, tmp_path: Path) -> None:
    first, second = source(web.serve(web.good())), source(web.url("/later"), name="second", content=OTHER)
    with pytest.raises(FetchError, match=r"set/second could not be had"):
        fetcher(tmp_path).fetch([first, second])
    web.serve(web.good(OTHER), path="/later")
    job = fetcher(tmp_path)
    job.fetch([first, second])
    assert [path for path, _ in web.requests] == ["/file", "/later", "/later"]
    assert job.origins == {"file": "downloaded before", "second": web.url("/later")}
    job.clean()
    assert not (tmp_path / "partial").exists()


def test_what_was_downloaded_before_serves_offline(web: Web, tmp_path: Path) -> None:
    download(web.serve(web.good()), tmp_path / "partial" / sha256(CONTENT), sha256=None, size=None)
    fetcher(tmp_path, offline=True).fetch([source(web.url())])
    assert (tmp_path / "out" / "file").read_bytes() == CONTENT


def archive_sources(*urls: str) -> list[Source]:
    return [source(*urls, name=f"deep/{n}", content=CONTENT[:n], member=f"top/{n}") for n in (10, 20)]


def an_archive(tmp_path: Path, *contents: bytes) -> bytes:
    members = (regular(f"top/{n}", content) for n, content in zip((10, 20), contents, strict=True))
    return tar_of(tmp_path / "made.tar.gz", *members).read_bytes()


def test_an_archive_is_downloaded_once_for_all_its_members(web: Web, tmp_path: Path) -> None:
    url = web.serve(web.good(an_archive(tmp_path, CONTENT[:10], CONTENT[:20])), path="/a.tar.gz")
    job = fetcher(tmp_path)
    job.fetch(archive_sources(url))
    assert (tmp_path / "out" / "deep" / "20").read_bytes() == CONTENT[:20]
    assert job.origins == {"deep/10": url, "deep/20": url}
    assert len(web.requests) == 1
    assert len(list((tmp_path / "partial").iterdir())) == 1
    job.clean()
    assert not (tmp_path / "partial").exists()


def test_a_folder_of_members_is_as_good_a_mirror_as_the_archive(web: Web, tmp_path: Path) -> None:
    url = web.url("/a.tar.gz")
    for n in (10, 20):
        mirror = mirror_of(tmp_path, f"deep/{n}", CONTENT[:n])
    fetcher(tmp_path, mirrors=[mirror], offline=True).fetch(archive_sources(url))
    assert (tmp_path / "out" / "deep" / "10").read_bytes() == CONTENT[:10]
    other = tmp_path / "other"
    other.mkdir()
    mirror = mirror_of(other, "a.tar.gz", an_archive(tmp_path, CONTENT[:10], CONTENT[:20]))
    fetcher(other, mirrors=[mirror], offline=True).fetch(archive_sources(url))
    assert (other / "out" / "deep" / "20").read_bytes() == CONTENT[:20]
    assert web.requests == []


def test_a_wrong_member_is_named_and_the_archive_removed(web: Web, tmp_path: Path) -> None:
    url = web.serve(web.good(an_archive(tmp_path, CONTENT[:10], OTHER[:20])), path="/a.tar.gz")
    with pytest.raises(FetchError, match=r"its member top/20: its sha256 is [0-9a-f]+, not"):
        fetcher(tmp_path).fetch(archive_sources(url))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name == "20"]
    assert not list((tmp_path / "partial").iterdir())


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", "a\\x"])
def test_a_source_is_never_named_out_of_its_folder(name: str) -> None:
    with pytest.raises(ValueError, match="a path inside the artifact"):
        Source(name, sha256(b""))


def test_a_source_has_a_whole_sha256() -> None:
    with pytest.raises(ValueError, match="is not a sha256"):
        Source("a", "abc")


# The stage


def stage_of(spec: object) -> Stage:
    files = {source.name: source.sha256 for source in spec.load().sources(spec)}  # type: ignore[attr-defined]
    hints = {"dataset": spec.model_dump(mode="json")}  # type: ignore[attr-defined]
    return Stage("fetch", spec.kind, {"dataset": spec.kind, "files": files}, hints=hints)  # type: ignore[attr-defined]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data", tmp_path / "results")


def test_digits_come_out_of_scikit_learn_offline(store: Store) -> None:
    artifact = fetch.run(stage_of(DigitsSpec()), store, offline=True)
    assert artifact.path("digits.csv.gz").stat().st_size == 57_523
    assert artifact.extra == {"terms": Digits.terms, "origins": {"digits.csv.gz": "package sklearn"}}


def test_a_stage_that_is_done_does_nothing(store: Store) -> None:
    stage = stage_of(DigitsSpec())
    first = fetch.run(stage, store)
    again = fetch.run(stage, store, mirrors=["no such place"])
    assert again.manifest == first.manifest


def test_a_package_that_is_not_installed_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Source("file", sha256(b""), package=("no_such_package", "file"))
    monkeypatch.setattr(Digits, "sources", staticmethod(lambda spec: (missing,)))
    with pytest.raises(
        FetchError, match=r"package no_such_package: it is not installed\nInstall the package no_such_package"
    ):
        fetch.run(stage_of(DigitsSpec()), store)
    assert not store.is_done("fetch", stage_of(DigitsSpec()).id)


def test_files_of_another_fetch_serve(store: Store, monkeypatch: pytest.MonkeyPatch, web: Web) -> None:
    """A stage of another version, say, has the same files: they are not downloaded again, but checked again."""
    monkeypatch.setattr(Mnist, "sources", staticmethod(lambda spec: (source(web.url()),)))
    web.serve(web.good())
    stage = stage_of(MnistSpec())
    first = fetch.run(stage, store, policy=PATIENCE)
    other = Stage("fetch", "mnist", stage.spec, versions={"fetch": 2}, hints=stage.hints)
    second = fetch.run(other, store, offline=True)
    assert second.folder != first.folder
    assert second.path("file").read_bytes() == CONTENT
    assert len(web.requests) == 1


@pytest.mark.parametrize("mirror", ["/no/such/folder", "ftp://example.org", "file:///etc"])
def test_a_mirror_that_is_none_is_an_error_before_anything_is_done(store: Store, mirror: str) -> None:
    with pytest.raises(RequestError, match="neither a folder nor an http"):
        fetch.run(stage_of(DigitsSpec()), store, mirrors=[mirror])


def test_a_users_file_that_changed_since_planning_is_refused(store: Store, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "mine.npz", **{"images.npy": b"1", "labels.npy": b"2"})
    spec = ImagesSpec(images=str(path), test=1)
    stage = stage_of(spec)
    zip_of(path, **{"images.npy": b"11", "labels.npy": b"2"})
    with pytest.raises(DataError, match=r"images.npz: not the file that images-[0-9a-f]+ was planned with; plan again"):
        fetch.run(stage, store)
    assert not store.folder("fetch", stage.id).exists()


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(DataError, match="no dataset kind 'nothing'; there are adding, "):
        dataset_spec({"kind": "nothing"})


def test_a_failed_fetch_leaves_no_artifact(store: Store, monkeypatch: pytest.MonkeyPatch, web: Web) -> None:
    monkeypatch.setattr(Mnist, "sources", staticmethod(lambda spec: (source(web.url()),)))
    web.serve(web.good(OTHER))
    stage = stage_of(MnistSpec())
    with pytest.raises(FetchError):
        fetch.run(stage, store, policy=PATIENCE)
    assert not [path for path in store.data.rglob("*") if path.is_file()]
    web.serve(web.good())
    assert fetch.run(stage, store, policy=PATIENCE).path("file").read_bytes() == CONTENT


def test_kill_9_leaves_no_artifact_and_the_next_run_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch, web: Web, tmp_path: Path
) -> None:
    web.serve(web.good(upto=200_000, then="stall"), web.good())
    monkeypatch.setattr(Mnist, "sources", staticmethod(lambda spec: (source(web.url()),)))
    stage = stage_of(MnistSpec())
    script = f"""
        from dlpipe.artifacts import Stage, Store
        from dlpipe.datasets.mnist import Mnist
        from dlpipe.datasets.sources import Source
        from dlpipe.stages import fetch

        Mnist.sources = staticmethod(lambda spec: ({source(web.url())!r},))
        fetch.run(Stage.from_json({stage.to_json()!r}), Store({str(store.data)!r}, {str(store.results)!r}))
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    part = store.data / ".partial" / sha256(CONTENT)
    end = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size >= 131_072) and time.monotonic() < end:  # buffered, so not yet all
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = part.stat().st_size
    assert 131_072 <= kept <= 200_000
    assert not store.is_done("fetch", stage.id)
    assert not store.folder("fetch", stage.id).exists()
    web.sent = 0
    artifact = fetch.run(stage, store, policy=PATIENCE)
    assert artifact.path("file").read_bytes() == CONTENT
    assert web.requests == [("/file", None), ("/file", f"bytes={kept}-")]
    assert web.sent == len(CONTENT) - kept
    assert [path.name for path in store.data.rglob("*") if path.is_file()] == ["file", "manifest.json"]


def test_neither_planning_nor_fetching_imports_anything_heavy(tmp_path: Path) -> None:
    script = """
        import sys
        import dlpipe.stages.fetch
        from dlpipe.spec import datasets
        for spec in (datasets.Digits(), datasets.Mnist(), datasets.FashionMnist(), datasets.Plane(shape='rings')):
            spec.load().sources(spec)
        print([name for name in ("torch", "numpy", "sklearn", "scipy") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
