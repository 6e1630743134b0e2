"""A dry run of Snakemake over a plan of 1,000 stages, against a bare Snakefile with as many trivial jobs.

    python benchmarks/dry_run.py [--stages 1000]

The plan is a real one: the digits, six rates of pretraining by as many of fine-tuning as it takes. The bare Snakefile
has as many jobs in chains of two, without dlpipe. Times are the best of three rounds taken in turn.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROUNDS = 3
EXPERIMENT = """\
title: Many rates
dataset: {{kind: digits, train: 200, labelled: 100}}
model: {{kind: mlp, units: [10]}}
pretrain: {{layer: {{kind: rbm}}, duration: {{epochs: 1}}, optimizer: {{kind: sgd, learning_rate: 0.1}}}}
finetune: {{task: {{kind: classification}}, duration: {{epochs: 1}}, optimizer: {{kind: sgd, learning_rate: 0.1}}}}
axes:
  layer: {{{layers}}}
  rate: {{{rates}}}
scales: {{demo: {{}}}}
"""
BARE = """\
rule all:
    input: expand("out/b{{n}}", n=range({pairs}))
rule second:
    input: "out/a{{n}}"
    output: "out/b{{n}}"
    shell: "touch {{output}}"
rule first:
    output: "out/a{{n}}"
    shell: "touch {{output}}"
"""


def write_ours(folder: Path, stages: int) -> None:
    for name in ("workflow", "profiles"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    rates = -(-stages // 12)
    experiments = folder / "config" / "experiments"
    experiments.mkdir(parents=True)
    layers = ", ".join(f"l{n}: {{pretrain.optimizer.learning_rate: {0.01 * (n + 1):.2f}}}" for n in range(6))
    levels = ", ".join(f"r{n}: {{finetune.optimizer.learning_rate: {0.001 * (n + 1):.3f}}}" for n in range(rates))
    (experiments / "many.yaml").write_text(EXPERIMENT.format(layers=layers, rates=levels))
    (folder / "config" / "config.yaml").write_text("experiments: [many]\nscale: demo\n")


def dry_run(folder: Path) -> tuple[float, str]:
    start = time.perf_counter()
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "2", "--quiet", "rules"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stdout + done.stderr


def jobs(output: str) -> int:
    return int(next(line.split()[1] for line in output.splitlines() if line.startswith("total ")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", type=int, default=1000)
    stages = parser.parse_args().stages
    with tempfile.TemporaryDirectory() as name:
        ours, bare = Path(name) / "ours", Path(name) / "bare"
        ours.mkdir()
        bare.mkdir()
        write_ours(ours, stages)
        count = jobs(dry_run(ours)[1])
        (bare / "Snakefile").write_text(BARE.format(pairs=(count - 1) // 2))
        times: dict[Path, list[float]] = {ours: [], bare: []}
        for _ in range(ROUNDS):
            for folder in times:
                times[folder].append(dry_run(folder)[0])
        a, b = min(times[ours]), min(times[bare])
        print(f"{count} jobs: dlpipe {a:.2f} s, bare Snakefile {b:.2f} s, ratio {a / b:.2f}")


if __name__ == "__main__":
    main()
