"""What is asked of a model: loss, metrics, and what the figures need."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from dlpipe.spec.base import Component, PositiveFloat, PositiveInt, Probability
from dlpipe.spec.datasets import DatasetSpec


class TaskSpec(Component):
    family: ClassVar[str] = "task"
    batches_seeds: ClassVar[bool] = False
    """Whether a step serves several seeds at once, whose tensors then have the seeds for a first dimension."""

    @property
    def slug(self) -> str:
        return self.kind  # type: ignore[attr-defined]

    def unfit(self, dataset: DatasetSpec) -> str | None:
        """Why this cannot be asked on such data; None if it can."""
        return None


class Classification(TaskSpec):
    """Cross-entropy, averaged over examples; errors in per cent."""

    implementation: ClassVar[str] = "dlpipe.tasks.classification:Classification"
    batches_seeds: ClassVar[bool] = True
    kind: Literal["classification"] = "classification"

    def unfit(self, dataset: DatasetSpec) -> str | None:
        return (
            f"{dataset.kind} has real numbers for targets, no classes: its task is regression"
            if dataset.real_targets
            else None
        )


class Regression(TaskSpec):
    """Half the squared error of one real number, averaged over examples."""

    implementation: ClassVar[str] = "dlpipe.tasks.regression:Regression"
    batches_seeds: ClassVar[bool] = True
    kind: Literal["regression"] = "regression"

    def unfit(self, dataset: DatasetSpec) -> str | None:
        return (
            None if dataset.real_targets else f"regression needs real numbers for targets; {dataset.kind} has classes"
        )


class Reconstruction(TaskSpec):
    """The model gives its input back: loss and squared error are summed over the features, averaged over examples."""

    implementation: ClassVar[str] = "dlpipe.tasks.reconstruction:Reconstruction"
    kind: Literal["reconstruction"] = "reconstruction"
    loss: Literal["cross_entropy", "squared"] = Field(
        "cross_entropy", description="cross_entropy: sigmoid output, for inputs in [0, 1]; squared: linear output"
    )


class Generative(TaskSpec):
    """The model's own objective as a model of its inputs, such as their likelihood; its metrics are the model's own."""

    implementation: ClassVar[str] = "dlpipe.tasks.generative:Generative"
    kind: Literal["generative"] = "generative"


class DensityTask(TaskSpec):
    """A way of estimating a density that is known up to its integral, for a model of kind energy."""


class ExactLikelihood(DensityTask):
    """Maximum likelihood with log Z as a sum over a grid: on the line and in the plane."""

    implementation: ClassVar[str] = "dlpipe.tasks.likelihood:ExactLikelihood"
    kind: Literal["exact_likelihood"] = "exact_likelihood"
    points: PositiveInt = Field(
        100, description="of the grid along each axis; twice as wide as the training examples' range"
    )


class Langevin(DensityTask):
    """Maximum likelihood by the model's samples, Markov chains that persist (Du and Mordatch 2019)."""

    implementation: ClassVar[str] = "dlpipe.tasks.likelihood:Langevin"
    kind: Literal["langevin"] = "langevin"
    steps: PositiveInt = Field(10, description="steps of Langevin dynamics an update")
    step_size: PositiveFloat = Field(
        0.1, description="standard deviation of a step's noise, in the inputs' unit; its drift is half its square"
    )
    adjusted: bool = Field(
        True, description="accept or reject each step (Metropolis), so that the chains have the model's distribution"
    )
    restart: Probability = Field(0.0, description="share of the chains that begin anew at each update")


class ScoreMatching(DensityTask):
    """The slope of the log-density, fitted to the data's by second derivatives (Hyvarinen 2005): for few features."""

    implementation: ClassVar[str] = "dlpipe.tasks.score_matching:ScoreMatching"
    kind: Literal["score_matching"] = "score_matching"


class DenoisingScoreMatching(DensityTask):
    """The slope of the log-density, fitted to that of the data with noise (Vincent 2011)."""

    implementation: ClassVar[str] = "dlpipe.tasks.score_matching:DenoisingScoreMatching"
    kind: Literal["denoising_score_matching"] = "denoising_score_matching"
    sigma: PositiveFloat = Field(0.1, description="standard deviation of the noise, in the inputs' unit")


class NoiseContrastive(DensityTask):
    """Data told from Gaussian noise, by which log Z is learned too (Gutmann and Hyvarinen 2010)."""

    implementation: ClassVar[str] = "dlpipe.tasks.noise_contrastive:NoiseContrastive"
    kind: Literal["noise_contrastive"] = "noise_contrastive"
    noise: PositiveInt = Field(10, description="samples of the noise for each example")
