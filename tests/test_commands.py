"""The commands, called as a user would: exit codes, what goes to stdout, what to stderr, help that can be pasted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dlpipe.artifacts import Store
from dlpipe.cli import COMMANDS, command_line, run
from tests.workspace import EXPERIMENT, write_experiment

ROOT = Path(__file__).parents[1]
STAGES = ("fetch", "prepare", "pretrain", "finetune", "evaluate", "plot")


def dlpipe(*arguments: str) -> int:
    return run(command_line, list(arguments))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the small experiment was run by hand, stage after stage."""
    folder = tmp_path_factory.mktemp("made")
    write_experiment(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for rule in STAGES:
            assert dlpipe(rule, "small") == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def spoilt(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `made` that the test may change, as the working folder."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def test_every_command_has_help_with_two_examples(capsys):
    for name in COMMANDS:
        assert dlpipe(name, "--help") == 0
        text = capsys.readouterr().out
        examples = re.findall(rf"^ +(dlpipe {name}.*)$", text.partition("Examples:")[2], re.MULTILINE)
        assert len(examples) == 2, text


def test_help_names_every_command_once(capsys):
    assert dlpipe("--help") == 0
    text = capsys.readouterr().out
    assert re.findall(r"^  (\w+)  ", text.partition("Commands:")[2], re.MULTILINE) == list(COMMANDS)


def test_list(folder, capsys):
    assert dlpipe("list") == 0
    assert capsys.readouterr().out.split()[1:] == ["demo", "A", "small", "study", "of", "depth"]


def test_plan_as_a_tree_and_as_json(folder, capsys):
    assert dlpipe("plan", "small") == 0
    out, err = capsys.readouterr()
    assert "12 stages; without sharing 19; 12 to run" in out
    assert out.count("pretrain ") == out.count("finetune ") == out.count("evaluate ") == 3
    assert "for 3 variants" in out
    assert "depth=2" in out
    assert err == ""
    assert dlpipe("plan", "small", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["stages"]) == 12
    assert all(stage["to_run"] for stage in document["stages"])
    assert [v["levels"]["depth"] for v in document["experiments"][0]["variants"]] == ["1", "2", "3"]


def test_a_stage_by_hand_prints_its_folder_and_is_not_made_twice(spoilt, capsys):
    assert dlpipe("pretrain", "small") == 0
    folders = capsys.readouterr().out.split()
    assert len(folders) == 3
    times = [(spoilt / folder / "manifest.json").stat().st_mtime_ns for folder in folders]
    assert dlpipe("pretrain", Path(folders[0]).name) == 0
    assert capsys.readouterr().out.split() == folders[:1]
    assert [(spoilt / folder / "manifest.json").stat().st_mtime_ns for folder in folders] == times


def test_a_stage_without_its_inputs_says_which_command_to_run_first(folder, capsys):
    assert dlpipe("pretrain", "small") == 1
    assert re.search(r"Run `dlpipe prepare digits-200-\w+` \(or snakemake\) first", capsys.readouterr().err)


def test_an_id_of_another_rule_is_refused(spoilt, capsys):
    layer = next((spoilt / "results" / "layers").iterdir()).name
    assert dlpipe("finetune", layer) == 1
    assert f"{layer} is a stage of `dlpipe pretrain`" in capsys.readouterr().err


def test_plan_and_why_after_a_change(spoilt, capsys):
    assert dlpipe("plan", "small") == 0
    assert "; 0 to run" in capsys.readouterr().out
    assert dlpipe("why", "small") == 0
    assert capsys.readouterr().out == "nothing would run: every artifact stands\n"
    write_experiment(spoilt, EXPERIMENT.replace("{epochs: 3}", "{epochs: 4}"))
    assert dlpipe("why", "small") == 0
    out = capsys.readouterr().out
    assert "finetune.duration.epochs: 3.0 -> 4.0  (config/experiments/small.yaml:12:22)" in out
    assert re.search(r"finetune digits-200-rbm-mlp12-\w+  \(about \d+ s\)", out)
    assert "pretrain" not in out
    assert dlpipe("plan", "small") == 0
    assert "to run: finetune.duration.epochs: 3.0 -> 4.0" in capsys.readouterr().out


def test_why_of_a_stage(spoilt, capsys):
    evaluation = next((spoilt / "results" / "metrics").iterdir())
    shutil.rmtree(evaluation)
    assert dlpipe("why", evaluation.name) == 0
    assert f"evaluate {evaluation.name}" in capsys.readouterr().out


def test_show(spoilt, capsys):
    evaluation = next((spoilt / "results" / "metrics").iterdir())
    assert dlpipe("show", evaluation.name) == 0
    out = capsys.readouterr().out
    assert f"evaluate {evaluation.name}" in out
    assert "0,test_error," in out
    assert dlpipe("show", evaluation.name, "--json") == 0
    assert json.loads(capsys.readouterr().out)["stage"]["id"] == evaluation.name
    assert dlpipe("show", "nothing") == 1


def test_verify_finds_what_is_damaged(spoilt, capsys):
    assert dlpipe("verify") == 0
    assert "12 artifacts: 0 damaged, 0 made by other code" in capsys.readouterr().out
    weights = next((spoilt / "results" / "layers").glob("*/weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0\0")
    assert dlpipe("verify") == 3
    assert str(weights.relative_to(spoilt)) in capsys.readouterr().out
    assert dlpipe("verify", "--set-aside") == 3
    assert not weights.exists()
    assert dlpipe("verify") == 0


def test_verify_says_what_other_code_made(spoilt, capsys, monkeypatch):
    monkeypatch.setattr("dlpipe.provenance._module_digest", lambda _: "0" * 16)
    assert dlpipe("verify") == 0
    out = capsys.readouterr().out
    assert "12 made by other code than today's" in out
    assert "layer.rbm" in out


def test_check_judges_and_its_exit_code_says_so(spoilt, capsys):
    """Claims that must come out one way or the other: an error of at most 101 %, and one of at most -49 %."""
    claims = "claims: [{says: Below 101., metric: test_error, where: {depth: 3}, value: 50, tolerance: 51}"
    head = EXPERIMENT.partition("claims:")[0]
    write_experiment(spoilt, f"{head}{claims}]\n")
    assert dlpipe("check", "small") == 0
    assert capsys.readouterr().out.startswith("reproduced ")
    impossible = "{says: Negative., metric: test_error, where: {depth: 3}, value: -50, tolerance: 1}"
    write_experiment(spoilt, f"{head}{claims}, {impossible}]\n")
    assert dlpipe("check", "small") == 3
    assert "\nnot reproduced" in capsys.readouterr().out


def test_check_is_inconclusive_without_results(folder, capsys):
    assert dlpipe("check", "small") == 0
    assert capsys.readouterr().out.startswith("inconclusive")
    assert dlpipe("check", "small", "--strict") == 3


def test_report_and_its_verdicts(spoilt, capsys):
    assert dlpipe("report", "small", "--to", "page.html") == 0
    assert capsys.readouterr().out == "page.html\n"
    assert "A small study of depth" in Path("page.html").read_text()
    assert json.loads(Path("page.json").read_text())


def test_samples_of_a_layer_and_of_a_stack(spoilt, capsys):
    assert dlpipe("sample", "small", "--where", "depth=1", "--count", "6", "--steps", "3", "--to", "one.npz") == 0
    assert capsys.readouterr().out == "one.npz\n"
    samples = np.load("one.npz", allow_pickle=False)["samples"]
    assert samples.shape == (6, 8, 8)
    assert ((samples > 0) & (samples < 1)).all()
    assert dlpipe("sample", "small", "--where", "depth=2", "--count", "6", "--steps", "3", "--to", "two.npz") == 0
    assert not np.array_equal(np.load("two.npz", allow_pickle=False)["samples"], samples)
    for name, noise in (("again.npz", "0"), ("other.npz", "1")):
        more = ("--count", "6", "--steps", "3", "--noise", noise, "--to", name)
        assert dlpipe("sample", "small", "--where", "depth=1", *more) == 0
    again, other = (np.load(name, allow_pickle=False)["samples"] for name in ("again.npz", "other.npz"))
    assert np.array_equal(again, samples)
    assert not np.array_equal(other, samples)
    layer = next(path.name for path in Path("results/layers").iterdir() if "rbm12" in path.name)
    assert dlpipe("sample", layer, "--count", "4", "--steps", "2") == 0
    picture = Path(f"results/samples/{layer}-seed0.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 1, "has several models to sample; choose one:\n  --where depth=1\n  --where depth=2"),
        (("--where", "depth=3"), 1, "nothing there that can be sampled"),  # an autoencoder is on top
        (("--where", "depth=9"), 1, "no variant at depth=9; its axes and their levels are:\n  depth: 1, 2, 3"),
        (("--where", "depth"), 2, "--where is AXIS=LEVEL"),
        (("--where", "depth=1", "--seed", "7"), 1, "trains seeds 0, 1, 2, not 7"),
        (("--where", "depth=1", "--label", "3"), 1, "trained without labels"),
        (("--where", "depth=1", "--label", "three"), 1, "there is no class 'three'; there are 0, 1"),
        (("--where", "depth=1", "--to", "samples.gif"), 1, ".png or .npz"),
    ],
)
def test_what_cannot_be_sampled_is_explained(spoilt, capsys, arguments, code, message):
    assert dlpipe("sample", "small", "--steps", "2", *arguments) == code
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


def test_the_schema_is_json(capsys):
    assert dlpipe("schema") == 0
    assert json.loads(capsys.readouterr().out)["properties"]["dataset"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian", "small"], "Did you mean 'pretrain'?"),
        (["plan"], "Missing argument 'WHAT...'"),
        (["plan", "smal"], "did you mean 'small'?"),
        (["plan", "small", "-s", "finetune.duration.epoch=5"], "did you mean 'epochs'?"),
        (["plan", "small", "--scale", "huge"], "'huge' is not one of 'demo', 'lab', 'paper'"),
        (["pretrain", "small", "--threads", "0"], "0 is not in the range x>=1"),
        (["pretrain", "small", "--deadline", "nan"], "nan is not a finite number"),
        (["status", "small", "--watch", "--every", "inf"], "inf is not a finite number"),
    ],
)
def test_usage_and_configuration_errors_are_exit_code_2(folder, capsys, arguments, message):
    assert dlpipe(*arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
    assert "Traceback" not in err


def test_an_interruption_is_exit_code_130(folder, capsys, monkeypatch):
    monkeypatch.setattr("dlpipe.commands.planning.load_plan", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert dlpipe("plan", "small") == 130
    assert "interrupted" in capsys.readouterr().err


def test_talk_is_plain_text_where_there_is_no_terminal(made, tmp_path):
    """NO_COLOR or not: a pipe gets no escape codes."""
    done = subprocess.run(
        [sys.executable, "-m", "dlpipe", "prepare", "small", "--data", str(tmp_path), "--results", str(tmp_path)],
        cwd=made, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "\x1b" not in done.stdout + done.stderr


def test_stages_find_their_documents_by_id_alone(spoilt):
    """A cluster's job needs no experiment file: the id is enough."""
    store = Store()
    layer = sorted((spoilt / "results" / "layers").iterdir())[0].name
    shutil.rmtree(spoilt / "results" / "layers" / layer)
    shutil.rmtree(spoilt / "config")
    assert dlpipe("pretrain", layer) == 0
    assert store.is_done("pretrain", layer)


@pytest.mark.slow  # it runs what the examples say: pretraining of the depth study and training of the baselines
def test_the_examples_in_the_help_work_when_pasted(tmp_path):
    """In a folder with the experiments, one command after another in the order of the flow, each by a shell."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    # A claim may not be reproduced, this machine be no login node, and no model that writes text is trained here.
    codes = {"check": (0, 3), "doctor": (0, 1), "sample": (0, 1)}
    for name in COMMANDS:
        command = command_line.get_command(None, name)
        before = ["dlpipe prepare baselines"] if name == "finetune" else []
        for line in [*before, *command.epilog.splitlines()[2:]]:
            done = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode in codes.get(name, (0,)), f"{line}\n{done.stdout}{done.stderr}"
            assert name != "sample" or done.returncode == 0 or "missing or unfinished" in done.stderr, done.stderr


def test_a_deadline_is_for_all_the_stages_of_a_command(folder, monkeypatch):
    """Each stage takes a second here, by a clock of our own; the next is told what is left."""
    now, told = [100.0], []

    def pretend(stage, store, deadline, **_):
        told.append(deadline)
        now[0] += 1.0

    monkeypatch.setattr("dlpipe.stages.pretrain.run", pretend)
    monkeypatch.setattr("dlpipe.commands.making.time.monotonic", lambda: now[0])
    assert dlpipe("pretrain", "small", "--deadline", "10") == 0
    assert told == [10.0, 9.0, 8.0]
