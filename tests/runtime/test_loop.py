from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dlpipe import progress
from dlpipe.models.mlp import MLP
from dlpipe.runtime.batches import Shuffled
from dlpipe.runtime.jobs import Job, Outcome, TrainingError
from dlpipe.runtime.loop import from_cleared, train
from dlpipe.runtime.streams import stream
from dlpipe.spec.training import TrainingSpec
from dlpipe.tasks.classification import Classification

N, BATCH = 50, 8
"""7 steps an epoch, the last one of 2 examples."""
LEARNING_RATE = 0.25
"""A power of 2: the product with a gradient is exact, so that fused and plain updates round alike."""


def spec(**fields: Any) -> TrainingSpec:
    declared = {"duration": {"epochs": 3.0}, "optimizer": {"kind": "sgd", "learning_rate": LEARNING_RATE}}
    return TrainingSpec.model_validate({**declared, "batch_size": BATCH, **fields})


def examples(n: int = N) -> tuple[Tensor, Tensor]:
    generator = stream(0, "test data")
    x = torch.rand(n, 6, generator=generator)
    return x, (x.sum(dim=1) > 3).long()


def model(dropout: float = 0.0) -> MLP:
    made = MLP(6, 2, units=[5], dropout=dropout)
    made.initialise(stream(0, "test model"))
    return made


def classifier(net: MLP, validate: Callable[[], dict[str, float]] = dict) -> Job:
    step = from_cleared(net, partial(Classification().step, net))
    return Job(net, step, validate, Shuffled(examples()), stage="s", phase="p", seed=3)


class Slope(nn.Module):
    """One parameter w with gradient `slope`: all that the loop does to it can be foretold."""

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, 1))
        self.slope = slope
        self.batches: list[list[float]] = []

    def step(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        self.batches.append(x.flatten().tolist())
        self.w.grad = torch.full_like(self.w, self.slope)
        return {"loss": x.mean()}


def slope_job(module: Slope, validate: Callable[[], dict[str, float]] = dict) -> Job:
    return Job(
        module, module.step, validate, Shuffled((torch.arange(N).float()[:, None],)), stage="s", phase="p", seed=3
    )


def values(outcome: Outcome, metric: str) -> list[float]:
    return [metrics[metric] for _, _, metrics in outcome.validations]


def in_turn(*numbers: float) -> Callable[[], dict[str, float]]:
    """A validation that gives these numbers one after another."""
    given = iter(numbers)
    return lambda: {"error": next(given)}


def test_equals_a_plain_loop_bit_for_bit() -> None:
    """The textbook's loop: shuffle, batches, zero_grad, loss, backward, p -= lr g."""
    ours = model(dropout=0.3)
    outcome = train(classifier(ours), spec())
    plain, (x, y) = model(dropout=0.3), examples()
    step, losses = 0, []
    for epoch in range(3):
        total = 0.0
        for batch in torch.randperm(N, generator=stream(3, "p/order", 0, epoch)).split(BATCH):
            plain.zero_grad()
            loss = cross_entropy(plain(x[batch], stream(3, "p/step", 0, step)), y[batch])
            loss.backward()
            with torch.no_grad():
                for parameter in plain.parameters():
                    parameter -= LEARNING_RATE * parameter.grad
            total += float(loss.detach()) * len(batch)
            step += 1
        losses.append(total / N)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    assert values(outcome, "train_loss") == losses


def test_every_example_once_an_epoch_in_another_order() -> None:
    module = Slope()
    train(slope_job(module), spec())
    assert [len(batch) for batch in module.batches] == [8, 8, 8, 8, 8, 8, 2] * 3
    epochs = [list(chain(*module.batches[start : start + 7])) for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize(
    ("every", "steps"),
    [({"epochs": 1.0}, [7, 14, 21]), ({"steps": 8}, [8, 16, 21]), ({"examples": 25}, [4, 8, 12, 16, 20, 21])],
)
def test_validations_at_each_interval_and_at_the_end(every: dict[str, Any], steps: list[int]) -> None:
    outcome = train(slope_job(Slope()), spec(validate_every=every))
    assert [(step, epoch) for step, epoch, _ in outcome.validations] == [(step, step / 7) for step in steps]


def test_train_metrics_average_over_examples_since_the_last_validation() -> None:
    """The mean of 0 … 49; a mean of batch means would weigh the last two examples as heavily as eight."""
    outcome = train(slope_job(Slope()), spec())
    assert values(outcome, "train_loss") == pytest.approx([24.5] * 3, rel=1e-6)  # batch means are float32


def test_the_schedule_scales_the_rate_and_is_recorded() -> None:
    module = Slope()
    schedule = {"kind": "step", "every": {"epochs": 1.0}, "factor": 0.5}
    outcome = train(slope_job(module), spec(schedule=schedule))
    assert values(outcome, "learning_rate") == [LEARNING_RATE, LEARNING_RATE / 2, LEARNING_RATE / 4]
    assert module.w.item() == pytest.approx(-LEARNING_RATE * 7 * (1 + 0.5 + 0.25), rel=1e-6)  # 21 float32 additions


def test_momentum_grows_after_an_early_duration_in_epochs() -> None:
    """7 steps an epoch. A gradient of 1: the velocity and the sum of velocities can be foretold."""
    optimizer = {"kind": "sgd", "learning_rate": LEARNING_RATE, "momentum": 0.75}
    early = {"early_momentum": 0.5, "early_duration": {"epochs": 1.0}}
    module = Slope()
    train(slope_job(module), spec(optimizer={**optimizer, **early}))
    position, velocity = 0.0, 0.0
    for step in range(21):
        velocity = (0.5 if step < 7 else 0.75) * velocity + 1
        position -= LEARNING_RATE * velocity
    assert module.w.item() == pytest.approx(position, rel=1e-6)


def test_halve_on_plateau_follows_the_validation_loss() -> None:
    given = iter([5.0, 6.0, 6.0])
    schedule = {"kind": "halve_on_plateau", "patience": 1}
    outcome = train(slope_job(Slope(), lambda: {"loss": next(given)}), spec(schedule=schedule))
    assert values(outcome, "learning_rate") == [LEARNING_RATE, LEARNING_RATE, LEARNING_RATE / 2]


def test_halve_on_plateau_needs_something_to_look_at() -> None:
    module = Slope()

    def step(x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"activity": module.step(x, generator)["loss"]}

    job = Job(module, step, dict, Shuffled((torch.ones(N, 1),)), stage="s", phase="p", seed=3)
    with pytest.raises(TrainingError, match=r"halve_on_plateau looks at one of .*valid_loss.* have train_activity"):
        train(job, spec(schedule={"kind": "halve_on_plateau"}))


def test_clipping_bounds_the_whole_gradient_and_records_its_norm_before() -> None:
    module = Slope(slope=10.0)
    outcome = train(slope_job(module), spec(duration={"steps": 1}, clip_norm=0.5))
    assert values(outcome, "grad_norm") == [10.0]
    assert module.w.item() == pytest.approx(-LEARNING_RATE * 0.5, rel=1e-5)  # clipping divides by the norm + 1e-6
    unclipped = train(slope_job(Slope(slope=10.0)), spec(duration={"steps": 1}))
    assert values(unclipped, "grad_norm") == [10.0]


class Rows(nn.Module):
    """Parameters whose gradient is what they are at the time; it notes them."""

    def __init__(self) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.linspace(-1, 1, 10_000).view(100, 100).mT)
        self.b = nn.Parameter(torch.zeros(100))
        self.seen: list[Tensor] = []

    def step(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        self.seen.append(torch.cat([self.W.detach().flatten(), self.b.detach()]))
        self.W.grad, self.b.grad = self.W.detach().clone(), self.b.detach().clone()
        return {"loss": x.mean()}


def with_weight_noise(**fields: Any) -> tuple[Rows, list[Tensor]]:
    """What was trained and what the steps saw of the noise, where the clean weights are those of the outset."""
    module = Rows()
    job = Job(module, module.step, dict, Shuffled((torch.ones(N, 1),)), stage="s", phase="p", seed=3)
    outset = torch.cat([module.W.detach().flatten(), module.b.detach()])
    train(job, spec(duration={"steps": 3}, weight_noise=0.1, **fields))
    return module, [seen - outset for seen in module.seen]


def test_weight_noise_is_normal_anew_in_every_step_and_leaves_nothing_behind() -> None:
    module, noise = with_weight_noise(optimizer={"kind": "sgd", "learning_rate": 1e-30})  # too little to be seen
    assert torch.equal(module.W.detach(), Rows().W.detach())
    assert module.b.abs().max() < 1e-28
    n = sum(len(each) for each in noise)
    together = torch.cat(noise)
    assert abs(together.mean()) < 3 * 0.1 / math.sqrt(n)
    assert abs(together.std() - 0.1) < 3 * 0.1 / math.sqrt(2 * n)
    assert abs(noise[0][-100:].std() - 0.1) < 3 * 0.1 / math.sqrt(200)  # biases too
    for one, other in itertools.combinations(noise, 2):
        assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 4 / math.sqrt(len(one))


def test_an_update_goes_from_the_clean_weights_by_the_noisy_ones_gradient() -> None:
    module = Rows()
    job = Job(module, module.step, dict, Shuffled((torch.ones(N, 1),)), stage="s", phase="p", seed=3)
    train(job, spec(duration={"steps": 1}, weight_noise=0.1))
    clean = Rows().W.detach()
    noisy = module.seen[0][:-100].view(100, 100)
    assert torch.equal(module.W.detach(), clean - LEARNING_RATE * noisy)


def test_early_stopping_keeps_the_best_validations_parameters() -> None:
    """The error is lowest at the second validation; two epochs later training stops."""
    module = Slope()
    rule = {"by": "valid_error", "patience": {"epochs": 2.0}}
    fields = spec(duration={"epochs": 9.0}, early_stopping=rule)
    outcome = train(slope_job(module, in_turn(5.0, 4.0, 4.0, 6.0, 1.0)), fields)
    assert [step for step, _, _ in outcome.validations] == [7, 14, 21, 28]
    assert outcome.kept == 1
    assert module.w.item() == pytest.approx(-LEARNING_RATE * 14, rel=1e-6)


def test_early_stopping_on_a_metric_that_should_rise() -> None:
    rule = {"by": "valid_accuracy", "patience": {"epochs": 1.0}}
    given = iter([1.0, 2.0, 1.5, 9.0])
    outcome = train(slope_job(Slope(), lambda: {"accuracy": next(given)}), spec(early_stopping=rule))
    assert outcome.kept == 1


def test_early_stopping_by_an_unknown_metric_says_what_there_is() -> None:
    rule = {"patience": {"epochs": 1.0}}
    with pytest.raises(TrainingError, match=r"'valid_error'.* train_loss, .*\(there are no validation examples\)"):
        train(slope_job(Slope()), spec(early_stopping=rule))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_guard_names_stage_seed_and_the_exact_step(value: float) -> None:
    """The 10th step of the 30: noticed at the end of the epoch, named as the 10th."""
    module = Slope()

    def step(x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        scalars = module.step(x, generator)
        return {"loss": torch.tensor(value)} if len(module.batches) == 10 else scalars

    job = Job(module, step, dict, Shuffled((torch.ones(N, 1),)), stage="digits-rbm", phase="p", seed=3, restart=2)
    with pytest.raises(TrainingError, match=r"digits-rbm seed 3 restart 2: loss is (nan|inf) at step 10 of 21"):
        train(job, spec())


def test_the_guard_sees_a_validation_and_a_gradient_that_overflow() -> None:
    with pytest.raises(TrainingError, match="valid_error is nan at step 7"):
        train(slope_job(Slope(), in_turn(math.nan)), spec())
    with pytest.raises(TrainingError, match="grad_norm is inf at step 1 of 1"):
        train(slope_job(Slope(slope=math.inf)), spec(duration={"steps": 1}))


def test_bfloat16_computes_in_it_and_keeps_parameters_in_float32() -> None:
    exact, rounded = model(), model()
    train(classifier(exact), spec())
    train(classifier(rounded), spec(precision="bfloat16"))
    for name, tensor in exact.state_dict().items():
        other = rounded.state_dict()[name]
        assert other.dtype == torch.float32
        # 21 steps of 0.25 times 0.4 % (half an ulp of bfloat16) of gradients below 1.
        torch.testing.assert_close(other, tensor, rtol=0.0, atol=21 * 0.25 * 0.004)
    assert not torch.equal(exact.weights[0], rounded.weights[0])


def test_seed_restart_and_phase_each_draw_their_own_order() -> None:
    def first_batch(**names: Any) -> tuple[float, ...]:
        module = Slope()
        job = slope_job(module)
        train(Job(**{**vars(job), **names}), spec(duration={"steps": 1}))
        return tuple(module.batches[0])

    assert len({first_batch(), first_batch(seed=4), first_batch(restart=1), first_batch(phase="q")}) == 4
    assert first_batch(stage="another name") == first_batch()


def test_it_looks_by_the_clock_too_and_no_sum_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pretended clock makes some steps slow: progress is told at other steps than before, results are the same."""
    job, undisturbed = model(), model()
    expected = train(classifier(undisturbed), spec(duration={"steps": 250}, validate_every={"steps": 90}))
    now = iter(range(1_000_000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(progress, "LINES", progress.Pace(progress.LINE_EVERY))
    told: list[progress.Count] = []
    outcome = train(classifier(job), spec(duration={"steps": 250}, validate_every={"steps": 90}), leave=told.append)
    steps = [count.done for count in told]
    assert steps[0] == 0
    assert {100, 200} < set(steps)
    assert all(later - earlier <= 5 for earlier, later in itertools.pairwise(steps)), "each step takes a second"
    assert told[-1].epochs == (steps[-1] / 7, 250 / 7)
    assert all(count.figures["loss"] > 0 for count in told[1:])
    assert outcome.validations == expected.validations
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(job.state_dict()[name], tensor), name
