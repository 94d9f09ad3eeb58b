"""What clients send: parameters in the query, in a form or in parts, and files on their way to disk."""

from __future__ import annotations

import re
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple
from urllib.parse import parse_qsl

import aiohttp
from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError
from yarl import URL

from uws.commands import Changes
from uws.files import Spool, Spooled
from uws.model import FileParameter, ParameterError, Phase, Service, TooLarge, UsageError, did_you_mean
from uws.model.service import CONTROL_PARAMETERS
from uws.model.units import parse_time

from .errors import legible
from .fetching import MAX_FETCHED, Fetches, url_of
from .stored import media_type_of

_PLAIN = frozenset({"7bit", "8bit", "binary"})
MAX_TEXT = 1_000_000
"""All text of one request, in bytes; files do not count."""
MAX_FORM = 16_384
"""Bytes of a form that is none of a service's, such as that by which one logs in."""
MAX_FIELDS = 1000
MAX_FILES = 16
"""Files of one request for a parameter that takes several."""
KEY = "Idempotency-Key"
REPLACE = "REPLACE"
"""The ACTION by which what is sent takes the place of all that a job had."""
_CHUNK = 1 << 16
_KEY = re.compile("[ -~]{1,255}")
_ESCAPED = re.compile("%(22|0D|0A)")
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_BROKEN_OFF = (web.RequestPayloadError, aiohttp.ClientPayloadError, ConnectionError, EOFError)


class Pair(NamedTuple):
    name: str
    value: str


@dataclass
class Submission:
    """What a POST asks for."""

    changes: Changes
    phase: str | None = None
    action: str | None = None
    given: frozenset[str] = frozenset()
    """The names that came, in upper case."""


@dataclass
class Received:
    """What of a request's parameters has come so far.

    Those ``of_browser`` come with the fields that were left blank, which are not given, and with line ends as
    CRLF, whatever they were.
    """

    of_browser: bool = False
    budget: int = 0
    """Bytes that files may still have, of all parameters together."""
    pairs: list[Pair] = field(default_factory=list)
    files: dict[str, list[Spooled]] = field(default_factory=dict)
    size: int = 0
    is_whole: bool = False
    """Whether all has come; the files that are named by URL apart."""

    def add(self, pairs: list[Pair], size: int) -> None:
        """Take more in. Raises `TooLarge`."""
        if self.of_browser:
            pairs = [Pair(name, value.replace("\r\n", "\n")) for name, value in pairs if value]
        self.pairs += pairs
        self.size += size
        count = len(self.pairs) + sum(map(len, self.files.values()))
        if self.size > MAX_TEXT or count > MAX_FIELDS:
            raise TooLarge(f"the parameters are more than {MAX_TEXT} bytes or {MAX_FIELDS} values")


def query_of(request: web.Request) -> list[Pair]:
    """Return the query's parameters. Raises `UsageError` when they are not UTF-8."""
    # The URL object would have mended broken percent-encoding in silence.
    return _pairs(request.raw_path.partition("?")[2].encode(errors="surrogateescape"))


def key_of(request: web.Request) -> str | None:
    """Return the key under which a command may be repeated, None without one. Raises `UsageError`."""
    sent = request.headers.getall(KEY, [])
    if len(sent) > 1 or any(not _KEY.fullmatch(key) for key in sent):
        raise UsageError(f"{KEY}: expected one key of 1 to 255 printable ASCII characters")
    return sent[0] if sent else None


async def read_form(request: web.Request, *names: str) -> list[str]:
    """Read the form that a POST has as its body; return what it gives for ``names``, else "".

    Raises `UsageError`, for what has another name, too, and `TooLarge`.
    """
    if request.content_type != "application/x-www-form-urlencoded":
        raise UsageError("expected a form: application/x-www-form-urlencoded")
    pairs = _pairs(await _read_text(request.content.iter_chunked(_CHUNK), most=MAX_FORM))
    for pair in pairs:
        if pair.name.upper() not in names:
            raise UsageError(
                f"{pair.name[:100]}: expected {', '.join(names)}{did_you_mean(pair.name, names)}"
            )
    return [single(pairs, name) or "" for name in names]


async def read_submission(
    request: web.Request, service: Service, spool: Spool, fetches: Fetches, form: Received
) -> Submission:
    """Read query and body of a POST into ``form``; files go to ``spool``, and then those named by URL.

    Raises `UsageError` for what is malformed, `TooLarge`, `ParameterError`.
    """
    form.budget = _budget(service)
    form.add(query_of(request), 0)
    if request.content_type == "application/x-www-form-urlencoded":
        body = await _read_text(request.content.iter_chunked(_CHUNK))
        form.add(_pairs(body), len(body))
    elif request.content_type.startswith("multipart/"):
        await _read_parts(request, service, spool, form)
    elif request.can_read_body and await _has_more(request):
        raise UsageError(
            f"a body of type {request.content_type} is not understood; "
            "send application/x-www-form-urlencoded or multipart/form-data"
        )
    form.is_whole = True
    return await _sort(form, service, fetches)


async def read_value(request: web.Request) -> str:
    """Read the text of a PUT. Raises `TooLarge`, `UsageError`."""
    return _decode(await _read_text(request.content.iter_chunked(_CHUNK)))


async def read_file(request: web.Request, name: str, parameter: FileParameter, spool: Spool) -> Spooled:
    """Read the file of a PUT to disk. Raises `TooLarge`, `UsageError` when the client breaks off."""
    try:
        return await spool.receive(
            request.content.iter_chunked(_CHUNK),
            name=name,
            filename="",
            media_type=media_type_of(request.content_type),
            max_size=parameter.max_bytes,
        )
    except _BROKEN_OFF as error:
        raise UsageError("the body broke off, or cannot be decoded") from error


def single(pairs: Sequence[Pair], name: str) -> str | None:
    """Return the one value of a parameter, None without any. Raises `UsageError` for several."""
    values = [pair.value for pair in pairs if pair.name.upper() == name]
    if len(values) > 1:
        raise UsageError(f"{name} takes one value, got {len(values)}")
    return values[0] if values else None


def whole_number(text: str, name: str, least: int) -> int:
    """Read a decimal integer of a control parameter. Raises `UsageError`."""
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()) or int(text) < least:
        raise UsageError(f"{name}: expected a whole number, at least {least}, got {text!r}")
    return int(text)


def phase_of(text: str) -> Phase:
    """Read the name of a phase. Raises `UsageError`."""
    try:
        return Phase(text)
    except ValueError:
        raise UsageError(
            f"PHASE: there is no phase {text!r}{did_you_mean(text, Phase)}; phases are {', '.join(Phase)}"
        ) from None


def take_bad_headers_quietly() -> None:
    """Keep Python from warning of what is wrong with a part: it would remember each text for ever.

    The client is told what is missing then.
    """
    for category in (aiohttp.BadContentDispositionHeader, aiohttp.BadContentDispositionParam):
        warnings.filterwarnings("ignore", category=category)


async def _read_parts(request: web.Request, service: Service, spool: Spool, form: Received) -> None:
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader) or not part.name:
                raise UsageError("multipart/form-data: every part needs a name and holds one value")
            # Browsers send these three characters of a file's name so (HTML, section 4.10.21.8).
            called = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), part.filename or "")
            name, filename = legible(part.name), legible(called)
            if part.headers.get("Content-Transfer-Encoding", "binary").lower() not in _PLAIN:
                raise UsageError(f"{name}: a part's bytes are sent as they are (RFC 7578 section 4.7)")
            if part.filename is None and not _may_be_file(name, service):
                body = await _read_text(_chunks(part), before=form.size)
                form.add([Pair(name, _decode(body))], len(name) + len(body))
                continue
            if _is_ignored(name, service):
                continue
            spooled = await spool.receive(
                _chunks(part),
                name=name,
                filename=filename,
                media_type=media_type_of(part.headers.get("Content-Type", "")),
                max_size=min(_max_size(service, name), form.budget),
            )
            form.budget -= spooled.size
            if spooled.size or filename:  # else it is a form's field that was left blank
                form.files.setdefault(name, []).append(spooled)
            form.add([], len(name))
    except _BROKEN_OFF as error:
        raise UsageError("the body broke off, or cannot be decoded") from error
    except (HttpProcessingError, ValueError, AssertionError, RuntimeError, LookupError) as error:
        raise UsageError(f"multipart/form-data is malformed: {getattr(error, 'message', error)}") from error


async def _chunks(part: BodyPartReader) -> AsyncIterator[bytes]:
    while chunk := await part.read_chunk(_CHUNK):
        yield chunk


async def _has_more(request: web.Request) -> bool:
    try:
        return bool(await request.content.read(1))
    except _BROKEN_OFF as error:
        raise UsageError("the body broke off, or cannot be decoded") from error


async def _read_text(chunks: AsyncIterator[bytes], *, most: int = MAX_TEXT, before: int = 0) -> bytes:
    body = bytearray()
    try:
        async for chunk in chunks:
            body += chunk
            if before + len(body) > most:
                raise TooLarge(f"the parameters are more than {most} bytes")
    except _BROKEN_OFF as error:
        raise UsageError("the body broke off, or cannot be decoded") from error
    return bytes(body)


def _budget(service: Service) -> int:
    return sum(
        parameter.max_bytes * (MAX_FILES if parameter.multiple else 1)
        for parameter in service.parameters.values()
        if isinstance(parameter, FileParameter)
    )


def _may_be_file(name: str, service: Service) -> bool:
    """Whether a part without a file's name is one: a file parameter, or a label that UPLOAD may refer to."""
    known = service.find(name)
    if known is None and name.upper() not in CONTROL_PARAMETERS:
        return any(isinstance(parameter, FileParameter) for parameter in service.parameters.values())
    return isinstance(service.parameters.get(known or ""), FileParameter)


def _is_ignored(name: str, service: Service) -> bool:
    """Whether a file is thrown away unread: nothing could take it, and nobody is to hear of it."""
    takes_files = any(isinstance(parameter, FileParameter) for parameter in service.parameters.values())
    return service.unknown_parameters == "ignore" and service.find(name) is None and not takes_files


def _max_size(service: Service, name: str) -> int:
    """Return how large a file part may be; one that UPLOAD refers to may be for any file parameter."""
    declared = {n: p.max_bytes for n, p in service.parameters.items() if isinstance(p, FileParameter)}
    if not declared:
        raise ParameterError(name, f"{service.name} takes no files")
    return declared.get(service.find(name) or "", max(declared.values()))


async def _sort(form: Received, service: Service, fetches: Fetches) -> Submission:
    """Tell control parameters, values and files apart."""
    pairs = form.pairs
    parameters: dict[str, list[str]] = {}
    for name, value in pairs:
        if name.upper() not in CONTROL_PARAMETERS:
            parameters.setdefault(name, []).append(value)
    duration = single(pairs, "EXECUTIONDURATION")
    destruction = single(pairs, "DESTRUCTION")
    action = single(pairs, "ACTION")
    if action not in (None, "DELETE", REPLACE):
        raise UsageError(f"ACTION: expected DELETE or {REPLACE}, got {action!r}")
    phase = single(pairs, "PHASE")
    if phase is not None and phase not in ("RUN", "ABORT"):
        raise UsageError(f"PHASE: expected RUN or ABORT, got {phase!r}")
    changes = Changes(
        parameters=parameters,
        run_id=single(pairs, "RUNID"),
        execution_duration=None if duration is None else whole_number(duration, "EXECUTIONDURATION", 0),
        destruction=None if destruction is None else instant(destruction, "DESTRUCTION"),
        files=await _assign(form, service, fetches),  # last: nothing is fetched in vain
    )
    return Submission(
        changes=_and_no_others(changes, service) if action == REPLACE else changes,
        phase=phase,
        action=action,
        given=frozenset(pair.name.upper() for pair in pairs),
    )


def _and_no_others(changes: Changes, service: Service) -> Changes:
    """Return changes after which a job has what they give, and no other values nor any other run id."""
    given = {service.find(name) for name in (*changes.parameters, *changes.files)}
    others: dict[str, list[str]] = {name: [] for name in service.parameters if name not in given}
    return replace(changes, parameters={**changes.parameters, **others}, run_id=changes.run_id or "")


async def _assign(form: Received, service: Service, fetches: Fetches) -> dict[str, list[Spooled]]:
    """Give every file to its parameter: by UPLOAD (DALI 1.1 section 3.4.5), or by the name of its part."""
    files: dict[str, list[Spooled]] = {}
    referred = set()
    for name, parameter, source in list(_uploads(form, service)):
        if isinstance(source, URL):
            found = [await fetches.fetch(source, name, min(parameter.max_bytes, form.budget))]
            form.budget -= found[0].size
        else:
            referred.add(source)
            found = form.files[source]
        if any(spooled.size > parameter.max_bytes for spooled in found):
            raise TooLarge(f"{name}: the file is larger than the maximum {parameter.max_size}")
        files.setdefault(name, []).extend(found)
    for label, found in form.files.items():
        if label not in referred:
            files.setdefault(label, []).extend(found)
    return files


def _uploads(form: Received, service: Service) -> Iterator[tuple[str, FileParameter, str | URL]]:
    """Read all of UPLOAD: for each file its parameter, and the label of its part or its URL."""
    seen: set[str] = set()
    fetched = 0
    for value in (pair.value for pair in form.pairs if pair.name.upper() == "UPLOAD"):
        for item in filter(str.strip, value.split(";")):
            name, comma, uri = (piece.strip() for piece in item.partition(","))
            if not comma or not name:
                raise UsageError(f"UPLOAD: expected name,uri, got {item!r}")
            parameter = service.parameters.get(service.find(name) or "")
            if not isinstance(parameter, FileParameter):
                takers = [n for n, p in service.parameters.items() if isinstance(p, FileParameter)]
                raise ParameterError(
                    name,
                    f"no file parameter{did_you_mean(name, takers)}; files: {', '.join(takers) or 'none'}",
                )
            if not uri.startswith("param:"):
                fetched += 1
                if fetched > MAX_FETCHED:
                    raise TooLarge(f"UPLOAD: one request fetches {MAX_FETCHED} files at most")
                yield name, parameter, url_of(uri)
                continue
            label = uri.removeprefix("param:")
            if label not in form.files:
                raise UsageError(f"UPLOAD: there is no part {label!r} in this request")
            if label in seen:
                raise UsageError(f"UPLOAD: the part {label!r} can be only one parameter's file")
            seen.add(label)
            yield name, parameter, label


def _pairs(encoded: bytes) -> list[Pair]:
    if _BAD_PERCENT.search(encoded):
        raise UsageError("the parameters are malformed: '%' is written %25")
    try:
        found = parse_qsl(
            encoded.decode(),
            keep_blank_values=True,
            encoding="utf-8",
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except UnicodeDecodeError:
        raise UsageError("the parameters are not UTF-8") from None
    except ValueError as error:
        raise TooLarge(f"the parameters are more than {MAX_FIELDS} values") from error
    return [Pair(name, value) for name, value in found]


def _decode(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise UsageError("a value is not UTF-8 text") from None


def instant(text: str, name: str) -> datetime:
    """Read the time of a control parameter. Raises `UsageError`."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
