"""The resources as JSON: the facts of the XML documents, under the names that UWS 1.1 has for them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from eventstore import RecordedEvent, from_microseconds
from uws.jobs import Offered
from uws.model import Failure, Job, Upload
from uws.model.events import time_of
from uws.model.units import format_time
from uws.queueing import Standing

from .documents import error_of, info_of, url_of_upload


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter's value, as text."""

    id: str
    value: str


class File(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A parameter's file: where it is, and what it is. ``size`` is in bytes."""

    id: str
    by_reference: Literal[True] = True
    href: str
    filename: str
    mime_type: str
    size: int
    sha256: str


class Result(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A result file. ``size`` is in bytes."""

    id: str
    href: str
    size: int
    mime_type: str
    sha256: str


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job ended as ERROR."""

    type: str
    message: str
    detail: str


class JobDocument(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A job. Times are as in XML; ``execution_duration``, and ``duration`` for which it ran, in seconds."""

    job_id: str
    href: str
    run_id: str | None
    owner_id: str | None
    phase: str
    quote: str | None
    creation_time: str
    start_time: str | None
    end_time: str | None
    execution_duration: int
    destruction: str | None
    duration: float | None
    parameters: list[Value | File]
    results: list[Result]
    error: Error | None
    job_info: dict[str, str | int | float]


class JobEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An event of a job, and how the job was after it: enough to show that it goes on.

    ``version`` counts the events of the job. What clients may make as long as they like is not here.
    """

    job_id: str
    version: int
    type: str
    time: str
    phase: str
    progress: float | None
    doing: str | None
    reason: str | None
    stopping: str | None
    quote: str | None
    creation_time: str
    start_time: str | None
    end_time: str | None
    execution_duration: int
    destruction: str | None


class JobStanding(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How a job waits in the queue."""

    job_id: str
    place: int | None
    waits_for: str
    expected_start: str | None


class ParametersDocument(msgspec.Struct, frozen=True):
    """The parameters of a job alone."""

    parameters: list[Value | File]


class ResultsDocument(msgspec.Struct, frozen=True):
    """The results of a job alone."""

    results: list[Result]


class JobListDocument(msgspec.Struct, frozen=True):
    """A page of a job list: documents of jobs, newest first, and the URL of the next page."""

    jobs: Sequence[msgspec.Raw]
    next: str | None


def job_document(uws: Offered, job: Job, standing: Standing | None = None) -> bytes:
    """Return the document of a job; ``standing`` is how it waits in the queue."""
    failure = error_of(job)
    ran = job.ended - job.started if job.started and job.ended else None
    document = JobDocument(
        job_id=job.id,
        href=uws.get_url_for_id(job.id),
        run_id=job.run_id,
        owner_id=job.owner,
        phase=job.phase,
        quote=_time(job.quote),
        creation_time=format_time(job.created),
        start_time=_time(job.started),
        end_time=_time(job.ended),
        execution_duration=job.execution_duration,
        destruction=_time(job.destruction),
        duration=ran.total_seconds() if ran is not None else None,
        parameters=_parameters(uws, job),
        results=_results(uws, job),
        error=_error(failure) if failure else None,
        job_info=info_of(job, standing),
    )
    return msgspec.json.encode(document)


def job_event(job: Job, recorded: RecordedEvent) -> bytes:
    """Return what is told of an event of a job, which made it ``job``."""
    event = JobEvent(
        job_id=job.id,
        version=recorded.version,
        type=recorded.type,
        time=format_time(from_microseconds(time_of(recorded))),
        phase=job.phase,
        progress=job.progress,
        doing=job.doing or None,
        reason=job.note or None,
        stopping=job.stop if not job.has_ended else None,
        quote=_time(job.quote),
        creation_time=format_time(job.created),
        start_time=_time(job.started),
        end_time=_time(job.ended),
        execution_duration=job.execution_duration,
        destruction=_time(job.destruction),
    )
    return msgspec.json.encode(event)


def job_standing(job_id: str, standing: Standing) -> bytes:
    """Return what is told of how a job waits."""
    start = _time(standing.start)
    return msgspec.json.encode(
        JobStanding(job_id=job_id, place=standing.place, waits_for=standing.reason, expected_start=start)
    )


def job_list(documents: Sequence[bytes], next: str | None) -> bytes:
    """Return a page of a job list, made of what `job_document` returned."""
    return msgspec.json.encode(JobListDocument([msgspec.Raw(document) for document in documents], next))


def parameters_document(uws: Offered, job: Job) -> bytes:
    """Return the parameters of a job alone."""
    return msgspec.json.encode(ParametersDocument(_parameters(uws, job)))


def results_document(uws: Offered, job: Job) -> bytes:
    """Return the results of a job alone."""
    return msgspec.json.encode(ResultsDocument(_results(uws, job)))


def _parameters(uws: Offered, job: Job) -> list[Value | File]:
    return [
        _file(name, value, url_of_upload(uws, job, name, number))
        if isinstance(value, Upload)
        else Value(id=name, value=value)
        for name, values in job.parameters.items()
        for number, value in enumerate(values, start=1)
    ]


def _file(name: str, upload: Upload, url: str) -> File:
    return File(
        id=name,
        href=url,
        filename=upload.filename,
        mime_type=upload.media_type,
        size=upload.size,
        sha256=upload.sha256,
    )


def _results(uws: Offered, job: Job) -> list[Result]:
    url = uws.get_url_for_id(job.id)
    return [
        Result(
            id=result.id,
            href=f"{url}/results/{result.id}",
            size=result.size,
            mime_type=result.media_type,
            sha256=result.sha256,
        )
        for result in job.results
    ]


def _error(failure: Failure) -> Error:
    return Error(type=failure.type, message=failure.message, detail=failure.detail)


def _time(time: datetime | None) -> str | None:
    return format_time(time) if time else None
