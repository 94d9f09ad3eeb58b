"""Servers that share a log in PostgreSQL."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.databases import Server, emptied
from tests.execution.conftest import gate, ready
from tests.harness import Site, running
from tests.nodes.link import Link
from uws import Service
from uws.config import NodeSettings, StoreSettings

__all__ = ["gate", "ready"]
GONE_AFTER = 3
"""Seconds after which a node that is not heard of is gone, in these tests."""
Start = Callable[..., AbstractAsyncContextManager[Site]]


@pytest.fixture
async def url(postgres_server: Server) -> str:
    """A database with nothing in it."""
    return await emptied(postgres_server)


@pytest.fixture
def start(tmp_path: Path, url: str) -> Start:
    """Starts a node of a name, with a data directory of its own; jobs are in one that all have in common.

    With ``jobs=None`` each has its own, and the others reach it ``at`` a URL, by default where it is.
    """

    shared = tmp_path / "jobs"

    @asynccontextmanager
    async def start(
        name: str,
        *services: Service,
        through: str = url,
        jobs: Path | None = shared,
        data: Path | None = None,
        at: str | None = None,
        gone_after: float = GONE_AFTER,
        **options: Any,
    ) -> AsyncIterator[Site]:
        listening = socket.create_server(("127.0.0.1", 0))
        here = f"http://127.0.0.1:{listening.getsockname()[1]}{options.get('mount', '')}"
        node = NodeSettings(name=name, url=at or here, gone_after=gone_after)
        store = StoreSettings(url=through, jobs=jobs, node=node)
        with listening:
            async with running(
                data or tmp_path / name, *services, store=store, listening=listening, **options
            ) as site:
                yield site

    return start


@pytest.fixture
async def link(postgres_server: Server, url: str) -> AsyncIterator[Link]:
    """A way to the database that can be cut."""
    async with Link.to(postgres_server.port) as link:
        yield link
