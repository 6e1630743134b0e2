"""The real Snakefile, run by the real Snakemake, on a small experiment in a folder of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workspace import EXPERIMENT, write_experiment

ROOT = Path(__file__).parents[2]
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--cores", "2"]
NOTHING = "Nothing to be done"

pytestmark = pytest.mark.slow  # each test starts snakemake, and the jobs import torch


def copy_workflow(folder: Path) -> None:
    shutil.copy(ROOT / "Snakefile", folder)
    for name in ("workflow", "profiles"):
        shutil.copytree(ROOT / name, folder / name)
    write_experiment(folder)
    (folder / "config" / "config.yaml").write_text("experiments: [small]\nscale: demo\n")


def snakemake(folder: Path, *arguments: str, code: int = 0, **environment: str) -> str:
    """Runs it and returns all it printed; the test fails with that text when the exit code is another one."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*SNAKEMAKE, *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, "COVERAGE_PROCESS_START": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def jobs(output: str) -> dict[str, int]:
    """Rule to number of jobs, from the table that snakemake prints first."""
    lines = output.split("Job stats:")[1].split("\n\n")[0].splitlines()[3:]
    return {line.split()[0]: int(line.split()[1]) for line in lines if line.strip()}


def digests(folder: Path, pattern: str = "results/*/*/*") -> dict[str, str]:
    """Files of artifacts to sha256, without manifests (they tell the time) and what Snakemake writes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob(pattern))
        if path.is_file()
        and path.name not in ("manifest.json", "times.csv", ".snakemake_timestamp")
        and path.suffix not in (".log", ".tsv")
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    copy_workflow(folder)
    output = snakemake(folder)
    counts = {"fetch": 1, "prepare": 1, "pretrain": 3, "finetune": 3, "evaluate": 3, "plot": 1, "report": 1}
    assert jobs(output) == {**counts, "all": 1, "total": 14}
    return folder


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished run that a test may spoil."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def no_torch(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for PYTHONPATH in which importing torch is an error."""
    folder = tmp_path_factory.mktemp("blocked")
    (folder / "torch.py").write_text("raise ImportError('this run must not import torch')\n")
    return str(folder)


def test_a_finished_run_has_nothing_to_do(finished):
    assert NOTHING in snakemake(finished)
    assert (finished / "results" / "report" / "demo.html").stat().st_size > 10_000
    for rule in ("fetch", "prepare", "pretrain", "finetune", "evaluate", "plot"):
        stages = [p.stem for p in (finished / "results" / "logs" / rule).glob("*.log")]
        assert stages
        assert all((finished / "results" / "benchmarks" / rule / f"{stage}.tsv").exists() for stage in stages)


def test_status_without_words_is_of_the_last_run(workspace):
    def status(code: int) -> str:
        words = [sys.executable, "-m", "dlpipe", "status"]
        done = subprocess.run(words, cwd=workspace, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    assert status(0) == "small (demo): 12 of 12 stages done\n"
    assert list((workspace / "results" / ".running").iterdir()) == []
    network = next((workspace / "results" / "models").iterdir())
    for name in ("layers", "metrics", "figures", "report"):
        shutil.rmtree(workspace / "results" / name)
    (network / "weights.safetensors").unlink()
    plan = workspace / "results" / "stages" / "last-plan.json"
    os.utime(plan, (1, 1))
    stage = next((workspace / "data" / "prepared").iterdir())
    (stage / "data.safetensors").write_bytes(bytes((stage / "data.safetensors").stat().st_size))
    snakemake(workspace, code=1)  # the first layer finds its data damaged, and sets them aside
    assert plan.stat().st_mtime == 1
    out = status(1)
    command = out.splitlines()[-1].strip()
    assert "1 failed" in out
    assert "does not match its manifest" in out
    assert command.startswith("snakemake --cores all results/layers/")
    assert command.endswith(" --config experiments=small scale=demo")
    snakemake(workspace, *command.split()[3:])
    assert "failed" not in status(0)


def test_the_report_needs_neither_data_nor_models_nor_provenance_nor_torch(workspace, no_torch):
    report = workspace / "results" / "report" / "demo.html"
    before = report.read_bytes()
    for name in ("data/raw", "data/prepared", "results/layers", "results/models", "results/report", ".snakemake"):
        shutil.rmtree(workspace / name)
    output = snakemake(workspace, "report", PYTHONPATH=no_torch)
    assert jobs(output) == {"report": 1, "total": 1}
    assert report.read_bytes() == before


def test_the_report_is_the_same_on_another_machine(finished, tmp_path, no_torch):
    copy_workflow(tmp_path)
    for name in ("metrics", "figures"):
        shutil.copytree(finished / "results" / name, tmp_path / "results" / name)
    output = snakemake(tmp_path, "report", PYTHONPATH=no_torch)
    assert set(jobs(output)) <= {"plot", "report", "total"}
    reports = [folder / "results" / "report" / "demo.html" for folder in (finished, tmp_path)]
    assert reports[0].read_bytes() == reports[1].read_bytes()


def test_a_changed_hyper_parameter_reruns_what_depends_on_it(workspace):
    text = EXPERIMENT.replace("layer: {kind: autoencoder}", "layer: {kind: autoencoder, corruption: 0.3}")
    write_experiment(workspace, text)
    assert jobs(snakemake(workspace, "-n")) == {
        "all": 1, "pretrain": 1, "finetune": 1, "evaluate": 1, "plot": 1, "report": 1, "total": 6,
    }  # fmt: skip


@pytest.mark.parametrize(
    "old_new", [("A small study", "A short study"), ("Three layers make", "Three layers surely make")]
)
def test_words_rebuild_the_report_alone(workspace, old_new):
    write_experiment(workspace, EXPERIMENT.replace(*old_new))
    assert jobs(snakemake(workspace)) == {"all": 1, "report": 1, "total": 2}
    assert old_new[1] in (workspace / "results" / "report" / "demo.html").read_text()


def test_a_comment_reruns_nothing(workspace):
    write_experiment(workspace, "# a comment\n" + EXPERIMENT)
    assert NOTHING in snakemake(workspace)


def test_a_job_that_asks_for_more_memory_is_not_rerun(workspace):
    write_experiment(workspace, EXPERIMENT + "resources: {mem_mb: 5000}\n")
    assert set(jobs(snakemake(workspace, "-n"))) <= {"all", "report", "total"}


def test_a_flipped_byte_is_found_named_and_recomputed(workspace):
    before = digests(workspace)
    layer = sorted((workspace / "results" / "layers").glob("digits-200-rbm12-*"))[0] / "weights.safetensors"
    content = bytearray(layer.read_bytes())
    content[-1] ^= 1
    layer.write_bytes(content)
    for name in ("models", "metrics", "figures", "report"):
        shutil.rmtree(workspace / "results" / name)
    output = snakemake(workspace, code=1)
    assert f"{layer.relative_to(workspace)} does not match its manifest" in output
    snakemake(workspace)
    for broken in (workspace / "results" / "layers").glob(".broken-*"):
        shutil.rmtree(broken)
    assert digests(workspace) == before


def test_two_runs_give_the_same_bytes(finished, tmp_path):
    copy_workflow(tmp_path)
    snakemake(tmp_path, "--config", "data=elsewhere", "results=out")
    ours = {name.removeprefix("out/"): value for name, value in digests(tmp_path, "out/*/*/*").items()}
    theirs = {name.removeprefix("results/"): value for name, value in digests(finished).items()}
    assert ours == theirs


def test_snakemakes_own_report(finished, tmp_path):
    page = tmp_path / "report.html"
    snakemake(finished, "--report", str(page))
    text = page.read_text()
    assert "Figures" in text
    assert "each claim beside the evidence" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "experiments=smal"], "did you mean 'small'?"),
        (["--config", "scal=demo"], "unknown config key 'scal'"),
        (["--config", "scale=huge"], "huge"),
    ],
)
def test_a_wrong_config_is_said_without_a_traceback(finished, arguments, message):
    output = snakemake(finished, *arguments, code=1)
    assert message in output
    assert "Traceback" not in output


def test_lint_and_format():
    lint = subprocess.run([*SNAKEMAKE, "--lint"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert lint.returncode == 0, lint.stdout + lint.stderr
    files = ["Snakefile", *map(str, (ROOT / "workflow" / "rules").glob("*.smk"))]
    layout = subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert layout.returncode == 0, layout.stdout + layout.stderr


def test_every_rule_says_its_log_benchmark_threads_and_resources():
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        text = path.read_text()
        for keyword in ("log", "benchmark", "threads", "resources", "output", "params", "shell"):
            assert f"    {keyword}:" in text, path
        assert "    run:" not in text, path


def test_a_users_file_that_is_missing_is_said_without_a_traceback(tmp_path):
    copy_workflow(tmp_path)
    dataset = "{kind: images, images: none.npz, train: 20, test: 10, labelled: 15}"
    write_experiment(tmp_path, EXPERIMENT.replace("{kind: digits, train: 200, test: 100, labelled: 60}", dataset))
    output = snakemake(tmp_path, "-n", code=1)
    assert "no file none.npz" in output
    assert "Traceback" not in output


LANGUAGE = """\
title: A language
dataset: {kind: text, text: own.txt, by: character}
model: {kind: recurrent, cell: elman, units: [16]}
finetune:
  task: {kind: language_model, unroll: 10, columns: 1}
  duration: {epochs: 20}
  batch_size: 5
  optimizer: {kind: adam, learning_rate: 0.02}
axes:
  cell:
    elman: {}
    lstm: {model.cell: lstm}
seeds: 3
scales: {demo: {}}
claims:
  - says: A text that repeats itself is learnt.
    metric: test_perplexity
    value: 1
    tolerance: 0.5
figures:
  - {kind: curves, metric: valid_perplexity, lines: cell}
"""


def test_a_text_of_ones_own_from_its_file_to_the_report_and_to_more_of_it(tmp_path):
    copy_workflow(tmp_path)
    write_experiment(tmp_path, LANGUAGE)
    (tmp_path / "own.txt").write_text("to be or not to be\n" * 100)
    counts = {"fetch": 1, "prepare": 1, "finetune": 2, "evaluate": 2, "plot": 1, "report": 1, "all": 1, "total": 9}
    assert jobs(snakemake(tmp_path)) == counts
    (judged,) = json.loads((tmp_path / "results" / "report" / "demo.json").read_text())["experiments"]
    assert [claim["verdict"] for claim in judged["claims"]] == ["reproduced"]
    words = [sys.executable, "-m", "dlpipe", "sample", "small", "--where", "cell=lstm", "--prompt", "to be or"]
    done = subprocess.run(
        [*words, "--temperature", "0", "--length", "30"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("to be or not to be\nto be or not to b"), done.stdout
