"""The made-up depth study, for figures."""

from __future__ import annotations

import pytest

from dlpipe.artifacts import Store
from dlpipe.figures.data import FigureData
from dlpipe.plan import Plan
from dlpipe.stages.plot import read_data
from tests import synthetic


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    folder = tmp_path_factory.mktemp("study")
    store = Store(folder / "data", folder / "results")
    plan = synthetic.plan_of(folder / "experiments")
    synthetic.make_metrics(plan, store)
    return plan, store


@pytest.fixture(scope="session")
def data(study: tuple[Plan, Store]) -> FigureData:
    plan, store = study
    return read_data(plan.stages[plan.experiments[0].figures], store)
