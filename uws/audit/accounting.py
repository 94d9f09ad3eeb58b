"""Accounting from the log alone: what jobs used, by whom, of which service and when.

A job counts as a whole in the month in which it was created. Each is folded by itself, in the order of
streams, so that the memory this takes does not grow with the log; a large log is shared out among processes.
What is folded here owes nothing to the read models, so that the two can be held against each other.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from eventstore import Erased, Pruned, RecordedEvent, StoreUnavailable, from_microseconds
from eventstore.processes import running
from eventstore.scanning import LogScan, parse_place, scan_log
from projections import DESTROYED, UsageOf
from uws.model import PHASE_AFTER, STARTED, UsageError
from uws.model import events as e
from uws.model.events import JOB_EVENTS, job_stream, time_of

_FIRST, _BELOW = job_stream(""), "job0"  # all jobs stand between them
_WORTH_A_PROCESS = 50_000
"""Events: fewer are folded sooner than a process is started."""
_REPORT = 1_000
"""Jobs between two reports of a process."""
_ENDINGS = (e.JobCompleted, e.JobFailed, e.JobAborted)
_SAYS_NOTHING = JOB_EVENTS.keys() - {
    cls.__name__ for cls in (*PHASE_AFTER, e.ParametersSet, e.JobDestroyed)
}  # fmt: skip


class Sums(msgspec.Struct, gc=False):
    """What some jobs used together. Times are microseconds; of ``processor`` time, what was recorded.

    ``results`` and ``uploads`` are bytes that the jobs had, whether or not they are still there.
    """

    jobs: int = 0
    failed: int = 0
    running: int = 0
    processor: int = 0
    results: int = 0
    uploads: int = 0

    def add(self, other: Sums) -> None:
        """Add what other jobs used."""
        for field in self.__struct_fields__:
            setattr(self, field, getattr(self, field) + getattr(other, field))


class Key(msgspec.Struct, frozen=True, order=True):
    """Whose jobs they are: of a service and an owner, created in a month such as ``2026-07`` (UTC)."""

    service: str
    owner: str | None
    month: str


class Account(msgspec.Struct, gc=False):
    """What the log says of one job."""

    service: str
    owner: str | None
    created: int
    phase: str
    used: Sums

    @property
    def key(self) -> Key:
        return Key(self.service, self.owner, f"{from_microseconds(self.created):%Y-%m}")

    @property
    def stored(self) -> int:
        """Bytes of its files that are there."""
        return 0 if self.phase in (DESTROYED, "ARCHIVED") else self.used.results + self.used.uploads


class Ledger(msgspec.Struct):
    """The sums over a log up to ``position``.

    ``by_phase`` is what the usage read model should show at the position ``shown``: jobs, microseconds and
    stored bytes of each service, owner and phase. ``erased`` jobs and ``pruned`` events are in no sum.
    """

    position: int
    shown: int = 0
    sums: dict[Key, Sums] = {}
    by_phase: dict[tuple[str, str | None, str], tuple[int, int, int]] = {}
    erased: int = 0
    pruned: int = 0

    def enter(self, account: Account) -> None:
        """Add a job to the sums."""
        self.sums.setdefault(account.key, Sums()).add(account.used)

    def show(self, account: Account) -> None:
        """Add a job to what the read model should show."""
        key = account.service, account.owner, account.phase
        jobs, microseconds, size = self.by_phase.get(key, (0, 0, 0))
        self.by_phase[key] = jobs + 1, microseconds + account.used.running, size + account.stored

    def join(self, other: _Report) -> None:
        """Add what another process has found."""
        for key, sums in other.sums:
            self.sums.setdefault(key, Sums()).add(sums)
        for place, more in other.by_phase:
            jobs, microseconds, size = self.by_phase.get(place, (0, 0, 0))
            self.by_phase[place] = jobs + more[0], microseconds + more[1], size + more[2]
        self.erased += other.erased

    def by(self, group: Callable[[Key], str | None]) -> dict[str | None, Sums]:
        """Return the sums of what ``group`` makes of keys, in its order; nobody comes first."""
        grouped: dict[str | None, Sums] = {}
        for key, sums in self.sums.items():
            grouped.setdefault(group(key), Sums()).add(sums)
        return dict(sorted(grouped.items(), key=lambda item: (item[0] is not None, item[0] or "")))


class Parting(msgspec.Struct, frozen=True):
    """Where the usage read model is not what the log says: jobs, seconds and stored bytes in both."""

    service: str
    owner: str | None
    phase: str
    log: tuple[int, float, int]
    read_model: tuple[int, float, int]


class _Report(msgspec.Struct):
    """A line that a process writes: how many events it has folded since the last, and at the end its sums."""

    events: int = 0
    sums: list[tuple[Key, Sums]] = []
    by_phase: list[tuple[tuple[str, str | None, str], tuple[int, int, int]]] = []
    erased: int = 0
    failure: str = ""


class _Span(msgspec.Struct):
    """Which part of a log is folded, and for what."""

    first: str
    below: str
    position: int
    shown: int
    since: int | None
    until: int | None


def account(events: Iterable[RecordedEvent]) -> Account | None:
    """Fold all events of a job; None when it was erased. Raises what `uws.model.events.decode` does."""
    job: Account | None = None
    uploads: dict[str, int] = {}
    started: int | None = None
    for recorded in events:
        if recorded.erased or recorded.type == Erased.type:
            return None
        if recorded.type in _SAYS_NOTHING:
            continue
        event, time = e.decode(recorded), time_of(recorded)
        if isinstance(event, e.JobCreated):
            job = Account(event.service, event.owner, time, "", Sums(jobs=1))
        if job is None:
            raise UsageError(f"position {recorded.position}: the job begins with {recorded.type}")
        if isinstance(event, e.JobCreated | e.ParametersSet):
            for name, values in event.parameters.items():
                uploads[name] = sum(value.size for value in values if isinstance(value, e.Upload))
            job.used.uploads = sum(uploads.values())
        if phase := PHASE_AFTER.get(type(event)):
            job.phase = phase.value
        elif isinstance(event, e.JobDestroyed):
            job.phase = DESTROYED
        if isinstance(event, e.JobStarted):
            started = time
        elif started is not None and job.phase not in STARTED:
            job.used.running += max(0, time - started)
            started = None
        if isinstance(event, _ENDINGS):
            job.used.processor += round(event.cpu_seconds * 1e6)
            job.used.results = sum(result.size for result in event.results)
        job.used.failed |= isinstance(event, e.JobFailed)
    return job


def _fold(log: LogScan, span: _Span, ledger: Ledger, progress: Callable[[int], None]) -> None:
    folded = 0
    for number, events in enumerate(log.streams(span.first, span.below, through=span.position), start=1):
        job = account(events)
        if job is None:
            ledger.erased += 1
        elif (span.since or job.created) <= job.created and (span.until is None or job.created < span.until):
            ledger.enter(job)
        # The read model may be behind the log: it is told what it can know.
        known = [event for event in events if event.position <= span.shown]
        if known and (there := job if len(known) == len(events) else account(known)):
            ledger.show(there)
        folded += len(events)
        if number % _REPORT == 0:
            progress(folded)
            folded = 0
    progress(folded)


async def add_up(
    log: Path | str, *, shown: int = 0, since: int | None = None, until: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Ledger:  # fmt: skip
    """Fold the log at a place; jobs count that were created from ``since`` on and before ``until``.

    Both are microseconds since 1970; all jobs count for what a read model shows that has come to ``shown``.
    ``progress`` is told now and then how many events were folded since the last time. Raises
    `StoreUnavailable`, `UsageError`, and what `uws.model.events.decode` does. Cancelled, it ends its
    processes.
    """
    ledger, spans = await asyncio.to_thread(_shared_out, log, since, until, shown)
    if len(spans) == 1:
        await asyncio.to_thread(_fold_here, log, spans[0], ledger, progress)
    else:
        try:
            async with asyncio.TaskGroup() as group:
                for span in spans:
                    group.create_task(_fold_elsewhere(log, span, ledger, progress))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
    await asyncio.to_thread(_check_uncut, log, shown)
    return ledger


def _shared_out(
    log: Path | str, since: int | None, until: int | None, shown: int
) -> tuple[Ledger, list[_Span]]:
    """Return an empty ledger, and the parts of about the same length in which the log is to be folded."""
    with scan_log(log) as scan:
        head = scan.head().position
        if shown > head:
            raise UsageError(
                f"the usage read model is at position {shown}, the log ends at {head}: it is of another log"
            )
        parts = min(len(os.sched_getaffinity(0)), head // _WORTH_A_PROCESS)
        # Ids grow with time, so streams stand in about the order of the log.
        inner = {scan.stream_at(head * part // parts, _FIRST, _BELOW) for part in range(1, parts)}
        bounds = [_FIRST, *sorted(stream for stream in inner if stream), _BELOW]
        spans = [_Span(first, below, head, shown, since, until) for first, below in pairwise(bounds)]
        return Ledger(head, shown, pruned=scan.missing()), spans


def _fold_here(log: Path | str, span: _Span, ledger: Ledger, progress: Callable[[int], None]) -> None:
    with scan_log(log) as scan:
        _fold(scan, span, ledger, progress)


def _check_uncut(log: Path | str, shown: int) -> None:
    """Raise `UsageError` where the read model may show what has gone from the log since."""
    with scan_log(log) as scan:
        if shown and scan.has_any((Erased.type, Pruned.type), after=shown):
            raise UsageError(
                f"something was erased or pruned since position {shown}, to which the usage read model has "
                "come: try again when it has come further, which it does while a server runs"
            )


async def _fold_elsewhere(
    log: Path | str, span: _Span, ledger: Ledger, progress: Callable[[int], None]
) -> None:
    async with running(__name__, str(log), msgspec.json.encode(span).decode()) as process:
        ledger.join(await _last_report(process, progress))


async def _last_report(process: Process, progress: Callable[[int], None]) -> _Report:
    assert process.stdout is not None
    report: _Report | None = None
    async for line in process.stdout:
        report = msgspec.json.decode(line, type=_Report)
        if report.failure:
            raise StoreUnavailable(report.failure)
        progress(report.events)
    if await process.wait() or report is None:
        raise StoreUnavailable(f"a process that was to fold the log ended with status {process.returncode}")
    return report


def main(log: str, span: str) -> None:
    """Fold a part of a log, and write reports to standard output."""
    part, ledger = msgspec.json.decode(span, type=_Span), Ledger(0)
    try:
        _fold_here(parse_place(log), part, ledger, lambda count: _write(_Report(count)))
    except Exception as error:
        _write(_Report(failure=str(error) or type(error).__name__))
    else:
        _write(
            _Report(sums=[*ledger.sums.items()], by_phase=[*ledger.by_phase.items()], erased=ledger.erased)
        )


def _write(report: _Report) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


def partings(ledger: Ledger, read_model: Sequence[UsageOf]) -> list[Parting]:
    """Return where the usage read model says something else than the log, by service, owner and phase."""
    log = {
        place: (jobs, microseconds / 1e6, size)
        for place, (jobs, microseconds, size) in ledger.by_phase.items()
    }
    there = {(row.service, row.owner, row.phase): (row.jobs, row.seconds, row.bytes) for row in read_model}
    nothing = (0, 0.0, 0)
    places = sorted(log.keys() | there.keys(), key=lambda place: (place[0], place[1] or "", place[2]))
    return [
        Parting(*place, log.get(place, nothing), there.get(place, nothing))
        for place in places
        if log.get(place, nothing) != there.get(place, nothing)
    ]
