"""The figures of an experiment that lists none: those its runs have something for."""

from __future__ import annotations

from dlpipe.figures.data import FigureData
from dlpipe.spec.figures import (
    Code,
    Comparison,
    Confusion,
    Curves,
    Fantasies,
    FigureSpec,
    Filters,
    Gradients,
    Landscape,
    Mistakes,
    Reconstructions,
)

OUTCOMES = ("test_error", "test_reconstruction_error", "test_log_likelihood", "test_perplexity", "test_loss")
"""Metrics of which the first that is there is what an experiment comes to."""


def default_figures(data: FigureData) -> list[FigureSpec]:
    """In the order of the report: the outcome, how it came about, what was learned, what goes wrong."""
    figures: list[FigureSpec] = []
    metrics, histories = data.metric_names(), data.history_names()
    outcome = next((name for name in OUTCOMES if name in metrics), None)
    if outcome and data.open_axes:
        figures.append(Comparison(metric=outcome))
    last = max((phase for phase, _ in histories if phase.startswith("finetune")), default="finetune/1")
    curves = [(last, "valid_error"), (last, "train_loss")]
    lowest = [("pretrain/1", f"{split}_reconstruction_error") for split in ("valid", "train")]
    curves += [next((curve for curve in lowest if curve in histories), lowest[0])]
    figures += [Curves(metric=metric, phase=phase) for phase, metric in curves if (phase, metric) in histories]
    outputs = {name.partition("/")[0] for variant in data.variants for name in variant.output_names}
    wanted: list[tuple[str, FigureSpec]] = [
        ("filters", Filters()),
        ("reconstruction_inputs", Reconstructions()),
        ("fantasies", Fantasies()),
        ("code", Code()),
        ("gradient_by_distance", Gradients()),
        ("density", Landscape()),
        ("density_samples", Landscape(points="samples")),
        ("confusion", Confusion()),
        ("examples_wrong", Mistakes()),
    ]
    if "filters" not in outputs:
        wanted[0] = ("filters_finetuned", Filters())
    return figures + [figure for name, figure in wanted if name in outputs]
