"""The one training loop. Its only clock is the step: all else is a pure function of it and of what was saved at it.

A layer's or a task's step leaves the gradient in `.grad` and returns scalars; how it got there (contrastive divergence,
persistent chains, a loss and autograd) is its own business. The loop owns the order of examples, the optimiser, the
schedule, clipping, validation and history, early stopping, precision, checkpoints, progress, and the guard against NaN.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dlpipe.errors import StepError
from dlpipe.progress import Told, track
from dlpipe.runtime.batches import Batches
from dlpipe.runtime.checkpoints import Checkpoints, Snapshot
from dlpipe.runtime.history import lower_is_better
from dlpipe.runtime.optimizers import Optimizer
from dlpipe.runtime.ranks import ALONE, Particles, Ranks
from dlpipe.runtime.schedules import schedule
from dlpipe.runtime.stopping import Interrupted, Stopping
from dlpipe.runtime.streams import stream
from dlpipe.spec.claims import DIVERGED
from dlpipe.spec.schedules import Duration, HalveOnPlateau
from dlpipe.spec.training import EarlyStopping, TrainingSpec

Scalars = Mapping[str, Tensor]
Step = Callable[..., Scalars]
"""step(*batch, generator) -> scalar tensors, averaged over the batch; leaves the gradient in `.grad` of each parameter,
whatever was there before: a layer writes over it, a task starts from none (`from_cleared`)."""
Validate = Callable[[], Mapping[str, float]]

LOOK_EVERY = 100
"""Steps between two transfers of the steps' scalars from the device, at which NaN is noticed; fewer when they are slow.
When it is looked changes no sum: `_look` adds the steps one by one."""
PLATEAU_METRICS = ("valid_loss", "valid_reconstruction_error", "train_loss", "train_reconstruction_error")
"""What a schedule that follows the validation loss looks at: the first of these that the history has."""


class TrainingError(StepError):
    """Training cannot go on; the message names the stage, the seed and the step."""


class Diverged(TrainingError):
    """A number of the training is no longer finite, from `step` on."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and under which name its random streams and messages go."""

    module: nn.Module
    step: Step
    validate: Validate
    """Metrics of the validation examples; empty where there are none."""
    batches: Batches
    """Of the training examples."""
    stage: str
    phase: str
    seed: int
    restart: int = 0
    """Another one draws other random numbers."""
    setting: int = 0
    """Position in a grid of settings; all draw the same random numbers."""
    carried: list[Tensor] = field(default_factory=list)
    """What the step hands on to the next one of the same epoch, such as the state of a recurrent network; the step puts
    it here, and finds it empty when an epoch begins."""
    at: Callable[[int], None] = lambda step: None
    """Told the number of each step before it, from 0."""

    @property
    def unit(self) -> str:
        """Name of its checkpoint."""
        return f"seed{self.seed}-restart{self.restart}" + (f"-setting{self.setting}" if self.setting else "")

    @property
    def unit_in_words(self) -> str:
        named = {"restart": self.restart, "setting": self.setting}
        return f"seed {self.seed}" + "".join(f" {name} {number}" for name, number in named.items() if number)

    def __str__(self) -> str:
        return f"{self.stage} {self.unit_in_words}"


@dataclass
class State:
    """All that changes from step to step besides tensors. JSON holds it exactly."""

    step: int = 0
    stopped: bool = False
    sums: dict[str, float] = field(default_factory=dict)
    seen: int = 0
    """Examples, or steps of sequences, since the last validation, over which `sums` run."""
    validations: list[tuple[int, float, dict[str, float]]] = field(default_factory=list)
    best: int | None = None
    """Position in `validations` of the best one, under early stopping."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The result of one job; the module holds the parameters that are kept."""

    validations: list[tuple[int, float, dict[str, float]]]
    kept: int
    """Position of the validation that the kept parameters belong to: the best under early stopping, else the last."""
    seconds: float

    @property
    def diverged(self) -> bool:
        """The last row of its history says at which step; there are no parameters then, all are NaN."""
        return DIVERGED in self.validations[-1][2]


def train(
    job: Job,
    training: TrainingSpec,
    *,
    checkpoints: Checkpoints | None = None,
    stopping: Stopping | None = None,
    saved: Snapshot | None = None,
    ranks: Ranks = ALONE,
    leave: Told = lambda count: None,
) -> Outcome:
    """Trains `job.module` to its end, from `saved` if given. Raises Interrupted (state saved) and TrainingError.

    `leave` is told the progress, at least every few seconds.
    """
    loop = _Loop(job, training, checkpoints, stopping or Stopping(), saved, ranks, leave)
    try:
        return loop.run()
    except Diverged as error:
        if training.on_divergence == "fail":
            raise
        return loop.given_up(error.step)


class _Loop:
    def __init__(
        self,
        job: Job,
        training: TrainingSpec,
        checkpoints: Checkpoints | None,
        stopping: Stopping,
        saved: Snapshot | None,
        ranks: Ranks,
        leave: Told,
    ) -> None:
        self.job, self.training, self.checkpoints, self.stopping = job, training, checkpoints, stopping
        self.leave = leave
        self.ranks, self.particles = ranks, Particles(job.module, ranks)
        self.batch_size = ranks.even("batch_size", training.batch_size)
        self.examples = job.batches.examples(self.batch_size, ranks)
        self.device = job.batches.device
        self.steps_per_epoch = -(-self.examples // self.batch_size)
        self.total = self._steps(training.duration)
        self.validate_every = self._steps(training.validate_every)
        self.schedule = schedule(training.schedule, self.examples, self.batch_size)
        self.parameters = {name: p for name, p in job.module.named_parameters() if p.requires_grad}
        buffers = dict(job.module.named_buffers(recurse=False))
        self.averaged = [buffers[name] for name in getattr(job.module, "averaged", ()) if name in buffers]
        declared: Any = training.optimizer
        arguments = {k: self._steps(v) if isinstance(v, Duration) else v for k, v in declared.arguments().items()}
        self.optimizer: Optimizer = declared.load()(self.parameters, **arguments)
        self.state = State()
        self.best: dict[str, Tensor] = {}
        self.recent: list[tuple[int, Scalars]] = []
        """Weight of the batch and scalars of the steps since the last look."""
        self.factor = 1.0
        self.started = time.monotonic()
        self.gradient_norm = torch.zeros(())
        if saved is not None:
            self._restore(saved)
        ranks.align(job.module.state_dict().values())
        self.particles.share_out()
        self.losses: list[float] = []
        for _, _, metrics in self.state.validations:
            self._follow(metrics)

    def _steps(self, duration: Any) -> int:
        return int(duration.in_steps(self.examples, self.batch_size))

    def run(self) -> Outcome:
        state, self.started = self.state, time.monotonic() - self.state.seconds
        with track(str(self.job), self.total, per_epoch=self.steps_per_epoch, leave=self.leave) as progress:
            progress(state.step)
            # A divergence ends the training of all ranks at once; their clocks are not one.
            look_by_clock = self.training.on_divergence == "fail" or self.ranks.world == 1
            batches: Sequence[Any] = ()
            while state.step < self.total and not state.stopped:
                self._stop_or_save()
                epoch, position = divmod(state.step, self.steps_per_epoch)
                if position == 0:
                    self.job.carried.clear()
                if not batches or position == 0:
                    batches = self._batches(epoch)
                self._one_step(batches[position])
                if state.step % LOOK_EVERY == 0 or (look_by_clock and progress.due()):
                    progress(state.step, **self._look())
                if state.step % self.validate_every == 0 or state.step == self.total:
                    self._validation()
        state.seconds = time.monotonic() - self.started
        if self.best:
            self.job.module.load_state_dict(self.best)
        self.particles.bring_together()
        last = len(state.validations) - 1
        return Outcome(state.validations, last if state.best is None else state.best, state.seconds)

    def given_up(self, step: int) -> Outcome:
        """What a training that diverged at `step` leaves: its history up to there, and NaN for all parameters.

        What the parameters were when the divergence was noticed depends on the clock.
        """
        self.particles.bring_together()
        for tensor in self.job.module.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(math.nan)
        validations = [*self.state.validations, (step, step / self.steps_per_epoch, {DIVERGED: 1.0})]
        return Outcome(validations, len(validations) - 1, time.monotonic() - self.started)

    def _batches(self, epoch: int) -> Sequence[Any]:
        """This rank's share of the epoch's batches."""
        order = stream(self.job.seed, f"{self.job.phase}/order", self.job.restart, epoch)
        return self.job.batches.epoch(self.batch_size, self.ranks, order)

    def _one_step(self, which: Any) -> None:
        job, state = self.job, self.state
        batch, weight = job.batches.take(which)
        generator = stream(job.seed, f"{job.phase}/step", job.restart, state.step, device=self.device)
        job.at(state.step)
        with self._precision(), self.ranks.noise(len(batch[0]), *self.particles.shares):
            scalars = job.step(*batch, generator)
        scalars = self.ranks.average(self.parameters.values(), scalars, self.averaged)
        if self.training.clip_norm is not None:
            self.gradient_norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.training.clip_norm)
        self.factor = self.schedule(state.step, self.total, self.losses)
        self.optimizer.step(self.factor, state.step)
        self.recent.append((weight * self.ranks.world, scalars))
        state.step += 1

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.training.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _look(self) -> dict[str, float]:
        """Adds the recent steps' scalars to the sums, in their order; the last step's. Raises TrainingError at NaN."""
        if not self.recent:
            return {}
        first = self.state.step - len(self.recent)
        names = list(self.recent[0][1])
        table = torch.stack([torch.stack([scalars[name] for name in names]) for _, scalars in self.recent]).tolist()
        for offset, ((size, _), values) in enumerate(zip(self.recent, table, strict=True)):
            for name, value in zip(names, values, strict=True):
                self._guard(name, value, first + offset + 1)
                self.state.sums[name] = self.state.sums.get(name, 0.0) + size * value
            self.state.seen += size
        self.recent.clear()
        return dict(zip(names, table[-1], strict=True))

    def _guard(self, name: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise Diverged(
                f"{self.job}: {name} is {value} at step {step} of {self.total}; training has diverged. "
                "A lower learning rate or clip_norm may help; on_divergence: record makes it a result",
                step,
            )

    def _validation(self) -> None:
        state = self.state
        self._look()
        metrics = {f"train_{name}": total / state.seen for name, total in state.sums.items()}
        metrics |= {f"valid_{name}": value for name, value in self.job.validate().items()}
        if self.training.clip_norm is None:
            gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
            self.gradient_norm = nn.utils.get_total_norm(gradients)
        metrics["learning_rate"] = self.optimizer.learning_rate * self.factor
        metrics["grad_norm"] = float(self.gradient_norm)
        metrics = dict(zip(metrics, self.ranks.from_first(list(metrics.values())), strict=True))
        for name, value in metrics.items():
            self._guard(name, value, state.step)
        state.validations.append((state.step, state.step / self.steps_per_epoch, metrics))
        state.sums, state.seen = {}, 0
        self._follow(metrics)
        if self.training.early_stopping is not None:
            self._early_stopping(self.training.early_stopping)

    def _follow(self, metrics: Mapping[str, float]) -> None:
        """Notes the loss that a schedule may look at."""
        loss = next((metrics[name] for name in PLATEAU_METRICS if name in metrics), None)
        if loss is not None:
            self.losses.append(loss)
        elif isinstance(self.training.schedule, HalveOnPlateau):
            raise TrainingError(
                f"{self.job}: halve_on_plateau looks at one of {', '.join(PLATEAU_METRICS)}; "
                f"the validations have {', '.join(metrics)}. Validation examples (dataset.valid) may help"
            )

    def _early_stopping(self, rule: EarlyStopping) -> None:
        state = self.state
        step, _, metrics = state.validations[-1]
        if rule.by not in metrics:
            raise TrainingError(
                f"{self.job}: early_stopping.by is {rule.by!r}; the validations have {', '.join(metrics)}"
                + ("" if any(name.startswith("valid_") for name in metrics) else " (there are no validation examples)")
            )
        sign = 1.0 if lower_is_better(rule.by) else -1.0
        if state.best is None or sign * metrics[rule.by] < sign * state.validations[state.best][2][rule.by]:
            state.best = len(state.validations) - 1
            self.best = {name: tensor.clone() for name, tensor in self.job.module.state_dict().items()}
        state.stopped = step - state.validations[state.best][0] >= self._steps(rule.patience)

    def _stop_or_save(self) -> None:
        """At a step boundary: saves when it is time to, or when asked to stop, which it then does."""
        if self.checkpoints is None:
            return
        reason = self.stopping.reason(needed=2 * self.checkpoints.seconds)
        reason, due = self.ranks.agree(reason, self.checkpoints.due())
        if reason is None and not due:
            return
        self._look()
        self.state.seconds = time.monotonic() - self.started
        snapshot = self._snapshot()
        saved = self.checkpoints.save(self.job.unit, snapshot) if self.ranks.first else True
        if reason is not None:
            self.ranks.barrier()  # torchrun ends the others when one leaves: not before the first one has saved
            raise Interrupted(
                f"{self.job}: stopped by {reason} at step {self.state.step} of {self.total}, "
                f"state {'saved' if saved else 'not saved'}; run the same command again to go on",
                reason,
            )

    def _snapshot(self) -> Snapshot:
        tensors = {
            f"module/{name}": tensor for name, tensor in self.particles.whole(self.job.module.state_dict()).items()
        }
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self.optimizer.state().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.particles.whole(self.best).items()}
        tensors |= {f"carried/{number}": tensor for number, tensor in enumerate(self.job.carried)}
        return Snapshot(tensors, {"finished": False, "state": asdict(self.state)})

    def _restore(self, saved: Snapshot) -> None:
        """Copies into the tensors that are there: their memory is aligned as in the undisturbed run."""
        self.job.module.load_state_dict(part(saved.tensors, "module"))
        self.optimizer.load_state(part(saved.tensors, "optimizer"))
        best = {name: tensor.to(self.device) for name, tensor in part(saved.tensors, "best").items()}
        self.best = self.particles.own(best)
        carried = part(saved.tensors, "carried")
        self.job.carried[:] = (carried[str(number)].to(self.device, copy=True) for number in range(len(carried)))
        self.state = State(**saved.values["state"])


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix/`, by the rest of their names."""
    return {
        name.removeprefix(f"{prefix}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")
    }


def from_cleared(module: nn.Module, backward: Step) -> Step:
    """A step out of one that adds to `.grad`, as autograd does. Gradients are dropped, not zeroed: autograd then leaves
    its own tensor there, where it would add it to a zero."""
    parameters = list(module.parameters())  # once: walking through the modules takes as long as a small one's update

    def step(*batch: Any) -> Scalars:
        for parameter in parameters:
            parameter.grad = None
        return backward(*batch)

    return step
