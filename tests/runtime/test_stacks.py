"""Several jobs in one loop: stacked, each on its own course, out of the stack when it is done."""

from __future__ import annotations

import math
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlpipe.models.mlp import MLP
from dlpipe.progress import Count
from dlpipe.runtime.batches import Shuffled
from dlpipe.runtime.checkpoints import Checkpoints
from dlpipe.runtime.jobs import Diverged, Job, Outcome, Step, unit
from dlpipe.runtime.loop import from_cleared, train, train_together
from dlpipe.runtime.stacks import Stack
from dlpipe.runtime.stopping import Interrupted, Stopping
from dlpipe.runtime.streams import stream
from dlpipe.spec.training import TrainingSpec
from dlpipe.tasks.classification import Classification

OVERFLOW = 65
"""The step whose loss is the first above float32's largest number, 2^128: (-2)^64 squared."""


class Bowl(nn.Module):
    """w^2: with a learning rate of 1.5 each step multiplies w by -2, exactly. Its one parameter has no dimension."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def step(self, x: Tensor, generator: Any) -> dict[str, Tensor]:
        self.w.grad = 2 * self.w.detach()
        self.steps += 1
        return {"loss": self.w.detach() ** 2}


def bowls(*starts: float) -> list[Job]:
    named: Any = {"stage": "s", "phase": "p", "step_of": attrgetter("step")}
    modules = [Bowl(start) for start in starts]
    return [Job(m, m.step, dict, Shuffled((torch.zeros(10, 1),)), seed=seed, **named) for seed, m in enumerate(modules)]


def spec(**fields: Any) -> TrainingSpec:
    declared = {"duration": {"steps": 200}, "validate_every": {"steps": 10}, "batch_size": 10}
    return TrainingSpec.model_validate({**declared, "optimizer": {"kind": "sgd", "learning_rate": 1.5}, **fields})


def plain(outcome: Outcome) -> tuple[Any, ...]:
    return list(map(tuple, outcome.validations)), outcome.kept


def test_the_jobs_modules_are_windows_on_the_stack() -> None:
    jobs = [classifier(seed) for seed in (0, 1, 2)]
    before = [[p.detach().clone() for p in job.module.parameters()] for job in jobs]
    stack = Stack(jobs)
    for number, parameter in enumerate(stack.parameters.values()):
        assert torch.equal(parameter, torch.stack([tensors[number] for tensors in before]))
        with torch.no_grad():
            parameter += 1.0
        for seed, job in enumerate(jobs):
            assert torch.equal(list(job.module.parameters())[number], before[seed][number] + 1.0)


def test_one_that_diverges_takes_no_other_along() -> None:
    """The seed in the middle; its divergence is found in a row of its own, and the others go on without it."""
    jobs = bowls(0.0, 1.0, 0.0)
    outcomes = train_together(jobs, spec(on_divergence="record"))
    for job, outcome, start in zip(jobs, outcomes, (0.0, 1.0, 0.0), strict=True):
        alone = bowls(start)[0]
        assert plain(outcome) == plain(train(alone, spec(on_divergence="record")))
        torch.testing.assert_close(job.module.get_parameter("w"), alone.module.get_parameter("w"), equal_nan=True)
    assert [outcome.diverged for outcome in outcomes] == [False, True, False]
    assert outcomes[1].validations[-1] == (OVERFLOW, float(OVERFLOW), {"diverged": 1.0})
    assert [int(job.module.get_buffer("steps")) for job in jobs] == [200, 70, 200], "it left at the next validation"


def test_when_all_have_diverged_it_is_over() -> None:
    jobs = bowls(1.0, 2.0)
    assert all(outcome.diverged for outcome in train_together(jobs, spec(on_divergence="record")))
    assert int(jobs[0].module.get_buffer("steps")) == 70


@pytest.mark.parametrize("starts", [(1.0, 0.0), (1.0, 1.0), (1.0,)])
def test_the_figures_that_are_told_are_of_those_that_go_on(starts: tuple[float, ...]) -> None:
    told: list[Count] = []
    fields: Any = {"on_divergence": "record", "validate_every": {"steps": 200}}
    train_together(bowls(*starts), spec(**fields), leave=told.append)
    assert 100 in [count.done for count in told]
    assert all(math.isfinite(value) for count in told for value in count.figures.values())


def test_a_divergence_that_is_an_error_names_its_seed() -> None:
    with pytest.raises(Diverged, match=f"^s seed 1: loss is inf at step {OVERFLOW} of 200"):
        train_together(bowls(0.0, 1.0, 0.0), spec())


def test_each_gradient_has_a_norm_of_its_own() -> None:
    """2 |w|, and clipped to 1: one step of 1.5 from w = 4 and two of less from w = 0.25."""
    outcomes = train_together(bowls(4.0, 0.25), spec(duration={"steps": 1}))
    assert [outcome.validations[-1][2]["grad_norm"] for outcome in outcomes] == [8.0, 0.5]
    jobs = bowls(4.0, 0.25)
    outcomes = train_together(jobs, spec(duration={"steps": 1}, clip_norm=1.0))
    assert [outcome.validations[-1][2]["grad_norm"] for outcome in outcomes] == [8.0, 0.5]
    assert [job.module.get_parameter("w").item() for job in jobs] == pytest.approx([4.0 - 1.5, 0.25 - 0.75])


def test_the_seconds_are_shared_out() -> None:
    seconds = [outcome.seconds for outcome in train_together(bowls(0.0, 0.0), spec())]
    assert seconds[0] == pytest.approx(seconds[1])
    assert seconds[0] > 0


def classifier(seed: int) -> Job:
    """Its weights grow; its validation gets no better once they have grown to a size that is the seed's own."""
    model = MLP(6, 2, units=[5])
    model.initialise(stream(seed, "test model"))
    generator = stream(0, "test data")
    x = torch.rand(50, 6, generator=generator)

    def step_of(model: MLP) -> Step:
        return from_cleared(model, partial(Classification().step, model))

    def validate() -> dict[str, float]:
        return {"error": -min(float(model.weights[1].detach().abs().sum()), (4.0, 8.0, 1e9)[seed])}

    named: Any = {"stage": "s", "phase": "p", "seed": seed, "step_of": step_of}
    return Job(model, step_of(model), validate, Shuffled((x, (x.sum(dim=1) > 3).long())), **named)


STOPPING: dict[str, Any] = {
    "duration": {"epochs": 40.0},
    "validate_every": {"epochs": 1.0},
    "batch_size": 8,
    "optimizer": {"kind": "adam", "learning_rate": 0.05, "weight_decay": 0.01},
    "early_stopping": {"by": "valid_error", "patience": {"epochs": 6}},
}


@pytest.mark.parametrize("after", [5, 110, 150, 250])
def test_gone_on_with_it_ends_in_the_same_bits(tmp_path: Path, after: int) -> None:
    """Also when seeds had left the stack by then, with parameters of their own to keep."""

    class After(Stopping):
        steps = 0

        def reason(self, needed: float = 0.0) -> str | None:
            self.steps += 1
            return "deadline" if self.steps > after else None

    expected = [classifier(seed) for seed in (0, 1, 2)]
    undisturbed = train_together(expected, TrainingSpec.model_validate(STOPPING))
    lasts = sorted(outcome.validations[-1][0] for outcome in undisturbed)
    assert 110 < lasts[0] < 150 < lasts[1] < 250 < lasts[2], "the cases cover a stack that got smaller"
    stopped = [classifier(seed) for seed in (0, 1, 2)]
    with pytest.raises(Interrupted, match=f"seeds 0, 1, 2: stopped by deadline at step {after} of 280"):
        train_together(
            stopped, TrainingSpec.model_validate(STOPPING), checkpoints=Checkpoints(tmp_path, {}), stopping=After()
        )
    again = [classifier(seed) for seed in (0, 1, 2)]
    saved = Checkpoints(tmp_path, {}).load(unit(again))
    outcomes = train_together(again, TrainingSpec.model_validate(STOPPING), saved=saved)
    assert list(map(plain, outcomes)) == list(map(plain, undisturbed))
    for ours, theirs in zip(again, expected, strict=True):
        for name, tensor in theirs.module.state_dict().items():
            assert torch.equal(ours.module.state_dict()[name], tensor), name
    assert all(math.isfinite(value) for outcome in outcomes for value in outcome.validations[-1][2].values())
