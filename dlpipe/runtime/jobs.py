"""What is trained, a job, and what becomes of it: the course of one seed through the loop.

The loop may train several at once; what it computes for all ends here, in the history and the best parameters of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from dlpipe.errors import StepError
from dlpipe.runtime.batches import Batches
from dlpipe.runtime.history import lower_is_better
from dlpipe.spec.claims import DIVERGED
from dlpipe.spec.training import EarlyStopping

Scalars = Mapping[str, Tensor]
Step = Callable[..., Scalars]
"""step(*batch, generator) -> scalar tensors, averaged over the batch; leaves the gradient in `.grad` of each parameter,
whatever was there before: a layer writes over it, a task starts from none (`from_cleared`).

Of a block of seeds: batches [seeds, B, ...], a generator for each seed, and a number for each, [seeds]."""
Validate = Callable[[], Mapping[str, float]]
Validation = tuple[int, float, dict[str, float]]
"""Step, epoch, metrics."""


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
    step_of: Callable[[Any], Step] | None = None
    """The step of another module like `module`, whose parameters are those of several jobs; None where it has none."""

    @property
    def unit(self) -> str:
        """Name of its checkpoint."""
        return unit((self,))

    def __str__(self) -> str:
        return f"{self.stage} {in_words((self,))}"


def unit(jobs: Sequence[Job]) -> str:
    """Name of the checkpoint of jobs that are trained together, which differ in their seeds."""
    first, last = jobs[0], jobs[-1]
    seeds = f"seed{first.seed}" if len(jobs) == 1 else f"seeds{first.seed}-{last.seed}"
    return f"{seeds}-restart{first.restart}" + (f"-setting{first.setting}" if first.setting else "")


def in_words(jobs: Sequence[Job]) -> str:
    """For messages."""
    first = jobs[0]
    named = {"restart": first.restart, "setting": first.setting}
    seeds = ("seed " if len(jobs) == 1 else "seeds ") + ", ".join(str(job.seed) for job in jobs)
    return seeds + "".join(f" {name} {number}" for name, number in named.items() if number)


@dataclass(frozen=True)
class Outcome:
    """The result of one job; the module holds the parameters that are kept."""

    validations: list[Validation]
    kept: int
    """Position of the validation that the kept parameters belong to: the best under early stopping, else the last."""
    seconds: float

    @property
    def diverged(self) -> bool:
        """The last row of its history says at which step; there are no parameters then, all are NaN."""
        return DIVERGED in self.validations[-1][2]


@dataclass
class State:
    """All that changes of a job from step to step besides tensors. JSON holds it exactly."""

    stopped: bool = False
    """Nothing more is learnt of it."""
    diverged: int | None = None
    """From which step on, where that ended it."""
    sums: dict[str, float] = field(default_factory=dict)
    seen: int = 0
    """Examples, or steps of sequences, since the last validation, over which `sums` run."""
    validations: list[Validation] = field(default_factory=list)
    best: int | None = None
    """Position in `validations` of the best one, under early stopping."""
    seconds: float = 0.0
    """Of training; of what several are trained together an equal share."""


class Course:
    """One job on its way."""

    def __init__(self, job: Job, total: int) -> None:
        """`total`: steps of the whole training."""
        self.job, self.total = job, total
        self.state = State()
        self.best: dict[str, Tensor] = {}

    def add(self, step: int, weight: int, scalars: Mapping[str, float]) -> None:
        """Adds one step's scalars, means over a batch of that weight, to the sums. Raises Diverged."""
        self.guard(scalars, step)
        sums = self.state.sums
        for name, value in scalars.items():
            sums[name] = sums.get(name, 0.0) + weight * value
        self.state.seen += weight

    def guard(self, metrics: Mapping[str, float], step: int) -> None:
        """Raises Diverged where one is not finite."""
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise Diverged(
                    f"{self.job}: {name} is {value} at step {step} of {self.total}; training has diverged. "
                    "A lower learning rate or clip_norm may help; on_divergence: record makes it a result",
                    step,
                )

    def means(self) -> dict[str, float]:
        """Of the steps since the last validation."""
        return {f"train_{name}": total / self.state.seen for name, total in self.state.sums.items()}

    def validated(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        """Notes a validation; the sums begin anew."""
        self.state.validations.append((step, epoch, metrics))
        self.state.sums, self.state.seen = {}, 0

    def stop_early(self, rule: EarlyStopping, patience: int) -> None:
        """Keeps the parameters where the last validation is the best; stops `patience` steps after that one."""
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
        state.stopped = step - state.validations[state.best][0] >= patience

    def give_up(self, step: int) -> None:
        """Of what diverged at `step` there is nothing more to come."""
        self.state.stopped, self.state.diverged = True, step

    def outcome(self, steps_per_epoch: int) -> Outcome:
        """The best parameters, where there are such, go into the module; NaN where training diverged: what they were
        when that was noticed depends on the clock."""
        state, module = self.state, self.job.module
        if state.diverged is None:
            if self.best:
                module.load_state_dict(self.best)
            last = len(state.validations) - 1
            return Outcome(state.validations, last if state.best is None else state.best, state.seconds)
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(math.nan)
        row = (state.diverged, state.diverged / steps_per_epoch, {DIVERGED: 1.0})
        return Outcome([*state.validations, row], len(state.validations), state.seconds)

    def values(self) -> dict[str, Any]:
        return asdict(self.state)
