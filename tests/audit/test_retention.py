"""Retention: what is kept for how long, over years that a clock is moved by hand."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from eventstore import Erased, Metadata, Pruned, RecordedEvent, SQLiteEventLog
from eventstore.archive import verify_archive
from eventstore.checkpoint import SigningKey
from projections import Projector
from tests.daemon import serving, uwsd
from tests.disks import mounted
from tests.harness import BasicUsers, ManualClock, Site, job_id, running
from uws import Lifetime, Service, StrParameter
from uws.audit import _failpoints as failpoint
from uws.audit import check_pruning, check_signature
from uws.config import RetentionSettings
from uws.model import events as e

ROOT = Path(__file__).parents[2]
BEGIN = datetime(2026, 1, 10, 12, tzinfo=UTC)
ECHO = Service(
    name="echo",
    title="Echo",
    command=["echo", "{word}"],
    parameters={"word": StrParameter(required=True)},
    lifetime=Lifetime(default="0s", max="0s"),
)
ALL = RetentionSettings(owners="1y", histories="2y", archive="monthly")
OWNER, WORD = "xanadu-owner", "xanadu-word"
STAYS, STAYING = "kubla-owner", "kubla-word"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(BEGIN)


@asynccontextmanager
async def server(data: Path, clock: ManualClock, settings: RetentionSettings | None) -> AsyncIterator[Site]:
    async with running(data, ECHO, clock=clock, authenticator=BasicUsers(), retention=settings) as site:
        yield site
        await site.node.backend.store.verify()
        differences = await site.node.backend.projector.verify()
        assert not any(differences.values()), differences


async def applied(clock: ManualClock) -> None:
    """Wait until nothing is to be done before midnight."""
    midnight = clock.now().replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    await clock.until_sleeping_for(midnight)


async def ran(site: Site, owner: str, word: str) -> str:
    job = await site.run("echo", user=owner, word=word)
    await site.ended(job, user=owner)
    return job


async def destroyed(site: Site, word: str = WORD) -> str:
    job = await ran(site, OWNER, word)
    assert (await site.request("DELETE", job, user=OWNER)).status == 303
    return job


def words_in(data: Path, *words: str) -> dict[str, set[str]]:
    """Return in which files each of some words is found; archives are unpacked."""
    found: dict[str, set[str]] = {word: set() for word in words}
    for path in data.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            for word in words:
                if word.encode() in content:
                    found[word].add(path.name)
    return found


async def log_of(site: Site) -> Sequence[RecordedEvent]:
    return await site.node.backend.store.read_all(limit=100_000)


def archives(data: Path) -> list[Path]:
    """Return all archives, once each is verified, and shown to begin where the one before ends."""
    key = SigningKey.load(data / "audit.key").verifier
    paths, end = sorted((data / "archives").iterdir()), None
    for path in paths:
        contents = verify_archive(path)
        check_signature(contents, key)
        assert end in (None, contents.after)
        end = contents.head
    return paths


# Owners


async def test_what_jobs_held_is_in_no_file_when_owners_are_kept_no_longer(
    tmp_path: Path, clock: ManualClock
) -> None:
    async with server(tmp_path, clock, ALL) as site:
        gone = await destroyed(site)
        stays = await ran(site, STAYS, STAYING)
        document = (await site.get(stays, user=STAYS)).body
        await applied(clock)
        clock.advance(days=364)
        await applied(clock)
        assert words_in(tmp_path, WORD)[WORD], "it is kept for a year"
        clock.advance(days=1)
        await applied(clock)

        assert words_in(tmp_path, OWNER, WORD) == {OWNER: set(), WORD: set()}
        assert (await site.get(gone, user=OWNER)).status == 410
        assert (await site.get(stays, user=STAYS)).body == document
        assert [path.name for path in archives(tmp_path)] == ["2026-01.gz"]
        assert not any(words_in(tmp_path / "archives", STAYS, STAYING).values())

        erasures = [event for event in await log_of(site) if event.type == Erased.type]
        (erasure,) = erasures
        assert erasure.stream == f"job/{job_id(gone)}"
        assert erasure.about == Metadata(actor="uwsd")
        assert b"retention: owners after 1y" in erasure.data
        told = [
            e.decode_retention(event)
            for event in await site.node.backend.store.read_stream(e.RETENTION_STREAM)
            if event.type != "MonthArchived"
        ]
        begun, done = told
        assert isinstance(begun, e.RetentionBegun)
        assert (begun.duty, begun.after) == ("owners", "1y")
        assert done == e.RetentionApplied(duty="owners")


async def test_many_jobs_are_erased_and_log_ins_too(tmp_path: Path, clock: ManualClock) -> None:
    settings = RetentionSettings(owners="1d")
    async with server(tmp_path, clock, settings) as site:
        store = site.node.backend.store
        who = Metadata(actor=OWNER)
        token = e.TokenIssued(user=OWNER, kind="session", digest="0", expires=clock.now())
        await store.append("session/1", [e.encode(token, who)])
        await store.append(e.security_stream(clock.now()), [e.encode(e.LoggedIn(user=OWNER), who)])
        (uws,) = site.node.services
        from uws import Caller, Changes

        for _ in range(105):
            job = await uws.create_job(Changes(parameters={"word": [WORD]}), Caller(OWNER))
            await uws.destroy_job(job.id, Caller(OWNER))
        clock.advance(days=2)
        await applied(clock)
        assert words_in(tmp_path, OWNER, WORD) == {OWNER: set(), WORD: set()}
        counted = Counter(event.stream for event in await log_of(site) if event.type == Erased.type)
        assert (len(counted), set(counted.values())) == (107, {1})


# Histories


async def test_histories_are_pruned_once_they_are_archived_and_others_stay(
    tmp_path: Path, clock: ManualClock
) -> None:
    settings = RetentionSettings(histories="2y", archive="monthly")
    async with server(tmp_path, clock, settings) as site:
        gone = await destroyed(site)
        stays = await ran(site, STAYS, STAYING)
        await applied(clock)
        clock.advance(days=365 * 2)
        await applied(clock)
        assert (await site.get(gone, user=OWNER)).status == 410, "its month was not over then"
        clock.advance(days=31)
        await applied(clock)

        assert (await site.get(gone, user=OWNER)).status == 404
        assert (await site.get(stays, user=STAYS)).status == 200
        assert words_in(tmp_path, OWNER, WORD) == {OWNER: {"2026-01.gz"}, WORD: {"2026-01.gz"}}
        assert len(archives(tmp_path)) > 1
        (pruning,) = [event for event in await log_of(site) if event.type == Pruned.type]
        assert pruning.about == Metadata(actor="uwsd")
        assert b"retention: histories after 2y, archived in 2026-01.gz" in pruning.data
        verified = await site.node.backend.store.verify()
        check_pruning(verified, SigningKey.load(tmp_path / "audit.key").verifier)
        head = await site.node.backend.store.head()
    async with server(tmp_path, clock, settings) as site:
        await applied(clock)
        assert await site.node.backend.store.head() == head, "nothing is done twice"
    for kind, words in (
        ("MonthArchived", "2026-01 is archived: 2026-01.gz, positions 1 to"),
        ("RetentionBegun", "histories, which are kept for 2y, are taken away up to 2026-02-01T00:00:00.000Z"),
        ("RetentionApplied", "histories: what was to be taken away is in no file any more"),
    ):
        told = await uwsd("audit", "log", "--type", kind, "--data", tmp_path)
        assert words in " ".join(re.sub("[│┃]", " ", told.out).split()), told.out + told.err


async def test_what_was_missed_while_no_server_ran_is_made_up_for(tmp_path: Path, clock: ManualClock) -> None:
    async with server(tmp_path, clock, None) as site:
        for _ in range(4):
            await destroyed(site)
            clock.advance(days=30)
    clock.advance(days=3000)
    async with server(tmp_path, clock, RetentionSettings(histories="1y", archive="monthly")) as site:
        await applied(clock)
        assert [path.name for path in archives(tmp_path)] == [
            "2026-01.gz", "2026-02.gz", "2026-03.gz", "2026-04.gz",
        ]  # fmt: skip
        events = await log_of(site)
        assert sum(event.type == Pruned.type for event in events) == 1, "all in one go"
        assert not [event for event in events if event.stream.startswith("job/")]


# Archives


async def test_a_month_is_archived_when_it_is_over_and_whole_as_long_as_owners_are_kept(
    tmp_path: Path, clock: ManualClock
) -> None:
    settings = RetentionSettings(archive="monthly")
    async with server(tmp_path, clock, settings) as site:
        await ran(site, OWNER, WORD)
        await applied(clock)
        clock.advance(days=21)
        await applied(clock)
        assert not (tmp_path / "archives").exists()
        clock.advance(days=1)
        await applied(clock)
        (path,) = archives(tmp_path)
        assert path.name == "2026-01.gz"
        assert path.stat().st_mode & 0o777 == 0o600
        assert words_in(tmp_path / "archives", WORD) == {WORD: {"2026-01.gz"}}
        (archived,) = map(e.decode_retention, await site.node.backend.store.read_stream(e.RETENTION_STREAM))
        contents = verify_archive(path)
        assert archived == e.MonthArchived(
            month="2026-01", file="2026-01.gz", first=1, last=contents.events,
            hash=contents.head.hash.hex(), sha256=contents.sha256,
        )  # fmt: skip
    async with server(tmp_path, clock, RetentionSettings(archive="monthly", owners="5y")) as site:
        await applied(clock)
        assert not words_in(tmp_path / "archives", WORD, OWNER)[WORD], "it is written anew without owners"
        assert archives(tmp_path) == [path]
        assert verify_archive(path).head == contents.head
    ended = await uwsd("audit", "verify", path, "--data", tmp_path)
    assert ended.status == 0, ended.err


async def test_a_file_in_the_way_is_told_and_keeps_nothing_else_from_being_done(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with server(tmp_path, clock, RetentionSettings(archive="monthly")) as site:
        await applied(clock)
        (tmp_path / "archives").mkdir(exist_ok=True)
        (tmp_path / "archives" / "2026-01.gz").write_text("in the way")
        job = await site.create("echo", user=OWNER, word=WORD)
        clock.advance(days=40)
        await clock.until_sleeping_for(clock.now() + timedelta(hours=1))
        assert "retention cannot be applied, which is tried again in an hour" in caplog.text
        assert "2026-01.gz" in caplog.text
        assert (await site.get(job, user=OWNER)).status == 200
        (tmp_path / "archives" / "2026-01.gz").unlink()
        clock.advance(hours=1)
        await applied(clock)
        assert len(archives(tmp_path)) == 1


async def duties(site: Site) -> list[str]:
    """Return what the log says that retention has begun and done, without archives."""
    told = map(e.decode_retention, await site.node.backend.store.read_stream(e.RETENTION_STREAM))
    return [
        f"{event.duty} {'begun' if isinstance(event, e.RetentionBegun) else 'done'}"
        for event in told
        if not isinstance(event, e.MonthArchived)
    ]


async def test_a_file_in_the_way_of_an_archive_keeps_no_owner(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with server(tmp_path, clock, RetentionSettings(owners="30d", archive="monthly")) as site:
        (tmp_path / "archives" / "2026-01.gz").mkdir(parents=True)
        await destroyed(site)
        await applied(clock)
        clock.advance(days=80)
        await clock.until_sleeping_for(clock.now() + timedelta(hours=1))
        assert caplog.text.count("retention cannot be applied, which is tried again in an hour") == 1
        assert "2026-01.gz" in caplog.text
        assert words_in(tmp_path, OWNER, WORD) == {OWNER: set(), WORD: set()}
        assert await duties(site) == ["owners begun", "owners done"]
        (tmp_path / "archives" / "2026-01.gz").rmdir()
        clock.advance(hours=1)
        await applied(clock)
        assert len(archives(tmp_path)) == 1


async def test_an_archive_that_was_moved_away_keeps_nothing_of_owners_in_any_file(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    data, elsewhere = tmp_path / "var", tmp_path / "2026-01.gz"
    settings = RetentionSettings(owners="30d", histories="60d", archive="monthly")
    async with server(data, clock, settings) as site:
        await destroyed(site)
        await applied(clock)
        clock.advance(days=32)
        await applied(clock)
        assert await duties(site) == ["owners begun", "owners done"]
        (data / "archives" / "2026-01.gz").rename(elsewhere)
        await destroyed(site)
        clock.advance(days=80)
        await clock.until_sleeping_for(clock.now() + timedelta(hours=1))
        assert "2026-01.gz" in caplog.text
        assert words_in(data, OWNER, WORD) == {OWNER: set(), WORD: set()}
        assert (await duties(site))[2:] == ["owners begun", "histories begun", "owners done"]
        elsewhere.rename(data / "archives" / "2026-01.gz")
        clock.advance(hours=1)
        await applied(clock)
        assert (await duties(site))[-1] == "histories done"
        assert Pruned.type in {event.type for event in await log_of(site)}


async def test_a_job_whose_files_cannot_be_deleted_keeps_no_other_one(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("uws.audit.retention._AT_ONCE", 2)
    words = [f"{WORD}-{number}" for number in range(4)]
    async with server(tmp_path, clock, RetentionSettings(owners="30d")) as site:
        stuck, *_ = [job_id(await destroyed(site, word=word)) for word in words]
        await applied(clock)
        with mounted(tmp_path / "jobs" / stuck, 1 << 20):
            clock.advance(days=40)
            await clock.until_sleeping_for(clock.now() + timedelta(hours=1))
            assert {word for word, files in words_in(tmp_path, *words).items() if files} == {words[0]}
            assert f"job/{stuck} is left as it is: " in caplog.text
            assert await duties(site) == ["owners begun"]
            assert caplog.text.count("tried again in an hour") == 1
            clock.advance(hours=1)
            await clock.until_sleeping_for(clock.now() + timedelta(hours=1))
            assert caplog.text.count("tried again in an hour") == 2
        clock.advance(hours=1)
        await applied(clock)
        assert not any(words_in(tmp_path, *words).values())
        assert await duties(site) == ["owners begun", "owners done"]


async def test_a_damaged_archive_keeps_nothing_of_owners_in_others(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with server(tmp_path, clock, RetentionSettings(archive="monthly")) as site:
        for _ in range(3):
            await ran(site, OWNER, WORD)
            clock.advance(days=31)
            await applied(clock)
        first, *later = archives(tmp_path)
    assert len(later) == 2
    whole = first.read_bytes()
    first.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    async with server(tmp_path, clock, RetentionSettings(archive="monthly", owners="5y")) as site:
        await clock.until_sleeping_for(clock.now() + timedelta(hours=1))
        assert f"{first} is left as it is: " in caplog.text
        for path in later:
            assert WORD.encode() not in gzip.decompress(path.read_bytes())
        first.write_bytes(whole)
        clock.advance(hours=1)
        await applied(clock)
        assert not words_in(tmp_path / "archives", WORD)[WORD]
        assert archives(tmp_path) == [first, *later]


async def test_what_is_in_no_archive_is_not_pruned(tmp_path: Path, clock: ManualClock) -> None:
    """Archives were written without what jobs held, which then is to be kept after all."""
    declaration = tmp_path / "uwsd.toml"
    declaration.write_text(
        'data = "var"\n[services.echo]\ntitle = "Echo"\ncommand = ["echo"]\n[audit]\norigin = "uwsd"\n'
    )
    data = tmp_path / "var"
    async with server(data, clock, RetentionSettings(owners="9y", archive="monthly")) as site:
        job = await destroyed(site)
        await applied(clock)
        clock.advance(days=40)
        await applied(clock)
        assert len(archives(data)) == 1
        ended = await uwsd("audit", "prune", data / "archives" / "2026-01.gz", "--config", declaration)
        assert ended.status == 2
        assert f"lacks what jobs held, which job/{job_id(job)} holds still: it would be lost" in ended.err
        assert (await site.get(job, user=OWNER)).status == 410
    async with server(data, clock, RetentionSettings(histories="1y", archive="monthly")) as site:
        clock.advance(days=500)
        await applied(clock)
        assert words_in(data, WORD)[WORD]
        assert (await site.get(f"{site.list_url('echo')}/{job_id(job)}", user=OWNER)).status == 410


# Killed anywhere

CHILD = """
import asyncio, os, signal, sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from tests.audit.test_retention import ALL, SECOND, applied, server
from tests.harness import ManualClock
from uws.audit import _failpoints

place, count, now = sys.argv[2], int(sys.argv[3]), datetime.fromisoformat(sys.argv[4])

def reached(name):
    global count
    count -= name == place
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    clock = ManualClock(now)
    async with server(Path(sys.argv[1]), clock, ALL):
        await applied(clock)
        clock.advance(days=SECOND)
        await applied(clock)

_failpoints.reached = reached
asyncio.run(main())
"""
FIRST, SECOND = 400, 800
"""Days after which owners are erased, and more after which histories are pruned."""


@pytest.mark.parametrize(
    ("place", "count", "phase"),
    [
        (failpoint.ARCHIVED, 1, 1),
        (failpoint.ARCHIVED, 2, 1),
        (failpoint.WITHHELD, 1, 1),
        (failpoint.BEGUN, 1, 1),
        (failpoint.ERASED, 1, 1),
        (failpoint.ERASED, 2, 1),
        (failpoint.SCRUBBED, 1, 1),
        (failpoint.BEGUN, 2, 2),
        (failpoint.PRUNED, 1, 2),
        (failpoint.SCRUBBED, 2, 2),
    ],
)
async def test_a_server_that_is_killed_on_the_way_goes_on_and_does_nothing_twice(
    tmp_path: Path, clock: ManualClock, place: str, count: int, phase: int
) -> None:
    data = tmp_path / "var"
    async with server(data, clock, RetentionSettings(archive="monthly")) as site:
        await destroyed(site)
        await destroyed(site)
        stays = await ran(site, STAYS, STAYING)
        await applied(clock)
        clock.advance(days=40)
        await applied(clock)
    clock.advance(days=FIRST)
    child = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", CHILD, data, place, str(count), clock.now().isoformat()],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    log = await SQLiteEventLog.read(data / "events.db")
    await log.verify()
    await log.close()

    if phase == 2:
        clock.advance(days=SECOND)
    async with server(data, clock, ALL) as site:
        await applied(clock)
        assert words_in(data, OWNER, WORD) == {OWNER: set(), WORD: set()}
        if phase == 1:
            clock.advance(days=SECOND)
            await applied(clock)
        assert (await site.get(f"{site.list_url('echo')}/{job_id(stays)}", user=STAYS)).status == 200
        events = await log_of(site)
        paths = archives(data)
    jobs = [event for event in events if event.stream.startswith("job/")]
    assert {event.stream for event in jobs} == {f"job/{job_id(stays)}"}
    assert sum(event.type == Pruned.type for event in events) == 1
    told = [e.decode_retention(event) for event in events if event.stream == e.RETENTION_STREAM]
    months = Counter((event.month, event.whole) for event in told if isinstance(event, e.MonthArchived))
    assert set(months.values()) == {1}
    assert months[paths[0].name.removesuffix(".gz"), False] == 1
    others = [event for event in told if not isinstance(event, e.MonthArchived)]
    assert [(type(event).__name__, event.duty) for event in others] == [
        ("RetentionBegun", "owners"),
        ("RetentionApplied", "owners"),
        ("RetentionBegun", "histories"),
        ("RetentionApplied", "histories"),
    ]
    erased = Counter[str]()
    for path in paths:
        for line in gzip.decompress(path.read_bytes()).splitlines():
            erased[line.decode().partition('"stream":"')[2].partition('"')[0]] += b'"$erased"' in line
    assert sorted(erased.values())[-3:] == [0, 1, 1]


# What is told


async def test_the_command_tells_what_is_kept_and_what_is_to_go_when(tmp_path: Path) -> None:
    declaration = tmp_path / "uwsd.toml"
    declaration.write_text(
        """
        data = "var"
        [retention]
        owners = "2y"
        histories = "10y"
        archive = "monthly"
        [services.echo]
        title = "Echo"
        command = ["echo", "{word}"]
        parameters = { word = { type = "str", required = true } }
        """
    )
    checked = await uwsd("check", declaration)
    assert (
        "owners are erased 2y after their jobs are destroyed; histories are pruned after 10y; "
        "the log is archived monthly\n"
    ) in checked.out
    async with serving(declaration) as beside:
        job = await beside.run("echo", word="hello")
        await beside.ended(job)
        assert (await beside.request("DELETE", job)).status == 303
        ended = await uwsd("audit", "retention", "--config", declaration)
        assert (ended.status, ended.err) == (0, "")
        owners, histories, archived, when = ended.out.splitlines()
        assert re.fullmatch(r"owners: kept for 2y; the next from 20\S+Z on", owners)
        assert re.fullmatch(r"histories: kept for 10y; the next from 20\S+T00:00:00.000Z on", histories)
        assert re.fullmatch(
            rf"archives: monthly, in {tmp_path}/var/archives; 20\d\d-\d\d from 20\S+T00:00:00.000Z on",
            archived,
        )
        assert when == "the server does what is due at midnight (UTC) and when it starts"
        told = json.loads((await uwsd("audit", "retention", "--config", declaration, "--json")).out)
        assert told["kept"]["histories"] == "10y"
        told = told["told"]
        assert (told["due"], told["pruned_up_to"], told["unfinished"]) == (0, 0, [])
        assert datetime.fromisoformat(told["next_erasure"]) > datetime.now(UTC)
    before = (tmp_path / "var" / "events.db").read_bytes()
    declaration.write_text(declaration.read_text().replace('"2y"', '"1d"'))
    ended = await uwsd("audit", "retention", "--config", declaration)
    assert (ended.status, ended.err) == (0, "")
    assert (tmp_path / "var" / "events.db").read_bytes() == before


async def test_read_models_follow_a_log_that_retention_has_changed(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Made anew, they are what they were."""
    async with server(tmp_path, clock, ALL) as site:
        await destroyed(site)
        await ran(site, STAYS, STAYING)
        clock.advance(days=1200)
        await applied(clock)
        usage = await site.node.backend.jobs.usage()
    for file in tmp_path.glob("projections.db*"):
        file.unlink()
    async with server(tmp_path, clock, ALL) as site:
        await site.node.backend.projector.caught_up()
        assert await site.node.backend.jobs.usage() == usage
    assert isinstance(site.node.backend.projector, Projector)
