"""Steps a second and memory of CD-1 and of a network's training, 784 x 500 units in batches of 100, on CPU and GPU.

    python benchmarks/gpu.py [--seconds 3] [--device cpu]

All of a step is timed: random stream, gathered batch, update, and the look at the losses every 100 steps. On a GPU the
end of the last step is waited for. Memory is the most that torch had allocated on the GPU at one time, with the 10,000
examples.

Of CD-1 it is also said how near that comes to what the device can do at most, by the operations and by the bytes of its
five products (`cd1_work`), against a large product and a large copy of the same run (`limits`). Then come the tokens a
second of a word language model, ours against PyTorch's example (benchmarks/recurrent.py), which take turns; and, on a
GPU, CD-1 with and without a captured CUDA graph (`graph_rates`).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from recurrent import SIZES, Steps, example, ours

from dlpipe.layers.rbm import RBM
from dlpipe.models.mlp import MLP
from dlpipe.runtime import devices
from dlpipe.runtime.batches import Shuffled
from dlpipe.runtime.jobs import Job
from dlpipe.runtime.loop import from_cleared, train
from dlpipe.runtime.optimizers import sgd
from dlpipe.spec.training import TrainingSpec
from dlpipe.tasks.classification import Classification

EXAMPLES, VISIBLE, HIDDEN, CLASSES, BATCH = 10000, 784, 500, 10, 100
WARM_UP = 200
"""Steps; the first ones on a GPU load its kernels."""
ROUNDS = 3
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Work(NamedTuple):
    """Of a step; or a second of it, as what a device can do."""

    operations: float
    """Multiplications and additions."""
    bytes: float
    """Read from memory or written to it."""


def cd1_work(visible: int, hidden: int, batch: int, size: int = 4) -> Work:
    """Of the five products of CD-1, v W, h W', v1 W, v' h and v1' h1, in numbers of `size` bytes.

    Each is of a [batch, visible], a [batch, hidden] and a [visible, hidden] tensor, two of which are read once and one
    is written. What stays in a cache from one product to the next is counted again: where the weights do, as 784 x 500
    do on a recent GPU, the memory is asked for less.
    """
    numbers = batch * visible + batch * hidden + visible * hidden
    return Work(5 * 2 * batch * visible * hidden, 5 * numbers * size)


def shares(work: Work, rate: float, most: Work) -> Work:
    """Of what a device can do at most in a second, by so many steps a second: 1 is all."""
    return Work(work.operations * rate / most.operations, work.bytes * rate / most.bytes)


def limits(device: torch.device, kind: torch.dtype) -> Work:
    """In a second: operations in a product of large matrices, bytes in a copy of more than any cache holds."""
    n, numbers = (8192, 2**28) if device.type == "cuda" else (1024, 2**26)
    a, b, c = (torch.ones(n, n, device=device, dtype=kind) for _ in range(3))
    source, copy = (torch.ones(numbers, device=device) for _ in range(2))
    product = fastest({"product": lambda: torch.mm(a, b, out=c)}, device)["product"]
    copying = fastest({"copy": lambda: copy.copy_(source)}, device)["copy"]
    return Work(2 * n**3 / product, 2 * source.nbytes / copying)


def fastest(contestants: dict[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Seconds of each one's fastest round, after one to warm up; they take turns."""
    best = dict.fromkeys(contestants, float("inf"))
    for number in range(ROUNDS + 1):
        for name, run in contestants.items():
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            if number:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def job(kind: str, device: torch.device) -> Job:
    generator = torch.Generator().manual_seed(0)
    examples = (torch.rand(EXAMPLES, VISIBLE, generator=generator) < 0.2).float()
    if kind == "CD-1":
        layer = RBM(VISIBLE, HIDDEN)
        layer.initialise(examples.mean(dim=0), generator)
        layer.to(device)
        return Job(layer, layer.step, dict, Shuffled((examples.to(device),)), stage="benchmark", phase="p", seed=0)
    model = MLP(VISIBLE, CLASSES, units=[HIDDEN])
    model.initialise(generator)
    step = from_cleared(model.to(device), partial(Classification().step, model))
    data = (examples.to(device), torch.randint(CLASSES, (EXAMPLES,), generator=generator).to(device))
    return Job(model, step, dict, Shuffled(data), stage="benchmark", phase="p", seed=0)


def seconds(kind: str, device: torch.device, precision: str, steps: int) -> float:
    training = {
        "duration": {"steps": steps},
        "validate_every": {"steps": steps},
        "batch_size": BATCH,
        "precision": precision,
        "optimizer": {"kind": "sgd", "learning_rate": 0.01, "momentum": 0.5},
    }
    made = job(kind, device)
    _wait(device)
    start = time.perf_counter()
    train(made, TrainingSpec.model_validate(training))
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(kind: str, device: torch.device, precision: str, budget: float) -> str:
    """A line of the table: steps enough for `budget` seconds, after some to warm up."""
    per_step = seconds(kind, device, precision, WARM_UP) / WARM_UP
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    steps = max(WARM_UP, int(budget / per_step))
    rate = steps / seconds(kind, device, precision, steps)
    memory = f"{torch.cuda.max_memory_allocated(device) / 2**20:6.0f} MiB" if device.type == "cuda" else ""
    line = f"{kind:11s} {devices.describe(device):30s} {precision:9s} {rate:9,.0f} steps/s {memory}".rstrip()
    return line + (of_the_most(rate, device, PRECISIONS[precision]) if kind == "CD-1" else "")


def of_the_most(rate: float, device: torch.device, kind: torch.dtype) -> str:
    """That many steps of CD-1 a second, as shares of what was measured of the device."""
    most = limits(device, kind)
    share = shares(cd1_work(VISIBLE, HIDDEN, BATCH, kind.itemsize), rate, most)
    return (
        f", {share.operations:.1%} of {most.operations / 1e9:,.0f} GFLOP/s, "
        f"{share.bytes:.1%} of {most.bytes / 1e9:,.0f} GB/s"
    )


def tokens_a_second(label: str, device: torch.device, budget: float) -> dict[str, float]:
    """In training, by contestant: of ours, the whole loop, and of PyTorch's example network. `budget`: of a round.

    Both in float32 proper and with deterministic kernels, as dlpipe's processes are: unlike on the CPU they share one.
    """
    size, makers = SIZES[label], {"ours": ours, "example": example}
    trials: dict[str, Steps] = {name: make(size, 2, device) for name, make in makers.items()}
    steps = max(2, int(2 * budget / max(fastest(trials, device).values())))
    runs: dict[str, Steps] = {name: make(size, steps, device) for name, make in makers.items()}
    best = fastest(runs, device)
    return {name: size.batch * size.unroll * steps / best[name] for name in makers}


def bare_step(device: torch.device) -> tuple[Callable[[], None], torch.Generator]:
    """CD-1 and its update on one batch, over and over, and the generator that it draws from."""
    generator = torch.Generator(device).manual_seed(0)
    batch = (torch.rand(BATCH, VISIBLE, generator=generator, device=device) < 0.2).float()
    layer = RBM(VISIBLE, HIDDEN)
    layer.initialise(batch.mean(dim=0).cpu(), torch.Generator().manual_seed(0))
    layer.to(device)
    own = dict(layer.named_parameters())
    optimizer = sgd(own, learning_rate=0.01, weight_decay=0.0, momentum=0.5, nesterov=False)

    def step() -> None:
        layer.step(batch, generator)
        optimizer.step()

    return step, generator


def captured(step: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
    """The step as a CUDA graph, which starts all its kernels at once. `step` must outlive it: so do its tensors.

    Has not been run yet, for want of a GPU.
    """
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # libraries set themselves up at a first call, which cannot be captured
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)  # so that each replay draws anew
    with torch.cuda.graph(graph):
        step()
    replay: Callable[[], None] = graph.replay
    return replay


def graph_rates(device: torch.device, budget: float) -> dict[str, float]:
    """Steps of CD-1 a second, launched one by one and replayed from a captured CUDA graph.

    Of the benchmark alone: dlpipe draws each step from a generator of its own, which no graph could have captured. Has
    not been run yet, for want of a GPU.
    """
    step, generator = bare_step(device)
    ways = {"launched": step, "captured": captured(step, generator)}
    steps = max(WARM_UP, int(budget / max(fastest(ways, device).values())))

    def repeated(run: Callable[[], None]) -> None:
        for _ in range(steps):
            run()

    best = fastest({name: partial(repeated, run) for name, run in ways.items()}, device)
    return {name: steps / taken for name, taken in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each line of the table, about")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="that one alone; both if there is a GPU")
    options = parser.parse_args()
    names = [options.device] if options.device else ["cpu", "cuda"][: 1 + torch.cuda.is_available()]
    places = [devices.prepare(name) for name in names]
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {torch.get_num_threads()} thread")
    for kind in ("CD-1", "784-500-10"):
        for device in places:
            for precision in PRECISIONS:
                print(measure(kind, device, precision, options.seconds), flush=True)
    for label in ("words", "words, dropout 0.2"):
        for device in places:
            rates = tokens_a_second(label, device, options.seconds / ROUNDS)
            ratio = rates["ours"] / rates["example"]
            said = ", ".join(f"{name} {rate:,.0f} tokens/s" for name, rate in rates.items())
            print(f"{label:20s} {devices.describe(device):30s} {said}, ours / example {ratio:.2f}", flush=True)
    for device in places:
        if device.type == "cuda":
            rates = graph_rates(device, options.seconds / ROUNDS)
            said = ", ".join(f"{name} {rate:,.0f} steps/s" for name, rate in rates.items())
            print(f"{'CD-1, bare':20s} {devices.describe(device):30s} {said}", flush=True)
    if "cuda" not in names:
        print("no CUDA device: only the CPU was measured")


if __name__ == "__main__":
    main()
