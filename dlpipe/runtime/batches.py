"""Where a training step's batch comes from: examples in another order every epoch, a stream in windows, or sequences.

    Shuffled    every example once an epoch, in an order that is drawn; the last batch may be shorter
    Stream      one long sequence in `batch_size` columns side by side, read from left to right, a window at a time
    Bucketed    every sequence once an epoch, with others of about its length, padded to the longest of the batch

A window of a column is an example to what counts in examples or epochs. Only whole examples are shared out between
several ranks: sequences train on one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dlpipe.errors import StepError
from dlpipe.runtime.data import SequenceSplit
from dlpipe.runtime.ranks import RankError, Ranks


class BatchError(StepError):
    """The training examples do not make a batch of the size asked for."""


class Batch(NamedTuple):
    tensors: tuple[Tensor, ...]
    """What the step is given, before the generator; the first has a row an example."""
    weight: int
    """How much the step's scalars count in the means of an epoch: examples, or steps of sequences."""


class Batches(Protocol):
    @property
    def device(self) -> torch.device:
        """Where the batches lie."""

    def examples(self, batch_size: int, ranks: Ranks) -> int:
        """How many an epoch has, all ranks together; of them, batches of `batch_size` are made."""

    def epoch(self, batch_size: int, ranks: Ranks, order: torch.Generator) -> Sequence[Any]:
        """This rank's share of an epoch's batches, each as what `take` makes it from."""

    def take(self, which: Any) -> Batch: ...


@dataclass(frozen=True)
class Shuffled:
    data: tuple[Tensor, ...]
    """Training examples, tensors with one first dimension, all on one device."""

    @property
    def device(self) -> torch.device:
        return self.data[0].device

    def examples(self, batch_size: int, ranks: Ranks) -> int:
        return ranks.most(len(self.data[0]))

    def epoch(self, batch_size: int, ranks: Ranks, order: torch.Generator) -> Sequence[Tensor]:
        """A permutation drawn on the CPU, the same for every device."""
        permutation = torch.randperm(len(self.data[0]), generator=order)[: self.examples(batch_size, ranks)]
        return tuple(ranks.share(batch) for batch in permutation.to(self.device).split(batch_size))

    def take(self, which: Tensor) -> Batch:
        return Batch(tuple(tensor.index_select(0, which) for tensor in self.data), len(which))


@dataclass(frozen=True)
class Stream:
    """For a model that predicts the next token: a window's targets are its tokens, one step later.

    The columns begin where a whole number of steps is left for each; at most `batch_size` tokens at the end are not
    used. The state that a window ends with belongs to the next one: the step carries it (`Job.carried`).
    """

    tokens: Tensor
    """[T], one sequence, or several one behind another."""
    unroll: int
    """Steps of a window; the last one of an epoch may be shorter."""

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    def examples(self, batch_size: int, ranks: Ranks) -> int:
        """Raises BatchError when there is not a token for each column, and RankError for several ranks."""
        _alone(ranks)
        return batch_size * len(self._windows(batch_size))

    def epoch(self, batch_size: int, ranks: Ranks, order: torch.Generator) -> Sequence[tuple[int, range]]:
        """From left to right: nothing is drawn."""
        return [(batch_size, window) for window in self._windows(batch_size)]

    def take(self, which: tuple[int, range]) -> Batch:
        """Tokens and targets, [columns, steps] int64."""
        columns, window = which
        length = self._length(columns)
        steps = slice(window.start, window.stop)
        now, later = (self.tokens[i : i + columns * length].view(columns, length)[:, steps] for i in (0, 1))
        return Batch((now, later), columns * len(window))

    def _length(self, columns: int) -> int:
        """Steps of a column. The last token of all is nothing but a target."""
        length = (len(self.tokens) - 1) // columns
        if length < 1:
            raise BatchError(f"{len(self.tokens)} tokens cannot be read in {columns} columns; lower batch_size")
        return length

    def _windows(self, columns: int) -> list[range]:
        steps = range(self._length(columns))
        return [steps[start : start + self.unroll] for start in steps[:: self.unroll]]


@dataclass(frozen=True)
class Bucketed:
    split: SequenceSplit

    @property
    def device(self) -> torch.device:
        return self.split.inputs.device

    def examples(self, batch_size: int, ranks: Ranks) -> int:
        """Raises RankError for several ranks."""
        _alone(ranks)
        return len(self.split)

    def epoch(self, batch_size: int, ranks: Ranks, order: torch.Generator) -> Sequence[Tensor]:
        """Sequences by length, equally long ones in an order that is drawn; then the batches in one that is drawn."""
        shuffled = torch.randperm(len(self.split), generator=order)
        by_length = shuffled[self.split.lengths[shuffled].argsort(stable=True)]
        batches = by_length.split(batch_size)
        return [batches[position] for position in torch.randperm(len(batches), generator=order).tolist()]

    def take(self, which: Tensor) -> Batch:
        return Batch(self.split.padded(which), int(self.split.lengths[which].sum()))

    def padding(self, batch_size: int) -> float:
        """The share of an epoch's steps that is padding."""
        order = torch.Generator().manual_seed(0)  # of equal lengths, whichever the order
        lengths = [self.split.lengths[which] for which in self.epoch(batch_size, Ranks(), order)]
        return 1.0 - float(self.split.lengths.sum()) / sum(len(each) * int(each.max()) for each in lengths)


def _alone(ranks: Ranks) -> None:
    if ranks.world > 1:
        raise RankError(f"sequences are not shared out between {ranks.world} ranks; train them with --ranks 1")
