"""How something is trained, be it a layer or the whole: how long, by which optimiser and schedule, when to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dlpipe.spec import plugins
from dlpipe.spec.base import PositiveFloat, PositiveInt, Spec, one_of
from dlpipe.spec.optimizers import Adagrad, Adam, AdamW, OptimizerSpec, RmsProp, Sgd
from dlpipe.spec.problems import listed
from dlpipe.spec.recorded import Rows
from dlpipe.spec.schedules import (
    PLATEAU_METRICS,
    Constant,
    Cosine,
    Duration,
    HalveOnPlateau,
    LinearWarmup,
    ScheduleSpec,
    Step,
)


class EarlyStopping(Spec):
    """Stops when `by` has not improved for `patience`, and keeps the parameters of its best validation."""

    example: ClassVar[str] = "{patience: {epochs: 5}}"
    by: str = Field("valid_error", description="a metric of the validation rows of history.csv")
    patience: Duration


if TYPE_CHECKING:
    Optimizer = OptimizerSpec
    Schedule = ScheduleSpec
else:  # any of the registered kinds
    plugins.load()
    Optimizer = one_of("optimizer")
    Schedule = one_of("schedule")


class TrainingSpec(Spec):
    """What pretraining of a layer and every phase of fine-tuning have in common."""

    duration: Duration
    optimizer: Optimizer
    schedule: Schedule = Constant()
    batch_size: PositiveInt = Field(20, description="examples a step; the last batch of an epoch may be shorter")
    clip_norm: PositiveFloat | None = Field(None, description="largest Euclidean norm of the whole gradient")
    weight_noise: PositiveFloat | None = Field(
        None,
        description="standard deviation of what is added to every weight and bias, anew for each step",
        exclude_if=lambda value: value is None,  # so that digests are what they were before there was any
    )
    early_stopping: EarlyStopping | None = None
    validate_every: Duration = Duration(epochs=1.0)
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of forward and backward passes; parameters stay float32"
    )
    on_divergence: Literal["fail", "record"] = Field(
        "fail",
        description="what a loss that is no longer finite means: an error, or a result, `diverged` in the metrics",
        exclude_if=lambda value: value == "fail",  # so that digests are what they were before there was a choice
    )

    @property
    def batches_seeds(self) -> bool:
        """Whether seeds can be trained together: the learning rate is the same for all, whatever their losses."""
        return not isinstance(self.schedule, HalveOnPlateau)

    def unrecorded(self, rows: Rows) -> tuple[str, str] | None:
        """The field that goes by what such validations lack, and what to say of it; None if there is none."""
        if self.early_stopping is not None and (unfit := rows.unfit("early_stopping", self.early_stopping.by)):
            return "early_stopping", unfit
        if isinstance(self.schedule, HalveOnPlateau) and rows.lack(*PLATEAU_METRICS):
            missing = "" if rows.validated else ": set dataset.valid"
            followed = f"halve_on_plateau goes by one of {listed(PLATEAU_METRICS, 'or')}"
            return "schedule", f"{followed}; {rows}{missing}"
        return None


def training_fields(spec: TrainingSpec) -> dict[str, Any]:
    """The training part of a phase, as it is digested."""
    return spec.model_dump(mode="json", include=set(TrainingSpec.model_fields))


__all__ = [
    "Adagrad",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "Duration",
    "EarlyStopping",
    "HalveOnPlateau",
    "LinearWarmup",
    "Optimizer",
    "OptimizerSpec",
    "RmsProp",
    "Schedule",
    "ScheduleSpec",
    "Sgd",
    "Step",
    "TrainingSpec",
    "training_fields",
]
