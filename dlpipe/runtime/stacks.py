"""The jobs of a loop as one computation: one job as it is, or those of several seeds with their parameters stacked.

A stack has a module like that of each job, whose parameters and buffers have the seeds for a first dimension: one
product of matrices, one operator and one update serve them all. Each seed keeps its own order of examples and its own
random numbers, so it learns what it would have learnt alone, up to rounding. The jobs' own modules become windows: what
they hold is their slice of the stack, and validating, keeping or saving a seed needs to know of no other.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlpipe.runtime.batches import Batch, Shuffled
from dlpipe.runtime.jobs import Job, Step
from dlpipe.runtime.optimizers import StackedParameter
from dlpipe.runtime.ranks import Ranks
from dlpipe.runtime.streams import stream


class Alone:
    """One job."""

    def __init__(self, job: Job) -> None:
        self.module, self.step = job.module, job.step
        self._job, self.parameters = job, _trained(job.module)

    def batches(self, epoch: int, batch_size: int, ranks: Ranks) -> Sequence[Any]:
        """This rank's share of an epoch's, each as what `take` makes it from."""
        return _batches(self._job, epoch, batch_size, ranks)

    def take(self, which: Any) -> Batch:
        return self._job.batches.take(which)

    def noise(self, step: int) -> Any:
        """What the step draws from."""
        return _noise(self._job, step)

    def gradients(self) -> list[list[Tensor]]:
        """Of each job."""
        return [_gradients(self.parameters)]


class Stack:
    """Jobs that differ in their seeds, with as many examples, shuffled. Their class writes to buffers in place."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        first = jobs[0]
        assert first.step_of is not None, f"{first.stage} has no step for several seeds"
        self._jobs = jobs
        self.module = copy.deepcopy(first.module)
        modules = [job.module for job in jobs]
        for name, parameter in first.module.named_parameters():
            stacked = _stacked([module.get_parameter(name).detach() for module in modules])
            _put(self.module, name, StackedParameter(stacked, parameter.requires_grad))
            for module, window in zip(modules, stacked, strict=True):
                module.get_parameter(name).data = window
        for name, _ in first.module.named_buffers():
            stacked = torch.stack([module.get_buffer(name) for module in modules])
            _put(self.module, name, stacked)
            for module, window in zip(modules, stacked, strict=True):
                _put(module, name, window)
        self.step: Step = first.step_of(self.module)
        self.parameters = _trained(self.module)
        examples = [job.batches for job in jobs]
        self._rows = [_rows(each) for each in zip(*(e.data for e in examples if isinstance(e, Shuffled)), strict=True)]

    def batches(self, epoch: int, batch_size: int, ranks: Ranks) -> Sequence[Tensor]:
        """Which examples are in each: [seeds, B]."""
        of_each = [_batches(job, epoch, batch_size, ranks) for job in self._jobs]
        return [torch.stack(batch) for batch in zip(*of_each, strict=True)]

    def take(self, which: Tensor) -> Batch:
        """[seeds, B, ...] of each tensor of the data."""
        tensors = (
            rows.index_select(0, (which + starts).view(-1)).view(*which.shape, *rows.shape[1:])
            for rows, starts in self._rows
        )
        return Batch(tuple(tensors), which.shape[-1])

    def noise(self, step: int) -> Any:
        return tuple(_noise(job, step) for job in self._jobs)

    def gradients(self) -> list[list[Tensor]]:
        return [list(seed) for seed in zip(*(each.unbind() for each in _gradients(self.parameters)), strict=True)]


def _batches(job: Job, epoch: int, batch_size: int, ranks: Ranks) -> Sequence[Any]:
    order = stream(job.seed, f"{job.phase}/order", job.restart, epoch)
    return job.batches.epoch(batch_size, ranks, order)


def _noise(job: Job, step: int) -> torch.Generator:
    return stream(job.seed, f"{job.phase}/step", job.restart, step, device=job.batches.device)


def _trained(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _gradients(parameters: Mapping[str, Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters.values() if parameter.grad is not None]


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """[seeds, ...], with matrices stored as they are: a perceptron's column by column."""
    turned = tensors[0].ndim >= 2 and not tensors[0].is_contiguous()
    return torch.stack([tensor.mT for tensor in tensors]).mT if turned else torch.stack(list(tensors))


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, own = name.rpartition(".")
    setattr(module.get_submodule(owner), own, tensor)


def _rows(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The examples of all seeds, and where each seed's begin, [seeds, 1]: what they share is there once."""
    first = tensors[0]
    shared = all(tensor is first for tensor in tensors)
    starts = torch.zeros(len(tensors)) if shared else torch.arange(len(tensors)) * len(first)
    return first if shared else torch.cat(list(tensors)), starts.to(first.device, torch.int64)[:, None]
