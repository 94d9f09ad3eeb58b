"""How long the campaigns of several nodes are, and what they report at the end."""

from __future__ import annotations

import random
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.nodes.campaign.machine import CAN_BE_MADE

_TALLIES = pytest.StashKey[list[str]]()
_LONGEST = 1500


def pytest_addoption(parser: pytest.Parser) -> None:
    # pytest only knows them when it is run for this directory.
    parser.addoption("--long", action="store_true", help="do all of it, which takes minutes")
    parser.addoption("--nodes-seed", type=int, help="what chance begins with, to repeat a campaign")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A long campaign has more time than other tests have."""
    if config.getoption("--long", False):
        for item in items:
            if "campaign" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.timeout(_LONGEST))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Where there is time for only one, nodes are apart as on machines of their own, if they can be."""
    if "apart" in metafunc.fixturenames:
        is_long = metafunc.config.getoption("--long", False)
        values = {CAN_BE_MADE, CAN_BE_MADE and not is_long}
        metafunc.parametrize("apart", sorted(values), ids=lambda apart: "apart" if apart else "together")


@dataclass
class Campaign:
    """What chance decides in one test, and what came of it."""

    is_long: bool
    seed: int
    random: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    begun: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in self.counts.items())
        return f"{counts}, {time.monotonic() - self.begun:.0f} s, seed {self.seed}"


@pytest.fixture
def campaign(request: pytest.FixtureRequest) -> Iterator[Campaign]:
    seed = request.config.getoption("--nodes-seed", None) or secrets.randbits(32)
    campaign = Campaign(request.config.getoption("--long", False), seed, random.Random(seed))
    yield campaign
    request.config.stash.setdefault(_TALLIES, []).append(f"{request.node.name}: {campaign}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):  # type: ignore[no-untyped-def]
    """What fails says how to repeat it."""
    report = yield
    if report.failed and (campaign := getattr(item, "funcargs", {}).get("campaign")):
        report.sections.append(("campaign", str(campaign)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for tally in config.stash.get(_TALLIES, []):
        terminalreporter.write_line(tally)
