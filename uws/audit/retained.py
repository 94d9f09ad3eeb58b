"""What is on record of retention, and what it would do now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from eventstore import EventLog, Head, RecordedEvent
from eventstore.archive import beginning
from projections import beside, destroyed_first
from uws.config import RetentionSettings
from uws.model import events as e
from uws.model.events import RETENTION_STREAM, decode_retention, job_stream

_COUNTED = 1000
"""Jobs that are looked at to tell how many are due."""
_JOB_DESTROYED = e.JobDestroyed.__name__


class Record:
    """What the log says of retention."""

    def __init__(self, events: list[e.RetentionEvent], version: int) -> None:
        self.version = version
        months: dict[str, e.MonthArchived] = {}
        self.begun: list[e.Duty] = []
        """The duties that are not done to the end."""
        for event in events:
            match event:
                case e.MonthArchived(month=month):
                    months[month] = event  # one that was written anew keeps its place
                case e.RetentionBegun(duty=duty):
                    self.begun.append(duty)
                case e.RetentionApplied(duty=duty):
                    self.begun = [other for other in self.begun if other != duty]
        self.archived: list[e.MonthArchived] = [*months.values()]

    @classmethod
    async def read(cls, log: EventLog) -> Record:
        recorded = await log.read_stream(RETENTION_STREAM)
        return cls([*map(decode_retention, recorded)], recorded[-1].version if recorded else 0)

    async def archived_up_to(self, log: EventLog) -> Head:
        """Return where the next archive begins: behind the last one, or where the log was pruned further."""
        pruned = await beginning(log)
        if not self.archived or self.archived[-1].last < pruned.position:
            return pruned
        return Head(self.archived[-1].last, bytes.fromhex(self.archived[-1].hash))

    def next_month(self, time: datetime) -> str:
        """Return the month that goes into the next archive, which begins with an event of this time."""
        month = f"{time:%Y-%m}"
        if not self.archived:
            return month
        return max(month, f"{end_of(self.archived[-1].month):%Y-%m}")  # clocks have been set back before


class Told(msgspec.Struct, frozen=True):
    """What retention has done, and what it would do now. Times are those from which on it is due.

    ``due`` jobs are to be erased now, of which at most a thousand are counted; ``whole`` archives are to be
    written anew.
    """

    archived: int
    archived_up_to: str | None
    next_month: str | None
    next_archive: datetime | None
    due: int
    next_erasure: datetime | None
    pruned_up_to: int
    next_pruning: datetime | None
    unfinished: tuple[str, ...]
    whole: int


async def tell(log: EventLog, settings: RetentionSettings, projections: Path, now: datetime) -> Told:
    """Tell what retention would do, from the files alone. Raises `StoreUnavailable`."""
    record = await Record.read(log)
    pruned = (await beginning(log)).position
    month = end = None
    if settings.archive and (
        first := await log.read_all(after=(await record.archived_up_to(log)).position, limit=1)
    ):
        month = record.next_month(first[0].recorded_at)
        end = end_of(month)
    due, next_erasure = 0, None
    if kept := settings.owners_kept:
        async for destroyed in _destructions(log, projections):
            if destroyed > now - kept:
                next_erasure = destroyed + kept
                break
            due += 1
    next_pruning = None
    if forever := settings.histories_kept:
        following = next((m.month for m in record.archived if m.last > pruned), month)
        next_pruning = end_of(following) + forever if following else None
    return Told(
        archived=len(record.archived),
        archived_up_to=record.archived[-1].month if record.archived else None,
        next_month=month,
        next_archive=end,
        due=due,
        next_erasure=next_erasure,
        pruned_up_to=pruned,
        next_pruning=next_pruning,
        unfinished=tuple(dict.fromkeys(record.begun)),
        whole=sum(m.whole for m in record.archived) if settings.owners is not None else 0,
    )


async def _destructions(log: EventLog, projections: Path) -> AsyncIterator[datetime]:
    """Yield when jobs were destroyed, those first that went first, as far as the read model knows them."""
    async with beside(projections, "usage") as model:
        job_ids = await model.ask(destroyed_first, _COUNTED) if model else []
    for job_id in job_ids:
        if recorded := await log.read_stream(job_stream(job_id)):  # else it was pruned meanwhile
            yield destroyed_at(recorded)


def destroyed_at(recorded: Sequence[RecordedEvent]) -> datetime:
    """Return when a job was destroyed, or else when something happened to it last."""
    return next((event for event in recorded if event.type == _JOB_DESTROYED), recorded[-1]).recorded_at


def end_of(month: str) -> datetime:
    """Return when the month after begins."""
    year, number = map(int, month.split("-"))
    return datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
