"""The one training loop. Its only clock is the step: all else is a pure function of it and of what was saved at it.

A layer's or a task's step leaves the gradient in `.grad` and returns scalars; how it got there (contrastive divergence,
persistent chains, a loss and autograd) is its own business. The loop owns the order of examples, the optimiser, the
schedule, clipping, weight noise, validation and history, early stopping, precision, checkpoints, progress, and the
guard against NaN. It trains one job, or the seeds of a block at once (`stacks`): then each has a course of its own, and
leaves when it is done.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlpipe.progress import Told, track
from dlpipe.runtime.checkpoints import Checkpoints, Snapshot
from dlpipe.runtime.jobs import Course, Diverged, Job, Outcome, Scalars, State, Step, TrainingError, in_words, unit
from dlpipe.runtime.optimizers import Optimizer
from dlpipe.runtime.ranks import ALONE, Particles, Ranks
from dlpipe.runtime.schedules import schedule
from dlpipe.runtime.stacks import Alone, Stack
from dlpipe.runtime.stopping import Interrupted, Stopping
from dlpipe.runtime.weight_noise import weight_noise
from dlpipe.spec.schedules import PLATEAU_METRICS, Duration, HalveOnPlateau
from dlpipe.spec.training import TrainingSpec

LOOK_EVERY = 100
"""Steps between two transfers of the steps' scalars from the device, at which NaN is noticed; fewer when they are slow.
When it is looked changes no sum: `_look` adds the steps one by one."""


def train(job: Job, training: TrainingSpec, **options: Any) -> Outcome:
    """Trains `job.module` to its end; the options are those of `train_together`."""
    return train_together((job,), training, **options)[0]


def train_together(
    jobs: Sequence[Job],
    training: TrainingSpec,
    *,
    checkpoints: Checkpoints | None = None,
    stopping: Stopping | None = None,
    saved: Snapshot | None = None,
    ranks: Ranks = ALONE,
    leave: Told = lambda count: None,
) -> list[Outcome]:
    """Trains the module of each job to its end, from `saved` if given. Raises Interrupted (state saved) and
    TrainingError.

    Several jobs differ in their seeds alone and have a `step_of`; they have one rank, and no schedule that follows a
    loss. `leave` is told the progress, at least every few seconds.
    """
    return _Loop(jobs, training, checkpoints, stopping or Stopping(), saved, ranks, leave).run()


class _Loop:
    def __init__(
        self,
        jobs: Sequence[Job],
        training: TrainingSpec,
        checkpoints: Checkpoints | None,
        stopping: Stopping,
        saved: Snapshot | None,
        ranks: Ranks,
        leave: Told,
    ) -> None:
        self.jobs, self.training, self.checkpoints, self.stopping = jobs, training, checkpoints, stopping
        self.name = f"{jobs[0].stage} {in_words(jobs)}"
        self.leave = leave
        self.ranks, self.particles = ranks, Particles(jobs[0].module, ranks)
        self.batch_size = ranks.even("batch_size", training.batch_size)
        self.examples = jobs[0].batches.examples(self.batch_size, ranks)
        self.device = jobs[0].batches.device
        self.steps_per_epoch = -(-self.examples // self.batch_size)
        self.total = self._steps(training.duration)
        self.validate_every = self._steps(training.validate_every)
        self.schedule = schedule(training.schedule, self.examples, self.batch_size)
        self.step = 0
        self.courses = [Course(job, self.total) for job in jobs]
        self.trained = self.courses
        """Those that are being trained; the others have stopped."""
        if saved is not None:
            self._restore(saved)
        ranks.align(jobs[0].module.state_dict().values())
        self.particles.share_out()
        self._begin({} if saved is None else part(saved.tensors, "optimizer"))
        self.recent: list[tuple[int, Scalars]] = []
        """Weight of the batch and scalars of the steps since the last look."""
        self.factor = 1.0
        self.norms: list[Tensor] = []
        """Of each job's gradient, before it was clipped."""
        self.noted = time.monotonic()
        """Up to when the courses know how long they took."""
        self.losses: list[float] = []
        for _, _, metrics in self.courses[0].state.validations:
            self._follow(metrics)

    def _steps(self, duration: Any) -> int:
        return int(duration.in_steps(self.examples, self.batch_size))

    def _begin(self, remembered: Mapping[str, Tensor]) -> None:
        """Stacks what is being trained. `remembered`: the state of its optimiser; empty at the start."""
        jobs = [course.job for course in self.trained]
        self.stack: Alone | Stack = Alone(jobs[0]) if len(self.jobs) == 1 else Stack(jobs)
        buffers = dict(self.stack.module.named_buffers(recurse=False))
        self.averaged = [buffers[name] for name in getattr(self.stack.module, "averaged", ()) if name in buffers]
        declared: Any = self.training.optimizer
        arguments = {k: self._steps(v) if isinstance(v, Duration) else v for k, v in declared.arguments().items()}
        self.optimizer: Optimizer = declared.load()(self.stack.parameters, **arguments)
        if remembered:
            self.optimizer.load_state(remembered)
        self.batches: Sequence[Any] = ()

    def _leave_out_the_stopped(self) -> None:
        """At a validation alone: when a divergence is noticed before depends on the clock."""
        stay = [number for number, course in enumerate(self.trained) if not course.state.stopped]
        if stay and len(stay) < len(self.trained):
            remembered = {
                name: tensor[stay] if tensor.ndim else tensor for name, tensor in self.optimizer.state().items()
            }
            self.trained = [self.trained[number] for number in stay]
            self._begin(remembered)

    def _going_on(self) -> bool:
        return self.step < self.total and not all(course.state.stopped for course in self.trained)

    def run(self) -> list[Outcome]:
        self.noted = time.monotonic()
        with track(self.name, self.total, per_epoch=self.steps_per_epoch, leave=self.leave) as progress:
            progress(self.step)
            # A divergence ends the training of all ranks at once; their clocks are not one.
            look_by_clock = self.training.on_divergence == "fail" or self.ranks.world == 1
            while self._going_on():
                self._stop_or_save()
                epoch, position = divmod(self.step, self.steps_per_epoch)
                if position == 0:
                    self.jobs[0].carried.clear()
                if not self.batches or position == 0:
                    self.batches = self.stack.batches(epoch, self.batch_size, self.ranks)
                self._one_step(self.batches[position])
                if self.step % LOOK_EVERY == 0 or (look_by_clock and progress.due()):
                    progress(self.step, **self._look())
                if self.step % self.validate_every == 0 or self.step == self.total:
                    self._validation()
        self._note_time()
        self.particles.bring_together()
        return [course.outcome(self.steps_per_epoch) for course in self.courses]

    def _one_step(self, which: Any) -> None:
        batch, weight = self.stack.take(which)
        noise = self.stack.noise(self.step)
        jobs = [course.job for course in self.trained]
        for job in jobs:
            job.at(self.step)
        with (
            weight_noise(jobs, self.step, self.training.weight_noise),
            self._precision(),
            self.ranks.noise(len(batch[0]), *self.particles.shares),
        ):
            scalars = self.stack.step(*batch, noise)
        scalars = self.ranks.average(self.stack.parameters.values(), scalars, self.averaged)
        if self.training.clip_norm is not None:
            self.norms = [_clip(gradients, self.training.clip_norm) for gradients in self.stack.gradients()]
        self.factor = self.schedule(self.step, self.total, self.losses)
        self.optimizer.step(self.factor, self.step)
        self.recent.append((weight * self.ranks.world, scalars))
        self.step += 1

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.training.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @contextlib.contextmanager
    def _divergence_of(self, course: Course) -> Iterator[None]:
        """Where one is a result it ends a course, and else everything. Raises Diverged."""
        try:
            yield
        except Diverged as error:
            if self.training.on_divergence == "fail":
                raise
            course.give_up(error.step)

    def _look(self) -> dict[str, float]:
        """Adds the recent steps' scalars to the sums, in order; the last step's, averaged over the jobs that go on."""
        if not self.recent:
            return {}
        first = self.step - len(self.recent) + 1
        names = list(self.recent[0][1])
        table = torch.stack([torch.stack([scalars[name] for name in names]) for _, scalars in self.recent])
        of_each = table.view(*table.shape[:2], -1).permute(2, 0, 1).tolist()  # [jobs][steps][names]
        for course, steps in zip(self.trained, of_each, strict=True):
            if not course.state.stopped:
                with self._divergence_of(course):
                    for step, ((weight, _), values) in enumerate(zip(self.recent, steps, strict=True), first):
                        course.add(step, weight, dict(zip(names, values, strict=True)))
        self.recent.clear()
        last = [steps[-1] for course, steps in zip(self.trained, of_each, strict=True) if not course.state.stopped]
        return {name: sum(values) / len(last) for name, values in zip(names, zip(*last, strict=True), strict=False)}

    def _validation(self) -> None:
        self._look()
        self._note_time()
        if self.training.clip_norm is None:
            self.norms = [nn.utils.get_total_norm(gradients) for gradients in self.stack.gradients()]
        for course, norm in zip(self.trained, self.norms, strict=True):
            if not course.state.stopped:
                with self._divergence_of(course):
                    self._validate(course, norm)
        self._leave_out_the_stopped()

    def _validate(self, course: Course, norm: Tensor) -> None:
        metrics = course.means()
        metrics |= {f"valid_{name}": value for name, value in course.job.validate().items()}
        metrics |= {"learning_rate": self.optimizer.learning_rate * self.factor, "grad_norm": float(norm)}
        metrics = dict(zip(metrics, self.ranks.from_first(list(metrics.values())), strict=True))
        course.guard(metrics, self.step)
        course.validated(self.step, self.step / self.steps_per_epoch, metrics)
        self._follow(metrics)
        rule = self.training.early_stopping
        if rule is not None:
            course.stop_early(rule, self._steps(rule.patience))

    def _follow(self, metrics: Mapping[str, float]) -> None:
        """Notes the loss that a schedule may look at."""
        loss = next((metrics[name] for name in PLATEAU_METRICS if name in metrics), None)
        if loss is not None:
            self.losses.append(loss)
        elif isinstance(self.training.schedule, HalveOnPlateau):
            raise TrainingError(
                f"{self.name}: halve_on_plateau looks at one of {', '.join(PLATEAU_METRICS)}; "
                f"the validations have {', '.join(metrics)}. Validation examples (dataset.valid) may help"
            )

    def _note_time(self) -> None:
        """Shares out the seconds since the last time."""
        now = time.monotonic()
        for course in self.trained:
            course.state.seconds += (now - self.noted) / len(self.trained)
        self.noted = now

    def _stop_or_save(self) -> None:
        """At a step boundary: saves when it is time to, or when asked to stop, which it then does."""
        if self.checkpoints is None:
            return
        reason = self.stopping.reason(needed=2 * self.checkpoints.seconds)
        reason, due = self.ranks.agree(reason, self.checkpoints.due())
        if reason is None and not due:
            return
        self._look()
        if not self._going_on():
            return  # it has just been noticed that everything has diverged
        self._note_time()
        snapshot = self._snapshot()
        saved = self.checkpoints.save(unit(self.jobs), snapshot) if self.ranks.first else True
        if reason is not None:
            self.ranks.barrier()  # torchrun ends the others when one leaves: not before the first one has saved
            raise Interrupted(
                f"{self.name}: stopped by {reason} at step {self.step} of {self.total}, "
                f"state {'saved' if saved else 'not saved'}; run the same command again to go on",
                reason,
            )

    def _snapshot(self) -> Snapshot:
        tensors = {f"optimizer/{name}": tensor for name, tensor in self.optimizer.state().items()}
        for course in self.courses:
            for what, state in (("module", course.job.module.state_dict()), ("best", course.best)):
                whole = self.particles.whole(state)
                tensors |= {f"{course.job.seed}/{what}/{name}": tensor for name, tensor in whole.items()}
            carried = enumerate(course.job.carried)
            tensors |= {f"{course.job.seed}/carried/{number}": tensor for number, tensor in carried}
        trained = [course.job.seed for course in self.trained]
        states = [course.values() for course in self.courses]
        return Snapshot(tensors, {"finished": False, "step": self.step, "trained": trained, "states": states})

    def _restore(self, saved: Snapshot) -> None:
        """Copies into the tensors that are there: their memory is aligned as in the undisturbed run."""
        for course, values in zip(self.courses, saved.values["states"], strict=True):
            own = part(saved.tensors, str(course.job.seed))
            course.job.module.load_state_dict(part(own, "module"))
            best = {name: tensor.to(self.device) for name, tensor in part(own, "best").items()}
            course.best = self.particles.own(best)
            carried = part(own, "carried")
            course.job.carried[:] = (carried[str(number)].to(self.device, copy=True) for number in range(len(carried)))
            course.state = State(**values)
        self.step = saved.values["step"]
        self.trained = [course for course in self.courses if course.job.seed in saved.values["trained"]]


def _clip(gradients: list[Tensor], most: float) -> Tensor:
    """Scales them, in place, to a norm of at most so much, all of them together; the norm before."""
    norm = nn.utils.get_total_norm(gradients)
    torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp(max=1.0))  # as clip_grad_norm_ does
    return norm


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


__all__ = [
    "Diverged",
    "Interrupted",
    "Job",
    "Outcome",
    "TrainingError",
    "from_cleared",
    "part",
    "train",
    "train_together",
]
