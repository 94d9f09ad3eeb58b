"""Programs for the tests to run, and ways to hold them still and to see whether they live."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.harness import Site, job_id
from uws import Service


def shell(script: str, *arguments: str | list[str], name: str = "run", **fields: Any) -> Service:
    """Declare a service that runs a shell script; its arguments are ``$1`` and so on."""
    return Service(name=name, title=name, command=["sh", "-c", script, "sh", *arguments], **fields)


class Pipe:
    """A named pipe between a test and its programs. Opening it waits for nobody."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def send(self, line: str = "go") -> None:
        """Write a line, which one program reads."""
        os.write(self._fd, f"{line}\n".encode())

    async def line(self) -> str:
        """Return the next line that a program writes."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            while b"\n" not in self._read:
                readable = asyncio.Event()
                loop.add_reader(self._fd, readable.set)
                try:
                    await readable.wait()
                finally:
                    loop.remove_reader(self._fd)
                self._read += os.read(self._fd, 65536)
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    async def numbers(self, count: int) -> list[int]:
        return [int(await self.line()) for _ in range(count)]


def is_running(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def directory_of(site: Site, job: str) -> Path:
    """Return the directory of a job, given by its URL."""
    return site.data / job_id(job)


async def until_gone(site: Site, job: str) -> None:
    """Return when a job is destroyed and its directory is deleted."""
    async with asyncio.timeout(20):
        with site.node.backend.projector.watch(f"job/{job_id(job)}") as changed:
            while (await site.get(job)).status != 410:
                await changed.wait()
                changed.clear()
        while directory_of(site, job).exists():
            await asyncio.sleep(0)
