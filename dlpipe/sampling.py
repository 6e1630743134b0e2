"""Samples of what was trained: an RBM, a stack of them, a whole generative model, or one that writes text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlpipe.artifacts import Artifact, Stage, Store
from dlpipe.errors import StepError
from dlpipe.files import write_atomically
from dlpipe.plan import Plan
from dlpipe.report.units import seeds_text
from dlpipe.spec.base import FAMILIES

if TYPE_CHECKING:
    import numpy as np
    import torch


class SamplingError(StepError):
    """What was asked for cannot be sampled; the message says why, and what can."""


def stage_to_sample(plan: Plan, where: Mapping[str, str], seed: int) -> Stage:
    """What the one variant at the levels `where` has to sample: its generative model, or its topmost layer.

    Raises SamplingError where several variants differ in it, where it has none, and for a seed that it does not train.
    """
    experiment = plan.experiments[0]
    variants = [
        variant
        for variant in experiment.variants
        if all(variant.levels.get(axis) == level for axis, level in where.items())
    ]
    if not variants:
        asked = ", ".join(f"{axis}={level}" for axis, level in where.items())
        raise SamplingError(f"{experiment.name} has no variant at {asked}; {_axes(experiment.loaded.axes)}")
    found: dict[str, tuple[Stage, Mapping[str, str]]] = {}
    for variant in variants:
        chains = [chain for chain in variant.chains if seed in plan.stages[chain[-1]].seeds]
        if not chains:
            raise SamplingError(f"{experiment.name} trains {seeds_text(list(experiment.loaded.seeds))}, not {seed}")
        stage = _sampled([plan.stages[stage] for stage in chains[0]])
        if stage is not None:
            found.setdefault(stage.id, (stage, variant.levels))
    if not found:
        raise SamplingError(
            f"{experiment.name} trains nothing there that can be sampled: no RBM, no generative model, none that writes"
        )
    if len(found) > 1:
        choices = "\n".join(f"  {_options(levels)}" for _, levels in found.values())
        raise SamplingError(f"{experiment.name} has several models to sample; choose one:\n{choices}")
    return next(iter(found.values()))[0]


def _axes(axes: Mapping[str, Sequence[str]]) -> str:
    """What there is to choose from."""
    if not axes:
        return "it has no axes: leave out --where"
    lines = [f"  {axis}: {', '.join(levels)}" for axis, levels in axes.items()]
    return "\n".join(("its axes and their levels are:", *lines))


def _sampled(chain: list[Stage]) -> Stage | None:
    """The last phase, or else the topmost layer, whichever can be sampled."""
    phases, layers = ([stage for stage in chain if stage.rule == rule] for rule in ("finetune", "pretrain"))
    return next((stage for stage in (*phases[-1:], *layers[-1:]) if _has_samples(stage)), None)


def _has_samples(stage: Stage) -> bool:
    """Whether what the stage trains is of a kind that is a model of its inputs, or writes."""
    family, says_so = ("layer", "samples") if stage.rule == "pretrain" else ("model", "generative")
    return writes(stage) or bool(getattr(FAMILIES[family].get(stage.spec[family]["kind"]), says_so, False))


def writes(stage: Stage) -> bool:
    """Whether the samples of what the stage trains are text: sequences of tokens, one after another."""
    if stage.rule != "finetune":
        return False
    return bool(getattr(FAMILIES["task"].get(stage.spec["phase"]["task"]["kind"]), "writes", False))


def draw(
    stage: Stage,
    store: Store,
    *,
    seed: int,
    count: int,
    gibbs_steps: int,
    label: str | None,
    noise: int,
    device: str,
) -> np.ndarray:
    """Inputs after Gibbs sampling, [count, *shape]: means, or samples where the units that are asked are Gaussian.

    `noise` is the seed of the chains' randomness. A layer above others is sampled, and what it gives goes down through
    them, mean by mean. Raises ArtifactError where the stage is not made yet, and SamplingError.
    """
    from dlpipe.runtime import devices
    from dlpipe.runtime.data import Layers, Stack
    from dlpipe.runtime.streams import stream

    if stage.rule not in ("pretrain", "finetune"):
        raise SamplingError(f"{stage.id} is a stage of `dlpipe {stage.rule}`, which trains nothing")
    if not _has_samples(stage):
        raise SamplingError(f"{stage.id} is no model of its inputs: there is nothing to sample")
    artifact = store.read_or_set_aside(stage.rule, stage.id)
    data = store.read_or_set_aside("prepare", stage.inputs["data"])
    chosen = devices.prepare(device)
    random = stream(noise, "sample", device=chosen)
    number = _number(label, data.extra["classes"])
    if stage.rule == "pretrain":
        stack = Layers(store, [*stage.inputs["below"], stage.id], data).stack(seed, chosen)
        top = _from(stack.layers[-1], count, gibbs_steps, random, number)
        samples = Stack(stack.layers[:-1]).decode(top)
    else:
        samples = _from(_model(artifact, data, seed, chosen), count, gibbs_steps, random, number)
    return samples.cpu().numpy().reshape(count, *data.extra["input_shape"])


def text(
    stage: Stage,
    store: Store,
    *,
    seed: int,
    prompt: str | None,
    length: int,
    temperature: float,
    noise: int,
    device: str,
) -> str:
    """`prompt` and `length` tokens that the model of `stage` writes after it, each drawn at `temperature`.

    Without a prompt it begins a new line. `noise` is the seed of the draws. Raises ArtifactError where the stage is not
    made yet, and SamplingError for a prompt with what the model has not learnt.
    """
    import torch

    from dlpipe.datasets.vocabulary import read_vocabulary
    from dlpipe.runtime import devices
    from dlpipe.runtime.streams import stream
    from dlpipe.tasks.feeding import continued

    artifact = store.read_or_set_aside(stage.rule, stage.id)
    data = store.read_or_set_aside("prepare", stage.inputs["data"])
    vocabulary = read_vocabulary(data)
    try:
        start = vocabulary.tokens("\n" if prompt is None else prompt)
    except ValueError as error:
        advice = "say what the text begins with: --prompt" if prompt is None else "choose another --prompt"
        raise SamplingError(f"{error}; {advice}") from error
    if not start:
        raise SamplingError("--prompt is empty: give at least a token, or leave it out for a new line")
    chosen = devices.prepare(device)
    tokens = torch.tensor([start], device=chosen)
    random = stream(noise, "sample", device=chosen)
    written = continued(_model(artifact, data, seed, chosen), tokens, length, temperature, random)[0].tolist()
    return vocabulary.text(written if prompt is None else start + written)


def _model(artifact: Artifact, data: Artifact, seed: int, device: torch.device) -> Any:
    """What a phase of fine-tuning left, to be asked."""
    from dlpipe.runtime.data import build_model, declared_task, load_weights

    spec = artifact.stage.spec
    model = build_model(spec["model"], declared_task(spec["phase"]["task"]), data)
    load_weights(model, artifact, seed)
    return model.to(device).eval()


def _from(subject: Any, count: int, gibbs_steps: int, random: Any, label: int | None) -> Any:
    if label is None:
        return subject.sample(count, gibbs_steps, random)
    if not getattr(subject, "classes", None):
        raise SamplingError(f"{type(subject).__name__} was trained without labels: leave out --label")
    return subject.sample(count, gibbs_steps, random, label=label)


def _number(label: str | None, classes: list[str]) -> int | None:
    if label is None:
        return None
    if label not in classes:
        raise SamplingError(f"there is no class {label!r}; there are {', '.join(classes)}")
    return classes.index(label)


def are_pictures(samples: np.ndarray) -> bool:
    """Whether samples [count, *shape] have rows of pixels, and are no mere vectors such as points of the plane."""
    return samples.ndim > 2


def write(samples: np.ndarray, path: Path) -> None:
    """A picture (.png), or the numbers as they are (.npz, in the array `samples`), complete or absent.

    Raises SamplingError for another ending, and for a picture of what are none.
    """
    import numpy as np

    file = io.BytesIO()
    if path.suffix == ".npz":
        np.savez_compressed(file, samples=samples)
    elif path.suffix == ".png" and not are_pictures(samples):
        raise SamplingError(f"{path}: vectors of {samples.shape[1]} numbers are no pictures; write them as .npz")
    elif path.suffix == ".png":
        from matplotlib.image import imsave

        from dlpipe.figures.images import MAGNIFIED, mosaic, unsigned

        sheet = mosaic(unsigned(samples))
        imsave(file, np.repeat(np.repeat(sheet, MAGNIFIED, axis=0), MAGNIFIED, axis=1), format="png")
    else:
        raise SamplingError(f"{path}: samples are written as .png or .npz")
    write_atomically(path, file.getvalue())


def write_text(text: str, path: Path) -> None:
    """The text and an end of line, complete or absent. Raises SamplingError for another ending than .txt."""
    if path.suffix != ".txt":
        raise SamplingError(f"{path}: text is written as .txt")
    write_atomically(path, f"{text}\n")


def _options(levels: Mapping[str, str]) -> str:
    return " ".join(f"--where {axis}={level}" for axis, level in levels.items())
