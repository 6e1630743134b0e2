"""Writes the golden traces anew: `python -m tests.golden`, in the root of the repository."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from dlpipe.artifacts import Store
from tests.golden.traces import FOLDER, TRACES, run


def main() -> None:
    for stale in FOLDER.glob("*.csv"):
        if stale.stem not in TRACES:
            stale.unlink()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "data", Path(folder) / "results")
        for name in TRACES:
            text, path = run(name, store), FOLDER / f"{name}.csv"
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")
                print(f"wrote {path}", file=sys.stderr)


main()
