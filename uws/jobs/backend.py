"""What all services of a server share."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from eventstore import EventStore, RecordedEvent
from eventstore.membership import Membership
from projections import JobReadModel, Projector
from uws.clock import Clock, pause
from uws.files import Files
from uws.model import QueueSettings, QuotaSettings, Service
from uws.queueing import Queueing
from uws.quotas import Quotas

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backend:
    """What all services of a server share: the log, its read models, the files, the time, and the queue.

    ``services`` are those that are offered, by name. ``membership`` is what this server is
    among those that share the log, None of who only commands.
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

    async def follow(self, after: int) -> AsyncIterator[tuple[RecordedEvent, ...]]:
        """Subscribe to the log behind a position, and anew whenever it could not be read."""
        while True:
            try:
                async for batch in self.store.subscribe(after=after):
                    after = batch[-1].position
                    yield batch
                return
            except Exception as error:
                log.warning("the log cannot be followed: %s; trying again", error)
                await pause(self.clock)
