"""What several processes cost a step: CD-1, 784 x 500, batches of 100, one thread a rank, on the CPU through gloo.

    python benchmarks/ranks.py                                                                     # one process
    python -m torch.distributed.run --standalone --nproc-per-node 2 benchmarks/ranks.py [--steps 300]

Prints the time of a whole step of the loop and, of it, what the ranks do together: agreeing whether to stop or save,
and the mean of gradient and scalars. Beside it, a step's computation on the rank's rows without and with the noise of
one process, which is drawn for the rows of all ranks. Medians, since the ranks wait for each other.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dlpipe.layers.rbm import RBM
from dlpipe.runtime import devices
from dlpipe.runtime.batches import Shuffled
from dlpipe.runtime.checkpoints import Checkpoints
from dlpipe.runtime.jobs import Job
from dlpipe.runtime.loop import train
from dlpipe.runtime.ranks import Ranks, join
from dlpipe.runtime.streams import stream
from dlpipe.spec.training import TrainingSpec

VISIBLE, HIDDEN, BATCH = 784, 500, 100


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - started)
        return result

    return call


def median(seconds: list[float]) -> str:
    return f"{1e3 * statistics.median(seconds):6.2f} ms"


def loop(ranks: Ranks, steps: int) -> None:
    generator = stream(0, "benchmark")
    layer = RBM(VISIBLE, HIDDEN)
    layer.initialise(torch.full((VISIBLE,), 0.5), generator)
    data = (torch.rand(20 * BATCH, VISIBLE, generator=generator),)
    times: dict[str, list[float]] = {"step": [], "agree": [], "average": [], "compute": []}
    ranks.agree = timed(ranks.agree, times["agree"])  # type: ignore[method-assign]
    ranks.average = timed(ranks.average, times["average"])  # type: ignore[method-assign]
    job = Job(layer, timed(layer.step, times["compute"]), dict, Shuffled(data), stage="benchmark", phase="p", seed=0)
    declared = {"duration": {"steps": steps}, "optimizer": {"kind": "sgd", "learning_rate": 0.05}, "batch_size": BATCH}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        train(job, TrainingSpec.model_validate(declared), checkpoints=Checkpoints(Path(folder), {}), ranks=ranks)
        times["step"].append((time.perf_counter() - started) / steps)
    if ranks.first:
        print(f"{ranks.world} ranks: " + ", ".join(f"{name} {median(seconds)}" for name, seconds in times.items()))
        rows = data[0][: BATCH // ranks.world]
        bare: list[float] = []
        for _ in range(steps):
            timed(layer.step, bare)(rows, generator)
        print(f"         compute on {len(rows)} rows with their own noise {median(bare)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    devices.prepare("cpu", 1)
    ranks = join()
    loop(Ranks(ranks.rank, ranks.world, ranks.local), parser.parse_args().steps)
    if dist.is_initialized():
        ranks.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
