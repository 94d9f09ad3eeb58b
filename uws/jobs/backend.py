"""What all services of a server share."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote

from eventstore import EventStore, RecordedEvent, StoreUnavailable
from eventstore.membership import Membership
from projections import JobReadModel, Projector
from uws.clock import Clock, pause
from uws.files import Files, JobDirectory, OwnFile
from uws.model import Job, OnOtherNode, QueueSettings, QuotaSettings, Service, Upload
from uws.queueing import Queueing
from uws.quotas import Quotas

if TYPE_CHECKING:
    from uws.peers import PeerFile, Peers  # which takes long to import, for commands that run alone

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backend:
    """What all services of a server share: the log, its read models, the files, the time, and the queue.

    ``services`` are those that are offered, by name. ``membership`` is what this server is
    among those that share the log, None of who only commands. Where each keeps the files of jobs for itself,
    ``keeper`` is the name by which this one is known as who has those that are here, and ``peers`` are the
    others, None of who only commands. ``away`` are the nodes whose files could not be had when jobs needed
    them, and jobs whose files could not be had for another reason, as far as that holds yet.
    """

    store: EventStore
    projector: Projector
    jobs: JobReadModel
    files: Files
    clock: Clock
    services: Mapping[str, Service] = field(default_factory=dict)
    limits: QueueSettings = field(default_factory=QueueSettings)
    allowed: QuotaSettings = field(default_factory=QuotaSettings)
    membership: Membership | None = None
    keeper: str | None = None
    peers: Peers | None = None
    away: set[str] = field(default_factory=set)

    @property
    def node(self) -> str | None:
        """What this server is called among those that share the log, None where it is alone."""
        return self.membership.name if self.membership else None

    @cached_property
    def queueing(self) -> Queueing:
        """The queue of all services."""
        return Queueing(
            self.store, self.projector, self.jobs, self.clock, self.services, self.limits, self.allowed
        )

    @cached_property
    def quotas(self) -> Quotas:
        """What owners may have of all services together."""
        return Quotas(self.projector, self.jobs, self.clock, self.allowed, self.limits)

    def files_of(self, job: Job) -> JobDirectory:
        """Return the directory in which the program of a job was started, wherever that is."""
        directory = self.files.of(job.id)
        if (
            self.keeper
            and job.start
            and job.node != self.keeper
            and (job.node or not directory.root.exists())
        ):
            return self.files.of(job.id, OnOtherNode(job.node))
        return directory

    def upload_of(self, job: Job, upload: Upload) -> OwnFile:
        """Return a file that a client has sent for a job, wherever it is."""
        if not self.is_elsewhere(job, upload):
            return self.files.of(job.id).upload(upload)
        node = upload.node if isinstance(upload.node, str) else None
        return self.files.of(job.id, OnOtherNode(node)).upload(upload)

    def is_elsewhere(self, job: Job, upload: Upload) -> bool:
        """Whether another node has a file that a client has sent for a job, and this one has not."""
        return bool(self.keeper) and upload.node != self.keeper and not self.files.of(job.id).has(upload)

    def lacking(self, job: Job) -> str | None:
        """Say which files of other nodes a job that waits cannot have now, None where it can have all."""
        for upload in job.uploads:
            node = upload.node if isinstance(upload.node, str) else None
            is_gone = self.membership and self.membership.is_gone(node)
            if (is_gone or node in self.away) and self.is_elsewhere(job, upload):
                return f"files that it needs are on node {node}, which cannot be reached"
        return "files that it needs cannot be had now" if job.id in self.away else None

    def uploads_of(self, job: Job) -> Iterator[tuple[str, Upload, OwnFile | PeerFile]]:
        """Yield the files that clients have sent for a job, each with its parameter, to be read from here."""
        for name, values in job.parameters.items():
            for number, value in enumerate(values, start=1):
                if isinstance(value, Upload):
                    path = f"/{job.service}/async/{job.id}/parameters/{quote(name)}/{number}"
                    yield name, value, self.wherever(self.upload_of(job, value), path)

    def wherever(self, file: OwnFile, path: str) -> OwnFile | PeerFile:
        """Return a file so that it is read from the node that has it; each node offers it at this path."""
        return self.peers.file(file, path) if self.peers else file

    async def follow(self, after: int) -> AsyncIterator[tuple[RecordedEvent, ...]]:
        """Subscribe to the log behind a position, and anew whenever it could not be read."""
        while True:
            try:
                async for batch in self.store.subscribe(after=after):
                    after = batch[-1].position
                    yield batch
                return
            except StoreUnavailable:  # of which the projector tells, once for all
                await pause(self.clock)
            except Exception as error:
                _log.warning("the log cannot be followed: %s; trying again", error)
                await pause(self.clock)
