"""Slurm, for tests that need one, and how many jobs its campaign has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.execution.conftest import gate, ready
from tests.slurm.cluster import Slurm, missing, slurm

JOBS = 30
"""Of the campaign, unless asked otherwise; pytest only knows the option when it is run for this directory."""

__all__ = ["gate", "ready"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--jobs", type=int, default=JOBS, help="how many jobs the campaign in Slurm has")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slurm's own times are seconds; a long campaign has more than other tests have."""
    for item in items:
        if "slurm_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(300 + 4 * config.getoption("--jobs", JOBS)))


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Slurm]:
    """A cluster for all tests of a process, started when one asks for it."""
    if why := missing():
        pytest.skip(f"Slurm: nothing of what it runs is tested: {why}")
    with slurm() as cluster:
        yield cluster


@pytest.fixture
def cluster(slurm_cluster: Slurm) -> Iterator[Slurm]:
    """A cluster without jobs, all of which runs."""
    yield slurm_cluster
    slurm_cluster.empty()
