"""The events of the log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, get_args

import msgspec

import eventstore
from uws.model import events

from .described import anchor, doc, fields, line, prose

_STORES_OWN = {kind.type: kind for kind in (eventstore.Erased, eventstore.Pruned)}


def lines() -> Iterator[str]:
    yield "# Events\n"
    yield f"{prose(events.__doc__)}\n"
    yield "Payloads are JSON. Fields that have their default, or are None, are left out. Times are text in "
    yield "ISO 8601, UTC. How events are kept is told in [the log](../log.md).\n"
    kinds = {name: _STORES_OWN.get(name) or getattr(events, name) for name in sorted(events.EVENT_TYPES)}
    parts = sorted(set(_parts(kinds.values())), key=lambda part: part.__name__)
    rooms: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        rooms.setdefault(kind.__module__, []).append(name)
    for room, names in sorted(rooms.items(), key=lambda each: -len(each[1])):
        is_stores = room == eventstore.Erased.__module__
        about = "Events of the store itself" if is_stores else line(sys.modules[room].__doc__).rstrip(".")
        yield f"## {about}\n"
        for name in names:
            yield from _struct(name, kinds[name])
    yield "## What several of them hold\n"
    for part in parts:
        yield from _struct(part.__name__, part)
    yield "## What is said of each event besides\n"
    yield from _struct("Metadata", eventstore.Metadata)


def _struct(name: str, struct: type) -> Iterator[str]:
    yield f"### `{name}`\n"
    yield f"{doc(struct)}\n"
    yield from fields(struct, lambda kind: f"[{kind.__name__}]({anchor(kind.__name__)})")


def _parts(kinds: Any) -> Iterator[type]:
    """Yield the structs that fields of others are made of."""
    for kind in kinds:
        for field in msgspec.structs.fields(kind):
            yield from _structs(field.type)


def _structs(kind: Any) -> Iterator[type]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        yield from _parts([kind])
    for part in get_args(kind):
        yield from _structs(part)
