"""What a stage costs besides its work, and what savings cost.

    python benchmarks/overhead.py [--seconds 90]

A stage of one step shows what its process costs: start, imports, verified reading, manifest. Then an RBM of 784 x 500
trains in steps of 100 examples for about so many seconds, with savings as in any run; its manifest says what they took.
Both run as the commands that the workflow runs, on examples that are made up. Medians of five runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dlpipe.artifacts import Stage, Store, write_stages

EXAMPLES, FEATURES, UNITS, BATCH = 10_000, 784, 500, 100
ROUNDS = 5


def prepared(store: Store) -> str:
    """Random pictures in the format of `prepare`."""
    stage = Stage("prepare", "noise", {}, {"raw": "none-000000000000"})
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for split, n in (("train", EXAMPLES), ("valid", 0), ("test", 1000)):
        tensors[f"{split}.inputs"] = torch.randint(0, 256, (n, FEATURES), generator=generator, dtype=torch.uint8)
        tensors[f"{split}.targets"] = torch.arange(n) % 10
    with store.make(stage) as draft:
        save_file(tensors, draft.folder / "data.safetensors")
        draft.extra.update(input_shape=[FEATURES], classes=list("0123456789"), scale=255.0, sizes={}, terms="none")
    return stage.id


def layer(data: str, steps: int, seed: int) -> Stage:
    training = {
        "duration": {"steps": steps},
        "optimizer": {"kind": "sgd", "learning_rate": 0.05, "momentum": 0.5},
        "batch_size": BATCH,
    }
    spec = {"layer": {"kind": "rbm"}, "units": UNITS, "training": training}
    return Stage("pretrain", f"noise-{steps}", spec, {"data": data, "below": []}, (seed,))


def run(store: Store, stage: Stage) -> tuple[float, dict[str, Any]]:
    """Seconds of the whole command, and the manifest."""
    write_stages(store, [stage])
    command = [sys.executable, "-m", "dlpipe", "pretrain", stage.id, "--device", "cpu"]
    command += ["--data", str(store.data), "--results", str(store.results)]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    return seconds, json.loads((store.folder("pretrain", stage.id) / "manifest.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90.0)
    wanted = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "data", Path(folder) / "results")
        data = prepared(store)
        short = [run(store, layer(data, 1, seed)) for seed in range(ROUNDS)]
        command = statistics.median(seconds for seconds, _ in short)
        training = statistics.median(sum(manifest["extra"]["seconds"].values()) for _, manifest in short)
        print(f"a stage of one step: {command:.2f} s for the command, {training:.2f} s of it training")
        _, manifest = run(store, layer(data, 500, 0))
        rate = 500 / manifest["extra"]["seconds"]["0"]
        whole, manifest = run(store, layer(data, max(1000, round(rate * wanted)), 0))
        trained, saving = manifest["extra"]["seconds"]["0"], manifest["extra"]["saving_seconds"]
        rest = whole - trained
        print(f"a stage of {trained:.0f} s: {rest:.2f} s besides training, {100 * rest / whole:.1f} %")
        print(f"savings: {saving:.3f} s of {trained:.0f} s, {100 * saving / trained:.2f} % (at most 2 %)")


if __name__ == "__main__":
    main()
