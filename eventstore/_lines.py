"""Events as lines of JSON, in archives and excerpts."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import msgspec

from ._types import RecordedEvent


class EventLine(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """An event as a line. ``data`` is text where the payload is UTF-8, else ``data_base64`` has it.

    An erased event has no ``salt``, ``metadata`` and ``data``.
    """

    position: int
    stream: str
    version: int
    id: str
    type: str
    time: int
    metadata: str = ""
    salt: str = ""
    data: str = ""
    data_base64: str = ""
    digest: str
    hash: str

    @property
    def event(self) -> RecordedEvent:
        """What the line stands for. Raises `ValueError` for what is not in hexadecimal or base64."""
        return RecordedEvent(
            position=self.position, stream=self.stream, version=self.version, id=self.id, type=self.type,
            time=self.time, metadata=self.metadata.encode(), salt=bytes.fromhex(self.salt),
            data=b64decode(self.data_base64) if self.data_base64 else self.data.encode(),
            digest=bytes.fromhex(self.digest), hash=bytes.fromhex(self.hash),
        )  # fmt: skip


def fields_of(event: RecordedEvent) -> dict[str, Any]:
    """Return the fields of the line that stands for ``event``."""
    try:
        text, binary = event.data.decode(), ""
    except UnicodeDecodeError:
        text, binary = "", b64encode(event.data).decode()
    return {
        "position": event.position, "stream": event.stream, "version": event.version, "id": event.id,
        "type": event.type, "time": event.time, "metadata": event.metadata.decode(),
        "salt": event.salt.hex(), "data": text, "data_base64": binary, "digest": event.digest.hex(),
        "hash": event.hash.hex(),
    }  # fmt: skip
