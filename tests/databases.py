"""A PostgreSQL server for tests, where its programs are installed."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from eventstore._database import SCHEMA
from tests.processes import spared

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "log_min_messages": "warning",
}
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}
"""What is killed in tests are processes, not machines."""
_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'uwsd'"
)


@cache
def programs() -> Path | None:
    """Where PostgreSQL's own programs are; Debian has them beside each version of it."""
    found = shutil.which("postgres")
    places = [Path(found).parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parts[4]))
    return next((place for place in places if os.access(place / "initdb", os.X_OK)), None)


needs_postgres = pytest.mark.skipif(
    programs() is None, reason="PostgreSQL is not installed: nothing of what several nodes share is tested"
)


@dataclass
class Server:
    """A server with a data directory of its own, which can be stopped, killed and started."""

    directory: Path
    port: int
    identity: dict[str, Any]
    pid: int = 0

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        self._control("-l", str(self.directory / "log"), "-w", "-t", "60", "start")
        self.pid = int((self.directory / "data/postmaster.pid").read_text().split()[0])
        spared.add(self.pid)

    def stop(self, how: str = "fast") -> None:
        """Stop it: "immediate" is as if the machine had been switched off."""
        self._control("-m", how, "-w", "stop")
        spared.discard(self.pid)

    def kill(self) -> None:
        """Kill all its processes, none of which has time to do anything about it."""
        os.kill(self.pid, signal.SIGSTOP)  # it makes no more of them
        for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        spared.discard(self.pid)

    def run(self, program: str, *arguments: str) -> None:
        place = programs()
        assert place
        subprocess.run(
            [place / program, *arguments],
            check=True,
            cwd=self.directory,
            env={"PATH": f"{place}:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            **self.identity,
        )

    def _control(self, *arguments: str) -> None:
        self.run("pg_ctl", "-D", str(self.directory / "data"), *arguments)


@contextmanager
def postgres(*, durable: bool = False, address: str | None = None) -> Iterator[Server]:
    """Start a server, and take it away at the end. A ``durable`` one writes through to the disk.

    It is reached at an ``address`` of this machine, too, by all of its network (of 24 bits).
    """
    # Not below the directory of a test: the path of a socket ends at 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/var/tmp" if durable else None))
    try:
        server = Server(directory, free_port(), _identity())
        if server.identity:
            os.chown(directory, server.identity["user"], server.identity["group"])
        server.run(
            "initdb", "--pgdata=data", "--username=postgres", "--auth=trust", "--encoding=UTF8",
            "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip
        settings = (
            _SETTINGS
            | ({} if durable else _NOT_DURABLE)
            | {"port": str(server.port), "unix_socket_directories": str(directory)}
        )
        if address:
            settings["listen_addresses"] += f",{address}"
            with (directory / "data/pg_hba.conf").open("a") as file:
                file.write(f"host all all {address}/24 trust\n")
        with (directory / "data/postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(directory)


async def emptied(server: Server) -> str:
    """Return the URL of a database in which there is nothing."""
    connection = await asyncpg.connect(server.url())
    try:
        await connection.execute(f"SET client_min_messages = error; DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    finally:
        await connection.close()
    return server.url()


async def nobody_writes(url: str) -> None:
    """Return when all who had a log open are gone, and what they sent is done."""
    connection = await asyncpg.connect(url)
    try:
        while await connection.fetchval(_OTHERS):
            await asyncio.sleep(0.01)  # the database tells nobody that one is gone
    finally:
        await connection.close()


def _identity() -> dict[str, Any]:
    """As whom it runs: it refuses to do so as root."""
    if os.geteuid() != 0:
        return {}
    users = {user.pw_name: user for user in pwd.getpwall()}
    user = users.get("postgres", users["nobody"])
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
