"""`uwsd` as its users have it: a command in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import aiohttp

from tests.harness import Site
from tests.preloaded import Call, begin

UWSD = Path(sys.executable).with_name("uwsd")
preloaded: socket.socket | None = None
"""What runs commands for `uwsd`, where there is one."""
PATIENCE = 60.0
"""Seconds after which something that should have happened long ago is taken not to happen."""


@dataclass
class Ended:
    """What is left of a command."""

    status: int
    out: str
    err: str


async def run(
    *command: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    reads: str = "",
) -> Ended:
    """Run a command to its end. It has no terminal, and ``reads`` on its standard input."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), cwd=cwd, env=env, stdin=PIPE, stdout=PIPE, stderr=PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate(os.fsencode(reads))
    except BaseException:
        _signal(process, signal.SIGKILL)
        await process.communicate()
        raise
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


class Begun:
    """A command that was begun in a copy of what is preloaded: what tests ask of asyncio's ``Process``."""

    def __init__(
        self,
        preloaded: socket.socket,
        command: Sequence[str | Path],
        cwd: Path | None,
        *files: int,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Begin it with ``files`` as its standard input, output and error."""
        mask = os.umask(0)
        os.umask(mask)
        words = [os.fsencode(word) for word in command]
        environment = {
            os.fsencode(name): os.fsencode(value)
            for name, value in (os.environ if env is None else env).items()
        }
        call = Call(words, environment, os.fsencode(cwd or Path.cwd()), mask)
        self._answers = begin(preloaded, call, files)
        self.pid = int(self._answers.recv(100))
        self.returncode: int | None = None
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._loop.add_reader(self._answers, self._end)

    def _end(self) -> None:
        self._loop.remove_reader(self._answers)
        self.returncode = int(self._answers.recv(100))
        self._answers.close()
        self._ended.set_result(self.returncode)

    async def wait(self) -> int:
        """Return how it ended, as soon as it has: with an exit status, or minus the signal that ended it."""
        return int(await asyncio.shield(self._ended))


async def uwsd(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    reads: str = "",
) -> Ended:
    """Do what `run` does with the command, which is started faster (`tests.preloaded`).

    What Python itself reads of ``env``, as PYTHONPATH, it read before.
    """
    if preloaded is None:
        return await run(UWSD, *arguments, cwd=cwd, env=env, reads=reads)
    with ExitStack() as stack:
        given, out, err = (stack.enter_context(TemporaryFile(buffering=0)) for _ in range(3))
        given.write(os.fsencode(reads))
        given.seek(0)
        files = (file.fileno() for file in (given, out, err))
        process = Begun(preloaded, (UWSD, *arguments), cwd, *files, env=env)
        try:
            async with asyncio.timeout(PATIENCE):
                status = await process.wait()
        except BaseException:
            _signal(process, signal.SIGKILL)
            await process.wait()
            raise
        for file in (out, err):
            file.seek(0)
        return Ended(status, out.read().decode(), err.read().decode())


async def uwsd_on_terminal(*arguments: str | Path, shows: str = "err") -> Ended:
    """Run the command to its end; its standard error is a terminal, or what it prints."""
    ours, theirs = os.openpty()
    stdout, stderr = (theirs if shows == name else PIPE for name in ("out", "err"))
    try:
        process = await asyncio.create_subprocess_exec(UWSD, *arguments, stdout=stdout, stderr=stderr)
        os.close(theirs)
        drawing = asyncio.create_task(asyncio.to_thread(_drawn, ours))  # it holds little
        out, err = await process.communicate()
        assert process.returncode is not None
        drawn = await drawing
        texts = [drawn if text is None else text.decode() for text in (out, err)]
        return Ended(process.returncode, *texts)
    finally:
        os.close(ours)


async def uwsd_unread(*arguments: str | Path) -> Ended:
    """Run the command to its end; nobody reads what it prints."""
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        process = await asyncio.create_subprocess_exec(UWSD, *arguments, stdout=theirs, stderr=PIPE)
    finally:
        os.close(theirs)
    _, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, "", err.decode())


def _drawn(terminal: int) -> str:
    drawn = b""
    with suppress(OSError):  # nobody has the other side any more
        while more := os.read(terminal, 10_000):
            drawn += more
    return drawn.decode()


class Client(Site):
    """A client of a server that runs elsewhere: of `Site`, what goes over HTTP."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url, self.session = url, session


class Daemon(Client):
    """A server that runs, and a client of it."""

    def __init__(self, process: Process | Begun, url: str, session: aiohttp.ClientSession, err: Path) -> None:
        super().__init__(url, session)
        self.process, self._err = process, err

    @property
    def err(self) -> str:
        """What the server has written to standard error."""
        return self._err.read_text()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status, minus the signal that ended the process."""
        _signal(self.process, number)
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def serving(
    file: Path,
    *options: str | Path,
    port: int | None = 0,
    command: Path = UWSD,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    err: Path | None = None,
) -> AsyncIterator[Daemon]:
    """Run ``uwsd serve``, on the file's port for None; it is stopped when the context is left.

    ``err`` gets its standard error, by default a file beside ``file``.
    """
    more = () if port is None else ("--port", str(port))
    err = err or file.with_name(f"{file.name}.stderr")
    words = (command, "serve", file, *options, *more)
    lines, printed = asyncio.StreamReader(), os.pipe()
    process: Process | Begun
    with err.open("w") as stderr, os.fdopen(printed[1], "wb") as stdout:
        if preloaded is None or env is not None or command != UWSD:
            process = await asyncio.create_subprocess_exec(
                *words, cwd=cwd, env=env, stdout=stdout, stderr=stderr
            )
        else:
            process = Begun(preloaded, words, cwd, 0, stdout.fileno(), stderr.fileno())
    reading, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(printed[0], "rb")
    )
    try:
        async with asyncio.timeout(PATIENCE):
            line = (await lines.readline()).decode()
        assert line.startswith("serving on "), err.read_text()
        async with aiohttp.ClientSession() as session:
            yield Daemon(process, line.removeprefix("serving on ").strip(), session, err)
    finally:
        if process.returncode is None:
            _signal(process, signal.SIGTERM)
        await process.wait()
        reading.close()
        assert "Traceback" not in err.read_text(), err.read_text()


def _signal(process: Process | Begun, number: signal.Signals) -> None:
    # The method of asyncio's would reap a process that has ended, and take its status from those who wait.
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)


@asynccontextmanager
async def announcements(path: Path) -> AsyncIterator[Callable[[], Awaitable[list[str]]]]:
    """Make a named pipe at ``path``, and give what waits for a line in it and returns its words."""
    os.mkfifo(path)
    lines = asyncio.StreamReader()
    # Opened for writing too, so that it does not end when one program has closed it.
    end = os.fdopen(os.open(path, os.O_RDWR | os.O_NONBLOCK), "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), end
    )

    async def heard() -> list[str]:
        async with asyncio.timeout(PATIENCE):
            return (await lines.readline()).decode().split()

    try:
        yield heard
    finally:
        transport.close()


async def has_ended(pid: int) -> None:
    """Return when there is no such process any more."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, ended.set)
    try:
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
