"""Fixtures for all rooms, and the check that a test leaves nothing behind."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness import ManualClock

# Whatever outlives its parents becomes a child of this process, so that it is seen (prctl(2)).
PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(autouse=True)
def nothing_stays_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process, or a descriptor of a file, a socket or a directory."""
    before = _descriptors()
    yield
    processes: list[str] = []
    while children := _children():
        processes += children.values()
        for pid in children:  # what they leave becomes ours; the tests that follow have nothing to do with it
            with suppress(ProcessLookupError, ChildProcessError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    assert not processes, "processes are left"
    left = {fd: target for fd, target in _descriptors().items() if fd not in before}
    assert not left, f"left open: {left}"


@pytest.fixture(autouse=True)
async def no_task_stays_behind() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks are left: {left}"


def _children() -> dict[int, str]:
    """Return this process's children with their command lines; reap those that have ended."""
    found = {}
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(
            FileNotFoundError, ProcessLookupError, ChildProcessError
        ):  # a thread, or a child, that is just ending
            for pid in (task / "children").read_text().split():
                if os.waitpid(int(pid), os.WNOHANG)[0]:
                    continue
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                found[int(pid)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


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
