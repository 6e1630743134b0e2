"""Kinds from other packages.

A package names a module in its entry-point group `dlpipe.kinds`; importing it declares `Component` subclasses. It may
import `dlpipe.spec.base`, `datasets`, `sequences`, `layers`, `measures`, `models`, `tasks`, `figures`, `optimizers`,
`schedules` and `recorded`, but not `training` or `experiment`, which join all kinds into types and so come after it.
"""

from __future__ import annotations

from dlpipe.spec.problems import Problem, SpecError

GROUP = "dlpipe.kinds"


def load() -> None:
    """Imports every module of the group. Raises SpecError, naming the package, when one cannot be imported."""
    from importlib.metadata import entry_points  # pydantic has imported it already; the scan takes about 5 ms

    # The kinds of dlpipe come first, so that a clash of names is the plugin's.
    from dlpipe.spec import (  # noqa: F401
        boltzmann,
        datasets,
        figures,
        layers,
        measures,
        models,
        optimizers,
        recurrent,
        schedules,
        sequences,
        tasks,
    )

    problems = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        try:
            entry.load()
        except Exception as error:
            package = f"package {entry.dist.name} {entry.dist.version}" if entry.dist else f"plugin {entry.name}"
            reason = f"{type(error).__name__}: {error}"
            message = f"its kinds in {entry.value} cannot be loaded: {reason}"
            problems.append(Problem(package, None, None, message, "update or uninstall the package"))
    if problems:
        raise SpecError(problems)
