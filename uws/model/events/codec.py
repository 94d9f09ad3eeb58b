"""Payloads to the log and back: today's forms, and those before them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from eventstore import Erased, Metadata, NewEvent, Pruned, RecordedEvent

from ..errors import UnknownForm
from .access import SecurityEvent, TokenEvent
from .base import Event
from .jobs import JOB_EVENTS, JobEvent
from .retention import RetentionEvent
from .serving import NodeEvent, QueueEvent, ServiceDeclared

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns a payload, as decoded JSON, into the next form of its type. Pure."""
Upcasters = Mapping[str, Sequence[Upcaster]]
"""For a type that has had other forms: what leads from its form 1 to 2, from 2 to 3, and so on to today's."""
UPCASTERS: Upcasters = {}


def encode(event: Event, metadata: Metadata, upcasters: Upcasters = UPCASTERS) -> NewEvent:
    """Make a payload ready for the log, in today's form."""
    name = type(event).__name__
    return NewEvent(
        type=name,
        data=msgspec.json.encode(event),
        metadata=msgspec.structs.replace(metadata, schema=schema_of(name, upcasters)),
    )


def schema_of(event_type: str, upcasters: Upcasters = UPCASTERS) -> int:
    """Return the number of a type's form today. A field that may be left out makes no new form."""
    return 1 + len(upcasters.get(event_type, ()))


def decode(recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS) -> JobEvent:
    """Read a payload of a job's stream. Old forms become today's here, and nowhere else.

    Raises `UnknownForm` for what a newer version has written, `msgspec.MsgspecError` for what no version
    has; of erased events nothing can be read.
    """
    return _decode(recorded, _JOB_DECODERS, upcasters)


def decode_declaration(recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS) -> ServiceDeclared:
    """Read a payload of a service's stream, as `decode` does."""
    return _decode(recorded, _SERVICE_DECODERS, upcasters)


def decode_queue(recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS) -> QueueEvent:
    """Read a payload of the queue's stream, as `decode` does."""
    return _decode(recorded, _QUEUE_DECODERS, upcasters)


def decode_node(recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS) -> NodeEvent:
    """Read a payload of a node's stream, as `decode` does."""
    return _decode(recorded, _NODE_DECODERS, upcasters)


def decode_retention(recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS) -> RetentionEvent:
    """Read a payload of the stream of retention, as `decode` does."""
    return _decode(recorded, _RETENTION_DECODERS, upcasters)


def decode_token(recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS) -> TokenEvent:
    """Read a payload of a user's or a session's stream, as `decode` does."""
    return _decode(recorded, _TOKEN_DECODERS, upcasters)


def decode_security(recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS) -> SecurityEvent:
    """Read a payload of a stream of security decisions, as `decode` does."""
    return _decode(recorded, _SECURITY_DECODERS, upcasters)


def time_of(recorded: RecordedEvent) -> int:
    """Return when an event happened, whenever it was recorded, in microseconds since 1970 UTC.

    Of an erased one nobody knows more than when it was recorded.
    """
    return recorded.time if recorded.erased else _about.decode(recorded.metadata).time_of(recorded)


def actor_and_time(recorded: RecordedEvent) -> tuple[str | None, int]:
    """Return who caused an event, and its time (see `time_of`)."""
    if recorded.erased:
        return None, recorded.time
    about = _about.decode(recorded.metadata)
    return about.actor, about.time_of(recorded)


def outline(
    recorded: RecordedEvent, upcasters: Upcasters = UPCASTERS
) -> tuple[type[JobEvent] | None, msgspec.json.Decoder[JobEvent] | None, int, str | None]:
    """Return of what kind an event of a job is, what decodes its payload, its time and actor.

    Most who fold events need not know more of most of them. There is no kind when `decode` would not know
    the form, and no decoder for it or for an old one. Raises `msgspec.MsgspecError`.
    """
    about, name = _about.decode(recorded.metadata), recorded.type
    time, today = about.time_of(recorded), schema_of(name, upcasters)
    if about.schema == today:
        return JOB_EVENTS.get(name), _JOB_DECODERS.get(name), time, about.actor
    return JOB_EVENTS.get(name) if 1 <= about.schema < today else None, None, time, about.actor


class _About(msgspec.Struct, gc=False):
    """What of an event's metadata tells how to read it, and whose it is."""

    schema: int = 1
    occurred: int | None = None
    actor: str | None = None

    def time_of(self, recorded: RecordedEvent) -> int:
        return recorded.time if self.occurred is None else self.occurred


E = TypeVar("E", bound=Event)
_about = msgspec.json.Decoder(_About)
_JOB_DECODERS: dict[str, msgspec.json.Decoder[JobEvent]] = {
    name: msgspec.json.Decoder(kind) for name, kind in JOB_EVENTS.items()
}
_QUEUE_DECODERS: dict[str, msgspec.json.Decoder[QueueEvent]] = {
    kind.__name__: msgspec.json.Decoder(kind) for kind in QueueEvent.__args__
}
_NODE_DECODERS: dict[str, msgspec.json.Decoder[NodeEvent]] = {
    kind.__name__: msgspec.json.Decoder(kind) for kind in NodeEvent.__args__
}
_RETENTION_DECODERS: dict[str, msgspec.json.Decoder[RetentionEvent]] = {
    kind.__name__: msgspec.json.Decoder(kind) for kind in RetentionEvent.__args__
}
_TOKEN_DECODERS: dict[str, msgspec.json.Decoder[TokenEvent]] = {
    kind.__name__: msgspec.json.Decoder(kind) for kind in TokenEvent.__args__
}
_SECURITY_DECODERS: dict[str, msgspec.json.Decoder[SecurityEvent]] = {
    kind.__name__: msgspec.json.Decoder(kind) for kind in SecurityEvent.__args__
}
_SERVICE_DECODERS = {ServiceDeclared.__name__: msgspec.json.Decoder(ServiceDeclared)}


EVENT_TYPES = frozenset(
    {
        Erased.type,
        Pruned.type,
        *_JOB_DECODERS,
        *_QUEUE_DECODERS,
        *_NODE_DECODERS,
        *_RETENTION_DECODERS,
        *_TOKEN_DECODERS,
        *_SECURITY_DECODERS,
        *_SERVICE_DECODERS,
    }
)
"""All types of events that there can be in a log."""


def _decode(
    recorded: RecordedEvent, decoders: Mapping[str, msgspec.json.Decoder[E]], upcasters: Upcasters
) -> E:
    name, schema = recorded.type, _about.decode(recorded.metadata).schema
    decoder = decoders.get(name)
    steps = upcasters.get(name, ())
    if decoder is None or not 1 <= schema <= len(steps) + 1:
        raise UnknownForm(recorded.position, name, schema)
    if schema > len(steps):
        return decoder.decode(recorded.data)
    payload = msgspec.json.decode(recorded.data)
    for step in steps[schema - 1 :]:
        payload = step(payload)
    return msgspec.convert(payload, decoder.type)
