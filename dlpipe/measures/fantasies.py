"""Fantasies: what a trained RBM or a whole generative model takes for data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dlpipe.tasks.base import Measured


class Fantasies:
    """The arguments are the fields of its spec."""

    def __init__(self, *, count: int, gibbs_steps: int) -> None:
        self.count, self.gibbs_steps = count, gibbs_steps

    def __call__(self, subject: Any, inputs: Mapping[str, Tensor], generator: torch.Generator) -> Measured:
        """The picture `fantasies`: `count` of them, of each class where the model knows classes.

        Asked of the subject: `sample(count, gibbs_steps, generator)`, [count, visible], means where its visible units
        are binary, and where it has an attribute `classes`, their number, `label=` of it besides.
        """
        classes = getattr(subject, "classes", None)
        labels: list[dict[str, int]] = [{}] if not classes else [{"label": label} for label in range(classes)]
        drawn = [subject.sample(self.count, self.gibbs_steps, generator, **label) for label in labels]
        return Measured({}, pictures={"fantasies": torch.cat(drawn)})
