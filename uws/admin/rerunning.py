"""Running a job again: a new one from the same inputs, under the same declaration."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from eventstore import ChainBroken
from uws.audit import Past
from uws.commands import Caller
from uws.files import Spool, Spooled
from uws.jobs import Backend
from uws.model import Upload, UsageError, UWSError
from uws.provenance import Run, declarations_differ

from .failures import DoesNotHold
from .operations import Administered, Operation, Report


class Rerun(msgspec.Struct, frozen=True):
    """The new job, which is queued, or held; and what its declaration has that the first one's had not."""

    job: str
    declaration: list[str]


class RerunJob(Operation[Rerun], frozen=True, tag="audit rerun"):
    """Make a job from the inputs of another one, whose owner it gets, and queue it.

    Its declaration has to be the one that is in force, unless it is to run ``with_current_declaration``.
    """

    job_id: str
    with_current_declaration: bool = False

    async def carry_out(self, here: Administered, caller: Caller, report: Report) -> Rerun:
        backend = here.backend
        try:
            first = await Past(backend.store).run(self.job_id)
        except ChainBroken as error:
            raise DoesNotHold(str(error)) from error
        if first.erased:
            raise UsageError(f"job {self.job_id} was erased: what it was given is not known any more")
        name = first.job.service
        if name not in backend.services:
            raise UsageError(f"job {self.job_id}: the service {name} is not offered any more")
        uws = await here.find(name)
        lines = declarations_differ(first, uws.service)
        if first.job.declaration != uws.service.digest and not self.with_current_declaration:
            raise UsageError(
                f"job {self.job_id} was made under another declaration of {name}, and programs are started "
                "under the present one alone; with --with-current-declaration, it runs under that. "
                "They differ:\n" + ("\n".join(lines) or "(the text of the first is not on record)")
            )
        async with backend.files.spool() as spool:
            files = await _copied(first, backend, spool)
            job = await uws.rerun_job(first.job, files, caller)
        return Rerun(job.id, lines)


async def _copied(first: Run, backend: Backend, spool: Spool) -> dict[Upload, Spooled]:
    """Copy the files that a job was given. Raises `UsageError` naming all that are gone or changed."""
    copies: dict[Upload, Spooled] = {}
    gone: list[str] = []
    for name, upload, file in backend.uploads_of(first.job):
        try:
            async with aclosing(file.chunks()) as chunks:
                copies[upload] = await spool.copy(chunks, name, upload)
        except (UWSError, OSError) as error:
            gone.append(f"{name}: {upload.filename}, SHA-256 {upload.sha256}: {error}")
    if gone:
        raise UsageError(_without(first, gone))
    return copies


def _without(first: Run, gone: Sequence[str]) -> str:
    return f"job {first.job.id} cannot be run again without the files it was given:\n" + "\n".join(gone)


RERUN_OPERATIONS: tuple[type[Operation[Any]], ...] = (RerunJob,)
