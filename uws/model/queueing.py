"""Which job starts next, why the others wait, and how long that may take. Pure.

Two kinds of limits hold together: those of the ``[queue]`` table over all services, and those of a service
over its own jobs. Jobs without an owner count as one owner's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property

import msgspec

from .quotas import QuotaSettings
from .service import Service
from .units import Duration, check_duration, parse_duration

_SHORTEST_HALF_LIFE = "1h"
"""What was used is kept by the hour."""
AT_ONCE = 16
"""Jobs that one look at the queue starts at most: of what is decided meanwhile they do not know."""
IN_SLURM = "/slurm"
"""In the place of a node's name, which it cannot be: where jobs are that were handed to Slurm."""
LEAST_CHARGE = 1.0
"""Seconds that a start counts at least, so that owners of the shortest jobs take turns, too."""


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[queue]`` table: what holds for all services together; by default nothing is limited."""

    max_running: int | None = None
    """Jobs that run at one time."""
    max_running_per_owner: int | None = None
    """Jobs of one owner that run at one time."""
    max_queued_per_owner: int | None = None
    """Jobs of one owner that wait in queues."""
    half_life: Duration = "1d"
    """After which what an owner has used counts half; at least 1h."""

    def __post_init__(self) -> None:
        for name in ("max_running", "max_running_per_owner", "max_queued_per_owner"):
            most = getattr(self, name)
            if most is not None and most < 1:
                raise ValueError(f"{name}: {most} is below the minimum 1")
        check_duration("half_life", self.half_life, _SHORTEST_HALF_LIFE)

    @property
    def half_life_seconds(self) -> int:
        """The half-life in seconds."""
        return parse_duration(self.half_life)


class Line(msgspec.Struct, frozen=True, gc=False):
    """The jobs of one owner that are QUEUED in one service: how many, and which has waited longest.

    ``behind`` are the next few after it, with the time since when they wait. Where nobody knows which job is
    the first, ``job_id`` is empty. ``quotas`` name the tables of quotas under which the first was made.
    """

    service: str
    owner: str | None
    job_id: str
    queued: datetime
    jobs: int = 1
    behind: tuple[tuple[str, datetime], ...] = ()
    quotas: tuple[str, ...] = ()

    def but(self, passed_over: Collection[str]) -> Line | None:
        """Return the line as if it began behind such jobs, None when no other is known to be in it."""
        line: Line | None = self
        while line and line.job_id in passed_over:
            line = line.rest()
        return line if line is self or (line and line.job_id) else None

    def rest(self) -> Line | None:
        """Return the line without its first job, None when that was all."""
        if self.jobs == 1:
            return None
        (job_id, queued), *behind = self.behind or (("", self.queued),)
        return Line(self.service, self.owner, job_id, queued, self.jobs - 1, tuple(behind), self.quotas)


class Running(msgspec.Struct, frozen=True, gc=False):
    """A job that has its slot: there may be a program, on the machine of ``node`` or in Slurm (`IN_SLURM`).

    There it may only wait, too, since ``started``.
    """

    service: str
    owner: str | None
    started: datetime
    job_id: str = ""
    node: str | None = None
    waits: bool = False

    def since(self, now: datetime) -> datetime:
        """Return since when its program runs; of one that waits, that would be ``now``."""
        return now if self.waits else self.started


class Spot(msgspec.Struct, frozen=True):
    """A spot in a queue: ``before`` jobs of the same owner and service are in front of it."""

    service: str
    owner: str | None
    before: int = 0
    quotas: tuple[str, ...] = ()


Scope = Callable[[Line | Running], object]
"""What two jobs have in common that count for one limit."""


def _of_all(job: Line | Running) -> object:
    return None


def _of_service(job: Line | Running) -> object:
    return job.service


def _of_owner(job: Line | Running) -> object:
    return job.owner


def _of_both(job: Line | Running) -> object:
    return job.service, job.owner


@dataclass(frozen=True)
class _Limit:
    """At most so many jobs run at one time of those that have a ``scope`` in common with a line.

    It is told in words by ``of_what``.
    """

    most: int
    of_what: str
    scope: Scope
    line: Line
    nodes: int = 1
    """On how many nodes so many may run."""

    @property
    def all(self) -> int:
        """How many may run on all nodes together."""
        return self.most * self.nodes

    @property
    def words(self) -> str:
        return f"at most {self.most} allowed" + (f" on each of {self.nodes} nodes" if self.nodes > 1 else "")

    def concerns(self, job: Line | Running) -> bool:
        return self.scope(job) == self.scope(self.line)


@dataclass(frozen=True)
class Situation:
    """All that decides which job starts next.

    ``lines`` wait, ``running`` run, ``used`` are the seconds that owners' ended jobs count. ``services`` are
    those that are offered; ``paused`` names those whose queue is paused, None is the whole. ``held`` are
    service, owner and id of the first job of each that is HELD. ``nodes`` take jobs; limits that are not an
    owner's hold on each of them. Where ``node`` is set, it is that one's turn to start a job.
    """

    now: datetime
    services: Mapping[str, Service]
    settings: QueueSettings = field(default_factory=QueueSettings)
    lines: Sequence[Line] = ()
    running: Sequence[Running] = ()
    used: Mapping[str | None, float] = field(default_factory=dict)
    paused: Collection[str | None] = ()
    held: Sequence[tuple[str, str | None, str]] = ()
    quotas: QuotaSettings = field(default_factory=QuotaSettings)
    nodes: int = 0
    node: str | None = None

    def on(self, node: str | None, coming: Sequence[Running] = ()) -> Situation:
        """Return the situation as it is for a node that looks for a job to start; None is the only one.

        There are jobs ``coming`` for which it keeps room.
        """
        return replace(self, node=node, nodes=1, running=[*self.running, *coming])

    def after(self, line: Line) -> Situation:
        """Return what the situation is once the first job of a line was started."""
        rest = line.rest()
        return replace(
            self,
            lines=[
                *(each for each in self.lines if (each.service, each.owner) != (line.service, line.owner)),
                *([rest] if rest else []),
            ],
            running=[*self.running, Running(line.service, line.owner, self.now, line.job_id, self.node)],
        )

    def next(self, but: Collection[str] = ()) -> Line | None:
        """Return the line whose first job is to be started now, None when there is none; not one of ``but``.

        It is of the highest priority, then of the owner who has used least, then the one that waits longest.
        Which job it is may not be known: then it takes another look, and no other line's turn comes.
        """
        lines = (line.but(but) for line in self.lines)
        ready = [line for line in lines if line and not self._obstacle(line)]
        return min(ready, key=self._rank, default=None)

    def reason(self, spot: Spot) -> str:
        """Say why the job at a spot waits: what keeps its line from moving, or how many jobs go first."""
        if obstacle := self._obstacle(self._line(spot)):
            return obstacle
        first = self.place(spot) - 1
        return f"{_jobs(first)} to be started first" if first else "to be started next"

    def queued_of(self, owner: str | None) -> dict[str, int]:
        """Return how many jobs of an owner are QUEUED in each service that is offered."""
        return {
            line.service: line.jobs
            for line in self.lines
            if line.owner == owner and line.service in self.services
        }

    def place(self, spot: Spot) -> int:
        """Return which place in the queue of its service the job at a spot has, from 1.

        That is as if all jobs took equally long: owners then take turns.
        """
        return 1 + self._ahead(spot, lambda line: line.service == spot.service)

    def start(self, spot: Spot, usual: float) -> datetime | None:
        """Predict when the job at a spot starts, if all before it take ``usual`` seconds; not before now.

        None when nobody can tell: its service is paused or not offered, or that is beyond all calendars.
        """
        if self._closed(spot.service):
            return None
        try:
            free = (self._free(limit, spot, usual) for limit in self._limits(self._line(spot)))
            return max(self.now, *free)
        except OverflowError:
            return None

    def _free(self, limit: _Limit, spot: Spot, usual: float) -> datetime:
        """Predict when a limit lets the job at a spot be started."""
        span = timedelta(seconds=usual)
        ends = sorted(
            max(self.now, job.since(self.now) + span) for job in self.running if limit.concerns(job)
        )
        rounds, slot = divmod(self._ahead(spot, limit.concerns), limit.all)
        idle = limit.all - len(ends)  # negative when more run than may by now
        return (self.now if slot < idle else ends[slot - idle]) + rounds * span

    def _ahead(self, spot: Spot, concerns: Callable[[Line], bool]) -> int:
        mine = self._line(spot)
        ahead, rank = spot.before, self._rank(mine)
        for line in self.lines:
            if not concerns(line) or (line.service, line.owner) == (mine.service, mine.owner):
                continue
            other = self._rank(line)
            if other[0] == rank[0]:
                ahead += min(line.jobs, spot.before + (other < rank))
            elif other[0] < rank[0]:
                ahead += line.jobs
        return ahead

    def _line(self, spot: Spot) -> Line:
        """Return the line that a spot is in, or would begin now."""
        there = self._by_place.get((spot.service, spot.owner))
        return there or Line(spot.service, spot.owner, "", self.now, 0, quotas=spot.quotas)

    @cached_property
    def _by_place(self) -> Mapping[tuple[str, str | None], Line]:
        return {(line.service, line.owner): line for line in self.lines}

    def _rank(self, line: Line) -> tuple[int, float, datetime]:
        service = self.services.get(line.service)
        return -service.priority if service else 0, self._seconds.get(line.owner, 0.0), line.queued

    @cached_property
    def _seconds(self) -> Mapping[str | None, float]:
        """What owners have used lately, what runs included."""
        seconds = defaultdict(float, self.used)
        for job in self.running:
            seconds[job.owner] += max(LEAST_CHARGE, (self.now - job.since(self.now)).total_seconds())
        return seconds

    def _obstacle(self, line: Line) -> str | None:
        """Say why no job of a line can be started now."""
        if closed := self._closed(line.service):
            return closed
        for limit in self._limits(line):
            if (count := self._counts[limit.scope][limit.scope(line)]) >= limit.all:
                return f"{_jobs(count)}{limit.of_what} running, {limit.words}"
        return None

    def _closed(self, service: str) -> str | None:
        if service not in self.services:
            return f"{service} is not offered now"
        if None in self.paused:
            return "the queue is paused"
        return f"the queue of {service} is paused" if service in self.paused else None

    def _limits(self, line: Line) -> Iterator[_Limit]:
        name, settings = line.service, self.settings
        service = self.services[name]
        nodes = 1 if service.executor == "slurm" else max(1, self.nodes)
        if settings.max_running:
            yield _Limit(settings.max_running, "", _of_all, line, nodes)
        yield _Limit(service.max_running, f" of {name}", _of_service, line, nodes)
        if most := self.quotas.of(line.quotas, settings).running:
            yield _Limit(most, _OWNERS, _of_owner, line)
        if service.max_running_per_owner:
            yield _Limit(service.max_running_per_owner, f" of {name}{_OWNERS}", _of_both, line)

    @cached_property
    def _counts(self) -> Mapping[Scope, Counter[object]]:
        """How many jobs run that have something in common."""
        here = [job for job in self.running if self.node is None or job.node == self.node]
        return {
            **{scope: Counter(map(scope, here)) for scope in (_of_all, _of_service)},
            **{scope: Counter(map(scope, self.running)) for scope in (_of_owner, _of_both)},
        }


_OWNERS = " of the same owner"


def fullness(service: Service, most: int | None, queued: Mapping[str, int]) -> str | None:
    """Say why an owner may queue no more jobs of a service now; None when he may.

    ``queued`` counts his jobs that are QUEUED, by service; of all together he may have ``most``.
    """
    here, all_of_them = queued.get(service.name, 0), sum(queued.values())
    if (most_here := service.max_queued_per_owner) and here >= most_here:
        return f"{_jobs(here)} of {service.name}{_OWNERS} queued, at most {most_here} allowed"
    if most and all_of_them >= most:
        return f"{_jobs(all_of_them)}{_OWNERS} queued, at most {most} allowed"
    return None


def _jobs(count: int) -> str:
    return f"{count} job" if count == 1 else f"{count} jobs"
