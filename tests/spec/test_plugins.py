"""Kinds from other packages, found through entry points of distributions on the path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.spec.conftest import BASE

KINDS = """
from typing import ClassVar, Literal
from dlpipe.spec.layers import LayerSpec
from dlpipe.spec.optimizers import OptimizerSpec

class Ising(LayerSpec):
    implementation: ClassVar[str] = "other.layers:Ising"
    kind: Literal["ising"] = "ising"
    coupling: float = 1.0

class Lion(OptimizerSpec):
    implementation: ClassVar[str] = "other.optimizers:lion"
    kind: Literal["lion"] = "lion"
"""
LOAD = """
import sys
from pathlib import Path
from dlpipe.spec.problems import SpecError
try:
    from dlpipe.spec.loading import load
    loaded = load(Path(sys.argv[1]))
except SpecError as error:
    sys.exit(str(error))
print(loaded.experiment.pretrain.layer.component, loaded.experiment.phases[0].optimizer.component)
"""
EXPERIMENT = (
    BASE.split("pretrain")[0]
    + """\
pretrain:
  layer: {kind: ising, coupling: 0.5}
  early_stopping: {by: a metric that its spec does not declare, patience: {epochs: 1}}
  duration: {epochs: 1}
  optimizer: {kind: sgd, learning_rate: 1}
finetune:
  task: {kind: classification}
  duration: {epochs: 1}
  optimizer: {kind: lion, learning_rate: 1}
"""
)


def install(site: Path, name: str, module: str, code: str) -> None:
    """A distribution, as pip leaves it: a module and metadata with entry points."""
    (site / f"{module}.py").write_text(code)
    info = site / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[dlpipe.kinds]\n{name} = {module}\n")


def loaded(site: Path, experiment: str = EXPERIMENT) -> subprocess.CompletedProcess[str]:
    """The experiment in a new process, whose path has the distributions of `site`."""
    path = site / "x.yaml"
    path.write_text(experiment)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    return subprocess.run([sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True, env=environment)


def test_kinds_of_another_package(tmp_path: Path) -> None:
    install(tmp_path, "other", "other_kinds", KINDS)
    assert loaded(tmp_path).stdout == "layer.ising optimizer.lion\n"
    broken = loaded(tmp_path, EXPERIMENT.replace("coupling", "cuopling"))
    assert "unknown key 'cuopling' in pretrain.layer (ising)" in broken.stderr
    assert "did you mean 'coupling'?" in broken.stderr


def test_without_the_package_its_kinds_are_unknown(tmp_path: Path) -> None:
    assert "unknown kind 'ising' of layer" in loaded(tmp_path).stderr


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        (
            KINDS.replace("ising", "rbm"),
            "ValueError: layer kind 'rbm' is declared twice: dlpipe.spec.layers and other_kinds",
        ),
    ],
)
def test_a_broken_package_is_named(tmp_path: Path, code: str, reason: str) -> None:
    install(tmp_path, "other", "other_kinds", code)
    install(tmp_path, "sound", "sound_kinds", KINDS if "rbm" in code else "")
    error = loaded(tmp_path).stderr
    assert error == (
        f"package other 1.2: its kinds in other_kinds cannot be loaded: {reason}\n    update or uninstall the package\n"
    )
