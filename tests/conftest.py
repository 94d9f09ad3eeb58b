"""Fixtures for all rooms, and the check that a test leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests import daemon
from tests.databases import Server, postgres
from tests.harness import ManualClock
from tests.preloaded import preloaded
from tests.processes import no_process_stays_behind

IN_MEMORY = Path("/dev/shm")
ROOM = 4_000_000_000


def pytest_configure() -> None:
    """Keep what tests write in memory where that has room: processes are killed here, not machines."""
    if IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


def pytest_collection_finish() -> None:
    """All tests stay until the end: who looks for garbage need not look through them each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def commands_start_faster() -> Iterator[None]:
    with preloaded() as daemon.preloaded:
        yield
    daemon.preloaded = None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A database server for all tests of a process, started when one asks for it."""
    with postgres() as server:
        yield server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    """Fail a test that leaves a process, or a descriptor of a file, a socket or a directory."""
    before = _descriptors()
    with no_process_stays_behind():
        yield
    left = {fd: target for fd, target in _descriptors().items() if fd not in before}
    assert not left, f"left open: {left}"


@pytest.fixture(autouse=True)
async def no_task_stays_behind() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks are left: {left}"


def _descriptors() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = str(Path(f"/proc/self/fd/{fd}").readlink())
        except FileNotFoundError:
            continue
        # Event loops and threads keep these for the whole run.
        if not target.startswith(("anon_inode:", "pipe:", "/dev/", "/proc/")):
            found[fd] = target
    return found
