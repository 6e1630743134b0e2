"""Options and fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mirror", type=Path, default=None, help="folder with the real benchmark data, laid out as a download mirror"
    )


@pytest.fixture(scope="session")
def mirror(request: pytest.FixtureRequest) -> Path:
    folder = request.config.getoption("--mirror")
    if folder is None:
        pytest.skip("needs --mirror DIR")
    return folder.resolve()
