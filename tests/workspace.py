"""A small experiment in a folder of its own, for the tests of plan, commands and workflow."""

from __future__ import annotations

from pathlib import Path

from dlpipe.plan import Plan, make_plan
from dlpipe.spec.loading import load

EXPERIMENT = """\
title: A small study of depth
question: Does a second layer help?
paper: somebody2000
dataset: {kind: digits, train: 200, test: 100, labelled: 60}
model: {kind: mlp, units: [12, 11, 10], activation: sigmoid, init: glorot_sigmoid}
pretrain:
  - {layer: {kind: rbm}, duration: {epochs: 2}, optimizer: {kind: sgd, learning_rate: 0.1, momentum: 0.5}}
  - {layer: {kind: rbm}, duration: {epochs: 2}, optimizer: {kind: sgd, learning_rate: 0.1, momentum: 0.5}}
  - {layer: {kind: autoencoder}, duration: {epochs: 2}, optimizer: {kind: sgd, learning_rate: 0.1, momentum: 0.5}}
finetune:
  task: {kind: classification}
  duration: {epochs: 3}
  optimizer: {kind: sgd, learning_rate: 0.1, momentum: 0.5}
axes:
  depth: {1: {model.units: [12]}, 2: {model.units: [12, 11]}, 3: {}}
seeds: 3
scales: {demo: {}}
claims:
  - says: Three layers make fewer errors than one.
    compare: {depth: 3}
    with: {depth: 1}
"""
PAPERS = "@article{somebody2000,\n  author = {Some Body},\n  title = {A paper},\n  year = {2000}\n}\n"


def write_experiment(folder: Path, text: str = EXPERIMENT, name: str = "small") -> Path:
    """The file `config/experiments/NAME.yaml` in `folder`, and its bibliography."""
    experiments = folder / "config" / "experiments"
    experiments.mkdir(parents=True, exist_ok=True)
    (folder / "config" / "papers.bib").write_text(PAPERS)
    path = experiments / f"{name}.yaml"
    path.write_text(text)
    return path


def plan_of(folder: Path, text: str = EXPERIMENT, name: str = "small", overrides: tuple[str, ...] = ()) -> Plan:
    return make_plan([load(write_experiment(folder, text, name), overrides=overrides)])


def ids(plan: Plan, *rules: str) -> set[str]:
    return {
        stage.id
        for stage in plan.stages.values()
        if stage.rule in (rules or ("prepare", "pretrain", "finetune", "evaluate"))
    }
