"""What may be asked of the read models."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from uws.model.events import Values, job_stream
from uws.model.job import Job
from uws.model.phases import Phase
from uws.model.quotas import Use

from . import documents, history, job_list, queue, services, usage
from .history import Page
from .job_list import Cursor, ExpiredJob, JobReference, Whose
from .projector import Projector
from .queue import QueueState, WaitingJob
from .services import DeclaredService
from .usage import UsageOf

R = TypeVar("R")
_LOOK = 1000
"""Jobs that are looked at before others are answered: that takes about 10 ms."""


class Outlook(NamedTuple):
    """How many seconds a job takes, how many one of its service does, and the queue.

    None stands for no experience.
    """

    takes: float | None
    usual: float | None
    queue: QueueState


class JobReadModel:
    """Questions about jobs. Answers are as fresh as the projector's read models.

    ``owner`` is exact: None stands for the jobs of nobody in particular, and in a list `EVERYBODY` for
    all. All methods raise
    `StoreUnavailable` when the files cannot be read.
    """

    def __init__(self, projector: Projector) -> None:
        self._projector = projector

    # Of the documents

    async def get(self, job_id: str) -> Job | None:
        """Return a job, destroyed ones included, or None when there never was one."""
        of = documents.sized_document_of
        return await self._projector.recall("documents", job_stream(job_id), of, job_id)

    def is_now(self, job: Job) -> bool:
        """Whether `get`, once the read model has caught up, would return this very object; False where that
        cannot be told at once.
        """
        return self._projector.is_known("documents", job_stream(job.id), job)

    # Of the job list

    async def page(
        self, service: str, owner: Whose, *,
        phases: Iterable[Phase] | None = None, run_id: str | None = None, after: datetime | None = None,
        before: Cursor | None = None, limit: int,
    ) -> list[JobReference]:  # fmt: skip
        """Return the jobs in any of ``phases`` (by default all but ARCHIVED) created after ``after``.

        Those of ``run_id`` only, where it is given. Newest first, at most ``limit`` of those behind
        ``before``: the cursor of the last that was seen.
        """
        return await self._ask(
            job_list.references, service, owner, phases=phases, run_id=run_id, after=after, before=before,
            limit=limit,
        )  # fmt: skip

    async def list_state(self, service: str, owner: Whose) -> str:
        """Return what is another one as soon as anything has happened to any job of a list."""
        return await self._ask(job_list.list_state, service, owner)

    async def list_position(self, service: str, owner: Whose) -> int | None:
        """Return where the log last told something of a job of a list, None when that is not known."""
        return await self._ask(job_list.list_position, service, owner)

    async def next_destruction(self, after: datetime) -> datetime | None:
        """Return the earliest destruction time of any job of any service that is later than ``after``."""
        return await self._ask(job_list.next_destruction, after)

    async def due(self, now: datetime) -> list[tuple[str, str]]:
        """Return id and service of jobs, at most a thousand, whose destruction time is not after ``now``."""
        return await self._ask(job_list.due, now)

    async def expired(self, now: datetime, *, behind: Cursor | None = None, limit: int) -> list[ExpiredJob]:
        """Return the jobs of all services whose destruction time is not after ``now``, in its order.

        At most ``limit`` of those behind the cursor of the last that was seen.
        """
        return await self._ask(job_list.expired, now, behind=behind, limit=limit)

    async def keep_files(self, job_ids: Iterable[str]) -> dict[str, bool]:
        """Return for those of ``job_ids`` that there are or were whether their files are still wanted."""
        return await self._ask(job_list.keep_files, job_ids)

    # Of the job list and the documents

    async def entries(
        self, service: str, owner: Whose, *,
        phases: Iterable[Phase] | None = None, after: datetime | None = None, before: Cursor | None = None,
        run_id: str | None = None, parameters: Mapping[str, str] | None = None, text: str | None = None,
        limit: int, examine: int = history.EXAMINED,
    ) -> Page:  # fmt: skip
        """Return jobs as `page` does, whole, and those only that all other filters let through.

        ``parameters`` are values (of a file its name) by declared name, ``text`` is looked for in ids, run
        ids, values and error messages, whatever the case. No more than ``examine`` jobs are looked at, and
        no more are given when they are large: the page may be shorter than ``limit`` though there is a
        ``next``.
        """
        jobs: list[Job] = []
        size = 0
        chosen = None if phases is None else list(phases)
        while examine > 0:  # with a pause after each look, in which others are answered
            look = min(examine, _LOOK)
            page = await self._ask(
                history.entries, service, owner, phases=chosen, after=after, before=before, run_id=run_id,
                parameters=parameters or {}, text=text, limit=limit - len(jobs), examine=look,
            )  # fmt: skip
            jobs += page.jobs
            before, examine, size = page.next, examine - look, size + page.size
            if before is None or len(jobs) == limit or size >= history.ENOUGH:
                break
        return Page(jobs, before, size)

    # Of usage and the documents

    async def duration_of_like(
        self, service: str, owner: str | None, parameters: Mapping[str, Values]
    ) -> float | None:
        """Return the median run time in seconds of jobs that are like one; None without any of the service.

        They are three of the owner's last twenty that COMPLETED, with the most parameters of the same values;
        for an owner without any, the service's last hundred.
        """
        found = await self._projector.recall_experience((service, owner), usage.experience, service, owner)
        return found.duration_of_like(parameters)

    # Of the queue

    async def outlook(self, service: str, owner: str | None, parameters: Mapping[str, Values]) -> Outlook:
        """Return what a guess at the end of a job needs that joins the queue, all of one moment."""
        return await self._ask(_outlook, service, owner, parameters)

    async def queue_state(self, away: Iterable[str] = ()) -> QueueState:
        """Return all that decides which job is to be started: who waits, who runs, what is paused.

        Jobs that need files of nodes that are ``away`` do not wait.
        """
        return await self._ask(queue.queue_state, away)

    async def paused(self) -> dict[str | None, datetime]:
        """Return since when services are paused; None stands for the whole queue."""
        return await self._ask(queue.paused)

    async def queued_before(self, job_id: str) -> int | None:
        """Return how many jobs of its owner and service are in front of a QUEUED job, None for another."""
        return await self._ask(queue.queued_before, job_id)

    async def queued_of(self, owner: str | None, services: Iterable[str]) -> dict[str, int]:
        """Return how many jobs of an owner are QUEUED in each of some services."""
        return await self._ask(queue.queued_of, owner, services)

    async def running_of(self, owner: str | None) -> int:
        """Return for how many jobs of an owner there may be a program running."""
        return await self._ask(queue.running_of, owner)

    async def waiting(self, limit: int) -> list[WaitingJob]:
        """Return the jobs that are QUEUED, those that wait longest first, then those that are HELD."""
        return await self._ask(queue.waiting, limit)

    async def started(self) -> list[tuple[str, str, str | None]]:
        """Return id, service and node of the jobs for which there may be a program running, oldest first."""
        return await self._ask(queue.started)

    async def nodes(self) -> list[str]:
        """Return the names of the nodes that take jobs."""
        return await self._ask(queue.nodes)

    # Of usage and services

    async def usage(self) -> list[UsageOf]:
        """Return what all jobs have used, by service, owner and phase."""
        return await self._ask(usage.usage)

    async def jobs_by_phase(self) -> dict[tuple[str, str], int]:
        """Return how many jobs each service has in each phase that any of them is in."""
        return await self._ask(usage.jobs_by_phase)

    async def usual_duration(self, service: str) -> float | None:
        """Return the median run time in seconds of the last hundred jobs that COMPLETED, None without any."""
        return await self._ask(usage.usual_duration, service)

    async def used_lately(
        self, owners: Iterable[str | None], now: datetime, half_life: float
    ) -> dict[str | None, float]:
        """Return the seconds for which ended jobs of owners ran; they count half after each half-life."""
        return await self._ask(usage.used_lately, owners, now, half_life)

    async def use_of(self, owner: str | None, after: datetime, most: int) -> Use:
        """Return what an owner's jobs have stored, and how many he made ``after`` then, ``most`` at most."""
        return await self._ask(usage.use_of, owner, after, most)

    async def destroyed_first(self, limit: int) -> list[str]:
        """Return the ids of destroyed jobs that are not erased, those first that were destroyed first."""
        return await self._ask(usage.destroyed_first, limit)

    async def services_with_jobs(self) -> set[str]:
        """Return the names of all services that have jobs which are not destroyed."""
        return await self._ask(usage.services_with_jobs)

    async def services(self) -> list[DeclaredService]:
        """Return all services that were ever declared, by name."""
        return await self._ask(services.declared_services)

    async def _ask(self, question: Callable[..., R], *arguments: Any, **named: Any) -> R:
        return await self._projector.ask(question, *arguments, **named)


def _outlook(
    connection: sqlite3.Connection, service: str, owner: str | None, parameters: Mapping[str, Values]
) -> Outlook:
    return Outlook(
        usage.experience(connection, service, owner)[0].duration_of_like(parameters),
        usage.usual_duration(connection, service),
        queue.queue_state(connection),
    )
