"""A first look at the files of a job: text, the first rows of a VOTable, the headers of FITS.

What a program made is shown as text only. The picture of a FITS image is made by another process.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from math import prod
from typing import BinaryIO, cast

import msgspec
from aiohttp import web
from lxml import etree

from uws import quicklook
from uws.beneath import path_of
from uws.environment import base_environment
from uws.files import OwnFile
from uws.model import Action, NotFound, Unavailable
from uws.model.text import made_fit

from .conditions import is_held, tag_of_state
from .documents import add, with_stylesheet
from .forms import query_of
from .handlers import log_of, result_of
from .negotiation import HTML, XML, form_of
from .resource import Resource

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
_ROWS = 20
_COLUMNS = 50
_CELL = 200
"""Characters of a value."""
_UNITS = 5
"""Header and data units of a FITS file."""
_BLOCK, _CARD = 2880, 80
_CARDS = 36_000
"""Cards of a header that are read; more are taken for something else."""
_SHOWN = 1000
"""Cards of a header that are shown."""
_LINE = 8
"""Pictures that are asked for at one time, at most."""


async def result_preview(request: web.Request) -> web.Response:
    """``{job}/results/{id}/preview``: its beginning."""
    file = result_of(resource := Resource(request), await resource.job(Action.FILES))
    return await _preview(resource, file, request.match_info["result_id"], from_end=False)


async def log_preview(request: web.Request) -> web.Response:
    """``{job}/logs/{name}/preview``: its end."""
    file = log_of(resource := Resource(request), await resource.job(Action.FILES))
    return await _preview(resource, file, file.name, from_end=True)


async def picture(request: web.Request) -> web.StreamResponse:
    """``{job}/results/{id}/quicklook``: a picture of a FITS image, as PNG."""
    resource = Resource(request)
    job = await resource.job(Action.FILES)
    file = result_of(resource, job)
    with file.open() as opened:
        headers = resource.headers(tag_of_state("quicklook", job.id, file.name))  # a result stays as it is
        if is_held(request, headers["ETag"]):
            return web.Response(status=304, headers=headers)
        png = await request.app[PICTURES].make(opened, file.name)
    return web.Response(body=png, content_type="image/png", headers=headers)


class Pictures:
    """Makes pictures one at a time, each in a process of its own."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._waiting = 0

    async def make(self, file: BinaryIO, name: str) -> bytes:
        """Return a picture of a file called ``name``.

        Raises `NotFound` where there is no image, `Unavailable` when too many wait.
        """
        if self._waiting == _LINE:
            raise Unavailable("too many pictures are being made", quicklook.SECONDS)
        self._waiting += 1
        try:
            async with self._lock:
                return await self._made(file, name)
        finally:
            self._waiting -= 1

    async def _made(self, file: BinaryIO, name: str) -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", quicklook.__file__, path_of(0),
            stdin=file, stdout=PIPE, stderr=DEVNULL, env=base_environment({}),
        )  # fmt: skip
        png = b""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * quicklook.SECONDS):
                    png, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0 or not png:
            raise NotFound(f"{name} has no image that can be shown")
        return png


PICTURES = web.AppKey("pictures", Pictures)


async def _preview(resource: Resource, file: OwnFile, item: str, *, from_end: bool) -> web.Response:
    form = form_of(resource.request, query_of(resource.request), (XML, HTML))
    with file.open() as opened:
        root = await asyncio.to_thread(look, opened, file.name, file.media_type, from_end=from_end)
    root.set("job", resource.job_id)
    root.set("item", item)
    root.set("of", "logs" if from_end else "results")
    return resource.answer(with_stylesheet(root, resource.preamble("preview")), form)


def look(file: BinaryIO, name: str, media_type: str, *, from_end: bool) -> etree._Element:
    """Return what is shown of a file called ``name``. Raises `OSError`."""
    root = etree.Element(f"{{{PREVIEW}}}preview", nsmap={"p": PREVIEW})
    size = os.fstat(file.fileno()).st_size
    for key, fact in (("name", name), ("type", media_type), ("size", str(size))):
        root.set(key, made_fit(fact))
    try:
        if "votable" in media_type:
            _show_table(root, file, size)
        elif "fits" in media_type:
            _show_headers(root, file)
        elif "json" in media_type and size <= _JSON:
            _show_json(root, file.read(_JSON))
        else:
            _show_text(root, file, size, from_end=from_end)
    except (etree.LxmlError, msgspec.DecodeError, ValueError) as error:
        add(root, "problem", f"it is not what it is said to be: {error}")
        _show_text(root, file, size, from_end=from_end)
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


def _show_text(root: etree._Element, file: BinaryIO, size: int, *, from_end: bool) -> None:
    file.seek(max(0, size - _TEXT) if from_end else 0)
    text = file.read(_TEXT).decode(errors="replace")
    if size > _TEXT:
        root.set("part", "end" if from_end else "beginning")
    add(root, "text", text)


# VOTable


def _show_table(root: etree._Element, file: BinaryIO, size: int) -> None:
    """Show the first rows of the first table, as far as they stand there as text."""
    table = etree.SubElement(root, f"{{{PREVIEW}}}table")
    # Entities are not resolved and nothing is fetched: what stands in the file is all there is.
    parser = etree.XMLPullParser(events=("end",), resolve_entities=False, no_network=True)
    for _ in range(_TABLE // _TEXT):
        if not (chunk := file.read(_TEXT)):
            parser.close()
            break
        parser.feed(chunk)
        if _take(parser, table):
            return
    else:
        root.set("part", "beginning")
        return
    if not len(table):
        add(root, "problem", "there is no table in it")
        root.remove(table)
        _show_text(root, file, size, from_end=False)


def _take(parser: etree.XMLPullParser, table: etree._Element) -> bool:
    """Add what has been read of a table; returns whether that is all that is shown."""
    root = table.getparent()
    assert root is not None
    for _, element in cast("Iterator[tuple[str, etree._Element]]", parser.read_events()):
        match etree.QName(element).localname:
            case "FIELD" if len(table) < _COLUMNS:
                column = add(table, "column", element.get("name", ""))
                column.set("unit", element.get("unit", ""))
            case "TR":
                row = etree.SubElement(table, f"{{{PREVIEW}}}row")
                for cell in list(element)[:_COLUMNS]:
                    add(row, "cell", (cell.text or "")[:_CELL])
                element.clear()
                if len(table.findall(f"{{{PREVIEW}}}row")) == _ROWS:
                    root.set("part", "beginning")
                    return True
            case "BINARY" | "BINARY2" | "FITS":
                add(root, "problem", "its values are not written as text: only the columns are shown")
                return True
            case "TABLE":
                return True
    return False


# FITS


def _show_headers(root: etree._Element, file: BinaryIO) -> None:
    for number, cards in enumerate(_headers(file)):
        if number == _UNITS:
            root.set("part", "beginning")
            break
        add(root, "header", "\n".join(cards[:_SHOWN]))
        if len(cards) > _SHOWN:
            root.set("part", "beginning")
        if _has_image(cards) and find_spec("astropy"):
            root.set("picture", "quicklook")


def _headers(file: BinaryIO) -> Iterator[list[str]]:
    """Yield the cards of one header after the other (FITS 4.0 section 3). Raises `ValueError`."""
    while block := file.read(_BLOCK):
        cards: list[str] = []
        while True:
            if len(block) < _BLOCK or len(cards) > _CARDS:
                raise ValueError("a header has no end")
            found = [block[at : at + _CARD].decode("ascii", "replace") for at in range(0, _BLOCK, _CARD)]
            ends = next((n for n, card in enumerate(found) if card.rstrip() == "END"), None)
            cards += found[:ends]
            if ends is not None:
                break
            block = file.read(_BLOCK)
        if not cards or not cards[0].startswith(("SIMPLE  =", "XTENSION=")):
            raise ValueError("a header does not begin as it should")
        yield cards
        file.seek(-(-_data_size(cards) // _BLOCK) * _BLOCK, 1)


def _number(cards: list[str], keyword: str, default: int) -> int:
    for card in cards:
        if card.startswith(f"{keyword:8}="):
            return int(card[10:].partition("/")[0])
    return default


def _has_image(cards: list[str]) -> bool:
    """Whether there are pixels in two dimensions behind a header, compressed or not (FITS 4.0 section 10)."""
    if any(card.startswith("ZIMAGE  =") for card in cards):
        return True
    is_image = cards[0].startswith("SIMPLE") or "IMAGE" in cards[0]
    return is_image and _number(cards, "NAXIS", 0) >= 2 and _data_size(cards) > 0


def _data_size(cards: list[str]) -> int:
    """Return the bytes of data that follow a header (FITS 4.0 section 4.4.1)."""
    number = partial(_number, cards)
    axes = [number(f"NAXIS{axis}", 0) for axis in range(1, min(number("NAXIS", 0), 999) + 1)]
    if not axes:
        return 0
    elements = number("GCOUNT", 1) * (number("PCOUNT", 0) + prod(axes))
    size = abs(number("BITPIX", 8)) // 8 * elements
    if not 0 <= size < 1 << 60:
        raise ValueError("a header tells of an impossible size")
    return size
