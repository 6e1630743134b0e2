"""The exact texts of errors, for every file in `broken/`.

`python -m tests.spec.spec_goldens` writes them anew: read the difference before committing it.

A first line such as `# --scale demo -s seeds=3` says how the file is loaded.
"""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

from dlpipe.spec.loading import load
from dlpipe.spec.problems import SpecError

FOLDER = Path(__file__).parent / "broken"
SOUND = {"starting-point"}


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in SOUND)


def text_of(name: str) -> str:
    """What is printed for a file, from inside the folder."""
    path = Path(f"{name}.yaml")
    with contextlib.chdir(FOLDER):
        scale, overrides = _how(path)
        try:
            load(path, scale=scale, overrides=overrides)
        except SpecError as error:
            return f"{error}\n"
    return "nothing is wrong\n"


def _how(path: Path) -> tuple[str | None, list[str]]:
    lines = path.read_text().splitlines()
    first = shlex.split(lines[0].removeprefix("# ")) if lines and lines[0].startswith("# -") else []
    pairs = list(zip(first[::2], first[1::2], strict=True))
    scale = next((value for name, value in pairs if name == "--scale"), None)
    return scale, [value for name, value in pairs if name == "-s"]


if __name__ == "__main__":
    for each in names():
        (FOLDER / f"{each}.txt").write_text(text_of(each))
