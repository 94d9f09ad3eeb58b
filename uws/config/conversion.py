"""Tables of a TOML file to typed settings; what is wrong with them is told with its place."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from uws.model import did_you_mean
from uws.model.errors import closest

T = TypeVar("T")


def convert(value: Any, kind: type[T], place: str, problems: list[str]) -> T | None:
    """Turn a table into ``kind``, or add all that is wrong with it to ``problems`` and return None."""
    if not isinstance(value, dict):
        problems.append(f"{place}: expected table, got {kind_of(value)}")
        return None
    before = len(problems)
    right_part(value, kind, place, problems)
    if len(problems) > before:
        return None
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problems.append(explain(error, place))
        return None


def right_part(
    table: dict[str, Any],
    kind: Any,
    place: str,
    problems: list[str],
    *,
    read_apart: Mapping[str, Any] = MappingProxyType({}),
    not_here: Collection[str] = (),
) -> dict[str, Any]:
    """Return the values of the right type; report the others, unknown keys, and what is missing.

    Of what is ``read_apart`` this only has to be right; what is ``not_here`` comes from elsewhere.
    """
    fields = [field for field in msgspec.structs.fields(kind) if field.name not in not_here]
    types = {**{field.name: field.type for field in fields}, **read_apart}
    required = {field.name for field in fields if field.required}
    right = {}
    for key, value in table.items():
        if key == kind.__struct_config__.tag_field:
            continue
        if key not in types:
            hint = did_you_mean(key, types) or f"; known are {', '.join(sorted(types))}"
            problems.append(f"{_join(place, key)}: unknown key{hint}")
            required -= {closest(key, types)}  # one mistake is told once
        elif mistakes := mistakes_in(value, types[key], _join(place, key)):
            problems += mistakes
        else:
            right[key] = value
    problems += [f"{_join(place, name)}: missing" for name in sorted(required - table.keys())]
    return right


def mistakes_in(value: Any, kind: Any, place: str) -> list[str]:
    """Say what is wrong with one value."""
    if get_origin(kind) is Literal and isinstance(value, str) and value not in get_args(kind):
        return [f"{place}: expected {' or '.join(get_args(kind))}, got {value!r}"]
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return [explain(error, place)]
    return []


def explain(error: msgspec.ValidationError, place: str) -> str:
    """Turn msgspec's message, ``Expected `float`, got `str` - at `$.min` ``, into ours: the place first."""
    message, _, path = str(error).partition(" - at ")
    inner = path.strip("`").removeprefix("$").lstrip(".")
    if own := re.fullmatch(r"([a-z_]+): (.*)", message, re.DOTALL):
        return f"{_join(_join(place, inner), own[1])}: {own[2]}"
    text = re.sub(r"`([^`]*)`", lambda kind: _in_toml(kind[1]), message)
    return f"{_join(place, inner) or 'the file'}: {text[0].lower()}{text[1:]}"


def _in_toml(kind: str) -> str:
    """Name a type as TOML does."""
    words = {"object": "table", "array": "list"}
    return " | ".join(words.get(word, word) for word in kind.split(" | ") if word != "null")


def _join(place: str, key: str) -> str:
    separator = "" if not place or not key or key.startswith("[") else "."
    return f"{place}{separator}{key}"


def kind_of(value: Any) -> str:
    return "list" if isinstance(value, list) else type(value).__name__


def without_times(value: Any) -> Any:
    """Write TOML's own dates as text, the form that all times have here."""
    match value:
        case dict():
            return {key: without_times(item) for key, item in value.items()}
        case list():
            return [without_times(item) for item in value]
        case datetime() | date():
            return value.isoformat().replace("+00:00", "Z")
        case _:
            return value
