"""What `evaluate` measures besides the task's metrics: of a generative or recurrent model, else of the lowest
pretrained layer; and of the history of training."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from dlpipe.spec.base import Component, OneOrMany, PositiveInt, misuse
from dlpipe.spec.datasets import DatasetSpec, ExampleSet, Plane
from dlpipe.spec.layers import LayerSpec, Rbm
from dlpipe.spec.models import ModelSpec

STRETCHES = 3
"""Of the inverse temperatures: 0 to 0.5, to 0.9, to 1."""
GREY = "binary units give shades of grey no probability: set dataset.scaling to binary or sampled"


class MeasureSpec(Component):
    family: ClassVar[str] = "measure"
    of_history: ClassVar[bool] = False
    """Whether it measures the history of training, and no layer or model."""
    told_density: ClassVar[bool] = False
    """Whether it is told the density that the data are drawn from: `log_density`, points [N, features] -> [N] nats."""

    def unfit(self, subject: LayerSpec | ModelSpec, dataset: DatasetSpec) -> str | None:
        """Why this layer or model, on this data, cannot be measured so; None if it can."""
        return None

    def flops(self, parameters: int) -> float:
        """Floating-point operations of one seed, about, for a layer or model of that size: by which jobs are sized."""
        return 0.0


class Annealing(MeasureSpec):
    """A measure that needs log Z of an RBM."""

    chains: PositiveInt = Field(100, ge=2, description="number of annealed chains; without effect where it is exact")
    temperatures: OneOrMany[PositiveInt] = Field(
        (500, 4_000, 10_000),
        description="a number of temperatures, or three: from 0 to 0.5, to 0.9 and to 1, as in the 2008 paper",
    )
    reverse: bool = Field(False, description="also downwards, from Gibbs samples: the other bound (Burda et al. 2015)")
    gibbs_steps: PositiveInt = Field(1_000, description="from training examples to the samples of `reverse`")

    @model_validator(mode="after")
    def _one_or_three(self) -> Annealing:
        if len(self.counts) not in (1, STRETCHES):
            message = f"temperatures are one number or {STRETCHES}, not {len(self.counts)}"
            raise misuse(message, "temperatures")
        return self

    @property
    def counts(self) -> tuple[int, ...]:
        return self.temperatures if isinstance(self.temperatures, tuple) else (self.temperatures,)

    def flops(self, parameters: int) -> float:
        steps = sum(self.counts) * (1 + self.reverse) + self.gibbs_steps * self.reverse
        return 4.0 * parameters * self.chains * steps


class LogLikelihood(Annealing):
    """Log-likelihood of an RBM in nats an example: exact where one side has at most 20 units, otherwise by annealed
    importance sampling (Salakhutdinov and Murray 2008)."""

    implementation: ClassVar[str] = "dlpipe.measures.likelihood:LogLikelihood"
    kind: Literal["log_likelihood"] = "log_likelihood"

    def unfit(self, subject: LayerSpec | ModelSpec, dataset: DatasetSpec) -> str | None:
        if isinstance(subject, Rbm) and subject.hidden_units != "bernoulli":
            return f"log_likelihood is for binary hidden units; this layer's are {subject.hidden_units}"
        return _no_probabilities(self, subject, dataset)


class VariationalBound(Annealing):
    """Lower bound on the log-likelihood of a deep belief network or a deep Boltzmann machine, in nats an example, with
    log Z as for an RBM (Salakhutdinov and Murray 2008, Salakhutdinov and Hinton 2009)."""

    implementation: ClassVar[str] = "dlpipe.measures.bound:VariationalBound"
    kind: Literal["variational_bound"] = "variational_bound"
    samples: PositiveInt = Field(
        10, description="of what lies behind an example, for a dbn; a dbm has means instead, and draws none"
    )

    def unfit(self, subject: LayerSpec | ModelSpec, dataset: DatasetSpec) -> str | None:
        if not (isinstance(subject, ModelSpec) and subject.bounded):
            return f"variational_bound is a measure of a dbn or a dbm; what is measured here is of kind {subject.slug}"
        return GREY if _is_grey(dataset) else None


class PseudoLikelihood(MeasureSpec):
    """Pseudo-log-likelihood of an RBM with binary visible units, in nats an example (Besag 1975): of each unit given
    all others, summed. Exact for any size, but no likelihood."""

    implementation: ClassVar[str] = "dlpipe.measures.likelihood:PseudoLikelihood"
    kind: Literal["pseudo_likelihood"] = "pseudo_likelihood"
    examples: PositiveInt = Field(1_000, description="so many of each split, evenly spaced; 1,000 take a second")

    def unfit(self, subject: LayerSpec | ModelSpec, dataset: DatasetSpec) -> str | None:
        if isinstance(subject, Rbm) and subject.visible_units != "bernoulli":
            return f"pseudo_likelihood is for binary visible units; this layer's are {subject.visible_units}"
        if isinstance(subject, Rbm) and subject.hidden_units == "relu":
            return "relu units have no free energy, which pseudo_likelihood asks for: take bernoulli or gaussian ones"
        return _no_probabilities(self, subject, dataset)

    def flops(self, parameters: int) -> float:
        splits, softplus = 3, 30.0
        return splits * softplus * parameters * self.examples


class Landscape(MeasureSpec):
    """The density of an RBM with Gaussian visible units over the plane, for the figure `landscape`."""

    implementation: ClassVar[str] = "dlpipe.measures.plane:Landscape"
    kind: Literal["landscape"] = "landscape"

    def unfit(self, subject: LayerSpec | ModelSpec, dataset: DatasetSpec) -> str | None:
        return _no_density_in_the_plane(self, subject, dataset)


class KlDivergence(MeasureSpec):
    """Kullback-Leibler divergence, in nats, of an RBM with Gaussian visible units from the density that points in the
    plane are drawn from: how far the RBM's log-likelihood is below the true density's."""

    implementation: ClassVar[str] = "dlpipe.measures.plane:KlDivergence"
    told_density: ClassVar[bool] = True
    kind: Literal["kl_divergence"] = "kl_divergence"

    def unfit(self, subject: LayerSpec | ModelSpec, dataset: DatasetSpec) -> str | None:
        unfit = _no_density_in_the_plane(self, subject, dataset)
        if unfit is None and isinstance(dataset, Plane) and not dataset.density_is_known:
            drawn = f"shape {dataset.shape} with scaling {dataset.scaling}"
            unfit = f"kl_divergence asks for points whose density has a closed form, which {drawn} has not"
        return unfit


class Fantasies(MeasureSpec):
    """What the model takes for data, for the figure `fantasies`: means of the visible units after Gibbs sampling,
    samples of Gaussian ones."""

    implementation: ClassVar[str] = "dlpipe.measures.fantasies:Fantasies"
    kind: Literal["fantasies"] = "fantasies"
    count: PositiveInt = Field(20, description="pictures; so many of each class where the model knows classes")
    gibbs_steps: PositiveInt = Field(1_000, description="from where the chains begin")

    def unfit(self, subject: LayerSpec | ModelSpec, dataset: DatasetSpec) -> str | None:
        if subject.generative if isinstance(subject, ModelSpec) else subject.samples:
            return None
        return f"fantasies are drawn from a model of the data; what is measured here is of kind {subject.slug}"

    def flops(self, parameters: int) -> float:
        return 4.0 * parameters * self.count * self.gibbs_steps


class GradientByDistance(MeasureSpec):
    """How far back a gradient reaches in a recurrent network, for the figure `gradients`: the norm of that of the last
    output by the state so many steps before (Bengio et al. 1994, Pascanu et al. 2013)."""

    implementation: ClassVar[str] = "dlpipe.measures.gradients:GradientByDistance"
    kind: Literal["gradient_by_distance"] = "gradient_by_distance"
    steps: PositiveInt = Field(
        100, ge=2, description="of a window of the test split; as many as the longest sequence has, if that is shorter"
    )
    windows: PositiveInt = Field(20, description="over which the norms are averaged, evenly spaced")

    def unfit(self, subject: LayerSpec | ModelSpec, dataset: DatasetSpec) -> str | None:
        if not (isinstance(subject, ModelSpec) and subject.sequential):
            return f"gradient_by_distance is a measure of a recurrent model, not of a {subject.slug}"
        if getattr(subject, "directions", "one") != "one":
            return "gradient_by_distance goes back from the last output: the model must read in one direction"
        return None

    def flops(self, parameters: int) -> float:
        return 6.0 * parameters * self.steps * self.windows


class StepsUntil(MeasureSpec):
    """How many steps it took until a metric of the history was low enough: the first such validation."""

    implementation: ClassVar[str] = "dlpipe.measures.speed:StepsUntil"
    of_history: ClassVar[bool] = True
    kind: Literal["steps_until"] = "steps_until"
    metric: str = Field("train_loss", description="as in history.csv; train_loss is the mean since the last validation")
    at_most: float = Field(description="in the metric's unit")
    phase: str = Field("finetune/1", description="as in history.csv; pretrain/1 is the lowest layer")


def _no_probabilities(
    measure: LogLikelihood | PseudoLikelihood | Landscape | KlDivergence,
    subject: LayerSpec | ModelSpec,
    dataset: DatasetSpec,
) -> str | None:
    if not isinstance(subject, Rbm):
        return f"{measure.kind} is a measure of an RBM; what is measured here is of kind {subject.slug}"
    if subject.doubled != "none":
        return f"{measure.kind} is of a density; a doubled RBM is none before it is part of a dbm"
    return GREY if subject.visible_units == "bernoulli" and _is_grey(dataset) else None


def _no_density_in_the_plane(
    measure: Landscape | KlDivergence, subject: LayerSpec | ModelSpec, dataset: DatasetSpec
) -> str | None:
    if not (isinstance(subject, Rbm) and subject.visible_units == "gaussian"):
        what = "one with binary ones" if isinstance(subject, Rbm) else f"of kind {subject.slug}"
        return f"{measure.kind} is a measure of an RBM with Gaussian visible units; what is measured here is {what}"
    if subject.hidden_units != "bernoulli":
        return f"{measure.kind} is for binary hidden units; this layer's are {subject.hidden_units}"
    if not isinstance(dataset, Plane):
        return f"{measure.kind} is of points in the plane, data of kind plane, not {dataset.kind}"  # type: ignore[attr-defined]
    return _no_probabilities(measure, subject, dataset)


def _is_grey(dataset: DatasetSpec) -> bool:
    return isinstance(dataset, ExampleSet) and dataset.grey
