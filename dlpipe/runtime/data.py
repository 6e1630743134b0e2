"""Prepared examples as tensors on the device, and the pretrained layers that they are seen through."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import dlpipe.spec.training  # noqa: F401 - registers every kind, those of other packages too
from dlpipe.artifacts import Artifact, ArtifactError, Store
from dlpipe.spec.base import FAMILIES, Component

CHUNK = 4096
"""Examples that go through a network at once where no gradient is asked for. Results do not depend on the batch size of
training, and on this number only by rounding; it is fixed so that they are the same bytes."""


@dataclass(frozen=True)
class Split:
    inputs: Tensor
    """[N, features] float32, scaled."""
    targets: Tensor
    """[N] int64: classes; or float32: real numbers."""

    def __len__(self) -> int:
        return len(self.targets)

    def first(self, n: int | None) -> Split:
        return Split(self.inputs[:n], self.targets[:n])

    @property
    def whole(self) -> tuple[Tensor, Tensor]:
        """As a task is given it."""
        return self.inputs, self.targets


@dataclass(frozen=True)
class SequenceSplit:
    """Sequences one behind another, as they are stored."""

    inputs: Tensor
    """[steps of all, features] float32, scaled; tokens [steps of all] int64."""
    lengths: Tensor
    """[N] int64, on the CPU."""
    targets: Tensor | None = None
    """One a step [steps of all], -1 where nothing is asked, or one a sequence [N], as of a Split; None where what comes
    next is to be predicted."""

    def __len__(self) -> int:
        return len(self.lengths)

    def first(self, n: int | None) -> SequenceSplit:
        lengths = self.lengths[:n]
        steps = int(lengths.sum())
        of_steps = self.targets is not None and len(self.targets) == len(self.inputs)
        targets = None if self.targets is None else self.targets[: steps if of_steps else n]
        return SequenceSplit(self.inputs[:steps], lengths, targets)

    @property
    def whole(self) -> tuple[SequenceSplit]:
        """As a task is given it."""
        return (self,)

    @property
    def starts(self) -> Tensor:
        """[N] where each begins."""
        return self.lengths.cumsum(0) - self.lengths

    def padded(self, which: Tensor) -> tuple[Tensor, ...]:
        """The sequences `which` [B], on the CPU, side by side: inputs [B, T, features], or tokens [B, T], targets if
        there are any, [B, T] or [B], and lengths [B], T the longest. Behind its end a sequence has 0, its targets -1.
        """
        lengths, device = self.lengths[which], self.inputs.device
        steps = torch.arange(int(lengths.max()))
        beyond = steps >= lengths[:, None]
        places = (self.starts[which][:, None] + steps).masked_fill_(beyond, 0).to(device)
        beyond = beyond.to(device)
        inputs = self.inputs[places]
        inputs.masked_fill_(beyond if inputs.ndim == 2 else beyond[..., None], 0)
        if self.targets is None:
            return inputs, lengths
        if len(self.targets) == len(self):
            return inputs, self.targets[which.to(device)], lengths
        return inputs, self.targets[places].masked_fill_(beyond, -1), lengths

    def chunks(self, steps: int) -> Iterator[tuple[Tensor, ...]]:
        """All sequences, padded, by length: as many at once as have `steps` steps, padding included."""
        order = self.lengths.argsort(stable=True)
        lengths = self.lengths[order].tolist()
        begin = 0
        for end in range(1, len(order) + 1):
            if end == len(order) or (end + 1 - begin) * lengths[end] > steps:
                yield self.padded(order[begin:end])
                begin = end


def read_any(data: Artifact, split: str, device: torch.device) -> Split | SequenceSplit:
    """A split of a prepared data set, whichever it is of."""
    return (read_sequences if "steps" in data.extra else read_split)(data, split, device)


def read_split(data: Artifact, split: str, device: torch.device) -> Split:
    """A split of examples, flattened, scaled once and kept on the device."""
    with data.tensors("data.safetensors") as file:
        inputs, targets = file.get_tensor(f"{split}.inputs"), file.get_tensor(f"{split}.targets")
    # A copy in float32 even where it is float32 already: the file's own memory is not aligned for vector instructions.
    scaled = inputs.flatten(1).to(device=device, dtype=torch.float32, copy=True).div_(data.extra["scale"])
    dtype = torch.float32 if targets.is_floating_point() else torch.int64
    return Split(scaled, targets.to(device=device, dtype=dtype, copy=True))


def read_sequences(data: Artifact, split: str, device: torch.device) -> SequenceSplit:
    """A split of sequences, scaled once and kept on the device."""
    with data.tensors("data.safetensors") as file:
        has_targets = f"{split}.targets" in file.keys()  # noqa: SIM118 - no mapping
        stored = file.get_tensor(f"{split}.targets") if has_targets else None
        inputs, lengths = file.get_tensor(f"{split}.inputs"), file.get_tensor(f"{split}.lengths")
    targets = None
    if stored is not None:
        dtype = torch.float32 if stored.is_floating_point() else torch.int64
        targets = stored.to(device=device, dtype=dtype, copy=True)
    if data.extra["tokens"] is not None:
        return SequenceSplit(inputs.to(device=device, dtype=torch.int64), lengths.clone(), targets)
    scaled = inputs.flatten(1).to(device=device, dtype=torch.float32, copy=True).div_(data.extra["scale"])
    return SequenceSplit(scaled, lengths.clone(), targets)


def features(data: Artifact) -> int:
    """Numbers an example, or a step of a sequence; of tokens, how many there are to choose from."""
    return int(data.extra.get("tokens") or math.prod(data.extra["input_shape"]))


def picture_shape(data: Artifact) -> tuple[int, int, int]:
    """Height, width and colours of an input. Raises ArtifactError when the examples are no pictures."""
    shape = tuple(data.extra["input_shape"])
    if len(shape) == 2:
        return (*shape, 1)
    if len(shape) != 3:
        raise ArtifactError(f"the model looks at pictures; an example of {data.stage.id} has the shape {list(shape)}")
    return shape


def component(family: str, declared: Mapping[str, Any]) -> Component:
    """The spec of a component as a stage document declares it. Raises ArtifactError for a kind that is not known."""
    try:
        return FAMILIES[family][declared["kind"]].model_validate(declared)
    except KeyError as error:
        raise ArtifactError(f"no {family} of kind {error} is known here; is a package missing?") from error


@torch.no_grad()
def in_chunks(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    return torch.cat([function(chunk) for chunk in inputs.split(CHUNK)])


class Stack:
    """Pretrained layers of one seed, bottom to top."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers: Sequence[Any] = layers

    def encode(self, inputs: Tensor) -> Tensor:
        """[N, features] -> [N, hidden of the top layer]; the inputs themselves where there is no layer."""
        for layer in self.layers:
            inputs = in_chunks(layer.encode, inputs)
        return inputs

    def decode(self, top: Tensor) -> Tensor:
        """Back down, mean by mean: [N, hidden of the top layer] -> [N, features]."""
        for layer in reversed(self.layers):
            top = in_chunks(layer.decode, top)
        return top

    def encoders(self) -> list[tuple[Tensor, Tensor]]:
        return [layer.encoder() for layer in self.layers]

    def decoders(self) -> list[tuple[Tensor, Tensor]]:
        """From the bottom up, like the encoders."""
        return [layer.decoder() for layer in self.layers]


class Layers:
    """The artifacts of pretrained layers, read and verified once, from which the stack of any seed is built."""

    def __init__(self, store: Store, ids: Sequence[str], data: Artifact) -> None:
        self.artifacts = [store.read_or_set_aside("pretrain", layer) for layer in ids]
        self.data, self.visible = data, features(data)

    @property
    def outputs(self) -> int:
        """Width of the representation on top."""
        return int(self.artifacts[-1].stage.spec["units"]) if self.artifacts else self.visible

    @property
    def decodes(self) -> bool:
        """Whether there are layers, with a way back down through all of them."""
        specs: list[Any] = [component("layer", artifact.stage.spec["layer"]) for artifact in self.artifacts]
        return bool(specs) and all(spec.decodes for spec in specs)

    def stack(self, seed: int, device: torch.device) -> Stack:
        """Raises ArtifactError when a layer was not trained with that seed."""
        layers, visible = [], self.visible
        for artifact in self.artifacts:
            spec, units = artifact.stage.spec, int(artifact.stage.spec["units"])
            layer = build_layer(spec["layer"], visible, units, self.data).to(device)
            load_weights(layer, artifact, seed)
            layers.append(layer.eval())
            visible = units
        return Stack(layers)


def build(spec: Component, **context: Any) -> nn.Module:
    """The module that a component's spec declares."""
    module: nn.Module = spec.load()(**context, **spec.arguments())
    return module


def declared_task(declared: Mapping[str, Any]) -> Any:
    spec = component("task", declared)
    return spec.load()(**spec.arguments())


def build_model(declared: Mapping[str, Any], task: Any, data: Artifact) -> nn.Module:
    """The model that is declared, with as many outputs as the task needs on that data."""
    visible = features(data)
    spec: Any = component("model", declared)
    context: dict[str, Any] = {"inputs": visible, "outputs": task.outputs(visible, len(data.extra["classes"]))}
    if spec.takes_pictures:
        context["shape"] = picture_shape(data)
    if spec.sequential:
        context["tokens"] = data.extra["tokens"] is not None
    return build(spec, **context)


def build_layer(declared: Mapping[str, Any], visible: int, hidden: int, data: Artifact) -> nn.Module:
    """The layer that is declared; one that sees labels is told how many classes there are."""
    spec: Any = component("layer", declared)
    classes = {"classes": len(data.extra["classes"])} if spec.sees_labels else {}
    return build(spec, visible=visible, hidden=hidden, **classes)


def load_weights(module: nn.Module, artifact: Artifact, seed: int) -> None:
    """Puts one seed's state into the module. Raises ArtifactError when they do not fit."""
    try:
        module.load_state_dict(read_weights(artifact, seed))
    except RuntimeError as error:
        raise ArtifactError(f"{artifact.folder}: {error}") from error


def read_weights(artifact: Artifact, seed: int) -> dict[str, Tensor]:
    """The state of one seed's module. Raises ArtifactError when the artifact has no such seed."""
    prefix = f"{seed}/"
    with artifact.tensors("weights.safetensors") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
        if not names:
            raise ArtifactError(f"{artifact.folder} has seeds {artifact.stage.seeds}, not {seed}")
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
