"""Is dlpipe installed as it should be: Python, its libraries, the programs it calls, the profile, git."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import shutil
import sys
from pathlib import Path

from dlpipe.doctor.findings import Finding, ask, fail, look, note, ok, warn


def installation() -> list[Finding]:
    """All of it. The working folder is taken for the project's."""
    return [
        *look("Python", python),
        *look("libraries", libraries),
        *look("snakemake", program, "snakemake"),
        *look("dlpipe", program, "dlpipe"),
        *look("profile", profile, Path.cwd()),
        *look("git", git),
    ]


def python() -> list[Finding]:
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    try:
        needed = importlib.metadata.metadata("dlpipe")["Requires-Python"]
    except importlib.metadata.PackageNotFoundError:
        return [ok("Python", f"{version}, {sys.executable}")]
    if version not in SpecifierSet(needed, prereleases=True):
        advice = "Build the environment with a newer Python: `make clean`, then `make env PYTHON=python3.12`, say."
        return [fail("Python", f"{version}; dlpipe needs {needed}", advice)]
    return [ok("Python", f"{version}, {sys.executable}")]


def libraries(subject: str = "libraries", extra: str = "") -> list[Finding]:
    """Whether what pyproject.toml asks for is there, in a version that it allows; nothing is imported."""
    try:
        needed = _requirements(extra)
    except importlib.metadata.PackageNotFoundError:
        advice = "Run `make env` in the project's folder, or `python -m pip install -e .`, and use that environment."
        return [warn(subject, "dlpipe is not installed, so what it needs is unknown", advice)]
    wrong = {text: problem for text in needed if (problem := _unfit(text))}
    if wrong:
        return [fail(subject, "; ".join(wrong.values()), f"Install what fits: {pip_install(*wrong)}.")]
    if extra:
        return [ok(subject, ", ".join(_installed(text) for text in needed))]
    return [ok(subject, f"all {len(needed)} there, each in a version that dlpipe allows")]


def pip_install(*requirements: str) -> str:
    return "`" + shlex.join([sys.executable, "-m", "pip", "install", *requirements]) + "`"


def requirement(name: str) -> str:
    """What dlpipe requires of a library, as pip takes it; the name alone when dlpipe is not installed."""
    from packaging.requirements import Requirement

    try:
        return next((text for text in _requirements("") if Requirement(text).name == name), name)
    except importlib.metadata.PackageNotFoundError:
        return name


def _requirements(extra: str) -> list[str]:
    """What dlpipe requires without extras, or what the one extra adds; each as pip takes it."""
    from packaging.requirements import Requirement

    parsed = [Requirement(text) for text in importlib.metadata.requires("dlpipe") or []]
    always = [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]
    chosen = [r for r in parsed if r not in always and r.marker and r.marker.evaluate({"extra": extra})]
    plain = chosen if extra else always
    for parsed_one in plain:
        parsed_one.marker = None
    return [str(parsed_one) for parsed_one in plain]


def _installed(text: str) -> str:
    from packaging.requirements import Requirement

    name = Requirement(text).name
    return f"{name} {importlib.metadata.version(name)}"


def _unfit(text: str) -> str:
    """What is wrong with the library that a requirement names; nothing is an empty text."""
    from packaging.requirements import Requirement

    needed = Requirement(text)
    try:
        version = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{needed.name} is missing"
    if needed.specifier.contains(version, prereleases=True):
        return ""
    return f"{needed.name} is {version}, dlpipe needs {needed.specifier}"


def program(name: str) -> list[Finding]:
    """Whether the program that jobs call by name is there and belongs to this environment."""
    activate = Path(sys.prefix) / "bin" / "activate"
    command = f"source {shlex.quote(str(activate))}" if activate.exists() else f"export PATH={activate.parent}:$PATH"
    advice = f"Put this environment first on your path: `{command}`."
    where = shutil.which(name)
    if where is None:
        return [fail(name, "is not on your path, and jobs call it by its name", advice)]
    answer = ask(where, "--version", patience=60)
    if answer.problem:
        return [fail(name, f"{where} does not start: {answer.problem}", advice)]
    version = answer.text.split()[-1] if answer.text.split() else "?"
    ours = _version(name)
    if ours and version != ours:
        return [warn(name, f"{where} is {version}, of another environment; this one has {ours}", advice)]
    return [ok(name, f"{version}, {where}")]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def profile(project: Path) -> list[Finding]:
    """Whether snakemake, started here, finds the workflow and the profile that loads by itself."""
    if not (project / "Snakefile").exists():
        advice = "Start `snakemake` in the project's folder: it looks for the Snakefile and the profile there."
        return [note("profile", f"{project} has no Snakefile", advice)]
    if not (project / "profiles" / "default" / "config.yaml").exists():
        advice = "Fetch the folder profiles/ of the project again: it is what makes interrupted jobs go on."
        return [warn("profile", f"{project}/profiles/default/config.yaml is missing", advice)]
    if others := os.environ.get("SNAKEMAKE_PROFILE"):
        advice = "Unset the variable if that is not meant, or give another with `--profile`."
        return [note("profile", f"profiles/default, over SNAKEMAKE_PROFILE={others}", advice)]
    return [ok("profile", "profiles/default, which loads by itself")]


def git() -> list[Finding]:
    answer = ask("git", "--version")
    if answer.problem:
        advice = "Install git: without it a manifest and a report cannot say which commit made a result."
        return [note("git", answer.problem, advice)]
    return [ok("git", answer.text.strip().removeprefix("git version "))]
