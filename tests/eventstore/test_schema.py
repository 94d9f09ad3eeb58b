"""The schema of a log in a database: a migrated one is as a new one is, and what was released stays so.

``schemas`` has a log of each schema that there was, ``<number>.sql``, by pg_dump. A new migration needs its
digest at the end of ``SHA256SUMS``, and a log that ``python -m tests.eventstore.test_schema`` makes.
"""

from __future__ import annotations

import asyncio
import subprocess
from importlib import resources
from pathlib import Path

import asyncpg
import pytest

from eventstore._database import SCHEMA, check_migrated, connect, migrate
from eventstore.postgres import PostgresEventStore
from tests.databases import Server, emptied, needs_postgres, postgres
from tests.eventstore.support import events, payloads
from tests.frozen import check_only_added_to, check_unchanged

SCHEMAS = Path(__file__).with_name("schemas")
DIGESTS = SCHEMAS / "SHA256SUMS"
_LEFT = "--", "\\", "SET "
_NEEDED = "SET check_function_bodies"
"""Functions are there before the tables that they read."""
LOGS = sorted(SCHEMAS.glob("*.sql"))
MIGRATIONS = {
    file.name: file.read_bytes()
    for file in resources.files("eventstore").joinpath("migrations").iterdir()
    if file.name.endswith(".sql")
}


def dumped(url: str, *options: str) -> list[str]:
    """Return what pg_dump says of the log, but for what differs from run to run and between versions."""
    command = ["pg_dump", url, f"--schema={SCHEMA}", "--no-owner", "--inserts", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [
        line for line in done.stdout.splitlines() if line.startswith(_NEEDED) or not line.startswith(_LEFT)
    ]


async def written(url: str) -> None:
    """Write a log that has everything: events, one of them erased and some pruned."""
    store = await PostgresEventStore.open(url)
    await store.append("kept", events("first", "second"))
    await store.append("ended", [*events("gone"), *events("over", type="Over")])
    await store.append("erased", events("secret"))
    await store.erase("erased", reason="a test")
    await store.prune(4, ended_by=["Over"], reason="a test")
    await store.close()


def test_no_migration_was_changed_or_taken_away() -> None:
    check_unchanged(DIGESTS, MIGRATIONS.items())


def test_no_digest_of_a_migration_was_ever_changed_or_taken_away() -> None:
    check_only_added_to(DIGESTS)


def test_there_is_a_log_of_every_schema() -> None:
    assert [path.stem for path in LOGS] == sorted(name.partition("_")[0] for name in MIGRATIONS)


@needs_postgres
@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
async def test_a_log_of_every_schema_is_brought_to_the_one_of_a_new_log_and_holds(
    postgres_server: Server, path: Path
) -> None:
    url = await emptied(postgres_server)
    await (await PostgresEventStore.open(url)).close()
    new = dumped(url, "--schema-only")
    await emptied(postgres_server)
    restoring = await asyncpg.connect(url)
    await restoring.execute(path.read_text())
    await restoring.close()
    connection = await connect(url)
    applied = await migrate(connection)
    await check_migrated(connection)
    connection.terminate()
    assert applied == list(range(int(path.stem) + 1, len(MIGRATIONS) + 1))
    assert dumped(url, "--schema-only") == new
    store = await PostgresEventStore.open(url)
    try:
        assert payloads(await store.read_stream("kept")) == ["first", "second"]
        assert await store.read_stream("ended") == ()
        verified = await store.verify()
        assert (verified.events, verified.erased, verified.pruned) == (5, 1, 2)
        await store.append("kept", events("third"), expected=2)
    finally:
        await store.close()


async def _make_newest() -> None:
    number = max(name.partition("_")[0] for name in MIGRATIONS)
    with postgres() as server:
        await written(server.url())
        (SCHEMAS / f"{number}.sql").write_text("\n".join(dumped(server.url())) + "\n")


if __name__ == "__main__":
    asyncio.run(_make_newest())
