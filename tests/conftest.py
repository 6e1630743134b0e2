"""Options and fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mirror", type=Path, default=None, help="folder with the real benchmark data, laid out as a download mirror"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Only `-m gpu` uses a GPU: the other tests mean the same on every machine, and take no device from anybody."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def mirror(request: pytest.FixtureRequest) -> Path:
    folder = request.config.getoption("--mirror")
    if folder is None:
        pytest.skip("needs --mirror DIR")
    return folder.resolve()
