"""A database that is away, hangs, or takes nothing: what a node says of that, to probes and in its log."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

import asyncpg
import pytest

from tests.databases import needs_postgres, postgres
from tests.harness import Site
from tests.nodes.conftest import Start
from tests.nodes.link import Link
from tests.nodes.test_nodes import QUICK

pytestmark = needs_postgres
SOON = 30.0
FEW_SECONDS = 5.0


async def until_ready(site: Site, ready: bool) -> list[str]:
    """Ask until the node says that it is ready, or not; return what it says."""
    async with asyncio.timeout(SOON):
        while True:
            answer = await site.get("/readyz")
            if (answer.status == 200) is ready:
                return answer.text.splitlines()
            await asyncio.sleep(0.05)


async def test_who_cannot_write_the_log_finds_out_though_no_client_writes(start: Start, url: str) -> None:
    admin = await asyncpg.connect(url)
    async with start("a", QUICK) as site:
        job = await site.create("quick")
        try:
            await admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await admin.execute("SELECT pg_reload_conf()")
            why, hint = await until_ready(site, False)
            assert why.startswith("node a is cut off: ")
            assert why.endswith("in a read-only transaction")
            assert hint.startswith("jobs can be looked at; ")
            assert "<vosi:available>false<" in (await site.get("/availability")).text
            assert await site.phase(job) == "PENDING"
        finally:
            await admin.execute("SET default_transaction_read_only = off")
            await admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await admin.execute("SELECT pg_reload_conf()")
            await admin.close()
        assert await until_ready(site, True) == ["the server is ready"]


async def test_a_database_that_is_away_lets_no_job_be_looked_at_and_that_is_said(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with postgres() as server:
        async with start("a", QUICK, through=server.url()) as site:
            job = await site.create("quick")
            server.stop()
            told = await until_ready(site, False)
            assert "another operation" not in told[0]
            assert [line.partition(":")[0] for line in told] == [
                "the log cannot be read",
                "jobs can neither be looked at nor changed; those that run go on, and what becomes of them "
                "is recorded when the log can be written",
            ]
            assert (await site.get(job)).status == 503
            notes = (await site.get("/availability")).text
            assert notes.count("the log cannot be read: ") == 1
            assert notes.count(told[1]) == 1
            server.start()
            assert await until_ready(site, True) == ["the server is ready"]
            assert await site.phase(job) == "PENDING"
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


async def test_while_the_database_hangs_probes_are_answered_and_the_log_has_no_tracebacks(
    start: Start, link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    async with start("a", QUICK, through=link.url()) as site:
        job = await site.create("quick")
        link.cut()
        for probe in ("/readyz", "/readyz", "/availability"):
            began = monotonic()
            answer = await site.get(probe)
            assert monotonic() - began < FEW_SECONDS
            assert "the log cannot be read: there is no answer within 2 s" in answer.text
        began = monotonic()
        assert (await site.get(job)).status == 503
        assert monotonic() - began < 15
        assert (await site.get(job)).status == 503  # long enough for who tries to connect to give up
        while not any("is cut off" in record.getMessage() for record in caplog.records):
            await asyncio.sleep(0.05)
        link.mend()
        assert await until_ready(site, True) == ["the server is ready"]
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in records if record.exc_info] == []
    assert len({record.getMessage() for record in records}) == len(records)
