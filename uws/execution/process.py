"""Programs as operating system processes, each under a supervisor that outlives the server. Linux only.

Signals go to process descriptors (pidfd_open(2)): never to a number that may have come to mean another
process.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO

import msgspec

from uws.environment import OPEN_FILES, base_environment
from uws.functions.helper import LONGEST_IMPORT
from uws.model import Service

from .records import End, Record, Supervisor

LAST_WAIT = 5.0
"""Seconds to wait for killed processes; only one stuck in the kernel needs as long."""
_EXEC = 0.01
"""Seconds in which a process has got its environment that is being made."""
_LOOK_AGAIN = 0.05
"""Seconds until a process is looked at again that cannot be watched, for want of descriptors."""
_LONGEST_ANSWER = 5.0
"""Seconds until it is looked for on record what became of a program of which nobody tells."""
_ROOM = "UWS_ROOM"
"""A variable of a warm launcher in whose place its programs have what they are found by."""
_SCRIPT = Path(__file__).with_name("supervisor.py")


class NotStarted(OSError):
    """A program could not be started: ``what`` it was that failed, with the system's reason."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(number, os.strerror(number))
        self.what = what


class LauncherGone(Exception):
    """Neither launcher nor supervisor answers: the record tells whether there is a program."""


class _Answer(msgspec.Struct):
    """What came of the request ``id``; without one, the launcher is ready."""

    id: str
    errno: int = 0
    what: str = ""
    who: Supervisor | None = None


class Launcher:
    """A process that forks a supervisor for each program; started when it is needed, or again.

    The one of all programs is small, that of a service that is ``warm`` has its function loaded.
    """

    def __init__(self, warm: Service | None = None) -> None:
        self._warm, self._numbers = warm, count()
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        """Set when the process can start programs, or has ended."""
        self._starting = asyncio.Lock()
        self._waiting: dict[str, asyncio.Future[_Answer]] = {}

    async def launch(
        self, argv: Sequence[str], *, record: Path, root: Path, directory: Path,
        environment: Mapping[str, str], stdout: Path, stderr: Path, limits: Mapping[str, int], nice: int,
        lease: Path | None = None,
    ) -> Record:  # fmt: skip
        """Start ``argv`` in ``directory``, output to files, and put it on ``record``, which is returned.

        ``root`` is what counts for a limit of the disk. The program is killed when it is later than the file
        ``lease`` says, in seconds of CLOCK_BOOTTIME. Raises `NotStarted`, `LauncherGone`, and `OSError` when
        there can be no launcher. Cancelled, the program may run, as the record tells.
        """
        request = {
            "id": str(record), "argv": argv, "record": str(record), "root": str(root),
            "directory": str(directory), "environment": environment, "stdout": str(stdout),
            "stderr": str(stderr), "limits": limits, "nice": nice,
            "lease": None if lease is None else str(lease),
        }  # fmt: skip
        answer = await self._ask(str(record), msgspec.json.encode(request) + b"\n")
        if answer.errno:
            raise NotStarted(answer.errno, answer.what)
        return Record(record, answer.who)

    async def settle(self) -> None:
        """Return when nothing is left of programs whose supervisors were killed."""
        if self._process:
            id_ = f"settle {next(self._numbers)}"
            with suppress(LauncherGone):
                await self._ask(id_, msgspec.json.encode({"id": id_}) + b"\n")

    async def close(self) -> None:
        """End the launcher. Supervisors and programs stay."""
        if self._process and self._listening:
            assert self._process.stdin
            self._process.stdin.close()
            # A supervisor that is stuck in the system before it has answered keeps the other end.
            if not (await asyncio.wait([self._listening], timeout=LAST_WAIT))[0]:
                self._kill()
                self._listening.cancel()
                await asyncio.wait([self._listening])

    async def _ask(self, id_: str, line: bytes) -> _Answer:
        process = await self._ready_process()
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting[id_] = answer
        assert process.stdin
        with suppress(ConnectionError):  # the future is told
            process.stdin.write(line)
        try:
            async with asyncio.timeout(_LONGEST_ANSWER):
                return await answer
        except TimeoutError:  # the supervisor was killed before it could answer, perhaps
            raise LauncherGone from None
        finally:
            self._waiting.pop(id_, None)

    async def _ready_process(self) -> asyncio.subprocess.Process:
        """Return the launcher's process when it can start programs. Raises `LauncherGone`, `OSError`."""
        async with self._starting:
            if self._process is None:
                self._process, self._ready = await self._started(), asyncio.Event()
                self._listening = asyncio.create_task(self._listen(self._process), name="launcher")
        process, ready = self._process, self._ready
        try:
            async with asyncio.timeout(LONGEST_IMPORT):
                await ready.wait()
        except TimeoutError:
            self._kill()
            raise LauncherGone from None
        if process is not self._process:
            raise LauncherGone
        return process

    def _kill(self) -> None:
        """End the launcher at once. Supervisors and programs stay."""
        if self._process:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _started(self) -> asyncio.subprocess.Process:
        if self._warm is None:
            command, environment = ["-I", "-S", "-X", "utf8", str(_SCRIPT)], None
        else:
            command = ["-P", "-m", "uws.execution.warm", str(self._warm.function)]
            environment = {**base_environment(self._warm.environment), _ROOM: " " * 5000}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=PIPE, stdout=PIPE, env=environment
        )
        # Programs that use select(2), or close all that may be open, get on badly with the server's many.
        with suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, OPEN_FILES)
        return process

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout
        async for line in process.stdout:
            answer = msgspec.json.decode(line, type=_Answer)
            if not answer.id:
                self._ready.set()
            waiting = self._waiting.pop(answer.id, None)
            if waiting and not waiting.done():
                waiting.set_result(answer)
        await process.wait()
        self._process = None
        self._ready.set()
        gone, self._waiting = self._waiting, {}
        for future in gone.values():
            if not future.done():
                future.set_exception(LauncherGone())


class Launchers:
    """The launchers of a server."""

    def __init__(self) -> None:
        self._common = Launcher()
        self._warm: dict[str, Launcher] = {}

    def of(self, service: Service) -> Launcher:
        """Return the launcher of a service's programs."""
        if not service.warm:
            return self._common
        if service.name not in self._warm:
            self._warm[service.name] = Launcher(service)
        return self._warm[service.name]

    async def close(self) -> None:
        """End all. Supervisors and programs stay."""
        await asyncio.gather(*(launcher.close() for launcher in (self._common, *self._warm.values())))


class Process:
    """A program under its supervisor. `close` it."""

    def __init__(self, record: Record, descriptor: int) -> None:
        self._record, self._descriptor = record, descriptor
        self._file: BinaryIO | None = None
        with suppress(OSError):
            self._file = record.open()

    @classmethod
    def of(cls, record: Record) -> Process | None:
        """Return the program of a record, None when its supervisor has ended. Raises `OSError`."""
        descriptor = record.watch()
        return None if descriptor is None else cls(record, descriptor)

    async def ended(self) -> End | None:
        """Return how the program ended, when nothing is left of it; None when its supervisor told nobody.

        May be cancelled.
        """
        with _watching([self._descriptor]) as (end,):
            await end.wait()
        return self._record.read(self._file)

    def terminate(self) -> None:
        """Send SIGTERM to all processes of the program."""
        self._signal(signal.SIGTERM)
        self.go_on()

    def kill(self) -> None:
        """Kill all processes of the program."""
        self._signal(signal.SIGUSR1)
        self.go_on()

    def go_on(self) -> None:
        """Let a supervisor go on that its program has stopped."""
        self._signal(signal.SIGCONT)

    def give_up(self) -> None:
        """Kill a supervisor that does not do as it is told."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        if self._file:
            self._file.close()
        os.close(self._descriptor)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)


async def end_sessions(variable: str, value: str) -> None:
    """Kill what is left of a program whose supervisor has gone, by what was in its environment."""
    sessions = await asyncio.to_thread(sessions_with, variable, value)
    await asyncio.gather(*map(_end_session, sessions))


def jobs_with_programs(variable: str, root: Path) -> set[str]:
    """Return the names of directories in ``root`` that processes have in a path of this variable."""
    prefix, found = f"{variable}={root}/".encode(), set[str]()
    for pid in _pids():
        with suppress(OSError):  # it has ended, or is another user's
            for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if entry.startswith(prefix):
                    found.add(entry.removeprefix(prefix).split(b"/")[0].decode(errors="replace"))
    return found


async def _end_session(session: int) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_WAIT):
            while await _kill_and_wait(session):
                pass


def sessions_with(variable: str, value: str) -> set[int]:
    """Return the sessions of processes that were started with this variable in their environment."""
    wanted = f"{variable}={value}".encode()
    found, empty = _with_variable(wanted, _pids())
    if empty:  # so it is for a moment in the middle of exec, too
        time.sleep(_EXEC)
        found |= _with_variable(wanted, empty)[0]
    return found - {os.getsid(0)}


def _with_variable(wanted: bytes, pids: Iterable[int]) -> tuple[set[int], set[int]]:
    """Return the sessions of those that have this in their environment, and those that have none at all."""
    found, empty = set(), set()
    for pid in pids:
        with suppress(OSError):  # it has ended, or is another user's
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            if wanted in environment.split(b"\0"):
                found.add(os.getsid(pid))
            elif not environment:
                empty.add(pid)
    return found, empty


async def _kill_and_wait(session: int) -> bool:
    """Kill all of a session and wait for the end of those it had; False when it was empty."""
    with ExitStack() as stack:
        members = await asyncio.to_thread(_members, session)
        if not members:
            return False
        descriptors = []
        for pid in members:
            with suppress(OSError):
                descriptor = os.pidfd_open(pid)
                stack.callback(os.close, descriptor)
                if _session_of(pid) == session:  # asked after opening, it is the process that was opened
                    descriptors.append(descriptor)
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
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
