"""What can be asked over HTTP, as the OpenAPI description has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from uws.web import openapi
from uws.web.errors import REASONS

from .described import prose, table


def lines() -> Iterator[str]:
    yield "# Resources\n"
    yield "What can be asked, as `/openapi.json` of a server tells for its own services. "
    yield "How it is meant is told in [the HTTP interface](../http.md). "
    yield "HEAD is as GET, without what is asked for; `uws.xml` is another name of `async`.\n"
    paths: dict[str, list[str]] = {}
    for key in openapi.OPERATIONS:
        paths.setdefault(key.partition(" ")[2], []).append(key)
    for path, keys in paths.items():
        yield f"## `{path}`\n"
        for key in keys:
            yield from _operation(key)
    yield from _takes("In queries", openapi.QUERY)
    yield from _takes("In forms", openapi.FIELDS)
    yield from _takes("Headers", openapi.HEADERS)
    yield from _refusals()


def _operation(key: str) -> Iterator[str]:
    operation = openapi.OPERATIONS[key]
    yield f"**{key.partition(' ')[0]}**: {operation.summary}.\n"
    given = (("query", operation.query), ("form", operation.fields or ()), ("headers", operation.headers))
    taken = [
        f"{', '.join(f'`{_sent_as(name)}`' for name in names)} in the {where}"
        for where, names in given
        if names
    ]
    if operation.takes:
        taken.append(_OF_SERVICE[operation.takes])
    if taken:
        yield f"- takes {'; '.join(taken)}"
    yield f"- answers {'; '.join(_answer(*answer) for answer in sorted(operation.answers.items()))}"
    if found := openapi.refusals(key):
        yield f"- or refuses by [{', '.join(map(str, found))}](#refusals)"
    yield ""


_ANY = 10**9
"""What is larger bounds nothing that a reader thinks of."""
_OF_SERVICE = {
    "given": "parameters of the service in the query",
    "all": "parameters of the service in the query",
    "form": "parameters of the service in the form",
    "one": "the parameter that the path names",
}


def _answer(status: int, media_types: Sequence[str]) -> str:
    text = f"{status} {HTTPStatus(status).phrase}"
    return f"{text} ({', '.join(f'`{name}`' for name in media_types)})" if media_types else text


def _sent_as(name: str) -> str:
    return openapi._SENT_AS.get(name, name)


def _takes(heading: str, schemas: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield f"## {heading}\n"
    rows = [
        (f"`{_sent_as(name)}`", _schema(schema), schema.get("description", ""))
        for name, schema in schemas.items()
    ]
    yield from table(("name", "type", "meaning"), sorted(set(rows)))


def _schema(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "items" in schema:
        return f"{_schema(schema['items'])}; may be repeated"
    words = ("minimum", "at least"), ("maximum", "at most")
    bounds = [f"{word} {schema[key]}" for key, word in words if schema.get(key, _ANY) < _ANY]
    kind = {"integer": "whole number", "string": "text"}.get(schema["type"], schema["type"])
    return ", ".join((kind, *bounds))


def _refusals() -> Iterator[str]:
    yield "## Refusals\n"
    yield "Text: the fault's name, and what is wrong. Besides what is listed above, any request is refused "
    yield "that is malformed, or that the server cannot deal with. When each comes, at length: "
    yield "[Refusals](../http.md#refusals).\n"
    rows = [
        (f"{status} {HTTPStatus(status).phrase}", prose(" ".join(reasons)))
        for status, reasons in REASONS.items()
    ]
    yield from table(("status", "what leads to it"), rows)
