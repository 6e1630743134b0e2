"""Options and fixtures that all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.faults.campaign import Campaign


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--mirror", type=Path, default=None, help="folder with the real benchmark data, laid out as a download mirror"
    )
    parser.addoption(
        "--campaign",
        action="store_true",
        help="only the tests named in docs/reliability.md, with many repetitions, and a table of what was lost",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Before torch is loaded: threads that wait by spinning take the cores from the tests beside, and from the programs
    # that a test has started.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if config.getoption("--campaign"):
        settings.register_profile("campaign")
        settings.load_profile("campaign")
        config.pluginmanager.register(Campaign())
    # A shell's background job ignores SIGINT, and so would the programs that tests send it to.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Only `-m gpu` uses a GPU: the other tests mean the same on every machine, and take no device from anybody.
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """SLURM's first: they wait for most of their time, while another process works through the rest."""
    items.sort(key=lambda item: item.path.parent.name != "slurm")


@pytest.fixture(scope="session")
def mirror(request: pytest.FixtureRequest) -> Path:
    folder = request.config.getoption("--mirror")
    if folder is None:
        pytest.skip("needs --mirror DIR")
    return folder.resolve()


@pytest.fixture(scope="session")
def often(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How often to try something: `often(in every run of the tests, in the campaign)`."""
    campaign = request.config.getoption("--campaign")
    return lambda always, in_campaign: in_campaign if campaign else always


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Tells the campaign's table how often this test tried something, if more than once, and what it measured."""

    def tell(times: int, note: str = "") -> None:
        request.node.user_properties.append(("tried", (times, note)))

    return tell
