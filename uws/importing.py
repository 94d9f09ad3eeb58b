"""Histories that were recorded elsewhere, taken over as jobs: traces in Standard Workload Format.

The format is that of the Parallel Workloads Archive, version 2: comments that begin with ``;``, then for each
job a line of 18 numbers, -1 where one is not known.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import re
import stat
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, aclosing, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from math import ceil
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import msgspec
from msgspec.structs import replace

from eventstore import EventStore, Metadata, NewEvent, RecordedEvent, from_microseconds, to_microseconds
from uws.model import Failure, Service, UsageError, did_you_mean
from uws.model import events as e
from uws.model.service import MAX_DURATION
from uws.model.text import first_foreign

COMPLETED, FAILED, CANCELLED, UNKNOWN = 1, 0, 5, -1
PARTIAL = (2, 3, 4)
"""Statuses of records that are a part of a job, which has a record of its own."""
PARAMETERS = (
    "processors", "requested_processors", "requested_time", "requested_memory", "group", "executable",
    "queue", "partition", "preceding_job", "think_time",
)  # fmt: skip
"""The fields that become parameters of a job, where its service declares one of that name."""
IN_FLIGHT = 256
"""Appends that wait for the log at one time, so that they share transactions."""
SLICE = 64
"""Lines that are read, and jobs that are made, at once: others wait a few milliseconds for that at most."""
LONGEST_LINE = 1 << 16
"""Characters: no line of a trace is longer."""
CLIENT = "uwsd import swf"

_FRACTIONAL = (
    "submit_time", "wait_time", "run_time", "cpu_time", "memory", "requested_time", "requested_memory",
    "think_time",
)  # fmt: skip
_ALWAYS_KNOWN = ("number", "submit_time")
_WHOLE = re.compile(r"-1|\d{1,15}", re.ASCII)
_DECIMAL = re.compile(r"-1(\.0+)?|\d{1,15}(\.\d{1,15})?", re.ASCII)
_START = re.compile(r";\s*UnixStartTime:\s*(.*?)\s*")
_STATUSES = "0 (failed), 1 (completed), 2 to 4 (partial), 5 (cancelled) or -1 (unknown)"
_NUMBER = re.compile(r"[-+]?\d[\d.,eE+-]*", re.ASCII)
_LONGEST_SHOWN = 20
_GZIP = b"\x1f\x8b"
_SECOND, _DAY = 1_000_000, 86_400
_LATEST = to_microseconds(datetime(9999, 1, 1, tzinfo=UTC))
T = TypeVar("T")


class TraceError(UsageError):
    """A line of a trace is not what the format has there; ``field`` and ``found`` say where and what.

    Of the file, which may be no trace at all but a secret, only single numbers are quoted.
    """

    def __init__(self, trace: str, line: int, field: str, found: str, expected: str) -> None:
        super().__init__(f"{trace} line {line}: {field}: expected {expected}, got {found}")
        self.trace = trace
        self.line = line
        self.field = field
        self.found = found


def _shown(text: str) -> str:
    if _NUMBER.fullmatch(text):
        return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
    words = len(text.split())
    return f"{words} words" if words != 1 else "a word"


class Record(msgspec.Struct, frozen=True, gc=False):
    """One line of a trace; -1 is unknown. Times are in seconds, memory in kB for each processor.

    ``submit_time`` counts from the trace's ``start``: seconds since 1970 UTC, None where its header does not
    tell. ``line`` is the line's number.
    """

    number: int
    submit_time: float
    wait_time: float
    run_time: float
    processors: int
    cpu_time: float
    memory: float
    requested_processors: int
    requested_time: float
    requested_memory: float
    status: int
    user: int
    group: int
    executable: int
    queue: int
    partition: int
    preceding_job: int
    think_time: float
    start: int | None
    line: int

    @property
    def submitted(self) -> int:
        """When the job was submitted, in microseconds since 1970 UTC, as are the two that follow."""
        return (self.start or 0) * _SECOND + _microseconds(self.submit_time)

    @property
    def started(self) -> int:
        """When it was started, or cancelled when it never was; an unknown wait is none."""
        return self.submitted + _microseconds(self.wait_time)

    @property
    def ended(self) -> int:
        """When it ended; what ran for an unknown time ended when it was started."""
        return self.started + _microseconds(self.run_time)


FIELDS = Record.__struct_fields__[:18]
"""The fields of a line, in their order."""


def _microseconds(seconds: float) -> int:
    return round(max(seconds, 0) * _SECOND)


def read_swf(lines: Iterable[str], trace: str = "trace") -> Iterator[Record]:
    """Read the records of a trace, partial ones too, in their order. ``trace`` is its name in errors.

    Raises `TraceError` for a line that has not the 18 numbers of the format, a negative one other than -1, or
    a status that it does not know.
    """
    return (record for record in _records(lines, trace) if record)


def _records(lines: Iterable[str], trace: str) -> Iterator[Record | None]:
    """Read the record of each line, None for one that has none."""
    start = None
    for number, line in enumerate(lines, start=1):
        record = None
        if line.startswith(";"):
            if found := _START.fullmatch(line.rstrip("\r\n")):
                start = _read_start(trace, number, found[1])
        elif texts := line.split():
            if len(texts) != len(FIELDS):
                raise TraceError(trace, number, "line", _shown(line.strip()), f"{len(FIELDS)} numbers")
            values = [_read(trace, number, *field) for field in zip(FIELDS, texts, strict=True)]
            record = Record(*values, start, number)  # type: ignore[call-arg]  # as many as there are fields
        yield record


def _read_start(trace: str, line: int, text: str) -> int:
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII):
        raise TraceError(trace, line, "UnixStartTime", _shown(text), "seconds since 1970")
    return int(text)


def _read(trace: str, line: int, field: str, text: str) -> int:
    """Return a number; a float, for the type checker an int, where it has a fraction."""
    fractional = field in _FRACTIONAL
    if not (_DECIMAL if fractional else _WHOLE).fullmatch(text):
        number = "a number" if fractional else "a whole number"
        raise TraceError(trace, line, field, _shown(text), f"{number} that is not negative, or -1 (unknown)")
    value = cast(int, float(text)) if "." in text else int(text)
    if value < 0 and field in _ALWAYS_KNOWN:
        raise TraceError(trace, line, field, _shown(text), "a number that is not negative")
    if field == "status" and value not in (COMPLETED, FAILED, CANCELLED, UNKNOWN, *PARTIAL):
        raise TraceError(trace, line, field, _shown(text), _STATUSES)
    return value


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an import.

    ``jobs`` and ``events`` were added to the log, ``known`` jobs were in it already; ``skipped`` records of
    the trace are partial. The jobs lie between ``first`` and ``last``, counted from 1970 unless the trace is
    ``dated``.
    """

    jobs: int
    events: int
    known: int
    skipped: int
    first: datetime
    last: datetime
    dated: bool


async def import_swf(
    store: EventStore,
    services: Iterable[Service],
    path: Path,
    *,
    service: str,
    actor: str | None = None,
    jobs: int | None = None,
    anonymous: bool = False,
    progress: Callable[[int, int], None] | None = None,
    pace: Callable[[], Awaitable[None]] | None = None,
) -> Imported:
    """Record the jobs of the trace at ``path``, gzipped or not, as jobs of ``service`` that have ended.

    ``jobs`` takes so many, and repeats the trace, later by its length in whole days, until there are.
    ``anonymous`` ones have no owner. ``progress`` is told now and then how many of how many are done, and
    ``pace`` awaited, so that others are not left behind. Events say that they are imports by ``actor``, of
    what, and when they happened.

    All ids follow from the trace's name, the service, and whether they are ``anonymous``: an import that
    comes again adds nothing, one that was cancelled or has failed goes on. The trace is read through before
    anything is recorded; threads read it, so that others run meanwhile. Raises `UsageError` for an unknown
    service and what is no file or cannot be read, `TraceError`, and what `EventStore.append` does.
    """
    source = await _survey(path, _offered(services, service), actor, anonymous)
    wanted = source.jobs if jobs is None else jobs
    source.check(wanted)
    before = (await store.head()).position
    done = added = events = 0
    waiting: deque[asyncio.Task[tuple[RecordedEvent, ...]]] = deque()

    async def acknowledged() -> None:
        nonlocal done, added, events
        recorded = await waiting.popleft()
        done += 1
        if recorded[0].position > before:
            added, events = added + 1, events + len(recorded)
        if progress and (done % IN_FLIGHT == 0 or done == wanted):
            progress(done, wanted)
        if pace and done % IN_FLIGHT == 0:
            await pace()

    first, last = _LATEST, 0
    try:
        async with aclosing(_in_slices(source.histories(wanted))) as histories:
            async for history in histories:
                first, last = min(first, history.begin), max(last, history.end)
                append = store.append(history.stream, history.events, expected=0)
                waiting.append(asyncio.create_task(append))
                if len(waiting) == IN_FLIGHT:
                    await acknowledged()
        while waiting:
            await acknowledged()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return Imported(
        jobs=added,
        events=events,
        known=done - added,
        skipped=source.skipped,
        first=from_microseconds(first),
        last=from_microseconds(last),
        dated=source.dated,
    )


def _offered(services: Iterable[Service], name: str) -> Service:
    by_name = {service.name: service for service in services}
    if name not in by_name:
        known = ", ".join(by_name) or "none"
        raise UsageError(f"there is no service {name}{did_you_mean(name, by_name)}; declared are: {known}")
    return by_name[name]


async def _survey(path: Path, service: Service, actor: str | None, anonymous: bool) -> _Source:
    """Read the whole trace, to find its mistakes and its length."""
    name = path.name
    if first_foreign(name):
        raise UsageError(f"{name!r} has a character that cannot be part of an XML document")
    jobs = skipped = length = end = 0
    number, dated = -1, True
    async with aclosing(_in_slices(_records_of(path))) as records:
        async for record in records:
            if record.status in PARTIAL:
                skipped += 1
                continue
            if record.number <= number:
                text, expected = str(record.number), f"a number above the last one, {number}"
                raise TraceError(name, record.line, "number", text, expected)
            jobs, number, dated = jobs + 1, record.number, record.start is not None
            length, end = max(length, int(record.submit_time)), max(end, record.ended)
    if not jobs:
        raise UsageError(f"{name} has no job")
    period = (length // _DAY + 1) * _DAY * _SECOND
    return _Source(path, service, actor, anonymous, jobs, skipped, dated, period, end)


async def _in_slices(making: Generator[T | None, None, None]) -> AsyncGenerator[T, None]:
    """Yield what ``making`` does, but None; threads make it, a bounded number at a time."""
    with closing(making):
        while some := await _in_thread(lambda: [*islice(making, SLICE)]):
            for made in some:
                if made is not None:
                    yield made


async def _in_thread(function: Callable[[], T]) -> T:
    """Run a short function in a thread. It has ended when this does, even when that is cancelled."""
    running = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise


def _records_of(path: Path) -> Generator[Record | None, None, None]:
    with closing(_lines(path)) as lines:
        yield from _records(lines, path.name)


def _lines(path: Path) -> Generator[str, None, None]:
    try:
        with ExitStack() as stack:
            file = stack.enter_context(open(path, "rb", opener=_open_at_once))
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"{path} cannot be read: it is not a regular file")
            gzipped = file.peek(len(_GZIP)).startswith(_GZIP)
            content = stack.enter_context(gzip.open(file)) if gzipped else file
            # Only comments hold more than ASCII, in some encoding: in this one nothing is wrong.
            text = stack.enter_context(io.TextIOWrapper(cast(io.BufferedReader, content), "latin-1"))
            for number, line in enumerate(iter(lambda: text.readline(LONGEST_LINE + 1), ""), start=1):
                if len(line) > LONGEST_LINE:
                    expected = f"at most {LONGEST_LINE} characters"
                    raise TraceError(path.name, number, "line", "more", expected)
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # whoever opens a pipe waits for a writer


class _History(NamedTuple):
    """All events of one job, and when the first and the last of them happened, in microseconds."""

    stream: str
    events: list[NewEvent]
    begin: int
    end: int


@dataclass(frozen=True)
class _Source:
    """A trace that was read through, and how its jobs are taken over.

    ``period`` is its length in whole days, ``end`` when its last job ended, both in microseconds.
    """

    path: Path
    service: Service
    actor: str | None
    anonymous: bool
    jobs: int
    skipped: int
    dated: bool
    period: int
    end: int

    def check(self, wanted: int) -> None:
        """Raise `UsageError` when so many jobs cannot be had."""
        if wanted < 1:
            raise UsageError(f"jobs: {wanted} is below the minimum 1")
        if self.end + (wanted - 1) // self.jobs * self.period > _LATEST:
            raise UsageError(f"{self.path.name}: the last of {wanted} jobs would end after the year 9998")

    def histories(self, wanted: int) -> Generator[_History | None, None, None]:
        """Make the histories of so many jobs, the trace again and again; None for a line that makes none."""
        for repetition in range(ceil(wanted / self.jobs)):
            with closing(_records_of(self.path)) as records:
                for record in records:
                    if record is None or record.status in PARTIAL:
                        yield None
                        continue
                    yield self._history(record, repetition)
                    wanted -= 1
                    if not wanted:
                        return

    def _history(self, record: Record, repetition: int) -> _History:
        trace, later = self.path.name.removesuffix(".gz"), repetition * self.period
        steps = [
            (record.submitted, self._creation(record, f"{trace.removesuffix('.swf')}-{record.number}")),
            (record.submitted, e.JobQueued()),
            *self._course(record),
        ]
        whose = ("anonymous",) if self.anonymous else ()
        job_id = _id(record.submitted + later, trace, self.service.name, record.number, repetition, *whose)
        source = f"{self.path.name} job {record.number}" + (f" repetition {repetition}" if repetition else "")
        metadata = Metadata(actor=self.actor, client=CLIENT, source=source)
        events = [
            replace(
                e.encode(event, replace(metadata, occurred=time + later)), id=_id(time + later, job_id, index)
            )
            for index, (time, event) in enumerate(steps)
        ]
        return _History(e.job_stream(job_id), events, record.submitted + later, steps[-1][0] + later)

    def _creation(self, record: Record, run_id: str) -> e.JobCreated:
        values = {self.service.find(name): getattr(record, name) for name in PARAMETERS}
        return e.JobCreated(
            service=self.service.name,
            declaration=self.service.digest,
            execution_duration=min(ceil(max(record.requested_time, 0)), MAX_DURATION),
            destruction=None,
            owner=None if self.anonymous or record.user < 0 else f"user{record.user}",
            run_id=run_id,
            parameters={name: (str(value),) for name, value in values.items() if name and value >= 0},
        )

    def _course(self, record: Record) -> list[tuple[int, e.JobEvent]]:
        """Return what happened to the job once it was queued, each with its time."""
        if record.status == CANCELLED and record.run_time <= 0:
            return [(record.started, e.JobAborted(reason="cancelled before it started, says the trace"))]
        last: e.JobEvent = e.JobCompleted()
        if record.status == CANCELLED:
            last = e.JobAborted(reason="cancelled while it ran, says the trace")
        elif record.status == FAILED:
            last = e.JobFailed(failure=Failure(message="it failed, says the trace"))
        return [(record.started, e.JobStarted(declaration=self.service.digest)), (record.ended, last)]


def _id(time: int, *parts: object) -> str:
    """Return an id that follows from ``parts`` and grows with time, as those of `eventstore.new_id` do."""
    return f"{time // 1000:012x}{sha256(repr(parts).encode()).hexdigest()[:20]}"
