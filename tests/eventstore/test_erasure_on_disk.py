"""What was erased is in no file: markers are looked for in every byte of the directory."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from eventstore import Metadata, NewEvent, RecordedEvent, SQLiteEventStore, StoreUnavailable
from tests.eventstore.support import collected

SIZES = {"small": 100, "of about a page": 4000, "of a page": 4096, "of many pages": 100_000}


class Marked:
    """Makes events that are recognised on disk by any 80 bytes of their payload, and by their metadata."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._numbers = directory, count()
        self._markers: dict[str, list[bytes]] = {}

    def events(self, stream: str, *sizes: int) -> list[NewEvent]:
        made = []
        for size in sizes:
            marker = f"<{stream}:{next(self._numbers):06}>"
            data = (marker * (size // len(marker) + 1))[:size].encode()
            kind = "Ended" if stream.startswith("over") else "Said"
            made.append(NewEvent(type=kind, data=data, metadata=Metadata(actor=marker)))
            self._markers.setdefault(stream, []).append(marker.encode())
        return made

    @property
    def streams(self) -> list[str]:
        return list(self._markers)

    def on_disk(self, stream: str, file: str = "*") -> set[bytes]:
        """Return the markers of a stream that are in some file."""
        files = [path.read_bytes() for path in self._directory.glob(file)]
        return {marker for marker in self._markers[stream] for content in files if marker in content}


@pytest.fixture
def marked(tmp_path: Path) -> Marked:
    return Marked(tmp_path)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteEventStore]:
    store = await SQLiteEventStore.open(tmp_path / "events.db")
    yield store
    await store.close()


async def checkpointed(store: SQLiteEventStore) -> None:
    await store._writer.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.mark.parametrize("size", SIZES.values(), ids=list(SIZES))
@pytest.mark.parametrize("where", ["in the WAL", "in the file", "in both"])
async def test_erased_payloads_and_metadata_are_in_no_file(
    store: SQLiteEventStore, marked: Marked, size: int, where: str
) -> None:
    for _ in range(5):
        await store.append("kept", marked.events("kept", 100, size))
        await store.append("gone", marked.events("gone", size, 1, size))
    if where != "in the WAL":
        await checkpointed(store)
    if where == "in both":
        await store.append("gone", marked.events("gone", size, size))
    assert bool(marked.on_disk("gone", "events.db")) == (where != "in the WAL")
    assert bool(marked.on_disk("gone", "events.db-wal")) == (where != "in the file")
    kept = marked.on_disk("kept")
    await store.erase("gone", reason="")
    assert marked.on_disk("gone") == set()
    assert marked.on_disk("kept") == kept
    await store.verify()
    await store.close()
    assert marked.on_disk("gone") == set()
    assert marked.on_disk("kept") == kept


@pytest.mark.parametrize("seed", [7, 14, 20, 22])
async def test_no_copy_is_left_where_a_pruning_has_moved_rows(
    store: SQLiteEventStore, marked: Marked, tmp_path: Path, seed: int
) -> None:
    """Rows that are deleted make others move to other pages; the space they leave is not overwritten."""
    dice = random.Random(seed)
    sizes = dice.choice([[20, 50, 100], [300, 600], [30, 300, 900, 1500, 9000], [30, 3000, 100_000]])
    for number in range(300):
        name = f"over{number}" if dice.random() < 0.6 else f"gone{number % 5}"
        await store.append(name, marked.events(name, dice.choice(sizes)))
    await store._writer.set_authorizer(_no_vacuum)
    with pytest.raises(StoreUnavailable, match="it is done, but older pages are left on disk"):
        await store.prune((await store.head()).position - 30, ended_by={"Ended"}, reason="")
    await store.close()
    store = await SQLiteEventStore.open(tmp_path / "events.db")
    await store.erase("gone0", reason="")
    for name in marked.streams:
        if not await store.read_stream(name):
            assert marked.on_disk(name) == set(), "was pruned"
    for number in range(5):
        await store.erase(f"gone{number}", reason="")
        assert marked.on_disk(f"gone{number}") == set()
    await store.verify()
    await store.close()


def _no_vacuum(action: int, *_: str | None) -> int:
    """Refuse what VACUUM begins with."""
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK


@pytest.mark.parametrize("again", ["repeat", "settle"])
@pytest.mark.parametrize("change", ["erase", "prune"])
async def test_while_a_reader_keeps_older_pages_that_is_told_and_the_change_can_be_repeated(
    store: SQLiteEventStore, marked: Marked, tmp_path: Path, change: str, again: str
) -> None:
    async def carry_out() -> RecordedEvent:
        if change == "erase":
            return await store.erase("gone", reason="")
        return await store.prune(2, ended_by={"Said"}, reason="")

    await store._writer.execute_fetchall("PRAGMA busy_timeout = 0")  # so that it does not wait for the reader
    await store.append("gone", marked.events("gone", 100, 5000))
    following = asyncio.create_task(collected(store, after=2, until=3))
    with closing(sqlite3.connect(tmp_path / "events.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM event").fetchall()
        with pytest.raises(StoreUnavailable, match="a reader keeps older pages on disk: repeat it"):
            await carry_out()
        with pytest.raises(StoreUnavailable, match="a reader keeps older pages on disk: repeat it"):
            await store.settle()
        # It is done, as was said: everybody sees it.
        assert not any(event.data for event in await store.read_stream("gone") if event.type == "Said")
        assert (await store.head()).position == (await following)[-1].position == 3
        await store.check_writable()
        assert marked.on_disk("gone")
    if again == "settle":
        await store.settle()
        assert (await store.head()).position == 3
    else:
        assert (await carry_out()).position == 4
    assert marked.on_disk("gone") == set()
    await store.verify()
