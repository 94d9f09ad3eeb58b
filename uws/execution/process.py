"""Programs as operating system processes: each in a session of its own, stopped as a whole. Linux only.

The session's leader stays unreaped until nothing of the session is left, so its number cannot come to
mean another process while signals are sent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

LAST_WAIT = 5.0
"""Seconds to wait for killed processes; only one stuck in the kernel needs as long."""


class Process:
    """A program, its session, and everything in it."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str],
        stdout: Path,
        stderr: Path,
    ) -> Process:
        """Start ``argv`` in a new session, output to files. Raises `OSError` when it cannot be started."""
        with stdout.open("wb") as out, stderr.open("wb") as err:
            popen = subprocess.Popen(
                [argument.encode() for argument in argv],
                cwd=directory,
                env={name.encode(): value.encode() for name, value in environment.items()},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        return cls(popen)

    async def exited(self) -> None:
        """Return when the program itself has ended. May be cancelled."""
        with _watching([self._popen.pid]) as ends:
            for end in ends:
                await end.wait()

    async def stop(self, grace: float) -> None:
        """Send SIGTERM to the whole session, SIGKILL after ``grace`` seconds, and return when it is empty."""
        await end_session(self._popen.pid, grace)

    async def finish(self) -> int:
        """Kill what is left of the session and return the program's exit code, or minus its signal."""
        await end_session(self._popen.pid, 0)
        await self.exited()
        return self._popen.wait()


async def end_session(session: int, grace: float) -> None:
    """End all processes of ``session``: SIGTERM, then SIGKILL after ``grace`` seconds (at once for 0)."""
    if grace and (members := _members(session)):
        with _watching(members) as ends:
            _signal(session, members, signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    for end in ends:
                        await end.wait()
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_WAIT):
            while members := _members(session):
                with _watching(members) as ends:
                    _signal(session, members, signal.SIGKILL)
                    for end in ends:
                        await end.wait()


def sessions_with(variable: str, value: str) -> set[int]:
    """Return the sessions of processes that were started with this variable in their environment."""
    wanted = f"{variable}={value}".encode()
    found = set()
    for pid in _pids():
        with suppress(OSError):  # it has ended, or is another user's
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(os.getsid(pid))
    return found - {os.getsid(0)}


def _members(session: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    return [
        pid for pid in _pids() if (stat := _stat(pid)) and int(stat[3]) == session and stat[0] not in "ZX"
    ]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on (proc(5)), None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _signal(session: int, members: Iterable[int], number: signal.Signals) -> None:
    # The group first, in one stroke; then those that moved to a group of their own.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(session, number)
    for pid in members:
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) != session:
                os.kill(pid, number)


@contextmanager
def _watching(pids: Iterable[int]) -> Iterator[list[asyncio.Event]]:
    """Give an event for each process, set when it has ended."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        ends = []
        for pid in pids:
            end = asyncio.Event()
            ends.append(end)
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                end.set()
                continue
            stack.callback(os.close, fd)
            loop.add_reader(fd, _ended, loop, fd, end)
            stack.callback(loop.remove_reader, fd)
        yield ends


def _ended(loop: asyncio.AbstractEventLoop, fd: int, end: asyncio.Event) -> None:
    # The descriptor stays readable: watched any longer, it would keep the loop busy.
    loop.remove_reader(fd)
    end.set()
