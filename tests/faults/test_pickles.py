"""Nothing that dlpipe runs loads a pickle: a program of its own in which loading one is an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import REPORT
from tests.workspace import write_experiment

NO_PICKLES = '''
"""Imported by Python before anything else, in every process that a command starts, too."""
import pickle, _pickle

def refuse(*arguments, **options):
    raise RuntimeError("a pickle is loaded")

class Unpickler:
    def __init__(self, *arguments, **options):
        refuse()

pickle.load = pickle.loads = _pickle.load = _pickle.loads = refuse
pickle.Unpickler = pickle._Unpickler = _pickle.Unpickler = Unpickler
'''


@pytest.mark.slow  # a program for each command, each of which imports torch
def test_no_command_loads_a_pickle(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "sitecustomize.py").write_text(NO_PICKLES)
    path = os.pathsep.join([str(tmp_path / "blocked"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    load = python("-c", "import pickle; pickle.loads(pickle.dumps(1))")
    assert "RuntimeError: a pickle is loaded" in load.stderr, "the trap works"
    rules = ("fetch", "prepare", "pretrain", "finetune", "evaluate", "plot")
    for command in [("plan", "small"), *((rule, "small") for rule in rules), REPORT, ("check", "small"), ("verify",)]:
        done = python("-m", "dlpipe", *command)
        assert done.returncode == 0, done.stderr
