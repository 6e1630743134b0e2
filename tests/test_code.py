"""The code's own promises: lint, layout, types, the direction of imports, no pickle and no eval."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "dlpipe").rglob("*.py"))
GROUND = ("artifacts", "errors", "files", "locks", "provenance", "progress", "running")
MAY_IMPORT = {
    "spec": {"spec"},
    "errors": set(),
    "locks": {"errors"},
    "provenance": set(),
    "files": set(),
    "artifacts": {"errors", "files", "locks", "provenance"},
    "progress": set(),
    "doctor": {"doctor"},
    "gpus": {"errors", "progress"},
    "running": {"artifacts", "files", "locks", "progress"},
    "status": {"changes", "running", "artifacts", "errors", "locks"},
    "models": {"models", "layers"},
    "layers": {"layers"},
    "datasets": {"datasets", "spec", *GROUND},
    "plan": {"resources", "spec", *GROUND},
    "resources": {"spec", *GROUND},
    "changes": {"plan", "spec", *GROUND},
    "packs": {"artifacts", "errors", "files", "progress"},
    "runtime": {"runtime", "gpus", "spec", *GROUND, "datasets"},
    "sampling": {"datasets", "figures", "plan", "report", "runtime", "spec", "tasks", *GROUND},
    "tasks": {"tasks", "models", "layers", "errors"},
    "measures": {"measures", "layers", "models", "tasks"},
    "figures": {"figures", "spec", "artifacts", "report"},
    "report": {"report", "figures", "spec", *GROUND},
    "stages": {"stages", "runtime", "tasks", "figures", "report", "models", "layers", "datasets", "spec", *GROUND},
}


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join
)
def test_lint_layout_and_types(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def imported(path: Path) -> set[str]:
    """The parts of dlpipe that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "dlpipe" else [f"dlpipe.{a.name}" for a in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("dlpipe.") and not name.endswith("__")}
    return found


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_run_downward(part):
    files = [path for path in SOURCES if path.relative_to(ROOT / "dlpipe").parts[0].removesuffix(".py") == part]
    assert files
    for path in files:
        assert imported(path) <= MAY_IMPORT[part], path


def test_nothing_loads_a_pickle_or_evaluates_text():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert name not in ("eval", "exec", "pickle.load", "pickle.loads", "torch.load", "os.system"), path
            if name.startswith("subprocess."):
                assert "shell=True" not in ast.unparse(node), path
            if name == "np.load":
                assert "allow_pickle=False" in ast.unparse(node), path
