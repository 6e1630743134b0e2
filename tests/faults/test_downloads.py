"""Two fetches of one file, and a disk that fills up in mid-download.

How a server may misbehave is in tests/stages/test_fetch.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from dlpipe.artifacts import Stage, Store, write_stages
from tests.faults.disks import PAGE, Disk
from tests.faults.running import Running, start
from tests.stages.test_fetch import CONTENT, Web, sha256, source

SPEC = {"kind": "mnist"}
STAGE = Stage("fetch", "mnist", {"dataset": "mnist", "files": {"file": sha256(CONTENT)}}, hints={"dataset": SPEC})


def from_here(url: str) -> None:
    """In the child: the data set is one file, at `url`."""
    from dlpipe.datasets.mnist import Mnist

    Mnist.sources = staticmethod(lambda spec: (source(url),))  # type: ignore[method-assign]


def fetching(folder: Path, url: str, data: str = "data", results: str = "results") -> Running:
    write_stages(Store(folder / data, folder / results), [STAGE])
    where = ("--data", str(folder / data), "--results", str(folder / results))
    return start(folder, "fetch", STAGE.id, *where, upset=partial(from_here, url))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def slow(web: Web) -> Iterator[tuple[str, threading.Event]]:
    """The URL of a file whose second half comes when the event is set."""
    go_on = threading.Event()
    whole = web.good()

    def halting(handler: object) -> None:
        web.good(upto=len(CONTENT) // 2)(handler)  # type: ignore[arg-type]
        go_on.wait(20)

    yield web.serve(halting, whole), go_on
    go_on.set()


@pytest.mark.parametrize("theirs", ["results", "theirs"], ids=["one-store", "shared-data"])
def test_two_fetches_of_one_file_end_in_one_whole_file(
    theirs: str,
    folder: Path,
    slow: tuple[str, threading.Event],
    web: Web,
) -> None:
    """At once, for one results folder or two: one downloads, the other waits or says who is at it."""
    url, go_on = slow
    first = fetching(folder, url)
    first.wait_for(lambda: web.sent)
    second = fetching(folder, url, results=theirs)
    second.process.join(0.5)
    go_on.set()
    assert first.end().exit_code == 0
    ended = second.end()
    if ended.exit_code != 0:
        assert ended.says("is making"), ended.err
        assert fetching(folder, url, results=theirs).end().exit_code == 0
    store = Store(folder / "data", folder / theirs)
    assert store.read("fetch", STAGE.id).path("file").read_bytes() == CONTENT
    assert web.sent == len(CONTENT), "every byte came once"


def test_a_disk_that_fills_up_in_mid_download_keeps_what_has_come(
    folder: Path,
    web: Web,
    disk: Callable[[Path, int], Disk],
) -> None:
    """The message is of the disk, not of the mirror; with more room the same command goes on where it stopped."""
    (folder / "data").mkdir()
    small = disk(folder / "data", 64 * PAGE)
    url = web.serve(web.good())
    ended = fetching(folder, url).end()
    assert ended.exit_code == 1
    assert ended.says("No space left on device", "free some space"), ended.err
    assert len(web.requests) == 1, "it is not tried elsewhere"
    (part,) = (folder / "data" / ".partial").iterdir()
    kept = part.stat().st_size
    assert kept > 0
    small.resize(4 << 20)
    assert fetching(folder, url).end().exit_code == 0
    assert web.requests[-1] == ("/file", f"bytes={kept}-")
    assert Store(folder / "data").read("fetch", STAGE.id).path("file").read_bytes() == CONTENT
