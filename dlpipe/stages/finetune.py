"""Fine-tune: one phase of training the model, from pretrained layers, another stage's model, or at random.

The whole model is trained, or its output layer alone, or nothing: then it is what it starts from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Generator, Tensor

from dlpipe.artifacts import Artifact, Stage, Store
from dlpipe.progress import say
from dlpipe.runtime.batches import Batches, Bucketed, Shuffled, Stream
from dlpipe.runtime.block import Block, Cost, block
from dlpipe.runtime.data import (
    Layers,
    SequenceSplit,
    Split,
    Stack,
    build_model,
    component,
    declared_task,
    features,
    read_any,
    read_weights,
)
from dlpipe.runtime.history import lower_is_better, to_csv
from dlpipe.runtime.jobs import Job, Outcome, Step, TrainingError
from dlpipe.runtime.loop import from_cleared
from dlpipe.runtime.ranks import join
from dlpipe.runtime.streams import stream
from dlpipe.spec.selection import Select, with_settings
from dlpipe.spec.training import TrainingSpec
from dlpipe.tasks.generative import Generative


class Start(NamedTuple):
    """Where a model's parameters come from."""

    data: Artifact
    layers: Layers
    model: Artifact | None


class Try(NamedTuple):
    """One training of a seed, among those that are chosen from, and what it came to."""

    job: Job
    outcome: Outcome
    what: dict[str, Any]
    """By name: which restart, or which settings."""
    value: float


def run(
    stage: Stage, store: Store, *, device: str = "auto", threads: int = 1, deadline: float | None = None
) -> Artifact:
    """Makes the model of `stage`, a state for every seed. Raises Interrupted (run again to go on) and TrainingError."""
    ranks = join()
    if ranks.decide(store.is_done(stage.rule, stage.id)):
        return store.read_or_set_aside(stage.rule, stage.id)
    data = store.read_or_set_aside("prepare", stage.inputs["data"])
    started_from = stage.inputs.get("start")
    start = Start(
        data,
        Layers(store, stage.inputs["layers"], data),
        None if started_from is None else store.read_or_set_aside("finetune", started_from),
    )
    position = 1 if start.model is None else int(start.model.extra["position"]) + 1
    select = Select.model_validate(stage.spec["phase"]["select"] or {"best_of": 1})
    options: Any = {"device": device, "threads": threads, "deadline": deadline, "tries": select.tries}
    with block(stage, store, ranks, cost=_cost(stage, data), **options) as work:
        train = read_any(data, "train", work.device).first(stage.spec["labelled"])
        valid = read_any(data, "valid", work.device)
        record: list[tuple[Any, ...]] = []
        chosen: dict[str, dict[str, Any]] = {}
        for seeds in work.groups:
            job = partial(_job, work, start, train, valid, f"finetune/{position}")
            tried = [_try(work, select, job, seeds, number) for number in range(select.tries)]
            for seed, *tries in zip(seeds, *tried, strict=True):
                best = _choose(tries, select.by)
                work.add(best.job, best.outcome, sum(each.outcome.seconds for each in tries))
                record += [(seed, *t.what.values(), select.by, t.value, int(t is best)) for t in tries]
                chosen[str(seed)] = best.what
        if stage.spec["phase"]["select"]:
            columns = ("seed", *best.what, "metric", "value", "chosen")
            (work.draft.folder / "selection.csv").write_text(to_csv(columns, record), encoding="utf-8")
            work.write(position=position, chosen=chosen)
        else:
            work.write(position=position)
    return store.read(stage.rule, stage.id)


def _cost(stage: Stage, data: Artifact) -> Cost | None:
    phase = stage.spec["phase"]
    training = TrainingSpec.model_validate(phase["training"])
    model: Any = component("model", stage.spec["model"])
    task: Any = component("task", phase["task"])
    if not (model.batches_seeds and task.batches_seeds and training.batches_seeds) or phase["train"] == "none":
        return None
    forward = model.multiplications(features(data), len(data.extra["classes"]))
    return Cost(3 * forward * training.batch_size, 0)


def _try(work: Block, select: Select, job: Callable[..., Job], seeds: Sequence[int], number: int) -> list[Try]:
    """Trains one restart, or one setting of the grid, of each seed."""
    declared = work.stage.spec["phase"]["training"]
    what: dict[str, Any]
    if select.grid is None:
        what, which = {"restart": number}, {"restart": number}
    else:
        what, which = select.settings[number], {"setting": number}
        declared = with_settings(declared, what)
    jobs = [job(seed, **which) for seed in seeds]
    outcomes = _outcomes(work, jobs, declared)
    values = [
        _value(each, outcome, select.by) if work.stage.spec["phase"]["select"] else 0.0
        for each, outcome in zip(jobs, outcomes, strict=True)
    ]
    return [Try(each, outcome, what, value) for each, outcome, value in zip(jobs, outcomes, values, strict=True)]


def _job(
    work: Block,
    start: Start,
    train: Split | SequenceSplit,
    valid: Split | SequenceSplit,
    phase: str,
    seed: int,
    *,
    restart: int = 0,
    setting: int = 0,
) -> Job:
    """The model with its initial parameters, and its task on the labelled and the validation examples."""
    task: Any = declared_task(work.stage.spec["phase"]["task"])
    if hasattr(task, "see"):
        task.see(train.inputs)
    model = _initial_model(work, start, task, seed, stream(seed, f"{phase}/initialise", restart))

    def validate() -> dict[str, float]:
        return dict(task.validate(model, *valid.whole)) if len(valid) else {}

    changing = {"at": task.at} if hasattr(task, "at") else {}
    batches = _batches(train, task)
    carried: list[Tensor] = []
    carrying = {"carried": carried} if isinstance(batches, Stream) else {}

    def step_of(model: Any) -> Step:
        return from_cleared(model, partial(task.step, model, **carrying))

    return Job(
        model,
        step_of(model),
        validate,
        batches,
        stage=work.stage.id,
        phase=phase,
        seed=seed,
        restart=restart,
        setting=setting,
        carried=carried,
        step_of=step_of,
        **changing,
    )


def _initial_model(work: Block, start: Start, task: Any, seed: int, generator: Generator) -> Any:
    """Drawn, then overwritten by what was pretrained or trained before; what the phase leaves alone has no gradient."""
    spec: Any = component("model", work.stage.spec["model"])
    model: Any = build_model(work.stage.spec["model"], task, start.data)
    model.initialise(generator)
    if start.model is not None:
        _load_what_fits(model, start.model, seed)
    if start.layers.artifacts:
        _unroll(model, start.layers.stack(seed, work.device))
    model.to(work.device).train()
    if work.stage.spec["phase"]["train"] == "top":
        _train_only(model, "top", "train: top", "its output layer")
    elif spec.generative and not isinstance(task, Generative):
        _train_only(model, "discriminative", "this task", "what its outputs depend on")
    return model


def _batches(train: Split | SequenceSplit, task: Any) -> Batches:
    """A task with windows to unroll reads a stream."""
    if isinstance(train, Split):
        return Shuffled(train.whole)
    return Stream(train.inputs, task.unroll) if hasattr(task, "unroll") else Bucketed(train)


def _outcomes(work: Block, jobs: Sequence[Job], training: Mapping[str, Any]) -> list[Outcome]:
    """The jobs trained; where nothing is to be trained, the validation of what is there."""
    if work.stage.spec["phase"]["train"] == "none":
        validations = [{f"valid_{name}": value for name, value in job.validate().items()} for job in jobs]
        return [Outcome([(0, 0.0, metrics)], 0, 0.0) for metrics in validations]
    return work.train(jobs, TrainingSpec.model_validate(training))


def _unroll(model: Any, stack: Stack) -> None:
    model.unroll(stack.encoders())
    if hasattr(model, "unroll_back"):  # what has a decoder
        model.unroll_back(stack.decoders())
    if hasattr(model, "unroll_labels") and hasattr(stack.layers[-1], "labels"):  # what sees labels on top
        model.unroll_labels(*stack.layers[-1].labels())


def _train_only(model: Any, method: str, who: str, what: str) -> None:
    """Leaves the gradient to the parameters that `model.method()` gives. Raises TrainingError where there is none."""
    if not callable(getattr(model, method, None)):
        raise TrainingError(f"{who} asks {type(model).__name__} for {what}, and it has no method {method}()")
    chosen = getattr(model, method)()
    model.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)


def _load_what_fits(model: Any, start: Artifact, seed: int) -> None:
    """Takes every tensor of equal name and shape. Says which did not fit; raises TrainingError when none does."""
    own, given = model.state_dict(), read_weights(start, seed)
    fitting = {name: given[name] for name in own if name in given and given[name].shape == own[name].shape}
    if not fitting:
        raise TrainingError(
            f"no tensor of {start.stage.id} has the name and shape of one of this model's: {', '.join(own)}"
        )
    model.load_state_dict({**own, **fitting})
    missing = [name for name in own if name not in fitting]
    if missing:
        say(f"seed {seed}: initialised anew, as {start.stage.id} has none that fits: {', '.join(missing)}")


def _value(job: Job, outcome: Outcome, by: str) -> float:
    """The metric of the validation that the kept parameters belong to; the worst one where training diverged."""
    _, _, metrics = outcome.validations[outcome.kept]
    if outcome.diverged:
        return math.inf if lower_is_better(by) else -math.inf
    if by not in metrics:
        raise TrainingError(f"{job}: select.by is {by!r}; the validations have {', '.join(metrics)}")
    return metrics[by]


def _choose(tries: list[Try], by: str) -> Try:
    """The best by the metric; of equals the first."""
    sign = 1.0 if lower_is_better(by) else -1.0
    return min(tries, key=lambda each: sign * each.value)
