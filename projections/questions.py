"""What may be asked of the read models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from uws.model.job import Job
from uws.model.phases import Phase

from . import documents, history, job_list, queue, services, usage
from .history import Page
from .job_list import Cursor, JobReference
from .projector import Projector
from .queue import QueueHead
from .services import DeclaredService
from .usage import UsageOf

R = TypeVar("R")
_LOOK = 1000
"""Jobs that are looked at before others are answered: that takes about 10 ms."""


class JobReadModel:
    """Questions about jobs. Answers are as fresh as the projector's read models.

    ``owner`` is always exact: None stands for the jobs of nobody in particular. All methods raise
    `StoreUnavailable` when the files cannot be read.
    """

    def __init__(self, projector: Projector) -> None:
        self._projector = projector

    # Of the documents

    async def get(self, job_id: str) -> Job | None:
        """Return a job, destroyed ones included, or None when there never was one."""
        return await self._ask(documents.document_of, job_id)

    # Of the job list

    async def page(
        self, service: str, owner: str | None, *,
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

    async def list_state(self, service: str, owner: str | None) -> str:
        """Return what is another one as soon as anything has happened to any job of a list."""
        return await self._ask(job_list.list_state, service, owner)

    async def next_destruction(self, after: datetime) -> datetime | None:
        """Return the earliest destruction time of any job of any service that is later than ``after``."""
        return await self._ask(job_list.next_destruction, after)

    async def due(self, now: datetime) -> list[tuple[str, str]]:
        """Return id and service of jobs, at most a thousand, whose destruction time is not after ``now``."""
        return await self._ask(job_list.due, now)

    async def keep_files(self, job_ids: Iterable[str]) -> dict[str, bool]:
        """Return for those of ``job_ids`` that there are or were whether their files are still wanted."""
        return await self._ask(job_list.keep_files, job_ids)

    # Of the job list and the documents

    async def entries(
        self, service: str, owner: str | None, *,
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

    # Of the queue

    async def queue_heads(self) -> list[QueueHead]:
        """Return who is first in line, for each service and owner."""
        return await self._ask(queue.queue_heads)

    async def started(self) -> list[tuple[str, str]]:
        """Return id and service of the jobs for which there may be a program running, oldest first."""
        return await self._ask(queue.started)

    async def active(self, service: str) -> int:
        """Return how many jobs of a service are QUEUED or EXECUTING."""
        return await self._ask(queue.active, service)

    # Of usage and services

    async def usage(self) -> list[UsageOf]:
        """Return what all jobs have used, by service, owner and phase."""
        return await self._ask(usage.usage)

    async def usual_duration(self, service: str) -> float | None:
        """Return the median run time in seconds of the last hundred jobs that COMPLETED, None without any."""
        return await self._ask(usage.usual_duration, service)

    async def services_with_jobs(self) -> set[str]:
        """Return the names of all services that have jobs which are not destroyed."""
        return await self._ask(usage.services_with_jobs)

    async def services(self) -> list[DeclaredService]:
        """Return all services that were ever declared, by name."""
        return await self._ask(services.declared_services)

    async def _ask(self, question: Callable[..., R], *arguments: Any, **named: Any) -> R:
        return await self._projector.ask(question, *arguments, **named)
