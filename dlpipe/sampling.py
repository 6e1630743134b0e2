"""Samples of what was trained: of an RBM, of a stack of them, or of a whole generative model."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlpipe.artifacts import Stage, Store
from dlpipe.errors import StepError
from dlpipe.files import write_atomically
from dlpipe.plan import Plan
from dlpipe.spec.models import ModelSpec

if TYPE_CHECKING:
    import numpy as np


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
        raise SamplingError(f"{experiment.name} has no variant at {_words(where)}")
    found: dict[str, tuple[Stage, Mapping[str, str]]] = {}
    for variant in variants:
        chains = [chain for chain in variant.chains if seed in plan.stages[chain[-1]].seeds]
        if not chains:
            raise SamplingError(f"{experiment.name} trains seeds {_seeds(experiment.loaded.seeds)}, not {seed}")
        stage = _sampled([plan.stages[stage] for stage in chains[0]])
        if stage is not None:
            found.setdefault(stage.id, (stage, variant.levels))
    if not found:
        raise SamplingError(f"{experiment.name} trains nothing there that can be sampled: no RBM, no generative model")
    if len(found) > 1:
        choices = "\n".join(f"  {_options(levels)}" for _, levels in found.values())
        raise SamplingError(f"{experiment.name} has several models to sample; choose one:\n{choices}")
    return next(iter(found.values()))[0]


def _sampled(chain: list[Stage]) -> Stage | None:
    from dlpipe.spec.base import FAMILIES

    last = next(stage for stage in reversed(chain) if stage.rule == "finetune")
    model = FAMILIES["model"][last.spec["model"]["kind"]]
    assert issubclass(model, ModelSpec)
    if model.generative:
        return last
    layers = [stage for stage in chain if stage.rule == "pretrain"]
    return layers[-1] if layers and _samples(layers[-1]) else None


def _samples(layer: Stage) -> bool:
    from dlpipe.spec.base import FAMILIES

    return bool(getattr(FAMILIES["layer"][layer.spec["layer"]["kind"]], "samples", False))


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
    threads: int = 1,
) -> np.ndarray:
    """Means of the inputs after Gibbs sampling, [count, *shape]; `noise` is the seed of the chains' randomness.

    A layer above others is sampled, and what it gives goes down through them, mean by mean. Raises ArtifactError where
    the stage is not made yet, and SamplingError.
    """
    from dlpipe.runtime import devices
    from dlpipe.runtime.data import Layers, Stack, build_model, declared_task, load_weights
    from dlpipe.runtime.streams import stream

    artifact = store.read(stage.rule, stage.id)
    data = store.read("prepare", stage.inputs["data"])
    chosen = devices.prepare(device, threads)
    random = stream(noise, "sample", device=chosen)
    if stage.rule == "pretrain":
        stack = Layers(store, [*stage.inputs["below"], stage.id], data).stack(seed, chosen)
        top = _from(stack.layers[-1], count, gibbs_steps, random, _number(label, data.extra["classes"]))
        samples = Stack(stack.layers[:-1]).decode(top)
    elif stage.rule == "finetune":
        model: Any = build_model(stage.spec["model"], declared_task(stage.spec["phase"]["task"]), data)
        load_weights(model, artifact, seed)
        model.to(chosen).eval()
        samples = _from(model, count, gibbs_steps, random, _number(label, data.extra["classes"]))
    else:
        raise SamplingError(f"{stage.id} is a stage of `dlpipe {stage.rule}`, which trains nothing")
    return samples.cpu().numpy().reshape(count, *data.extra["input_shape"])


def _from(subject: Any, count: int, gibbs_steps: int, random: Any, label: int | None) -> Any:
    if not hasattr(subject, "sample"):
        raise SamplingError(f"{type(subject).__name__} is no model of its inputs: there is nothing to sample")
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


def write(samples: np.ndarray, path: Path) -> None:
    """A picture (.png), or the numbers as they are (.npz, in the array `samples`), complete or absent.

    Raises SamplingError for another ending.
    """
    import numpy as np

    file = io.BytesIO()
    if path.suffix == ".npz":
        np.savez_compressed(file, samples=samples)
    elif path.suffix == ".png":
        from matplotlib.image import imsave

        from dlpipe.figures.images import MAGNIFIED, mosaic, unsigned

        sheet = mosaic(unsigned(samples))
        imsave(file, np.repeat(np.repeat(sheet, MAGNIFIED, axis=0), MAGNIFIED, axis=1), format="png")
    else:
        raise SamplingError(f"{path}: samples are written as .png or .npz")
    write_atomically(path, file.getvalue())


def _words(where: Mapping[str, str]) -> str:
    return ", ".join(f"{axis}={level}" for axis, level in where.items()) or "no level at all"


def _options(levels: Mapping[str, str]) -> str:
    return " ".join(f"--where {axis}={level}" for axis, level in levels.items())


def _seeds(seeds: Any) -> str:
    return ", ".join(map(str, seeds)) if len(seeds) < 6 else f"{seeds[0]} to {seeds[-1]}"
