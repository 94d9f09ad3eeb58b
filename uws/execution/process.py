"""Programs as operating system processes: each in a session of its own, stopped as a whole. Linux only.

Signals go to process groups whose leader is unreaped, and to process descriptors (pidfd_open(2)): never to
a number that may have come to mean another process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

LAST_WAIT = 5.0
"""Seconds to wait for killed processes; only one stuck in the kernel needs as long."""
_LOOK_AGAIN = 0.05
"""Seconds until a process is looked at again that cannot be watched, for want of descriptors."""


class Process:
    """A program, its session, and everything in it. Make one with `start`, and `finish` it."""

    def __init__(self, popen: subprocess.Popen[bytes], descriptor: int) -> None:
        self._popen, self._descriptor = popen, descriptor

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
        try:
            return cls(popen, os.pidfd_open(popen.pid))
        except OSError:
            os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()
            raise

    async def exited(self) -> None:
        """Return when the program itself has ended. May be cancelled."""
        with _watching([self._descriptor]) as (end,):
            await end.wait()

    async def stop(self, grace: float) -> None:
        """Send SIGTERM to the whole session, SIGKILL after ``grace`` seconds, and return when it is empty."""
        await end_session(self._popen.pid, grace)

    async def finish(self) -> int:
        """Kill what is left of the session and return the program's exit code, or minus its signal."""
        await end_session(self._popen.pid, 0)
        await self.exited()
        os.close(self._descriptor)
        return self._popen.wait()


async def end_session(session: int, grace: float) -> None:
    """End all processes of ``session``: SIGTERM, then SIGKILL after ``grace`` seconds (at once for 0)."""
    if grace:
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await _signal_and_wait(session, signal.SIGTERM)
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_WAIT):
            while await _signal_and_wait(session, signal.SIGKILL):
                pass


def sessions_with(variable: str, value: str) -> set[int]:
    """Return the sessions of processes that were started with this variable in their environment."""
    wanted = f"{variable}={value}".encode()
    found = set()
    for pid in _pids():
        with suppress(OSError):  # it has ended, or is another user's
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(os.getsid(pid))
    return found - {os.getsid(0)}


async def _signal_and_wait(session: int, number: signal.Signals) -> bool:
    """Send a signal to all of a session and wait for the end of those it had; False when it was empty."""
    with ExitStack() as stack:
        members = await asyncio.to_thread(_members, session)
        if not members:
            return False
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(session, number)  # in one stroke; those that moved to another group come one by one
        descriptors = []
        for pid in members:
            with suppress(OSError):
                descriptor = os.pidfd_open(pid)
                stack.callback(os.close, descriptor)
                if _session_of(pid) == session:  # asked after opening, it is the process that was opened
                    descriptors.append(descriptor)
                    if os.getpgid(pid) != session:
                        signal.pidfd_send_signal(descriptor, number)
        with _watching(descriptors) as ends:
            for end in ends:
                await end.wait()
        if not descriptors:
            await asyncio.sleep(_LOOK_AGAIN)
    return True


def _members(session: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    return [pid for pid in _pids() if _session_of(pid) == session]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _session_of(pid: int) -> int | None:
    """Return a process's session, None when it has ended (proc(5); a zombie has)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, _, _, session, *_ = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(session)


@contextmanager
def _watching(descriptors: Sequence[int]) -> Iterator[list[asyncio.Event]]:
    """Give an event for each process, by its descriptor, set when it has ended."""
    loop = asyncio.get_running_loop()
    ends = [asyncio.Event() for _ in descriptors]
    try:
        for descriptor, end in zip(descriptors, ends, strict=True):
            loop.add_reader(descriptor, _ended, loop, descriptor, end)
        yield ends
    finally:
        for descriptor in descriptors:
            loop.remove_reader(descriptor)


def _ended(loop: asyncio.AbstractEventLoop, descriptor: int, end: asyncio.Event) -> None:
    # The descriptor stays readable: watched any longer, it would keep the loop busy.
    loop.remove_reader(descriptor)
    end.set()
