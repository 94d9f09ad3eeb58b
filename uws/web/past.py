"""The documents of jobs as they were."""

from __future__ import annotations

from uws.audit import JobThen
from uws.jobs import offered

from .documents import job_document, serialise
from .json_documents import job_document as job_json


def document_then(then: JobThen, base_url: str, *, as_json: bool = False) -> bytes:
    """Return what ``GET /{service}/async/{id}`` answered a job's owner who reached the server at a URL."""
    service = offered(then.service, base_url)
    if as_json:
        return job_json(service, then.job, then.standing)
    return serialise(job_document(service, then.job, then.standing))
