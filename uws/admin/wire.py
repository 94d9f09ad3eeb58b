"""What goes through the socket: an operation as JSON, answered by a line of JSON for each of these.

Any number of `Progress`, then one `Result` or one `Failure`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

SOCKET = "admin.sock"
LINES = "application/x-ndjson"


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far the operation is, and of how much."""

    done: int
    of: int | None


class Result(msgspec.Struct, frozen=True, tag="result"):
    """What the operation returned."""

    value: msgspec.Raw


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """Why there is no result: something does not hold, or something else is in the way."""

    problems: list[str]
    holds: bool = True


Line = Progress | Result | Failure
encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
decode_line: Callable[[bytes], Line] = msgspec.json.Decoder[Line](Line).decode


@contextmanager
def address(data: Path) -> Iterator[str]:
    """Give the path of the socket in ``data`` in a form that is short, whatever the directory is called.

    The system takes no address longer than 107 bytes (unix(7)). Raises `OSError`.
    """
    directory = os.open(data, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET}"
    finally:
        os.close(directory)


def credentials(connection: socket.socket) -> tuple[int, int]:
    """Return the process and the user at the other end (SO_PEERCRED, unix(7))."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", found)
    return int(pid), int(uid)
