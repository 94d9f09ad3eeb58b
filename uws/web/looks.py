"""What is shown of a file at first: text, JSON set out, rows of a VOTable, headers and rows of FITS.

What a program made is shown as text only, and little is read of it, whatever it says of itself.
"""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec
from lxml import etree

from uws.model.text import made_fit

from .binary_rows import CELL, COLUMNS, ROWS, Column, column_of_field, rows
from .documents import add
from .fits_files import show_fits

PREVIEW = "urn:uwsd:preview"
"""The namespace of what is shown of a file."""
_TEXT = 16_000
"""Bytes of a text that are shown."""
_JSON = 100_000
"""Bytes of JSON that are set out, so that it can be read."""
_DEEPEST = 30
"""Levels of JSON that is set out: more would make much of little."""
_TABLE = 2_000_000
"""Bytes of a VOTable that are read, however few rows that are."""

_ELEMENTS = ["{*}FIELD", "{*}TR", "{*}STREAM", "{*}TABLE"]
"""What is looked at in a VOTable, of any version."""


def look(path: Path, name: str, media_type: str, *, from_end: bool) -> etree._Element:
    """Return what is shown of a file called ``name``. Raises `OSError`."""
    root = etree.Element(f"{{{PREVIEW}}}preview", nsmap={"p": PREVIEW})
    size = path.stat().st_size
    for key, fact in (("name", name), ("type", media_type), ("size", str(size))):
        root.set(key, made_fit(fact))
    try:
        if "votable" in media_type:
            _show_table(root, path)
        elif "fits" in media_type:
            show_fits(root, path)
        elif "json" in media_type and size <= _JSON:
            _show_json(root, path.read_bytes())
        else:
            _show_text(root, path, size, from_end=from_end)
    except (etree.LxmlError, msgspec.DecodeError, ValueError) as error:
        add(root, "problem", f"it is not what it is said to be: {error}")
        _show_text(root, path, size, from_end=from_end)
    return root


def _show_json(root: etree._Element, json: bytes) -> None:
    """Show JSON so that it can be read; as it is where setting it out would make much of little."""
    if _depth(json) <= _DEEPEST:
        add(root, "text", msgspec.json.format(json, indent=2).decode())
    else:
        add(root, "text", json[:_TEXT].decode(errors="replace"))


def _depth(json: bytes) -> int:
    """Return how deep brackets lie within each other, those within texts included."""
    deepest = level = 0
    for character in json:
        if character in b"[{":
            level += 1
            deepest = max(deepest, level)
        elif character in b"]}":
            level -= 1
    return deepest


def _show_text(root: etree._Element, path: Path, size: int, *, from_end: bool) -> None:
    with path.open("rb") as file:
        file.seek(max(0, size - _TEXT) if from_end else 0)
        text = file.read(_TEXT).decode(errors="replace")
    if size > _TEXT:
        root.set("part", "end" if from_end else "beginning")
    add(root, "text", text)


# VOTable


def _show_table(root: etree._Element, path: Path) -> None:
    """Show the first rows of the first table, as far as they stand there."""
    table = _Table(root)
    # Entities are not resolved and nothing is fetched: what stands in the file is all there is.
    parser = etree.XMLPullParser(("start", "end"), tag=_ELEMENTS, resolve_entities=False, no_network=True)
    with path.open("rb") as file:
        for _ in range(_TABLE // _TEXT):
            if not (chunk := file.read(_TEXT)):
                parser.close()
                break
            parser.feed(chunk)
            events = cast("Iterator[tuple[str, etree._Element]]", parser.read_events())
            if any(table.take(event, element) for event, element in events):
                return
        else:
            root.set("part", "beginning")
            table.end()
            return
    if table.is_empty:
        add(root, "problem", "there is no table in it")
        _show_text(root, path, path.stat().st_size, from_end=False)


class _Table:
    """What is shown of the first table of a VOTable, as it is read."""

    def __init__(self, root: etree._Element) -> None:
        self._root = root
        self._element = add(root, "table")
        self._fields: list[etree._Element] = []
        self._stream: etree._Element | None = None
        self._rows = 0

    @property
    def is_empty(self) -> bool:
        return not len(self._element)

    def take(self, event: str, element: etree._Element) -> bool:
        """Take in an element that begins or ends; returns whether no more is shown. Raises `ValueError`."""
        match event, etree.QName(element).localname:
            case "start", "STREAM":
                return self._begin(element)
            case "end", "FIELD":
                self._add_field(element)
            case "end", "TR":
                cells = [cell.text or "" for cell in list(element)[:COLUMNS]]
                element.clear()
                return not self._add_row(cells)
            case "end", "STREAM":
                self._add_stream(element, is_whole=True)
                return True
            case "end", "TABLE":
                return True
        return False

    def end(self) -> None:
        """Show what has been read though there is more of it. Raises `ValueError`."""
        if self._stream is not None:
            self._add_stream(self._stream, is_whole=False)

    def _add_field(self, field: etree._Element) -> None:
        self._fields.append(field)
        if len(self._fields) <= COLUMNS:
            add(self._element, "column", field.get("name", "")).set("unit", field.get("unit", ""))

    def _add_row(self, cells: list[str]) -> bool:
        """Add a row; returns whether it was one of those that are shown."""
        if self._rows == ROWS:
            self._root.set("part", "beginning")
            return False
        self._rows += 1
        row = add(self._element, "row")
        for cell in cells:
            add(row, "cell", cell[:CELL])
        return True

    def _begin(self, stream: etree._Element) -> bool:
        """Whether there is nothing to be shown of a stream (VOTable 1.4 section 5.4)."""
        within, encoding = etree.QName(stream.getparent()).localname, stream.get("encoding", "none")
        if stream.get("href"):
            where = "in another file"
        elif within not in ("BINARY", "BINARY2"):
            where = f"a {within} file within it"
        elif encoding != "base64":
            where = f"written in the encoding {encoding}"
        else:
            self._stream = stream
            return False
        add(self._root, "problem", f"its values are {where}: only the columns are shown")
        return True

    def _add_stream(self, stream: etree._Element, *, is_whole: bool) -> None:
        """Add the rows of a stream, of which that may be the beginning only."""
        data = _decoded("".join((stream.text or "").split()), is_whole=is_whole)
        columns = [_column(field) for field in self._fields]
        masked = etree.QName(stream.getparent()).localname == "BINARY2"
        try:
            for row in rows(data, columns, masked=masked):
                if not self._add_row(row):
                    break
        except EOFError:
            if is_whole:
                raise ValueError(f"its values end within row {self._rows + 1}") from None


def _decoded(text: str, *, is_whole: bool) -> bytes:
    try:
        return a2b_base64(text if is_whole else text[: len(text) // 4 * 4], strict_mode=True)
    except ValueError as error:
        raise ValueError("its values are not in base64") from error


def _column(field: etree._Element) -> Column:
    values = field.find("{*}VALUES")
    null = "" if values is None else values.get("null", "")
    try:
        return column_of_field(field.get("datatype", ""), field.get("arraysize", ""), null)
    except ValueError as error:
        raise ValueError(f"the column {field.get('name', '')}: {error}") from None
