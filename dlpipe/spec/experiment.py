"""The experiment: one YAML file, typed. What a variant of it means is in `variants`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from dlpipe.spec import datasets, figures, layers, measures, models, tasks
from dlpipe.spec.base import Example, Many, NonNegativeInt, OneOrMany, PositiveInt, Spec, misuse, one_of
from dlpipe.spec.claims import Claim, Level, Levels, Scale
from dlpipe.spec.recorded import Recorded, Rows
from dlpipe.spec.selection import Select, Settings, with_settings
from dlpipe.spec.training import TrainingSpec, training_fields

if TYPE_CHECKING:
    Dataset = datasets.DatasetSpec
    Layer = layers.LayerSpec
    Model = models.ModelSpec
    Task = tasks.TaskSpec
    Measure = measures.MeasureSpec
    Figure = figures.FigureSpec
else:  # any of the registered kinds
    Dataset = one_of("dataset")
    Layer = one_of("layer")
    Model = one_of("model")
    Task = one_of("task")
    Measure = one_of("measure")
    Figure = one_of("figure")

Patch = Annotated[dict[str, Any], Example("{model.units: [400]}")]
"""Dotted path to the value that is set there; it replaces what was there, it does not merge."""

MOST_SEEDS = 1000
"""A plan lists each; a verdict needs a few, or a few tens."""


class Pretrain(TrainingSpec):
    """How one layer is trained, on the representation of the layers below it, without labels."""

    layer: Layer


class Phase(TrainingSpec):
    """One phase of fine-tuning: of the whole model, or of its output layer."""

    task: Task
    train: Literal["all", "top", "none"] = Field(
        "all",
        description="top: the output layer alone, on what is pretrained as it is (a linear probe); none: nothing, the "
        "model is taken as pretraining or the phase before left it",
    )
    select: Select | None = None

    @model_validator(mode="after")
    def _every_setting_is_a_training(self) -> Phase:
        for settings in self.select.settings if self.select is not None else ():
            try:
                TrainingSpec.model_validate(with_settings(training_fields(self), settings))
            except KeyError as error:
                raise misuse(f"the training has no {error.args[0]}", "select", "grid", error.args[0]) from None
            except ValidationError as error:
                raise _not_a_training(error, settings) from None
        return self

    def unrecorded(self, rows: Rows) -> tuple[str, str] | None:
        rows = rows._replace(trained=self.train != "none")
        found = super().unrecorded(rows) if rows.trained else None
        if found is None and self.select is not None and (unfit := rows.unfit("select", self.select.by)):
            return "select", unfit
        return found


def _not_a_training(error: ValidationError, settings: Settings) -> PydanticCustomError:
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][-1])
    path = next((path for path in settings if path.split(".")[-1] == field), next(iter(settings)))
    if first["type"] == "extra_forbidden":
        return misuse(f"the training has no {path}", "select", "grid", path)
    return misuse(f"{path} cannot be {settings[path]}: {first['msg'].lower()}", "select", "grid", path)


class From(Spec):
    """Another experiment's trained model, by its name and the levels that single out one of its variants."""

    experiment: str
    where: Levels = Field(default_factory=dict)


class Resources(Spec):
    """What a job of this experiment asks of a cluster; it changes no result and is in no digest."""

    mem_mb: PositiveInt | None = None
    runtime: PositiveInt | None = Field(None, description="minutes")
    gpu: NonNegativeInt | None = Field(
        None, description="GPUs of a job that trains; several train together, one process each"
    )


class Experiment(Spec):
    title: str = Field(min_length=1)
    question: str | None = Field(None, description="what the experiment asks, for the report")
    paper: OneOrMany[str] | None = Field(None, description="keys in papers.bib")
    dataset: Dataset
    model: Model
    start: From | None = Field(None, alias="from")
    pretrain: OneOrMany[Pretrain] | None = Field(
        None, description="one recipe for every layer, or a list with one a layer, from the bottom up"
    )
    finetune: OneOrMany[Phase] = Field(description="one phase, or a list of phases in their order")
    measures: Annotated[tuple[Measure, ...], Many] = Field(
        (),
        description="what evaluate measures of the history, and of a generative or recurrent model or the lowest "
        "pretrained layer",
    )
    axes: dict[str, dict[Level, Patch]] = Field(
        default_factory=dict, description="the comparison: axes, their levels, each a patch"
    )
    skip: Annotated[tuple[dict[str, OneOrMany[Level]], ...], Many] = Field(
        (), description="combinations of levels left out of the product; a list of levels means any of them"
    )
    seeds: PositiveInt = Field(
        3, le=MOST_SEEDS, description="runs of every variant, seeds 0 to n-1; a verdict needs at least 3"
    )
    seeds_per_job: PositiveInt | None = Field(None, description="seeds trained by one job; all of them if absent")
    scales: dict[Scale, Patch] = Field(default_factory=dict, description="the same experiment in other sizes")
    claims: Annotated[tuple[Claim, ...], Many] = ()
    figures: Annotated[tuple[Figure, ...], Many] = ()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _recipes_reach_the_top(self) -> Experiment:
        if isinstance(self.pretrain, tuple) and len(self.pretrain) < len(self.layer_units):
            raise misuse(f"pretrain has {len(self.pretrain)} recipes for {len(self.layer_units)} layers", "pretrain")
        if self.pretrain is not None and self.model.takes_pictures:
            message = f"pretrain trains fully connected layers, and a {self.model.kind} has none: leave it out"
            raise misuse(message, "pretrain")
        if self.phases == ():
            raise misuse("finetune needs at least one phase", "finetune")
        if self.start is not None and self.pretrain is not None:
            raise misuse("from takes the weights of another experiment: leave out pretrain, or from", "from")
        return self

    @model_validator(mode="after")
    def _tasks_fit(self) -> Experiment:
        for position, phase in enumerate(self.phases):
            unfit = self.model.unfit(phase.task) or phase.task.unfit(self.dataset)
            if unfit is None and self.model.binary_inputs and isinstance(phase.task, tasks.Generative):
                unfit = self.dataset.unfit_for(f"the units of a {self.model.kind} are binary and take")
            if unfit is not None:
                raise misuse(unfit, *self._place("finetune", position), "task")
        if unfit := self.model.unfit_data(self.dataset):
            raise misuse(unfit, "model")
        return self

    @model_validator(mode="after")
    def _layers_fit(self) -> Experiment:
        recipes = [self.recipe(position) for position in range(len(self.layer_units))]
        for position, recipe in enumerate(recipes):
            unfit = self.model.unfit_layer(position, recipe.layer)
            if unfit is None:
                below = recipes[position - 1].layer if position > 0 else None
                unfit = recipe.layer.unfit_data(self.dataset) if below is None else recipe.layer.unfit_above(below)
            if unfit is not None:
                raise misuse(f"layer {position + 1}: {unfit}", *self._place("pretrain", position), "layer")
        return self

    @model_validator(mode="after")
    def _what_is_gone_by_is_recorded(self) -> Experiment:
        for position in range(len(self.layer_units)):
            recipe = self.recipe(position)
            place = self._place("pretrain", position)
            self._check_metrics(recipe, recipe.layer.recorded, *place, who=f"layer {position + 1}: ")
        for position, phase in enumerate(self.phases):
            of_model = isinstance(phase.task, tasks.Generative)
            recorded = self.model.recorded if of_model else phase.task.recorded(self.dataset)
            self._check_metrics(phase, recorded, *self._place("finetune", position))
        return self

    def _check_metrics(
        self, training: TrainingSpec, recorded: Recorded | None, *place: str | int, who: str = ""
    ) -> None:
        if recorded is None:
            return
        if found := training.unrecorded(Rows(recorded, self.dataset.validated)):
            field, unfit = found
            raise misuse(f"{who}{unfit}", *place, field, "by")

    def _place(self, field: Literal["pretrain", "finetune"], position: int) -> tuple[str | int, ...]:
        """Where in the file a recipe or a phase stands: alone, or in a list."""
        return (field, position) if isinstance(getattr(self, field), tuple) else (field,)

    @model_validator(mode="after")
    def _measures_fit(self) -> Experiment:
        kinds = [measure.kind for measure in self.measures]
        for position, measure in enumerate(self.measures):
            if measure.kind in kinds[:position]:
                raise misuse(f"{measure.kind} is among the measures twice", "measures", position)
            if measure.of_history:
                continue
            if not self.model.measured and not self.layer_units:
                message = f"{measure.kind} is a measure of the lowest pretrained layer, and no layer is pretrained"
                raise misuse(message, "measures", position)
            subject = self.model if self.model.measured else self.recipe(0).layer
            unfit = measure.unfit(subject, self.dataset)
            if unfit is not None:
                raise misuse(unfit, "measures", position)
        return self

    @property
    def phases(self) -> tuple[Phase, ...]:
        return self.finetune if isinstance(self.finetune, tuple) else (self.finetune,)

    @property
    def layer_units(self) -> tuple[int, ...]:
        """Widths of the layers that are pretrained, from the bottom up; none without `pretrain`."""
        return () if self.pretrain is None else self.model.layer_units

    def recipe(self, position: int) -> Pretrain:
        """How the layer at `position` (0 is the lowest) is pretrained."""
        assert self.pretrain is not None
        return self.pretrain[position] if isinstance(self.pretrain, tuple) else self.pretrain

    @property
    def papers(self) -> tuple[str, ...]:
        if self.paper is None:
            return ()
        return (self.paper,) if isinstance(self.paper, str) else self.paper
