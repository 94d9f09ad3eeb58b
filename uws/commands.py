"""What is asked of a job and by whom, and the marks that a command leaves on its events.

A client that lost an answer sends its command again under the same key. The ids of a keyed command's events
follow from the key, so that the log itself knows whether it was carried out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from hashlib import sha256

import msgspec
from msgspec.structs import replace

from eventstore import Metadata, NewEvent, RecordedEvent, to_microseconds
from uws.files import Spooled
from uws.model import Action, Identity, Role, UsageError
from uws.model import events as e
from uws.model.text import SERVER_NAME

_json = msgspec.json.Encoder(order="deterministic")


class KeyReused(UsageError):
    """The caller's key was another command's before."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key!r} was used for another command; each needs its own")
        self.key = key


@dataclass(frozen=True)
class Caller(Identity):
    """Who asks, through which request, and from which address.

    A command under a ``key`` of the caller's choice is carried out once, however often it is sent.
    """

    request_id: str | None = None
    client: str | None = None
    key: str | None = None
    address: str | None = None

    def known_as(self, identity: Identity) -> Caller:
        """Return this caller with who he is."""
        return dataclasses.replace(self, **vars(identity))

    @property
    def metadata(self) -> Metadata:
        """What the events of a command say of its caller."""
        return Metadata(
            actor=self.user,
            request_id=self.request_id,
            client=self.client,
            correlation_id=self.request_id,
        )


SERVER = Caller(user=SERVER_NAME, roles=frozenset({Role.ADMIN}))
"""The server itself, as the actor of what nobody asked for."""


@dataclass(frozen=True)
class Changes:
    """What a client sent to make or change a job.

    ``parameters`` and ``files`` are as they came, names in any case; a file is for the parameter it is
    listed under.
    """

    parameters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    files: Mapping[str, Sequence[Spooled]] = field(default_factory=dict)
    run_id: str | None = None
    execution_duration: int | None = None
    destruction: datetime | None = None


@dataclass(frozen=True)
class Command:
    """A wish on its way to the log: ``changes``, and ``wishes`` such as RUN, ABORT and DELETE.

    ``scope`` is where the caller's key counts; ``changes`` is None as long as it is not known what was sent.
    ``actions`` are what it needs to be allowed to do to the job, all of it.
    ``led_by`` are the types of the events that can have led to what the server does of its own accord.
    ``occurred`` is when that was which is recorded only now.
    """

    caller: Caller
    scope: tuple[str, ...] = ()
    changes: Changes | None = None
    wishes: tuple[str, ...] = ()
    actions: tuple[Action, ...] = (Action.CHANGE,)
    led_by: tuple[str, ...] = ()
    occurred: datetime | None = None

    def encode(
        self, happened: Iterable[e.JobEvent], recorded: Sequence[RecordedEvent] = ()
    ) -> list[NewEvent]:
        """Make what comes of the command ready for the log; ``recorded`` stands in the stream before it."""
        metadata = replace(self.caller.metadata, command=self._digest)
        if cause := next((event for event in reversed(recorded) if event.type in self.led_by), None):
            metadata = replace(metadata, correlation_id=cause.about.correlation_id, causation_id=cause.id)
        if self.occurred:
            metadata = replace(metadata, occurred=to_microseconds(self.occurred))
        new = [e.encode(event, metadata) for event in happened]
        if self.caller.key is None:
            return new
        return [replace(event, id=self._event_id(index)) for index, event in enumerate(new)]

    def was_done(self, recorded: Iterable[RecordedEvent]) -> bool:
        """Whether the command was carried out before, going by the stream in which that would stand.

        Raises `KeyReused` when it was another one; erased events do not tell.
        """
        if self.caller.key is None:
            return False
        found = next((event for event in recorded if event.id == self.first_id), None)
        if found and self.changes and not found.erased and found.about.command != self._digest:
            raise KeyReused(self.caller.key)
        return found is not None

    @cached_property
    def first_id(self) -> str | None:
        """The id of the first event that comes of the command; None where no key decides it."""
        return None if self.caller.key is None else self._event_id(0)

    @cached_property
    def _digest(self) -> str | None:
        """What tells this command from others under the same key; None without one."""
        if self.caller.key is None or self.changes is None:
            return None
        changes = self.changes
        files = {
            # What is at a URL may change, and is not fetched again to be compared.
            name: [
                (file.url,) if file.url else (file.filename, file.media_type, file.sha256) for file in sent
            ]
            for name, sent in changes.files.items()
        }
        control = changes.run_id, changes.execution_duration, changes.destruction
        return _hash(dict(changes.parameters), files, control, self.wishes)

    def _event_id(self, index: int) -> str:
        return _hash(self.scope, self.caller.user, self.caller.key, index)[:32]


def _hash(*parts: object) -> str:
    """Return the SHA-256 of ``parts`` as a JSON list, in which each has its own place."""
    return sha256(_json.encode(parts)).hexdigest()
