"""What is asked of a model: loss, metrics, and what the figures need."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from dlpipe.spec.base import Component, PositiveFloat, PositiveInt, Probability
from dlpipe.spec.datasets import DatasetSpec
from dlpipe.spec.feeding import Feed, TeacherForcing
from dlpipe.spec.recorded import Recorded
from dlpipe.spec.sequences import Corpus, GeneratedSequences, Sequential

MOST_DIMENSIONS = 2
"""Over which a density is integrated, as in `dlpipe.tasks.quadrature`."""
TYPICAL_SEQUENCES = 500
"""Of a collection that does not say how many it has."""


class TaskSpec(Component):
    family: ClassVar[str] = "task"
    batches_seeds: ClassVar[bool] = False
    """Whether a step serves several seeds at once, whose tensors then have the seeds for a first dimension."""
    sequential: ClassVar[bool] = False
    """Whether it is asked of sequences."""
    writes: ClassVar[bool] = False
    """Whether a model that is trained for it can write on, token by token, as `dlpipe sample` asks it to."""

    records: ClassVar[Recorded | None] = None
    """What its step and its `validate` give; None: a kind that does not say, whose metrics are not checked."""

    @property
    def slug(self) -> str:
        return self.kind  # type: ignore[attr-defined]

    def recorded(self, dataset: DatasetSpec) -> Recorded | None:
        """The same on such data."""
        return self.records

    def unfit(self, dataset: DatasetSpec) -> str | None:
        """Why this cannot be asked on such data; None if it can."""
        if isinstance(dataset, Sequential) and not self.sequential:
            return f"{dataset.kind} has sequences: its task is {_fitting(dataset)}, not {self.slug}"
        if self.sequential and not dataset.sequential:
            return f"{self.slug} is asked of sequences, and an example of {dataset.kind} is none"
        return None


class Classification(TaskSpec):
    """Cross-entropy, averaged over examples; errors in per cent."""

    implementation: ClassVar[str] = "dlpipe.tasks.classification:Classification"
    records: ClassVar[Recorded | None] = Recorded(("loss",), ("loss", "error"))
    batches_seeds: ClassVar[bool] = True
    kind: Literal["classification"] = "classification"

    def unfit(self, dataset: DatasetSpec) -> str | None:
        return super().unfit(dataset) or (
            f"{dataset.kind} has real numbers for targets, no classes: its task is regression"
            if dataset.real_targets
            else None
        )


class Regression(TaskSpec):
    """Half the squared error of one real number, averaged over examples."""

    implementation: ClassVar[str] = "dlpipe.tasks.regression:Regression"
    records: ClassVar[Recorded | None] = Recorded(("loss",), ("loss", "rmse"))
    batches_seeds: ClassVar[bool] = True
    kind: Literal["regression"] = "regression"

    def unfit(self, dataset: DatasetSpec) -> str | None:
        return super().unfit(dataset) or (
            None if dataset.real_targets else f"regression needs real numbers for targets; {dataset.kind} has classes"
        )


class Reconstruction(TaskSpec):
    """The model gives its input back: loss and squared error are summed over the features, averaged over examples."""

    implementation: ClassVar[str] = "dlpipe.tasks.reconstruction:Reconstruction"
    records: ClassVar[Recorded | None] = Recorded(("loss",), ("loss", "reconstruction_error"))
    kind: Literal["reconstruction"] = "reconstruction"
    loss: Literal["cross_entropy", "squared"] = Field(
        "cross_entropy", description="cross_entropy: sigmoid output, for inputs in [0, 1]; squared: linear output"
    )

    def unfit(self, dataset: DatasetSpec) -> str | None:
        if unfit := super().unfit(dataset):
            return unfit
        return dataset.unfit_for("the loss cross_entropy takes", "loss to squared") if self.loss != "squared" else None


class Generative(TaskSpec):
    """The model's own objective as a model of its inputs, such as their likelihood; its metrics are the model's own."""

    implementation: ClassVar[str] = "dlpipe.tasks.generative:Generative"
    kind: Literal["generative"] = "generative"


class DensityTask(TaskSpec):
    """A way of estimating a density that is known up to its integral, for a model of kind energy."""

    of_a_step: ClassVar[tuple[str, ...]] = ("loss",)
    """What its step gives."""

    def energies(self, features: int, batch: int, chains: int) -> float:
        """How often a step of training has the energy and goes back through it, for each example of a batch of so many.

        `features` of an example; `chains`: samples that the model keeps.
        """
        return 1.0

    def recorded(self, dataset: DatasetSpec) -> Recorded:
        """The likelihood where it can be integrated for; either where only the data tell."""
        if dataset.inputs is None:
            return Recorded(self.of_a_step, ("log_likelihood", "energy"))
        return Recorded(self.of_a_step, ("log_likelihood" if dataset.inputs <= MOST_DIMENSIONS else "energy",))


class ExactLikelihood(DensityTask):
    """Maximum likelihood with log Z as a sum over a grid: on the line and in the plane."""

    implementation: ClassVar[str] = "dlpipe.tasks.likelihood:ExactLikelihood"
    kind: Literal["exact_likelihood"] = "exact_likelihood"
    points: PositiveInt = Field(
        100, description="of the grid along each axis; twice as wide as the training examples' range"
    )

    def unfit(self, dataset: DatasetSpec) -> str | None:
        if unfit := super().unfit(dataset):
            return unfit
        if dataset.inputs is None or dataset.inputs <= MOST_DIMENSIONS:
            return None
        return (
            f"exact_likelihood integrates over at most {MOST_DIMENSIONS} dimensions; an example of {dataset.kind} has "  # type: ignore[attr-defined]
            f"{dataset.inputs}: take a task such as langevin or score_matching"
        )

    def energies(self, features: int, batch: int, chains: int) -> float:
        return 1 + self.points ** min(features, MOST_DIMENSIONS) / batch


class Langevin(DensityTask):
    """Maximum likelihood by the model's samples, Markov chains that persist (Du and Mordatch 2019)."""

    implementation: ClassVar[str] = "dlpipe.tasks.likelihood:Langevin"
    of_a_step: ClassVar[tuple[str, ...]] = ("loss", "acceptance")
    kind: Literal["langevin"] = "langevin"
    steps: PositiveInt = Field(10, description="steps of Langevin dynamics an update")
    step_size: PositiveFloat = Field(
        0.1, description="standard deviation of a step's noise, in the inputs' unit; its drift is half its square"
    )
    adjusted: bool = Field(
        True, description="accept or reject each step (Metropolis), so that the chains have the model's distribution"
    )
    restart: Probability = Field(0.0, description="share of the chains that begin anew at each update")

    def energies(self, features: int, batch: int, chains: int) -> float:
        """Of the chains before the first step, after each, and once more for the gradient."""
        return 1 + (self.steps + 2) * chains / batch


class ScoreMatching(DensityTask):
    """The slope of the log-density, fitted to the data's by second derivatives (Hyvarinen 2005): for few features."""

    implementation: ClassVar[str] = "dlpipe.tasks.score_matching:ScoreMatching"
    kind: Literal["score_matching"] = "score_matching"

    def energies(self, features: int, batch: int, chains: int) -> float:
        """The score, then its derivative by each feature, all of them gone back through."""
        return 2.0 * (1 + features)


class DenoisingScoreMatching(DensityTask):
    """The slope of the log-density, fitted to that of the data with noise (Vincent 2011)."""

    implementation: ClassVar[str] = "dlpipe.tasks.score_matching:DenoisingScoreMatching"
    kind: Literal["denoising_score_matching"] = "denoising_score_matching"
    sigma: PositiveFloat = Field(0.1, description="standard deviation of the noise, in the inputs' unit")

    def energies(self, features: int, batch: int, chains: int) -> float:
        return 2.0


class NoiseContrastive(DensityTask):
    """Data told from Gaussian noise, by which log Z is learned too (Gutmann and Hyvarinen 2010)."""

    implementation: ClassVar[str] = "dlpipe.tasks.noise_contrastive:NoiseContrastive"
    kind: Literal["noise_contrastive"] = "noise_contrastive"
    noise: PositiveInt = Field(10, description="samples of the noise for each example")

    def energies(self, features: int, batch: int, chains: int) -> float:
        return 1.0 + self.noise


class SequentialTask(TaskSpec):
    """A task that is asked of sequences."""

    sequential: ClassVar[bool] = True

    def unfit(self, dataset: DatasetSpec) -> str | None:
        if isinstance(dataset, Sequential) and not self.suits(dataset):
            return f"{self.slug} is not asked of {dataset.kind}: its task is {_fitting(dataset)}"
        return super().unfit(dataset)

    @classmethod
    def suits(cls, dataset: Sequential) -> bool:
        """Whether such sequences have what is asked."""
        raise NotImplementedError

    def examples(self, dataset: Sequential) -> tuple[int, int]:
        """How many an epoch has, about, and their length in steps: by which jobs are sized."""
        sequences = dataset.train or TYPICAL_SEQUENCES
        return sequences, max(1, dataset.extent()[0] // sequences)


OverTime = Literal["sum", "mean"]


class LanguageModel(SequentialTask):
    """The next token from all before it; truncated backpropagation through time, the state carried over."""

    implementation: ClassVar[str] = "dlpipe.tasks.language_model:LanguageModel"
    records: ClassVar[Recorded | None] = Recorded(("loss",), ("loss", "perplexity", "bits_per_token"))
    kind: Literal["language_model"] = "language_model"
    writes: ClassVar[bool] = True
    unroll: PositiveInt = Field(
        20, description="steps of a window, through which the gradient goes back; a window is an example"
    )
    over_time: OverTime = Field(
        "sum",
        description="of the loss, over the steps of a window, before it is averaged over the batch; learning rates "
        "in the literature are mostly for the sum",
    )
    columns: PositiveInt = Field(
        20, description="stretches that a split is read in when evaluated, side by side; 1: exactly, and slowly"
    )

    @classmethod
    def suits(cls, dataset: Sequential) -> bool:
        return dataset.tokens and dataset.target == "next_step"

    def examples(self, dataset: Sequential) -> tuple[int, int]:
        steps = dataset.extent()[0]
        if isinstance(dataset, Corpus):
            steps = min(steps, dataset.train or steps)
        return max(1, steps // self.unroll), self.unroll


class Continuation(SequentialTask):
    """The rest of each sequence from its first tokens; errors in per cent of the tokens, given the data's tokens before
    each (`error`) and given the model's own (`free_running_error`)."""

    implementation: ClassVar[str] = "dlpipe.tasks.continuation:Continuation"
    records: ClassVar[Recorded | None] = Recorded(("loss", "epsilon"), ("loss", "error", "free_running_error"))
    kind: Literal["continuation"] = "continuation"
    writes: ClassVar[bool] = True
    prompt: PositiveInt = Field(description="tokens at the front of each sequence that are given and not asked for")
    feed: Feed = Field(
        TeacherForcing(), description="where each token behind the prompt comes from in training: the data or the model"
    )

    @classmethod
    def suits(cls, dataset: Sequential) -> bool:
        return dataset.tokens and dataset.target == "next_step" and not isinstance(dataset, Corpus)

    def unfit(self, dataset: DatasetSpec) -> str | None:
        return super().unfit(dataset) or (
            f"nothing is left to be told of {dataset.length} tokens after a prompt of {self.prompt}"
            if isinstance(dataset, GeneratedSequences) and self.prompt >= dataset.length
            else None
        )

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "feed": self.feed.probability()}


class NextFrame(SequentialTask):
    """The next frame of zeros and ones from all before it: minus its log-likelihood, summed over its features."""

    implementation: ClassVar[str] = "dlpipe.tasks.sequences:NextFrame"
    records: ClassVar[Recorded | None] = Recorded(("loss",), ("loss",))
    kind: Literal["next_frame"] = "next_frame"
    over_time: OverTime = Field(
        "sum", description="of the loss, over the frames of a sequence, before it is averaged over the batch"
    )

    @classmethod
    def suits(cls, dataset: Sequential) -> bool:
        return not dataset.tokens and dataset.target == "next_step"


class Tagging(SequentialTask):
    """A class a step, where one is asked for: cross-entropy averaged over these steps; errors in per cent of them."""

    implementation: ClassVar[str] = "dlpipe.tasks.sequences:Tagging"
    records: ClassVar[Recorded | None] = Recorded(("loss",), ("loss", "error"))
    kind: Literal["tagging"] = "tagging"

    @classmethod
    def suits(cls, dataset: Sequential) -> bool:
        return dataset.target == "each_step"


class SequenceRegression(SequentialTask):
    """One real number when the sequence has ended: half the squared error, averaged over sequences."""

    implementation: ClassVar[str] = "dlpipe.tasks.sequences:SequenceRegression"
    records: ClassVar[Recorded | None] = Recorded(("loss",), ("loss", "mse"))
    kind: Literal["sequence_regression"] = "sequence_regression"

    @classmethod
    def suits(cls, dataset: Sequential) -> bool:
        return dataset.target == "sequence" and dataset.real_targets


def _fitting(dataset: Sequential) -> str:
    """The tasks of such sequences, in words."""
    kinds = (LanguageModel, Continuation, NextFrame, Tagging, SequenceRegression)
    return " or ".join(each.model_fields["kind"].default for each in kinds if each.suits(dataset))
