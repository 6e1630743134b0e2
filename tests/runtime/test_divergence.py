"""Training that diverges: an error, or, where the experiment says so, a result that does not depend on the clock."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlpipe import progress
from dlpipe.runtime.batches import Shuffled
from dlpipe.runtime.checkpoints import Checkpoints
from dlpipe.runtime.jobs import Diverged, Job, Outcome, TrainingError
from dlpipe.runtime.loop import train
from dlpipe.runtime.stopping import Interrupted, Stopping
from dlpipe.spec.training import TrainingSpec, training_fields

OVERFLOW = 65
"""The step whose loss is the first above float32's largest number, 2^128: (-2)^64 squared."""


class Bowl(nn.Module):
    """w^2 from w = 1: with a learning rate of 1.5 each step multiplies w by -2, exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def step(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        self.w.grad = 2 * self.w.detach()
        self.steps += 1
        return {"loss": self.w.detach() ** 2}


def job() -> Job:
    bowl = Bowl()
    return Job(bowl, bowl.step, dict, Shuffled((torch.zeros(10, 1),)), stage="s", phase="p", seed=3)


def spec(learning_rate: float = 1.5, **fields: Any) -> TrainingSpec:
    declared = {"duration": {"steps": 200}, "validate_every": {"steps": 10}, "batch_size": 10}
    optimizer = {"kind": "sgd", "learning_rate": learning_rate}
    return TrainingSpec.model_validate({**declared, "optimizer": optimizer, "on_divergence": "record", **fields})


def test_it_is_an_error_unless_declared_otherwise() -> None:
    with pytest.raises(Diverged, match=f"loss is inf at step {OVERFLOW} of 200; .* on_divergence: record makes it a"):
        train(job(), spec(on_divergence="fail"))
    assert issubclass(Diverged, TrainingError)


def test_it_is_a_result_with_its_step_and_the_history_up_to_there() -> None:
    diverging = job()
    outcome = train(diverging, spec())
    assert outcome.diverged
    assert [step for step, _, _ in outcome.validations] == [10, 20, 30, 40, 50, 60, OVERFLOW]
    assert outcome.validations[-1] == (OVERFLOW, float(OVERFLOW), {"diverged": 1.0})
    assert all(math.isfinite(value) for _, _, metrics in outcome.validations for value in metrics.values())
    assert outcome.validations[0][2]["train_loss"] == sum(4.0**k for k in range(10)) / 10
    assert diverging.module.w.isnan(), "what it was depends on when the divergence was noticed"
    assert diverging.module.steps >= OVERFLOW


def test_what_converges_is_not_said_to_diverge() -> None:
    bowl = job()
    outcome = train(bowl, spec(learning_rate=0.25, duration={"steps": 50}))
    assert not outcome.diverged
    assert outcome.validations[-1][0] == 50
    assert bowl.module.w == 0.5**50


def test_a_validation_or_a_gradient_that_overflows_is_a_divergence_too() -> None:
    plain = job()
    given = iter([1.0, math.nan])
    broken = Job(**{**vars(plain), "validate": lambda: {"loss": next(given)}})
    outcome = train(broken, spec(learning_rate=0.25))
    assert [step for step, _, _ in outcome.validations] == [10, 20]
    assert outcome.diverged


def test_when_it_is_noticed_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pretended clock has the loop look after every few steps."""
    expected = train(job(), spec())
    now = iter(range(1_000_000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(progress, "LINES", progress.Pace(progress.LINE_EVERY))
    assert train(job(), spec()).validations == expected.validations


def resumed(folder: Path, after: int) -> Outcome:
    """Stopped by a deadline after so many steps, and gone on with from what was saved."""
    stopped = job()

    class After(Stopping):
        def reason(self, needed: float = 0.0) -> str | None:
            return "deadline" if stopped.module.steps >= after else None

    checkpoints = Checkpoints(folder, {"stage": "s"})
    with pytest.raises(Interrupted):
        train(stopped, spec(), checkpoints=checkpoints, stopping=After())
    again = job()
    saved = Checkpoints(folder, {"stage": "s"}).load(again.unit)
    return train(again, spec(), checkpoints=checkpoints, saved=saved)


@pytest.mark.parametrize("after", [7, 60, OVERFLOW - 1])
def test_gone_on_with_from_a_checkpoint_it_diverges_at_the_same_step(tmp_path: Path, after: int) -> None:
    outcome, expected = resumed(tmp_path, after), train(job(), spec())
    assert (list(map(tuple, outcome.validations)), outcome.kept) == (expected.validations, expected.kept)


def test_asked_to_stop_when_it_has_diverged_it_is_done() -> None:
    """Between the step that diverged and the look that would have noticed it."""

    class Now(Stopping):
        def reason(self, needed: float = 0.0) -> str | None:
            return "deadline" if diverging.module.steps >= OVERFLOW + 1 else None

    diverging = job()
    outcome = train(diverging, spec(), checkpoints=Checkpoints(Path("unused"), {}), stopping=Now())
    assert outcome.validations[-1][0] == OVERFLOW


def test_the_default_is_in_no_digest() -> None:
    assert "on_divergence" not in training_fields(spec(on_divergence="fail"))
    assert training_fields(spec())["on_divergence"] == "record"
