"""Programs that print what a real one once printed, put on the path in its stead."""

from __future__ import annotations

from pathlib import Path

ANSWERS = Path(__file__).with_name("answers")
STUB = """#!/bin/sh
call="${0##*/} $*"
said="${0%/*}/said/$call"
[ -f "$said.out" ] || { echo "unexpected: $call" >&2; exit 99; }
/bin/cat "$said.out"
/bin/cat "$said.err" >&2
exit "$(/bin/cat "$said.code")"
"""


def program(folder: Path, name: str, script: str = STUB) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    return folder / name


def play(folder: Path, transcript: str) -> None:
    """Makes the programs of a transcript: `$ command`, its output, stderr after `! `, an exit code after `= `."""
    said = folder / "said"
    said.mkdir(parents=True, exist_ok=True)
    for part in transcript.split("\n$ ")[1:]:
        call, *lines = part.rstrip("\n").split("\n")
        program(folder, call.split()[0])
        kinds = {"! ": [], "= ": [], "": []}
        for line in lines:
            kind = line[:2] if line[:2] in kinds else ""
            kinds[kind].append(line.removeprefix(kind))
        (said / f"{call}.out").write_text("".join(f"{line}\n" for line in kinds[""]))
        (said / f"{call}.err").write_text("".join(f"{line}\n" for line in kinds["! "]))
        (said / f"{call}.code").write_text("".join(kinds["= "]) or "0")
