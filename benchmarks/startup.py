"""Start-up: `dlpipe --help` over bare Python, and a plan. Prints seconds, the best of several rounds taken in turn.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 15
DLPIPE = str(Path(sys.executable).with_name("dlpipe"))
COMMANDS = {
    "bare python": [sys.executable, "-c", "pass"],
    "dlpipe --help": [DLPIPE, "--help"],
    "dlpipe pretrain --help": [DLPIPE, "pretrain", "--help"],
    "dlpipe plan depth": [DLPIPE, "plan", "depth"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    best = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            best[name] = min(best[name], seconds(command))
    for name, value in best.items():
        over = value - best["bare python"]
        print(f"{name:24} {value * 1e3:6.0f} ms, {over * 1e3:4.0f} ms over bare python")


if __name__ == "__main__":
    main()
