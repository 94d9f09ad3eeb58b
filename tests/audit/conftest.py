"""How many histories are made up and replayed."""

from __future__ import annotations

import pytest

_HISTORIES = 20
"""Unless asked otherwise; pytest only knows the option when it is run for this directory."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--histories",
        type=int,
        default=_HISTORIES,
        help="how many histories, and jobs of a trace, are replayed",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Many histories have more time than other tests have."""
    histories = config.getoption("--histories", _HISTORIES)
    for item in items:
        if "histories" in getattr(item, "fixturenames", ()) and histories > _HISTORIES:
            item.add_marker(pytest.mark.timeout(20 * histories))


@pytest.fixture
def histories(request: pytest.FixtureRequest) -> int:
    """How many histories are made up, and how many jobs of a trace are run."""
    return int(request.config.getoption("--histories", _HISTORIES))
