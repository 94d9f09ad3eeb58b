"""Traces of other machines become jobs: as they were, when they were, and once."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import EventStore, RecordedEvent, SQLiteEventStore, from_microseconds
from tests.harness import SHARED, BasicUsers, ManualClock, running, text
from tests.web.support import child
from tests.web.test_documents import checked
from uws import IntParameter, Job, Phase, Service, StrParameter, UsageError, fold
from uws.importing import (
    FIELDS,
    IN_FLIGHT,
    LONGEST_LINE,
    Imported,
    Record,
    TraceError,
    import_swf,
    read_swf,
)
from uws.model import events as e

NASA = SHARED / "data" / "NASA-iPSC-1993-3.1-cln.swf.gz"
CLUSTER = Service(
    name="cluster",
    title="Jobs of another machine",
    command=["false"],
    parameters={
        "Processors": IntParameter(required=True),
        "requested_time": IntParameter(),
        "executable": StrParameter(),
        "unrelated": StrParameter(),
    },
)
OTHER = Service(name="other", title="Another", command=["true"])
BEGIN = datetime(1993, 10, 1, 7, 0, 3, tzinfo=UTC)
TRACE = """\
; Version: 2.2
; UnixStartTime: 749458803
; Note: from the Universität
     1       0    -1   1451  128     -1    -1  128   3600    -1  1   1   1  5  -1 -1 -1 10
     2      60    10     20    1     -1    -1   -1     -1    -1  0   2   1 -1  -1 -1 -1 -1

     3      60   600     -1   32  12.25    -1   -1     -1    -1  5   2   1 -1  -1 -1 -1 -1
     4    3600     5     30   32     -1    -1   -1   59.5    -1  5  -1   1 -1  -1 -1 -1 -1
     5    3601     0     15   32     -1    -1   -1     -1    -1  2   1   1 -1  -1 -1 -1 -1
     5    3601     0     15   32     -1    -1   -1     -1    -1  3   1   1 -1  -1 -1 -1 -1
     6  90000.5    1   2.25   32     -1    -1   -1      0    -1 -1   1   1 -1  -1 -1 -1 -1
"""
LONGEST_TURN = 0.005
"""Seconds of work: a few times what the loop's thread needs for a slice."""
JOBS = 5
EVENTS = 4 * JOBS - 1


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "small.swf"
    path.write_bytes(TRACE.encode("latin-1"))
    return path


@pytest.fixture
async def store(data: Path, clock: ManualClock) -> AsyncIterator[EventStore]:
    async with opened(data, clock) as store:
        yield store


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@asynccontextmanager
async def opened(data: Path, clock: ManualClock) -> AsyncIterator[EventStore]:
    data.mkdir(exist_ok=True)
    store = await SQLiteEventStore.open(data / "events.db", now=clock.now)
    try:
        yield store
    finally:
        await store.close()


async def imported(store: EventStore, path: Path, service: str = "cluster", **options: Any) -> Imported:
    return await import_swf(store, [CLUSTER, OTHER], path, service=service, actor="ann", **options)


async def streams(store: EventStore) -> dict[str, list[RecordedEvent]]:
    """Return all events of all jobs, each job's in their order."""
    found: dict[str, list[RecordedEvent]] = {}
    for event in await store.read_all(limit=1_000_000):
        if e.job_id_of(event.stream):
            found.setdefault(event.stream, []).append(event)
    return found


async def jobs(store: EventStore) -> list[Job]:
    """Return all jobs, in the order of the log."""
    folded = [fold(events) for events in (await streams(store)).values()]
    return [job for job in folded if job is not None]


def at(seconds: float) -> datetime:
    """Return a time of the small trace."""
    return BEGIN + timedelta(seconds=seconds)


# The format


def test_a_line_has_the_fields_of_the_format_and_the_header_tells_when_the_trace_begins() -> None:
    first, *_, last = read_swf(TRACE.splitlines())
    assert [getattr(first, name) for name in FIELDS] == [
        1, 0, -1, 1451, 128, -1, -1, 128, 3600, -1, 1, 1, 1, 5, -1, -1, -1, 10,
    ]  # fmt: skip
    assert (first.start, first.line) == (749458803, 4)
    assert (last.number, last.submit_time, last.run_time, last.line) == (6, 90000.5, 2.25, 11)
    times = last.submitted, last.started, last.ended
    assert [*map(from_microseconds, times)] == [at(90000.5), at(90001.5), at(90003.75)]


_known = st.integers(0, 10**12)
_times = st.one_of(st.just(-1), _known, st.floats(0, 1e9).map(lambda number: round(number, 6)))
_records = st.builds(
    Record,
    number=_known, submit_time=_known, wait_time=_times, run_time=_times, cpu_time=_times, memory=_times,
    requested_time=_times, requested_memory=_times, think_time=_times,
    status=st.sampled_from(range(-1, 6)),
    **dict.fromkeys(
        ("processors", "requested_processors", "user", "group", "executable", "queue", "partition",
         "preceding_job"),
        st.just(-1) | _known,
    ),
    start=st.none() | st.integers(0, 10**10), line=st.just(0),
)  # fmt: skip


def written(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.6f}"


@given(records=st.lists(_records, min_size=1), space=st.sampled_from([" ", "\t", "   "]), end=st.sampled_from(
    ["\n", "\r\n", " \n"]
))  # fmt: skip
def test_what_is_written_in_the_format_is_read_as_it_is(records: list[Record], space: str, end: str) -> None:
    lines = [] if records[0].start is None else [f"; UnixStartTime: {records[0].start}{end}"]
    lines += [space.join(written(getattr(record, name)) for name in FIELDS) + end for record in records]
    read = [*read_swf(lines)]
    for before, after in zip(records, read, strict=True):
        assert [getattr(before, name) for name in FIELDS] == [getattr(after, name) for name in FIELDS]
        assert after.start == records[0].start
        assert after.submitted <= after.started <= after.ended


@given(lines=st.lists(st.text() | st.lists(st.sampled_from(["1", "-1", "2.5", "-3", "x", "1e5", "1_0", "٣"]),
                                           min_size=17, max_size=19).map(" ".join)))  # fmt: skip
def test_a_file_is_read_or_refused_with_the_line_at_fault(lines: list[str]) -> None:
    refused: TraceError | None = None
    try:
        assert all(record.submit_time >= 0 for record in read_swf(lines, "some.swf"))
    except TraceError as error:
        refused = error
    if refused:
        assert str(refused).startswith(f"some.swf line {refused.line}: {refused.field}: expected ")
        shown = refused.found.removesuffix("…")
        assert shown in lines[refused.line - 1] or re.fullmatch(r"a word|\d+ words", shown)


RIGHT = "7 0 -1 1 1 -1 -1 -1 -1 -1 1 1 1 -1 -1 -1 -1 -1"


def with_field(name: str, value: str) -> str:
    texts = RIGHT.split()
    texts[FIELDS.index(name)] = value
    return " ".join(texts)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (RIGHT + " 1", "line: expected 18 numbers, got 19 words"),
        ("7", "line: expected 18 numbers, got 7"),
        ("origin: secret", "line: expected 18 numbers, got 2 words"),
        ("secret", "line: expected 18 numbers, got a word"),
        ("; UnixStartTime: a secret", "UnixStartTime: expected seconds since 1970, got 2 words"),
        (
            with_field("run_time", "secret"),
            "run_time: expected a number that is not negative, or -1 (unknown), got a word",
        ),
        (
            with_field("user", "1.5"),
            "user: expected a whole number that is not negative, or -1 (unknown), got 1.5",
        ),
        (
            with_field("user", "1234567890123456789012345"),
            "user: expected a whole number that is not negative, or -1 (unknown), got 12345678901234567890…",
        ),
        (
            with_field("wait_time", "-5"),
            "wait_time: expected a number that is not negative, or -1 (unknown), got -5",
        ),
        (with_field("submit_time", "-1"), "submit_time: expected a number that is not negative, got -1"),
        ("1" * (LONGEST_LINE + 1), f"line: expected at most {LONGEST_LINE} characters, got more"),
        (
            with_field("status", "6"),
            "status: expected 0 (failed), 1 (completed), 2 to 4 (partial), 5 (cancelled) or -1 (unknown), "
            "got 6",
        ),
        (RIGHT.replace("7", "6", 1), "number: expected a number above the last one, 6, got 6"),
    ],
)
async def test_a_mistake_is_told_with_its_place_before_anything_is_recorded(
    store: EventStore, trace: Path, line: str, message: str
) -> None:
    with trace.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(TraceError) as found:
        await imported(store, trace)
    assert str(found.value) == f"small.swf line 12: {message}"
    assert (await store.head()).position == 0


# What becomes of a trace


async def test_each_job_is_what_the_trace_says_of_it(store: EventStore, trace: Path) -> None:
    done = await imported(store, trace)
    assert done == Imported(
        jobs=JOBS, events=EVENTS, known=0, skipped=2, first=at(0), last=at(90003.75), dated=True
    )
    first, failed, cancelled, stopped, unknown = found = await jobs(store)
    assert [job.phase for job in found] == [
        Phase.COMPLETED, Phase.ERROR, Phase.ABORTED, Phase.ABORTED, Phase.COMPLETED,
    ]  # fmt: skip
    assert [job.owner for job in found] == ["user1", "user2", "user2", None, "user1"]
    assert [job.run_id for job in found] == [f"small-{number}" for number in (1, 2, 3, 4, 6)]
    assert [(job.created, job.queued, job.started, job.ended) for job in found] == [
        (at(0), at(0), at(0), at(1451)),
        (at(60), at(60), at(70), at(90)),
        (at(60), at(60), None, at(660)),
        (at(3600), at(3600), at(3605), at(3635)),
        (at(90000.5), at(90000.5), at(90001.5), at(90003.75)),
    ]
    assert first.parameters == {"Processors": ("128",), "requested_time": ("3600",), "executable": ("5",)}
    assert unknown.parameters == {"Processors": ("32",), "requested_time": ("0",)}
    assert [job.execution_duration for job in found] == [3600, 0, 0, 60, 0]
    assert {(job.service, job.declaration, job.destruction) for job in found} == {
        ("cluster", CLUSTER.digest, None)
    }
    assert failed.failure is not None
    assert failed.failure.message == "it failed, says the trace"
    assert cancelled.note == "cancelled before it started, says the trace"
    assert stopped.note == "cancelled while it ran, says the trace"
    assert first.exit_code == 0


async def test_events_say_that_they_are_imports_by_whom_and_of_what(
    store: EventStore, trace: Path, clock: ManualClock
) -> None:
    await imported(store, trace, jobs=JOBS + 1)
    found = [*(await streams(store)).values()]
    for events in found:
        assert [event.version for event in events] == [*range(1, len(events) + 1)]
        assert {event.about.actor for event in events} == {"ann"}
        assert {event.about.client for event in events} == {"uwsd import swf"}
        # The log tells when they were recorded.
        assert {event.recorded_at for event in events} == {clock.now()}
    occurred = [event.about.occurred for event in found[1]]
    assert [from_microseconds(time or 0) for time in occurred] == [at(60), at(60), at(70), at(90)]
    assert {event.about.source for event in found[1]} == {"small.swf job 2"}
    assert {event.about.source for event in found[-1]} == {"small.swf job 1 repetition 1"}


async def test_a_trace_is_repeated_later_by_whole_days_until_there_are_enough(
    store: EventStore, trace: Path
) -> None:
    told: list[tuple[int, int]] = []
    done = await imported(store, trace, jobs=2 * JOBS + 1, progress=lambda *progress: told.append(progress))
    assert (done.jobs, done.first) == (2 * JOBS + 1, at(0))
    found = await jobs(store)
    # Its last job came on the second day.
    for number, job in enumerate(found):
        before = found[number % JOBS]
        assert job.created - before.created == timedelta(days=2 * (number // JOBS))
        assert (job.run_id, job.owner, job.phase) == (before.run_id, before.owner, before.phase)
    assert len({job.id for job in found}) == 2 * JOBS + 1
    assert told == [(2 * JOBS + 1, 2 * JOBS + 1)]


async def test_fewer_jobs_than_the_trace_has_can_be_asked_for(store: EventStore, trace: Path) -> None:
    assert (await imported(store, trace, jobs=2)).jobs == 2
    assert [job.run_id for job in await jobs(store)] == ["small-1", "small-2"]


async def test_jobs_are_nobodys_when_that_is_asked_for(store: EventStore, trace: Path) -> None:
    await imported(store, trace, anonymous=True)
    assert {job.owner for job in await jobs(store)} == {None}


async def test_a_trace_that_does_not_tell_its_begin_counts_from_1970_and_it_is_said(
    store: EventStore, trace: Path
) -> None:
    trace.write_text(TRACE.replace("UnixStartTime", "StartTime"))
    done = await imported(store, trace)
    assert not done.dated
    assert done.first == (await jobs(store))[0].created == datetime(1970, 1, 1, tzinfo=UTC)


async def test_ids_of_jobs_grow_with_their_time(store: EventStore, trace: Path) -> None:
    await imported(store, trace, jobs=4 * JOBS)
    for job in await jobs(store):
        assert int(job.id[:12], 16) == job.created.timestamp() * 1000
        assert len(job.id) == 32


# Again


async def test_an_import_that_comes_again_adds_nothing(store: EventStore, trace: Path) -> None:
    first = await imported(store, trace)
    before = await store.head()
    packed = trace.with_suffix(".swf.gz")
    packed.write_bytes(gzip.compress(trace.read_bytes()))
    for path in (trace, packed):
        again = await imported(store, path)
        assert (again.jobs, again.events, again.known) == (0, 0, JOBS)
        assert (again.skipped, again.first, again.last) == (first.skipped, first.first, first.last)
    assert await store.head() == before
    more = await imported(store, trace, jobs=JOBS + 2)
    assert (more.jobs, more.events, more.known) == (2, 8, JOBS)


async def test_jobs_of_nobody_are_others_than_those_with_owners(store: EventStore, trace: Path) -> None:
    await imported(store, trace)
    for added in (JOBS, 0):
        assert (await imported(store, trace, anonymous=True)).jobs == added
    owned, nobodys = (await jobs(store))[:JOBS], (await jobs(store))[JOBS:]
    assert [job.run_id for job in owned] == [job.run_id for job in nobodys]
    assert [job.owner for job in owned] == ["user1", "user2", "user2", None, "user1"]
    assert {job.owner for job in nobodys} == {None}


async def test_another_service_gets_jobs_of_its_own(store: EventStore, trace: Path) -> None:
    await imported(store, trace)
    assert (await imported(store, trace, service="other")).jobs == JOBS
    assert [job.service for job in await jobs(store)] == ["cluster"] * JOBS + ["other"] * JOBS


async def test_an_import_that_was_cancelled_goes_on_where_it_was(store: EventStore, trace: Path) -> None:
    wanted = 10 * IN_FLIGHT
    importing: asyncio.Task[Imported]

    def progress(done: int, total: int) -> None:
        if done == 3 * IN_FLIGHT:
            importing.cancel()

    importing = asyncio.create_task(imported(store, trace, jobs=wanted, progress=progress))
    with pytest.raises(asyncio.CancelledError):
        await importing
    rest = await imported(store, trace, jobs=wanted)
    assert rest.jobs + rest.known == wanted
    # What was on its way when it was cancelled may be there, or not.
    assert 3 * IN_FLIGHT <= rest.known < 6 * IN_FLIGHT
    events = (await streams(store)).values()
    assert len(events) == wanted
    assert sum(map(len, events)) == EVENTS * wanted // JOBS == (await store.head()).position
    assert (await store.verify()).events == (await store.head()).position


# Meanwhile


async def test_an_import_leaves_the_loop_to_others(store: EventStore, trace: Path) -> None:
    """Measured is what this thread does between two turns of theirs, whatever else the machine does."""
    lines = TRACE.splitlines()[:3] + [f"{n} {n} 0 9 4 -1 -1 4 60 -1 1 7 1 1 1 -1 -1 -1" for n in range(9999)]
    trace.write_text("\n".join(lines))
    longest, begun = 0.0, time.thread_time()
    importing = asyncio.create_task(imported(store, trace, jobs=1500))
    gc.disable()  # what other tests have left to collect is not the import's
    try:
        while not importing.done():
            await asyncio.sleep(0)
            longest, begun = max(longest, time.thread_time() - begun), time.thread_time()
    finally:
        gc.enable()
    assert (await importing).jobs == 1500
    assert longest < LONGEST_TURN


async def test_reading_that_is_cancelled_ends_at_once_with_the_file_closed(
    store: EventStore, trace: Path
) -> None:
    trace.write_text(";\n" * 2_000_000)
    importing = asyncio.create_task(imported(store, trace))
    while not is_open(trace):
        await asyncio.sleep(0)
    importing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await importing
    assert not is_open(trace)


def is_open(path: Path) -> bool:
    """Whether this process has a file open."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            if descriptor.readlink() == path:
                return True
    return False


# What is refused


async def test_a_service_that_is_not_declared_is_refused(store: EventStore, trace: Path) -> None:
    with pytest.raises(UsageError) as refused:
        await imported(store, trace, service="clutser")
    assert (
        str(refused.value)
        == "there is no service clutser (did you mean cluster?); declared are: cluster, other"
    )


@pytest.mark.parametrize("jobs", [0, -1])
async def test_a_number_of_jobs_is_at_least_one(store: EventStore, trace: Path, jobs: int) -> None:
    with pytest.raises(UsageError, match=f"^jobs: {jobs} is below the minimum 1$"):
        await imported(store, trace, jobs=jobs)


async def test_times_that_no_calendar_has_are_refused(store: EventStore, trace: Path) -> None:
    with pytest.raises(UsageError, match="would end after the year 9998"):
        await imported(store, trace, jobs=10**9)
    assert (await store.head()).position == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.swf", None, "cannot be read: No such file or directory"),
        ("cut.swf.gz", gzip.compress(TRACE.encode(), mtime=0)[:-9], "cannot be read: Compressed file ended"),
        ("wrong.swf.gz", gzip.compress(TRACE.encode(), mtime=0)[:20] + b"x" * 50, "cannot be read: "),
        ("empty.swf", b"", "^empty.swf has no job$"),
        ("a\x01.swf", TRACE.encode(), "a character that cannot be part of an XML document"),
    ],
)
async def test_a_file_that_is_no_trace_is_refused(
    store: EventStore, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        await imported(store, tmp_path / name)
    assert (await store.head()).position == 0


@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
async def test_what_is_no_file_is_refused_and_not_waited_for(
    store: EventStore, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "some.swf"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    why = "Is a directory" if kind == "directory" else "it is not a regular file"
    with pytest.raises(UsageError, match=f"^{path} cannot be read: {why}$"):
        await imported(store, path)
    assert (await store.head()).position == 0


# Over HTTP


async def test_imported_jobs_are_shown_as_all_others(data: Path, trace: Path, clock: ManualClock) -> None:
    async with opened(data, clock) as store:
        await imported(store, trace)
    async with running(data, CLUSTER, clock=clock, authenticator=BasicUsers()) as site:
        listed = checked(await site.get("/cluster/async", user="user2"))
        assert [(text(job, "runId"), text(job, "phase")) for job in listed] == [
            ("small-3", "ABORTED"),
            ("small-2", "ERROR"),
        ]
        document = checked(await site.get(f"/cluster/async/{listed[1].get('id')}", user="user2"))
        assert [text(document, name) for name in ("creationTime", "startTime", "endTime", "destruction")] == [
            "1993-10-01T07:01:03.000Z", "1993-10-01T07:01:13.000Z", "1993-10-01T07:01:33.000Z", None,
        ]  # fmt: skip
        assert text(child(document, "uws:errorSummary"), "message") == "it failed, says the trace"
        (processors,) = child(document, "uws:parameters")
        assert (processors.get("id"), processors.text) == ("Processors", "1")


async def test_a_server_shows_what_is_imported_while_it_runs_and_runs_none_of_it(
    data: Path, trace: Path, clock: ManualClock
) -> None:
    async with running(data, CLUSTER, clock=clock) as site:
        await imported(site.node.backend.store, trace, anonymous=True, jobs=200)
        listed = checked(await site.get("/cluster/async"))
        assert len(listed) == 200
        assert {text(job, "phase") for job in listed} == {"COMPLETED", "ERROR", "ABORTED"}
        own = await site.run("cluster", Processors=1)
        assert text(await site.ended(own), "phase") == "ERROR"
        recorded = [event for events in (await streams(site.node.backend.store)).values() for event in events]
        started = [event for event in recorded if event.type == "JobStarted"]
        assert {event.about.client for event in started if not event.stream.endswith(own[-32:])} == {
            "uwsd import swf"
        }


# A real trace


def lines_of(path: Path) -> Iterator[list[int]]:
    with gzip.open(path, "rt") as lines:
        for line in lines:
            if not line.startswith(";"):
                yield [int(number) for number in line.split()]


@pytest.mark.skipif(not NASA.exists(), reason="the trace is not at hand")
async def test_a_real_trace_becomes_the_jobs_that_it_lists(store: EventStore) -> None:
    wanted = 1500
    done = await imported(store, NASA, jobs=wanted)
    assert (done.jobs, done.events, done.skipped, done.dated) == (wanted, 4 * wanted, 0, True)
    found = await jobs(store)
    for job, line in zip(found, lines_of(NASA), strict=False):
        number, submitted, _, ran, processors = line[:5]
        assert job.run_id == f"NASA-iPSC-1993-3.1-cln-{number}"
        assert job.owner == f"user{line[11]}"
        assert job.created == job.queued == job.started == at(submitted)
        assert job.ended == at(submitted + ran)
        assert job.parameters["Processors"] == (str(processors),)
    assert [type(e.decode(event)) for event in (await streams(store)).popitem()[1]] == [
        e.JobCreated, e.JobQueued, e.JobStarted, e.JobCompleted,
    ]  # fmt: skip


@pytest.mark.skipif(not NASA.exists(), reason="the trace is not at hand")
def test_a_real_trace_is_read_whole() -> None:
    with gzip.open(NASA, "rt") as lines:
        records = [*read_swf(lines)]
    assert [[getattr(record, name) for name in FIELDS] for record in records] == [*lines_of(NASA)]
    assert len(records) == 18_239
