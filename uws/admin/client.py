"""The client's side of the socket."""

from __future__ import annotations

from errno import ECONNREFUSED, ENOENT
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import aiohttp
import msgspec

from .failures import DoesNotHold, NobodyListens, Refusal
from .operations import Operation, Report
from .wire import LINES, SOCKET, Failure, Progress, Result, address, decode_line, encode

R = TypeVar("R")
_URL = "http://admin/"
_LONGEST_LINE = 1 << 26


async def ask(data: Path, operation: Operation[R], report: Report) -> R:
    """Have the server that runs on ``data`` carry out ``operation``, and return its result.

    Cancelled, it goes away, and the server stops what it did. Raises `NobodyListens`, `Refusal`,
    `DoesNotHold`; `OSError` when the socket may not be used.
    """
    path = data / SOCKET
    try:
        with address(data) as where:
            async with _session(where) as session, session.post(_URL, data=encode(operation)) as response:
                if response.content_type != LINES:
                    raise Refusal([f"{path}: whoever answers there does not know admin commands"])
                return await _read(response, operation, report)
    except FileNotFoundError:
        raise NobodyListens(path) from None
    except aiohttp.ClientConnectorError as error:
        if error.errno in (ENOENT, ECONNREFUSED):
            raise NobodyListens(path) from None
        raise OSError(error.errno, error.strerror, str(path)) from None
    except msgspec.MsgspecError as error:
        raise Refusal([f"the server that runs answers in words of another version: {error}"]) from error
    except aiohttp.ClientError as error:
        raise Refusal([f"the server ended before {operation.words} was done"]) from error


def _session(where: str) -> aiohttp.ClientSession:
    # Without limits of time: operations may last for hours.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    return aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(where), timeout=timeout, read_bufsize=_LONGEST_LINE
    )


async def _read(response: aiohttp.ClientResponse, operation: Operation[R], report: Report) -> R:
    async for line in response.content:
        match decode_line(line):
            case Progress(done, of):
                report(done, of)
            case Result(value):
                kind: Any = get_type_hints(type(operation).carry_out)["return"]
                result: R = msgspec.json.decode(value, type=kind)
                return result
            case Failure(problems, holds):
                raise Refusal(problems) if holds else DoesNotHold("\n".join(problems))
    raise aiohttp.ClientPayloadError
