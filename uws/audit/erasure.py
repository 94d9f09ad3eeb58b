"""Erasure: taking what a destroyed job held out of every file, and saying so in the log."""

from __future__ import annotations

from eventstore import EventStore, Metadata
from projections import Projector
from uws.files import Files
from uws.model import JobNotFound, UsageError, fold
from uws.model.events import job_stream


async def erase_job(
    store: EventStore, projector: Projector, files: Files, job_id: str, *, reason: str, metadata: Metadata
) -> None:
    """Take payloads and metadata of a destroyed job's events out of the log and the read models.

    When this returns, owner, parameters and results are in no file of the data directory. Others who share
    the log scrub their read models soon after. The log says that the job was erased, who did it
    (``metadata``) and why. Interrupted, it can be repeated. Raises
    `JobNotFound`; `UsageError` for a job that is not destroyed; `eventstore.EventStoreError`.
    """
    job = fold(await store.read_stream(job_stream(job_id)))
    if job is None:
        raise JobNotFound(job_id)
    if not job.destroyed:
        raise UsageError(f"job {job_id} is {job.phase}: only a destroyed job can be erased")
    await files.of(job_id).remove()
    await store.erase(job_stream(job_id), reason=reason, metadata=metadata)
    await projector.caught_up(timeout=3600)
    await projector.scrub()
