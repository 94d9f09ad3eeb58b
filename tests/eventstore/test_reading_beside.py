"""A log that is only read: beside the process that writes it, when that has stopped, and as a copy."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from eventstore import Head, NewEvent, SQLiteEventLog, SQLiteEventStore, StoreClosed, StoreUnavailable
from tests.eventstore.support import events, payloads

_WRITE = """
import asyncio, sys
from pathlib import Path
from eventstore import SQLiteEventStore, NewEvent

async def write(path):
    store = await SQLiteEventStore.open(Path(path))
    while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
        for n in range(5):
            said, ended = NewEvent(type="Said", data=b"x"), NewEvent(type="Ended", data=b"")
            await store.append(f"{command}{n}", [said, ended])
        if command == "erase":
            await store.erase("erase0", reason="asked to")
        if command == "prune":
            through = (await store.head()).position - 10
            await store.prune(through, ended_by=["Ended", "$erased"], reason="old")
        head = await store.head()
        print(head.position, head.hash.hex(), flush=True)
    await store.close()

asyncio.run(write(*sys.argv[1:]))
"""


class Writer:
    """Another process that writes a log, a little at each command."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def write(self, command: str) -> Head:
        """Have some events written, and return the head after them."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{command}\n".encode())
        position, hash_ = (await self.process.stdout.readline()).split()
        return Head(int(position), bytes.fromhex(hash_.decode()))

    async def stop(self) -> None:
        if self.process.returncode is None:
            assert self.process.stdin
            self.process.stdin.close()
            assert await self.process.wait() == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
async def writer(path: Path) -> AsyncIterator[Writer]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WRITE, path, stdin=PIPE, stdout=PIPE
    )
    writer = Writer(process)
    yield writer
    await writer.stop()


async def test_a_log_is_read_and_verified_while_another_process_writes_it(path: Path, writer: Writer) -> None:
    heads = [await writer.write("first")]
    log = await SQLiteEventLog.read(path)
    for command in ("second", "erase", "third", "prune", "fourth", "erase", "prune"):
        writing = asyncio.create_task(writer.write(command))
        while not writing.done():
            assert (await log.verify(contains=heads[-1:])).head.position >= heads[-1].position
        heads.append(await writing)
        assert await log.head() == heads[-1], "what is acknowledged is there"
        assert (await log.verify(contains=heads[-1:])).head == heads[-1]
    assert (await log.verify()).pruned
    await log.close()


async def test_a_reader_that_outlives_the_writer_reads_on(path: Path, writer: Writer) -> None:
    head = await writer.write("first")
    log = await SQLiteEventLog.read(path)
    await log.read_all()
    await writer.stop()
    assert (await log.verify()).head == head
    assert len(await log.read_stream("first3")) == 2
    await log.close()
    store = await SQLiteEventStore.open(path)
    assert await store.head() == head
    await store.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["events.db", "events.db.lock"]


async def test_a_log_whose_writer_was_killed_is_read(path: Path, writer: Writer) -> None:
    head = await writer.write("first")
    writer.process.kill()
    await writer.process.wait()
    log = await SQLiteEventLog.read(path)
    assert (await log.verify()).head == head
    await log.close()


async def test_a_stopped_log_is_read(path: Path) -> None:
    store = await SQLiteEventStore.open(path)
    recorded = await store.append("a", events("1", "2"))
    await store.close()
    before = path.read_bytes()
    log = await SQLiteEventLog.read(path)
    assert await log.read_all() == await log.read_stream("a") == recorded
    assert await log.head() == (await log.verify()).head == Head(2, recorded[-1].hash)
    async for batch in log.subscribe(after=0):
        assert batch == recorded
        break
    await log.close()
    assert path.read_bytes() == before


async def test_a_log_that_is_being_read_can_be_written(path: Path) -> None:
    store = await SQLiteEventStore.open(path)
    log = await SQLiteEventLog.read(path)
    assert await log.read_all() == ()
    await store.append("a", events("1"))
    assert payloads(await log.read_all()) == ["1"]
    await store.erase("a", reason="")
    await store.prune(2, ended_by={"$erased"}, reason="")
    assert [event.position for event in await log.read_all()] == [3]
    await store.close()
    await log.close()


async def test_a_log_that_was_closed_is_not_read_and_may_be_closed_again(path: Path) -> None:
    store = await SQLiteEventStore.open(path)
    await store.append("a", events("1"))
    log = await SQLiteEventLog.read(path)
    waiting = asyncio.create_task(anext(aiter(log.subscribe(after=1))))
    await asyncio.sleep(0)
    await log.close()
    await log.close()
    with pytest.raises(StopAsyncIteration):
        await waiting
    for reading in (log.read_all(), log.read_stream("a"), log.head(), log.verify()):
        with pytest.raises(StoreClosed):
            await reading
    await store.close()


async def test_where_there_is_no_log_none_is_made(path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"events\.db: there is no log"):
        await SQLiteEventLog.read(path)
    with pytest.raises(StoreUnavailable, match="this is no regular file"):
        await SQLiteEventLog.read(path.parent)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"Dear diary, " * 1000], ids=["nothing", "something else"])
def test_a_file_that_is_no_log_is_told_of_even_as_the_loop_ends(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for _ in range(300):
        with pytest.raises(
            StoreUnavailable, match=r"events\.db: (there is no log: the file is empty|file is not a database)"
        ):
            asyncio.run(SQLiteEventLog.read(path))
    assert path.read_bytes() == content


# Where nothing may be written

_READ = """
import asyncio, os, sys
from pathlib import Path
from eventstore import EventStoreError, SQLiteEventLog

async def read(path):
    log = await SQLiteEventLog.read(Path(path))
    try:
        print(len(await log.read_all()), (await log.verify()).head.position)
    finally:
        await log.close()

if os.getuid() == 0:  # root may write everywhere
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    asyncio.run(read(*sys.argv[1:]))
except EventStoreError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def copies() -> Iterator[Path]:
    """A directory that everybody may enter, as they may not the test's own."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory
        for made in directory.iterdir():
            made.chmod(0o755)


def read_only_copy(directory: Path, *files: Path) -> Path:
    copy = directory / "copy"
    copy.mkdir()
    for file in files:
        shutil.copyfile(file, copy / file.name)
        (copy / file.name).chmod(0o444)
    copy.chmod(0o555)
    return copy / files[0].name


def read_by_nobody(path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _READ, path], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


async def test_a_copy_is_read_where_nothing_may_be_written(path: Path, copies: Path) -> None:
    store = await SQLiteEventStore.open(path)
    await store.append("a", [NewEvent(type="T", data=b"x" * 9000) for _ in range(7)])
    await store.close()
    copy = read_only_copy(copies, path)
    assert await asyncio.to_thread(read_by_nobody, copy) == "7 7"
    assert [file.name for file in copy.parent.iterdir()] == ["events.db"]


async def test_a_copy_that_is_not_whole_without_its_wal_is_not_read_without_it(
    path: Path, copies: Path
) -> None:
    """Where nothing may be written, the WAL cannot be read; without it events would be missing, untold."""
    store = await SQLiteEventStore.open(path)
    await store.append("a", events("in the file"))
    await store.close()
    store = await SQLiteEventStore.open(path)
    await store.append("a", events("in the WAL"))
    copy = read_only_copy(copies, path, path.with_name("events.db-wal"))
    await store.close()
    assert (await asyncio.to_thread(read_by_nobody, copy)).startswith("StoreUnavailable ")


async def test_what_may_not_be_read_is_told(path: Path, copies: Path) -> None:
    store = await SQLiteEventStore.open(path)
    await store.close()
    copy = read_only_copy(copies, path)
    copy.chmod(0)
    assert (await asyncio.to_thread(read_by_nobody, copy)).startswith(f"StoreUnavailable {copy}: ")
