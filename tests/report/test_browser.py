"""The report in a real browser, from file:// with the network off: what a reader sees, with JavaScript and without.

Skipped where there is no Chromium. Slow: a browser is started for each look, 2 to 5 s each.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from tests.synthetic import Built

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
DARK = ("--blink-settings=preferredColorScheme=0", "--force-dark-mode")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]


def browse(page: Path, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *options, page.absolute().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def picture(page: Path, tmp_path: Path, width: int, *options: str) -> tuple[int, bytes]:
    """Width in pixels and the red, green and blue of the pixel in the upper left corner."""
    target = tmp_path / "page.png"
    browse(page, tmp_path, f"--window-size={width},900", f"--screenshot={target}", *options)
    content = target.read_bytes()
    (width,) = struct.unpack(">I", content[16:20])
    data, at = b"", 8
    while at < len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        data += content[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += length + 12
    return width, zlib.decompress(data)[1:4]  # after the first row's filter byte; a first pixel is stored as it is


def probed(built: Built, tmp_path: Path, script: str, *options: str) -> str:
    """What `script` puts into the document's title, in a copy of the page whose policy lets it run."""
    page = re.sub(r"<meta http-equiv=[^>]*>", "", built.page)
    page = page.replace("</body>", f"<script>document.title = (() => {{ {script} }})()</script></body>")
    copy = tmp_path / "probe.html"
    copy.write_text(page, encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", browse(copy, tmp_path, "--dump-dom", *options).stdout, re.DOTALL)
    assert title is not None
    return title[1]


def words(page: str) -> list[str]:
    return re.sub(r"<script>.*?</script>|<[^>]+>", " ", page, flags=re.DOTALL).split()


def test_page_loads_without_an_error_and_its_own_script_runs(built: Built, tmp_path: Path) -> None:
    done = browse(built.html, tmp_path, "--dump-dom")
    assert "CONSOLE" not in done.stderr, "no refused script or style, no failed request"
    assert done.stdout.count('<button type="button">') >= 8, "the headings of sortable tables have become buttons"


def test_tables_sort_up_down_and_back(built: Built, tmp_path: Path) -> None:
    script = """
      const table = document.querySelector("table.sortable");
      const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.startsWith("test error"));
      const values = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[column].dataset.value));
      const before = values(), button = table.tHead.rows[0].cells[column].querySelector("button");
      const seen = [];
      for (let press = 0; press < 3; press++) {
        button.click();
        seen.push(values().join() + " " + button.parentNode.getAttribute("aria-sort"));
      }
      const up = [...before].sort((a, b) => a - b);
      const expected = [up + " ascending", [...up].reverse() + " descending", before + " none"];
      return JSON.stringify(seen) === JSON.stringify(expected) ? "sorted" : JSON.stringify([seen, expected]);
    """
    assert probed(built, tmp_path, script) == "sorted"


@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_itself_never_scrolls_sideways(built: Built, tmp_path: Path, width: int) -> None:
    script = "return document.documentElement.scrollWidth"
    assert int(probed(built, tmp_path, script, f"--window-size={width},900")) <= width


def test_light_and_dark_follow_the_reader(built: Built, tmp_path: Path) -> None:
    assert picture(built.html, tmp_path, 800)[1] == bytes.fromhex("fefefe")
    assert picture(built.html, tmp_path, 800, *DARK)[1] == bytes.fromhex("15181d")


def test_without_javascript_everything_is_there(built: Built, tmp_path: Path) -> None:
    plain = tmp_path / "plain.html"
    plain.write_text(re.sub(r"<script>.*?</script>", "", built.page, flags=re.DOTALL), encoding="utf-8")
    with_script = browse(built.html, tmp_path, "--dump-dom").stdout
    without = browse(plain, tmp_path, "--dump-dom").stdout
    assert words(with_script) == words(without)
