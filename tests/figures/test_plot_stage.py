"""The plot stage: files, index, same bytes for same inputs, errors that name the figure."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dlpipe.artifacts import ArtifactError, Stage, Store
from dlpipe.plan import Plan
from dlpipe.stages import plot

MOST_BYTES = 1_500_000


def plot_stage(plan: Plan, figures: list[dict] | None = None) -> Stage:
    stage = plan.stages[plan.experiments[0].figures]
    return dataclasses.replace(stage, spec={**stage.spec, "figures": figures or []})


@pytest.fixture(scope="module")
def copy(study: tuple[Plan, Store], tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    """Only results/metrics, in another place: nothing else is needed."""
    plan, store = study
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(store.results / "metrics", elsewhere / "results" / "metrics")
    return plan, Store(elsewhere / "data", elsewhere / "results")


def test_all_figures_are_drawn_and_small(copy: tuple[Plan, Store]) -> None:
    plan, store = copy
    artifact = plot.run(plot_stage(plan), store)
    index = json.loads(artifact.path("figures.json").read_text())
    assert [entry["file"] for entry in index[:2]] == ["01-comparison.svg", "02-curves.svg"]
    assert len(index) == 8
    for entry in index:
        assert set(entry) == {"file", "kind", "title", "caption"}
        ElementTree.parse(artifact.path(entry["file"]))
    assert sum(file["bytes"] for file in artifact.manifest["files"].values()) < MOST_BYTES


def test_bytes_are_the_same_in_another_process(copy: tuple[Plan, Store], tmp_path: Path) -> None:
    plan, store = copy
    stage = plot_stage(plan)
    ours = plot.run(stage, store).manifest["files"]
    document = tmp_path / "stage.json"
    document.write_text(json.dumps(stage.to_json()))
    shutil.copytree(store.results / "metrics", tmp_path / "results" / "metrics")
    code = (
        "import json, sys; from dlpipe.artifacts import Stage, Store; from dlpipe.stages import plot;"
        "stage = Stage.from_json(json.load(open(sys.argv[1])));"
        "files = plot.run(stage, Store('data', sys.argv[2])).manifest['files'];"
        "print(json.dumps([files, 'torch' in sys.modules, 'matplotlib.pyplot' in sys.modules]))"
    )
    command = [sys.executable, "-c", code, str(document), str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [ours, False, False]


def test_what_is_done_is_not_done_again(copy: tuple[Plan, Store]) -> None:
    plan, store = copy
    first = plot.run(plot_stage(plan), store)
    assert plot.run(plot_stage(plan), store).manifest["times"] == first.manifest["times"]


def test_listed_figures_are_drawn_in_their_order_with_their_titles(copy: tuple[Plan, Store]) -> None:
    plan, store = copy
    figures = [{"kind": "confusion", "title": "Who is who"}, {"kind": "comparison", "metric": "train_seconds"}]
    index = json.loads(plot.run(plot_stage(plan, figures), store).path("figures.json").read_text())
    assert [(entry["file"], entry["title"]) for entry in index] == [
        ("01-confusion.svg", "Who is who"),
        ("02-comparison.svg", "Training seconds by depth"),
    ]


def test_a_listed_figure_without_data_is_an_error_that_says_what_there_is(copy: tuple[Plan, Store]) -> None:
    plan, store = copy
    figures = [{"kind": "confusion"}, {"kind": "comparison", "metric": "bleu"}]
    with pytest.raises(ArtifactError, match=r"figure 2 \(comparison\) cannot be drawn: no run has the metric bleu"):
        plot.run(plot_stage(plan, figures), store)
    assert not store.folder("plot", plot_stage(plan, figures).id).exists()


def test_a_missing_metrics_artifact_is_named(copy: tuple[Plan, Store], tmp_path: Path) -> None:
    plan, _ = copy
    with pytest.raises(ArtifactError, match="missing or unfinished"):
        plot.run(plot_stage(plan), Store(tmp_path / "data", tmp_path / "results"))
