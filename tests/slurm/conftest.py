"""One cluster for all the tests of a session, and what an undisturbed local run of the same experiment leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, running, why_not
from tests.slurm.driver import LONG, Workspace
from tests.workspace import EXPERIMENT


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with running() as up:
        yield up


def undisturbed(tmp_path_factory: pytest.TempPathFactory, text: str) -> Workspace:
    work = Workspace(tmp_path_factory.mktemp("local"), text)
    work.run_here()
    return work


@pytest.fixture(scope="session")
def local(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The small study of depth, run on this machine without SLURM."""
    return undisturbed(tmp_path_factory, EXPERIMENT + "resources: {gpu: 1}\n")


@pytest.fixture(scope="session")
def local_long(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return undisturbed(tmp_path_factory, LONG)


@pytest.fixture
def long_run(local_long: Workspace, tmp_path: Path) -> Workspace:
    """A folder where everything stands but the layer that takes a while, and what builds on it."""
    work = Workspace(tmp_path / "run", LONG)
    work.take_data_from(local_long)
    return work
