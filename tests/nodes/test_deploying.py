"""What the documentation says of the database of several nodes."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg

from eventstore._database import SCHEMA
from tests.daemon import run
from tests.databases import needs_postgres
from tests.execution.programs import shell
from tests.harness import job_id, text
from tests.nodes.conftest import Start

pytestmark = needs_postgres
QUICK = shell("true", name="quick")
PAGE = Path(__file__).parents[2] / "docs/deploying.md"


async def test_a_node_has_as_many_connections_as_is_said(start: Start, url: str) -> None:
    asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'uwsd'"
    (said,) = re.findall(r"(\w+) for each node \(four that read", PAGE.read_text())
    async with start("a", QUICK) as site:
        await asyncio.gather(*(site.run("quick") for _ in range(50)))
        await asyncio.gather(*(site.get(site.list_url("quick")) for _ in range(50)))
        connection = await asyncpg.connect(url)
        try:
            assert (await connection.fetchval(asked), said) == (8, "eight")
        finally:
            await connection.close()


async def test_a_log_that_is_restored_goes_on_from_there(start: Start, tmp_path: Path, url: str) -> None:
    """Read models come back by themselves; what came after the backup is gone."""
    dump = tmp_path / "uwsd.dump"
    async with start("a", QUICK) as site:
        before = job_id(await site.run("quick"))
        await site.ended(f"{site.url}/quick/async/{before}")
        done = await run("pg_dump", url, "--schema", SCHEMA, "--format=custom", "--file", dump)
        assert done.status == 0, done.err
        after = job_id(await site.run("quick"))
        await site.ended(f"{site.url}/quick/async/{after}")
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    finally:
        await connection.close()
    restore = ("pg_restore", "--dbname", url, "--exit-on-error", "--single-transaction")
    done = await run(*restore, dump)
    assert done.status == 0, done.err
    async with start("a", QUICK) as site:
        assert text(await site.document(f"{site.url}/quick/async/{before}"), "phase") == "COMPLETED"
        assert (await site.get(f"{site.url}/quick/async/{after}")).status == 404
        listed = (await site.get(site.list_url("quick"))).text
        assert (before in listed, after in listed) == (True, False)
        new = await site.run("quick")
        assert text(await site.ended(new), "phase") == "COMPLETED"
        await site.node.backend.store.verify()
