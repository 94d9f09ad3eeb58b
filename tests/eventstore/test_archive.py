"""Archives: a stretch of the log in a file of its own."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import ChainBroken, EventStore, Head, MemoryEventStore, Metadata, NewEvent
from eventstore.archive import ArchiveError, beginning, verify_archive, withhold, write_archive
from tests.harness import ManualClock

VERIFIER = Path(__file__).parents[2] / "docs" / "verify-archive.pl"
PERL = (
    shutil.which("perl")
    and not subprocess.run(["perl", "-c", VERIFIER], capture_output=True, check=False).returncode
)


async def fill(store: EventStore, count: int = 20) -> None:
    for number in range(count):
        said = NewEvent(
            type="Said", data=f'{{"word":"wörd {number}"}}'.encode(), metadata=Metadata(actor="ä")
        )
        await store.append(f"s{number % 3}", [said])


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as file:
        return [json.loads(line) for line in file]


def digest_of(path: Path) -> str:
    """The digest of all lines but the last, from the words of the documentation."""
    with gzip.open(path) as file:
        return sha256(b"".join(file.readlines()[:-1])).hexdigest()


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    content = lines(path)
    change(content)
    with gzip.open(path, "wb") as file:
        file.writelines(json.dumps(line).encode() + b"\n" for line in content)


async def test_an_archive_holds_the_log_and_verifies_alone(store: EventStore, tmp_path: Path) -> None:
    await fill(store)
    path = tmp_path / "log.gz"
    seen: list[int] = []
    contents = await write_archive(store, path, sign=lambda head, extension: f"{head.position} {extension}")
    assert verify_archive(path, progress=seen.append) == contents
    digest = digest_of(path)
    note = f"20 archive {digest}"
    assert contents == (Head(0, bytes(32)), await store.head(), 20, 0, 0, digest, note)
    assert path.stat().st_mode & 0o777 == 0o600
    assert sum(seen) == 20
    recorded = await store.read_all()
    for line, event in zip(lines(path)[1:-1], recorded, strict=True):
        assert line["metadata"].encode() == event.metadata
        assert line["data"].encode() == event.data
        assert (line["position"], line["stream"], line["hash"]) == (
            event.position, event.stream, event.hash.hex(),
        )  # fmt: skip


async def test_until_ends_before_the_first_event_that_is_later(
    store: EventStore, clock: ManualClock, tmp_path: Path
) -> None:
    await fill(store, 5)
    clock.advance(days=1)
    noon = clock.now()
    await fill(store, 3)
    clock.advance(microseconds=1)
    await fill(store, 4)
    for until, events in ((noon, 8), (noon - timedelta(microseconds=1), 5), (clock.now(), 12), (None, 12)):
        path = tmp_path / f"{events}-{until is None}.gz"
        assert (await write_archive(store, path, until=until)).events == events
        assert verify_archive(path).head.position == events


async def test_an_archive_longer_than_a_page_is_whole(tmp_path: Path) -> None:
    store = MemoryEventStore()
    await store.append("s", [NewEvent(type="Said", data=b"%d" % number) for number in range(4001)])
    contents = await write_archive(store, tmp_path / "log.gz")
    assert contents.events == 4001
    assert verify_archive(tmp_path / "log.gz") == contents


async def test_payloads_that_are_no_text_come_through(store: EventStore, tmp_path: Path) -> None:
    await store.append("s", [NewEvent(type="Said", data=data) for data in (b"\xff\0\xfe", b"", b"\0")])
    await write_archive(store, tmp_path / "log.gz")
    assert verify_archive(tmp_path / "log.gz").events == 3
    assert lines(tmp_path / "log.gz")[1]["data_base64"] == "/wD+"


async def test_erased_events_are_archived_without_payload(store: EventStore, tmp_path: Path) -> None:
    await fill(store, 6)
    await store.erase("s1", reason="asked for")
    contents = await write_archive(store, tmp_path / "with.gz")
    assert (contents.erased, contents.unrecorded) == (2, 0)
    assert verify_archive(tmp_path / "with.gz") == contents
    assert [line for line in lines(tmp_path / "with.gz")[1:-1] if "salt" not in line] == [
        line for line in lines(tmp_path / "with.gz") if line.get("stream") == "s1" and line["type"] == "Said"
    ]


async def test_an_archive_tells_of_erasures_that_came_after_its_end(
    store: EventStore, clock: ManualClock, tmp_path: Path
) -> None:
    await fill(store, 6)
    before = clock.now()
    clock.advance(seconds=1)
    await store.erase("s1", reason="asked for")
    contents = await write_archive(store, tmp_path / "without.gz", until=before)
    assert (contents.events, contents.erased, contents.unrecorded) == (6, 2, 2)
    assert verify_archive(tmp_path / "without.gz") == contents


async def test_the_next_archive_begins_where_the_log_was_pruned(store: EventStore, tmp_path: Path) -> None:
    assert await beginning(store) == Head(0, bytes(32))
    await fill(store, 6)
    await store.append("s0", [NewEvent(type="Ended", data=b"")])
    first = await write_archive(store, tmp_path / "first.gz")
    await store.prune(first.head.position, ended_by=["Ended"], reason="archived")
    await fill(store, 4)
    second = await write_archive(store, tmp_path / "second.gz")
    assert second.after == first.head
    assert second.head == await store.head()
    assert second.events == 5  # the pruning itself is one
    assert verify_archive(tmp_path / "second.gz") == second


async def test_there_is_no_archive_of_nothing(
    store: EventStore, clock: ManualClock, tmp_path: Path
) -> None:  # fmt: skip
    with pytest.raises(ArchiveError, match="nothing to archive"):
        await write_archive(store, tmp_path / "log.gz")
    await fill(store, 3)
    with pytest.raises(ArchiveError, match="no event is that old"):
        await write_archive(store, tmp_path / "log.gz", until=clock.now() - timedelta(seconds=1))
    assert list(tmp_path.glob("*log.gz*")) == []


async def test_an_archive_is_never_overwritten(store: EventStore, tmp_path: Path) -> None:
    await fill(store)
    path = tmp_path / "log.gz"
    path.write_text("precious")
    with pytest.raises(ArchiveError, match="never overwritten"):
        await write_archive(store, path)
    assert path.read_text() == "precious"


async def test_what_fails_leaves_no_file(store: EventStore, tmp_path: Path) -> None:
    await fill(store)

    def fail(head: Head, extension: str) -> str:
        raise OSError("no key")

    with pytest.raises(OSError, match="no key"):
        await write_archive(store, tmp_path / "log.gz", sign=fail)
    assert list(tmp_path.glob("*log.gz*")) == []


FAULTS: dict[str, tuple[Callable[[list[dict[str, Any]]], object], int]] = {
    "a payload": (lambda content: content[7].update(data="else"), 7),
    "metadata": (lambda content: content[7].update(metadata="{}"), 7),
    "a time": (lambda content: content[7].update(time=1), 7),
    "a stream": (lambda content: content[7].update(stream="x"), 7),
    "a type": (lambda content: content[7].update(type="Sung"), 7),
    "an id": (lambda content: content[7].update(id="x"), 7),
    "a version": (lambda content: content[7].update(version=9), 7),
    "a hash": (lambda content: content[7].update(hash="00" * 32), 7),
    "a digest": (lambda content: content[7].update(digest="00" * 32), 7),
    "an event removed": (lambda content: content.pop(7), 7),
    "two events swapped": (lambda content: content.insert(7, content.pop(8)), 7),
    "the beginning": (lambda content: content[0]["after"].update(hash="11" * 32), 1),
    "the last event removed": (lambda content: content.pop(-2), 20),
    "the trailer's head": (lambda content: content[-1]["head"].update(hash="00" * 32), 21),
}


@pytest.mark.parametrize(("change", "position"), FAULTS.values(), ids=list(FAULTS))
async def test_every_change_is_found_with_its_position(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], object], position: int
) -> None:
    store, path = MemoryEventStore(), tmp_path / "log.gz"
    await fill(store)
    await write_archive(store, path)
    rewrite(path, change)
    with pytest.raises(ChainBroken) as found:
        verify_archive(path)
    assert found.value.position == position


async def test_an_archive_shows_what_checkpoints_saw_within_it(store: EventStore, tmp_path: Path) -> None:
    heads = [await store.head()]
    for _ in range(4):
        await fill(store, 5)
        heads.append(await store.head())
    path = tmp_path / "log.gz"
    await write_archive(store, path)
    assert verify_archive(path, contains=heads).events == 20
    with pytest.raises(ChainBroken, match="not the event that once stood here") as found:
        verify_archive(path, contains=[Head(7, bytes(32))])
    assert found.value.position == 7
    with pytest.raises(ArchiveError, match="position 21 is not in it: it has 1 to 20"):
        verify_archive(path, contains=[Head(21, bytes(32))])


async def test_payloads_cannot_be_taken_out_of_an_archive_unnoticed(tmp_path: Path) -> None:
    store, path = MemoryEventStore(), tmp_path / "log.gz"
    await fill(store)
    contents = await write_archive(store, path)

    def strip(content: list[dict[str, Any]]) -> None:
        for field in ("salt", "metadata", "data"):
            del content[7][field]

    rewrite(path, strip)
    with pytest.raises(ArchiveError, match="its digest is not the one in its trailer"):
        verify_archive(path)
    # Whoever changes that one, too, changes what a checkpoint of the archive would have to sign.
    rewrite(path, lambda content: content[-1].update(sha256=digest_of(path)))
    assert verify_archive(path).extension != contents.extension


async def test_an_archive_is_on_disk_before_it_stands_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = MemoryEventStore(), tmp_path / "log.gz"
    await fill(store)
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def noting_fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append(("directory" if name == tmp_path else "draft", path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    await write_archive(store, path)
    assert synced == [("draft", False), ("directory", True)]


async def test_what_is_no_archive_is_refused_with_the_place(tmp_path: Path) -> None:
    store, path = MemoryEventStore(), tmp_path / "log.gz"
    await fill(store)
    await write_archive(store, path)
    whole = path.read_bytes()
    for content, reason in (
        (whole[: len(whole) // 2], "cannot be unpacked"),
        (b"Dear diary", "cannot be unpacked"),
        (b"", "there is no trailer"),
        (gzip.compress(b"Dear diary\n"), "line 1:"),
        (
            gzip.compress(b'{"format":"else/9","after":{"position":0,"hash":""}}\n'),
            "line 1: the format is else/9",
        ),
        (gzip.compress(b"".join(gzip.decompress(whole).splitlines(True)[:-1])), "there is no trailer"),
        (gzip.compress(gzip.decompress(whole) + b"{}\n"), "after the trailer"),
    ):
        path.write_bytes(content)
        with pytest.raises(ArchiveError, match=reason):
            verify_archive(path)


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_no_single_bit_of_an_archive_can_be_turned(
    position: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("archive") / "log.gz"

    async def make() -> None:
        store = MemoryEventStore()
        await fill(store, 5)
        await write_archive(store, path)

    asyncio.run(make())
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[position % len(content)] ^= 1 << bit
    original = [*lines(path)]
    path.write_bytes(gzip.compress(bytes(content)))
    try:
        verify_archive(path)
    except (ArchiveError, ChainBroken):
        return
    # The case of hexadecimal digits alone is free.
    assert str(lines(path)).lower() == str(original).lower(), "something else was verified"


@pytest.mark.skipif(not PERL, reason="there is no Perl with its modules")
async def test_the_verifier_in_the_documentation_agrees(store: EventStore, tmp_path: Path) -> None:
    path = tmp_path / "log.gz"
    await fill(store)
    await store.append("s", [NewEvent(type="Said", data=data) for data in (b"\xff\0", b"")])
    await store.erase("s1", reason="asked for")
    contents = await write_archive(store, path)

    def judged() -> tuple[int, str]:
        done = subprocess.run(["perl", VERIFIER, path], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout or done.stderr

    said = f"23 events, 7 erased, head 23 {contents.head.hash.hex()}\n"
    assert judged() == (0, said)
    for change, position in FAULTS.values():
        shutil.copy(path, tmp_path / "copy.gz")
        rewrite(path, change)
        status, reason = judged()
        assert status != 0
        assert reason.startswith((f"position {position}:", "the trailer", "the archive"))
        shutil.copy(tmp_path / "copy.gz", path)


async def test_an_archive_goes_on_behind_another_though_nothing_was_pruned(
    store: EventStore, tmp_path: Path
) -> None:
    await fill(store, 10)
    first = await write_archive(store, tmp_path / "first.gz")
    await fill(store, 5)
    second = await write_archive(store, tmp_path / "second.gz", after=first.head)
    assert (second.after, second.head, second.events) == (first.head, await store.head(), 5)
    assert verify_archive(tmp_path / "second.gz") == second


async def test_what_is_withheld_is_in_no_archive_and_the_chain_holds(
    store: EventStore, tmp_path: Path
) -> None:
    """From the beginning, and in an archive that is written anew."""
    await fill(store, 5000)
    await store.erase("s0", reason="asked for")
    key: list[str] = []

    def sign(head: Head, extension: str) -> str:
        key.append(extension)
        return f"{head.position} {extension}"

    whole = await write_archive(store, tmp_path / "whole.gz", sign=sign)
    part = await write_archive(store, tmp_path / "part.gz", sign=sign, withheld=lambda name: name == "s1")
    again = withhold(tmp_path / "whole.gz", lambda name: name == "s1", sign)
    assert again == part == verify_archive(tmp_path / "whole.gz")
    assert key == [whole.extension, part.extension, part.extension]
    assert (tmp_path / "whole.gz").read_bytes() == (tmp_path / "part.gz").read_bytes()
    assert again.head == whole.head
    held = [line["stream"] for line in lines(tmp_path / "part.gz")[1:-1] if "salt" in line]
    assert set(held) == {"s0", "s2"}, "of s0 there is what says that it was erased"
    assert held.count("s0") == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".gz") == ["part.gz", "whole.gz"]
    assert not list(tmp_path.glob(".*"))
