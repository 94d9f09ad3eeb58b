"""What several nodes that share a log in a database can rely on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from eventstore import NewEvent, RecordedEvent, StoreUnavailable, VersionConflict, open_store, read_log
from eventstore._database import SCHEMA, connect, migrate
from eventstore.addresses import named
from eventstore.postgres import PostgresEventLog, PostgresEventStore
from tests.databases import Server, emptied, needs_postgres, postgres
from tests.eventstore.support import collected, events, payloads

pytestmark = needs_postgres
SOON = 1.0
_END = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'uwsd' AND query LIKE ANY ($1)
"""
Nodes = list[PostgresEventStore]


@pytest.fixture
async def url(postgres_server: Server) -> str:
    return await emptied(postgres_server)


@pytest.fixture
async def nodes(url: str) -> AsyncIterator[list[PostgresEventStore]]:
    """Three nodes that share a log."""
    stores = [await PostgresEventStore.open(url) for _ in range(3)]
    yield stores
    for store in stores:
        await store.close()


async def ended_by_force(url: str, *what: str) -> None:
    """Have the database end those connections of nodes whose last statement was like one of these."""
    connection = await asyncpg.connect(url)
    try:
        while not await connection.fetch(_END, what):
            pass
    finally:
        await connection.close()


async def test_of_nodes_that_append_at_one_version_one_wins(nodes: Nodes) -> None:
    for version in range(20):
        outcomes = await asyncio.gather(
            *(node.append("job/1", events("mine"), expected=version) for node in nodes),
            return_exceptions=True,
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == [
            "VersionConflict",
            "VersionConflict",
            "tuple",
        ]
    assert len(await nodes[0].read_stream("job/1")) == 20


async def test_what_one_node_was_told_is_on_record_all_others_read(nodes: Nodes) -> None:
    async def busy(node: PostgresEventStore, name: str) -> None:
        for number in range(100):
            await node.append(f"{name}/{number}", events("x"))

    async def ask_elsewhere(number: int) -> None:
        here, there = nodes[number % 3], nodes[(number + 1) % 3]
        (event,) = await here.append(f"asked/{number}", events("mine"))
        assert (await there.head()).position >= event.position
        assert await there.read_stream(f"asked/{number}") == (event,)

    async with asyncio.TaskGroup() as group:
        for index, node in enumerate(nodes):
            group.create_task(busy(node, f"busy{index}"))
        for number in range(100):
            group.create_task(ask_elsewhere(number))


async def test_positions_are_dense_and_the_chain_holds_whoever_appends(
    nodes: Nodes,
) -> None:
    await asyncio.gather(*(node.append(f"s{n % 7}", events("x", "y")) for n in range(60) for node in nodes))
    log = await nodes[0].read_all()
    assert [event.position for event in log] == list(range(1, 361))
    assert [(await node.verify()).events for node in nodes] == [360, 360, 360]


async def test_who_follows_on_one_node_is_woken_by_all_others(url: str, nodes: Nodes) -> None:
    reader = await PostgresEventLog.read(url)
    try:
        following = [asyncio.create_task(collected(one, after=0, until=3)) for one in (*nodes, reader)]
        for node in nodes:
            await node.append("a", events("x"))
        async with asyncio.timeout(SOON):
            seen = await asyncio.gather(*following)
        assert [len(events) for events in seen] == [3, 3, 3, 3]
    finally:
        await reader.close()


async def test_a_follower_whose_connection_is_lost_misses_nothing(url: str, nodes: Nodes) -> None:
    following = asyncio.create_task(collected(nodes[1], after=0, until=20))
    for number in range(20):
        await nodes[0].append("a", events(f"{number}"))
        if number % 5 == 0:
            await ended_by_force(
                url, "LISTEN%", "SELECT"
            )  # it has begun to listen, or looked whether it still does
    assert payloads(await following) == [f"{number}" for number in range(20)]


async def test_who_follows_costs_the_database_one_read_for_each_commit_however_many_do(
    url: str, nodes: Nodes
) -> None:
    class Counting(PostgresEventStore):
        asked = 0

        async def _fetch(self, sql: str, *arguments: Any) -> list[Any]:
            self.asked += 1
            return await super()._fetch(sql, *arguments)

    node = await Counting.open(url)
    try:
        following = [aiter(node.subscribe(after=0)) for _ in range(10)]
        for number in range(20):
            reading = [asyncio.create_task(follow(each)) for each in following]
            await asyncio.sleep(0)  # all wait
            await nodes[0].append("a", events(f"{number}"))
            assert [payloads(batch) for batch in await asyncio.gather(*reading)] == [[f"{number}"]] * 10
        assert node.asked <= 20 + 5  # for all look anew when the listener has come
    finally:
        await node.close()


async def follow(following: AsyncIterator[tuple[RecordedEvent, ...]]) -> tuple[RecordedEvent, ...]:
    return await anext(following)


async def vacuumed(url: str) -> int:
    """How often the table was vacuumed."""
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT sum(vacuum_count) FROM pg_stat_user_tables"))
    finally:
        await connection.close()


async def test_the_table_is_vacuumed_once_for_all_that_was_erased(url: str, nodes: Nodes) -> None:
    before = await vacuumed(url)
    for number in range(3):
        await nodes[0].append(f"{number}", events("secret"))
        await nodes[0].erase(f"{number}", reason="a test")
    assert await vacuumed(url) == before
    await nodes[0].settle()
    assert await vacuumed(url) == before + 1


async def test_who_appends_does_not_wait_for_what_was_erased_to_be_overwritten(
    url: str, nodes: Nodes
) -> None:
    keeps = await connect(url)
    try:
        await keeps.execute("BEGIN; LOCK TABLE event IN SHARE UPDATE EXCLUSIVE MODE")
        settling = asyncio.create_task(nodes[0].settle())
        while not await keeps.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            pass
        await nodes[0].append("a", events("x"))
        assert not settling.done()
        await keeps.execute("COMMIT")
        await settling
    finally:
        await keeps.close()


async def test_who_appends_does_not_notice_that_a_connection_was_lost(url: str, nodes: Nodes) -> None:
    for number in range(5):
        await nodes[0].append("a", events("x"), expected=number)
        await ended_by_force(url, "SELECT * FROM append%")
    assert len(await nodes[1].read_stream("a")) == 5


async def test_nodes_that_open_an_empty_database_at_one_time_make_one_log(url: str) -> None:
    stores = await asyncio.gather(*(PostgresEventStore.open(url) for _ in range(5)))
    try:
        await asyncio.gather(*(store.append("a", events("x")) for store in stores))
        assert [event.version for event in await stores[0].read_stream("a")] == [1, 2, 3, 4, 5]
    finally:
        await asyncio.gather(*(store.close() for store in stores))


async def test_of_what_was_acknowledged_nothing_is_missing_when_the_database_was_killed() -> None:
    with postgres() as server:
        nodes = [await PostgresEventStore.open(server.url()) for _ in range(2)]
        acknowledged: dict[str, RecordedEvent] = {}
        over = asyncio.Event()

        async def write(index: int, node: PostgresEventStore) -> None:
            number = 0
            while not over.is_set():
                event = NewEvent(id=f"{index}/{number}", type="Said", data=b"x")
                try:
                    (recorded,) = await node.append(f"s{index}", [event])
                except StoreUnavailable:
                    continue  # whoever is not sure repeats it under the same id
                acknowledged[recorded.id] = recorded
                number += 1

        async with asyncio.TaskGroup() as group:
            for index, node in enumerate(nodes * 4):
                group.create_task(write(index, node))
            for how in ("immediate", "fast", "immediate"):
                before = len(acknowledged)
                while len(acknowledged) < before + 100:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(server.stop, how)
                await asyncio.to_thread(server.start)
            over.set()
        log = {event.id: event for event in await nodes[0].read_all(limit=1_000_000)}
        assert log == acknowledged
        assert (await nodes[1].verify()).events == len(acknowledged)
        for node in nodes:
            await node.close()


async def test_a_database_that_is_away_is_told_of_and_found_again() -> None:
    with postgres() as server:
        store = await PostgresEventStore.open(server.url())
        await store.append("a", events("before"))
        server.stop()
        with pytest.raises(StoreUnavailable, match="the log cannot be written: "):
            await store.append("a", events("meanwhile"))
        with pytest.raises(StoreUnavailable):
            await store.check_writable()
        with pytest.raises(StoreUnavailable, match="the log cannot be read: "):
            await store.read_all()
        server.start()
        await store.check_writable()
        assert payloads(await store.append("a", events("after"), expected=1)) == ["after"]
        await store.close()
        server.stop()
        with pytest.raises(
            StoreUnavailable, match=f"^postgresql://postgres@127.0.0.1:{server.port}/postgres: "
        ):
            await PostgresEventStore.open(server.url().replace("postgres@", "postgres:secret@"))
        server.start()


def test_an_address_is_named_without_the_password() -> None:
    assert named("postgresql://ann:secret@db.example:5433/jobs?password=secret") == (
        "postgresql://ann@db.example:5433/jobs"
    )


# The schema


async def test_a_log_of_another_schema_is_refused_in_words(url: str) -> None:
    with pytest.raises(StoreUnavailable, match="there is no log in this database"):
        await PostgresEventLog.read(url)
    await (await PostgresEventStore.open(url)).close()
    connection = await connect(url)
    try:
        assert await migrate(connection) == []
        await connection.execute("INSERT INTO migration VALUES (1000)")
        for opening in (PostgresEventStore.open, PostgresEventLog.read):
            with pytest.raises(
                StoreUnavailable, match="the log has schema 1000, of a newer program; this one knows"
            ):
                await opening(url)
        with pytest.raises(StoreUnavailable, match="schema 1000"):
            await migrate(connection)
    finally:
        await connection.close()


async def test_a_log_is_kept_apart_from_whatever_else_is_in_the_database(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS public.event (something text)")
        store = await PostgresEventStore.open(url)
        await store.append("a", events("x"))
        await store.close()
        assert await connection.fetchval(f"SELECT count(*) FROM {SCHEMA}.event") == 1
        assert await connection.fetchval("SELECT count(*) FROM public.event") == 0
    finally:
        await connection.execute("DROP TABLE public.event")
        await connection.close()


async def test_a_conflict_tells_the_version_that_another_node_has_made(
    nodes: Nodes,
) -> None:
    await nodes[0].append("a", events("x", "y"))
    with pytest.raises(VersionConflict) as refused:
        await nodes[1].append("a", events("z"), expected=1)
    assert (refused.value.expected, refused.value.actual) == (1, 2)


async def test_where_the_driver_is_missing_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("eventstore.postgres", "eventstore._database"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    for opening in (open_store, read_log):
        with pytest.raises(StoreUnavailable, match=r"needs asyncpg: install uwsd\[postgres\]"):
            await opening("postgresql://db.example/jobs")
