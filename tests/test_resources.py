"""What jobs ask for, as functions of the stage's size and the attempt, and what the real SLURM plugin makes of it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dlpipe.resources import CAPS, MOST_THREADS, Size, ask, mem_mb, runtime, size_of, threads
from dlpipe.runtime.data import build
from dlpipe.spec.boltzmann import Dbm, Dbn
from dlpipe.spec.models import Energy
from dlpipe.spec.tasks import (
    DenoisingScoreMatching,
    ExactLikelihood,
    Generative,
    Langevin,
    NoiseContrastive,
    ScoreMatching,
)
from dlpipe.workflow import Workflow
from tests.workflow.test_workflow import copy_workflow
from tests.workspace import EXPERIMENT, write_experiment

HOUR = Size(flops=3600 * 2e10)
"""An hour on one core."""


def stage(rule: str) -> Any:
    return SimpleNamespace(rule=rule)


@pytest.mark.parametrize("rule", ["fetch", "prepare", "pretrain", "finetune", "evaluate", "plot"])
@pytest.mark.parametrize("size", [Size(), HOUR, Size(10**9, 10**4, 10**9, 10, 10**9, 1e18, 1e12)])
def test_more_with_each_attempt_up_to_the_cap(rule, size):
    for name, most in (("mem_mb", CAPS["mem_mb"]), ("runtime", CAPS["runtime"])):
        asked = [ask(name, stage(rule), size, device="auto", attempt=n, cap=most) for n in (1, 2, 3, 20)]
        assert all(0 < amount <= most for amount in asked)
        assert all(later == min(2 * earlier, most) for earlier, later in pairwise(asked[:3]))
        assert asked[3] == most


def test_memory_and_time_grow_with_the_size():
    small, large = Size(1000, 64, 10**4, 1, 1000, 1e9), Size(60_000, 784, 10**6, 5, 10**6, 1e13)
    for estimate in (mem_mb, runtime):
        assert estimate(stage("pretrain"), large) > estimate(stage("pretrain"), small)
    # 60,000 x 784 float32 are 188 MB; a million parameters of five seeds 20 MB.
    assert mem_mb(stage("pretrain"), large) - mem_mb(stage("pretrain"), Size()) == 565 + 160
    assert runtime(stage("pretrain"), HOUR) == 10 + 180


def test_what_an_experiment_declares_takes_the_place_of_the_estimate():
    asked = [
        ask("mem_mb", stage("plot"), Size(), declared=9000, device="auto", attempt=n, cap=20_000) for n in (1, 2, 3)
    ]
    assert asked == [9000, 18_000, 20_000]


@pytest.mark.parametrize("rule", ["fetch", "prepare", "plot"])
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1", "cpu"])
def test_a_stage_that_computes_nothing_never_asks_for_a_gpu(rule, device):
    assert ask("gpu", stage(rule), HOUR, declared=1, device=device, attempt=1, cap=8) == 0


@pytest.mark.parametrize(
    ("device", "size", "declared", "asked"),
    [
        ("cpu", HOUR, None, 0),
        ("cpu", HOUR, 4, 0),  # the config knows the machine, the experiment does not
        ("auto", Size(), None, 0),
        ("auto", HOUR, None, 1),
        ("auto", Size(), 1, 1),
        ("auto", HOUR, 0, 0),
        ("cuda", Size(), None, 1),
        ("cuda", HOUR, 16, 8),
    ],
)
def test_gpus_by_device_size_and_declaration(device, size, declared, asked):
    assert ask("gpu", stage("finetune"), size, declared=declared, device=device, attempt=3, cap=8) == asked
    one = ask("gpu", stage("evaluate"), size, declared=declared, device=device, attempt=1, cap=8)
    assert one == min(asked, 1)


@pytest.mark.parametrize(
    ("flops", "expected"), [(0, 1), (1e9, 1), (2e9, 2), (4e9, 4), (1e15, MOST_THREADS)], ids=lambda value: f"{value:g}"
)
def test_threads_by_the_products_of_a_step(flops, expected):
    assert threads(Size(flops_a_step=flops)) == expected


def test_sizes_of_a_real_plan(tmp_path, monkeypatch):
    """Counted by hand: 200 digits of 64 pixels; layers of 12, 11 and 10 units; 3 seeds."""
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path)
    plan = Workflow({"experiments": ["small"]}).plan
    sizes = {s.name: size_of(s, plan.stages.__getitem__) for s in plan.of_rule("pretrain")}
    steps = 2 * 10 * 3  # epochs, batches of 20, seeds
    first, second = sizes["digits-200-rbm12"], sizes["digits-200-rbm11-layer2"]
    assert (first.parameters, first.steps, first.flops_a_step) == (64 * 12, steps, 2 * 5 * 64 * 12 * 20)
    assert (second.parameters, second.features) == (12 * 11, 64 + 12)
    third = sizes["digits-200-autoencoder10-layer3"]
    assert third.flops == 2 * 6 * 11 * 10 * 20 * steps
    tuned = [size_of(s, plan.stages.__getitem__) for s in plan.of_rule("finetune")]
    assert tuned[0].parameters == 64 * 12 + 12 * 10
    assert {size.steps for size in tuned} == {3 * 3 * 3}  # epochs, batches of 60 labelled examples, seeds


LANGUAGE = """
title: Sizes of sequences
dataset: {kind: pydoc, train: 20000}
model: {kind: recurrent, cell: elman, units: [12], embedding: 5}
finetune:
  task: {kind: language_model, unroll: 40}
  duration: {epochs: 2}
  batch_size: 10
  optimizer: {kind: sgd, learning_rate: 1.0}
scales: {demo: {}}
"""


def test_sizes_of_sequences(tmp_path, monkeypatch):
    """Counted by hand: 500 windows of 40 tokens in batches of 10, 100 different characters as far as one knows."""
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path, LANGUAGE)
    plan = Workflow({"experiments": ["small"]}).plan
    size = size_of(*plan.of_rule("finetune"), plan.stages.__getitem__)
    products = 12 * (5 + 12) + 12 * 100
    assert size.parameters == 100 * 5 + products
    assert size.steps == 3 * 2 * 50 * 40  # seeds, epochs, windows of all columns, steps of each
    assert size.flops_a_step == 6 * products * 40 * 10
    assert size.flops == 3 * 2 * 50 * size.flops_a_step
    evaluated = size_of(*plan.of_rule("evaluate"), plan.stages.__getitem__)
    assert evaluated.flops == 3 * 2 * products * 500_000  # all parts of the corpus


MACHINE = Dbm(kind="dbm", units=(50, 30), mean_field_steps=4, gibbs_steps=3, chains=40)
BELIEFS = Dbn(kind="dbn", units=(50, 30, 20), gibbs_steps=2)
LANDSCAPE = Energy(kind="energy", units=(50, 40), samples=30)


@pytest.mark.parametrize(
    ("spec", "task"),
    [
        (MACHINE, Generative()),
        (BELIEFS, Generative()),
        (LANDSCAPE, ExactLikelihood(points=20)),
        (LANDSCAPE, Langevin(steps=4)),
        (LANDSCAPE, ScoreMatching()),
        (LANDSCAPE, DenoisingScoreMatching()),
        (LANDSCAPE, NoiseContrastive(noise=5)),
    ],
    ids=lambda component: component.kind,
)
def test_the_products_of_a_step_are_about_those_that_torch_counts(spec, task):
    """Within a factor of two: what an estimate of time needs. A network by a task of its own, 20 examples a batch."""
    inputs, outputs, batch = (2 if spec is LANDSCAPE else 60), (10 if spec is BELIEFS else 1), 20
    generator = torch.Generator().manual_seed(0)
    model: Any = build(spec, inputs=inputs, outputs=outputs)
    model.initialise(generator)
    x = torch.rand(batch, inputs, generator=generator).round()
    asked: Any = build(task)
    if hasattr(asked, "see"):
        asked.see(x + torch.randn(x.shape, generator=generator))
    with FlopCounterMode(display=False) as counter:
        asked.step(model, x, torch.zeros(batch, dtype=torch.long), generator)
    estimate = 2 * batch * spec.training_multiplications(task, inputs, outputs, batch)
    assert 0.5 < estimate / counter.get_total_flops() < 2


def test_a_layer_that_sees_labels_is_as_much_work_as_there_are_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path, EXPERIMENT.replace("{kind: autoencoder}", "{kind: supervised}"))
    plan = Workflow({"experiments": ["small"]}).plan
    (layer,) = (stage for stage in plan.of_rule("pretrain") if "supervised" in stage.name)
    size = size_of(layer, plan.stages.__getitem__)
    assert (size.steps, size.flops_a_step) == (2 * 3 * 3, 2 * 2 * 11 * 10 * 20)  # epochs, batches of 60, seeds


@pytest.mark.parametrize(
    "config", [{"max_mem_mb": "lots"}, {"max_runtime": 0}, {"max_gpu": -1}, {"max_mem_mb": True}], ids=str
)
def test_a_cap_that_is_no_number_is_said(tmp_path, monkeypatch, config):
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path)
    with pytest.raises(SystemExit, match=f"config key '{next(iter(config))}'.* must be a whole number above 0"):
        Workflow({"experiments": ["small"], **config})


@pytest.mark.parametrize(("minutes", "seconds"), [(1, "30"), (2, "60"), (90, "5340")])
def test_training_on_a_cluster_is_told_to_stop_before_the_jobs_limit(tmp_path, monkeypatch, minutes, seconds):
    """And what it needs to save is part of the deadline's own margin; a workstation sets no limit."""
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path)
    config, limit = {"experiments": ["small"]}, SimpleNamespace(runtime=minutes)
    assert Workflow(config, on_cluster=True).deadline(None, limit) == ["--deadline", seconds]
    assert Workflow(config).deadline(None, limit) == []


STUB = """#!/bin/sh
printf '%s\\n' "$0 $*" >> "{log}"
case "$0" in */sbatch) echo "sbatch: error: not today" >&2; exit 1;; esac
"""


def submissions(folder: Path, *arguments: str) -> list[str]:
    """What the sbatch calls ask for, from the time on, that the real snakemake and the real plugin make."""
    programs, log = folder / "programs", folder / "calls"
    programs.mkdir()
    for name in ("sbatch", "sinfo", "squeue", "sacct", "scontrol", "scancel", "sacctmgr"):
        (programs / name).write_text(STUB.format(log=log))
        (programs / name).chmod(stat.S_IRWXU)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    profile = ["--workflow-profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "1"]
    command = [sys.executable, "-m", "snakemake", *profile, *arguments]
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "not today" in done.stderr + done.stdout, done.stdout + done.stderr
    calls = [line for line in log.read_text().splitlines() if "/sbatch " in line]
    asked = [call.partition(" --wrap")[0].partition(" -t ")[2] for call in calls]
    return [call.replace(f" -D {folder}", "") for call in asked]


@pytest.mark.slow  # snakemake waits between the attempts
def test_the_sbatch_lines_of_the_real_plugin(tmp_path):
    """What reaches SLURM: memory and time that grow with the attempts, one task, a GPU only for what computes."""
    copy_workflow(tmp_path)
    text = EXPERIMENT + "resources: {gpu: 1, mem_mb: 50000, runtime: 90}\n"
    write_experiment(tmp_path, text)
    run = [sys.executable, "-m", "snakemake", "--cores", "1", "--until", "prepare", "--quiet", "all"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(run, cwd=tmp_path, env={**os.environ, "PATH": path}, check=True, capture_output=True)
    layer = next((tmp_path / "results" / "stages").glob("digits-200-rbm12-*.json")).stem
    target = f"results/layers/{layer}/manifest.json"
    config = ["--config", "experiments=small", "gpu_model=a100", "max_runtime=300"]
    assert submissions(tmp_path, *config, "--", target) == [
        "90 --mem 50000 --requeue --cpus-per-task=1 --gpus=a100:1",
        "180 --mem 100000 --requeue --cpus-per-task=1 --gpus=a100:1",
        "300 --mem 128000 --requeue --cpus-per-task=1 --gpus=a100:1",
        "300 --mem 128000 --requeue --cpus-per-task=1 --gpus=a100:1",
    ]


@pytest.mark.slow  # as above
def test_the_sbatch_line_of_a_stage_that_computes_nothing(tmp_path):
    copy_workflow(tmp_path)
    write_experiment(tmp_path, EXPERIMENT + "resources: {gpu: 1}\n")
    calls = submissions(tmp_path, "--until", "prepare", "--retries", "0", "--config", "gpu_model=a100")
    assert calls == ["10 --mem 1502 --requeue --ntasks=1 --cpus-per-task=1"]
