"""Several servers that share a log, as operators have them: processes, and nginx before them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from tests.daemon import PATIENCE, UWSD, Ended, uwsd
from tests.databases import free_port

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
needs_nginx = pytest.mark.skipif(
    NGINX is None, reason="nginx is not installed: clients go to the nodes themselves, by turns"
)
_PAUSE = 0.2
"""Seconds until something is tried again."""
_TOP = """
data = "{name}"
store = "{store}"
jobs = "{jobs}"

[node]
name = "{name}"
gone_after = {gone_after}

[server]
host = "{host}"
port = {port}
base_url = "{base_url}"
longest_wait = 20
access_log = false

[auth]
allow_anonymous = true
"""
_NGINX = """
daemon off;
pid nginx.pid;
error_log error.log;
worker_processes 1;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream nodes {{
        {servers}
        keepalive 30;
    }}
    server {{
        listen 127.0.0.1:{port};
        location /uws/ {{
            proxy_pass http://nodes/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_buffering off;
            proxy_next_upstream error timeout;  # of what is not idempotent only what was not sent
            proxy_connect_timeout 2s;
            proxy_read_timeout 60s;
        }}
    }}
}}
"""


class Node:
    """One server, that runs or does not; its file and its data directory stay where they are."""

    def __init__(
        self,
        directory: Path,
        name: str,
        services: str,
        *,
        store: str,
        jobs: Path,
        gone_after: int,
        base_url: str | None = None,
        host: str = "127.0.0.1",
        command: tuple[str | Path, ...] = (),
    ) -> None:
        """``command`` is what runs the server, if not the server itself does."""
        self.name, self._command, self._port = name, command, free_port()
        self.url = f"http://{host}:{self._port}"
        self.file, self.data = directory / f"{name}.toml", directory / name
        self.err = directory / f"{name}.stderr"
        self.file.write_text(
            _TOP.format(
                name=name, store=store, jobs=jobs, gone_after=gone_after, host=host, port=self._port,
                base_url=base_url or self.url,
            )
            + services
        )  # fmt: skip
        self._process: Process | None = None

    async def start(self) -> None:
        """Return when it serves; it is started again while it ends by itself, as for want of a database."""
        async with asyncio.timeout(PATIENCE):
            while not await self._attempt():
                await asyncio.sleep(_PAUSE)

    async def _attempt(self) -> bool:
        with self.err.open("ab") as err:
            process = await asyncio.create_subprocess_exec(
                *self._command, UWSD, "serve", self.file, stdout=PIPE, stderr=err
            )
        self._process = process
        assert process.stdout
        if await process.stdout.readline():
            return True
        await process.communicate()
        self._process = None
        return False

    async def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal, and return when the server has ended."""
        if process := self._process:
            self._process = None
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
            async with asyncio.timeout(PATIENCE):
                await process.communicate()

    async def uwsd(self, *words: str) -> Ended:
        """Run a command of an operator on its machine."""
        return await uwsd(*words, "--config", self.file)


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """Have nodes run while the context lasts, however often they are ended and started meanwhile."""
    async with AsyncExitStack() as stack:
        for node in nodes:
            stack.push_async_callback(node.end)
        await asyncio.gather(*(node.start() for node in nodes))
        yield


@asynccontextmanager
async def nginx(directory: Path, port: int, *nodes: Node) -> AsyncIterator[str]:
    """Have a proxy before nodes, with a path prefix; gives the URL at which clients find it."""
    assert NGINX
    directory.mkdir()
    servers = "\n".join(f"server {node.url.removeprefix('http://')} fail_timeout=1s;" for node in nodes)
    user = "user root;" if os.geteuid() == 0 else ""  # who else cannot look into the directory
    (directory / "nginx.conf").write_text(_NGINX.format(servers=servers, port=port, user=user))
    process = await asyncio.create_subprocess_exec(
        NGINX, "-p", directory, "-c", "nginx.conf", "-e", "error.log", stdout=DEVNULL
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(OSError):
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    break
                assert process.returncode is None, (directory / "error.log").read_text()
                await asyncio.sleep(0.02)
        yield url_behind(port)
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        await process.wait()


def url_behind(port: int) -> str:
    """Where clients find the proxy that listens on a port."""
    return f"http://127.0.0.1:{port}/uws"


def session() -> aiohttp.ClientSession:
    """Return what many clients share; a request that nobody answers fails in time."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE))
