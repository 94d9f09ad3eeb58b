"""Changes behind the store's back, made with a second connection to its file: verify names the first."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import (
    ChainBroken,
    Head,
    NewEvent,
    SQLiteEventLog,
    SQLiteEventStore,
    StoreUnavailable,
    Verified,
    _walking,
    chain_hash,
    payload_digest,
)
from tests.daemon import announcements
from tests.eventstore.support import Hold, events


@contextmanager
def editing(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        yield connection


@contextmanager
def changed(edit: sqlite3.Connection, position: int, sql: str) -> Iterator[None]:
    """Carry out a change that concerns one row, and restore the row afterwards."""
    row = edit.execute("SELECT * FROM event WHERE position = ?", (position,)).fetchone()
    edit.execute(sql, (position,))
    yield
    edit.execute("DELETE FROM event WHERE position = ? OR id = ?", (position, row[3]))
    edit.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


async def faulty_position(log: SQLiteEventLog, *contains: Head) -> int:
    with pytest.raises(ChainBroken) as found:
        await log.verify(contains=contains)
    return found.value.position


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


THERE, ERASED, HEAD = (1, 4, 5, 6, 10, 11, 12, 13, 14, 15, 16), 5, 16


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SQLiteEventStore]:
    """A log with everything that there is in logs; 5 is erased, 2, 3 and 7 to 9 are pruned."""
    store = await SQLiteEventStore.open(path)
    await store.append("running", events("at 1"))
    await store.append("over", [*events("at 2"), *events("at 3", type="Ended")])
    await store.append("running", events("at 4"))
    await store.append("erased", events("at 5"))
    await store.append("running", events("at 6"))
    await store.append("over too", [*events("at 7", "at 8"), *events("at 9", type="Ended")])
    await store.erase("erased", reason="asked to")  # at 10
    await store.append("running", events("at 11", "at 12"))
    await store.prune(12, ended_by={"Ended"}, reason="old")  # at 13
    await store.append("erased", events("at 14"))
    await store.append("last", events("at 15", "at 16"))
    assert (await store.verify())[:4] == (await store.head(), 11, 1, 5)
    yield store
    await store.close()


async def test_what_is_pruned_while_a_page_is_read_is_no_fault(store: SQLiteEventStore) -> None:
    """Rows and anchors of a page are those of one moment, though they are read one after the other."""

    async def prune() -> None:
        with pytest.raises(StoreUnavailable, match="a reader keeps older pages"):
            await store.prune(HEAD, ended_by={"Said"}, reason="")
        hold.release()

    pruning: list[asyncio.Task[None]] = []
    hold = Hold("SELECT position, hash FROM anchor", lambda: pruning.append(asyncio.create_task(prune())))
    await store._writer.execute_fetchall("PRAGMA busy_timeout = 0")
    await store._reader.set_trace_callback(hold)
    assert (await store.verify()).head.position == HEAD + 1
    await asyncio.gather(*pruning)
    assert pruning
    assert len(await store.read_all()) < len(THERE)


# Fields

FIELDS = {
    "stream": ("stream || 'x'", "upper(stream)", "CAST(x'ff' AS TEXT)"),
    "version": ("version + 100", "-version", "version + (1 << 32)"),
    "id": ("id || ' '", "substr(id, 2)", "CAST(x'ff' AS TEXT)"),
    "type": ("type || '!'", "'$' || type", "CAST(x'ff' AS TEXT)"),
    "time": ("time + 1", "-time", "0"),
    "metadata": ("x''", "x'7b207d'", "CAST(metadata || x'20' AS BLOB)"),
    "salt": ("x''", "randomblob(16)", "CAST(salt || x'00' AS BLOB)"),
    "data": ("x''", "randomblob(4)", "CAST(data || x'20' AS BLOB)"),
    "digest": ("x''", "randomblob(32)", "CAST(digest || x'00' AS BLOB)"),
    "hash": ("x''", "randomblob(32)", "CAST(hash || x'00' AS BLOB)"),
}
CHANGES = [(field, value) for field, values in FIELDS.items() for value in values]


@pytest.mark.parametrize(("field", "value"), CHANGES, ids=[f"{field} = {value}" for field, value in CHANGES])
async def test_a_field_that_was_changed_is_found_where_it_is(
    store: SQLiteEventStore, path: Path, field: str, value: str
) -> None:
    with editing(path) as edit:
        for position in set(THERE) - {ERASED}:
            with changed(edit, position, f"UPDATE event SET {field} = {value} WHERE position = ?"):
                assert await faulty_position(store) == position
            await store.verify()


@pytest.mark.parametrize(
    "change",
    ["metadata = randomblob(2)", "data = randomblob(5)", "salt = randomblob(16)", "digest = randomblob(32)",
        "digest = x''", "digest = CAST(digest || x'00' AS BLOB)", "version = -version"],
)  # fmt: skip
async def test_an_erased_event_cannot_be_given_another_content(
    store: SQLiteEventStore, path: Path, change: str
) -> None:
    with editing(path) as edit, changed(edit, ERASED, f"UPDATE event SET {change} WHERE position = ?"):
        assert await faulty_position(store) == ERASED


async def test_of_a_thousand_flipped_bits_a_thousand_are_found(path: Path) -> None:
    dice = random.Random(20)
    store = await SQLiteEventStore.open(path)
    for number in range(50):
        payloads = [dice.randbytes(dice.choice([1, 30, 300, 5000])) for _ in range(4)]
        await store.append(f"s{number}", [NewEvent(type="T", data=data) for data in payloads])
    with editing(path) as edit:
        for _ in range(1000):
            position, field = dice.randrange(1, 201), dice.choice(["metadata", "data"])
            read, write = (
                f"SELECT {field} FROM event WHERE position = ?",
                f"UPDATE event SET {field} = ? WHERE position = ?",
            )
            ((was,),) = edit.execute(read, (position,))
            flipped = bytearray(was)
            flipped[dice.randrange(len(was))] ^= 1 << dice.randrange(8)
            edit.execute(write, (bytes(flipped), position))
            assert await faulty_position(store) == position
            edit.execute(write, (was, position))
    await store.verify()
    await store.close()


# Rows

_COPY = "type, time, metadata, salt, data, digest, hash FROM event WHERE position = 11"
_ZEROS = "metadata = zeroblob(length(metadata)), salt = zeroblob(16), data = zeroblob(length(data))"
ROWS = {
    "the first row removed": (1, "DELETE FROM event WHERE position = 1"),
    "a row removed": (11, "DELETE FROM event WHERE position = 11"),
    "a row after a gap removed": (2, "DELETE FROM event WHERE position = 4"),
    "the row before the last removed": (15, "DELETE FROM event WHERE position = 15"),
    "the last row removed while the store is open": (16, "DELETE FROM event WHERE position = 16"),
    "all rows removed while the store is open": (1, "DELETE FROM event; DELETE FROM anchor"),
    "a record of an erasure removed": (7, "DELETE FROM event WHERE position = 10"),
    "a record of a pruning removed": (13, "DELETE FROM event WHERE position = 13"),
    "a record of a pruning cut off": (2, "DELETE FROM event WHERE position > 12"),
    "two rows swapped": (11, """UPDATE event SET position = -position WHERE position IN (11, 12);
        UPDATE event SET position = 23 + position WHERE position IN (-11, -12)"""),
    "a row moved to the end": (11, "UPDATE event SET position = 17 WHERE position = 11"),
    "a row moved before the beginning": (1, "UPDATE event SET position = -11 WHERE position = 11"),
    "a row put before the beginning": (1, f"INSERT INTO event SELECT 0, 'running', 9, 'x', {_COPY}"),
    "a row put into a gap": (7, f"INSERT INTO event SELECT 8, 'running', 9, 'x', {_COPY}"),
    "a row put at the end": (17, f"INSERT INTO event SELECT 17, 'running', 9, 'x', {_COPY}"),
    "a payload taken away": (11, f"UPDATE event SET {_ZEROS} WHERE position = 11"),
    "a payload taken away since its stream was erased":
        (14, f"UPDATE event SET {_ZEROS} WHERE position = 14"),
    "a payload taken away at the end": (16, f"UPDATE event SET {_ZEROS} WHERE position = 16"),
    "a record of an erasure emptied": (10, f"UPDATE event SET {_ZEROS} WHERE position = 10"),
    "a record of a pruning emptied": (13, f"UPDATE event SET {_ZEROS} WHERE position = 13"),
    "a record of an erasure altered":
        (10, "UPDATE event SET data = CAST(replace(data, ':1}', ':9}') AS BLOB) WHERE position = 10"),
    "a record of a pruning altered":
        (13, "UPDATE event SET data = CAST(replace(data, ':12', ':16') AS BLOB) WHERE position = 13"),
    "an event made a record of an erasure": (15, "UPDATE event SET type = '$erased' WHERE position = 15"),
    "a record of an erasure put at the end": (17, f"""INSERT INTO event SELECT 17, 'last', 3, 'x', {_COPY};
        UPDATE event SET type = '$erased', data = CAST('{{"reason":"","through":2}}' AS BLOB)
        WHERE position = 17;
        UPDATE event SET {_ZEROS} WHERE stream = 'last' AND version < 3"""),
}  # fmt: skip


@pytest.mark.parametrize(("position", "script"), ROWS.values(), ids=list(ROWS))
async def test_rows_that_are_not_as_they_were_are_found(
    store: SQLiteEventStore, path: Path, position: int, script: str
) -> None:
    with editing(path) as edit:
        edit.executescript(script)
    assert await faulty_position(store) == position


@pytest.mark.parametrize("last", [13, 14, 15])
async def test_an_end_that_was_cut_off_while_the_store_was_closed_is_found_by_who_remembers_it(
    store: SQLiteEventStore, path: Path, last: int
) -> None:
    head = await store.head()
    await store.close()
    with editing(path) as edit:
        edit.execute("DELETE FROM event WHERE position > ?", (last,))
    log = await SQLiteEventLog.read(path)
    assert (await log.verify()).head.position == last
    assert await faulty_position(log, head) == last + 1
    await log.close()


async def test_a_subscriber_learns_that_the_end_was_cut_off_under_an_open_store(
    store: SQLiteEventStore, path: Path
) -> None:
    with editing(path) as edit:
        edit.execute("DELETE FROM event WHERE position > 14")
    following = aiter(store.subscribe(after=12))
    assert [event.position for event in await anext(following)] == [13, 14]
    with pytest.raises(ChainBroken, match="ends before its head") as found:
        await anext(following)
    assert found.value.position == 15


async def test_an_erasure_whose_record_was_cut_off_is_found_where_it_began(path: Path) -> None:
    store = await SQLiteEventStore.open(path)
    await store.append("a", events("1"))
    await store.append("b", events("2", "3"))
    await store.erase("b", reason="")
    await store.close()
    with editing(path) as edit:
        edit.execute("DELETE FROM event WHERE type = '$erased'")
    log = await SQLiteEventLog.read(path)
    assert await faulty_position(log) == 2
    await log.close()


async def test_what_was_kept_cannot_be_put_in_place_of_what_was_pruned(path: Path) -> None:
    store = await SQLiteEventStore.open(path)
    await store.append("over", [NewEvent(type=kind, data=b"") for kind in ("Said", "Ended")])
    await store.append("running", events("1", "2"))
    await store.close()
    whole = path.with_name("whole.db")
    shutil.copy(path, whole)
    store = await SQLiteEventStore.open(path)
    await store.prune(4, ended_by=["Ended"], reason="")
    heads = [await store.head()]
    await store.close()
    with editing(path) as edit:
        edit.execute("ATTACH ? AS whole", (str(whole),))
        edit.execute("INSERT INTO event SELECT * FROM whole.event WHERE stream = 'over'")
        edit.execute("UPDATE anchor SET position = 4, hash = (SELECT hash FROM event WHERE position = 4)")
        edit.execute("DELETE FROM event WHERE stream = 'running'")
    log = await SQLiteEventLog.read(path)
    with pytest.raises(ChainBroken, match="what is missing up to position 4 is not what was pruned") as found:
        await log.verify(contains=heads)
    assert found.value.position == 3
    await log.close()


@pytest.mark.parametrize("data", [b"no JSON", b"{}", b"\xff"])
async def test_what_only_looks_like_the_stores_own_events_is_named(path: Path, data: bytes) -> None:
    store = await SQLiteEventStore.open(path)
    await store.append("a", events("1"))
    await store.erase("a", reason="asked for")
    (said, erased) = await store.read_all()
    await store.close()
    digest = payload_digest(erased.salt, erased.metadata, data)
    forged = msgspec.structs.replace(erased, data=data, digest=digest)
    with editing(path) as edit:
        edit.execute(
            "UPDATE event SET data = ?, digest = ?, hash = ? WHERE position = 2",
            (data, digest, chain_hash(said.hash, forged)),
        )
    log = await SQLiteEventLog.read(path)
    with pytest.raises(ChainBroken, match="one of the store's own events, which it has not written") as found:
        await log.verify()
    assert found.value.position == 2
    await log.close()


# Anchors, which are at 3 and 9

_ANCHOR = "INSERT INTO anchor SELECT position, hash FROM event WHERE position"
ANCHORS = {
    "an anchor altered": (4, "UPDATE anchor SET hash = randomblob(32) WHERE position = 3"),
    "an anchor made longer":
        (2, "UPDATE anchor SET hash = CAST(hash || x'00' AS BLOB) WHERE position = 3"),
    "an anchor emptied": (2, "UPDATE anchor SET hash = x'' WHERE position = 3"),
    "an anchor removed": (7, "DELETE FROM anchor WHERE position = 9"),
    "an anchor moved": (2, "UPDATE anchor SET position = 2 WHERE position = 3"),
    "an anchor put into a gap": (8, "INSERT INTO anchor VALUES (8, randomblob(32))"),
    "an anchor put where an event is": (11, f"{_ANCHOR} = 11"),
    "an anchor put at the head": (16, f"{_ANCHOR} = 16"),
    "an anchor put after the head": (20, "INSERT INTO anchor VALUES (20, randomblob(32))"),
    "an anchor put before the beginning": (0, "INSERT INTO anchor VALUES (0, zeroblob(32))"),
    # Which of the gaps is the wrong one cannot be told: on record is a digest of them all.
    "a kept event removed before a gap": (2, "DELETE FROM event WHERE position = 6"),
    "a kept event removed after a gap":
        (2, f"DELETE FROM anchor WHERE position = 3; {_ANCHOR} = 4; DELETE FROM event WHERE position = 4"),
    "a kept event removed between others":
        (2, f"{_ANCHOR} = 11; DELETE FROM event WHERE position = 11"),
    "a later event removed": (14, f"{_ANCHOR} = 14; DELETE FROM event WHERE position = 14"),
}  # fmt: skip


@pytest.mark.parametrize(("position", "script"), ANCHORS.values(), ids=list(ANCHORS))
async def test_gaps_that_are_not_as_they_were_are_found(
    store: SQLiteEventStore, path: Path, position: int, script: str
) -> None:
    with editing(path) as edit:
        edit.executescript(script)
    assert await faulty_position(store) == position


# Several processes

LENGTH, WALKERS = 120, 3
BOUNDARIES = (40, 82)
"""Where the second walk and the third begin: after an event before a gap, and after one behind a gap."""


@pytest.fixture
async def long_log(path: Path) -> Path:
    """A log that is not open; 2, 3, 41, 42, 80 and 81 are pruned."""
    store = await SQLiteEventStore.open(path)
    for number in range(39):
        over = events("o1") + events("o2", type="Ended" if number % 13 == 0 else "Said")
        await store.append("running", events(f"step {number}"))
        await store.append(f"over{number}", over)
    await store.erase("over5", reason="")
    await store.erase("over20", reason="")
    await store.prune(117, ended_by={"Ended"}, reason="")
    assert (await store.head()).position == LENGTH
    await store.close()
    return path


@contextmanager
def walking(walkers: int) -> Iterator[None]:
    """Let so many processes walk along a log of `LENGTH` events, as they do along long ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_walking, "_WORTH_A_PROCESS", LENGTH // walkers if walkers > 1 else 2 * LENGTH)
        patch.setattr(os, "sched_getaffinity", lambda _: range(walkers))
        yield


async def verdict(path: Path, *, walkers: int) -> Verified | str:
    """Return what `verify` says of a log when so many processes walk along it."""
    log = await SQLiteEventLog.read(path)
    with walking(walkers):
        try:
            return await log.verify()
        except (ChainBroken, StoreUnavailable) as error:
            return f"{type(error).__name__} {error}"
        finally:
            await log.close()


FAULTS = {
    "payload": "UPDATE event SET data = randomblob(3) WHERE position = ?1",
    "emptied": f"UPDATE event SET {_ZEROS} WHERE position = ?1",
    "time": "UPDATE event SET time = time + 1 WHERE position = ?1",
    "hash": "UPDATE event SET hash = randomblob(32) WHERE position = ?1",
    "removed": "DELETE FROM event WHERE position = ?1",
    "removed with a neighbour": "DELETE FROM event WHERE position BETWEEN ?1 AND ?1 + 1",
    "cut off": "DELETE FROM event WHERE position >= ?1",
    "anchor": "UPDATE anchor SET hash = randomblob(32) WHERE position BETWEEN ?1 - 1 AND ?1 + 1",
    "anchored": _ANCHOR.replace("INSERT", "INSERT OR REPLACE") + " BETWEEN ?1 AND ?1 + 1",
}
AROUND = sorted({p + d for p in (1, *BOUNDARIES, LENGTH) for d in (-1, 0, 1)})


@given(
    faults=st.lists(
        st.tuples(st.sampled_from(list(FAULTS)), st.sampled_from(AROUND) | st.integers(1, LENGTH)),
        min_size=1, max_size=3,
    )
)  # fmt: skip
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_several_processes_find_what_one_finds(long_log: Path, faults: list[tuple[str, int]]) -> None:
    path = long_log.with_name("edited.db")
    shutil.copyfile(long_log, path)
    with editing(path) as edit:
        for fault, position in faults:
            edit.execute(FAULTS[fault], (position,))
    assert await verdict(path, walkers=WALKERS) == await verdict(path, walkers=1)


@pytest.mark.parametrize("position", [1, 20, *BOUNDARIES, 43, 83, 100, 119, LENGTH])
async def test_several_processes_name_where_a_fault_is(long_log: Path, position: int) -> None:
    with editing(long_log) as edit:
        edit.execute("UPDATE event SET time = time + 1 WHERE position = ?", (position,))
    found = await verdict(long_log, walkers=WALKERS)
    assert str(found).startswith(f"ChainBroken position {position}: ")


async def test_several_processes_find_that_the_end_was_cut_off_under_an_open_store(path: Path) -> None:
    store = await SQLiteEventStore.open(path)
    await store.append("a", events(*map(str, range(LENGTH))))
    with editing(path) as edit:
        edit.execute("DELETE FROM event WHERE position > 50")
    for walkers in (1, WALKERS):
        with walking(walkers):
            assert await faulty_position(store) == 51
    await store.close()


async def test_several_processes_tell_of_their_progress_until_all_is_checked(long_log: Path) -> None:
    checked: list[int] = []
    log = await SQLiteEventLog.read(long_log)
    with walking(WALKERS):
        verified = await log.verify(progress=checked.append)
    assert sum(checked) == verified.events == 114
    assert len([count for count in checked if count]) == WALKERS, "each process had a part"
    await log.close()


_INTERPRETER_STARTS = """
import os
with open(os.environ["ANNOUNCED"], "w") as pipe:
    pipe.write(f"{os.getpid()}\\n")
"""


@pytest.fixture
async def starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[str], Callable[[], Awaitable[list[str]]]]]:
    """Have each process of a verification say its pid, and then run some code before anything else."""
    async with announcements(tmp_path / "announced") as heard:

        def then(code: str) -> Callable[[], Awaitable[list[str]]]:
            (tmp_path / "site").mkdir()
            (tmp_path / "site" / "sitecustomize.py").write_text(_INTERPRETER_STARTS + code)
            return heard

        monkeypatch.syspath_prepend(tmp_path / "site")
        monkeypatch.setenv("ANNOUNCED", str(tmp_path / "announced"))
        yield then


async def test_a_cancelled_verification_ends_its_processes(
    long_log: Path, starting: Callable[[str], Callable[[], Awaitable[list[str]]]]
) -> None:
    heard = starting("import signal; signal.pause()")
    verifying = asyncio.create_task(verdict(long_log, walkers=WALKERS))
    pids = [int(pid) for _ in range(WALKERS) for pid in await heard()]
    verifying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await verifying
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_process_that_is_killed_is_told_of_and_the_others_end(
    long_log: Path, starting: Callable[[str], Callable[[], Awaitable[list[str]]]]
) -> None:
    heard = starting("import signal; signal.pause()")
    verifying = asyncio.create_task(verdict(long_log, walkers=WALKERS))
    pids = [int(pid) for _ in range(WALKERS) for pid in await heard()]
    os.kill(pids[1], signal.SIGKILL)
    assert await verifying == "StoreUnavailable a process that was to verify ended with status -9"
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


async def test_what_is_pruned_while_several_processes_walk_is_no_fault(
    long_log: Path, tmp_path: Path, starting: Callable[[str], Callable[[], Awaitable[list[str]]]]
) -> None:
    """Even where one was to begin nothing is left when it comes there."""
    gate = tmp_path / "gate"
    heard = starting(f"import fcntl; fcntl.flock(open({str(gate)!r}), fcntl.LOCK_SH)")
    store = await SQLiteEventStore.open(long_log)
    with gate.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        verifying = asyncio.create_task(verdict(long_log, walkers=WALKERS))
        for _ in range(WALKERS):
            await heard()
        await store.prune(117, ended_by={"Said", "Ended"}, reason="")
    verified = await verifying
    assert isinstance(verified, Verified), verified
    there = await store.read_all()
    assert not {event.position for event in there} & set(BOUNDARIES)
    assert verified[:4] == (await store.head(), len(there), 4, LENGTH + 1 - len(there))
    await store.close()


@pytest.mark.parametrize("walkers", [1, WALKERS])
async def test_a_file_that_cannot_be_read_is_told_apart_from_a_broken_chain(
    long_log: Path, walkers: int
) -> None:
    content = bytearray(long_log.read_bytes())
    page = 4096 * (content.index(b"step 20") // 4096)
    assert page, "the first page holds the schema"
    content[page : page + 8] = b"\xff" * 8
    long_log.write_bytes(content)
    found = await verdict(long_log, walkers=walkers)
    assert str(found).startswith("StoreUnavailable ")
    assert "malformed" in str(found)


async def test_verifying_runs_nothing_that_lies_in_the_working_directory(
    long_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('trapped')")
    monkeypatch.chdir(tmp_path)
    assert isinstance(await verdict(long_log, walkers=WALKERS), Verified)
