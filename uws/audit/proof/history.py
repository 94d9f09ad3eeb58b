"""What a history says: the jobs, folded from its lines, while the chain between these is followed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from itertools import islice
from typing import NamedTuple

import msgspec

from eventstore import ChainBroken, Erased, Head, RecordedEvent, from_microseconds
from eventstore.excerpt import Links
from uws.model import Job, Phase, Result, UnknownForm, UWSError
from uws.model import events as e
from uws.model.job import apply
from uws.model.telling import tell_of

from .words import command_line, quoted

FORMAT = "uwsd-history/1"
PINNING = (e.JobCreated.__name__, e.JobStarted.__name__)
"""The types of events that name the declaration which a job has."""
_NO_EVENT = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, UnknownForm)
"""What it comes to when a line says what cannot be, such as a time in no year that there is."""
_ENDS = tuple(kind.__name__ for kind in (e.JobCompleted, e.JobFailed, e.JobAborted, e.JobLost))


class HistoryError(UWSError):
    """A file is no history, or not as it was written."""


class Header(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The first line: whose events follow, and the checkpoint to which the chain leads, if one was given."""

    format: str
    jobs: list[str]
    through: str = ""


class Step(NamedTuple):
    """What happened at one position, when (by the log, or as was told of what was imported), and who did it.

    ``actor`` is None for nobody in particular, ``client`` what he used, where that is known.
    """

    position: int
    type: str
    time: datetime
    actor: str | None
    client: str | None
    says: str

    @classmethod
    def of(cls, event: RecordedEvent) -> Step:
        time, about = from_microseconds(e.time_of(event)), event.about
        return cls(event.position, event.type, time, about.actor, about.client, tell_of(event))

    @property
    def by(self) -> str:
        """Who did it, in words."""
        return self.actor or "nobody in particular"


@dataclass
class JobHistory:
    """A job as its events in a history tell of it; of ``events`` ``erased`` hold nothing any more.

    ``first`` and ``last`` are positions. ``source`` is what it was imported from, ``recorded`` by whom and
    when: this server did not run it. ``stopped`` is each time that it was asked to be stopped, in that order,
    ``ended`` how it ended, ``results`` what it had made by then, of which the files may be gone since.
    """

    id: str
    first: int = 0
    last: int = 0
    events: int = 0
    erased: int = 0
    job: Job | None = None
    phase: Phase | None = None
    source: str | None = None
    recorded: Step | None = None
    started: Step | None = None
    destroyed: Step | None = None
    emptied: Step | None = None
    stopped: list[Step] = field(default_factory=list)
    ended: Step | None = None
    results: tuple[Result, ...] = ()
    _emptied: int = 0
    _erasure: int = 0

    def take(self, event: RecordedEvent) -> None:
        """Take in its next event. Raises `ChainBroken` when it is not the next one, and what `apply` does."""
        self.events += 1
        if event.version != self.events:
            raise ChainBroken(event.position, f"event {self.events} of job {self.id} should stand before it")
        self.first, self.last = self.first or event.position, event.position
        if event.erased:
            if event.type.startswith("$"):
                raise ChainBroken(event.position, "payload and metadata are gone")
            self.erased, self._emptied = self.erased + 1, event.version
            return
        self.job = apply(self.job, event)
        if event.type == Erased.type:
            self._erasure, self.emptied = msgspec.json.decode(event.data, type=Erased).through, Step.of(event)
        if event.version == 1 and event.about.source:
            self.source = event.about.source
            self.recorded = Step.of(event)._replace(time=event.recorded_at)
        if event.type == e.StopRequested.__name__:
            self.stopped.append(Step.of(event))
        elif event.type == e.JobStarted.__name__:
            self.started = Step.of(event)
        elif event.type == e.JobDestroyed.__name__:
            self.destroyed = Step.of(event)
        elif event.type in _ENDS and self.job:
            self.ended, self.phase, self.results = Step.of(event), self.job.phase, self.job.results

    def close(self) -> None:
        """Hold what is gone against what is on record as erased. Raises `ChainBroken`."""
        if not self.events:
            raise HistoryError(f"there is no event of job {self.id}")
        if self._erasure < self._emptied:
            raise ChainBroken(self.last, f"events of job {self.id} are empty, and no erasure is on record")

    @property
    def says(self) -> str:
        """Return the phase in which it is, and in which it ended where that is another."""
        if self.job and not self.job.service:
            return "erased"
        now = self.job.phase if self.job else Phase.UNKNOWN
        gone = ", destroyed" if self.job and self.job.destroyed else ""
        return f"{self.phase or now}{gone or (f', {now}' if self.phase not in (None, now) else '')}"


@dataclass
class History:
    """What a history holds: ``events`` lines, of which ``envelopes`` are there for the chain alone.

    ``declarations`` are the texts of those that its jobs were made and started under, by digest, as far as
    they are on record. ``ends`` are the last events of stretches that are in it without a gap.
    """

    header: Header
    jobs: dict[str, JobHistory]
    declarations: dict[str, str] = field(default_factory=dict)
    events: int = 0
    envelopes: int = 0
    ends: list[Head] = field(default_factory=list)

    def declaration_of(self, job: Job) -> str | None:
        """Return the text of the declaration that ``job`` has, if it is there."""
        return self.declarations.get(job.declaration)

    def command_of(self, told: JobHistory) -> str:
        """Return what one would type into a shell to run what ``told`` ran, or would have run.

        Files are named as they lie below the job's directory. Raises `ValueError` that says why it cannot be
        told.
        """
        if told.job is None or not told.job.service:
            raise ValueError("it was erased")
        if told.source:
            raise ValueError("it did not run here")
        if (declaration := self.declaration_of(told.job)) is None:
            raise ValueError("its declaration is not on record")
        return quoted(command_line(told.job, declaration))


def read_header(line: bytes) -> Header:
    """Read the first line. Raises `ValueError`."""
    header = msgspec.json.decode(line, type=Header)
    if header.format != FORMAT:
        raise ValueError(f"the format is {header.format}; {FORMAT} can be read")
    return header


def examine(lines: Iterable[bytes], *, contains: Iterable[Head] = (), through: Head | None = None) -> History:
    """Read a history to its end, recompute digests and hashes, and fold its jobs.

    Every event of them up to the last one in the history must be there. Shows also that it has what
    ``contains`` saw, and that the chain leads without a gap from the first event of each job to ``through``.
    Raises `ChainBroken`; `HistoryError` with the line.
    """
    wanted = {head.position: head for head in contains}
    history: History | None = None
    links, reached = Links(), 0
    for number, line in enumerate(lines, start=1):
        try:
            if history is None:
                header = read_header(line)
                history = History(header, {job: JobHistory(job) for job in header.jobs})
                continue
            before = links.head
            event = links.follow(line)
            if links.begin == event.position and before.position:
                history.ends.append(before)
            _take(history, event)
        except _NO_EVENT as error:
            raise HistoryError(f"line {number} of the events: {error}") from None
        if wanted.pop(event.position, links.head) != links.head:
            raise ChainBroken(event.position, "not the event that once stood here: the log was rewritten")
        if through and event.position == through.position:
            if event.hash != through.hash:
                raise ChainBroken(event.position, "not what the checkpoint saw here: the log was rewritten")
            reached = links.begin
    if history is None or not history.events:
        raise HistoryError("there are no events in it")
    history.ends.append(links.head)
    for job in history.jobs.values():
        job.close()
        if through and not 0 < reached <= job.first <= through.position:
            raise ChainBroken(job.first, f"no chain leads from here to position {through.position}")
    if wanted:
        raise HistoryError(f"position {min(wanted)} is not in it")
    return history


def _take(history: History, event: RecordedEvent) -> None:
    history.events += 1
    if job := history.jobs.get(e.job_id_of(event.stream) or ""):
        job.take(event)
    elif event.erased:
        history.envelopes += 1
    elif event.type == e.ServiceDeclared.__name__:
        declared = e.decode_declaration(event)
        if sha256(declared.declaration.encode()).hexdigest() != declared.digest:
            raise ChainBroken(event.position, "the declaration is not the one of its digest")
        history.declarations.setdefault(declared.digest, declared.declaration)
    else:
        raise ChainBroken(event.position, "it belongs to none of the jobs")


def check_links(lines: Iterable[bytes]) -> None:
    """Follow the chain of the lines, whatever the events say. Raises `ChainBroken`; `ValueError`."""
    links = Links()
    for line in islice(lines, 1, None):
        links.follow(line)


def steps(history: History, lines: Iterable[bytes]) -> Iterator[tuple[JobHistory, RecordedEvent]]:
    """Yield the events of the jobs from lines that were examined."""
    links = Links()
    for line in islice(lines, 1, None):
        event = links.follow(line)
        if job := history.jobs.get(e.job_id_of(event.stream) or ""):
            yield job, event
