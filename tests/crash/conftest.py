"""How often the campaign kills, and what it reports at the end."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator

import pytest

from tests.crash.kills import Campaign

_KILLS = 25
"""Unless asked otherwise; pytest only knows the options when it is run for this directory."""
_TALLIES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=_KILLS, help="how often processes are killed, in all")
    parser.addoption("--seed", type=int, help="what chance begins with, to repeat a campaign")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A long campaign has more time than other tests have."""
    kills = config.getoption("--kills", _KILLS)
    for item in items:
        if "campaign" in getattr(item, "fixturenames", ()) and kills > _KILLS:
            item.add_marker(pytest.mark.timeout(4 * kills))


@pytest.fixture
def campaign(request: pytest.FixtureRequest) -> Iterator[Campaign]:
    """What chance decides in one test, reported at the end."""
    kills = request.config.getoption("--kills", _KILLS)
    seed = request.config.getoption("--seed", None) or secrets.randbits(32)
    campaign = Campaign(kills, seed, random.Random(seed))
    yield campaign
    request.config.stash.setdefault(_TALLIES, []).append(
        f"crash, {request.path.stem.removeprefix('test_')}: {campaign}"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for tally in config.stash.get(_TALLIES, []):
        terminalreporter.write_line(tally)
