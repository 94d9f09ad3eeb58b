"""Files that clients have sent to another node: brought here for a job, taken away when others start it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import msgspec

from uws.jobs import Backend
from uws.model import Job, NodeAway, Phase, UWSError, fold
from uws.model.events import job_stream

HEAD_START = 0.25
"""Seconds in which a node that has the files may start the job before another one begins to fetch them."""
AGAIN = 5.0
"""Seconds after which what could not be had is asked for again."""
_YET_TO_START = (Phase.PENDING, Phase.HELD, Phase.QUEUED)


class FilesAway(Exception):
    """Files of a job cannot be had now: those of the ``node`` that cannot be reached, if that is why."""

    def __init__(self, error: Exception, node: str | None) -> None:
        super().__init__(str(error))
        self.node = node


async def fetch(backend: Backend, job: Job) -> None:
    """Fetch what other nodes have of a job's files, all of it or nothing, and make sure that it is the same.

    Raises `FilesAway`.
    """
    await asyncio.sleep(HEAD_START)
    try:
        await _fetch(backend, job)
    except NodeAway as error:
        known = any(upload.node == error.node for upload in job.uploads)
        raise FilesAway(error, error.node if known else None) from error
    except (UWSError, OSError) as error:
        raise FilesAway(error, None) from error


async def _fetch(backend: Backend, job: Job) -> None:
    directory = backend.files.of(job.id)
    async with backend.files.spool() as spool:
        taken = []
        for name, upload, file in backend.uploads_of(job):
            if backend.is_elsewhere(job, upload):
                async with aclosing(file.chunks()) as chunks:
                    taken.append((await spool.copy(chunks, name, upload), upload))
        for spooled, upload in taken:
            directory.take(spooled, upload)
    await take_away(backend, job.id)  # it was started elsewhere meanwhile, perhaps


async def take_away(backend: Backend, job_id: str) -> None:
    """Where nodes have files of their own, delete what was made or fetched here for a job that others have.

    Nothing is done of a job that may be started here yet, or was. Raises `EventStoreError`.
    """
    if not (keeper := backend.keeper):
        return
    job, directory = fold(await backend.store.read_stream(job_stream(job_id))), backend.files.of(job_id)
    if job is None or job.destroyed or job.phase is Phase.ARCHIVED:
        await directory.remove()
    elif job.phase not in _YET_TO_START and job.node != keeper:
        directory.drop(each for each in job.uploads if each.node not in (keeper, msgspec.UNSET))
        directory.unmake()
