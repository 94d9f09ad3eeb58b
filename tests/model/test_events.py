"""Events as they stand in logs: whatever was once recorded is read, as what it was, for ever.

The files in `golden` are payloads as logs have them, ``<type>.<schema>.<variant>.json``, each beside what it
is read as. A new type, form or field needs new ones, with their digests at the end of ``SHA256SUMS``; those
that are there stay as they are. What one is read as changes only when the type has got a new form: a field
that it does not name is newer, and must have its default.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventstore import MemoryEventStore, Metadata, NewEvent, RecordedEvent
from tests.frozen import check_only_added_to, check_unchanged
from uws.model import UnknownForm
from uws.model import events as e

GOLDEN = Path(__file__).with_name("golden")
DIGESTS = GOLDEN / "SHA256SUMS"
PAYLOADS = sorted(path for path in GOLDEN.glob("*.json") if not path.stem.endswith(".expected"))
TYPES = {cls.__name__: cls for cls in e.Event.__subclasses__()}


def form_of(path: Path) -> tuple[str, int]:
    event_type, schema, _ = path.name.split(".", 2)
    return event_type, int(schema)


async def recorded(event_type: str, schema: int, data: bytes) -> RecordedEvent:
    """Put a payload into a log, at position 2, and return what the log has."""
    store = MemoryEventStore()
    new = NewEvent(type=event_type, data=data, metadata=Metadata(actor="ada", schema=schema))
    await store.append("job/before", [NewEvent(type="x", data=b"")])
    (event,) = await store.append("job/x", [new])
    await store.close()
    return event


def read(event: RecordedEvent, upcasters: e.Upcasters = e.UPCASTERS) -> e.Event:
    if event.type == "ServiceDeclared":
        return e.decode_declaration(event, upcasters)
    if event.type.startswith("Queue"):
        return e.decode_queue(event, upcasters)
    if event.type.startswith("Node"):
        return e.decode_node(event, upcasters)
    if TYPES.get(event.type) in e.RetentionEvent.__args__:
        return e.decode_retention(event, upcasters)
    if event.type.startswith("Token") and event.type != "TokenUsed":
        return e.decode_token(event, upcasters)
    if TYPES.get(event.type) in e.SecurityEvent.__args__:
        return e.decode_security(event, upcasters)
    return e.decode(event, upcasters)


def shown(value: Any, expected: Any) -> Any:
    """Return a value with all its fields as what JSON has, but for those that are newer than ``expected``."""
    match value, expected:
        case msgspec.Struct(), dict():
            return {
                field.name: shown(getattr(value, field.name), expected.get(field.name))
                for field in msgspec.structs.fields(value)
                if field.name in expected or not has_default(value, field)
            }
        case dict(), dict():
            return {name: shown(item, expected.get(name)) for name, item in value.items()}
        case tuple(), list():
            pairs = itertools.zip_longest(value, expected[: len(value)])
            return [shown(item, what) for item, what in pairs]
    return msgspec.to_builtins(value)


def has_default(value: msgspec.Struct, field: msgspec.structs.FieldInfo) -> bool:
    factory = field.default_factory
    default = field.default if factory is msgspec.NODEFAULT else factory()
    return bool(getattr(value, field.name) == default)


# The golden payloads


def test_every_form_that_an_event_ever_had_has_a_golden_payload() -> None:
    forms = {(name, schema) for name in TYPES for schema in range(1, e.schema_of(name) + 1)}
    assert {form_of(path) for path in PAYLOADS} == forms


def test_every_field_of_every_event_is_in_a_golden_payload() -> None:
    for name, cls in TYPES.items():
        today = [path for path in PAYLOADS if form_of(path) == (name, e.schema_of(name))]
        seen = {field for path in today for field in json.loads(path.read_bytes())}
        assert seen == set(cls.__struct_encode_fields__), name


def test_no_golden_payload_was_changed_or_taken_away() -> None:
    check_unchanged(DIGESTS, ((path.name, path.read_bytes()) for path in PAYLOADS))


def test_no_digest_of_a_golden_payload_was_ever_changed_or_taken_away() -> None:
    check_only_added_to(DIGESTS)


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda path: path.stem)
async def test_a_golden_payload_is_read_as_what_it_always_was(path: Path) -> None:
    event = read(await recorded(*form_of(path), path.read_bytes()))
    assert type(event) is TYPES[form_of(path)[0]]
    expected = json.loads(path.with_suffix(".expected.json").read_bytes())
    assert shown(event, expected) == expected


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda path: path.stem)
async def test_a_golden_payload_in_todays_form_is_written_as_it_always_was(path: Path) -> None:
    name, schema = form_of(path)
    event = read(await recorded(name, schema, path.read_bytes()))
    new = e.encode(event, Metadata(actor="ada"))
    assert (new.type, new.metadata) == (name, Metadata(actor="ada", schema=e.schema_of(name)))
    if schema == e.schema_of(name):
        assert new.data == path.read_bytes()


# Old forms and new ones

RENAMED: e.Upcasters = {
    "RunIdSet": [lambda old: {"label": old["name"]}, lambda old: {"run_id": old["label"].strip()}]
}
"""As if RunIdSet had been written as {"name": …} first, and then as {"label": …}."""


@pytest.mark.parametrize(
    ("schema", "payload"), [(1, b'{"name":" r "}'), (2, b'{"label":"r "}'), (3, b'{"run_id":"r"}')]
)
async def test_an_old_form_becomes_todays_step_by_step(schema: int, payload: bytes) -> None:
    assert e.decode(await recorded("RunIdSet", schema, payload), RENAMED) == e.RunIdSet(run_id="r")


async def test_what_is_written_is_in_todays_form_and_read_as_it_is() -> None:
    new = e.encode(e.RunIdSet(run_id=" kept "), Metadata(), RENAMED)
    assert new.metadata.schema == 3
    assert e.decode(await recorded(new.type, 3, new.data), RENAMED) == e.RunIdSet(run_id=" kept ")
    assert e.encode(e.JobQueued(), Metadata(), RENAMED).metadata.schema == 1


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda path: path.stem)
async def test_what_was_upcast_is_read_as_well_as_what_was_not(path: Path) -> None:
    name, schema = form_of(path)
    event = await recorded(name, schema, path.read_bytes())
    steps = [*e.UPCASTERS.get(name, ()), lambda payload: payload]
    assert read(event, {name: steps}) == read(event)


async def test_an_upcast_payload_is_held_against_the_type() -> None:
    wrong: e.Upcasters = {"RunIdSet": [lambda old: {"run_id": 7}]}
    with pytest.raises(msgspec.ValidationError, match="run_id"):
        e.decode(await recorded("RunIdSet", 1, b"{}"), wrong)


@pytest.mark.parametrize(
    ("event_type", "schema"),
    [("RunIdSet", 4), ("RunIdSet", 0), ("JobQueued", 2), ("JobTeleported", 1), ("ServiceDeclared", 2)],
)
async def test_what_a_newer_version_wrote_is_refused_by_name_form_and_position(
    event_type: str, schema: int
) -> None:
    event = await recorded(event_type, schema, b"{}")
    with pytest.raises(UnknownForm, match="written by a newer version") as found:
        read(event, RENAMED)
    assert str(found.value).startswith(f"position 2: {event_type} in form {schema} ")
    assert (found.value.position, found.value.event_type, found.value.schema) == (2, event_type, schema)
