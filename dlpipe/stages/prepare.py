"""Prepare: raw files to examples that are split, scaled and stored once, as safetensors.

`data.safetensors` holds `train.inputs`, `train.targets`, `valid.inputs`, … : inputs [N, *shape] uint8, to be divided by
the manifest's `scale`, or float32; targets [N] int64 for classes, float32 for real numbers. A split of no examples has
length 0. How examples are chosen is told in `dlpipe.datasets.splits`; the training examples are stored in that order,
so the first n are nearly balanced.

Sequences lie one behind another: inputs [steps, *shape of a step], int32 for tokens, and `train.lengths`, … [N] int64.
A corpus is one sequence. Targets are one a step, -1 where nothing is asked, or one a sequence; there are none where the
next step is what is asked for. What the tokens stand for is in `vocabulary.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from dlpipe.artifacts import Artifact, Stage, Store
from dlpipe.datasets import binarisation
from dlpipe.datasets.examples import Examples
from dlpipe.datasets.sequences import SequenceExamples
from dlpipe.datasets.sources import DataError, Dataset, dataset_spec
from dlpipe.datasets.splits import choose_test, split
from dlpipe.datasets.variations import vary
from dlpipe.datasets.vocabulary import VOCABULARY
from dlpipe.files import canonical_json
from dlpipe.spec.datasets import ExampleSet

DATA = "data.safetensors"
CHUNK = 4096
"""Examples that are converted to float64 at a time, which bounds the memory."""


def run(stage: Stage, store: Store) -> Artifact:
    """Makes the prepared data of `stage`. Raises DataError when the raw files or the sizes asked for do not serve."""
    if store.is_done(stage.rule, stage.id):
        return store.read_or_set_aside(stage.rule, stage.id)
    spec = dataset_spec(stage.hints["dataset"])
    raw = store.read_or_set_aside("fetch", stage.inputs["raw"])
    dataset: type[Dataset] = spec.load()
    with store.make(stage) as draft:
        examples = dataset.parse(raw.folder, spec)
        if isinstance(examples, SequenceExamples):
            parts, facts = of_sequences(examples)
            if examples.vocabulary is not None:
                (draft.folder / VOCABULARY).write_text(canonical_json(examples.vocabulary), encoding="utf-8")
        else:
            assert isinstance(spec, ExampleSet)
            parts, facts = of_examples(examples, spec, dataset.default_test)
        with draft.tensors(DATA) as path:
            # safetensors writes an array as it lies in memory: columns one behind another would come back as rows.
            save_file({name: np.ascontiguousarray(part) for name, part in parts.items()}, path)
        path.chmod(0o644)  # safetensors leaves it to its owner alone; colleagues share prepared data
        draft.extra.update(facts, terms=dataset.terms)
    return store.read(stage.rule, stage.id)


def of_sequences(examples: SequenceExamples) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors that are stored of sequences, and the facts about them."""
    parts = {}
    for name, part in examples.parts().items():
        arrays = {"inputs": part.inputs, "lengths": part.lengths, "targets": part.targets}
        parts.update({f"{name}.{key}": array for key, array in arrays.items() if array is not None})
    return parts, {
        "input_shape": list(examples.train.inputs.shape[1:]),
        "classes": list(examples.classes),
        "scale": examples.scale,
        "sizes": {name: len(part) for name, part in examples.parts().items()},
        "steps": {name: part.steps for name, part in examples.parts().items()},
        "tokens": None if examples.vocabulary is None else len(examples.vocabulary),
    }


def of_examples(
    examples: Examples, spec: ExampleSet, default_test: int | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Examples that are varied, split and scaled, and the facts about them."""
    if spec.variation:
        examples = vary(examples, spec.variation, spec.split_seed)
    if spec.scaling == "binary":
        examples = binarisation.threshold(examples)
    elif spec.scaling == "sampled":
        examples = binarisation.sample(examples, spec.split_seed)
    parts = split_examples(examples, spec, default_test)
    scale = examples.scale
    if spec.scaling == "standard":
        parts, scale = standardise(parts, scale), 1.0
    return parts, {
        "input_shape": list(examples.inputs.shape[1:]),
        "classes": list(examples.classes),
        "scale": scale,
        "sizes": {name: len(parts[f"{name}.targets"]) for name in ("train", "valid", "test")},
    }


def split_examples(examples: Examples, spec: ExampleSet, default_test: int | None = None) -> dict[str, np.ndarray]:
    """The splits by key, in the source's values. Raises DataError when the source has fewer examples than asked for.

    A source without a test part gives up `spec.test` (or `default_test`) of its training part.
    """
    if spec.pooled:
        examples = pool(examples)
    valid_size = spec.valid or 0
    inputs, targets = examples.inputs, examples.targets
    if examples.test_inputs is not None and examples.test_targets is not None:
        train, valid, _ = split(_labels(targets), spec.split_seed, train=spec.train, valid=valid_size)
        chosen = choose_test(_labels(examples.test_targets), spec.split_seed, spec.test)
        test_inputs, test_targets = examples.test_inputs[chosen], examples.test_targets[chosen]
    else:
        size = spec.test if spec.test is not None else default_test
        if size is None:
            raise DataError("the data set has no test part; say how many examples to hold out, as `test: 1000`")
        train, valid, test = split(_labels(targets), spec.split_seed, train=spec.train, valid=valid_size, test=size)
        test_inputs, test_targets = inputs[test], targets[test]
    return {
        "train.inputs": inputs[train],
        "train.targets": targets[train],
        "valid.inputs": inputs[valid],
        "valid.targets": targets[valid],
        "test.inputs": test_inputs,
        "test.targets": test_targets,
    }


def pool(examples: Examples) -> Examples:
    """The test part put behind the training part. Raises DataError when there is none."""
    if examples.test_inputs is None or examples.test_targets is None:
        raise DataError("pooled: this data set has no test part of its own; leave it out")
    inputs = np.concatenate((examples.inputs, examples.test_inputs))
    targets = np.concatenate((examples.targets, examples.test_targets))
    return Examples(inputs, targets, examples.classes, examples.scale)


def _labels(targets: np.ndarray) -> np.ndarray:
    """What the splits are balanced by: the classes, of which real-valued targets have but one."""
    return targets if targets.dtype.kind == "i" else np.zeros(len(targets), np.int64)


def standardise(parts: dict[str, np.ndarray], scale: float) -> dict[str, np.ndarray]:
    """Every feature less its mean, over its standard deviation (1 where it is constant), both of the training examples.

    The deviation is the population's (divided by N). Sums are float64; the result is float32.
    """
    train = parts["train.inputs"]
    mean = np.zeros(train.shape[1:])
    for chunk in _chunks(train, scale):
        mean += chunk.sum(axis=0) / len(train)
    variance = np.zeros_like(mean)
    for chunk in _chunks(train, scale):
        variance += ((chunk - mean) ** 2).sum(axis=0) / len(train)
    constant = train.max(axis=0) == train.min(axis=0)  # exact, where a rounded variance is not
    deviation = np.where(constant, 1.0, np.sqrt(variance))
    scaled = dict(parts)
    for name in ("train.inputs", "valid.inputs", "test.inputs"):
        chunks = [((chunk - mean) / deviation).astype(np.float32) for chunk in _chunks(parts[name], scale)]
        scaled[name] = np.concatenate(chunks) if chunks else np.zeros(parts[name].shape, np.float32)
    return scaled


def _chunks(inputs: np.ndarray, scale: float) -> Iterator[np.ndarray]:
    for start in range(0, len(inputs), CHUNK):
        yield inputs[start : start + CHUNK].astype(np.float64) / scale
