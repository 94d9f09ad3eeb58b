"""A look at many jobs at once: the entries of a job list as whole jobs, and filters on what is in them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from datetime import datetime

import msgspec

from uws.model.events import Value
from uws.model.job import Job
from uws.model.phases import Phase

from .documents import sized_document_of
from .job_list import Cursor, Whose, references

EXAMINED = 10_000
"""Jobs that one question looks at: it takes about 0.1 s."""
ENOUGH = 2_000_000
"""Bytes of documents that one question reads, and one page holds, but for the last of them."""
_AT_ONCE = 200


class Page(msgspec.Struct, frozen=True):
    """Some jobs, newest first, and behind which to go on; None when there are no more.

    ``size`` is that of their documents in bytes.
    """

    jobs: list[Job]
    next: Cursor | None
    size: int = 0


def entries(
    connection: sqlite3.Connection, service: str, owner: Whose, *,
    phases: Collection[Phase] | None, after: datetime | None, before: Cursor | None,
    run_id: str | None, parameters: Mapping[str, str], text: str | None, limit: int, examine: int,
) -> Page:  # fmt: skip
    """Return the jobs that all filters let through, at most ``limit``, out of at most ``examine``.

    Each as its document has it, which may be newer than what the job list knows of it.
    """
    wanted = text.casefold() if text else None
    jobs: list[Job] = []
    read = size = 0
    while examine > 0:
        step = min(_AT_ONCE, examine, limit + 1) if not (parameters or wanted) else min(_AT_ONCE, examine)
        found = references(
            connection, service, owner, phases=phases, run_id=run_id, after=after, before=before, limit=step
        )
        for reference in found:
            if len(jobs) == limit or read >= ENOUGH:
                return Page(jobs, before, size)
            before = reference.cursor
            job, length = sized_document_of(connection, reference.id)
            read += length
            if not job or not _is_listed(job, phases, run_id) or not _has(job, parameters):
                continue
            if wanted is None or _mentions(job, wanted):
                jobs.append(job)
                size += length
        if len(found) < step:
            return Page(jobs, None, size)
        examine -= len(found)
    return Page(jobs, before, size)


def _is_listed(job: Job, phases: Collection[Phase] | None, run_id: str | None) -> bool:
    listed = job.phase is not Phase.ARCHIVED if phases is None else job.phase in phases
    return listed and job.destroyed is None and (run_id is None or job.run_id == run_id)


def _has(job: Job, parameters: Mapping[str, str]) -> bool:
    return all(
        any(_text_of(value) == wanted for value in job.parameters.get(name, ()))
        for name, wanted in parameters.items()
    )


def _mentions(job: Job, text: str) -> bool:
    values = (_text_of(value) for values in job.parameters.values() for value in values)
    failure = job.failure.message if job.failure else ""
    return any(text in place.casefold() for place in (job.id, job.run_id or "", failure, *values))


def _text_of(value: Value) -> str:
    return value if isinstance(value, str) else value.filename
