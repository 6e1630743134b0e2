"""The processes (ranks) that train one job together: equal shares of every batch, one average of what they come to.

Each rank holds the whole job: examples, parameters, optimiser. Of a batch it computes its own rows; the gradient and
the scalars are then averaged in one flat all-reduce, whatever the step was, and all ranks make the same update. The
noise of a row is what one process would have drawn for it. Decisions are the first rank's, or agreed upon.
With one rank nothing of this happens, and nothing of it costs anything.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dlpipe.errors import StepError
from dlpipe.runtime.devices import DeviceError
from dlpipe.runtime.stopping import SIGNALS
from dlpipe.runtime.torchrun import PeerLost, is_rank

REASONS = (None, "deadline", *(number.name for number in SIGNALS))
"""Why to stop, by number; where ranks have several reasons the last one counts."""
PATIENCE = timedelta(minutes=30)
"""How long a rank waits for another one, which may be verifying or writing an artifact."""


class RankError(StepError):
    """What is asked of several processes cannot be done by them as by one."""


class Ranks:
    """This process's place (`rank` of `world`) among those that train together."""

    def __init__(self, rank: int = 0, world: int = 1, local: int = 0) -> None:
        self.rank, self.world, self.local = rank, world, local
        self.first = rank == 0
        """It alone writes, and decides what is not agreed upon."""

    def device(self, name: str) -> str:
        """The device of this rank: on GPUs each has its own. Raises DeviceError when there are too few."""
        if self.world == 1 or name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return name
        if name not in ("auto", "cuda"):
            raise DeviceError(f"{name} is one device; {self.world} ranks take --device cuda, or cpu")
        if self.local >= torch.cuda.device_count():
            raise DeviceError(f"{self.world} ranks need a GPU each; {torch.cuda.device_count()} can be seen here")
        torch.cuda.set_device(self.local)
        return f"cuda:{self.local}"

    def even(self, what: str, amount: int) -> int:
        """The amount itself. Raises RankError when the ranks cannot have equal shares of it."""
        if amount % self.world:
            raise RankError(
                f"{self.world} ranks cannot have equal shares of {what} {amount}; "
                f"make it a multiple of {self.world}, or take another number of ranks"
            )
        return amount

    def most(self, amount: int) -> int:
        """The largest part of it that can be shared equally. Raises RankError when that is nothing."""
        if amount < self.world:
            raise RankError(f"{self.world} ranks need more than {amount} training examples")
        return amount - amount % self.world

    def share(self, rows: Tensor) -> Tensor:
        """This rank's part of rows [N, …] that are a multiple of the world."""
        if self.world == 1:
            return rows
        size = len(rows) // self.world
        return rows.narrow(0, self.rank * size, size)

    def gather(self, share: Tensor) -> Tensor:
        """The rows of all ranks, in their order: the inverse of `share`."""
        shares = [torch.empty_like(share) for _ in range(self.world)]
        _together(dist.all_gather, shares, share)
        return torch.cat(shares)

    def average(
        self, parameters: Iterable[Tensor], scalars: Mapping[str, Tensor], buffers: Iterable[Tensor] = ()
    ) -> Mapping[str, Tensor]:
        """Replaces every `.grad` and buffer by its mean over the ranks, and returns the means of the scalars."""
        if self.world == 1:
            return scalars
        tensors = [*(parameter.grad for parameter in parameters if parameter.grad is not None), *buffers]
        flat = torch.cat([*(tensor.reshape(-1) for tensor in tensors), torch.stack(list(scalars.values()))])
        _together(dist.all_reduce, flat)
        flat /= self.world
        *means, values = flat.split([*(tensor.numel() for tensor in tensors), len(scalars)])
        with torch.no_grad():
            for tensor, mean in zip(tensors, means, strict=True):
                tensor.copy_(mean.view_as(tensor))
        # A copy, since the scalars are kept for a while and would keep the whole of `flat`.
        return dict(zip(scalars, values.clone().unbind(), strict=True))

    def agree(self, reason: str | None, due: bool) -> tuple[str | None, bool]:
        """Why to stop, if any rank has a reason, and whether the first one is due to save: the same for all ranks."""
        if self.world == 1:
            return reason, due
        codes = torch.tensor([REASONS.index(reason), int(due and self.first)])
        _together(dist.all_reduce, codes, op=dist.ReduceOp.MAX)
        number, save = codes.tolist()
        return REASONS[number], bool(save)

    def from_first(self, values: Sequence[float]) -> list[float]:
        """The first rank's numbers, exactly; each rank gives as many."""
        if self.world == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        _together(dist.broadcast, numbers, src=0)
        return list(numbers.tolist())

    def decide(self, answer: bool) -> bool:
        """The first rank's answer."""
        return bool(self.from_first([answer])[0])

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Gives every rank the first one's tensors, which another model of GPU may have rounded otherwise."""
        if self.world > 1:
            for tensor in tensors:
                whole = tensor.contiguous()
                _together(dist.broadcast, whole, src=0)
                tensor.copy_(whole)

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self.world > 1:
            _together(dist.all_reduce, torch.zeros(1))

    def noise(self, *sizes: int) -> contextlib.AbstractContextManager[Any]:
        """While entered, this rank draws its rows of what one process draws. `sizes`: its rows of batch, particles."""
        return AS_EVER if self.world == 1 else _Noise(self, sizes)


ALONE = Ranks()
AS_EVER = contextlib.nullcontext()


class Particles:
    """What a module has a row a particle of (its class names the buffers in `particles`), shared out between ranks.

    Outside of training, and in what is saved, the module has them all.
    """

    def __init__(self, module: nn.Module, ranks: Ranks) -> None:
        """Raises RankError when the ranks cannot have equal shares."""
        self.module, self.ranks = module, ranks
        buffers = dict(module.named_buffers(recurse=False)) if ranks.world > 1 else {}
        self.names = [name for name in getattr(module, "particles", ()) if name in buffers]
        self.shares = [ranks.even(name, len(buffers[name])) // ranks.world for name in self.names]
        """How many of each this rank has."""

    def own(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict with this rank's particles, of one with all."""
        return {name: self.ranks.share(t).clone() if name in self.names else t for name, t in state.items()}

    def whole(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `own`; takes all ranks."""
        return {name: self.ranks.gather(t) if name in self.names else t for name, t in state.items()}

    def share_out(self) -> None:
        self._put(self.own(self.module.state_dict()))

    def bring_together(self) -> None:
        self._put(self.whole(self.module.state_dict()))

    def _put(self, state: Mapping[str, Tensor]) -> None:
        for name in self.names:
            setattr(self.module, name, state[name])


def join() -> Ranks:
    """This process among those that torchrun started with it, connected; or alone."""
    if not is_rank():
        return ALONE
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if not dist.is_initialized():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this host, and nobody else's business
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        _together(dist.init_process_group, backend, timeout=PATIENCE)
    return Ranks(rank, world, local)


def _together(function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Something that takes all ranks. Raises PeerLost when one of them is gone."""
    try:
        function(*arguments, **options)
    except RuntimeError as error:
        raise PeerLost(f"a rank is gone: {error}") from error


class _Noise(TorchFunctionMode):
    """Draws from a generator for the rows of all ranks, and keeps this rank's.

    The generator has the same key on every rank, so the whole draw is that of one process. The rows of a tensor are its
    last dimension but one, as in all layers, or the only one. What else takes a generator is refused: it would draw
    other noise, unnoticed.
    """

    IN_PLACE: ClassVar[tuple[Any, ...]] = (Tensor.uniform_, Tensor.normal_)
    NEW: ClassVar[tuple[Any, ...]] = (torch.rand, torch.randn)

    def __init__(self, ranks: Ranks, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.ranks, self.sizes = ranks, sizes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        tensor, *others = args
        if func in self.IN_PLACE and tensor.is_contiguous():
            whole = tensor.new_empty(self._whole(func, tensor.shape))
            return tensor.copy_(self._own(func(whole, *others, **kwargs)))
        if func in self.NEW and "out" not in kwargs:
            shape = args if isinstance(tensor, int) else tensor
            return self._own(func(self._whole(func, shape), **kwargs)).contiguous()
        raise RankError(
            f"{_name(func)} draws random numbers in a way that {self.ranks.world} ranks cannot share; "
            f"use {', '.join(map(_name, (*self.IN_PLACE, *self.NEW)))}, or one rank"
        )

    def _whole(self, func: Any, shape: Sequence[int]) -> list[int]:
        """The shape that one process draws."""
        whole = list(shape)
        dimension = self._dimension(whole)
        if not whole or whole[dimension] not in self.sizes:
            raise RankError(
                f"{_name(func)} draws {' x '.join(map(str, whole)) or 'one number'}, which has no row for each example "
                f"or particle; {self.ranks.world} ranks cannot share that. Use one rank"
            )
        whole[dimension] *= self.ranks.world
        return whole

    def _own(self, whole: Tensor) -> Tensor:
        dimension = self._dimension(whole.shape)
        size = whole.shape[dimension] // self.ranks.world
        return whole.narrow(dimension, self.ranks.rank * size, size)

    @staticmethod
    def _dimension(shape: Sequence[int]) -> int:
        return max(len(shape) - 2, 0)


def _name(func: Any) -> str:
    return str(getattr(func, "__name__", func))
