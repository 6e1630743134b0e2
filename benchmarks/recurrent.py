"""Tokens a second in training language models on the CPU, as ratios measured in one run.

    python benchmarks/recurrent.py [--rounds 5] [--steps 20] [--sizes words]

Ours is the whole of the training loop as `dlpipe finetune` runs it, with the model `recurrent` and the task
`language_model`. It is compared with what PyTorch's example word_language_model does, written here anew: a model of
nn.Embedding, nn.LSTM (or nn.GRU, nn.RNN) and nn.Linear, log_softmax, NLLLoss, the state detached between the windows,
`clip_grad_norm_`, and parameters that are moved by minus the rate times the gradient. Both read the same random tokens
in the same windows, with gradients clipped at 0.25; neither validates. `bfloat16` is ours with that precision,
`readable` with the cells step by step, in place of the library's kernels; `logits` is ours with torch's cross_entropy,
which needs memory of its own.

Each contestant has a process of its own, because settings of the process are part of ours (freed memory is kept), and
one thread; its processor's seconds are counted, on which other work on the machine bears less than on the clock's. They
take turns; a ratio is that of the fastest rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from dlpipe.models.cells import GRU, LSTM, Cell, Elman
from dlpipe.models.recurrent import Recurrent
from dlpipe.runtime import devices
from dlpipe.runtime.batches import Stream
from dlpipe.runtime.checkpoints import Checkpoints
from dlpipe.runtime.jobs import Job
from dlpipe.runtime.loop import from_cleared, train
from dlpipe.runtime.stopping import Stopping
from dlpipe.runtime.streams import stream
from dlpipe.spec.training import TrainingSpec
from dlpipe.tasks import language_model
from dlpipe.tasks.language_model import LanguageModel

CLIP, LEARNING_RATE = 0.25, 1.0


class Size(NamedTuple):
    cell: str
    tokens: int
    units: int
    layers: int
    batch: int
    unroll: int
    dropout: float = 0.0


SIZES = {
    "words": Size("lstm", 10_000, 200, 2, 20, 35),
    "words, wikitext-2": Size("lstm", 33_278, 200, 2, 20, 35),  # the example's own data and defaults
    "words, dropout 0.2": Size("lstm", 10_000, 200, 2, 20, 35, 0.2),
    "words, unrolled 20": Size("lstm", 10_000, 200, 2, 20, 20),
    "characters": Size("lstm", 65, 128, 1, 20, 50),
    "characters, GRU": Size("gru", 65, 128, 1, 20, 50),
    "characters, Elman": Size("elman", 65, 128, 1, 20, 50),
}
Steps = Callable[[], None]
CPU = torch.device("cpu")


def some_tokens(size: Size, steps: int) -> Tensor:
    """[T]: as many as that many steps take."""
    return torch.randint(size.tokens, (size.batch * size.unroll * steps + 1,), generator=stream(0, "benchmark"))


def ours(size: Size, steps: int, device: torch.device = CPU, precision: str = "float32") -> Steps:
    options: dict[str, Any] = {"reset_after": True} if size.cell == "gru" else {}
    model = Recurrent(
        size.tokens,
        size.tokens,
        tokens=True,
        cell=size.cell,
        units=[size.units] * size.layers,
        dropout=size.dropout,
        **options,
    )
    model.initialise(stream(0, "initialise"))
    model.to(device)
    carried: list[Tensor] = []
    step = from_cleared(model, partial(LanguageModel(size.unroll).step, model, carried=carried))
    batches = Stream(some_tokens(size, steps).to(device), size.unroll)
    job = Job(model, step, dict, batches, stage="benchmark", phase="p", seed=0, carried=carried)
    # The objective is summed over the window: its gradient and the largest norm are as many times the example's.
    declared = {
        "duration": {"steps": steps},
        "optimizer": {"kind": "sgd", "learning_rate": LEARNING_RATE / size.unroll},
        "batch_size": size.batch,
        "clip_norm": CLIP * size.unroll,
        "precision": precision,
    }
    training = TrainingSpec.model_validate(declared)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder, Stopping(deadline=3600.0) as stopping:
            train(job, training, checkpoints=Checkpoints(Path(folder), {}), stopping=stopping)

    return run


def readable(size: Size, steps: int) -> Steps:
    for cell in (Elman, GRU, LSTM):
        cell.run = Cell.run  # type: ignore[method-assign]
    return ours(size, steps)


def logits(size: Size, steps: int) -> Steps:
    language_model.cross_entropy_in_place = cross_entropy  # type: ignore[assignment]
    return ours(size, steps)


class Example(nn.Module):
    """Tokens [T, B] and the state -> logarithms of probabilities [T B, tokens] and the state after."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.dropout, self.embedding = nn.Dropout(size.dropout), nn.Embedding(size.tokens, size.units)
        kind: Any = {"lstm": nn.LSTM, "gru": nn.GRU, "elman": nn.RNN}[size.cell]
        self.recurrent = kind(size.units, size.units, size.layers, dropout=size.dropout)
        self.output = nn.Linear(size.units, size.tokens)

    def forward(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        hidden, state = self.recurrent(self.dropout(self.embedding(tokens)), state)
        decoded = self.output(self.dropout(hidden))
        return log_softmax(decoded.view(-1, decoded.shape[-1]), dim=1), state


def example(size: Size, steps: int, device: torch.device = CPU) -> Steps:
    model, criterion = Example(size).to(device), nn.NLLLoss()
    tokens = some_tokens(size, steps).to(device)
    now, later = (tokens[i : i + len(tokens) - 1].view(size.batch, -1).t().contiguous() for i in (0, 1))

    def run() -> None:
        zeros = torch.zeros(size.layers, size.batch, size.units, device=device)
        state: Any = (zeros, zeros) if size.cell == "lstm" else zeros
        total = 0.0
        for start in range(0, len(now), size.unroll):
            x, y = now[start : start + size.unroll], later[start : start + size.unroll].flatten()
            model.zero_grad()
            state = tuple(part.detach() for part in state) if size.cell == "lstm" else state.detach()
            predicted, state = model(x, state)
            loss = criterion(predicted, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.data.add_(parameter.grad, alpha=-LEARNING_RATE)
            total += loss.item()

    return run


CONTESTANTS: dict[str, Callable[[Size, int], Steps]] = {
    "ours": ours,
    "bfloat16": partial(ours, precision="bfloat16"),
    "readable": readable,
    "logits": logits,
    "example": example,
}


def contestant(name: str, steps: int, turns: Connection) -> None:
    """In its own process: that many steps of each size that arrives; its seconds go back."""
    if name != "example":
        devices.prepare("cpu", threads=1)
    torch.set_num_threads(1)
    runs: dict[str, Steps] = {}
    while size := turns.recv():
        if size not in runs:
            runs[size] = CONTESTANTS[name](SIZES[size], steps)
        start = time.process_time()
        runs[size]()
        turns.send(time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="windows of a round")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, one thread")
    names = "".join(f"{name:>10}" for name in CONTESTANTS)
    print(f"{'thousand tokens a second':26}{names}  ours/example  bfloat16/example", flush=True)
    context = multiprocessing.get_context("spawn")
    turns, processes = {}, []
    for name in CONTESTANTS:
        turns[name], theirs = context.Pipe()
        processes.append(context.Process(target=contestant, args=(name, options.steps, theirs)))
        processes[-1].start()
    for label in options.sizes:
        size = SIZES[label]
        s = dict.fromkeys(CONTESTANTS, float("inf"))
        for number in range(options.rounds + 1):  # the first warms up
            for name, turn in turns.items():
                turn.send(label)
                seconds = turn.recv()
                s[name] = min(s[name], seconds) if number else s[name]
        thousands = size.batch * size.unroll * options.steps / 1000
        speeds = "".join(f"{thousands / s[name]:10.1f}" for name in CONTESTANTS)
        ratios = f"{s['example'] / s['ours']:14.2f}{s['example'] / s['bfloat16']:18.2f}"
        print(f"{label:26}{speeds}{ratios}", flush=True)
    for turn in turns.values():
        turn.send("")
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
