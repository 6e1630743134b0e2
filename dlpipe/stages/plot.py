"""plot: draws an experiment's figures from its metrics artifacts. No torch; matplotlib is imported here alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dlpipe.artifacts import Artifact, ArtifactError, Stage, Store
from dlpipe.figures.data import FigureData, NothingToDraw, VariantData
from dlpipe.figures.defaults import default_figures
from dlpipe.progress import say
from dlpipe.spec.base import FAMILIES
from dlpipe.spec.figures import FigureSpec

INDEX = "figures.json"


def run(stage: Stage, store: Store) -> Artifact:
    """Makes `<nn>-<kind>.svg` for each figure, and figures.json with file, kind, title and caption of each.

    Raises ArtifactError when a metrics artifact is missing or damaged, or has not what a listed figure shows.
    """
    if store.is_done(stage.rule, stage.id):
        return store.read_or_set_aside(stage.rule, stage.id)
    data = read_data(stage, store)
    listed = [_figure_spec(document) for document in stage.spec["figures"]]
    with store.make(stage) as draft:
        index = _draw_all(listed or default_figures(data), data, draft.folder, must=bool(listed))
        (draft.folder / INDEX).write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        say(f"{stage.spec['experiment']}: {len(index)} figures")
    return store.read(stage.rule, stage.id)


def read_data(stage: Stage, store: Store) -> FigureData:
    """The variants that the stage names, each with its verified metrics artifacts."""
    variants = [
        VariantData(
            variant["levels"], [store.read_or_set_aside("evaluate", metrics_id) for metrics_id in variant["metrics"]]
        )
        for variant in stage.spec["variants"]
    ]
    return FigureData(dict(stage.spec["axes"]), variants)


def _figure_spec(document: dict[str, Any]) -> FigureSpec:
    kinds = FAMILIES["figure"]
    if document.get("kind") not in kinds:
        raise ArtifactError(f"there is no figure of kind {document.get('kind')}; there are {', '.join(sorted(kinds))}")
    figure = kinds[document["kind"]].model_validate(document)
    assert isinstance(figure, FigureSpec)
    return figure


def _draw_all(figures: Sequence[FigureSpec], data: FigureData, folder: Any, *, must: bool) -> list[dict[str, str]]:
    """Draws and saves each; a figure that was not asked for by name may find nothing to draw."""
    from dlpipe.figures.canvas import to_svg, use_style

    index: list[dict[str, str]] = []
    for number, figure in enumerate(figures, start=1):
        kind = figure.component.partition(".")[2]
        try:
            with use_style():
                picture = figure.load()(data=data, **figure.arguments())
                drawn = to_svg(picture.figure)
        except NothingToDraw as error:
            if must:
                raise ArtifactError(f"figure {number} ({kind}) cannot be drawn: {error}") from None
            continue
        name = f"{len(index) + 1:02}-{kind}.svg"
        (folder / name).write_bytes(drawn)
        index.append({"file": name, "kind": kind, "title": picture.title, "caption": picture.caption})
    return index
