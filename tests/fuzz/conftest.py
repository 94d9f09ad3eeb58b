"""How many requests are made, and what they were answered, reported at the end."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest

from tests.fuzz.campaign import Campaign

_REQUESTS = 3000
"""Unless asked otherwise; pytest only knows the options when it is run for this directory."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--requests", type=int, default=_REQUESTS, help="how many requests are made, in all")
    parser.addoption("--fuzz-seed", type=int, help="what chance begins with, to repeat a campaign")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A long campaign has more time than other tests have."""
    requests = config.getoption("--requests", _REQUESTS)
    for item in items:
        if "campaign" in getattr(item, "fixturenames", ()) and requests > _REQUESTS:
            item.add_marker(pytest.mark.timeout(requests / 5))


@pytest.fixture
def campaign(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Campaign:
    """What one test asks: the same each time, unless there is to be more of it than usual."""
    requests = request.config.getoption("--requests", _REQUESTS)
    seed = request.config.getoption("--fuzz-seed", None)
    if seed is None:
        seed = secrets.randbits(32) if requests > _REQUESTS else 0
    return Campaign(requests, seed, lambda tally: record_property("fuzz", tally))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, tally in report.user_properties:
                if name == "fuzz":
                    terminalreporter.write_line(f"fuzz, {report.nodeid.rpartition('::')[2]}: {tally}")
