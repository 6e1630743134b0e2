"""From an experiment's name to what its file means.

A file is checked as it stands and at every scale that it declares, so that a problem of `lab` shows when `demo` is
planned. All problems come at once, as a SpecError.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dlpipe.spec import findings, source
from dlpipe.spec.bibliography import BibEntry, find_bibliography, read_bibliography
from dlpipe.spec.problems import Report, SpecError, cropped, did_you_mean, listed
from dlpipe.spec.reading import Reading
from dlpipe.spec.variants import LoadedExperiment


def load(
    path: Path, *, scale: str | None = None, overrides: Sequence[str] = (), bibliography: Path | None = None
) -> LoadedExperiment:
    """The experiment of a file at a scale (without one: as the file stands), with `path=value` overrides.

    `bibliography` is looked for above the file when absent. Raises SpecError with all problems of the file.
    """
    return _load(Path(path), scale, tuple(overrides), bibliography, ())


def find_experiment(name: str, root: Path) -> Path:
    """The file of the experiment called `name` (or the path `name`) under `root`. Raises SpecError."""
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        return Path(name)
    files = sorted(path for path in Path(root).rglob("*.yaml") if path.is_file())
    names = {path: path.relative_to(root).with_suffix("").as_posix() for path in files}
    found = [path for path in files if name in (path.stem, names[path])]
    if len(found) == 1:
        return found[0]
    if found:
        message = f"{len(found)} experiments are called '{cropped(name)}'"
        raise SpecError.single(root, None, message, f"name one: {listed([names[path] for path in found], 'or')}")
    hint = did_you_mean(name, [path.stem for path in files], "there are {}") or "the folder holds no .yaml file"
    raise SpecError.single(root, None, f"no experiment is called '{cropped(name)}'", hint)


def experiments_root(path: Path) -> Path:
    """The folder that a file's `from` looks in: the `experiments` folder above it, else its own folder."""
    return next((parent for parent in path.parents if parent.name == "experiments"), path.parent)


def _load(
    path: Path, scale: str | None, overrides: tuple[str, ...], bibliography: Path | None, above: tuple[Path, ...]
) -> LoadedExperiment:
    file = ExperimentFile(path, bibliography, (*above, path.resolve()))
    readings = {each: Reading(file, each) for each in (None, *file.scales)}
    if scale is not None and scale not in file.scales:
        hint = did_you_mean(scale, file.scales, "it has {}") or f"declare it: scales: {{{cropped(scale)}: {{}}}}"
        message = f"this file has no scale '{cropped(scale)}'"
        if "scales" in file.document.keys:
            file.report.add(file.document.keys["scales"], message, hint)
        else:
            file.report.extend(SpecError.single(path, None, message, hint))
    chosen = Reading(file, scale, overrides) if overrides else readings.get(scale)
    for reading in (*readings.values(), *([chosen] if overrides and chosen else [])):
        reading.check(claims=reading is chosen or reading.scale is not None)
    findings.merge(file.report, [finding for reading in file.readings for finding in reading.findings])
    file.report.raise_if_any()
    assert chosen is not None
    assert chosen.experiment is not None
    return LoadedExperiment(
        name=path.stem,
        path=path,
        scale=scale,
        experiment=chosen.experiment,
        variants=tuple(chosen.variants),
        seeds=list(range(chosen.experiment.seeds)),
        papers={key: entry for key, entry in file.papers().items() if key in chosen.cited},
        document=chosen.document,
    )


class ExperimentFile:
    """A file, its report, and what it refers to."""

    def __init__(self, path: Path, bibliography: Path | None, loading: tuple[Path, ...]) -> None:
        self.path, self.loading = path, loading
        self.report = Report()
        self.document = source.read(path, self.report)
        self.readings: list[Reading] = []
        declared = self.document.get("scales")
        self.scales = [name for name, _ in declared.items()] if declared is not None else []
        self._bibliography = bibliography or find_bibliography(path)
        self._papers: dict[str, BibEntry] | None = None
        self._others: dict[tuple[str, str | None], LoadedExperiment | SpecError] = {}

    @property
    def lines(self) -> Sequence[str]:
        return self.report.lines[str(self.path)]

    def papers(self) -> dict[str, BibEntry]:
        if self._papers is None:
            self._papers = {}
            if self._bibliography is not None:
                try:
                    self._papers = read_bibliography(self._bibliography)
                except SpecError as error:
                    self.report.extend(error)
        return self._papers

    @property
    def bibliography(self) -> str:
        if self._bibliography is None:
            return "papers.bib, which is nowhere above this file"
        return min(str(self._bibliography), os.path.relpath(self._bibliography), key=len)

    def other(self, name: str, scale: str | None) -> LoadedExperiment:
        """Another experiment, at the same scale if it has it. Raises SpecError."""
        known = self._others.get((name, scale))
        if known is None:
            known = self._others[name, scale] = self._load_other(name, scale)
        if isinstance(known, SpecError):
            raise known
        return known

    def _load_other(self, name: str, scale: str | None) -> LoadedExperiment | SpecError:
        try:
            path = find_experiment(name, experiments_root(self.path))
            if path.resolve() in self.loading:
                names = [each.stem for each in (*self.loading[self.loading.index(path.resolve()) :], path)]
                return SpecError.single(path, None, f"it would start from itself: {' from '.join(names)}")
            other = _load(path, None, (), self._bibliography, self.loading)
            if scale in other.experiment.scales:
                other = _load(path, scale, (), self._bibliography, self.loading)
        except SpecError as error:
            return error
        return other
